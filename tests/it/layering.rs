//! Who may import whom (ARCHITECTURE.md). The stages never import one another, so that each can be
//! read, tested and replaced by itself; the nouns import nothing of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules each module may name after `crate::`, besides itself.
const ALLOWED: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("failpoint", &[]),
    ("clock", &[]),
    ("wake", &["model"]),
    ("config", &["model"]),
    ("store", &["model", "clock", "wake", "failpoint"]),
    ("docker", &["model", "clock", "wake"]),
    (
        "sync",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
        ],
    ),
    (
        "build",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
        ],
    ),
    (
        "acme",
        &["model", "store", "clock", "wake", "config", "failpoint"],
    ),
    (
        "schedule",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
        ],
    ),
    (
        "deploy",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
        ],
    ),
    (
        "router",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
        ],
    ),
    (
        "api",
        &[
            "model", "store", "schedule", "docker", "clock", "wake", "config",
        ],
    ),
    ("foretell", &["model", "sync", "build", "schedule"]),
    ("cli", &["model", "schedule", "config", "host", "foretell"]),
    (
        "leader",
        &[
            "foretell",
            "acme",
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
            "sync",
            "build",
            "schedule",
        ],
    ),
    (
        "host",
        &[
            "model",
            "store",
            "docker",
            "clock",
            "wake",
            "config",
            "failpoint",
            "sync",
            "build",
            "schedule",
            "deploy",
            "router",
            "api",
            "leader",
        ],
    ),
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("src can be listed") {
        let path = entry.expect("an entry of src").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> BTreeMap<String, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    let read = |path: PathBuf| {
        let name = path
            .strip_prefix(&src)
            .expect("below src")
            .display()
            .to_string();
        (
            name,
            std::fs::read_to_string(path).expect("a source file can be read"),
        )
    };
    found.into_iter().map(read).collect()
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap_or(file)
}

/// Every `crate::x` in code, also inside braces: `use crate::{a, b::c}`.
fn imports(text: &str) -> BTreeSet<String> {
    let code: String = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let word = |text: &str| {
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let group = group.split("};").next().unwrap_or_default();
            let mut depth = 0;
            for part in group.split_inclusive(['{', '}', ',']) {
                if depth == 0 {
                    found.insert(word(part.trim()));
                }
                depth += part.matches('{').count();
                depth -= part.matches('}').count().min(depth);
            }
        } else {
            found.insert(word(rest));
        }
    }
    found.remove("");
    found
}

#[test]
fn modules_import_only_what_is_below_them() {
    let allowed: BTreeMap<_, _> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module(&file);
        if matches!(module, "main" | "lib") {
            continue;
        }
        let Some(may) = allowed.get(module) else {
            wrong.push(format!("{file}: module {module} has no rule"));
            continue;
        };
        for import in imports(&text) {
            if import != module
                && allowed.contains_key(import.as_str())
                && !may.contains(&import.as_str())
            {
                wrong.push(format!("{file}: {module} must not import {import}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_file_says_what_it_owns() {
    let bare: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(file, _)| file)
        .collect();
    assert_eq!(bare, Vec::<String>::new());
}

/// Only these files may name the edges' libraries: everything else goes through our own seam.
#[test]
fn each_edge_has_one_home() {
    let homes = [
        ("git2::", "sync/"),
        ("bollard::", "docker/bollard"),
        ("redb::", "store/local"),
        ("instant_acme::", "acme/"),
        ("etcd_client::", "store/etcd"),
        ("tonic::", "store/etcd"),
        ("std::process::Command", "sync/"),
        ("tokio::process", "sync/"),
    ];
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (library, home) in homes {
            let named = text.lines().any(|line| {
                let line = line.trim_start();
                !line.starts_with("//")
                    && line.contains(library)
                    && !line.contains(&format!("crate::docker::{library}"))
            });
            if named
                && !file.starts_with(home)
                && !(library == "bollard::" && file == "docker/mod.rs")
                && file != "host.rs"
            {
                wrong.push(format!("{file} names {library}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

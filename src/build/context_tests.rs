//! Tables of trees: what a build may see of each, and what its hash depends on.

use std::sync::Arc;

use super::*;
use crate::build::dockerfile::Dockerfile;
use crate::model::tree::BlobSource;

pub(super) struct Blobs(pub(super) BTreeMap<String, Vec<u8>>);

impl BlobSource for Blobs {
    fn blob(&self, oid: &str) -> io::Result<Vec<u8>> {
        let found = self.0.get(oid).cloned();
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// A tree of (path, content); `->x` is a link to `x`, `+x` an executable, `@` a submodule.
pub(in crate::build) fn tree(files: &[(&str, &str)]) -> Tree {
    let mut blobs = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (path, content) in files {
        let (kind, bytes) = match content.strip_prefix("->") {
            Some(target) => (EntryKind::Symlink, target),
            None if *content == "@" => (EntryKind::Submodule, ""),
            None if content.starts_with('+') => (EntryKind::Executable, &content[1..]),
            None => (EntryKind::File, *content),
        };
        let oid = hex::encode(Sha256::digest(bytes));
        blobs.insert(oid.clone(), bytes.as_bytes().to_vec());
        entries.insert((*path).to_owned(), Entry { kind, oid });
    }
    Tree {
        entries,
        blobs: Arc::new(Blobs(blobs)),
    }
}

fn seen(files: &[(&str, &str)], at: &str, text: &str) -> Result<Vec<String>, String> {
    let file = Dockerfile::parse(&format!("FROM a\n{text}"), &BTreeMap::new()).unwrap();
    let context = select(&tree(files), at, file.reach()).map_err(|e| e.to_string())?;
    Ok(context.items.into_keys().collect())
}

fn hash(files: &[(&str, &str)], text: &str) -> String {
    let text = format!("FROM a\n{text}");
    let file = Dockerfile::parse(&text, &BTreeMap::new()).unwrap();
    let context = select(&tree(files), "", file.reach()).unwrap();
    let inputs = Inputs {
        dockerfile: &text,
        args: &BTreeMap::new(),
        target: None,
        platform: None,
    };
    input_hash(&inputs, &context)
}

#[test]
fn a_context_holds_what_is_reached_and_not_ignored() {
    let files = &[
        (".dockerignore", "*.md\n!KEEP.md"),
        ("KEEP.md", ""),
        ("README.md", ""),
        ("app/.git/config", ""),
        ("app/lib/b", ""),
        ("app/main", "+"),
        ("sub", "@"),
        ("viking.yml", ""),
    ];
    let all = [".dockerignore", "KEEP.md", "app/lib/b", "app/main", "sub"];
    assert_eq!(seen(files, "", "COPY . /").unwrap(), all);
    assert_eq!(seen(files, "", "RUN x").unwrap(), [""; 0]);
    assert_eq!(
        seen(files, "", "COPY app /").unwrap(),
        ["app/lib/b", "app/main"]
    );
    assert_eq!(seen(files, "app", "COPY . /").unwrap(), ["lib/b", "main"]);
    assert_eq!(
        seen(files, "", "COPY viking.yml README.md /").unwrap(),
        ["viking.yml"]
    );
    assert_eq!(seen(files, "", "COPY *.yml /").unwrap(), [""; 0]);
    assert!(seen(files, "nowhere", "COPY . /").is_err());
}

#[test]
fn another_folders_viking_yml_is_an_ordinary_file() {
    let files = &[("app/viking.yml", ""), ("viking.yml", "")];
    assert_eq!(seen(files, "app", "ADD . /").unwrap(), ["viking.yml"]);
    assert_eq!(seen(files, "", "ADD . /").unwrap(), ["app/viking.yml"]);
}

#[test]
fn links_may_point_inside_only() {
    let inside = &[
        ("a/b", "x"),
        ("a/up", "->../c"),
        ("c", "->a/b"),
        ("dangling", "->nothing/here"),
        ("loop", "->loop"),
    ];
    assert_eq!(seen(inside, "", "COPY . /").unwrap().len(), 5);
    for (path, target) in [
        ("l", "->/etc/passwd"),
        ("l", "->../x"),
        ("a/l", "->../../x"),
        ("l", "->a/../../x"),
        // Each step stays inside by its text; together they do not.
        ("l", "->p/q/top/../x"),
    ] {
        let files = &[(path, target), ("p/q/top", "->../..")];
        let error = seen(files, "", "COPY . /").unwrap_err();
        assert!(
            error.contains("leads outside the context"),
            "{target}: {error}"
        );
    }
    // What no line reaches is neither sent nor judged.
    let files = &[("a", "x"), ("l", "->/etc/passwd")];
    assert_eq!(seen(files, "", "COPY a /").unwrap(), ["a"]);
}

#[test]
fn a_link_named_as_source_reaches_everything() {
    let files = &[("real/x", "1"), ("other", "2"), ("link", "->real")];
    assert_eq!(seen(files, "", "COPY link /").unwrap().len(), 3);
    assert_eq!(seen(files, "", "COPY link/x /").unwrap().len(), 3);
    assert_eq!(seen(files, "", "COPY real /").unwrap(), ["real/x"]);
}

#[test]
fn hostile_paths_are_refused() {
    for path in ["../x", "a/../x", "a//x", "/x", "a/./x"] {
        assert!(seen(&[(path, "")], "", "COPY . /").is_err(), "{path}");
    }
    for at in ["..", "/", "a/../..", "/etc"] {
        assert!(folder(at).is_err(), "{at}");
    }
    assert_eq!(folder("./a/").unwrap(), "a");
    let error = seen(&[(".dockerignore", "->/etc/x"), ("a", "")], "", "COPY . /");
    assert!(error.unwrap_err().contains("regular file"));
}

#[test]
fn only_what_goes_in_changes_the_hash() {
    let base: &[(&str, &str)] = &[("app/a", "1"), ("README.md", "1"), ("viking.yml", "1")];
    let start = hash(base, "COPY app /");
    assert!(start.starts_with("v2:"));
    let outside = [("app/a", "1"), ("README.md", "2"), ("viking.yml", "2")];
    assert_eq!(hash(&outside, "COPY app /"), start);
    for other in [
        [("app/a", "2"), ("README.md", "1"), ("viking.yml", "1")],
        [("app/a", "+1"), ("README.md", "1"), ("viking.yml", "1")],
        [("app/b", "1"), ("README.md", "1"), ("viking.yml", "1")],
    ] {
        assert_ne!(hash(&other, "COPY app /"), start);
    }
    assert_ne!(hash(base, "COPY app / "), start);
    let scaled = [("app/a", "1"), ("README.md", "1"), ("viking.yml", "2")];
    assert_eq!(hash(base, "ADD . /"), hash(&scaled, "ADD . /"));
    assert_ne!(
        hash(base, "ADD viking.yml /"),
        hash(&scaled, "ADD viking.yml /")
    );
}

proptest::proptest! {
    #[test]
    fn a_change_counts_if_and_only_if_it_is_reached(
        paths in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,2}", 1..8),
        source in "[ab]{1,2}(/[ab]{1,2})?|[ab*?]{1,2}|\\.",
        changed in 0_usize..8,
    ) {
        let paths: Vec<&String> = paths.iter().collect();
        let changed = paths[changed % paths.len()];
        let before: Vec<(&str, &str)> = paths.iter().map(|p| (p.as_str(), "1")).collect();
        let after: Vec<(&str, &str)> = paths
            .iter()
            .map(|p| (p.as_str(), if *p == changed { "2" } else { "1" }))
            .collect();
        let text = format!("COPY {source} /x");
        let sent = seen(&before, "", &text).unwrap();
        let same = hash(&before, &text) == hash(&after, &text);
        proptest::prop_assert_eq!(!same, sent.contains(changed));
    }
}

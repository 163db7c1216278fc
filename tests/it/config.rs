//! Settings as operators give them: the real binary, files, variables and flags above one another.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A folder with a configuration file, and viking run without the caller's settings.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn with(config: &str) -> Self {
        let desk = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::write(desk.file(), config).unwrap();
        desk
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("config.yml")
    }

    fn viking(&self, env: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_viking"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
            command.env_remove(name);
        }
        command
            .env_remove("RUST_LOG")
            .env("VIKING_CONFIG", self.file())
            .env("XDG_DATA_HOME", self.dir.path())
            .envs(env.iter().copied())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What stands on stderr of a check that must fail with 1, the folder's name left out.
    fn refused(&self) -> String {
        let output = self.viking(&[], &["config", "check"]);
        let said = self.plain(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty());
        said
    }

    fn plain(&self, bytes: &[u8]) -> String {
        let dir = self.dir.path().display().to_string();
        String::from_utf8_lossy(bytes).replace(&dir, "DIR")
    }
}

const FILE: &str = "\
name: host-a
address: 10.0.0.7
tags: [ssd, eu]
capacity: {cpu: 4, memory: 8G}
api: 127.0.0.1:8792
registry_port: 5001
";

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let desk = Desk::with(FILE);
    let data = desk.dir.path().join("data");
    let args = [
        "config",
        "check",
        "--registry-port",
        "5003",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let env = [("VIKING_REGISTRY_PORT", "5002"), ("VIKING_TAGS", "hdd")];
    let output = desk.viking(&env, &args);
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        desk.plain(&output.stderr)
    );
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    let shown: String = desk.plain(&output.stdout).lines().map(words).collect();
    insta::assert_snapshot!("config_check", shown);

    let output = desk.viking(&env, &[&args[..], &["-o", "json"]].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["schema"], "viking.config/v1");
    assert_eq!(report["file"], desk.file().to_str().unwrap());
    let of = |key: &str| {
        let settings = report["settings"].as_array().unwrap();
        settings.iter().find(|s| s["key"] == key).unwrap().clone()
    };
    assert_eq!(of("registry_port")["source"], "flag");
    assert_eq!(of("tags")["place"], "VIKING_TAGS");
    assert_eq!(of("capacity.memory")["values"][0], "8G");
    assert_eq!(of("docker")["source"], "default");
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_line() {
    for (text, name) in [
        ("name: host-a\nadress: 10.0.0.7\n", "config_unknown_key"),
        ("registry_port: 70000\n", "config_bad_value"),
        ("log: xml\n", "config_bad_word"),
        ("name: [a]\n", "config_bad_kind"),
    ] {
        insta::assert_snapshot!(name, Desk::with(text).refused());
    }
    let said = Desk::with("api: 0.0.0.0:8791\n").refused();
    assert!(
        said.contains("DIR/config.yml:1: the API on 0.0.0.0:8791 would be open"),
        "{said}"
    );
    let desk = Desk::with("# nothing\n");
    std::fs::write(
        desk.dir.path().join("viking"),
        "a file where a folder should be",
    )
    .unwrap();
    let dir = desk.dir.path().join("viking");
    let output = desk.viking(
        &[("VIKING_DATA_DIR", dir.to_str().unwrap())],
        &["config", "check"],
    );
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        desk.plain(&output.stderr)
    );
}

#[test]
fn a_host_does_not_start_with_a_wrong_file_and_says_so_once() {
    let desk = Desk::with("nmae: a\n");
    let output = desk.viking(&[], &["host"]);
    assert_eq!(output.status.code(), Some(64));
    let said = desk.plain(&output.stderr);
    assert!(
        said.starts_with("error: DIR/config.yml:1:1: unknown key \"nmae\""),
        "{said}"
    );
    let named = ["host", "--config", "/nonexistent/config.yml"];
    let output = desk.viking(&[], &named);
    assert_eq!(output.status.code(), Some(64));
    let said = desk.plain(&output.stderr);
    assert!(
        said.contains("there is no file /nonexistent/config.yml"),
        "{said}"
    );
}

#[test]
fn questions_go_where_the_file_says_and_do_not_mind_the_rest_of_it() {
    let desk = Desk::with("api: 127.0.0.1:9\nregistry_port: 70000\n");
    let said = desk.plain(&desk.viking(&[], &["stacks"]).stderr);
    assert!(said.contains("127.0.0.1:9"), "{said}");
    let said = desk.plain(
        &desk
            .viking(&[("VIKING_API", "127.0.0.1:8")], &["stacks"])
            .stderr,
    );
    assert!(
        said.contains("127.0.0.1:8") && !said.contains("warning"),
        "{said}"
    );
    let broken = Desk::with("api: [\n");
    for what in ["unit", "example"] {
        let output = broken.viking(&[], &["config", what]);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{what}"
        );
    }
    let said = broken.plain(&broken.viking(&[], &["stacks"]).stderr);
    assert!(said.contains("it was passed over"), "{said}");
}

#[test]
fn the_example_has_every_key_and_is_right_when_its_comments_are_taken_away() {
    let desk = Desk::with("");
    let example = desk.viking(&[], &["config", "example"]).stdout;
    let example = String::from_utf8(example).unwrap();
    let bare = |line: &str| {
        let key = line
            .strip_prefix('#')
            .filter(|rest| !rest.starts_with(' ') || rest.starts_with("  "));
        format!("{}\n", key.unwrap_or_default())
    };
    let bare: String = example.lines().map(bare).collect();
    let file = viking::config::file::ConfigFile::parse(Path::new("example"), bare.as_bytes());
    let given: Vec<&str> = file
        .unwrap()
        .settings()
        .iter()
        .map(|s| s.known.key)
        .collect();
    let known: Vec<&str> = viking::config::file::KNOWN.iter().map(|k| k.key).collect();
    assert_eq!(given, known);
    // As it is printed nothing is set.
    std::fs::write(desk.file(), &example).unwrap();
    assert_eq!(
        desk.viking(&[], &["config", "check"]).status.code(),
        Some(0)
    );
}

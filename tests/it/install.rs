//! How viking is put onto a server: `deploy/bootstrap.sh` into a tree, its unit, its scripts. The
//! everyday tests take an empty folder as the tree; the one with a whole Debian is `#[ignore]`d.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what fails there fails the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

const VIKING: &str = env!("CARGO_BIN_EXE_viking");
const INSTALLED: [&str; 3] = [
    "usr/local/bin/viking",
    "etc/systemd/system/viking.service",
    "etc/viking/config.yml",
];
const WANTED: &str = "etc/systemd/system/multi-user.target.wants/viking.service";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a run said and how it ended.
struct Said {
    code: Option<i32>,
    text: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            text: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    #[track_caller]
    fn ends(&self, code: i32, with: &str) {
        assert_eq!(self.code, Some(code), "{}", self.text);
        assert!(self.text.contains(with), "no {with:?} in {}", self.text);
    }
}

fn bootstrap(tree: &Path, args: &[&str]) -> Said {
    let output = Command::new("bash")
        .arg(repository().join("deploy/bootstrap.sh"))
        .arg("--root")
        .arg(tree)
        .args(args)
        // Whatever the caller's settings are, they are not the server's.
        .env("VIKING_CONFIG", "/nonexistent")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Said::of(&output)
}

type Files = BTreeMap<PathBuf, (Vec<u8>, SystemTime)>;

/// Content and time of every file under `dir`, links by where they lead.
fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = path.symlink_metadata().unwrap();
        let modified = meta.modified().unwrap();
        if meta.is_dir() {
            found.extend(files(&path));
        } else if meta.is_symlink() {
            let target = std::fs::read_link(&path).unwrap();
            found.insert(path, (target.display().to_string().into_bytes(), modified));
        } else {
            let hash = Sha256::digest(std::fs::read(&path).unwrap());
            found.insert(path, (hash.to_vec(), modified));
        }
    }
    found
}

#[test]
fn a_second_run_changes_nothing_and_says_so() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    let args = [
        "--binary", VIKING, "--name", "host-a", "--tag", "ssd", "--tag", "eu",
    ];
    bootstrap(tree, &args).ends(0, "viking starts with the machine");
    let before = files(tree);
    for file in INSTALLED.iter().chain([&WANTED]) {
        assert!(before.contains_key(&tree.join(file)), "{file}");
    }
    let unit = std::fs::read_to_string(repository().join("deploy/viking.service")).unwrap();
    let installed = std::fs::read_to_string(tree.join(INSTALLED[1])).unwrap();
    assert_eq!(unit, installed);
    let config = std::fs::read(tree.join(INSTALLED[2])).unwrap();
    let config = viking::config::file::ConfigFile::parse("c".as_ref(), &config).unwrap();
    let said: Vec<_> = config
        .settings()
        .iter()
        .map(|s| s.values.join(" "))
        .collect();
    assert_eq!(said, ["host-a", "ssd eu"]);

    bootstrap(tree, &args).ends(0, "nothing to do: everything is in place");
    assert_eq!(files(tree), before);
    // Without a word about settings or where viking comes from, both stay.
    bootstrap(tree, &[]).ends(0, "yours, left alone");
    assert_eq!(files(tree), before);
}

#[test]
fn an_operators_settings_are_never_overwritten_unasked() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    let config = tree.join(INSTALLED[2]);
    std::fs::create_dir_all(config.parent().unwrap()).unwrap();
    std::fs::write(&config, "name: mine\n").unwrap();
    let join = "https://10.0.0.1:2379,https://10.0.0.2:2379";
    let args = [
        "--binary",
        VIKING,
        "--join",
        join,
        "--etcd-ca",
        "/etc/viking/ca.pem",
    ];
    let said = bootstrap(tree, &args);
    said.ends(1, "says something else and was left alone");
    assert!(
        said.text.contains("-name: mine\n")
            && said.text.contains("+    - 'https://10.0.0.2:2379'\n"),
        "{}",
        said.text
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "name: mine\n");

    bootstrap(tree, &[&args[..], &["--replace-config"]].concat()).ends(0, "config.yml.old");
    let old = std::fs::read_to_string(tree.join("etc/viking/config.yml.old")).unwrap();
    assert_eq!(old, "name: mine\n");
    let file = viking::config::file::ConfigFile::read(&config)
        .unwrap()
        .unwrap();
    let said: Vec<_> = file.settings().iter().map(|s| s.values.join(",")).collect();
    assert_eq!(said, [join, "/etc/viking/ca.pem"]);
}

#[test]
fn uninstalling_keeps_data_and_settings_and_says_how_to_remove_them() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    bootstrap(tree, &["--binary", VIKING]).ends(0, "installed");
    let data = tree.join("var/lib/viking");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("cluster"), "c-1\n").unwrap();
    let said = bootstrap(tree, &["--uninstall"]);
    said.ends(0, "label=viking.cluster=c-1 | xargs -r docker rm -f");
    for kept in ["var/lib/viking", "etc/viking"] {
        let path = tree.join(kept).display().to_string();
        assert!(
            said.text.contains(&format!("To remove it: rm -r {path}\n")),
            "{}",
            said.text
        );
    }
    for gone in [INSTALLED[0], INSTALLED[1], WANTED] {
        assert!(tree.join(gone).symlink_metadata().is_err(), "{gone}");
    }
    assert!(tree.join(INSTALLED[2]).exists() && data.join("cluster").exists());
    bootstrap(tree, &["--uninstall"]).ends(0, "nothing to do: viking is not installed");
}

#[test]
fn what_is_fetched_is_checked_before_it_is_installed() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    let url = format!("file://{VIKING}");
    let wrong = "0".repeat(64);
    bootstrap(tree, &["--from", &url, "--sha256", &wrong]).ends(1, "is not what was expected");
    assert!(files(tree).is_empty());
    let sum = hex::encode(Sha256::digest(std::fs::read(VIKING).unwrap()));
    bootstrap(tree, &["--from", &url, "--sha256", &sum]).ends(0, "installed (viking ");
    bootstrap(tree, &["--from", "http://127.0.0.1:9/viking"]).ends(1, "give --sha256, or https");
}

#[test]
fn wrong_usage_is_said_before_anything_is_installed() {
    let tree = tempfile::tempdir().unwrap();
    let tree = tree.path();
    for (args, code, says) in [
        (&["--nosuch"][..], 64, "unknown argument --nosuch"),
        (&["--name"], 64, "--name needs a value"),
        (&["--tag", "it's"], 64, "--tag: not a value"),
        (&["--etcd-ca", "/ca.pem"], 64, "belong to --join"),
        (
            &["--join", "https://a:1", "--etcd-ca", "ca.pem"],
            64,
            "absolute path",
        ),
        (&["--binary", "a", "--from", "b"], 64, "two places"),
        (&["--sha256", "abc"], 64, "64 hexadecimal digits"),
        (&["--root", "/nonexistent"], 1, "there is no such folder"),
        (&["--binary", "/nonexistent"], 1, "there is no such file"),
        (
            &["--binary", "/bin/true"],
            1,
            "is no viking for this machine",
        ),
        (&[], 1, "give --binary FILE or --from URL"),
    ] {
        bootstrap(tree, args).ends(code, says);
    }
    assert!(files(tree).is_empty());
}

/// Runs a tool that `tests/run.sh` installs.
fn tool(name: &str, args: &[&str]) -> Said {
    let output = Command::new(name)
        .args(args)
        .current_dir(repository())
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{name}: {error}; tests/run.sh installs what is missing"));
    let mut said = Said::of(&output);
    said.text
        .insert_str(0, &String::from_utf8_lossy(&output.stdout));
    said
}

#[test]
fn systemd_takes_the_unit_as_it_is_installed() {
    let tree = tempfile::tempdir().unwrap();
    bootstrap(tree.path(), &["--binary", VIKING]).ends(0, "installed");
    let unit = tree.path().join(INSTALLED[1]);
    // What it starts has to be there for systemd to be content, and in this tree it is elsewhere.
    let text = std::fs::read_to_string(&unit).unwrap();
    std::fs::write(&unit, text.replace("/usr/local/bin/viking", VIKING)).unwrap();
    let said = tool(
        "systemd-analyze",
        &["--man=no", "verify", unit.to_str().unwrap()],
    );
    said.ends(0, "");
    assert!(!said.text.contains("viking"), "{}", said.text);
    let args = [
        "security",
        "--offline=true",
        "--threshold=30",
        unit.to_str().unwrap(),
    ];
    tool("systemd-analyze", &args).ends(0, "Overall exposure level");
}

#[test]
fn scripts_are_clean() {
    for folder in ["deploy", "tests", "benches"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ext| ext == "sh") {
                let path = path.to_str().unwrap();
                tool("bash", &["-n", path]).ends(0, "");
                tool(
                    "shellcheck",
                    &[
                        "--external-sources",
                        "--source-path=SCRIPTDIR",
                        "--severity=warning",
                        path,
                    ],
                )
                .ends(0, "");
            }
        }
    }
}

#[test]
#[ignore = "needs docker-compose, which tests/run.sh --long installs"]
fn compose_takes_the_etcd_file() {
    let args = ["--file", "deploy/compose.etcd.yml", "config", "--quiet"];
    tool("docker-compose", &args).ends(0, "");
}

#[test]
fn the_etcd_of_three_keeps_its_data_is_bounded_and_is_open_to_nobody_else() {
    let text = std::fs::read_to_string(repository().join("deploy/compose.etcd.yml")).unwrap();
    for member in ["etcd1", "etcd2", "etcd3"] {
        let part = text.split(&format!("\n  {member}:\n")).nth(1).unwrap();
        let part = part.split("\n  etcd").next().unwrap();
        assert!(part.contains("<<: *etcd\n") && part.contains("<<: *environment\n"));
        assert!(part.contains(&format!("ETCD_NAME: {member}\n")));
        assert!(part.contains("ports: [\"127.0.0.1:") && part.contains("/etcd-data\"]"));
    }
    for bound in [
        "AUTO_COMPACTION_RETENTION: 1h",
        "QUOTA_BACKEND_BYTES",
        "PRE_VOTE",
        "healthcheck:",
    ] {
        assert!(text.contains(bound), "{bound}");
    }
}

/// A whole Debian, made once; where its packages come from is what this machine's apt uses.
fn debian() -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debootstrap");
    let tree = cache.join("bookworm");
    if !tree.join("etc/debian_version").exists() || tree.join("debootstrap").exists() {
        std::fs::remove_dir_all(&tree).ok();
        std::fs::create_dir_all(&cache).unwrap();
        let args = ["--variant=minbase", "bookworm", tree.to_str().unwrap()];
        tool("debootstrap", &args).ends(0, "Base system installed successfully");
    }
    tree
}

#[test]
#[ignore = "fetches a Debian"]
fn bootstrap_into_a_debian_tree_and_out_again() {
    let tree = debian();
    bootstrap(&tree, &["--uninstall"]).ends(0, "");
    std::fs::remove_dir_all(tree.join("etc/viking")).ok();
    let before = files(&tree.join("etc"));
    let args = ["--binary", VIKING, "--name", "host-a"];
    let said = bootstrap(&tree, &args);
    said.ends(0, "viking starts with the machine");
    assert!(!said.text.contains("not checked"), "{}", said.text);
    let installed = files(&tree.join("etc"));
    let said = bootstrap(&tree, &args);
    said.ends(0, "nothing to do: everything is in place");
    assert_eq!(files(&tree.join("etc")), installed);
    let shown = Command::new("/usr/sbin/chroot")
        .arg(&tree)
        .args(["/usr/local/bin/viking", "config", "check", "--no-header"])
        .env_clear()
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("host-a") && shown.contains("/etc/viking/config.yml:2"),
        "{shown}"
    );
    // viking itself refuses what it cannot start with.
    std::fs::write(tree.join(INSTALLED[2]), "nmae: a\n").unwrap();
    bootstrap(&tree, &["--binary", VIKING]).ends(1, "did you mean \"name\"?");
    std::fs::remove_dir_all(tree.join("etc/viking")).unwrap();
    bootstrap(&tree, &["--uninstall"]).ends(0, "removed");
    assert_eq!(files(&tree.join("etc")), before);
}

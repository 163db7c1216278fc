//! What a rig leaves on the machine, and its end: processes, mounts, namespaces, cgroups, folders. All of
//! it is found by the rig's name alone, so that the next run can clear away what a killed one left.
//! Touches nothing whose name is not a rig's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::{run, try_run};

/// Start of every rig's name.
const PREFIX: &str = "vkr";

/// Where `ip` keeps named namespaces.
pub(super) const NETNS: &str = "/var/run/netns";

/// Where cgroups are: one hierarchy, or one folder for each controller.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Longest wait for killed processes to be gone.
const GONE: Duration = Duration::from_secs(20);

/// The folder of all rigs: on a disk, since layers of images do not stack on every memory file system.
fn home() -> PathBuf {
    PathBuf::from("/var/tmp")
}

/// Name of this process's rig number `n`.
pub(super) fn name(n: usize) -> String {
    format!("{PREFIX}{}-{n}", std::process::id())
}

/// Makes the folder of a rig. It exists before anything else of the rig does, and goes last, so that
/// a namespace without one is nobody's.
pub(super) fn claim(name: &str) -> PathBuf {
    let dir = home().join(name);
    fs::create_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let born = born(std::process::id()).expect("this process runs");
    fs::write(dir.join("owner"), born).expect("a file is written");
    dir
}

/// When a process began, in the kernel's words: tells it from a later one of the same number.
fn born(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// Whether whoever made a rig still runs.
fn owned(name: &str) -> bool {
    let digits = name.trim_start_matches(PREFIX).split('-').next();
    let Some(now) = digits.and_then(|digits| digits.parse().ok()).and_then(born) else {
        return false;
    };
    // No file yet: it is being made this very moment.
    fs::read_to_string(home().join(name).join("owner")).map_or(true, |then| then == now)
}

/// Clears away the rigs of runs that have ended.
pub(super) fn leftovers() {
    for name in names_in(&home()) {
        if !owned(&name) {
            clear(&name);
        }
    }
    for space in names_in(Path::new(NETNS)) {
        let (rig, _) = space.rsplit_once('-').unwrap_or((&space, ""));
        if !home().join(rig).exists() {
            clear(rig);
        }
    }
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let ours = |name: &String| {
        let rest = name.strip_prefix(PREFIX);
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    names.filter(ours).collect()
}

/// Ends everything of a rig.
pub(super) fn clear(name: &str) {
    kill_all(|pid| belongs(pid, name));
    let dir = home().join(name);
    unmount_below(&dir);
    for space in spaces(name) {
        try_run("ip", &["netns", "delete", &space]);
    }
    remove_cgroups(name);
    if let Err(error) = fs::remove_dir_all(&dir)
        && dir.exists()
    {
        eprintln!("{}: {error}", dir.display());
    }
}

fn spaces(name: &str) -> Vec<String> {
    let all = names_in(Path::new(NETNS)).into_iter();
    all.filter(|space| space.starts_with(&format!("{name}-")))
        .collect()
}

/// Whether a process is of a rig: it is in one of its namespaces, or in a container of its engines.
fn belongs(pid: &str, name: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.contains(&format!("/{name}-")) || in_one_of(pid, &spaces(name))
}

pub(super) fn in_one_of(pid: &str, spaces: &[String]) -> bool {
    let Ok(own) = fs::metadata(format!("/proc/{pid}/ns/net")) else {
        return false;
    };
    let inodes = spaces
        .iter()
        .filter_map(|space| fs::metadata(Path::new(NETNS).join(space)).ok());
    inodes.into_iter().any(|inode| inode.ino() == own.ino())
}

/// Kills all processes that `wanted` names until there are none: some start others meanwhile.
pub(super) fn kill_all(wanted: impl Fn(&str) -> bool) {
    let deadline = Instant::now() + GONE;
    loop {
        let found = alive(&wanted);
        if found.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "cannot kill {found:?}");
        let args: Vec<&str> = ["-KILL"]
            .into_iter()
            .chain(found.iter().map(String::as_str))
            .collect();
        try_run("kill", &args);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes that `wanted` names; those that only wait to be buried do not count.
fn alive(wanted: &impl Fn(&str) -> bool) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let processes = names.filter(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    let own = std::process::id().to_string();
    let others = processes.filter(|pid| *pid != own);
    others.filter(|pid| !buried(pid) && wanted(pid)).collect()
}

fn buried(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
    state.is_none_or(|state| state.starts_with('Z') || state.starts_with('X'))
}

/// Takes away whatever engines have mounted below a folder.
pub(super) fn unmount_below(dir: &Path) {
    for mounted in mounts_below(dir) {
        try_run("umount", &["--lazy", &mounted]);
    }
}

/// The innermost first.
fn mounts_below(dir: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let below = format!("{}/", dir.display());
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<String> = points
        .filter(|point| point.starts_with(&below))
        .map(str::to_owned)
        .collect();
    points.sort_by(|a, b| b.cmp(a));
    points
}

fn remove_cgroups(name: &str) {
    let roots = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    let roots = roots.map(|entry| entry.path()).chain([CGROUPS.into()]);
    for root in roots.filter(|root| root.is_dir()) {
        let groups = fs::read_dir(&root).into_iter().flatten().flatten();
        let ours = |group: &fs::DirEntry| {
            let group = group.file_name();
            group.to_string_lossy().starts_with(&format!("{name}-"))
        };
        for group in groups.filter(ours) {
            remove_cgroup(&group.path());
        }
    }
}

/// A cgroup's files cannot be removed, and go with it.
fn remove_cgroup(dir: &Path) {
    let inner = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in inner.filter(|entry| entry.path().is_dir()) {
        remove_cgroup(&entry.path());
    }
    // One that something is still in is found by the next sweep.
    fs::remove_dir(dir).ok();
}

/// Fails, and says why, where a rig cannot be: a test that did nothing must not pass.
pub(super) fn check_machine() {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    assert!(
        root,
        "a rig of several hosts needs root: namespaces, bridges and Docker engines are made"
    );
    for (tool, package) in [
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("umount", "mount"),
        ("dockerd", "docker.io"),
        ("docker", "docker.io"),
        ("iptables", "iptables"),
        ("etcd", "etcd-server"),
    ] {
        let found = run("sh", &["-c", "command -v \"$1\"", "sh", tool]);
        assert!(
            found.is_ok(),
            "{tool} is not installed; tests/run.sh installs it (Debian: apt-get install {package})"
        );
    }
}

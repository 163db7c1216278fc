//! The real binary at an etcd that does not answer: it waits, says so, and ends when it is told to.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::server::ports;

/// For an end in order; far above what it takes.
const ENDS: Duration = Duration::from_secs(20);

/// Ends the process, whatever the test says.
struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_host_waits_for_an_etcd_that_does_not_answer() {
    let dir = tempfile::tempdir().expect("a folder");
    let etcd = format!("http://127.0.0.1:{}", ports(1)[0]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_viking"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("VIKING_")) {
        command.env_remove(name);
    }
    command
        .args(["host", "--config", "/dev/null", "--etcd", &etcd])
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut host = Host(command.spawn().expect("the binary is built"));
    let said = BufReader::new(host.0.stderr.take().expect("piped")).lines();
    let mut waits = said
        .map_while(Result::ok)
        .filter(|line| line.contains("waiting for the store") && line.contains(&etcd));
    // Not only once.
    assert!(
        waits.next().is_some() && waits.next().is_some(),
        "it ended instead"
    );
    let pid = host.0.id().to_string();
    let told = Command::new("kill").arg(pid).status();
    assert!(told.expect("kill runs").success());
    let deadline = Instant::now() + ENDS;
    let ended = loop {
        if let Some(ended) = host.0.try_wait().expect("a child can be asked") {
            break ended;
        }
        assert!(Instant::now() < deadline, "it goes on waiting");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(ended.success(), "{ended}");
}

//! A network of its own for one test: CAs come to ports 80 and 443 and nowhere else, and names of the
//! test's own lead to this machine. The test's binary runs itself again for that one test, with a
//! network, a `/etc/hosts` and process numbers that nobody else sees; what it leaves behind ends with it.

use std::panic::AssertUnwindSafe;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Set in the process that is alone.
const ALONE: &str = "VIKING_TEST_ALONE";

/// How long such a test may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Names that lead to this machine; no other name leads anywhere.
const HOSTS: &str = "127.0.0.1 localhost shop.test www.shop.test\n";

const PREPARE: &str = r#"
set -e
ip link set lo up
mount --bind "$1" /etc/hosts
exec "$2" --exact "$3" --nocapture --test-threads 1
"#;

/// Runs `test`, whose name in the binary is `name`, alone.
pub(super) fn alone(name: &str, test: impl Future<Output = ()>) {
    if std::env::var(ALONE).as_deref() != Ok(name) {
        return again(name);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let ended = tokio::time::timeout(LIMIT, test).await;
            ended.expect("the test ends in time");
        });
    }));
    // Threads of doors that a failed test left open must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

fn again(name: &str) {
    let hosts = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(hosts.path(), HOSTS).unwrap();
    let mut command = Command::new("unshare");
    if !is_root() {
        command.arg("--map-root-user");
    }
    let output = command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
        .args(["--mount-proc", "--propagation", "private"])
        .args(["--", "sh", "-c", PREPARE, "sh"])
        .arg(hosts.path())
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(ALONE, name)
        .stdin(Stdio::null())
        .output()
        .expect("unshare of util-linux is needed; tests/run.sh installs it");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    let ran = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(ran, "{}\n{said}\n{complained}", output.status);
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

//! What only the store on disk promises: nothing acknowledged is lost, whatever ends the process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::time::sleep;
use viking::store::local::LocalStore;
use viking::store::{Error, Op, Selector, Store, Txn, Watched};

use super::{PATIENCE, Subject, events, told};

fn open(path: &Path) -> Subject {
    super::subject(LocalStore::open(path).expect("opens"), None)
}

#[tokio::test]
async fn reopening_keeps_keys_revisions_and_history() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("sub/store.redb");
    let s = open(&path);
    let first = s.put("/a", "1").await;
    s.put("/b", "1").await;
    s.put("/a", "2").await;
    s.commit(vec![], vec![Op::delete("/b")]).await;
    let (a, revision) = (s.get("/a").await, s.revision().await);
    drop(s);
    let s = open(&path);
    assert_eq!((s.get("/a").await, s.get("/b").await), (a, None));
    assert_eq!(s.revision().await, revision);
    let mut watch = s.store.watch("/", first).await.expect("watches");
    let seen = events(&mut watch, 4).await;
    assert_eq!(
        seen.iter().map(|event| event.revision).collect::<Vec<_>>(),
        [first, first + 1, first + 2, first + 3]
    );
    assert_eq!(s.put("/a", "3").await, revision + 1);
}

#[tokio::test]
async fn reopening_keeps_what_was_forgotten_forgotten() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    let s = open(&path);
    let first = s.put("/a", "1").await;
    let last = s.put("/a", "2").await;
    (s.compact)(last).await;
    drop(s);
    let s = open(&path);
    let mut watch = s.store.watch("/", first).await.expect("watches");
    assert_eq!(told(&mut watch).await, Watched::Compacted(last));
}

#[tokio::test]
async fn a_lease_has_its_full_time_after_reopening_and_then_ends() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    let s = open(&path);
    let lease = s.store.grant(s.ttl).await.expect("grants");
    s.put_leased("/h", lease).await;
    let half = s.ttl / 2;
    sleep(half).await;
    drop(s);
    sleep(half).await;
    // Its time is over by now, but nobody could have kept it alive.
    let s = open(&path);
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    s.store.keep_alive(lease).await.expect("is alive");
    assert!(s.get("/h").await.is_some());
    assert_eq!(events(&mut watch, 1).await[0].value, None);
    drop(s);
    assert!(open(&path).get("/h").await.is_none());
}

#[tokio::test]
async fn a_second_process_is_told_which_file_is_in_use() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    let _s = open(&path);
    let error = LocalStore::open(&path).expect_err("is in use");
    assert!(matches!(&error, Error::Failed(_)), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("in use") && text.contains(&path.display().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn a_file_that_is_no_store_is_an_error_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    std::fs::write(&path, vec![7; 10_000]).expect("writes");
    assert!(LocalStore::open(&path).is_err());
    assert_eq!(std::fs::read(&path).expect("reads"), vec![7; 10_000]);
}

#[tokio::test]
async fn a_closed_store_ends_its_watches() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let s = open(&dir.path().join("store.redb"));
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    drop(s);
    assert_eq!(watch.recv().await, None);
}

/// Names the file to the child process.
const CHILD_ENV: &str = "VIKING_TEST_STORE";

/// Tasks of the child that write at once, so that commits share an fsync.
const CHILD_WRITERS: u32 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of nothing_acknowledged_is_lost_by_kill_9, which starts it"]
async fn child_that_is_killed() {
    let path = std::env::var_os(CHILD_ENV).expect("started by its parent");
    let store = LocalStore::open(Path::new(&path)).expect("opens");
    let writers = (0..CHILD_WRITERS).map(|writer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for n in 1_u32.. {
                let put = |key: String| Op::put(key, n.to_string());
                let ops = vec![put(format!("/k/{writer}/a")), put(format!("/k/{writer}/b"))];
                store
                    .commit(Txn {
                        compares: vec![],
                        ops,
                    })
                    .await
                    .expect("commits");
                let mut out = std::io::stdout().lock();
                writeln!(out, "ack {writer} {n}").expect("the parent reads");
                out.flush().expect("the parent reads");
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

/// Runs the child until it has acknowledged `lines` writes, kills it, and returns the last number
/// acknowledged per writer.
fn run_and_kill(path: &Path, lines: usize) -> BTreeMap<u32, u32> {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "store::durable::child_that_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_ENV, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut acknowledged = BTreeMap::new();
    let mut note = |line: String| {
        // The harness's own "test … " may stand in front of the first one.
        let words: Vec<&str> = line
            .rsplit("ack ")
            .next()
            .unwrap_or("")
            .split(' ')
            .collect();
        if let [writer, n] = words[..]
            && line.contains("ack ")
            && let (Ok(writer), Ok(n)) = (writer.parse::<u32>(), n.parse::<u32>())
        {
            acknowledged.insert(writer, n);
        }
    };
    out.by_ref()
        .take(lines)
        .map_while(Result::ok)
        .for_each(&mut note);
    child.kill().expect("kill -9"); // SIGKILL on Unix
    out.map_while(Result::ok).for_each(&mut note);
    assert!(!child.wait().expect("ends").success());
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("store.redb");
    let mut total = 0;
    for round in 0..5 {
        let acknowledged = run_and_kill(&path, 40 + round * 37);
        assert!(!acknowledged.is_empty());
        total += acknowledged.values().sum::<u32>();
        let store = tokio::time::timeout(PATIENCE, async { LocalStore::open(&path) });
        let store = store.await.expect("in time").expect("opens after kill -9");
        let all = store
            .range(&[Selector::Prefix("/k/".into())])
            .await
            .expect("reads");
        let found: BTreeMap<String, u32> = all.lists[0]
            .iter()
            .map(|kv| {
                (
                    kv.key.clone(),
                    String::from_utf8_lossy(&kv.value)
                        .parse()
                        .expect("a number"),
                )
            })
            .collect();
        for (writer, n) in acknowledged {
            let (a, b) = (
                found[&format!("/k/{writer}/a")],
                found[&format!("/k/{writer}/b")],
            );
            assert!(a >= n, "writer {writer}: {n} acknowledged, {a} found");
            assert_eq!(a, b, "a transaction was torn apart");
        }
        assert!(
            all.revision
                >= all.lists[0]
                    .iter()
                    .map(|kv| kv.mod_revision)
                    .max()
                    .unwrap_or(0)
        );
    }
    println!("{total} acknowledged writes survived 5 kills");
}

/// A small file system of its own, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
            .arg(dir.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        assert!(
            mounted,
            "this test fills a disk: it needs root, to mount a tmpfs of 6 MiB"
        );
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_keeps_reads_and_is_left_behind_once_there_is_room() {
    let disk = SmallDisk::mount();
    let filler = disk.0.path().join("filler");
    let s = open(&disk.0.path().join("store.redb"));
    let empty = s.revision().await;
    let mut watch = s.store.watch("/", 0).await.expect("watches");
    let mut acknowledged = Vec::new();
    let put = |n: usize, bytes: usize| Txn {
        compares: vec![],
        ops: vec![Op::put(format!("/k/{n:03}"), vec![b'x'; bytes])],
    };
    for n in 0..3 {
        s.store.commit(put(n, 10)).await.expect("there is room");
        acknowledged.push(n);
    }
    drop(std::fs::write(&filler, vec![0; 8 * 1024 * 1024])); // until it is full
    for n in 3..60 {
        match s.store.commit(put(n, 200_000)).await {
            Ok(_) => acknowledged.push(n),
            Err(error) => assert!(matches!(error, Error::Failed(_)), "{error}"),
        }
    }
    assert!(acknowledged.len() < 60, "the disk never was full");
    assert!(s.get("/k/000").await.is_some());
    std::fs::remove_file(&filler).expect("makes room");
    s.store
        .commit(put(99, 10))
        .await
        .expect("there is room again");
    acknowledged.push(99);
    for n in acknowledged {
        let key = format!("/k/{n:03}");
        assert!(s.get(&key).await.is_some(), "{key} was acknowledged");
    }
    let told = events(
        &mut watch,
        usize::try_from(s.revision().await - empty).expect("small"),
    )
    .await;
    assert!(
        told.is_sorted_by_key(|event| event.revision),
        "no gap and no duplicate"
    );
    drop(watch);
    drop(s);
}

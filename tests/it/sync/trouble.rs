//! Remotes that are gone, changed, locked, slow or wrong: each its own clear state.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use viking::model::release::Source;
use viking::sync::{Error, Options};

use super::servers::{Https, Sshd};
use super::source::{Data, Repo, git, git_with, source};

/// Long enough for a hand-shake that never comes to be waited for, short enough for a test.
const SOON: Duration = Duration::from_millis(400);

fn impatient() -> Options {
    Options {
        timeout: SOON,
        ..Options::default()
    }
}

#[tokio::test]
async fn a_deleted_branch_and_an_empty_repository_are_missing() {
    let repo = Repo::empty();
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    let error = data.pull(&source).await.unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    let id = repo.commit(&[("a", "1")], "first");
    data.pull(&source).await.unwrap();
    git(&repo.path, &["branch", "-m", "main", "trunk"]);
    let error = data.pull(&source).await.unwrap_err();
    assert_eq!(error.state(), "missing");
    assert!(error.to_string().contains("'main'"), "{error}");
    assert!(error.to_string().contains("it has trunk"), "{error}");
    assert!(!error.is_commits_fault());
    // What was fetched stays readable.
    assert!(data.mirrors.tree(&source, &id).await.is_ok());
}

#[tokio::test]
async fn a_renamed_default_branch_is_followed_by_a_source_without_branch() {
    let repo = Repo::new();
    let mut source = source(&repo.url());
    source.branch = None;
    let data = Data::new(Options::default());
    assert_eq!(data.pull(&source).await.unwrap(), repo.head());
    git(&repo.path, &["branch", "-m", "main", "trunk"]);
    let newer = repo.commit(&[("a", "1")], "on trunk");
    assert_eq!(data.pull(&source).await.unwrap(), newer);
}

#[tokio::test]
async fn an_empty_repository_is_told_over_every_transport() {
    let repo = Repo::empty();
    let server = Https::serve(&repo.path).await;
    let error = Data::new(server.options())
        .pull(&source(&server.url("open")))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    let sshd = Sshd::serve().await;
    let data = Data::new(sshd.options("user_key", "known_hosts"));
    let error = data
        .pull(&source(&sshd.url(&repo.url())))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
}

#[tokio::test]
async fn a_rewritten_history_is_followed_and_noticed() {
    let repo = Repo::new();
    let base = repo.head();
    let old = repo.commit(&[("a", "1")], "old");
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    data.pull(&source).await.unwrap();
    git(&repo.path, &["reset", "-q", "--hard", &base]);
    let new = repo.commit(&[("a", "2")], "new");
    assert_eq!(data.pull(&source).await.unwrap(), new);
    let rewritten = |old, new| data.mirrors.rewritten(&source, old, new);
    assert_eq!(rewritten(&old, &new).await, Some(true));
    assert_eq!(rewritten(&base, &new).await, Some(false));
    assert_eq!(rewritten(&old, &base).await, Some(true));
    // Back to an older commit, which is here already.
    git(&repo.path, &["reset", "-q", "--hard", &base]);
    assert_eq!(data.pull(&source).await.unwrap(), base);
}

/// Both fetch single commits: what they were made from is found out when it matters.
#[tokio::test]
async fn a_rewritten_history_is_noticed_over_https_and_ssh() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let sshd = Sshd::serve().await;
    for (data, url) in [
        (Data::new(server.options()), server.url("open")),
        (
            Data::new(sshd.options("user_key", "known_hosts")),
            sshd.url(&repo.url()),
        ),
    ] {
        follow_rewrites(&repo, &data, &source(&url)).await;
    }
}

async fn follow_rewrites(repo: &Repo, data: &Data, source: &Source) {
    let url = &source.url;
    let commit = |text: &str| repo.commit(&[("a", &format!("{text} {url}"))], text);
    let back = |to: &str| git(&repo.path, &["reset", "-q", "--hard", to]);
    let mut last = data.pull(source).await.expect("it is there");
    let base = repo.head();
    let mut moved = async |what: &str, want: bool| {
        let new = data.pull(source).await.expect("it is there");
        let rewritten = data.mirrors.rewritten(source, &last, &new).await;
        assert_eq!(rewritten, Some(want), "{what} over {url}");
        // The files are still those of the newest commit.
        assert!(data.mirrors.tree(source, &new).await.is_ok(), "{what}");
        last = new;
    };
    commit("1");
    moved("a child", false).await;
    commit("2");
    commit("3");
    moved("two commits at once", false).await;
    back("HEAD~1");
    commit("3 again");
    moved("an amended commit", true).await;
    back("HEAD~1");
    moved("a branch set back by one", true).await;
    back(&base);
    commit("other 1");
    commit("other 2");
    moved("another branch", true).await;
    commit("other 3");
    moved("a child of it", false).await;
}

#[tokio::test]
async fn a_history_longer_than_is_fetched_says_nothing_about_rewriting() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("open"));
    let old = data.pull(&source).await.unwrap();
    let text = (0..101).map(|n| {
        let from = if n == 0 {
            "from refs/heads/main^0\n"
        } else {
            ""
        };
        format!("commit refs/heads/main\ncommitter A <a@x> {n} +0000\ndata 1\nx\n{from}\n")
    });
    let text: String = text.collect();
    git_with(&repo.path, &["fast-import", "--quiet"], text.as_bytes());
    let new = data.pull(&source).await.unwrap();
    assert_eq!(data.mirrors.rewritten(&source, &old, &new).await, None);
    let seen = server.seen().len();
    repo.commit(&[], "a child");
    let child = data.pull(&source).await.unwrap();
    let rewritten = data.mirrors.rewritten(&source, &new, &child).await;
    assert_eq!(rewritten, Some(false));
    let looks = server.seen().split_off(seen);
    let looks = looks.iter().filter(|look| *look == "GET open").count();
    assert_eq!(looks, 2, "a child asks for no deeper fetch");
}

#[tokio::test]
async fn a_remote_that_is_down_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let data = Data::new(Options::default());
    for url in [
        format!("https://127.0.0.1:{port}/repo"),
        format!("http://127.0.0.1:{port}/repo"),
        format!("ssh://git@127.0.0.1:{port}/repo"),
    ] {
        let error = data.pull(&source(&url)).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{url}: {error}");
        assert!(
            error.to_string().to_lowercase().contains("refused"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_hanging_remote_times_out_and_leaves_nothing_behind() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let data = Data::new(impatient());
    for scheme in ["https", "http", "ssh"] {
        let source = source(&format!("{scheme}://127.0.0.1:{port}/repo"));
        let error = data.mirrors.head(&source).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{scheme}: {error}");
        assert_eq!(error.state(), "unreachable");
    }
    // More than there are places: each still gets its answer, and no child stays.
    let source = source(&format!("ssh://127.0.0.1:{port}/repo"));
    let asks = (0..20).map(|_| data.mirrors.head(&source));
    for answer in futures_util::future::join_all(asks).await {
        assert!(matches!(answer, Err(Error::TimedOut { .. })), "{answer:?}");
    }
    while children_naming(&port.to_string()) > 0 {
        tokio::task::yield_now().await;
    }
    let repo = Repo::new();
    assert!(
        data.mirrors
            .head(&super::source::source(&repo.url()))
            .await
            .is_ok()
    );
}

/// Processes of this machine with this text among their arguments and `ssh` as their program.
fn children_naming(text: &str) -> usize {
    let processes = std::fs::read_dir("/proc")
        .expect("Linux")
        .filter_map(Result::ok);
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .filter(|line| {
            let mut args = line.split(|byte| *byte == 0);
            args.next() == Some(b"ssh") && args.any(|arg| arg == text.as_bytes())
        })
        .count()
}

/// A path whose reading never ends, as on a file server that went away: its thread cannot be ended,
/// so it keeps its place, but only that one.
#[tokio::test]
async fn a_hanging_path_holds_one_place_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("HEAD"), "ref: refs/heads/main\n").unwrap();
    let pipe = dir.path().join("packed-refs");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    for folder in ["objects", "refs"] {
        std::fs::create_dir(dir.path().join(folder)).unwrap();
    }
    let data = Data::new(impatient());
    let hanging = source(dir.path().to_str().unwrap());
    for _ in 0..10 {
        let error = data.mirrors.head(&hanging).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }
    let repo = Repo::new();
    assert!(data.mirrors.head(&source(&repo.url())).await.is_ok());
    // Lets the thread end: it reads an empty file, should it look again.
    let writer = std::fs::File::options().write(true).open(&pipe).unwrap();
    std::fs::remove_file(&pipe).unwrap();
    std::fs::write(&pipe, "").unwrap();
    drop(writer);
}

#[tokio::test]
async fn a_remote_that_hangs_in_the_middle_of_a_pack_times_out() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(Options {
        timeout: SOON,
        ..server.options()
    });
    let error = data.pull(&source(&server.url("stall"))).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_pack_that_breaks_off_leaves_no_half_commit() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("cut"));
    let error = data.pull(&source).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let mirror = data.mirrors.mirror(&source).unwrap();
    let left = super::source::files(&mirror.join("objects"));
    assert!(!left.iter().any(|file| file.ends_with(".pack")), "{left:?}");
    assert!(data.mirrors.tree(&source, &repo.head()).await.is_err());
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_never_shown() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("locked"));
    let error = data.pull(&source).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("asks for a password"), "{error}");
    let secret = data.dir.path().join("credentials");
    let line = format!("https://anna:wr0ng@127.0.0.1:{}\n", server.address.port());
    std::fs::write(&secret, line).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o640)).unwrap();
    let error = data.pull(&source).await.unwrap_err();
    assert!(error.to_string().contains("mode 640"), "{error}");
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let before = server.seen().len();
    let error = data.pull(&source).await.unwrap_err();
    assert_eq!(error.state(), "denied");
    assert!(error.to_string().contains("not accepted"), "{error}");
    assert!(!error.to_string().contains("wr0ng"), "{error}");
    assert_eq!(server.seen().len(), before + 1);
}

#[tokio::test]
async fn an_unknown_authority_is_denied() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(Options::default());
    let error = data.pull(&source(&server.url("open"))).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
}

#[tokio::test]
async fn redirects_are_followed_to_repositories_only() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let pull = async |access: &str| data.pull(&source(&server.url(access))).await;
    assert_eq!(pull("moved").await.unwrap(), repo.head());
    let error = pull("to-file").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    let error = pull("broken").await.unwrap_err();
    assert!(error.to_string().contains("status 502"), "{error}");
    for access in ["page", "gone"] {
        let error = pull(access).await.unwrap_err();
        assert!(matches!(error, Error::NotARepository { .. }), "{error}");
    }
}

#[tokio::test]
async fn ssh_says_what_is_wrong_with_key_host_and_path() {
    let repo = Repo::new();
    let sshd = Sshd::serve().await;
    let pull = async |identity: &str, known_hosts: &str, path: &str| {
        let data = Data::new(sshd.options(identity, known_hosts));
        data.pull(&source(&sshd.url(path))).await.unwrap_err()
    };
    let error = pull("other_key", "known_hosts", &repo.url()).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("Permission denied"), "{error}");
    for hosts in ["wrong_hosts", "no_hosts"] {
        let error = pull("user_key", hosts, &repo.url()).await;
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert!(error.to_string().contains("host key"), "{error}");
    }
    let error = pull("user_key", "known_hosts", "/nowhere").await;
    assert!(matches!(error, Error::NotARepository { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

#[tokio::test]
async fn a_path_that_is_no_repository_is_bad() {
    let data = Data::new(Options::default());
    let plain = tempfile::tempdir().unwrap();
    for path in [Path::new("/nowhere/at/all"), plain.path()] {
        let url = path.display().to_string();
        let error = data.pull(&source(&url)).await.unwrap_err();
        assert!(matches!(error, Error::NotARepository { .. }), "{error}");
    }
    let mut odd = source(plain.path().to_str().unwrap());
    for branch in ["a..b", "-x:refs/heads/y", "*", ""] {
        odd.branch = Some(branch.to_owned());
        let error = data.pull(&odd).await.unwrap_err();
        assert!(matches!(error, Error::BadUrl { .. }), "{branch}: {error}");
    }
}

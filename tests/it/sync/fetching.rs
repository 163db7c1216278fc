//! Commits come here over each transport, once, and only as objects.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use viking::model::tree::EntryKind;
use viking::sync::{Error, Options};

use super::servers::{Https, Sshd};
use super::source::{Data, Repo, files, git, source};

#[tokio::test]
async fn a_commit_arrives_over_a_path_and_a_file_url() {
    let repo = Repo::new();
    for url in [repo.url(), format!("file://{}", repo.url())] {
        let data = Data::new(Options::default());
        let tree = data.read(&source(&url)).await.unwrap();
        let names: Vec<&str> = tree.entries.keys().map(String::as_str).collect();
        assert_eq!(names, ["app/run.sh", "viking.yml"]);
        assert_eq!(tree.read("app/run.sh").unwrap().unwrap(), b"echo hi\n");
    }
}

#[tokio::test]
async fn a_bare_repository_and_one_of_another_user_are_read() {
    let repo = Repo::new();
    let bare = repo.path.with_extension("git");
    let bare_url = bare.display().to_string();
    git(
        Path::new("/"),
        &["clone", "-q", "--bare", &repo.url(), &bare_url],
    );
    let changed = std::process::Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(&bare)
        .status()
        .unwrap();
    assert!(
        changed.success(),
        "this test needs root, to give a repository away"
    );
    let data = Data::new(Options::default());
    assert_eq!(data.pull(&source(&bare_url)).await.unwrap(), repo.head());
}

#[tokio::test]
async fn a_path_with_a_colon_and_a_space_is_a_path() {
    let repo = Repo::named("host:a b");
    let id = repo.commit(&[("a", "1")], "first");
    let data = Data::new(Options::default());
    assert_eq!(data.pull(&source(&repo.url())).await.unwrap(), id);
}

#[tokio::test]
async fn a_commit_arrives_over_https_with_a_private_authority_and_a_password() {
    let repo = Repo::new();
    repo.commit(&[("big.bin", &"0123456789".repeat(100_000))], "second");
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let secret = data.dir.path().join("credentials");
    let line = format!("https://anna:s3cret@127.0.0.1:{}\n", server.address.port());
    std::fs::write(&secret, line).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    let source = source(&server.url("locked"));
    let tree = data.read(&source).await.unwrap();
    assert_eq!(tree.read("big.bin").unwrap().unwrap().len(), 1_000_000);
    // Depth 1: the first commit did not come.
    let mirror = data.mirrors.mirror(&source).unwrap();
    assert_eq!(
        git(
            &mirror,
            &[
                "rev-list",
                "--count",
                &format!("refs/viking/{}", repo.head())
            ]
        ),
        "1"
    );
}

#[tokio::test]
async fn a_commit_arrives_over_ssh_whatever_its_path_holds() {
    let repo = Repo::named("it's a $(repo) `here`");
    repo.commit(&[("a", "1")], "first");
    let id = repo.commit(&[("a", "2")], "second");
    let sshd = Sshd::serve().await;
    let data = Data::new(sshd.options("user_key", "known_hosts"));
    let path = repo.url().replace(' ', "%20");
    let tree = data.read(&source(&sshd.url(&path))).await.unwrap();
    assert_eq!(tree.read("a").unwrap().unwrap(), b"2");
    assert_eq!(data.pull(&source(&sshd.url(&path))).await.unwrap(), id);
}

#[tokio::test]
async fn an_unchanged_head_is_listed_and_not_fetched() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("open"));
    data.pull(&source).await.unwrap();
    let round = ["GET open", "GET open", "POST open", "POST open"];
    assert_eq!(server.seen(), round);
    let mirror = data.mirrors.mirror(&source).unwrap();
    let before = files(&mirror);
    data.pull(&source).await.unwrap();
    assert_eq!(server.seen()[4..], ["GET open"], "one look, no fetch");
    assert_eq!(files(&mirror), before);
}

#[tokio::test]
async fn a_second_commit_comes_without_what_is_here_already() {
    let repo = Repo::new();
    let first = repo.head();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("open"));
    data.pull(&source).await.unwrap();
    let second = repo.commit(&[("app/run.sh", "echo ho\n")], "second");
    assert_eq!(data.pull(&source).await.unwrap(), second);
    for (id, text) in [(&first, "echo hi\n"), (&second, "echo ho\n")] {
        let tree = data.mirrors.tree(&source, id).await.unwrap();
        assert_eq!(tree.read("app/run.sh").unwrap().unwrap(), text.as_bytes());
    }
    let rewritten = data.mirrors.rewritten(&source, &first, &second).await;
    assert_eq!(rewritten, Some(false));
}

/// libgit2 offers what it has in rounds of twenty; a mirror that followed many commits needs several.
#[tokio::test]
async fn the_hundredth_commit_arrives_like_the_first() {
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
        let source = source(&url);
        data.pull(&source).await.unwrap();
        // As many refs as a hundred fetches leave, without a hundred connections.
        let mirror = data.mirrors.mirror(&source).unwrap();
        for n in 0..100 {
            let tree = git(
                &mirror,
                &["rev-parse", &format!("{}^{{tree}}", repo.head())],
            );
            let id = git(&mirror, &["commit-tree", &tree, "-m", &n.to_string()]);
            git(&mirror, &["update-ref", &format!("refs/viking/{id}"), &id]);
        }
        let next = repo.commit(&[("app/run.sh", &format!("echo {url}\n"))], "next");
        assert_eq!(data.pull(&source).await.unwrap(), next, "{url}");
        let tree = data.mirrors.tree(&source, &next).await.unwrap();
        assert!(tree.read("app/run.sh").unwrap().is_some());
    }
}

#[tokio::test]
async fn a_shallow_clone_on_this_machine_is_followed() {
    let repo = Repo::new();
    repo.commit(&[("a", "1")], "second");
    let clone = repo.path.with_extension("shallow");
    let (from, to) = (
        format!("file://{}", repo.url()),
        clone.display().to_string(),
    );
    git(Path::new("/"), &["clone", "-q", "--depth=1", &from, &to]);
    let data = Data::new(Options::default());
    let tree = data.read(&source(&to)).await.unwrap();
    assert_eq!(tree.entries.len(), 3);
}

#[tokio::test]
async fn a_branch_that_moves_between_look_and_fetch_gives_the_newer_commit() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("open"));
    let head = data.mirrors.head(&source).await.unwrap();
    let newer = repo.commit(&[("a", "1")], "newer");
    assert_eq!(data.mirrors.fetch(&source, &head).await.unwrap(), newer);
}

#[tokio::test]
async fn nothing_of_a_commit_is_on_disk_but_objects() {
    let repo = Repo::new();
    let marker = repo.path.with_extension("ran");
    let run = format!("touch {}", marker.display());
    repo.commit(&[(".gitattributes", "* filter=evil\n")], "filters");
    for (key, value) in [
        ("filter.evil.smudge", run.as_str()),
        ("filter.evil.clean", run.as_str()),
        ("core.fsmonitor", run.as_str()),
        ("uploadpack.packObjectsHook", run.as_str()),
        ("core.hooksPath", "hooks"),
    ] {
        git(&repo.path, &["config", key, value]);
    }
    for hook in [
        "post-checkout",
        "reference-transaction",
        "pre-auto-gc",
        "post-update",
    ] {
        let path = repo.path.join(".git/hooks").join(hook);
        std::fs::write(&path, format!("#!/bin/sh\n{run}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    let tree = data.read(&source).await.unwrap();
    assert_eq!(tree.read("app/run.sh").unwrap().unwrap(), b"echo hi\n");
    assert!(!marker.exists(), "a hook or filter of the source ran");
    let mirror = data.mirrors.mirror(&source).unwrap();
    assert_eq!(git(&mirror, &["rev-parse", "--is-bare-repository"]), "true");
    let kept = files(data.dir.path());
    for name in [".gitattributes", "run.sh", "viking.yml"] {
        assert!(!kept.iter().any(|file| file.ends_with(name)), "{kept:?}");
    }
    let mode = std::fs::metadata(&mirror).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_commit_is_described_in_one_safe_line() {
    let repo = Repo::new();
    let message = format!("Add \u{1b}[31msearch \u{202e}{}\n\nbody", "x".repeat(300));
    let id = repo.commit(&[("a", "1")], &message);
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    data.pull(&source).await.unwrap();
    let commit = data.mirrors.commit(&source, &id).await.unwrap();
    assert!(
        commit.subject.starts_with("Add [31msearch xxx"),
        "{}",
        commit.subject
    );
    assert_eq!(commit.subject.chars().count(), 201);
    assert_eq!(
        (commit.author.as_str(), commit.at_ms),
        ("Anna", 1_700_000_000_000)
    );
    assert_eq!(commit.id, id);
}

#[tokio::test]
async fn sources_of_one_remote_share_a_mirror_and_keep_their_commits() {
    let repo = Repo::new();
    let main = repo.head();
    git(&repo.path, &["checkout", "-q", "-b", "next"]);
    let next = repo.commit(&[("a", "1")], "next");
    let data = Data::new(Options::default());
    let first = source(&repo.url());
    let mut second = source(&format!("file://{}/", repo.url()));
    second.branch = Some("next".to_owned());
    second.path = "app".to_owned();
    assert_eq!(data.pull(&first).await.unwrap(), main);
    assert_eq!(data.pull(&second).await.unwrap(), next);
    let mirror = data.mirrors.mirror(&first).unwrap();
    assert_eq!(mirror, data.mirrors.mirror(&second).unwrap());
    git(&mirror, &["gc", "-q", "--prune=now"]);
    let tree = data.mirrors.tree(&second, &next).await.unwrap();
    assert_eq!(tree.entries.keys().collect::<Vec<_>>(), ["run.sh"]);
    assert!(data.mirrors.tree(&first, &main).await.is_ok());
}

#[tokio::test]
async fn links_submodules_and_execute_bits_stay_entries() {
    let repo = Repo::new();
    std::os::unix::fs::symlink("/etc/passwd", repo.path.join("link")).unwrap();
    let script = repo.path.join("app/run.sh");
    std::fs::set_permissions(script, PermissionsExt::from_mode(0o755)).unwrap();
    let other = repo.head();
    let gitlink = format!("160000,{other},vendor/lib");
    git(&repo.path, &["add", "-A"]);
    git(
        &repo.path,
        &["update-index", "--add", "--cacheinfo", &gitlink],
    );
    git(&repo.path, &["commit", "-q", "-m", "kinds"]);
    let data = Data::new(Options::default());
    let tree = data.read(&source(&repo.url())).await.unwrap();
    let kind = |path: &str| tree.entries[path].kind;
    assert_eq!(kind("link"), EntryKind::Symlink);
    assert_eq!(kind("app/run.sh"), EntryKind::Executable);
    assert_eq!(kind("vendor/lib"), EntryKind::Submodule);
    assert_eq!(kind("viking.yml"), EntryKind::File);
    assert_eq!(tree.read("link").unwrap().unwrap(), b"/etc/passwd");
}

#[tokio::test]
async fn many_readers_share_one_tree() {
    let repo = Repo::new();
    let data = Data::new(Options::default());
    let tree = data.read(&source(&repo.url())).await.unwrap();
    let readers = (0..16).map(|_| {
        let tree = tree.clone();
        tokio::task::spawn_blocking(move || tree.read("viking.yml").unwrap().unwrap())
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), b"deploy: {}\n");
    }
}

#[tokio::test]
async fn a_mirror_damaged_on_disk_is_made_anew() {
    let repo = Repo::new();
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    data.pull(&source).await.unwrap();
    let mirror = data.mirrors.mirror(&source).unwrap();
    std::fs::remove_file(mirror.join("HEAD")).unwrap();
    std::fs::write(mirror.join("objects/pack/pack_git2_0a1b"), "half").unwrap();
    assert!(matches!(
        data.mirrors.tree(&source, &repo.head()).await,
        Err(Error::Disk { .. })
    ));
    let again = viking::sync::Mirrors::new(data.dir.path(), Options::default()).unwrap();
    let left = files(&mirror);
    assert!(
        !left.iter().any(|file| file.contains("pack_git2_")),
        "{left:?}"
    );
    again.fetch(&source, &repo.head()).await.unwrap();
    assert!(again.tree(&source, &repo.head()).await.is_ok());
}

#[tokio::test]
async fn a_commit_that_is_here_is_kept_without_a_lock() {
    let repo = Repo::new();
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    let id = data.pull(&source).await.unwrap();
    let mirror = data.mirrors.mirror(&source).unwrap();
    std::fs::write(mirror.join(format!("refs/viking/{id}.lock")), "").unwrap();
    assert_eq!(data.pull(&source).await.unwrap(), id);
}

#[tokio::test]
async fn locks_of_a_killed_process_are_gone_after_a_start() {
    let repo = Repo::new();
    let data = Data::new(Options::default());
    let source = source(&repo.url());
    let id = data.pull(&source).await.unwrap();
    let mirror = data.mirrors.mirror(&source).unwrap();
    let locks = ["shallow.lock", "HEAD.lock", "refs/viking/0a.lock"];
    for lock in locks {
        std::fs::write(mirror.join(lock), "").unwrap();
    }
    let again = viking::sync::Mirrors::new(data.dir.path(), Options::default()).unwrap();
    let left = files(&mirror);
    assert!(!left.iter().any(|file| file.ends_with(".lock")), "{left:?}");
    assert!(again.tree(&source, &id).await.is_ok());
}

#[tokio::test]
async fn a_mirror_that_cannot_be_fetched_into_is_put_aside() {
    let repo = Repo::new();
    let server = Https::serve(&repo.path).await;
    let data = Data::new(server.options());
    let source = source(&server.url("open"));
    data.pull(&source).await.unwrap();
    let mirror = data.mirrors.mirror(&source).unwrap();
    let aside = mirror.with_extension("aside");
    // Twice: the second takes the place of the first.
    for n in ["1", "2"] {
        std::fs::write(mirror.join("shallow.lock"), n).unwrap();
        let id = repo.commit(&[("a", n)], n);
        assert_eq!(data.pull(&source).await.unwrap(), id);
        assert!(data.mirrors.tree(&source, &id).await.is_ok());
        assert!(!mirror.join("shallow.lock").exists());
        let kept = std::fs::read_to_string(aside.join("shallow.lock")).unwrap();
        assert_eq!(kept, n);
    }
}

#[tokio::test]
async fn only_mirrors_and_commits_that_are_wanted_are_kept() {
    let (repo, other) = (Repo::new(), Repo::new());
    let mut data = Data::new(Options::default());
    let (ours, gone) = (source(&repo.url()), source(&other.url()));
    let old = data.pull(&ours).await.unwrap();
    let new = repo.commit(&[("a", "1")], "new");
    data.pull(&ours).await.unwrap();
    let added = data.pull(&gone).await.unwrap();
    let wanted = [(ours.clone(), vec![new.clone()])];
    data.mirrors.tidy(&wanted).await.unwrap();
    // Somebody may be adding it, and reads what was fetched just now.
    data.mirrors.tree(&gone, &added).await.unwrap();
    data.restart();
    data.mirrors.tidy(&wanted).await.unwrap();
    assert!(!data.mirrors.mirror(&gone).unwrap().exists());
    let mirror = data.mirrors.mirror(&ours).unwrap();
    let kept = git(&mirror, &["for-each-ref", "--format=%(refname)"]);
    assert_eq!(kept, format!("refs/viking/{new}"));
    assert_ne!(old, new);
    // What was removed comes again when it is followed again.
    data.pull(&gone).await.unwrap();
    // Too many packs: made anew at the next fetch.
    for n in 0..201 {
        std::fs::write(mirror.join(format!("objects/pack/pack-{n}.pack")), "").unwrap();
    }
    data.restart();
    data.mirrors.tidy(&wanted).await.unwrap();
    assert!(!mirror.exists());
    assert_eq!(data.pull(&ours).await.unwrap(), new);
}

//! Trees made to harm whoever unpacks them: refused with the reason, before anything is read.

use viking::sync::{Error, Options};

use super::source::{Data, Repo, git, source};

const FILE: &str = "100644";
const FOLDER: &str = "40000";

async fn refused(repo: &Repo) -> Error {
    let data = Data::new(Options::default());
    data.read(&source(&repo.url()))
        .await
        .expect_err("a hostile tree")
}

#[tokio::test]
async fn names_that_some_system_takes_for_git_or_a_parent_are_refused() {
    for name in [
        &b".GIT"[..],
        b".git",
        b"git~1",
        b".git ",
        b"..",
        b".",
        b"a/b",
        b".g\xe2\x80\x8cit",
        b"caf\xe9",
    ] {
        let repo = Repo::new();
        let blob = repo.blob("x");
        repo.commit_raw(&[(FILE, name, &blob)]);
        let error = refused(&repo).await;
        assert!(matches!(error, Error::Hostile { .. }), "{name:?}: {error}");
        assert!(error.is_commits_fault());
    }
}

#[tokio::test]
async fn the_reason_names_the_entry_in_its_folder() {
    let repo = Repo::new();
    let blob = repo.blob("x");
    let inner = repo.raw_tree(&[(FILE, b"..", &blob)]);
    let id = repo.commit_raw(&[(FOLDER, b"app", &inner)]);
    let text = refused(&repo).await.to_string();
    assert_eq!(
        text,
        format!("read commit {id}: 'app/..' would leave its folder; rename or remove it")
    );
}

#[tokio::test]
async fn a_name_that_is_there_twice_is_refused() {
    let repo = Repo::new();
    let blob = repo.blob("x");
    let inner = repo.raw_tree(&[(FILE, b"b", &blob)]);
    repo.commit_raw(&[(FILE, b"a", &blob), (FOLDER, b"a", &inner)]);
    let error = refused(&repo).await;
    assert!(error.to_string().contains("'a' is there twice"), "{error}");
}

#[tokio::test]
async fn folders_that_multiply_or_go_too_deep_end_at_a_limit() {
    let repo = Repo::new();
    let blob = repo.blob("x");
    let mut bomb = repo.raw_tree(&[(FILE, b"f", &blob)]);
    for _ in 0..20 {
        bomb = repo.raw_tree(&[(FOLDER, b"a", &bomb), (FOLDER, b"b", &bomb)]);
    }
    repo.commit_raw(&[(FOLDER, b"x", &bomb)]);
    let error = refused(&repo).await;
    assert!(
        error.to_string().contains("more than 100000 files"),
        "{error}"
    );
    let mut deep = repo.raw_tree(&[(FILE, b"f", &blob)]);
    for _ in 0..70 {
        deep = repo.raw_tree(&[(FOLDER, b"a", &deep)]);
    }
    repo.commit_raw(&[(FOLDER, b"x", &deep)]);
    let error = refused(&repo).await;
    assert!(matches!(error, Error::TooBig { .. }), "{error}");
    assert!(error.to_string().contains("deeper than 64"), "{error}");
}

#[tokio::test]
async fn files_are_weighed_before_they_are_read() {
    let repo = Repo::new();
    let hundred_mb = "0".repeat(100 << 20);
    let blob = repo.blob(&hundred_mb);
    let names: Vec<String> = (10..21).map(|n| format!("f{n}")).collect();
    let entries: Vec<_> = names
        .iter()
        .map(|n| (FILE, n.as_bytes(), &blob[..]))
        .collect();
    repo.commit_raw(&entries);
    let error = refused(&repo).await;
    assert!(error.to_string().contains("bytes together"), "{error}");
    let bigger = repo.blob(&format!("{hundred_mb}0"));
    repo.commit_raw(&[(FILE, b"big", &bigger)]);
    let error = refused(&repo).await;
    assert!(
        error.to_string().contains("'big' has 104857601 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn a_missing_folder_or_a_file_in_its_place_is_told() {
    let repo = Repo::new();
    let data = Data::new(Options::default());
    let mut source = source(&repo.url());
    for (path, why) in [
        ("deploy/web", "there is no 'deploy'"),
        ("viking.yml", "'viking.yml' is not a folder"),
        ("app/../..", "'..' would leave its folder"),
    ] {
        source.path = path.to_owned();
        let error = data.read(&source).await.unwrap_err();
        assert!(matches!(error, Error::PathMissing { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    source.path = "./app/".to_owned();
    assert_eq!(data.read(&source).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn a_commit_with_a_missing_object_is_damaged_not_empty() {
    let repo = Repo::new();
    let gone = "1234567890123456789012345678901234567890";
    repo.commit_raw(&[(FILE, b"a", gone)]);
    let error = refused(&repo).await;
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(git(&repo.path, &["rev-parse", "HEAD"]).len() == 40);
}

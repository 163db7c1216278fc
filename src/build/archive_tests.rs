//! The tar's bytes: what is in it, that equal trees make equal bytes, and how it ends.

use std::collections::BTreeMap;
use std::io::Read;

use super::*;

struct Same(Vec<u8>);

impl BlobSource for Same {
    fn blob(&self, oid: &str) -> io::Result<Vec<u8>> {
        match oid {
            "missing" => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(self.0.clone()),
        }
    }
}

fn context(items: &[(&str, Item)]) -> Context {
    let items = items
        .iter()
        .map(|(path, i)| ((*path).to_owned(), i.clone()));
    Context {
        items: items.collect(),
    }
}

fn file(oid: &str, executable: bool) -> Item {
    Item::File {
        oid: oid.to_owned(),
        executable,
    }
}

async fn received(context: Context, blob: &[u8]) -> (Vec<u8>, Result<(), ContextError>) {
    let blobs = Arc::new(Same(blob.to_vec()));
    let mut archive = stream(context, blobs, "FROM a".to_owned());
    let mut bytes = Vec::new();
    while let Some(Ok(piece)) = archive.pieces.recv().await {
        assert!(piece.len() <= PIECE_BYTES);
        bytes.extend_from_slice(&piece);
    }
    (bytes, archive.outcome.await.unwrap())
}

fn listing(bytes: &[u8]) -> Vec<(String, u32, String)> {
    tar::Archive::new(bytes)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mode = entry.header().mode().unwrap();
            assert_eq!(entry.header().mtime().unwrap(), ENTRY_TIME);
            assert_eq!(entry.header().uid().unwrap(), 0);
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            if let Some(target) = entry.link_name().unwrap() {
                text = format!("-> {}", target.display());
            }
            (path, mode, text)
        })
        .collect()
}

#[tokio::test]
async fn a_tar_holds_files_links_folders_and_our_dockerfile() {
    let long = format!("{}/f", "x".repeat(150));
    let items = [
        ("a/b/c", file("1", true)),
        ("a/b/d", file("1", false)),
        (long.as_str(), file("1", false)),
        (
            "link",
            Item::Link {
                oid: "l".to_owned(),
                target: "a/b".to_owned(),
            },
        ),
        ("sub", Item::Folder),
    ];
    let (bytes, outcome) = received(context(&items), b"hi").await;
    assert!(outcome.is_ok());
    let own = |text: &str| text.to_owned();
    let want = [
        (own(".viking.Dockerfile"), 0o644, own("FROM a")),
        (
            own(".dockerignore"),
            0o644,
            own(".dockerignore\n.viking.Dockerfile\n"),
        ),
        (own("a/"), 0o755, own("")),
        (own("a/b/"), 0o755, own("")),
        (own("a/b/c"), 0o755, own("hi")),
        (own("a/b/d"), 0o644, own("hi")),
        (own("link"), 0o777, own("-> a/b")),
        (own("sub/"), 0o755, own("")),
        (format!("{}/", "x".repeat(150)), 0o755, own("")),
        (long.clone(), 0o644, own("hi")),
    ];
    assert_eq!(listing(&bytes), want);
    let (again, _) = received(context(&items), b"hi").await;
    assert_eq!(bytes, again);
}

#[tokio::test]
async fn a_context_keeps_its_own_dockerignore_and_reserved_name() {
    let items = [
        (".dockerignore", file("1", false)),
        (".viking.Dockerfile", file("1", false)),
    ];
    let (bytes, _) = received(context(&items), b"*.md").await;
    let listed = listing(&bytes);
    assert_eq!(listed[0].0, ".viking.Dockerfile.1");
    assert_eq!(listed[1].2, "*.md\n.viking.Dockerfile.1\n");
    assert_eq!(listed[2].2, "*.md");
}

#[tokio::test]
async fn a_missing_blob_ends_the_stream_with_its_path() {
    let items = [("a", file("1", false)), ("b", file("missing", false))];
    let (_, outcome) = received(context(&items), &vec![0; 3 * PIECE_BYTES]).await;
    let error = outcome.unwrap_err();
    assert!(
        matches!(&error, ContextError::Read { path, .. } if path == "b"),
        "{error}"
    );
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_writer() {
    let items: Vec<(String, Item)> = (0..50).map(|n| (n.to_string(), file("1", false))).collect();
    let context = Context {
        items: items.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let blobs = Arc::new(Same(vec![0; PIECE_BYTES]));
    let Archive {
        mut pieces,
        outcome,
        ..
    } = stream(context, blobs, String::new());
    assert!(pieces.recv().await.is_some());
    drop(pieces);
    assert!(matches!(outcome.await.unwrap(), Err(ContextError::Closed)));
}

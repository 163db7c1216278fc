//! Tars that somebody made to do harm, and good ones.

use tar::{Builder, Header};

use super::*;

/// An entry: kind, path as it is written, and the bytes or the target.
type Raw<'a> = (EntryType, &'a str, &'a str);

fn tar(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, path, content) in entries {
        let mut header = Header::new_gnu();
        // As an honest writer would refuse to.
        let name = &mut header.as_old_mut().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4777);
        let bytes = match kind {
            EntryType::Regular => content.as_bytes(),
            _ => {
                let target = &mut header.as_old_mut().linkname;
                target[..content.len()].copy_from_slice(content.as_bytes());
                &[]
            }
        };
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;

fn unpacked(entries: &[Raw<'_>]) -> (Result<(), String>, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("site");
    fs::create_dir(&into).unwrap();
    (unpack(tar(entries).as_slice(), &into), dir)
}

#[test]
fn files_folders_and_links_within_come_out_as_they_went_in() {
    let (done, dir) = unpacked(&[
        (FILE, "index.html", "<p>"),
        (FOLDER, "a/", ""),
        (FILE, "a/b", "bytes"),
        (LINK, "a/up", "../index.html"),
        (LINK, "nowhere", "b/c"),
    ]);
    done.unwrap();
    let read = |path: &str| fs::read_to_string(dir.path().join("site").join(path)).unwrap();
    assert_eq!(
        (read("index.html"), read("a/b"), read("a/up")),
        ("<p>".into(), "bytes".into(), "<p>".into())
    );
}

#[test]
fn nothing_is_ever_written_outside_or_through_a_link_or_as_a_device() {
    let cases: [&[Raw<'_>]; 14] = [
        &[(FILE, "../evil", "x")],
        &[(FILE, "/evil", "x")],
        &[(FILE, "a/../../evil", "x")],
        &[(FOLDER, "../evil/", "")],
        &[(LINK, "a", ".."), (FILE, "a/evil", "x")],
        &[(LINK, "out", "../evil")],
        &[(LINK, "out", "/etc/passwd")],
        &[
            (FOLDER, "a/", ""),
            (LINK, "a/l", ".."),
            (LINK, "m", "a/l/../.."),
        ],
        &[(FILE, "a", "x"), (LINK, "a", "b")],
        &[(FILE, "a", "x"), (FILE, "a", "y")],
        &[(EntryType::Link, "hard", "/etc/passwd")],
        &[(EntryType::Char, "null", "")],
        &[(EntryType::Fifo, "fifo", "")],
        &[(FILE, "in/no/folder", "x")],
    ];
    for entries in cases {
        let (done, dir) = unpacked(entries);
        assert!(done.is_err(), "{entries:?}");
        let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(beside.len(), 1, "{entries:?}");
    }
}

#[test]
fn a_tar_that_is_cut_short_is_no_site() {
    let whole = tar(&[(FILE, "a", &"x".repeat(5_000))]);
    let dir = tempfile::tempdir().unwrap();
    assert!(unpack(&whole[..2_000], dir.path()).is_err());
}

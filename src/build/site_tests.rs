//! Tables of trees: what becomes part of a site, and what is refused by its name.

use std::io::Read as _;

use super::*;
use crate::build::context::tests::tree;

/// Paths, each with what is there.
type Files<'a> = &'a [(&'a str, &'a str)];

fn files(files: &[(&str, &str)], root: &str) -> Result<Vec<String>, String> {
    let selected = select(&tree(files), root).map_err(|error| error.to_string())?;
    Ok(selected.items.into_keys().collect())
}

fn packed(files: &[(&str, &str)], root: &str) -> Result<(String, Vec<u8>), String> {
    let tree = tree(files);
    let selected = select(&tree, root).map_err(|error| error.to_string())?;
    let mut image = pack(&selected, tree.blobs.as_ref()).map_err(|error| error.to_string())?;
    let mut layer = Vec::new();
    image.layer.read_to_end(&mut layer).unwrap();
    assert_eq!(image.size, layer.len() as u64);
    assert_eq!(image.layer_digest, sha256(&layer));
    Ok((sha256(&image.manifest), layer))
}

#[test]
fn a_site_is_what_is_below_its_root_and_may_be_shown() {
    let commit = [
        ("viking.yml", "x"),
        ("help/www/index.html", "<p>"),
        ("help/www/.env", "secret"),
        ("help/www/.git/config", "x"),
        ("help/www/.well-known/security.txt", "x"),
        ("help/www/a/b.css", "x"),
        ("help/www/c", "->a/b.css"),
        ("help/wwwx", "x"),
    ];
    let found = files(&commit, "./help/www").unwrap();
    let shown = [".well-known/security.txt", "a/b.css", "c", "index.html"];
    assert_eq!(found, shown);
}

#[test]
fn equal_files_are_one_image_wherever_they_are_and_other_ones_are_another() {
    let (one, bytes) = packed(&[("a/x/i.html", "hi"), ("a/j", "->x/i.html")], "a").unwrap();
    let (same, same_bytes) = packed(&[("b/j", "->x/i.html"), ("b/x/i.html", "+hi")], "b").unwrap();
    assert_eq!((one.clone(), bytes), (same, same_bytes));
    for other in [
        [("a/x/i.html", "ho"), ("a/j", "->x/i.html")],
        [("a/x/i.html", "hi"), ("a/j", "->x")],
    ] {
        assert_ne!(packed(&other, "a").unwrap().0, one);
    }
}

#[test]
fn what_leads_out_or_is_elsewhere_is_refused_by_its_name() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n";
    let long = format!("w/{}", "x".repeat(300));
    let cases: [(Files<'_>, &str, &str); 11] = [
        (
            &[("w/out", "->../secret"), ("secret", "x")],
            "w",
            "\"out\" → \"../secret\" leads outside",
        ),
        (
            &[("w/abs", "->/etc/passwd")],
            "w",
            "\"abs\" → \"/etc/passwd\" leads outside",
        ),
        (&[("w/a", "->b"), ("w/b", "->../x")], "w", "leads outside"),
        (&[("w/sub", "@")], "w", "\"sub\" is a submodule"),
        (
            &[("w/big.bin", pointer)],
            "w",
            "\"big.bin\" is a pointer of Git LFS",
        ),
        (&[("x", "x")], "w", "no files in \"w\""),
        (&[("w", "x")], "w", "\"w\" is a file"),
        (
            &[("w", "->v"), ("v/x", "x")],
            "w",
            "\"w\" is a symbolic link",
        ),
        (&[("w/.env", "x")], "w", "no files in \"w\""),
        (&[("x", "x")], "../w", "outside the repository"),
        (&[(&long, "x")], "w", "is too long"),
    ];
    for (commit, root, reason) in cases {
        let error = packed(commit, root).unwrap_err();
        assert!(error.contains(reason), "{error} does not say {reason}");
    }
}

#[test]
fn a_mistake_names_the_node_and_its_line() {
    let text = "viking: {name: s}\ndeploy:\n  help:\n    document_root: nowhere\n";
    let file = VikingFile::parse("viking.yml", text.as_bytes()).unwrap();
    let error = read(&file, &tree(&[("viking.yml", text)])).unwrap_err();
    let said = "image help.site: document_root of help (viking.yml line 3): the commit has no files in \
        \"nowhere\"";
    assert_eq!(error.to_string(), said);
    assert!(matches!(error, Error::Own { .. }));
}

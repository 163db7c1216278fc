//! Static sites: how large they may be, and where a host keeps one. A site is an image of one layer that
//! holds files alone. Built by `build`, unpacked by `deploy`, served by `router`. Pure.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// Where sites are, below a host's data directory.
pub const FOLDER: &str = "sites";

/// Most files, links and folders of one site: every host has them all.
pub const ENTRIES_MAX: usize = 50_000;

/// Most bytes of one file.
pub const FILE_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of a site.
pub const BYTES_MAX: u64 = 1 << 30;

/// Folders within each other.
pub const DEPTH_MAX: usize = 32;

/// Longest path, and longest name within it, as file systems limit them.
pub const PATH_BYTES_MAX: usize = 1_024;
const PART_BYTES_MAX: usize = 255;

/// Why a path cannot be part of a site, in words.
#[must_use]
pub fn refused(path: &str) -> Option<&'static str> {
    let parts = || path.split('/');
    if path.contains('\0') || parts().any(|part| matches!(part, "" | "." | "..")) {
        return Some("is no plain path");
    }
    if parts().count() > DEPTH_MAX {
        return Some("is too deep");
    }
    let long = path.len() > PATH_BYTES_MAX || parts().any(|part| part.len() > PART_BYTES_MAX);
    long.then_some("is too long")
}

/// Whether a path is shown to nobody: names that begin with a dot are of tools (`.git`, `.env`), but for
/// `.well-known` (RFC 8615).
#[must_use]
pub fn hidden(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.any(|part| part.starts_with('.') && part != ".well-known")
}

/// The digits of a digest, which become the name of a folder.
#[must_use]
pub fn digits(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (digits.len() == 64 && digits.bytes().all(hex)).then_some(digits)
}

/// Where the files of a site are, whole, once it is there.
#[must_use]
pub fn folder(sites: &Path, digest: &str) -> Option<PathBuf> {
    Some(sites.join(digits(digest)?))
}

/// Links followed on the way of one path, as Linux limits them.
const LINK_HOPS_MAX: usize = 40;

/// Walks `path` as a kernel would, through links that `link_at` knows, and answers whether it ever steps
/// above the root. A link to nothing, or a circle, stays inside.
pub fn leaves<'t>(path: &'t str, link_at: impl Fn(&str) -> Option<&'t str>) -> bool {
    let mut ahead: VecDeque<&str> = path.split('/').collect();
    let mut at: Vec<&str> = Vec::new();
    let mut hops = 0;
    while let Some(part) = ahead.pop_front() {
        match part {
            "" | "." => continue,
            ".." if at.pop().is_none() => return true,
            ".." => continue,
            part => at.push(part),
        }
        if let Some(target) = link_at(&at.join("/")) {
            hops += 1;
            if target.starts_with('/') {
                return true;
            }
            if hops > LINK_HOPS_MAX {
                return false;
            }
            at.pop();
            target.split('/').rev().for_each(|p| ahead.push_front(p));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_its_place_is_no_part_of_a_site() {
        for good in ["a", "a/b.html", "a b/ä", ".well-known/x"] {
            assert_eq!(refused(good), None, "{good}");
        }
        let (deep, long) = ("a/".repeat(40) + "b", "x".repeat(300));
        for bad in [
            "", "/a", "a//b", "../a", "a/..", "./a", "a/", "a\0", &deep, &long,
        ] {
            assert!(refused(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn only_a_whole_digest_names_a_folder() {
        let sites = Path::new("/sites");
        let digest = format!("sha256:{}", "0a".repeat(32));
        assert!(folder(sites, &digest).is_some());
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc",
            "0a",
            &digest.to_uppercase(),
            &format!("{digest}0"),
        ] {
            assert_eq!(folder(sites, bad), None, "{bad}");
        }
    }

    #[test]
    fn what_tools_leave_behind_is_hidden_and_well_known_places_are_not() {
        for yes in [".env", "a/.git/config", ".htaccess", ".well-known/.x"] {
            assert!(hidden(yes), "{yes}");
        }
        for no in ["a", "a.b", ".well-known/security.txt"] {
            assert!(!hidden(no), "{no}");
        }
    }
}

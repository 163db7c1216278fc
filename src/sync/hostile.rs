//! Which names in a tree are refused. Pure; called by `tree` for every entry. It judges one name, not
//! links or sizes.

/// Why an entry of this name must not be read, if so. `name` is one segment of a path, as raw
/// bytes of the tree object.
pub(super) fn refusal(name: &[u8]) -> Option<&'static str> {
    if name.is_empty() {
        return Some("has an empty name");
    }
    if name.contains(&0) || name.contains(&b'/') {
        return Some("has a zero byte or a slash in its name");
    }
    if matches!(name, b"." | b"..") {
        return Some("would leave its folder");
    }
    let Ok(text) = std::str::from_utf8(name) else {
        return Some("has a name that is not UTF-8");
    };
    text.split('\\')
        .any(is_git_folder)
        .then_some("has a name that some file system takes for git's own folder")
}

/// `.git` as Linux, Windows (case, trailing dots and spaces, streams, the short name) and macOS
/// (case, code points it ignores) would read it.
fn is_git_folder(piece: &str) -> bool {
    let visible: String = piece
        .chars()
        .filter(|c| !is_ignored_on_macos(*c))
        .collect::<String>()
        .to_lowercase();
    let before_stream = visible.split(':').next().unwrap_or_default();
    let trimmed = before_stream.trim_end_matches(['.', ' ']);
    matches!(trimmed, ".git" | "git~1")
}

fn is_ignored_on_macos(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_gits_own_folder_is_refused() {
        for name in [
            ".git",
            ".GIT",
            ".Git",
            ".git.",
            ".git . .",
            "git~1",
            "GIT~1",
            ".git::$INDEX_ALLOCATION",
            ".g\u{200c}it",
            "\u{feff}.git",
            "a\\.git\\b",
            "..",
            ".",
            "",
        ] {
            assert!(refusal(name.as_bytes()).is_some(), "{name:?}");
        }
        assert!(refusal(b"a\0b").is_some());
        assert!(refusal(b"a/b").is_some());
        assert!(refusal(b"caf\xe9").is_some());
    }

    #[test]
    fn ordinary_names_pass() {
        for name in [
            ".gitignore",
            ".gitattributes",
            ".github",
            "git",
            "a.git",
            "...",
            "Icon\r",
            "-rf",
        ] {
            assert_eq!(refusal(name.as_bytes()), None, "{name:?}");
        }
    }
}

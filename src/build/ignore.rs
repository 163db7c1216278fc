//! `.dockerignore`, by Docker's rules, which are not git's: patterns start at the context's root,
//! the last one that matches a path or a folder above it wins, `!` takes back. Used by `context`.
//! Pure. A file `<dockerfile>.dockerignore` belongs to BuildKit and is not read.

use regex::Regex;

use super::glob::{Stars, clean, compile};

/// Name of the file in the context's root.
pub const FILE: &str = ".dockerignore";

/// Most patterns in one file: each is tried on each path and on the folders above it.
pub const PATTERNS_MAX: usize = 2_000;

/// What a `.dockerignore` says.
#[derive(Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    takes_back: bool,
    regex: Regex,
}

impl Ignore {
    /// Reads the file's text.
    ///
    /// # Errors
    /// Says the line and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            // Only a `#` in the first column is a comment.
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if rules.len() == PATTERNS_MAX {
                return Err(format!("more than {PATTERNS_MAX} patterns"));
            }
            let rule = rule(line.trim())
                .ok_or_else(|| format!("line {}: {:?} is not a pattern", index + 1, line.trim()))?;
            rules.push(rule);
        }
        Ok(Self { rules })
    }

    /// Whether a file of the context is left out.
    #[must_use]
    pub fn excludes(&self, path: &str) -> bool {
        let above: Vec<&str> = path
            .match_indices('/')
            .filter_map(|(at, _)| path.get(..at))
            .collect();
        let hit = self.rules.iter().rev().find(|rule| {
            rule.regex.is_match(path) || above.iter().any(|folder| rule.regex.is_match(folder))
        });
        hit.is_some_and(|rule| !rule.takes_back)
    }
}

fn rule(line: &str) -> Option<Rule> {
    let takes_back = line.starts_with('!');
    let pattern = line.strip_prefix('!').unwrap_or(line).trim();
    if pattern.is_empty() {
        return None;
    }
    let pattern = clean(pattern);
    let anchored = match pattern.strip_prefix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => &pattern,
    };
    let regex = compile(anchored, Stars::AnyDepth)?;
    Some(Rule { takes_back, regex })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_left_out_as_docker_does() {
        let cases: &[(&str, &str, bool)] = &[
            ("node_modules", "node_modules/x/y.js", true),
            ("node_modules", "a/node_modules/y.js", false),
            ("**/node_modules", "a/node_modules/y.js", true),
            ("*.md", "README.md", true),
            ("*.md", "docs/README.md", false),
            ("*/*.md", "docs/README.md", true),
            ("**/*.md", "README.md", true),
            ("/target/", "target/x", true),
            ("./target", "target/x", true),
            ("# a comment\ntarget", "# a comment", false),
            (" # not a comment", "# not a comment", true),
            ("*\n!src", "src/main.rs", false),
            ("*\n!src", "other", true),
            ("*\n!src\nsrc/secret", "src/secret", true),
            ("!a\na", "a", true),
            ("a\n!a/b/c", "a/b/c", false),
            ("a\n!a/b/c", "a/b/d", true),
            ("! spaced\nx", "x", true),
            ("../a", "a", false),
            ("a/../b", "b", true),
            (".", "a", false),
            ("/", "a", false),
            ("**", "a/b", true),
            ("a**b", "ab", true),
            ("docs/**/*.txt", "docs/a/b/c.txt", true),
            ("temp?", "tempa/x", true),
            ("temp?", "temp", false),
            ("", "a", false),
            ("\u{feff}a\r\n", "a", true),
        ];
        for (text, path, want) in cases {
            let ignore = Ignore::parse(text).unwrap();
            assert_eq!(ignore.excludes(path), *want, "{text:?} on {path}");
        }
    }

    #[test]
    fn a_bad_pattern_names_its_line() {
        assert!(Ignore::parse("a\n[").unwrap_err().starts_with("line 2"));
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse(&"a\n".repeat(PATTERNS_MAX + 1)).is_err());
    }
}

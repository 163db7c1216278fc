//! Docker's two pattern languages as regular expressions, and the path cleaning both start from:
//! that of ADD and COPY, and that of `.dockerignore`. Used by `reach` and `ignore`. Pure.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// What two stars mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stars {
    /// ADD and COPY: the same as one.
    One,
    /// `.dockerignore`: any number of folders.
    AnyDepth,
}

/// Most of `regex`'s compiled size for one pattern: a line of a repository must not cost more.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The whole path must match. `None` when the pattern is malformed.
pub(super) fn compile(pattern: &str, stars: Stars) -> Option<Regex> {
    let mut out = String::from(r"(?s)\A");
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '*' => star(&mut rest, stars, &mut out),
            '?' => out.push_str("[^/]"),
            '[' => class(&mut rest, &mut out)?,
            '\\' => literal(rest.next()?, &mut out),
            c => literal(c, &mut out),
        }
    }
    out.push_str(r"\z");
    regex::RegexBuilder::new(&out)
        .size_limit(PATTERN_BYTES_MAX)
        .build()
        .ok()
}

fn literal(c: char, out: &mut String) {
    out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
}

fn star(rest: &mut Peekable<Chars<'_>>, stars: Stars, out: &mut String) {
    if stars == Stars::One || rest.peek() != Some(&'*') {
        out.push_str("[^/]*");
        return;
    }
    rest.next();
    rest.next_if_eq(&'/');
    out.push_str(if rest.peek().is_none() {
        ".*"
    } else {
        "(?:.*/)?"
    });
}

/// `[a-z]`, `[^a]`, with `\` before a character that means itself.
fn class(rest: &mut Peekable<Chars<'_>>, out: &mut String) -> Option<()> {
    out.push('[');
    if rest.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    let mut empty = true;
    loop {
        match rest.next()? {
            ']' if empty => return None,
            ']' => break,
            low => {
                let low = member(low, rest)?;
                class_literal(low, out);
                if rest.next_if_eq(&'-').is_some() {
                    let next = rest.next()?;
                    let high = member(next, rest)?;
                    out.push('-');
                    class_literal(high, out);
                }
                empty = false;
            }
        }
    }
    out.push(']');
    Some(())
}

fn member(c: char, rest: &mut Peekable<Chars<'_>>) -> Option<char> {
    match c {
        '\\' => rest.next(),
        '-' | ']' => None,
        c => Some(c),
    }
}

fn class_literal(c: char, out: &mut String) {
    if c.is_ascii_punctuation() {
        out.push('\\');
    }
    out.push(c);
}

/// The shortest path with the same meaning, without `.` segments, double and trailing slashes;
/// `..` is taken back where it can be. An absolute path stays absolute; nothing at all is `.`.
pub(super) fn clean(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_docker() {
        let cases = [
            ("*.rs", Stars::One, "a.rs", true),
            ("*.rs", Stars::One, "x/a.rs", false),
            ("**", Stars::One, "x/a.rs", false),
            ("**", Stars::AnyDepth, "x/a.rs", true),
            ("**/a.rs", Stars::AnyDepth, "a.rs", true),
            ("**/a.rs", Stars::AnyDepth, "x/y/a.rs", true),
            ("**/a.rs", Stars::AnyDepth, "x/ba.rs", false),
            ("x/**/z", Stars::AnyDepth, "x/z", true),
            ("x/**/z", Stars::AnyDepth, "x/y/y/z", true),
            ("a?c", Stars::One, "abc", true),
            ("a?c", Stars::One, "a/c", false),
            ("[a-c]x", Stars::One, "bx", true),
            ("[^a-c]x", Stars::One, "bx", false),
            ("[^a-c]x", Stars::One, "dx", true),
            (r"a\*", Stars::One, "a*", true),
            (r"a\*", Stars::One, "ab", false),
            ("a(b)+|$", Stars::One, "a(b)+|$", true),
            (r"[\]]", Stars::One, "]", true),
            ("[&&~]", Stars::One, "&", true),
        ];
        for (pattern, stars, path, want) in cases {
            let regex = compile(pattern, stars).unwrap();
            assert_eq!(regex.is_match(path), want, "{pattern} on {path}");
        }
        for bad in ["[", "[]", "[a", "a\\", "[a-]", "[z-a]"] {
            assert!(compile(bad, Stars::One).is_none(), "{bad}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        let cases = [
            ("", "."),
            ("./", "."),
            ("a//b/", "a/b"),
            ("./a/../b", "b"),
            ("../a", "../a"),
            ("a/../../b", "../b"),
            ("/../a", "/a"),
            ("/", "/"),
        ];
        for (path, want) in cases {
            assert_eq!(clean(path), want, "{path}");
        }
    }
}

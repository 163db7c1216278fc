//! YAML text to a tree in which every scalar is the text as written and every node knows its place.
//! Called by `VikingFile::parse` after `input`. Knows nothing about keys; refuses duplicate keys,
//! deep nesting, alias bombs, unknown tags and second documents.
//!
//! The tree is made from parser events instead of typed deserialization, because `8080:80`, `0644`
//! and `1.10` must stay what they look like, and because every message is to be ours.

use serde_yaml::granit_parser::{ErrorKind, Options, Parser, ScanError, Span};

use super::error::{At, Error};
use super::tree::Tree;

/// Deepest nesting: a `viking.yml` needs five levels.
pub(super) const DEPTH_MAX: usize = 32;

/// One value of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

/// What a value is. `plain` text had no quotes, so it may also be a number, a boolean or null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: At,
    pub(super) value: Node,
}

impl Node {
    /// Whether nothing was written.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Text { text, plain: true }
            if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text { .. } if self.is_null() => "nothing",
            Value::Text { .. } => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// Nodes and bytes, and levels of nesting.
    pub(super) fn measure(&self) -> (usize, usize) {
        let fold = |(weight, depth): (usize, usize), (more, deeper): (usize, usize)| {
            (weight + more, depth.max(deeper))
        };
        let (weight, depth) = match &self.value {
            Value::Text { text, .. } => return (1 + text.len(), 0),
            Value::List(items) => items.iter().map(Self::measure).fold((1, 0), fold),
            Value::Map(entries) => entries.iter().map(Entry::measure).fold((1, 0), fold),
        };
        (weight, depth + 1)
    }
}

impl Entry {
    fn measure(&self) -> (usize, usize) {
        let (weight, depth) = self.value.measure();
        (weight + 1 + self.key.len(), depth)
    }
}

/// Reads the one document of `text`.
///
/// # Errors
/// With the place, but without file name and lines around.
pub(super) fn read(text: &str) -> Result<Node, Error> {
    read_any(text)?.ok_or_else(|| Error::at(At::START, "the file is empty"))
}

/// Reads the one document of `text`; none when nothing is written in it.
///
/// # Errors
/// As [`read`].
pub(super) fn read_any(text: &str) -> Result<Option<Node>, Error> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.disallow_directives = true;
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut tree = Tree::of(text);
    for next in Parser::new_from_str_with_options(text, options) {
        let (event, span) = next.map_err(|error| syntax(&error))?;
        tree.take(event, &span)?;
    }
    Ok(tree.root.filter(|root| !root.is_null()))
}

fn syntax(error: &ScanError) -> Error {
    let at = place(&Span::empty(*error.marker()));
    match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInIndentation
        | ErrorKind::TabInBlockIndentation => {
            Error::at(at, "a tab is used for indentation").with_allowed(["spaces"])
        }
        ErrorKind::RecursionLimitExceeded => too_deep(at),
        ErrorKind::UnknownAnchor => {
            Error::at(at, "not valid YAML: the alias names no anchor above it")
        }
        _ => Error::at(at, format!("not valid YAML: {}", error.info())),
    }
}

/// The one error for nesting, wherever it is seen first.
pub(super) fn too_deep(at: At) -> Error {
    Error::at(at, "nested too deep").with_allowed([format!("at most {DEPTH_MAX} levels")])
}

/// The place a parser's span covers.
pub(super) fn place(span: &Span) -> At {
    let width = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col()).max(1)
    } else {
        1
    };
    At {
        line: span.start.line().max(1) as u64,
        column: span.start.col() as u64 + 1,
        width: width as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (u64, u64, String) {
        let error = read(text).unwrap_err();
        (error.line(), error.column(), error.message().to_owned())
    }

    fn text_at<'n>(node: &'n Node, path: &[&str]) -> &'n str {
        let mut node = node;
        for wanted in path {
            let Value::Map(entries) = &node.value else {
                panic!("{node:?}")
            };
            node = &entries.iter().find(|e| e.key == *wanted).unwrap().value;
        }
        match &node.value {
            Value::Text { text, .. } => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn scalars_stay_what_they_look_like() {
        let node = read("a: 80:80\nb: 0644\nc: 1.10\nd: no\ne: !ssd\nf: !!str 5\n").unwrap();
        for (key, want) in [
            ("a", "80:80"),
            ("b", "0644"),
            ("c", "1.10"),
            ("d", "no"),
            ("e", "!ssd"),
            ("f", "5"),
        ] {
            assert_eq!(text_at(&node, &[key]), want);
        }
    }

    #[test]
    fn merged_keys_give_way_to_written_ones() {
        let node =
            read("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\n").unwrap();
        assert_eq!(text_at(&node, &["c", "x"]), "3");
        assert_eq!(text_at(&node, &["c", "y"]), "1");
        assert_eq!(text_at(&node, &["c", "z"]), "2");
        assert!(refused("a: {<<: 5}").2.contains("takes a mapping"));
    }

    #[test]
    fn a_duplicate_key_names_both_lines() {
        let (line, column, message) = refused("a:\n  web: 1\n  'web': 2\n");
        assert_eq!((line, column), (3, 3));
        assert_eq!(message, "key \"web\" is given twice in a, first in line 2");
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for n in 1..12 {
            let items = vec![format!("*a{}", n - 1); 9].join(", ");
            laughs.push_str(&format!("a{n}: &a{n} [{items}]\n"));
        }
        assert!(refused(&laughs).2.contains("aliases expand"));
        assert!(refused(&"[".repeat(100_000)).2.contains("too deep"));
        assert!(refused(&"- ".repeat(100_000)).2.contains("too deep"));
        assert!(refused(&"{a: ".repeat(50_000)).2.contains("too deep"));
        let mut stairs = String::from("a0: &a0 [x]\n");
        for n in 1..40 {
            stairs.push_str(&format!("a{n}: &a{n} [*a{}]\n", n - 1));
        }
        assert!(refused(&stairs).2.contains("too deep"));
        assert!(refused("a: &a [*a]").2.contains("holds it"));
    }

    #[test]
    fn broken_yaml_says_where() {
        assert!(refused("a:\n\tb: 1\n").2.contains("tab"));
        assert_eq!(refused("a: 1\n---\nb: 1\n").0, 2);
        assert_eq!(refused("a: 'x\nb: 1\n").0, 1);
        assert_eq!(refused("a: *b\n").0, 1);
        assert_eq!(refused("").2, "the file is empty");
        assert_eq!(refused("# only this\n").2, "the file is empty");
        assert!(refused("a: !include x\n").2.contains("not supported"));
        assert!(refused("? [a]\n: b\n").2.contains("must be a text"));
        assert!(refused("a: \"x\\0\"\n").2.contains("NUL"));
    }
}

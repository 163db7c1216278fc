//! What is wrong with a `viking.yml`, where, and what would be right: one value that the CLI prints
//! in full and status shows as one line. Made by the readers and checks of this folder and of `config::file`; filled in
//! with the file's name and the lines around by `VikingFile::parse`. Never has colour.

use std::fmt::Write as _;

/// Longest piece of the file that a message repeats, in characters.
const FOUND_CHARS_MAX: usize = 80;
/// Lines shown before and after the one that is wrong.
const CONTEXT_LINES: u64 = 2;
/// Columns shown of a line: it must fit a terminal beside its number.
const SNIPPET_CHARS_MAX: usize = 96;
/// Columns of a list of allowed words.
const WRAP_CHARS: usize = 96;
/// Longest list of allowed words that still fits the one-line form.
const ALLOWED_INLINE_CHARS_MAX: usize = 120;

/// A place in the file, 1-based, columns counted in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct At {
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) width: u64,
}

impl At {
    /// The line, 1-based.
    pub(crate) fn line(self) -> u64 {
        self.line
    }

    /// The first character of the file.
    pub(super) const START: Self = Self {
        line: 1,
        column: 1,
        width: 1,
    };
}

/// Why a `viking.yml` was refused. `Display` is the whole text for people, several lines long.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.full())]
pub struct Error(Box<Report>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    file: String,
    at: At,
    message: String,
    found: Option<String>,
    allowed: Vec<String>,
    nearest: Option<String>,
    lines: Vec<(u64, String)>,
}

impl Error {
    /// What the file was called when it was parsed.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// Line, 1-based.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.0.at.line
    }

    /// Column, 1-based, in characters.
    #[must_use]
    pub fn column(&self) -> u64 {
        self.0.at.column
    }

    /// What is wrong, without file and line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The word or value that is wrong, when it is one; cut to a printable length.
    #[must_use]
    pub fn found(&self) -> Option<&str> {
        self.0.found.as_deref()
    }

    /// Keys or values that are allowed there.
    #[must_use]
    pub fn allowed(&self) -> &[String] {
        &self.0.allowed
    }

    /// The known word nearest to what was found.
    #[must_use]
    pub fn nearest(&self) -> Option<&str> {
        self.0.nearest.as_deref()
    }

    /// One line for a status reason or a log: place, message, and a hint where it is short.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut line = self.0.head();
        let allowed = self.0.allowed.join(", ");
        let short = allowed.chars().count() <= ALLOWED_INLINE_CHARS_MAX;
        if self.0.nearest.is_none() && !allowed.is_empty() && short {
            line.push_str("; allowed: ");
            line.push_str(&allowed);
        }
        line
    }

    /// An error at a place of the file.
    pub(crate) fn at(at: At, message: impl Into<String>) -> Self {
        Self(Box::new(Report {
            file: String::new(),
            at,
            message: message.into(),
            found: None,
            allowed: Vec::new(),
            nearest: None,
            lines: Vec::new(),
        }))
    }

    /// Adds what was found.
    pub(crate) fn with_found(mut self, found: &str) -> Self {
        self.0.found = Some(cut(found));
        self
    }

    /// Adds what is allowed.
    pub(crate) fn with_allowed<T: Into<String>>(
        mut self,
        allowed: impl IntoIterator<Item = T>,
    ) -> Self {
        self.0.allowed = allowed.into_iter().map(Into::into).collect();
        self
    }

    /// Adds the known word nearest to what was found.
    pub(crate) fn with_nearest(mut self, nearest: Option<&str>) -> Self {
        self.0.nearest = nearest.map(ToOwned::to_owned);
        self
    }

    /// Adds the file's name and the lines around the place.
    pub(crate) fn in_file(mut self, file: &str, text: &str) -> Self {
        self.0.file = file.to_owned();
        let at = self.0.at;
        let first = at.line.saturating_sub(CONTEXT_LINES).max(1);
        let wanted = first..=at.line.saturating_add(CONTEXT_LINES);
        let skip = usize::try_from(first - 1).unwrap_or(usize::MAX);
        self.0.lines = wanted
            .zip(text.lines().skip(skip))
            .map(|(number, line)| (number, window(line, self.0.window_start())))
            .collect();
        self
    }
}

impl Report {
    fn head(&self) -> String {
        let At { line, column, .. } = self.at;
        let mut head = format!("{}:{line}:{column}: {}", self.file, self.message);
        if let Some(nearest) = &self.nearest {
            write!(head, "; did you mean {nearest:?}?").expect("a String takes any text");
        }
        head
    }

    fn full(&self) -> String {
        let mut text = self.head();
        if !self.allowed.is_empty() {
            text.push_str(&wrapped(&self.allowed));
        }
        if !self.lines.is_empty() {
            text.push('\n');
            text.push_str(&self.snippet());
        }
        text
    }

    /// First column shown: the place must be visible also in a very long line.
    fn window_start(&self) -> usize {
        let column = usize::try_from(self.at.column).unwrap_or(usize::MAX);
        if column > SNIPPET_CHARS_MAX - 16 {
            column - SNIPPET_CHARS_MAX / 2
        } else {
            0
        }
    }

    fn snippet(&self) -> String {
        let last = self.lines.last().map_or(0, |(number, _)| *number);
        let digits = last.to_string().len();
        let mut text = String::new();
        for (number, line) in &self.lines {
            let shown = format!("\n  {number:>digits$} | {line}");
            text.push_str(shown.trim_end());
            if *number == self.at.line {
                let pad = " ".repeat(digits);
                write!(text, "\n  {pad} | {}", self.caret(line)).expect("a String takes any text");
            }
        }
        text
    }

    fn caret(&self, line: &str) -> String {
        let column = usize::try_from(self.at.column).unwrap_or(usize::MAX);
        let left = column.saturating_sub(self.window_start() + 1);
        let room = line.chars().count().saturating_sub(left).max(1);
        let width = usize::try_from(self.at.width).unwrap_or(usize::MAX);
        format!("{}{}", " ".repeat(left), "^".repeat(width.clamp(1, room)))
    }
}

/// Cuts a piece of the file to what a message can repeat.
pub(super) fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(FOUND_CHARS_MAX).collect();
    if text.chars().nth(FOUND_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// A line as it can be printed: no control characters, tabs visible, and no longer than a terminal.
fn window(line: &str, start: usize) -> String {
    let shown = line.chars().skip(start).take(SNIPPET_CHARS_MAX);
    shown
        .map(|c| match c {
            '\t' => '→',
            c if c.is_control() => ' ',
            c => c,
        })
        .collect()
}

fn wrapped(allowed: &[String]) -> String {
    let mut text = String::new();
    let mut line = String::from("  allowed: ");
    for (index, word) in allowed.iter().enumerate() {
        if index > 0 && line.chars().count() + word.chars().count() > WRAP_CHARS {
            text.push('\n');
            text.push_str(line.trim_end());
            line = " ".repeat(11);
        }
        line.push_str(word);
        line.push_str(if index + 1 < allowed.len() { ", " } else { "" });
    }
    text.push('\n');
    text.push_str(&line);
    text
}

/// The candidate nearest to `word`, if one is near enough to have been meant.
pub(super) fn nearest<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let word = cut(word).to_lowercase();
    let near = 1 + word.chars().count() / 4;
    candidates
        .into_iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= near)
        .min()
        .map(|(_, candidate)| candidate)
}

fn distance(word: &str, candidate: &str) -> usize {
    // `environment` for `env` and `dom` for `domains` are near although many letters differ.
    let stem = word.len().min(candidate.len()) >= 3;
    if stem && (word.starts_with(candidate) || candidate.starts_with(word)) {
        return 1;
    }
    strsim::osa_distance(word, candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "viking:\n  name: a\ndeploy:\n  web:\n    sclae: 2\n    image: x\n";

    fn error() -> Error {
        let at = At {
            line: 5,
            column: 5,
            width: 5,
        };
        Error::at(at, "unknown key \"sclae\" in deploy.web")
            .with_found("sclae")
            .with_allowed(["image", "scale"])
            .with_nearest(nearest("sclae", ["image", "scale"]))
            .in_file("viking.yml", FILE)
    }

    #[test]
    fn an_error_shows_place_hint_and_lines_around() {
        let want = "viking.yml:5:5: unknown key \"sclae\" in deploy.web; did you mean \"scale\"?
  allowed: image, scale

  3 | deploy:
  4 |   web:
  5 |     sclae: 2
    |     ^^^^^
  6 |     image: x";
        assert_eq!(error().to_string(), want);
    }

    #[test]
    fn the_one_line_form_is_one_line() {
        let line = error().one_line();
        assert!(
            line.ends_with("did you mean \"scale\"?") && !line.contains('\n'),
            "{line}"
        );
        let long = Error::at(At::START, "no").with_allowed(["0 to 1000"]);
        assert_eq!(long.one_line(), ":1:1: no; allowed: 0 to 1000");
    }

    #[test]
    fn the_place_is_visible_in_a_very_long_line() {
        let at = At {
            line: 1,
            column: 5_001,
            width: 3,
        };
        let text = format!("{}bad", "x".repeat(5_000));
        let shown = Error::at(at, "no").in_file("f", &text).to_string();
        assert!(shown.contains("xbad\n"), "{shown}");
        assert!(shown.ends_with("^^^"), "{shown}");
        assert!(shown.lines().all(|l| l.chars().count() < 110), "{shown}");
    }

    #[test]
    fn only_near_words_are_offered() {
        assert_eq!(nearest("volumes", ["volume", "env"]), Some("volume"));
        assert_eq!(nearest("environment", ["volume", "env"]), Some("env"));
        assert_eq!(nearest("privileged", ["volume", "env"]), None);
    }
}

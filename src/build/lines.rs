//! The lines of a Dockerfile as the builder joins them: continuations, comments and the escape
//! directive, with the place of every character in the source. Used by `dockerfile`. Pure; knows no
//! instruction.

use std::ops::Range;

/// One instruction, continuations joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Line of the source it starts on, 1-based.
    pub(super) number: usize,
    /// Its characters, each with its byte offset in the source.
    pub(super) chars: Vec<(usize, char)>,
}

/// A run of characters without white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// The characters.
    pub(super) text: String,
    /// Byte range in the source, continuations inside it included.
    pub(super) at: Range<usize>,
    /// Index of its first character in [`Line::chars`].
    pub(super) first: usize,
}

impl Line {
    /// Its words.
    pub(super) fn words(&self) -> Vec<Word> {
        let mut words: Vec<Word> = Vec::new();
        let mut inside = false;
        for (index, &(offset, c)) in self.chars.iter().enumerate() {
            let end = offset + c.len_utf8();
            match (c.is_whitespace(), inside, words.last_mut()) {
                (true, ..) => inside = false,
                (false, true, Some(word)) => {
                    word.text.push(c);
                    word.at.end = end;
                }
                (false, ..) => {
                    inside = true;
                    words.push(Word {
                        text: c.to_string(),
                        at: offset..end,
                        first: index,
                    });
                }
            }
        }
        words
    }

    /// Everything from the `first` character on, without white space around it.
    pub(super) fn rest(&self, first: usize) -> String {
        let text: String = self.chars.iter().skip(first).map(|&(_, c)| c).collect();
        text.trim().to_owned()
    }
}

/// The escape character and the joined lines; `Err` holds the line and what is wrong with it.
pub(super) fn read(text: &str) -> Result<(char, Vec<Line>), (usize, String)> {
    let escape = directives(text)?;
    Ok((escape, join(text, escape)))
}

/// Parser directives: only at the very top, before any other comment.
fn directives(text: &str) -> Result<char, (usize, String)> {
    let mut escape = None;
    for (index, line) in without_bom(text).lines().enumerate() {
        let Some((key, value)) = line
            .trim()
            .strip_prefix('#')
            .and_then(|comment| comment.split_once('='))
        else {
            break;
        };
        match (key.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("escape", _) if escape.is_some() => {
                return Err((index + 1, "`escape` is set twice".to_owned()));
            }
            ("escape", "\\") => escape = Some('\\'),
            ("escape", "`") => escape = Some('`'),
            ("escape", _) => {
                return Err((index + 1, "`escape` can only be \\ or `".to_owned()));
            }
            // Names a frontend of BuildKit. The classic builder takes it for a comment and so does
            // this reader: what the frontend would add is refused where it is used.
            ("syntax", _) => {}
            _ => break,
        }
    }
    Ok(escape.unwrap_or('\\'))
}

fn without_bom(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn join(text: &str, escape: char) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut open: Option<Line> = None;
    let mut offset = text.len() - without_bom(text).len();
    for (index, raw) in without_bom(text).split_inclusive('\n').enumerate() {
        let start = offset;
        offset += raw.len();
        let line = raw.trim_end_matches(['\n', '\r']);
        // Comments and empty lines vanish, also in the middle of an instruction.
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let (body, goes_on) = continuation(line, escape);
        let target = open.get_or_insert_with(|| Line {
            number: index + 1,
            chars: Vec::new(),
        });
        target
            .chars
            .extend(body.char_indices().map(|(at, c)| (start + at, c)));
        if !goes_on {
            lines.extend(open.take());
        }
    }
    lines.extend(open);
    lines.retain(|line| line.chars.iter().any(|(_, c)| !c.is_whitespace()));
    lines
}

/// A line goes on if it ends with one escape character, perhaps followed by blanks; two are a
/// character of the line.
fn continuation(line: &str, escape: char) -> (&str, bool) {
    let body = line.trim_end_matches([' ', '\t']);
    match body.strip_suffix(escape) {
        Some(before) if !before.ends_with(escape) => (before, true),
        _ => (line, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> Vec<(usize, String)> {
        let (_, lines) = read(text).unwrap();
        lines.iter().map(|l| (l.number, l.rest(0))).collect()
    }

    #[test]
    fn continuations_skip_comments_and_empty_lines() {
        let text = "# c\nFROM a\n\nRUN x \\\n  # not me\n\n  && y\\ \t\r\n z\nRUN w \\\\\nUSER u\\";
        let want = [
            (2, "FROM a"),
            (4, "RUN x   && y z"),
            (9, "RUN w \\\\"),
            (10, "USER u"),
        ];
        let want: Vec<_> = want.iter().map(|(n, t)| (*n, (*t).to_owned())).collect();
        assert_eq!(joined(text), want);
    }

    #[test]
    fn escape_directive_counts_only_at_the_top() {
        assert_eq!(
            joined("# syntax=x\n# escape=`\nRUN a `\nb").first(),
            Some(&(3, "RUN a b".to_owned()))
        );
        assert_eq!(joined("# hello\n# escape=`\nRUN a `\nb").len(), 2);
        assert_eq!(joined("FROM a\n# escape=`\nRUN a `\nb").len(), 3);
        assert!(read("# escape=x\nFROM a").is_err());
        assert!(read("#escape=`\n# escape=`\nFROM a").is_err());
    }

    #[test]
    fn a_word_knows_its_place_across_continuations() {
        let text = "\u{feff}FROM vik\\\ning:a/b";
        let (_, lines) = read(text).unwrap();
        let words = lines[0].words();
        assert_eq!(words[1].text, "viking:a/b");
        assert_eq!(&text[words[1].at.clone()], "vik\\\ning:a/b");
    }
}

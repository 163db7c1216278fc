//! Lines out of other people's bytes: split, cut to a bounded length and freed of terminal codes.
//! Used by the engine's build, pull, push and log streams. Pure; never keeps more than one line.

/// Longest line of a build, pull or push: more is noise in a progress view.
pub const BUILD_LINE_MAX: usize = 4 * 1024;
/// Longest line of a container's log: what Docker's own json-file log splits at.
pub const LOG_LINE_MAX: usize = 16 * 1024;
/// What is put in the place of the rest of a line that was too long.
const CUT: &str = "…";

/// Puts lines together from pieces that end anywhere.
#[derive(Debug)]
pub struct LineSplitter {
    max: usize,
    line: Vec<u8>,
    cut: bool,
}

impl LineSplitter {
    /// Lines of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self {
            max,
            line: Vec::new(),
            cut: false,
        }
    }

    /// The lines that `bytes` completes, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        let mut lines = Vec::new();
        if let Some(first) = pieces.next() {
            self.extend(first);
        }
        for piece in pieces {
            lines.push(self.take());
            self.extend(piece);
        }
        lines
    }

    /// What is left when the stream has ended without a line end.
    pub fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn extend(&mut self, piece: &[u8]) {
        let room = self.max.saturating_sub(self.line.len());
        self.cut |= piece.len() > room;
        self.line.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn take(&mut self) -> String {
        let line = std::mem::take(&mut self.line);
        let mut text = String::from_utf8_lossy(&line).into_owned();
        if text.ends_with('\r') {
            text.pop();
        }
        if std::mem::take(&mut self.cut) {
            text.push_str(CUT);
        }
        text
    }
}

/// The text without terminal codes and other control characters; tabs stay. Of a line that was
/// redrawn with carriage returns the last state stays.
#[must_use]
pub fn plain(text: &str) -> String {
    let text = text
        .rsplit('\r')
        .find(|part| !part.is_empty())
        .unwrap_or("");
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => out.push(c),
            _ if c.is_control() => {}
            _ => out.push(c),
        }
    }
    out
}

/// Skips one escape sequence: CSI up to its final byte, OSC up to BEL or ST, else one character.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| ('\u{40}'..='\u{7e}').contains(c));
        }
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_however_the_pieces_fall() {
        let mut splitter = LineSplitter::new(100);
        assert_eq!(splitter.push(b"one\ntw"), ["one"]);
        assert_eq!(splitter.push(b"o\r\n\nthr"), ["two", ""]);
        assert_eq!(splitter.finish().as_deref(), Some("thr"));
        assert_eq!(splitter.finish(), None);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut splitter = LineSplitter::new(4);
        for _ in 0..1000 {
            assert!(splitter.push(b"abc").is_empty());
        }
        assert_eq!(splitter.push(b"\nnext\n"), ["abca…", "next"]);
    }

    #[test]
    fn terminal_codes_are_stripped() {
        assert_eq!(plain("\u{1b}[91mred\u{1b}[0m\tx\u{7}"), "red\tx");
        assert_eq!(plain("\u{1b}]0;title\u{7}text"), "text");
        assert_eq!(plain("10%\r50%\r100%\r"), "100%");
    }

    #[test]
    fn bytes_that_are_no_text_do_not_stop_the_stream() {
        let mut splitter = LineSplitter::new(100);
        assert_eq!(splitter.push(b"\xff\xfe\n"), ["\u{fffd}\u{fffd}"]);
    }
}

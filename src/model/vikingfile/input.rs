//! Bytes to text that a YAML reader may see: bounded, UTF-8, no control characters, one kind of
//! line end. Called first by `VikingFile::parse`, so that hostile bytes cost nothing more.

use std::borrow::Cow;

use super::error::{At, Error};

/// Largest `viking.yml`, in bytes: a thousand nodes fit, and everything later is bounded by it.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// Checks `bytes` and hands out the text, without byte order mark and carriage returns.
///
/// # Errors
/// Too large, not UTF-8, or not a text. The error has its place but no lines around it.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, Error> {
    if bytes.len() > FILE_BYTES_MAX {
        let message = format!("the file has {} bytes", bytes.len());
        return Err(Error::at(At::START, message)
            .with_allowed([format!("at most {FILE_BYTES_MAX} bytes (256 KiB)")]));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Error::at(At::START, "the file is UTF-16; save it as UTF-8"));
    }
    let bytes = bytes.strip_prefix(UTF8_BOM).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let at = end_of(&String::from_utf8_lossy(good));
        Error::at(at, "the file is not UTF-8 text")
    })?;
    if let Some((before, found)) = find_control(text) {
        let code = u32::from(found);
        let message = format!("control character U+{code:04X}; is this a text file?");
        return Err(Error::at(end_of(before), message));
    }
    Ok(one_line_end(text))
}

/// Lossy text of refused bytes, so that an error can still show the lines around.
pub(super) fn for_people(bytes: &[u8]) -> String {
    if bytes.len() > FILE_BYTES_MAX {
        return String::new();
    }
    let bytes = bytes.strip_prefix(UTF8_BOM).unwrap_or(bytes);
    one_line_end(&String::from_utf8_lossy(bytes)).into_owned()
}

fn one_line_end(text: &str) -> Cow<'_, str> {
    if text.contains('\r') {
        Cow::Owned(text.replace("\r\n", "\n").replace('\r', "\n"))
    } else {
        Cow::Borrowed(text)
    }
}

fn find_control(text: &str) -> Option<(&str, char)> {
    let allowed = ['\t', '\n', '\r', '\u{85}'];
    let (index, found) = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !allowed.contains(c))?;
    Some((text.get(..index)?, found))
}

/// The place just behind `text`.
fn end_of(text: &str) -> At {
    let text = one_line_end(text);
    let lines = text.matches('\n').count() as u64;
    let tail = text.rsplit('\n').next().unwrap_or_default();
    At {
        line: lines + 1,
        column: tail.chars().count() as u64 + 1,
        width: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_with_its_line() {
        for (bytes, line, column) in [
            (&b"a: b\nc: \xff\n"[..], 2, 4),
            (b"a: b\r\n\r\nc:\0", 3, 3),
            (b"\x7fELF\x02", 1, 1),
            (b"\xff\xfea\0", 1, 1),
        ] {
            let error = decode(bytes).unwrap_err();
            assert_eq!((error.line(), error.column()), (line, column), "{bytes:?}");
        }
    }

    #[test]
    fn a_file_of_ten_megabytes_is_refused_unread() {
        let error = decode(&vec![b'#'; 10 << 20]).unwrap_err();
        assert!(error.message().contains("10485760 bytes"));
    }

    #[test]
    fn byte_order_mark_and_carriage_returns_do_not_matter() {
        assert_eq!(decode(b"\xef\xbb\xbfa\r\nb\rc\n").unwrap(), "a\nb\nc\n");
    }
}

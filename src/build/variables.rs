//! Variables in a FROM line: `$X`, `${X}`, `${X:-default}`, `${X:+other}`, `${X:?message}`, as the builder expands
//! them. Used by `dockerfile`. Pure.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

/// `word` with its variables filled in and its quotes taken off; an unknown variable is empty.
///
/// # Errors
/// Says what is malformed.
pub(super) fn expand(
    word: &str,
    values: &BTreeMap<String, String>,
    escape: char,
) -> Result<String, String> {
    let mut out = String::new();
    let mut raw = false;
    let mut rest = word.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' => raw = !raw,
            '"' if !raw => {}
            '$' if !raw => out.push_str(&variable(&mut rest, values, escape)?),
            c if c == escape && !raw => out.extend(rest.next()),
            c => out.push(c),
        }
    }
    Ok(out)
}

fn variable(
    rest: &mut Peekable<Chars<'_>>,
    values: &BTreeMap<String, String>,
    escape: char,
) -> Result<String, String> {
    let braces = rest.next_if_eq(&'{').is_some();
    let mut name = String::new();
    while let Some(c) = rest.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
        name.push(c);
    }
    let value = values.get(&name).cloned().unwrap_or_default();
    if !braces {
        return Ok(if name.is_empty() {
            "$".to_owned()
        } else {
            value
        });
    }
    let inner = until_closed(rest).ok_or_else(|| format!("${{{name} is not closed"))?;
    let other = |text: &str| expand(text, values, escape);
    match (inner.get(..2), name.is_empty()) {
        (_, true) => Err("a variable has no name".to_owned()),
        (None, _) if inner.is_empty() => Ok(value),
        (Some(":-"), _) if value.is_empty() => other(inner.get(2..).unwrap_or("")),
        (Some(":-"), _) => Ok(value),
        (Some(":+"), _) if value.is_empty() => Ok(String::new()),
        (Some(":+"), _) => other(inner.get(2..).unwrap_or("")),
        (Some(":?"), _) if value.is_empty() => match other(inner.get(2..).unwrap_or(""))? {
            message if message.is_empty() => Err(format!("{name} must not be empty")),
            message => Err(format!("{name}: {message}")),
        },
        (Some(":?"), _) => Ok(value),
        _ => Err(format!("${{{name}{inner}}} is not a form of variable")),
    }
}

/// What stands before the closing brace; braces inside come in pairs.
fn until_closed(rest: &mut Peekable<Chars<'_>>) -> Option<String> {
    let mut inner = String::new();
    let mut depth = 0_u32;
    loop {
        match rest.next()? {
            '}' if depth == 0 => return Some(inner),
            c => {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                inner.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_expand_as_the_builder_does() {
        let values = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        let cases = [
            ("a:$A", "a:x"),
            ("${A}y", "xy"),
            ("${B:-d}", "d"),
            ("${A:-d}", "x"),
            ("${A:+o}", "o"),
            ("${B:+o}", ""),
            ("$B", ""),
            ("\"$A\"", "x"),
            ("'$A'", "$A"),
            ("\\$A", "$A"),
            ("${A:?wanted}", "x"),
            ("${B:-$A}", "x"),
            ("${B:-${C:-${A}y}}z", "xyz"),
        ];
        for (word, want) in cases {
            assert_eq!(expand(word, &values, '\\').as_deref(), Ok(want), "{word}");
        }
        assert!(expand("${A", &values, '\\').is_err());
        assert!(expand("${}", &values, '\\').is_err());
        assert!(expand("${A?x}", &values, '\\').is_err());
        let error = |word| expand(word, &values, '\\').unwrap_err();
        assert_eq!(error("${B:?is wanted by $A}"), "B: is wanted by x");
        assert_eq!(error("${B:?}"), "B must not be empty");
    }
}

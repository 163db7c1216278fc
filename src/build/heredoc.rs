//! Here-documents in a Dockerfile. They need BuildKit: the classic builder would take their lines for
//! instructions, or run half a command. Used by `dockerfile`. Pure.

/// Refuses the rest of a RUN, ADD or COPY line that opens a here-document.
pub(super) fn refuse(text: &str) -> Result<(), String> {
    match bare_words(text).find(|word| opens(word)) {
        Some(word) => Err(format!(
            "here-documents ({word}) are not supported by the builder"
        )),
        None => Ok(()),
    }
}

/// Words as a shell splits them, quotes kept.
fn bare_words(text: &str) -> impl Iterator<Item = String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.push(String::new()),
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
        if let Some(word) = words.last_mut().filter(|_| !c.is_whitespace()) {
            word.push(c);
        }
    }
    words.into_iter()
}

fn opens(word: &str) -> bool {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = word.strip_prefix("<<") else {
        return false;
    };
    let name = rest
        .strip_prefix('-')
        .unwrap_or(rest)
        .trim_matches(['"', '\'']);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

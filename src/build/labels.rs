//! Labels of images, as a line of the Dockerfile right behind each FROM. The builder runs one
//! container per label that it is given beside the Dockerfile, at the end of every build; a LABEL line
//! at a stage's beginning is one step for all, and comes from the cache as long as the base stays.
//! Called by `imagebank` with the text that is sent, after it was hashed. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::lines::{self, Line};

/// A Dockerfile with labels.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Labelled {
    /// The text.
    pub(super) text: String,
    /// What the builder must be told beside it.
    pub(super) beside: BTreeMap<String, String>,
}

/// Puts `labels` behind each FROM that names an image; a stage built on an earlier one has them from
/// there. What cannot be put into the text is to be told beside it.
pub(super) fn put(text: String, labels: BTreeMap<String, String>) -> Labelled {
    let (Some(line), Some(places)) = (label_line(&labels), places(&text)) else {
        return Labelled {
            text,
            beside: labels,
        };
    };
    let mut labelled = String::with_capacity(text.len() + places.len() * line.len());
    let mut copied = 0;
    for place in places {
        labelled.push_str(text.get(copied..place).unwrap_or(""));
        labelled.push_str(&line);
        copied = place;
    }
    labelled.push_str(text.get(copied..).unwrap_or(""));
    Labelled {
        text: labelled,
        beside: BTreeMap::new(),
    }
}

/// One instruction for all of them; `None` if one would mean something to the builder's parser.
fn label_line(labels: &BTreeMap<String, String>) -> Option<String> {
    let plain = |text: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !text.is_empty() && text.chars().all(good)
    };
    let all = labels
        .iter()
        .all(|(name, value)| plain(name) && plain(value));
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    (all && !pairs.is_empty()).then(|| format!("LABEL {}\n", pairs.join(" ")))
}

/// Byte offsets where the instruction after such a FROM begins. `None` if a FROM is the last
/// instruction: nothing follows it that a line could stand before.
fn places(text: &str) -> Option<Vec<usize>> {
    let (_, lines) = lines::read(text).ok()?;
    let mut stages = BTreeSet::new();
    let mut places = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some((base, stage)) = from(line) else {
            continue;
        };
        if !stages.contains(&base.to_ascii_lowercase()) {
            places.push(begin(text, lines.get(index + 1)?));
        }
        stages.extend(stage.map(|name| name.to_ascii_lowercase()));
    }
    Some(places)
}

/// Where the line of the source begins on which an instruction begins.
fn begin(text: &str, line: &Line) -> usize {
    let first = line.chars.first().map_or(0, |&(offset, _)| offset);
    let before = text.get(..first).unwrap_or("");
    before.rfind('\n').map_or(0, |newline| newline + 1)
}

/// The base and the name of the stage that a FROM line begins.
fn from(line: &Line) -> Option<(String, Option<String>)> {
    let mut words = line.words().into_iter().map(|word| word.text);
    if !words.next()?.eq_ignore_ascii_case("from") {
        return None;
    }
    let mut rest = words.skip_while(|word| word.starts_with("--"));
    let base = rest.next()?;
    Some((base, rest.nth(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> BTreeMap<String, String> {
        let pairs = [
            ("viking.image.cluster", "c-1"),
            ("viking.image.stack", "shop"),
        ];
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn labelled(text: &str) -> String {
        let labelled = put(text.to_owned(), labels());
        assert_eq!(labelled.beside, BTreeMap::new());
        labelled.text
    }

    const LINE: &str = "LABEL viking.image.cluster=c-1 viking.image.stack=shop\n";

    #[test]
    fn each_base_is_followed_by_one_line_and_the_rest_stays_byte_for_byte() {
        assert_eq!(
            labelled("# c\nFROM a\n\n# d\nADD . /x\r\nRUN y"),
            format!("# c\nFROM a\n\n# d\n{LINE}ADD . /x\r\nRUN y")
        );
        assert_eq!(
            labelled("FROM a AS one\nRUN x\nfrom --platform=p b\n  RUN y\n"),
            format!("FROM a AS one\n{LINE}RUN x\nfrom --platform=p b\n{LINE}  RUN y\n")
        );
    }

    #[test]
    fn a_stage_on_an_earlier_one_has_its_labels_already() {
        let text = format!("FROM a AS One\n{LINE}RUN x\nFROM one\nRUN y\n");
        assert_eq!(
            labelled("FROM a AS One\nRUN x\nFROM one\nRUN y\n"),
            text,
            "stage names compare without case"
        );
    }

    #[test]
    fn a_from_over_several_lines_is_not_torn_apart() {
        assert_eq!(
            labelled("FROM a \\\n # c\n AS b\nRUN \\\n x\n"),
            format!("FROM a \\\n # c\n AS b\n{LINE}RUN \\\n x\n")
        );
    }

    #[test]
    fn what_cannot_stand_in_the_text_is_told_beside_it() {
        for text in ["FROM a", "FROM a\n# only a comment\n", "FROM a \\\n"] {
            let labelled = put(text.to_owned(), labels());
            assert_eq!((labelled.text.as_str(), labelled.beside), (text, labels()));
        }
        let odd: BTreeMap<_, _> = [("a".to_owned(), "$x y".to_owned())].into();
        let labelled = put("FROM a\nRUN x\n".to_owned(), odd.clone());
        assert_eq!(
            (labelled.text.as_str(), labelled.beside),
            ("FROM a\nRUN x\n", odd)
        );
    }
}

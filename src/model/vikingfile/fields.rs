//! Strict reading of one mapping: only known keys, each in one spelling, each value of the kind it
//! must have. Used by `build`, `deploy`, `parts` and `config::file`; knows no meaning of any key.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::error::{At, Error, cut};
use super::keys::Section;
use super::yaml::{Entry, Node, Value};

/// Longest ordinary text, in bytes: longer than any path, name or reference that works.
const TEXT_BYTES_MAX: usize = 4 * 1024;
/// Longest Dockerfile, command word or variable: Linux takes no longer argument than 128 KiB.
const LONG_TEXT_BYTES_MAX: usize = 128 * 1024;

/// A mapping whose keys are all known.
pub(crate) struct Fields<'y> {
    place: String,
    at: At,
    found: BTreeMap<&'static str, &'y Entry>,
}

/// One value, with what errors call it.
pub(crate) struct Field<'y> {
    pub(super) place: String,
    pub(crate) at: At,
    pub(super) node: &'y Node,
}

impl<'y> Fields<'y> {
    /// Reads the mapping that `field` must be, with the keys of `section`.
    pub(crate) fn read(section: &'static Section, field: &Field<'y>) -> Result<Self, Error> {
        let mut found: BTreeMap<&'static str, &Entry> = BTreeMap::new();
        for entry in field.entries()? {
            let Some(key) = section.find(&entry.key) else {
                return Err(unknown_key(section, entry, &field.place));
            };
            if key.later {
                let message = format!("{:?} in {} is not supported yet", key.name, field.place);
                return Err(Error::at(entry.at, message).with_found(&entry.key));
            }
            if let Some(first) = found.insert(key.name, entry) {
                return Err(two_spellings(first, entry, &field.place));
            }
        }
        Ok(Self {
            place: field.place.clone(),
            at: field.at,
            found,
        })
    }

    /// The value of a key, if it is given.
    pub(crate) fn get(&self, name: &str) -> Option<Field<'y>> {
        let entry = self.found.get(name)?;
        let place = if self.place == super::keys::WHOLE {
            entry.key.clone()
        } else {
            format!("{}.{}", self.place, entry.key)
        };
        Some(Field::of(place, entry))
    }

    /// The value of a key that must be given.
    pub(super) fn need(&self, name: &str) -> Result<Field<'y>, Error> {
        self.get(name)
            .ok_or_else(|| Error::at(self.at, format!("{} has no {name:?}", self.place)))
    }
}

fn unknown_key(section: &'static Section, entry: &Entry, place: &str) -> Error {
    let message = format!("unknown key {:?} in {place}", cut(&entry.key));
    Error::at(entry.at, message)
        .with_found(&entry.key)
        .with_allowed(section.allowed())
        .with_nearest(section.nearest(&entry.key))
}

fn two_spellings(first: &Entry, second: &Entry, place: &str) -> Error {
    let message = format!(
        "{:?} in {place} means the same as {:?} in line {}; give one of them",
        second.key, first.key, first.at.line
    );
    Error::at(second.at, message).with_found(&second.key)
}

impl<'y> Field<'y> {
    /// The value of `entry`, called `place`.
    pub(super) fn of(place: String, entry: &'y Entry) -> Self {
        let nothing = entry.value.is_null();
        Self {
            place,
            at: if nothing { entry.at } else { entry.value.at },
            node: &entry.value,
        }
    }

    /// An error about this value: its place, then what is wrong.
    pub(super) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        let error = Error::at(self.at, format!("{}: {what}", self.place));
        match &self.node.value {
            Value::Text { text, .. } if !self.node.is_null() => error.with_found(text),
            _ => error,
        }
    }

    fn wrong_kind(&self, wanted: &str) -> Error {
        self.wrong(format!("{wanted} is needed, this is {}", self.node.kind()))
    }

    /// Text as written, within `max` bytes.
    fn raw(&self, max: usize) -> Result<&'y str, Error> {
        match &self.node.value {
            Value::Text { text, .. } if !self.node.is_null() => {
                if text.len() > max {
                    let what = format!("the text has {} bytes", text.len());
                    return Err(self
                        .wrong(what)
                        .with_allowed([format!("at most {max} bytes")]));
                }
                Ok(text)
            }
            _ => Err(self.wrong_kind("a text")),
        }
    }

    /// A text that may have several lines.
    pub(super) fn long_text(&self) -> Result<&'y str, Error> {
        self.raw(LONG_TEXT_BYTES_MAX)
    }

    /// A text of one line, not empty.
    pub(crate) fn text(&self) -> Result<&'y str, Error> {
        let text = self.raw(TEXT_BYTES_MAX)?;
        if text.trim().is_empty() {
            return Err(self.wrong("the text is empty"));
        }
        if text.chars().any(char::is_control) {
            return Err(self.wrong("the text must be one line without control characters"));
        }
        Ok(text)
    }

    /// A text that `parse` understands; its error says what is wrong with it.
    pub(super) fn parsed<T, E: std::fmt::Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
        allowed: &[&str],
    ) -> Result<T, Error> {
        let hint = |error: Error| error.with_allowed(allowed.iter().copied());
        let text = self.text().map_err(hint)?;
        parse(text).map_err(|what| hint(self.wrong(what)))
    }

    /// `true` or `false`, without quotes.
    pub(crate) fn flag(&self) -> Result<bool, Error> {
        let Value::Text { text, plain: true } = &self.node.value else {
            return Err(self
                .wrong_kind("true or false")
                .with_allowed(["true", "false"]));
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" => Ok(true),
            "false" | "no" | "off" => Ok(false),
            _ => Err(self
                .wrong(format!("{:?} is neither true nor false", cut(text)))
                .with_allowed(["true", "false"])),
        }
    }

    /// A whole number within `range`, without quotes.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, Error> {
        let allowed = format!("whole numbers from {} to {}", range.start(), range.end());
        let Value::Text { text, plain } = &self.node.value else {
            return Err(self.wrong_kind("a number").with_allowed([allowed]));
        };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|n| range.contains(n));
        match number {
            Some(number) if digits && *plain => Ok(number),
            Some(_) if digits => Err(self.wrong("write the number without quotes")),
            _ => {
                let what = format!("{:?} is not allowed", cut(text));
                Err(self.wrong(what).with_allowed([allowed]))
            }
        }
    }

    /// The items of a list of at most `max`.
    pub(super) fn list(&self, max: usize) -> Result<Vec<Self>, Error> {
        let Value::List(items) = &self.node.value else {
            let error = self.wrong_kind("a list");
            return Err(match &self.node.value {
                Value::Text { text, .. } if !self.node.is_null() => {
                    error.with_allowed([format!("[{}]", cut(text))])
                }
                _ => error,
            });
        };
        self.within(items.len(), max)?;
        Ok(items.iter().map(|node| self.item(node)).collect())
    }

    /// The items of a list, or the one text that stands for a list of one.
    pub(crate) fn one_or_many(&self, max: usize) -> Result<Vec<Self>, Error> {
        match &self.node.value {
            Value::Text { .. } if !self.node.is_null() => Ok(vec![self.item(self.node)]),
            Value::Text { .. } | Value::Map(_) => Err(self.wrong_kind("a text or a list")),
            Value::List(_) => self.list(max),
        }
    }

    /// The entries of a mapping of any keys, at most `max`.
    pub(super) fn map(&self, max: usize) -> Result<Vec<(&'y Entry, Self)>, Error> {
        let entries = self.entries()?;
        self.within(entries.len(), max)?;
        let field = |entry: &'y Entry| {
            let place = format!("{}.{}", self.place, cut(&entry.key));
            (entry, Field::of(place, entry))
        };
        Ok(entries.iter().map(field).collect())
    }

    fn entries(&self) -> Result<&'y [Entry], Error> {
        match &self.node.value {
            Value::Map(entries) => Ok(entries),
            _ => Err(self.wrong_kind("a mapping")),
        }
    }

    fn within(&self, len: usize, max: usize) -> Result<(), Error> {
        if len > max {
            let what = format!("{len} entries are too many");
            return Err(self.wrong(what).with_allowed([format!("at most {max}")]));
        }
        Ok(())
    }

    fn item(&self, node: &'y Node) -> Self {
        Field {
            place: self.place.clone(),
            at: node.at,
            node,
        }
    }
}

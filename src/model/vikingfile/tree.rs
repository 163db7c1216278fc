//! Parser events to a tree: puts nodes where they belong, expands aliases and merges within bounds,
//! and refuses duplicate keys. The inner half of `yaml`; nothing else calls it.

use std::collections::BTreeMap;

use serde_yaml::granit_parser::{Event, ScalarStyle, Span};

use super::error::{At, Error, cut};
use super::yaml::{DEPTH_MAX, Entry, Node, Value, place, too_deep};

/// Nodes and bytes of text after aliases are expanded: four times the largest file.
const EXPANDED_MAX: usize = 1024 * 1024;
/// Keys longer than this are no keys of ours; also the limit of YAML's simple keys.
const KEY_BYTES_MAX: usize = 1024;

/// A collection that is still open.
struct Open {
    at: At,
    anchor: usize,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    Map(OpenMap),
}

#[derive(Default)]
struct OpenMap {
    entries: Vec<Entry>,
    seen: BTreeMap<String, u64>,
    key: Option<(String, At)>,
    merges: Vec<Node>,
}

impl OpenMap {
    fn close(mut self) -> Value {
        // Keys written here win over merged ones, earlier merged ones over later.
        for source in std::mem::take(&mut self.merges) {
            self.merge(source);
        }
        Value::Map(self.entries)
    }

    fn merge(&mut self, source: Node) {
        match source.value {
            Value::List(items) => items.into_iter().for_each(|item| self.merge(item)),
            Value::Map(entries) => {
                for entry in entries {
                    if !self.seen.contains_key(&entry.key) {
                        self.seen.insert(entry.key.clone(), entry.at.line);
                        self.entries.push(entry);
                    }
                }
            }
            Value::Text { .. } => {}
        }
    }
}

/// The tree while it grows.
pub(super) struct Tree<'t> {
    text: &'t str,
    documents: usize,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    weight: usize,
    pub(super) root: Option<Node>,
}

impl<'t> Tree<'t> {
    /// An empty tree; `text` is what the spans of its events point into.
    pub(super) fn of(text: &'t str) -> Self {
        Self {
            text,
            documents: 0,
            open: Vec::new(),
            anchors: BTreeMap::new(),
            weight: 0,
            root: None,
        }
    }

    /// Takes the next event.
    pub(super) fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Error> {
        let at = place(span);
        match event {
            Event::DocumentStart(..) => self.document(at),
            Event::Scalar(text, style, anchor, _) => {
                let node = self.scalar(text.into_owned(), style, span)?;
                self.put(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.start(span, anchor, Body::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                self.start(span, anchor, Body::Map(OpenMap::default()))
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn document(&mut self, at: At) -> Result<(), Error> {
        self.documents += 1;
        if self.documents > 1 {
            return Err(
                Error::at(at, "a second YAML document begins here").with_allowed(["one document"])
            );
        }
        Ok(())
    }

    fn scalar(&mut self, text: String, style: ScalarStyle, span: &Span) -> Result<Node, Error> {
        let plain = style == ScalarStyle::Plain;
        let node = |text, plain, at| Node {
            at,
            value: Value::Text { text, plain },
        };
        let Some((tag, at)) = self.tag(span) else {
            if text.contains('\0') {
                return Err(Error::at(place(span), "the text holds a NUL character"));
            }
            return Ok(node(text, plain, place(span)));
        };
        match tag {
            "!!str" if !text.contains('\0') => Ok(node(text, false, place(span))),
            // `filter: !ssd` is a tag to YAML; what was meant is the text.
            local if text.is_empty() && plain && !local.starts_with("!!") => {
                Ok(node(local.to_owned(), true, at))
            }
            _ => Err(unknown_tag(tag, at)),
        }
    }

    fn tag(&self, span: &Span) -> Option<(&'t str, At)> {
        let tag = span.tag_span()?;
        Some((tag.slice(self.text)?, place(&tag)))
    }

    fn start(&mut self, span: &Span, anchor: usize, body: Body) -> Result<(), Error> {
        if let Some((tag, at)) = self.tag(span) {
            return Err(unknown_tag(tag, at));
        }
        let at = place(span);
        if self.open.len() >= DEPTH_MAX {
            return Err(too_deep(at));
        }
        self.open.push(Open { at, anchor, body });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Error> {
        let Some(Open { at, anchor, body }) = self.open.pop() else {
            return Ok(());
        };
        let value = match body {
            Body::List(items) => Value::List(items),
            Body::Map(map) => map.close(),
        };
        self.put(Node { at, value }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: At) -> Result<(), Error> {
        // Only finished nodes are kept, so a node that holds itself is not found.
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Error::at(at, "the alias refers to a value that holds it"));
        };
        let (weight, depth) = node.measure();
        if self.open.len() + depth > DEPTH_MAX {
            return Err(too_deep(at));
        }
        self.charge(weight, at)?;
        let node = self.anchors.get(&anchor).cloned();
        node.map_or(Ok(()), |node| self.put(node, 0))
    }

    /// Counts before anything is copied: the file bounds itself, aliases do not.
    fn charge(&mut self, weight: usize, at: At) -> Result<(), Error> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight > EXPANDED_MAX {
            return Err(Error::at(at, "the aliases expand to too much text")
                .with_allowed([format!("at most {EXPANDED_MAX} bytes")]));
        }
        Ok(())
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Error> {
        if anchor != 0 {
            self.charge(node.measure().0, node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        let path = || path(&self.open);
        let Some(open) = self.open.last() else {
            self.root = Some(node);
            return Ok(());
        };
        let fault = match &open.body {
            Body::Map(map) if map.key.is_none() => wrong_key(&node, map, path),
            Body::Map(map) => wrong_merge(&node, map),
            Body::List(_) => None,
        };
        if let Some(error) = fault {
            return Err(error);
        }
        if let Some(open) = self.open.last_mut() {
            open.add(node);
        }
        Ok(())
    }
}

impl Open {
    fn add(&mut self, node: Node) {
        match &mut self.body {
            Body::List(items) => items.push(node),
            Body::Map(map) => match (map.key.take(), node) {
                (Some((key, _)), value) if key == "<<" => map.merges.push(value),
                (Some((key, at)), value) => map.entries.push(Entry { key, at, value }),
                (None, Node { at, value }) => {
                    if let Value::Text { text, .. } = value {
                        map.seen.insert(text.clone(), at.line);
                        map.key = Some((text, at));
                    }
                }
            },
        }
    }
}

fn wrong_key(node: &Node, map: &OpenMap, path: impl FnOnce() -> String) -> Option<Error> {
    let Value::Text { text, .. } = &node.value else {
        let message = format!("a key must be a text, this is {}", node.kind());
        return Some(Error::at(node.at, message));
    };
    if text.len() > KEY_BYTES_MAX {
        let message = format!("the key {:?} is too long", cut(text));
        return Some(Error::at(node.at, message));
    }
    let first = map.seen.get(text)?;
    let path = path();
    let message = format!(
        "key {:?} is given twice in {path}, first in line {first}",
        cut(text)
    );
    Some(Error::at(node.at, message).with_found(text))
}

fn wrong_merge(node: &Node, map: &OpenMap) -> Option<Error> {
    let (key, at) = map.key.as_ref()?;
    let good = match &node.value {
        Value::Map(_) => true,
        Value::List(items) => items.iter().all(|i| matches!(i.value, Value::Map(_))),
        Value::Text { .. } => false,
    };
    (key == "<<" && !good).then(|| {
        Error::at(
            *at,
            format!("'<<' takes a mapping to merge, this is {}", node.kind()),
        )
    })
}

fn unknown_tag(tag: &str, at: At) -> Error {
    let message = format!(
        "YAML tag {:?} is not supported; quote a text that starts with '!'",
        cut(tag)
    );
    Error::at(at, message).with_found(tag)
}

fn path(open: &[Open]) -> String {
    let keys: Vec<String> = open
        .iter()
        .filter_map(|open| match &open.body {
            Body::Map(map) => map.key.as_ref().map(|(key, _)| cut(key)),
            Body::List(_) => None,
        })
        .collect();
    if keys.is_empty() {
        "the file".to_owned()
    } else {
        keys.join(".")
    }
}

//! In which order images are built: parents first, else as in the file. Called by `build`. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::names::{ImageName, StackName};
use crate::model::vikingfile::BuildEntry;

/// Why no order exists. The commit's own fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (viking.yml line {line})")]
pub struct OrderError {
    /// The image to look at.
    pub image: ImageName,
    /// Its line in `viking.yml`.
    pub line: u64,
    /// Names the chain.
    pub reason: String,
}

/// The images of `entries`, parents before children, stable by file order. `parents` holds, for each
/// image, the images it is built from or copies from.
///
/// # Errors
/// A cycle, or a parent in this stack that `build:` does not have.
pub fn order(
    stack: &StackName,
    entries: &[BuildEntry],
    parents: &BTreeMap<ImageName, Vec<(StackName, ImageName)>>,
) -> Result<Vec<ImageName>, OrderError> {
    let known: BTreeSet<&ImageName> = entries.iter().map(|entry| &entry.name).collect();
    let own = |name: &ImageName| own_parents(stack, name, parents);
    for entry in entries {
        if let Some(missing) = own(&entry.name).find(|parent| !known.contains(parent)) {
            return Err(missing_parent(stack, entry, missing, &known));
        }
    }
    let mut done: BTreeSet<&ImageName> = BTreeSet::new();
    let mut sorted = Vec::with_capacity(entries.len());
    while sorted.len() < entries.len() {
        let next = entries.iter().find(|entry| {
            !done.contains(&entry.name) && own(&entry.name).all(|parent| done.contains(parent))
        });
        let Some(entry) = next else {
            return Err(cycle(stack, entries, parents, &done));
        };
        done.insert(&entry.name);
        sorted.push(entry.name.clone());
    }
    Ok(sorted)
}

/// The parents of `name` in its own stack.
pub(super) fn own_parents<'a>(
    stack: &'a StackName,
    name: &ImageName,
    parents: &'a BTreeMap<ImageName, Vec<(StackName, ImageName)>>,
) -> impl Iterator<Item = &'a ImageName> + use<'a> {
    parents
        .get(name)
        .into_iter()
        .flatten()
        .filter(move |(of, _)| of == stack)
        .map(|(_, image)| image)
}

fn missing_parent(
    stack: &StackName,
    entry: &BuildEntry,
    missing: &ImageName,
    known: &BTreeSet<&ImageName>,
) -> OrderError {
    let near = known
        .iter()
        .filter(|name| strsim::damerau_levenshtein(name.as_str(), missing.as_str()) <= 2)
        .min_by_key(|name| strsim::damerau_levenshtein(name.as_str(), missing.as_str()))
        .map(|name| format!("; did you mean viking:{stack}/{name}?"));
    OrderError {
        image: entry.name.clone(),
        line: entry.line,
        reason: format!(
            "{} → {missing}: build: has no image {missing}{}",
            entry.name,
            near.unwrap_or_default()
        ),
    }
}

/// Follows parents that are not done from the first such image until one comes again.
fn cycle(
    stack: &StackName,
    entries: &[BuildEntry],
    parents: &BTreeMap<ImageName, Vec<(StackName, ImageName)>>,
    done: &BTreeSet<&ImageName>,
) -> OrderError {
    let start = entries
        .iter()
        .map(|entry| &entry.name)
        .find(|name| !done.contains(name))
        .expect("called only while images are left");
    let mut chain: Vec<&ImageName> = Vec::new();
    let mut at = start;
    while !chain.contains(&at) {
        chain.push(at);
        at = own_parents(stack, at, parents)
            .find(|parent| !done.contains(parent))
            .expect("an image is left only because a parent is");
    }
    // What leads into the circle is not part of it.
    let chain: Vec<&str> = chain
        .into_iter()
        .skip_while(|name| *name != at)
        .chain([at])
        .map(ImageName::as_str)
        .collect();
    let line = entries.iter().find(|entry| &entry.name == at);
    OrderError {
        image: at.clone(),
        line: line.map_or(0, |entry| entry.line),
        reason: format!("images are built from each other: {}", chain.join(" → ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vikingfile::DockerfileSource;

    fn try_order(graph: &[(&str, &[&str])]) -> Result<Vec<String>, OrderError> {
        let stack = StackName::parse("s").unwrap();
        let image = |name: &str| ImageName::parse(name).unwrap();
        let entries: Vec<BuildEntry> = graph
            .iter()
            .enumerate()
            .map(|(index, (name, _))| BuildEntry {
                name: image(name),
                line: index as u64 + 1,
                dockerfile: DockerfileSource::Text(String::new()),
                context: String::new(),
                target: None,
                args: BTreeMap::new(),
                platform: None,
            })
            .collect();
        let parents = graph
            .iter()
            .map(|(name, parents)| {
                let parents = parents.iter().map(|p| match p.split_once('/') {
                    Some((of, name)) => (StackName::parse(of).unwrap(), image(name)),
                    None => (stack.clone(), image(p)),
                });
                (image(name), parents.collect())
            })
            .collect();
        order(&stack, &entries, &parents)
            .map(|names| names.iter().map(|n| n.as_str().to_owned()).collect())
    }

    #[test]
    fn parents_come_first_and_file_order_decides_the_rest() {
        let graph: &[(&str, &[&str])] = &[
            ("z", &[]),
            ("web", &["src", "other/base"]),
            ("a", &[]),
            ("src", &["base"]),
            ("base", &[]),
        ];
        assert_eq!(try_order(graph).unwrap(), ["z", "a", "base", "src", "web"]);
    }

    #[test]
    fn a_cycle_names_its_chain_and_nothing_else() {
        let error =
            try_order(&[("x", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "images are built from each other: a → b → c → a (viking.yml line 2)"
        );
        let own = try_order(&[("x", &["x"])]).unwrap_err();
        assert!(own.reason.ends_with("x → x"), "{own}");
    }

    #[test]
    fn a_missing_parent_names_the_line_and_a_near_name() {
        let error = try_order(&[("base", &[]), ("web", &["bose"])]).unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.reason.contains("web → bose"), "{error}");
        assert!(
            error.reason.contains("did you mean viking:s/base"),
            "{error}"
        );
    }
}

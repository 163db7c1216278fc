//! `viking.yml`: parsed into strict types, or refused with file, line, column, what was found and
//! what is allowed. Called by `leader` for each commit and by the CLI. Pure.
//!
//! `input` bounds the bytes, `yaml` (with `tree`) makes a tree with places, `fields` and `keys` read mappings
//! strictly, `build` and `deploy` (with `parts`, `words`, `size`) give the entries their types, and
//! `check` compares them with one another.

mod build;
mod check;
mod deploy;
mod error;
mod fields;
mod input;
mod keys;
mod parts;
mod size;
#[cfg(test)]
mod tests;
mod tree;
mod words;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};

use super::env::VarRef;
use super::names::{ImageName, NodeName, StackName};
use super::release::{Domain, Filter, NodeKind};
use super::spec::{Settings, StopPolicy};

pub use build::IMAGES_MAX;
pub use deploy::{NODES_MAX, PORTS_MAX, SCALE_MAX};
pub(crate) use error::At;
pub use error::Error;
pub(crate) use fields::{Field, Fields};
pub use input::FILE_BYTES_MAX;
pub use keys::{Key, Section, known_keys};
pub(crate) use keys::{WHOLE, key};
pub(crate) use size::{CPU_ALLOWED, MEMORY_ALLOWED, cpu_millis, memory_bytes};
pub(crate) use words::host_tag;
pub use words::link_variable;

/// Longest comment, in bytes: it is shown in one line.
const COMMENT_BYTES_MAX: usize = 500;

/// Stacks that one may require.
const REQUIRE_MAX: usize = 64;

impl VikingFile {
    /// Parses a whole file; errors call it `file_name`.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place and what would be right.
    pub fn parse(file_name: &str, text: &[u8]) -> Result<Self, Error> {
        let decoded = input::decode(text)
            .map_err(|error| error.in_file(file_name, &input::for_people(text)))?;
        Self::parse_text(&decoded).map_err(|error| error.in_file(file_name, &decoded))
    }

    fn parse_text(text: &str) -> Result<Self, Error> {
        let root = yaml::read(text)?;
        let fields = Fields::read(
            &keys::TOP,
            &Field {
                place: keys::TOP.name.to_owned(),
                at: At::START,
                node: &root,
            },
        )?;
        let (stack, comment, require) = identity(&fields.need("viking")?)?;
        let build = match fields.get("build") {
            Some(field) => build::read(&field)?,
            None => Vec::new(),
        };
        let drafts = match fields.get("deploy") {
            Some(field) => deploy::read(&field, &stack)?,
            None => Vec::new(),
        };
        check::all(&stack, &build, &drafts)?;
        Ok(Self {
            stack,
            comment,
            require,
            build,
            deploy: drafts.into_iter().map(|draft| draft.node).collect(),
        })
    }
}

/// Reads another file of ours as strictly as `viking.yml`: `section` holds its top keys and is called
/// [`WHOLE`]. None when nothing is written in it.
///
/// # Errors
/// The first thing that is wrong, with its place and what would be right.
pub(crate) fn read_strictly<T>(
    file_name: &str,
    text: &[u8],
    section: &'static Section,
    read: impl FnOnce(&Fields<'_>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    let decoded =
        input::decode(text).map_err(|error| error.in_file(file_name, &input::for_people(text)))?;
    let whole = || {
        let Some(root) = yaml::read_any(&decoded)? else {
            return Ok(None);
        };
        let field = Field {
            place: section.name.to_owned(),
            at: At::START,
            node: &root,
        };
        read(&Fields::read(section, &field)?).map(Some)
    };
    whole().map_err(|error: Error| error.in_file(file_name, &decoded))
}

type Identity = (StackName, Option<String>, BTreeSet<StackName>);

fn identity(field: &Field<'_>) -> Result<Identity, Error> {
    let fields = Fields::read(&keys::VIKING, field)?;
    let name = fields.need("name")?;
    let stack = name.parsed(StackName::parse, &[])?;
    if stack == StackName::core() {
        return Err(name.wrong("\"core\" is reserved for viking's own stack"));
    }
    let require = match fields.get("require") {
        Some(field) => require(&field, &stack)?,
        None => BTreeSet::new(),
    };
    let Some(comment) = fields.get("comment") else {
        return Ok((stack, None, require));
    };
    let text = comment
        .long_text()?
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if text.len() > COMMENT_BYTES_MAX {
        return Err(comment
            .wrong("the comment is too long")
            .with_allowed([format!("at most {COMMENT_BYTES_MAX} bytes")]));
    }
    Ok((stack, Some(text).filter(|text| !text.is_empty()), require))
}

fn require(field: &Field<'_>, own: &StackName) -> Result<BTreeSet<StackName>, Error> {
    let mut required = BTreeSet::new();
    for item in field.one_or_many(REQUIRE_MAX)? {
        let stack = item.parsed(StackName::parse, &["names of stacks"])?;
        if stack == *own {
            return Err(item.wrong("a stack cannot require itself"));
        }
        if !required.insert(stack) {
            return Err(item.wrong("the stack is given twice"));
        }
    }
    Ok(required)
}

/// A whole `viking.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VikingFile {
    /// The stack's name.
    pub stack: StackName,
    /// For people.
    pub comment: Option<String>,
    /// Stacks that must be live before a release of this one is staged.
    pub require: BTreeSet<StackName>,
    /// Images, in file order.
    pub build: Vec<BuildEntry>,
    /// Nodes, in file order.
    pub deploy: Vec<DeployNode>,
}

/// One image to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildEntry {
    /// Its name.
    pub name: ImageName,
    /// Line in `viking.yml`, 1-based, for errors found later.
    pub line: u64,
    /// Its Dockerfile.
    pub dockerfile: DockerfileSource,
    /// Folder of the commit, relative to `viking.yml`'s; empty for that folder itself.
    pub context: String,
    /// Stage of a multi-stage file.
    pub target: Option<String>,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// `linux/amd64`, …
    pub platform: Option<String>,
}

/// Where a Dockerfile's text is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerfileSource {
    /// In `viking.yml`.
    Text(String),
    /// A file of the commit, relative to the context.
    File(String),
}

/// What `image:` of a node says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageText {
    /// `viking:<stack>/<image>`
    Viking {
        /// Stack.
        stack: StackName,
        /// Image.
        image: ImageName,
    },
    /// Anything else, as written.
    External(String),
}

/// One entry under `deploy:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployNode {
    /// Its name.
    pub name: NodeName,
    /// Line in `viking.yml`, 1-based, for errors found later.
    pub line: u64,
    /// Container or website.
    pub kind: NodeKind,
    /// The image; always there for a container, never for a website.
    pub image: Option<ImageText>,
    /// What makes the container, but the image and what is shared.
    pub settings: Settings,
    /// Environment variables whose value names a shared one (`_scope:VAR`).
    pub shared: BTreeMap<String, VarRef>,
    /// Copies.
    pub scale: u32,
    /// Domains.
    pub domains: Vec<Domain>,
    /// Host tags.
    pub filter: Vec<Filter>,
    /// `spread: required`.
    pub spread_required: bool,
    /// How its jobs are stopped.
    pub stop: StopPolicy,
    /// Promise 3.
    pub service: bool,
    /// Pinned without a volume.
    pub fixed: bool,
    /// Command in exec form, run once on the new image before a release that changes the node starts.
    pub before_release: Option<Vec<String>>,
}

//! The `build:` section: images in file order. Called by `VikingFile::parse`. The Dockerfile's
//! lines are read by the build stage, not here.

use std::collections::BTreeMap;

use super::super::names::ImageName;
use super::error::{At, Error, cut};
use super::fields::{Field, Fields};
use super::keys;
use super::words;
use super::yaml::Value;
use super::{BuildEntry, DockerfileSource};

/// Images of one stack: each is a repository and a build step.
pub const IMAGES_MAX: usize = 200;
/// Build arguments of one image.
const ARGS_MAX: usize = 256;
/// The file that is meant when none is named.
const DOCKERFILE_DEFAULT: &str = "Dockerfile";

/// Reads all images; nothing written means none.
pub(super) fn read(field: &Field<'_>) -> Result<Vec<BuildEntry>, Error> {
    if field.node.is_null() {
        return Ok(Vec::new());
    }
    let images = field.map(IMAGES_MAX)?;
    images
        .iter()
        .map(|(entry, field)| {
            let name = ImageName::parse(&entry.key)
                .map_err(|e| Error::at(entry.at, e.to_string()).with_found(&entry.key))?;
            image(name, entry.at, field)
        })
        .collect()
}

fn image(name: ImageName, at: At, field: &Field<'_>) -> Result<BuildEntry, Error> {
    let line = at.line;
    match &field.node.value {
        Value::Map(_) => from_map(name, line, field),
        Value::Text { .. } if !field.node.is_null() => Ok(BuildEntry {
            name,
            line,
            dockerfile: DockerfileSource::Text(text_of(field)?),
            context: String::new(),
            target: None,
            args: BTreeMap::new(),
            platform: None,
        }),
        Value::Text { .. } | Value::List(_) => Err(field.wrong(format!(
            "a Dockerfile's text or a mapping is needed, this is {}",
            field.node.kind()
        ))),
    }
}

fn text_of(field: &Field<'_>) -> Result<String, Error> {
    let text = field.long_text()?;
    if text.trim().is_empty() {
        return Err(field.wrong("the Dockerfile is empty"));
    }
    if !text.trim().contains(char::is_whitespace) {
        // One word is no Dockerfile, so a file was meant.
        let what = format!("{:?} is not the text of a Dockerfile", cut(text));
        let allowed = format!("{{dockerfile: {}}} for a file", cut(text.trim()));
        return Err(field.wrong(what).with_allowed([allowed]));
    }
    Ok(text.to_owned())
}

fn from_map(name: ImageName, line: u64, field: &Field<'_>) -> Result<BuildEntry, Error> {
    let fields = Fields::read(&keys::BUILD, field)?;
    let dockerfile = match fields.get("dockerfile") {
        Some(field) => dockerfile(&field)?,
        None => DockerfileSource::File(DOCKERFILE_DEFAULT.to_owned()),
    };
    let context = fields
        .get("context")
        .map(|f| f.parsed(words::relative, &["folders beside viking.yml"]))
        .transpose()?;
    let target = fields.get("target").map(|f| stage(&f)).transpose()?;
    let args = fields.get("args").map(|f| args(&f)).transpose()?;
    let platform = fields
        .get("platform")
        .map(|f| f.parsed(words::platform, &["linux/amd64", "linux/arm64", "…"]))
        .transpose()?;
    Ok(BuildEntry {
        name,
        line,
        dockerfile,
        context: context.unwrap_or_default(),
        target,
        args: args.unwrap_or_default(),
        platform,
    })
}

/// Several lines, or one that begins with an instruction, are a text; all else is a path.
fn dockerfile(field: &Field<'_>) -> Result<DockerfileSource, Error> {
    let text = field.long_text()?;
    let first = text.split_whitespace().next().unwrap_or_default();
    let instruction = ["FROM", "ARG"]
        .iter()
        .any(|i| i.eq_ignore_ascii_case(first));
    if text.trim_end().contains('\n') || (instruction && text.trim().contains(' ')) {
        return Ok(DockerfileSource::Text(text_of(field)?));
    }
    let path = field.parsed(|t| words::relative(t.trim_end()), &["paths in the context"])?;
    if path.is_empty() {
        return Err(field.wrong("a folder is not a Dockerfile"));
    }
    Ok(DockerfileSource::File(path))
}

fn stage(field: &Field<'_>) -> Result<String, Error> {
    let text = field.text()?;
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if text.bytes().all(good) && !text.starts_with(['-', '.']) {
        return Ok(text.to_owned());
    }
    Err(field.wrong(format!("{:?} is not the name of a stage", cut(text))))
}

fn args(field: &Field<'_>) -> Result<BTreeMap<String, String>, Error> {
    let mut args = BTreeMap::new();
    for (entry, value) in field.map(ARGS_MAX)? {
        if !words::variable(&entry.key) {
            let message = format!("{}: {:?} is not a name", field.place, cut(&entry.key));
            return Err(Error::at(entry.at, message).with_found(&entry.key));
        }
        args.insert(entry.key.clone(), value.long_text()?.to_owned());
    }
    Ok(args)
}

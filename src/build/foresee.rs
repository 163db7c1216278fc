//! What a build would do, without doing it: which images are there already, which must be built and
//! why. Decides by the very hashes that `imagebank` goes by; asks no engine and no registry. Called by
//! `foretell`.

use std::collections::{BTreeMap, BTreeSet};

use super::context::{self, Context, input_hash, made_of};
use super::prepare::{Prepared, prepare};
use super::reach::Reach;
use super::site;
use super::{ADDRESS_HASHED, Error, OtherStacks, Parents, resolve};
use crate::model::names::{ImageName, StackName};
use crate::model::release::ImageRecord;
use crate::model::tree::Tree;
use crate::model::vikingfile::VikingFile;

/// Changed files that are named.
const FILES_NAMED: usize = 3;

/// What must be known.
pub struct Forecast<'a> {
    /// The stack.
    pub stack: &'a StackName,
    /// What the commit says.
    pub file: &'a VikingFile,
    /// Its files.
    pub tree: &'a Tree,
    /// Records of live and recent releases, the best to reuse first.
    pub previous: &'a BTreeMap<ImageName, Vec<ImageRecord>>,
    /// Live images of other stacks.
    pub other_stacks: OtherStacks<'a>,
    /// The files of what is live, if they are at hand: only to name those that changed.
    pub before: Option<&'a Tree>,
}

/// What becomes of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Foreseen {
    /// The image.
    pub image: ImageName,
    /// Whether it must be built.
    pub fate: Fate,
}

/// Whether an image must be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// This one is used again.
    Reused(Box<ImageRecord>),
    /// It is built; why, in words.
    Built(String),
}

/// What becomes of each image, parents first. Of bases in other registries it is assumed that they are
/// what they were. Blocking: reads Dockerfiles and links.
///
/// # Errors
/// The mistakes that [`super::check`] finds, and a parent of another stack that is not live.
pub fn foresee(forecast: &Forecast<'_>) -> Result<Vec<Foreseen>, Error> {
    let prepared = prepare(forecast.stack, &forecast.file.build, forecast.tree)?;
    let mut found = BTreeMap::new();
    let mut all = Vec::with_capacity(prepared.len());
    for image in &prepared {
        let fate = forecast.one(image, &found)?;
        if let Fate::Reused(record) = &fate {
            found.insert(image.entry.name.clone(), ImageRecord::clone(record));
        }
        all.push(Foreseen {
            image: image.entry.name.clone(),
            fate,
        });
    }
    for site in site::read(forecast.file, forecast.tree)? {
        let fate = match site.known(forecast.previous) {
            Some(record) => Fate::Reused(Box::new(record.clone())),
            None if forecast.previous.contains_key(&site.image) => {
                Fate::Built("its files changed".to_owned())
            }
            None => Fate::Built("it was never built".to_owned()),
        };
        let image = site.image;
        all.push(Foreseen { image, fate });
    }
    Ok(all)
}

impl Forecast<'_> {
    fn one(
        &self,
        image: &Prepared,
        found: &BTreeMap<ImageName, ImageRecord>,
    ) -> Result<Fate, Error> {
        let name = &image.entry.name;
        if let Some(parent) = image.parents.iter().find(|p| !found.contains_key(*p)) {
            return Ok(Fate::Built(format!(
                "it is built on {parent}, which is built"
            )));
        }
        let parents = Parents {
            stack: self.stack,
            other_stacks: self.other_stacks,
        };
        let text = resolve(&parents, image, found, ADDRESS_HASHED)?;
        let inputs = image.inputs(&text);
        let known = self.previous.get(name).map_or(&[][..], Vec::as_slice);
        let own = image.dockerfile.reach();
        let same = |context: &Context| {
            let input = input_hash(&inputs, context);
            let record = known.iter().find(|record| record.input == input);
            record.map(|record| Fate::Reused(Box::new(record.clone())))
        };
        let context = self.context(image, self.tree, own)?;
        if let Some(reused) = same(&context) {
            return Ok(reused);
        }
        // Whether a base's ONBUILD lines read the context, the engine knows; a record made so does.
        let everything = self.context(image, self.tree, &Reach::everything())?;
        if let Some(reused) = same(&everything) {
            return Ok(reused);
        }
        let Some(last) = known.first() else {
            return Ok(Fate::Built("it was never built".to_owned()));
        };
        let now = made_of(&inputs, &context);
        let mut differs = Vec::new();
        let before = last.made_of.as_ref();
        if before.is_some_and(|before| before.dockerfile != now.dockerfile) {
            differs.push("its Dockerfile, or an image that it names, changed".to_owned());
        }
        if before.is_some_and(|before| before.settings != now.settings) {
            differs.push("its args, target or platform changed".to_owned());
        }
        let other_files = before.is_none_or(|before| before.files != now.files);
        if other_files && let Some(files) = self.changed_files(image, own, &context) {
            differs.push(files);
        } else if before.is_some() && other_files {
            differs.push("files that it reads changed".to_owned());
        }
        if differs.is_empty() {
            differs.push("something that goes into it changed".to_owned());
        }
        Ok(Fate::Built(differs.join("; ")))
    }

    fn context(&self, image: &Prepared, tree: &Tree, reach: &Reach) -> Result<Context, Error> {
        let selected = context::select(tree, &image.folder, reach);
        selected.map_err(|error| Error::context(&image.entry.name, error))
    }

    /// The files that differ from what is live, the first few by name; `None` when that is not known.
    fn changed_files(&self, image: &Prepared, reach: &Reach, now: &Context) -> Option<String> {
        let before = self.context(image, self.before?, reach).ok()?;
        let paths: BTreeSet<&String> = now.items.keys().chain(before.items.keys()).collect();
        let differs = |path: &&&String| now.items.get(**path) != before.items.get(**path);
        let differing: Vec<&str> = paths.iter().filter(differs).map(|p| p.as_str()).collect();
        let (named, more) = differing.split_at(differing.len().min(FILES_NAMED));
        if named.is_empty() {
            return None;
        }
        let more = match more.len() {
            0 => String::new(),
            1 => " and 1 more".to_owned(),
            more => format!(" and {more} more"),
        };
        Some(format!("changed: {}{more}", named.join(", ")))
    }
}

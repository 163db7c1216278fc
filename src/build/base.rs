//! The images that a Dockerfile's FROM lines name and that this release did not make: whether their
//! ONBUILD lines read the context, and, when people ask for newer ones, what their registries have
//! now. Called by `imagebank`. It changes nothing but what the engine has of them.

use std::collections::BTreeMap;

use super::dockerfile::Base;
use super::external::{digest_of, known_digest, name_of};
use super::listen::Told;
use super::prepare::Prepared;
use super::reach::Reach;
use super::{BuildJob, Error};
use crate::docker::{self, Image};
use crate::model::names::ImageName;
use crate::model::release::ImageRecord;

/// All of one Dockerfile.
pub(super) struct Bases<'a> {
    job: &'a BuildJob<'a>,
    image: &'a ImageName,
    all: Vec<Looked>,
}

/// One of them, looked at.
struct Looked {
    /// As the engine is asked for it.
    reference: String,
    /// As the FROM line has it, if it is neither viking's nor a digest already.
    text: Option<String>,
    /// What the engine has.
    local: Option<Image>,
    /// What its registry has, if it was asked and answered.
    remote: Option<String>,
}

impl<'a> Bases<'a> {
    /// Looks for each in the engine, and with `--pull` in its registry.
    pub(super) async fn look(job: &'a BuildJob<'a>, prepared: &'a Prepared) -> Result<Self, Error> {
        let mut bases = Self {
            job,
            image: &prepared.entry.name,
            all: Vec::new(),
        };
        for base in prepared.dockerfile.bases() {
            let (reference, text) = match base {
                // Its Dockerfile was read: `prepare` knows its ONBUILD lines.
                Base::Viking(stack, _) if stack == job.stack => continue,
                Base::Viking(stack, image) => match (job.other_stacks)(stack, image) {
                    Some(found) => (found.reference(job.registry.address()), None),
                    None => continue,
                },
                Base::Named(text) => {
                    let moves = digest_of(text).is_none();
                    (text.clone(), moves.then(|| text.clone()))
                }
            };
            let local = local(job, bases.image, &reference).await?;
            let mut looked = Looked {
                reference,
                text,
                local,
                remote: None,
            };
            if job.pull {
                looked.remote = bases.ask(&looked).await;
            }
            bases.all.push(looked);
        }
        Ok(bases)
    }

    /// A registry that is silent says nothing new: what was built before stays.
    async fn ask(&self, looked: &Looked) -> Option<String> {
        let text = looked.text.as_deref()?;
        // Made on this host: no registry knows it, and one that has that name means another.
        if looked.local.is_some() && looked.digest().is_none() {
            return None;
        }
        self.job.engine.remote_digest(text).await.ok().flatten()
    }

    /// Whether an image on record was built on what the registries have now.
    pub(super) fn are_in(&self, record: &ImageRecord) -> bool {
        self.all
            .iter()
            .all(|base| match (&base.text, &base.remote) {
                (Some(text), Some(remote)) => record.bases.get(text) == Some(remote),
                _ => true,
            })
    }

    /// Whether the engine has them all as they are to be used.
    pub(super) fn are_here(&self) -> bool {
        self.all.iter().all(Looked::is_here)
    }

    /// What a build may read of its context, as far as that is known: with a base that is not here,
    /// both that its ONBUILD lines read nothing and that they read everything.
    pub(super) fn reaches(&self, own: &Reach) -> Vec<Reach> {
        if self.all.iter().any(Looked::reads_context) {
            return vec![Reach::everything()];
        }
        if self.are_here() {
            return vec![own.clone()];
        }
        vec![own.clone(), Reach::everything()]
    }

    /// Fetches what is not here, as the builder would. One that cannot be fetched is left to it: it
    /// fails on it as well, and says why.
    pub(super) async fn fetch(&mut self, told: &Told<'_>) -> Result<(), Error> {
        let (job, image) = (self.job, self.image);
        for base in self.all.iter_mut().filter(|base| !base.is_here()) {
            let reference = base.reference.as_str();
            let (pulled, _) = told
                .listen("base.mid", |lines| async move {
                    job.engine.pull(reference, &lines).await
                })
                .await;
            if let Err(error) = pulled {
                told.say(format!("pull {reference}: {error}"));
            }
            base.local = local(job, image, reference).await?;
        }
        Ok(())
    }

    /// What each named base is in the engine now, for the record.
    pub(super) async fn digests(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut digests = BTreeMap::new();
        for base in &self.all {
            let Some(text) = &base.text else { continue };
            // The builder may have fetched it just now.
            let local = local(self.job, self.image, &base.reference).await?;
            let digest = local.and_then(|image| known_digest(&image.repo_digests, name_of(text)));
            digests.extend(digest.map(|digest| (text.clone(), digest)));
        }
        Ok(digests)
    }
}

async fn local(
    job: &BuildJob<'_>,
    image: &ImageName,
    reference: &str,
) -> Result<Option<Image>, Error> {
    match job.engine.image(reference).await {
        Ok(found) => Ok(found),
        // The builder has better words for it.
        Err(docker::Error::BadSpec(_) | docker::Error::Other(_)) => Ok(None),
        Err(error) => Err(Error::engine(image, error, Vec::new())),
    }
}

impl Looked {
    fn is_here(&self) -> bool {
        self.local.is_some() && (self.remote.is_none() || self.remote == self.digest())
    }

    fn digest(&self) -> Option<String> {
        let local = self.local.as_ref()?;
        known_digest(&local.repo_digests, name_of(&self.reference))
    }

    fn reads_context(&self) -> bool {
        let lines = self.local.iter().flat_map(|image| &image.on_build);
        lines
            .filter_map(|line| line.split_whitespace().next())
            .any(|word| word.eq_ignore_ascii_case("ADD") || word.eq_ignore_ascii_case("COPY"))
    }
}

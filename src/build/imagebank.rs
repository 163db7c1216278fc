//! One image: taken from a known record if nothing that goes into it changed, else built and pushed;
//! either way the registry has it under the release's tag before its record is handed out. Called by
//! `build` for each image when its parents are done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::archive::{self, Archive};
use super::base::Bases;
use super::context::{self, Context, ContextError, input_hash, made_of};
use super::labels::{self, Labelled};
use super::listen::Told;
use super::prepare::Prepared;
use super::reach::Reach;
use super::registry::repository;
use super::{BuildJob, Error, Resolved};
use crate::docker::{BuildRequest, label};
use crate::failpoint;
use crate::model::names::ImageName;
use crate::model::progress::Stage;
use crate::model::release::ImageRecord;
use crate::model::tree::Tree;

/// Longest wait for the engine's answer to a build. The engine ends one that takes too long itself,
/// well before this, and knows whose fault it is: past this, it is the engine that hangs.
const ENGINE_TIMEOUT: Duration = Duration::from_secs(40 * 60);

/// Longest push.
const PUSH_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Version of the records written here.
const RECORD_VERSION: u32 = 1;

/// Makes or finds images.
pub(super) struct Bank<'a> {
    /// What is asked for.
    pub(super) job: &'a BuildJob<'a>,
    /// The commit's files.
    pub(super) tree: Arc<Tree>,
}

/// What goes into an image besides its bases.
struct Ingredients {
    context: Context,
    /// Their hash.
    input: String,
}

impl Bank<'_> {
    /// The record of one image.
    pub(super) async fn image(
        &self,
        prepared: &Prepared,
        resolved: &Resolved,
    ) -> Result<ImageRecord, Error> {
        let name = &prepared.entry.name;
        let own = prepared.dockerfile.reach();
        let mut bases = Bases::look(self.job, prepared).await?;
        for reach in bases.reaches(own) {
            let Ingredients { input, .. } = self.ingredients(prepared, resolved, reach).await?;
            let known = self.job.previous.get(name).into_iter().flatten();
            let same = known.filter(|record| record.input == input && bases.are_in(record));
            for record in same {
                if let Some(record) = self.again(name, record).await? {
                    return Ok(record);
                }
            }
        }
        bases.fetch(&self.told(Stage::Build, name)).await?;
        let reach = bases.reaches(own).swap_remove(0);
        let ingredients = self.ingredients(prepared, resolved, reach).await?;
        self.make(prepared, resolved, ingredients, &bases).await
    }

    async fn ingredients(
        &self,
        prepared: &Prepared,
        resolved: &Resolved,
        reach: Reach,
    ) -> Result<Ingredients, Error> {
        let context = self.context(prepared, reach).await?;
        let inputs = prepared.inputs(&resolved.hashed);
        Ok(Ingredients {
            input: input_hash(&inputs, &context),
            context,
        })
    }

    async fn context(&self, prepared: &Prepared, reach: Reach) -> Result<Context, Error> {
        let tree = Arc::clone(&self.tree);
        let folder = prepared.folder.clone();
        let select = move || context::select(&tree, &folder, &reach);
        tokio::task::spawn_blocking(select)
            .await
            .map_err(|error| Error::outside(&prepared.entry.name, &error))?
            .map_err(|error| Error::context(&prepared.entry.name, error))
    }

    /// Uses a known image again: its manifest gets this release's tag. If the registry lost it and
    /// the engine still has it, it is pushed again; `None` when it is nowhere.
    async fn again(
        &self,
        image: &ImageName,
        record: &ImageRecord,
    ) -> Result<Option<ImageRecord>, Error> {
        let job = self.job;
        let told = self.told(Stage::Build, image);
        let mut record = record.clone();
        record.build_ms = 0;
        let tagged = job
            .registry
            .tag(&record.repository, &record.digest, job.tag.as_str())
            .await
            .map_err(|error| Error::registry(image, &error))?;
        if tagged {
            told.say(format!("unchanged since {}", record.built_by));
            return Ok(Some(record));
        }
        let pulled = record.image_ref().reference(job.registry.address());
        let engine_error = |error| Error::engine(image, error, Vec::new());
        let local = job.engine.image(&pulled).await.map_err(engine_error)?;
        let Some(local) = local else {
            told.say(format!("{} is lost, building it again", record.digest));
            return Ok(None);
        };
        told.say(format!("the registry lost {}", record.digest));
        let name = format!("{}/{}", job.registry.address(), record.repository);
        let tag = job.tag.as_str();
        let named = job.engine.tag(&local.id, &name, tag).await;
        named.map_err(engine_error)?;
        record.digest = self.push(image, &record.repository).await?;
        Ok(Some(record))
    }

    async fn make(
        &self,
        prepared: &Prepared,
        resolved: &Resolved,
        Ingredients { context, input }: Ingredients,
        bases: &Bases<'_>,
    ) -> Result<ImageRecord, Error> {
        let image = &prepared.entry.name;
        let repository = repository(self.job.stack, image);
        let place = self.job.places.0.acquire().await.expect("never closed");
        let started = Instant::now();
        let made_of = made_of(&prepared.inputs(&resolved.hashed), &context);
        self.run_build(prepared, &repository, resolved.text.clone(), context)
            .await?;
        drop(place);
        let build_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        failpoint::hit("build.untagged");
        let digest = self.push(image, &repository).await?;
        failpoint::hit("push.unrecorded");
        let name = format!(
            "{}/{repository}:{}",
            self.job.registry.address(),
            self.job.tag
        );
        let found = self.job.engine.image(&name).await;
        let found = found.map_err(|error| Error::engine(image, error, Vec::new()))?;
        Ok(ImageRecord {
            v: RECORD_VERSION,
            repository,
            digest,
            input,
            size_bytes: found.map_or(0, |image| image.size_bytes),
            build_ms,
            commit: self.job.commit.id.clone(),
            built_by: self.job.tag.clone(),
            bases: bases.digests().await?,
            made_of: Some(made_of),
        })
    }

    async fn run_build(
        &self,
        prepared: &Prepared,
        repository: &str,
        text: String,
        context: Context,
    ) -> Result<(), Error> {
        let entry = &prepared.entry;
        let Labelled { text, beside } = labels::put(text, self.labels());
        let Archive {
            dockerfile,
            pieces,
            outcome,
        } = archive::stream(context, Arc::clone(&self.tree.blobs), text);
        let request = BuildRequest {
            dockerfile,
            target: entry.target.clone(),
            args: entry.args.clone(),
            platform: entry.platform.clone(),
            labels: beside,
            name: format!(
                "{}/{repository}:{}",
                self.job.registry.address(),
                self.job.tag
            ),
            context: pieces,
        };
        let told = self.told(Stage::Build, &entry.name);
        let engine = self.job.engine;
        let (built, log) = told
            .listen("build.mid", |lines| async move {
                timeout(ENGINE_TIMEOUT, engine.build(request, &lines)).await
            })
            .await;
        // A context that could not be sent is the reason, whatever the builder made of it.
        match outcome.await {
            Ok(Ok(()) | Err(ContextError::Closed)) => {}
            Ok(Err(error)) => return Err(Error::context(&entry.name, error)),
            Err(error) => return Err(Error::outside(&entry.name, &error)),
        }
        match built {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Error::engine(&entry.name, error, log)),
            Err(_) => {
                let reason = format!("the engine did not end the build within {ENGINE_TIMEOUT:?}");
                Err(Error::outside(&entry.name, &reason))
            }
        }
    }

    /// Pushes the engine's `<registry>/<repository>:<tag>`; answers the digest once the registry
    /// itself says that it has it.
    async fn push(&self, image: &ImageName, repository: &str) -> Result<String, Error> {
        let told = self.told(Stage::Push, image);
        push(&told, repository, self.job.tag.as_str()).await
    }

    fn labels(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (label::IMAGE_CLUSTER.to_owned(), self.job.cluster.to_owned()),
            (label::IMAGE_STACK.to_owned(), self.job.stack.to_string()),
        ])
    }

    fn told<'s>(&'s self, stage: Stage, image: &'s ImageName) -> Told<'s> {
        Told {
            job: self.job,
            stage,
            about: image.as_str(),
        }
    }
}

/// Pushes `repository:tag`; answers the digest once the registry itself says that it has it.
pub(super) async fn push(told: &Told<'_>, repository: &str, tag: &str) -> Result<String, Error> {
    let registry = told.job.registry;
    let name = format!("{}/{repository}", registry.address());
    let engine = told.job.engine;
    let (pushed, _) = told
        .listen("push.mid", |lines| async move {
            timeout(PUSH_TIMEOUT, engine.push(&name, tag, &lines)).await
        })
        .await;
    let digest = match pushed {
        Ok(Ok(digest)) => digest,
        Ok(Err(error)) => return Err(Error::outside(&told.about, &error)),
        Err(_) => {
            let reason = format!("the push did not end within {PUSH_TIMEOUT:?}");
            return Err(Error::outside(&told.about, &reason));
        }
    };
    match registry.digest(repository, &digest).await {
        Ok(Some(_)) => Ok(digest),
        Ok(None) => {
            let reason = format!("the registry does not have {digest} right after the push");
            Err(Error::outside(&told.about, &reason))
        }
        Err(error) => Err(Error::registry(&told.about, &error)),
    }
}

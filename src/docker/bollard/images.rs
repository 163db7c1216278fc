//! Images through bollard: look, pull, push, tag, untag. Called by the engine's trait only.

use bollard::errors::Error as Raw;
use bollard::models::{ImageInspect, ProgressDetail};
use bollard::query_parameters::{
    CreateImageOptions, PushImageOptions, RemoveImageOptions, TagImageOptions,
};
use futures_util::{Stream, StreamExt};

use super::errors::{Doing, sort};
use super::{BollardEngine, found, too_late, within};
use crate::docker::lines::{BUILD_LINE_MAX, LineSplitter, plain};
use crate::docker::{Error, Image, Lines, Result};

/// A healthcheck that an image switches off.
const HEALTHCHECK_NONE: &str = "NONE";
/// Longest reference: Docker's limits of name and digest, rounded up.
const REFERENCE_MAX: usize = 512;

impl BollardEngine {
    pub(super) async fn inspect_image(&self, name: &str) -> Result<Option<Image>> {
        let call = self.raw().await?.inspect_image(reference(name)?);
        let answer = found(within(self.deadlines.look, Doing::Else, call).await)?;
        Ok(answer.map(seen))
    }

    pub(super) async fn pull_image(&self, name: &str, lines: &Lines) -> Result<()> {
        let options = CreateImageOptions {
            from_image: Some(with_tag(reference(name)?)),
            ..CreateImageOptions::default()
        };
        let raw = self.raw().await?;
        let steps = raw.create_image(Some(options), None, None);
        let steps = steps.map(|step| step.map(|s| (s.id, s.status, s.progress_detail)));
        self.follow(steps, lines).await.map(|_| ())
    }

    pub(super) async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        lines: &Lines,
    ) -> Result<String> {
        let options = PushImageOptions {
            tag: Some(tag.to_owned()),
            platform: None,
        };
        let raw = self.raw().await?;
        let steps = raw.push_image(reference(repository)?, Some(options), None);
        let steps = steps.map(|step| step.map(|s| (None, s.status, s.progress_detail)));
        let last = self.follow(steps, lines).await?;
        match digest_in(&last) {
            Some(digest) => Ok(digest),
            None => self.digest_of(repository, tag).await,
        }
    }

    /// Engines that do not end a push with the digest still know it.
    async fn digest_of(&self, repository: &str, tag: &str) -> Result<String> {
        let image = self.inspect_image(&format!("{repository}:{tag}")).await?;
        let digests = image.map(|image| image.repo_digests).unwrap_or_default();
        let prefix = format!("{repository}@");
        let mut ours = digests.iter().filter_map(|d| d.strip_prefix(&prefix));
        let none = || Error::Other(format!("{repository}:{tag} was pushed without a digest"));
        ours.next().map(str::to_owned).ok_or_else(none)
    }

    /// Passes the steps of a transfer on; answers the last status.
    async fn follow<S>(&self, steps: S, lines: &Lines) -> Result<String>
    where
        S: Stream<Item = std::result::Result<Step, Raw>>,
    {
        let deadline = self.deadlines.transfer;
        let read = async {
            let mut steps = std::pin::pin!(steps);
            let mut last = String::new();
            while let Some(step) = steps.next().await {
                let step = step.map_err(|error| sort(error, Doing::Else))?;
                if let Some(line) = say(&step) {
                    last.clone_from(&line);
                    // Nobody listening is fine.
                    lines.send(line).await.ok();
                }
            }
            Ok(last)
        };
        let late = || Err(too_late(deadline));
        tokio::time::timeout(deadline, read)
            .await
            .unwrap_or_else(|_| late())
    }

    pub(super) async fn registry_digest(&self, name: &str) -> Result<Option<String>> {
        let name = with_tag(reference(name)?);
        let call = self.raw().await?.inspect_registry_image(&name, None);
        let answer = found(within(self.deadlines.registry, Doing::Else, call).await)?;
        Ok(answer.and_then(|raw| raw.descriptor.digest))
    }

    pub(super) async fn tag_image(&self, image: &str, repository: &str, tag: &str) -> Result<()> {
        let options = TagImageOptions {
            repo: Some(reference(repository)?.to_owned()),
            tag: Some(tag.to_owned()),
        };
        let call = self
            .raw()
            .await?
            .tag_image(reference(image)?, Some(options));
        within(self.deadlines.create, Doing::Else, call).await
    }

    pub(super) async fn untag_image(&self, name: &str) -> Result<()> {
        let options = None::<RemoveImageOptions>;
        let call = self
            .raw()
            .await?
            .remove_image(reference(name)?, options, None);
        found(within(self.deadlines.create, Doing::Else, call).await).map(|_| ())
    }
}

/// A layer or none, what is done, and how far.
type Step = (Option<String>, Option<String>, Option<ProgressDetail>);

/// A step as a line; progress bars are no lines.
fn say((id, status, progress): &Step) -> Option<String> {
    let moving = progress.as_ref().is_some_and(|p| p.current.is_some());
    let status = status.as_deref().filter(|_| !moving)?;
    let line = match id {
        Some(id) => format!("{id}: {status}"),
        None => status.to_owned(),
    };
    let mut splitter = LineSplitter::new(BUILD_LINE_MAX);
    let first = splitter.push(line.as_bytes()).into_iter().next();
    first.or_else(|| splitter.finish()).map(|line| plain(&line))
}

/// An image as the engine shows it.
fn seen(raw: ImageInspect) -> Image {
    let config = raw.config.unwrap_or_default();
    Image {
        id: raw.id.unwrap_or_default(),
        repo_digests: raw.repo_digests.unwrap_or_default(),
        size_bytes: u64::try_from(raw.size.unwrap_or(0)).unwrap_or(0),
        has_healthcheck: config
            .healthcheck
            .and_then(|check| check.test?.into_iter().next())
            .is_some_and(|kind| kind != HEALTHCHECK_NONE),
        on_build: config.on_build.unwrap_or_default(),
    }
}

/// The digest in `v1: digest: sha256:… size: 945`, a push's last words.
fn digest_in(status: &str) -> Option<String> {
    let (_, rest) = status.split_once("digest: ")?;
    let digest = rest.split_whitespace().next()?;
    digest.starts_with("sha256:").then(|| digest.to_owned())
}

/// A reference becomes part of the request's path, so nothing that could leave it passes.
pub(super) fn reference(name: &str) -> Result<&str> {
    let good = |c: char| c.is_ascii_alphanumeric() || "_.-:/@[]".contains(c);
    let whole = |part: &str| !part.is_empty() && !part.starts_with('.');
    if name.len() <= REFERENCE_MAX && name.chars().all(good) && name.split('/').all(whole) {
        return Ok(name);
    }
    Err(Error::BadSpec(format!("{name:?} is no image reference")))
}

/// The reference with `:latest` if it has neither tag nor digest: Docker would fetch every tag.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        return name.to_owned();
    }
    format!("{name}:latest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_means_latest_and_a_registrys_port_is_no_tag() {
        assert_eq!(with_tag("redis"), "redis:latest");
        assert_eq!(with_tag("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(with_tag("redis:7"), "redis:7");
        assert_eq!(with_tag("redis@sha256:1"), "redis@sha256:1");
    }

    #[test]
    fn references_cannot_leave_their_place_in_a_request() {
        for bad in ["", "a b", "a?b", "../x", "a//b", "a/../b", "a#b"] {
            assert!(reference(bad).is_err(), "{bad}");
        }
        assert!(reference("127.0.0.1:5000/ragnar/src@sha256:ab").is_ok());
    }

    #[test]
    fn a_pushs_last_words_hold_the_digest() {
        let status = "v1: digest: sha256:ab12 size: 945";
        assert_eq!(digest_in(status).as_deref(), Some("sha256:ab12"));
        assert_eq!(digest_in("Pushed"), None);
    }

    #[test]
    fn progress_bars_are_no_lines() {
        let moving = ProgressDetail {
            current: Some(1),
            total: Some(2),
        };
        assert_eq!(say(&(None, Some("Pushing".into()), Some(moving))), None);
        let idle = Some(ProgressDetail::default());
        let line = say(&(Some("ab".into()), Some("Pushed".into()), idle));
        assert_eq!(line.as_deref(), Some("ab: Pushed"));
    }
}

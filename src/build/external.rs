//! References of `deploy:` to images viking does not build, as digests: asked for once per stack and
//! text, then kept until the text changes or somebody says `--pull`. An image that only this engine
//! has goes to our registry. Called by `build`.

use sha2::{Digest, Sha256};

use super::imagebank::push;
use super::listen::Told;
use super::registry::{Registry, external_repository};
use super::{BuildJob, Error};
use crate::docker;
use crate::model::progress::Stage;
use crate::model::spec::ImageRef;

/// Hex digits of an image id that its tag in our registry shows.
const TAG_DIGITS: usize = 12;

/// What `text` means.
pub(super) async fn resolve(job: &BuildJob<'_>, text: &str) -> Result<ImageRef, Error> {
    if let Some(known) = job.external.get(text).filter(|_| !job.pull)
        && still_there(job.registry, known, text).await?
    {
        return Ok(known.clone());
    }
    let name = name_of(text);
    if let Some(digest) = digest_of(text) {
        return Ok(external(name, digest));
    }
    let local = job.engine.image(text).await;
    let local = local.map_err(|error| Error::engine(&text, error, Vec::new()))?;
    let local_digest = local
        .as_ref()
        .and_then(|image| known_digest(&image.repo_digests, name));
    match (local, local_digest) {
        (Some(image), None) => push_local(job, text, &image.id).await,
        (_, local_digest) => ask(job, text, name, local_digest).await,
    }
}

/// What we keep ourselves must still be there; what others keep is theirs.
async fn still_there(registry: &dyn Registry, known: &ImageRef, text: &str) -> Result<bool, Error> {
    let ImageRef::Ours { repository, digest } = known else {
        return Ok(true);
    };
    let found = registry.digest(repository, digest).await;
    Ok(found
        .map_err(|error| Error::registry(&text, &error))?
        .is_some())
}

/// An image that was built or imported on this host: no registry has it, so ours gets it.
async fn push_local(job: &BuildJob<'_>, text: &str, id: &str) -> Result<ImageRef, Error> {
    let repository = external_repository(job.stack, text);
    let tag = short_id(id);
    let name = format!("{}/{repository}", job.registry.address());
    let named = job.engine.tag(id, &name, &tag).await;
    named.map_err(|error| Error::engine(&text, error, Vec::new()))?;
    let told = Told {
        job,
        stage: Stage::Push,
        about: text,
    };
    let digest = push(&told, &repository, &tag).await?;
    Ok(ImageRef::Ours { repository, digest })
}

/// Asks the image's own registry; what this engine pulled before is the answer when it is silent.
async fn ask(
    job: &BuildJob<'_>,
    text: &str,
    name: &str,
    local_digest: Option<String>,
) -> Result<ImageRef, Error> {
    let remote = job.engine.remote_digest(text).await;
    match (remote, local_digest) {
        (Ok(Some(digest)), _) | (Ok(None) | Err(_), Some(digest)) => Ok(external(name, &digest)),
        (Ok(None), None) => Err(Error::own(
            &text,
            &"is neither in this engine nor in its registry",
        )),
        (Err(docker::Error::BadSpec(reason)), None) => Err(Error::own(&text, &reason)),
        (Err(error), None) => Err(Error::outside(
            &text,
            &format!("is not in this engine, and its registry cannot say: {error}"),
        )),
    }
}

fn external(name: &str, digest: &str) -> ImageRef {
    ImageRef::External {
        name: name.to_owned(),
        digest: digest.to_owned(),
    }
}

/// A tag for an image id: its first digits.
fn short_id(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    match digits.get(..TAG_DIGITS) {
        Some(short) if short.bytes().all(|b| b.is_ascii_alphanumeric()) => short.to_owned(),
        // An id of another form must not become an unreadable tag.
        _ => hex::encode(Sha256::digest(id))
            .chars()
            .take(TAG_DIGITS)
            .collect(),
    }
}

pub(super) fn digest_of(text: &str) -> Option<&str> {
    let (_, digest) = text.split_once('@')?;
    digest.starts_with("sha256:").then_some(digest)
}

/// The reference without digest and tag; a port is no tag.
pub(super) fn name_of(text: &str) -> &str {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => name,
    }
}

/// The digest under which a registry knows the image by this name.
pub(super) fn known_digest(repo_digests: &[String], name: &str) -> Option<String> {
    repo_digests.iter().find_map(|known| {
        let (of, digest) = known.split_once('@')?;
        (familiar(of) == familiar(name)).then(|| digest.to_owned())
    })
}

/// Docker's short form of a name of its own registry.
fn familiar(name: &str) -> &str {
    let short = name
        .strip_prefix("docker.io/")
        .or_else(|| name.strip_prefix("index.docker.io/"))
        .unwrap_or(name);
    short.strip_prefix("library/").unwrap_or(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let cases = [
            ("redis", "redis"),
            ("redis:7", "redis"),
            ("h:5000/x/y", "h:5000/x/y"),
            ("h:5000/x/y:1", "h:5000/x/y"),
            ("x@sha256:ab", "x"),
            ("x:1@sha256:ab", "x"),
        ];
        for (text, name) in cases {
            assert_eq!(name_of(text), name, "{text}");
        }
        assert_eq!(digest_of("x:1@sha256:ab"), Some("sha256:ab"));
    }

    #[test]
    fn a_digest_counts_only_under_the_images_own_name() {
        let known = ["127.0.0.1:5000/s/external.x@sha256:1".to_owned()];
        assert_eq!(known_digest(&known, "redis"), None);
        let known = ["docker.io/library/redis@sha256:2".to_owned()];
        assert_eq!(known_digest(&known, "redis").as_deref(), Some("sha256:2"));
    }
}

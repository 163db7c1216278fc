//! The files of a website as an image of one layer: what is in it, whether it must be made, and that the
//! registry has it under the release's tag. Equal files give equal bytes. Called by `build` and
//! `foresee`; runs nothing of the commit's, and asks no engine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::archive::Tar;
use super::context::{self, Context, ContextError, Item};
use super::listen::Told;
use super::registry::{OneLayer, site_repository};
use super::{BuildJob, Error};
use crate::model::names::{ImageName, NodeName};
use crate::model::progress::Stage;
use crate::model::release::{ImageRecord, NodeKind};
use crate::model::site::{BYTES_MAX, ENTRIES_MAX, FILE_BYTES_MAX, hidden, refused};
use crate::model::tree::{BlobSource, Entry, EntryKind, Tree};
use crate::model::vikingfile::VikingFile;

/// Version of what is hashed and of how the layer is written: a change of either must change it.
const FORMAT: &str = "site-v1";

/// Version of the records written here.
const RECORD_VERSION: u32 = 1;

/// The one kind of image that every engine and registry takes.
const MANIFEST_KIND: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_KIND: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_KIND: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// How a file begins that stands for one kept elsewhere (git-lfs.com, its specification).
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/";

/// A website of a commit.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) node: NodeName,
    /// How the image is called.
    pub(super) image: ImageName,
    files: Context,
    /// Hash of all that goes into it.
    pub(super) input: String,
}

/// Every website of `file`, with its files.
pub(super) fn read(file: &VikingFile, tree: &Tree) -> Result<Vec<Site>, Error> {
    let mut sites = Vec::new();
    for node in &file.deploy {
        let NodeKind::Website { document_root } = &node.kind else {
            continue;
        };
        let image = ImageName::of_site(&node.name);
        let files = select(tree, document_root).map_err(|error| match error {
            ContextError::Refused(reason) => {
                let place = format!(
                    "document_root of {} (viking.yml line {})",
                    node.name, node.line
                );
                Error::own(&image, &format!("{place}: {reason}"))
            }
            error => Error::context(&image, error),
        })?;
        sites.push(Site {
            node: node.name.clone(),
            image,
            input: context::files_hash(FORMAT, &files),
            files,
        });
    }
    Ok(sites)
}

fn refuse<T>(reason: String) -> Result<T, ContextError> {
    Err(ContextError::Refused(reason))
}

/// The files below a root, but for those that nobody is shown.
fn select(tree: &Tree, root: &str) -> Result<Context, ContextError> {
    let folder = context::folder(root)?;
    let prefix = match folder.as_str() {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    if let Some(entry) = tree.entries.get(&folder) {
        let what = entry.kind.no_file().unwrap_or("is a file");
        return refuse(format!("{folder:?} {what}, not a folder"));
    }
    let mut items = BTreeMap::new();
    let below = tree.entries.range(prefix.clone()..);
    let below = below.map_while(|(path, entry)| Some((path.strip_prefix(&prefix)?, entry)));
    for (path, entry) in below.filter(|(path, _)| !hidden(path)) {
        if let Some(why) = refused(path) {
            return refuse(format!("{path:?} {why}"));
        }
        items.insert(path.to_owned(), item(tree, path, entry)?);
        if items.len() > ENTRIES_MAX {
            return refuse(format!("there are more than {ENTRIES_MAX} files"));
        }
    }
    if items.is_empty() {
        return refuse(format!("the commit has no files in {root:?}"));
    }
    let files = Context { items };
    files.refuse_leaving_links()?;
    Ok(files)
}

fn item(tree: &Tree, path: &str, entry: &Entry) -> Result<Item, ContextError> {
    if entry.kind == EntryKind::Submodule {
        return refuse(format!(
            "{path:?} is a submodule, whose files are elsewhere"
        ));
    }
    context::item(tree, path, entry)
}

impl Site {
    /// A record that has these very files, the best to use again first.
    pub(super) fn known<'a>(
        &self,
        previous: &'a BTreeMap<ImageName, Vec<ImageRecord>>,
    ) -> Option<&'a ImageRecord> {
        let mut known = previous.get(&self.image).into_iter().flatten();
        known.find(|record| record.input == self.input)
    }

    /// Uses a record again whose manifest the registry still has, else makes the image.
    pub(super) async fn record(self, job: &BuildJob<'_>) -> Result<ImageRecord, Error> {
        let name = self.image.clone();
        let told = Told {
            job,
            stage: Stage::Build,
            about: name.as_str(),
        };
        if let Some(known) = self.known(job.previous) {
            let tagged = job
                .registry
                .tag(&known.repository, &known.digest, job.tag.as_str());
            let tagged = tagged.await.map_err(|e| Error::registry(&self.image, &e))?;
            if tagged {
                told.say(format!("unchanged since {}", known.built_by));
                return Ok(ImageRecord {
                    build_ms: 0,
                    ..known.clone()
                });
            }
            told.say(format!("{} is lost, making it again", known.digest));
        }
        let started = Instant::now();
        let Self {
            node,
            image,
            files,
            input,
        } = self;
        let blobs = Arc::clone(&job.tree.blobs);
        let count = files.items.len();
        let packed = tokio::task::spawn_blocking(move || pack(&files, blobs.as_ref()));
        let packed = packed
            .await
            .map_err(|error| Error::outside(&image, &error))?;
        let layer = packed.map_err(|error| Error::context(&image, error))?;
        let size_bytes = layer.size;
        told.say(format!("{count} files, {size_bytes} bytes"));
        let repository = site_repository(job.stack, &node);
        let digest = job.registry.put(&repository, job.tag.as_str(), layer);
        let digest = digest.await.map_err(|e| Error::registry(&image, &e))?;
        Ok(ImageRecord {
            v: RECORD_VERSION,
            repository,
            digest,
            input,
            size_bytes,
            build_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            commit: job.commit.id.clone(),
            built_by: job.tag.clone(),
            bases: BTreeMap::new(),
            made_of: None,
        })
    }
}

/// Bytes on their way into a file, hashed.
struct Hashed {
    file: io::BufWriter<File>,
    hash: Sha256,
    size: u64,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.file.write(bytes)?;
        self.hash.update(bytes.get(..taken).unwrap_or_default());
        self.size += taken as u64;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Blocking.
fn pack(files: &Context, blobs: &dyn BlobSource) -> Result<OneLayer, ContextError> {
    let ours = |source: io::Error| ContextError::Read {
        path: "(a file of viking's own)".to_owned(),
        source,
    };
    let out = Hashed {
        file: io::BufWriter::new(tempfile::tempfile().map_err(ours)?),
        hash: Sha256::new(),
        size: 0,
    };
    let mut tar = Tar::new(out, BYTES_MAX);
    for (path, item) in &files.items {
        tar.folders_of(path)?;
        match item {
            Item::Folder => tar.folder(path)?,
            Item::Link { target, .. } => tar.link(path, target)?,
            Item::File { oid, .. } => {
                let bytes = blobs.blob(oid);
                let bytes = bytes.map_err(|source| ContextError::unreadable(path, source))?;
                if bytes.len() as u64 > FILE_BYTES_MAX {
                    let max = FILE_BYTES_MAX >> 20;
                    return refuse(format!("{path:?} is larger than {max} MB"));
                }
                if bytes.starts_with(LFS) {
                    return refuse(format!(
                        "{path:?} is a pointer of Git LFS, its bytes are not in the commit"
                    ));
                }
                tar.file(path, &bytes, false)?;
            }
        }
    }
    let Hashed { file, hash, size } = tar.into_inner().map_err(ours)?;
    let mut file = file
        .into_inner()
        .map_err(|error| ours(error.into_error()))?;
    file.rewind().map_err(ours)?;
    Ok(layer(file, &hex::encode(hash.finalize()), size))
}

/// The image that an uncompressed layer of these digits makes.
fn layer(file: File, digits: &str, size: u64) -> OneLayer {
    let digest = format!("sha256:{digits}");
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest]},
    })
    .to_string();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_KIND,
        "config": {
            "mediaType": CONFIG_KIND,
            "size": config.len(),
            "digest": sha256(config.as_bytes()),
        },
        "layers": [{"mediaType": LAYER_KIND, "size": size, "digest": digest}],
    })
    .to_string();
    OneLayer {
        kind: MANIFEST_KIND,
        manifest: manifest.into_bytes(),
        config: config.into_bytes(),
        layer: file,
        layer_digest: digest,
        size,
    }
}

/// A digest as registries spell it.
pub(super) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

#[cfg(test)]
#[path = "site_tests.rs"]
mod tests;

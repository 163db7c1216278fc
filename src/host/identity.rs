//! What a host remembers of itself between two starts: its name, its machine's id, its cluster and
//! how far it has seen the store. One small file each in the data directory, written whole or not at
//! all. Used by `host`, and by the command line for the name; decides nothing about containers.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use crate::model::names::HostName;
use crate::store::tables::Tables;

/// File of the cluster's id.
const CLUSTER: &str = "cluster";
/// File of the machine's id.
const MACHINE: &str = "machine";
/// File of the host's name.
const HOST: &str = "host";
/// File of the newest revision of the store that was seen.
const SEEN: &str = "seen";
/// Between two looks whether there is a newer revision to keep. What a crash loses of it makes the
/// check at the next start a little weaker, never wrong.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// A host's memory of itself.
#[derive(Debug, Clone)]
pub struct Identity {
    dir: PathBuf,
}

impl Identity {
    /// That of a data directory, which must exist.
    #[must_use]
    pub fn of(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The cluster it belongs to; none before its first start.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn cluster(&self) -> anyhow::Result<Option<String>> {
        self.read(CLUSTER)
    }

    /// Tells this installation from another of the same name; made at the first call.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn machine(&self) -> anyhow::Result<String> {
        if let Some(id) = self.read(MACHINE)? {
            return Ok(id);
        }
        let id = uuid::Uuid::new_v4().to_string();
        self.keep(MACHINE, &id)?;
        Ok(id)
    }

    /// The name it goes by. Everything that was placed here is on record under the name of the first
    /// start, so a machine that was renamed since keeps it; `asked` is what somebody asked for now.
    ///
    /// # Errors
    /// When another name is asked for, or the file cannot be read.
    pub fn host(
        &self,
        asked: Option<&HostName>,
        machine: impl FnOnce() -> HostName,
    ) -> anyhow::Result<HostName> {
        let Some(text) = self.read(HOST)? else {
            return Ok(asked.cloned().unwrap_or_else(machine));
        };
        let known = HostName::parse(&text)
            .map_err(|error| anyhow::anyhow!("{}: {error}", self.dir.join(HOST).display()))?;
        match asked {
            Some(other) if *other != known => bail!(
                "{} belongs to host {known}, not {other}: what runs here is on record under that \
                 name; start without --host-name, or with another --data-dir",
                self.dir.display()
            ),
            _ => Ok(known),
        }
    }

    /// The newest revision of the store it has seen; 0 for none.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn seen(&self) -> anyhow::Result<i64> {
        // Garbage is as good as nothing: it makes the check weaker, never wrong.
        let text = self.read(SEEN)?.unwrap_or_default();
        Ok(text.parse().unwrap_or(0))
    }

    /// Remembers which host of which cluster this is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn join(&self, cluster: &str, host: &HostName) -> anyhow::Result<()> {
        self.keep(CLUSTER, cluster)?;
        self.keep(HOST, host.as_str())
    }

    /// Keeps the newest revision seen on disk, until shutdown and once more then.
    pub async fn keep_seen(self, tables: Tables, shutdown: CancellationToken) {
        let mut kept = None;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(KEEP_EVERY) => false,
            };
            let seen = tables.seen();
            if kept != Some(seen) {
                match self.keep(SEEN, &seen.to_string()) {
                    Ok(()) => kept = Some(seen),
                    Err(error) => tracing::warn!("{error:#}"),
                }
            }
            if ended {
                return;
            }
        }
    }

    /// An empty file is none: a crash may leave one behind.
    fn read(&self, name: &str) -> anyhow::Result<Option<String>> {
        let file = self.dir.join(name);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes what is new.
    fn keep(&self, name: &str, text: &str) -> anyhow::Result<()> {
        if self.read(name)?.as_deref() == Some(text) {
            return Ok(());
        }
        let file = self.dir.join(name);
        let fresh = self.dir.join(format!("{name}.new"));
        let write = || {
            let mut new = std::fs::File::create(&fresh)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            std::fs::rename(&fresh, &file)
        };
        write().with_context(|| format!("writing {}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> HostName {
        HostName::parse(text).unwrap()
    }

    fn identity() -> (tempfile::TempDir, Identity) {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::of(dir.path());
        (dir, identity)
    }

    #[test]
    fn a_renamed_machine_is_the_host_it_was() {
        let (_dir, identity) = identity();
        assert_eq!(identity.host(None, || name("a")).unwrap(), name("a"));
        identity.join("c-1", &name("a")).unwrap();
        assert_eq!(identity.host(None, || name("b")).unwrap(), name("a"));
        let same = identity.host(Some(&name("a")), || name("b"));
        assert_eq!(same.unwrap(), name("a"));
        let error = identity.host(Some(&name("b")), || name("b")).unwrap_err();
        assert!(error.to_string().contains("belongs to host a, not b"));
    }

    #[test]
    fn a_file_that_a_crash_left_empty_is_none() {
        let (dir, identity) = identity();
        std::fs::write(dir.path().join(CLUSTER), "").unwrap();
        std::fs::write(dir.path().join(SEEN), "").unwrap();
        assert_eq!(identity.cluster().unwrap(), None);
        assert_eq!(identity.seen().unwrap(), 0);
        let id = identity.machine().unwrap();
        assert_eq!(identity.machine().unwrap(), id);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_is_known_at_the_next_start() {
        let (_dir, identity) = identity();
        let store = crate::store::local::LocalStore::in_memory();
        let tables = Tables::open(store, "", None, 0).await.unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        identity.clone().keep_seen(tables.clone(), shutdown).await;
        assert_eq!(identity.seen().unwrap(), tables.seen());
        assert!(tables.seen() > 0);
    }
}

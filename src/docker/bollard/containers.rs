//! Containers through bollard: list, make, stop, limit, remove. Called by the engine's trait only.

use std::time::Duration;

use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::{
    CreateContainerOptions, KillContainerOptions, ListContainersOptions, RemoveContainerOptions,
    StopContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;

use super::errors::Doing;
use super::{BollardEngine, create, found, inspect, segment, within};
use crate::docker::{Container, Engine, Error, Listed, NewContainer, Result, RunState, label};

/// Signal that cannot be ignored.
const KILL: &str = "SIGKILL";
/// What an engine says when somebody else is removing the same container.
const REMOVAL_IN_PROGRESS: &str = "already in progress";

impl BollardEngine {
    pub(super) async fn list_containers(&self, cluster: &str) -> Result<Vec<Listed>> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(label_filter(cluster)),
            ..ListContainersOptions::default()
        };
        let call = self.raw().await?.list_containers(Some(options));
        let list = within(self.deadlines.look, Doing::Else, call).await?;
        let mut all: Vec<Listed> = list.into_iter().filter_map(inspect::listed).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn inspect_container(&self, name: &str) -> Result<Option<Container>> {
        let call = self.raw().await?.inspect_container(segment(name)?, None);
        let answer = found(within(self.deadlines.look, Doing::Else, call).await)?;
        Ok(answer.and_then(inspect::container))
    }

    /// Makes a container. Volumes and network are looked for first: Docker would make a missing
    /// volume without labels, and miss the network only at the start.
    pub(super) async fn create_container(&self, new: &NewContainer) -> Result<String> {
        segment(&new.name)?;
        let raw = self.raw().await?;
        let look = self.deadlines.look;
        for (volume, _) in &new.mounts {
            let call = raw.inspect_volume(segment(volume)?);
            within(look, Doing::Create, call).await?;
        }
        if !new.network.is_empty() {
            let call = raw.inspect_network(segment(&new.network)?, None);
            within(look, Doing::Create, call).await?;
        }
        let options = CreateContainerOptions {
            name: Some(new.name.clone()),
            ..CreateContainerOptions::default()
        };
        let call = raw.create_container(Some(options), create::body(new));
        let answer = within(self.deadlines.create, Doing::Create, call).await?;
        Ok(answer.id)
    }

    pub(super) async fn stop_container(
        &self,
        id: &str,
        signal: Option<&str>,
        timeout: Duration,
    ) -> Result<()> {
        let done = match signal {
            None => self.stop_by_engine(id, timeout).await,
            Some(signal) => self.stop_by_signal(id, signal, timeout).await,
        };
        match done {
            // Gone, or ended by itself before the signal reached it.
            Err(Error::NotFound(_)) => Ok(()),
            Err(Error::Conflict(text)) => match self.inspect_container(id).await? {
                Some(container) if is_up(&container) => Err(Error::Conflict(text)),
                _ => Ok(()),
            },
            done => done,
        }
    }

    async fn stop_by_engine(&self, id: &str, timeout: Duration) -> Result<()> {
        let options = StopContainerOptions {
            t: Some(whole_seconds(timeout)),
            ..StopContainerOptions::default()
        };
        let call = self
            .raw()
            .await?
            .stop_container(segment(id)?, Some(options));
        let deadline = timeout.saturating_add(self.deadlines.stop_extra);
        within(deadline, Doing::Else, call).await
    }

    /// Engines before API 1.42 cannot stop with a signal of the caller's, so this is done by hand.
    async fn stop_by_signal(&self, id: &str, signal: &str, timeout: Duration) -> Result<()> {
        let running = self.inspect_container(id).await?;
        if !running.as_ref().is_some_and(is_up) {
            return Ok(());
        }
        self.kill(id, signal).await?;
        // A frozen process gets the signal when it thaws; some engines thaw it, some do not.
        match self.unpause(id).await {
            Err(error @ Error::Unreachable(_)) => return Err(error),
            _thawed_or_was_not_frozen => {}
        }
        if self.ended(id, timeout).await? {
            return Ok(());
        }
        self.kill(id, KILL).await?;
        match self.ended(id, self.deadlines.stop_extra).await? {
            true => Ok(()),
            false => Err(super::too_late(self.deadlines.stop_extra)),
        }
    }

    async fn kill(&self, id: &str, signal: &str) -> Result<()> {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        let call = self
            .raw()
            .await?
            .kill_container(segment(id)?, Some(options));
        within(self.deadlines.create, Doing::Else, call).await
    }

    /// Whether the container ends within `timeout`.
    async fn ended(&self, id: &str, timeout: Duration) -> Result<bool> {
        let options = WaitContainerOptions {
            condition: "not-running".into(),
        };
        let raw = self.raw().await?;
        let mut answers = raw.wait_container(segment(id)?, Some(options));
        match tokio::time::timeout(timeout, answers.next()).await {
            Err(_) => Ok(false),
            // bollard makes an error of every exit code but 0.
            Ok(Some(Err(bollard::errors::Error::DockerContainerWaitError { .. })) | None) => {
                Ok(true)
            }
            Ok(Some(answer)) => {
                let answer = answer.map_err(|error| super::sort(error, Doing::Else));
                found(answer).map(|_| true)
            }
        }
    }

    /// Sets limits, sending only what differs. See [`inspect::MEMORY_UNLIMITED`] for "none".
    pub(super) async fn update_limits(&self, id: &str, memory: u64, millis: u64) -> Result<()> {
        let missing = || Error::NotFound(format!("container {id}"));
        let now = self.inspect_container(id).await?.ok_or_else(missing)?;
        let mut update = ContainerUpdateBody::default();
        if now.memory_bytes != memory {
            let bytes = match memory {
                0 => inspect::MEMORY_UNLIMITED,
                bytes => i64::try_from(bytes).unwrap_or(inspect::MEMORY_UNLIMITED),
            };
            update.memory = Some(bytes);
            update.memory_swap = Some(bytes);
        }
        if now.cpu_millis != millis {
            update.nano_cpus = Some(match millis {
                0 => inspect::cpu_unlimited(self.info().await?.cpus),
                millis => create::nano_cpus(millis),
            });
        }
        if update == ContainerUpdateBody::default() {
            return Ok(());
        }
        let lift_quota = update.nano_cpus.is_some() && millis == 0;
        self.update(id, update).await?;
        if lift_quota {
            // The number above is what the engine remembers and shows; this is what the kernel
            // does. Both in one update: the engine lets the number win.
            let lifted = ContainerUpdateBody {
                cpu_quota: Some(-1),
                ..ContainerUpdateBody::default()
            };
            self.update(id, lifted).await?;
        }
        Ok(())
    }

    async fn update(&self, id: &str, update: ContainerUpdateBody) -> Result<()> {
        let call = self.raw().await?.update_container(segment(id)?, update);
        within(self.deadlines.create, Doing::Else, call).await
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<()> {
        let options = RemoveContainerOptions {
            force: true,
            // Volumes without a name that the image asked for; named ones stay.
            v: true,
            link: false,
        };
        let call = self
            .raw()
            .await?
            .remove_container(segment(id)?, Some(options));
        match within(self.deadlines.create, Doing::Else, call).await {
            Err(Error::NotFound(_)) => Ok(()),
            Err(Error::Conflict(text)) if text.contains(REMOVAL_IN_PROGRESS) => Ok(()),
            done => done,
        }
    }
}

fn is_up(container: &Container) -> bool {
    matches!(container.state, RunState::Running | RunState::Paused)
}

/// Docker counts whole seconds; a part of one is one.
fn whole_seconds(time: Duration) -> i32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// The filter for what carries our cluster's label.
pub(super) fn label_filter<M: FromIterator<(String, Vec<String>)>>(cluster: &str) -> M {
    let wanted = vec![format!("{}={cluster}", label::CLUSTER)];
    [("label".to_owned(), wanted)].into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_second_is_one() {
        assert_eq!(whole_seconds(Duration::from_millis(1)), 1);
        assert_eq!(whole_seconds(Duration::from_secs(10)), 10);
        assert_eq!(whole_seconds(Duration::ZERO), 0);
    }
}

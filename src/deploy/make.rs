//! A container is made: shared variables, image, network, volumes, listeners and ports first, then the
//! container, then its start. The longest of the operations of `ops`, and called only there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc;

use super::container::{Fittings, new_container};
use super::endpoints;
use super::failure::Failure;
use super::link::Listener;
use super::network;
use super::observed::Observed;
use super::ops::{Done, Ops, Order, bare};
use super::ports;
use super::volume::{self, WantedVolume};
use super::wanted::Desired;
use crate::clock;
use crate::docker::{Error, NewContainer, PortBinding, label};
use crate::model::endpoint::{LinkKey, ListenRequest};
use crate::model::env::{SecretValue, SharedVar};
use crate::model::registry::{self, runs_registry};
use crate::model::spec::ImageRef;

/// Other ports tried when one turns out to be taken.
const OTHER_PORTS_MAX: usize = 3;
/// A pull that takes longer has hung; it is tried again.
const PULL_MAX: Duration = Duration::from_secs(1_800);
impl Ops {
    /// Makes and starts a container that is not there. `Err` is an end like any other, only early.
    /// Called off, it stops where nothing is half done: a call of the engine is never dropped, since
    /// the engine would go on with it unseen.
    pub(super) async fn make(&self, order: &Order, pulling: impl Fn()) -> Result<Done, Done> {
        let desired = &order.desired;
        let shared = self.shared(desired).await?;
        let image = tokio::select! {
            () = order.cancel.cancelled() => return Ok(Done::Changed),
            image = self.image_of(desired, pulling) => image?,
        };
        // The engine has as much to do for a container that is made as for one that is started: were all
        // made at once, the first start would wait for them. Never closed, so it can only be acquired.
        let _permit = self.starts.acquire().await;
        let mut bound = order.bound.clone();
        for _ in 0..=OTHER_PORTS_MAX {
            if order.cancel.is_cancelled() {
                return Ok(Done::Changed);
            }
            let ports = self.pick(desired, &bound)?;
            let id = self.fit_out(order, &image, &ports, &shared).await?;
            match self.start_now(&id, &order.cancel).await {
                Ok(done) => return Ok(done),
                Err(Error::PortTaken(_)) if bare(desired) => {
                    self.give_back(desired, &id, &ports, &mut bound).await?;
                }
                Err(error) => return Err(Done::error("start", &error)),
            }
        }
        let reason = format!("no free port after {OTHER_PORTS_MAX} others");
        Err(Done::Failed(Failure::outside(reason)))
    }

    /// Makes the container, with all that it needs; its network cannot be swept away meanwhile, and
    /// afterwards the container itself keeps it.
    async fn fit_out(
        &self,
        order: &Order,
        image: &str,
        ports: &[PortBinding],
        shared: &BTreeMap<String, SecretValue>,
    ) -> Result<String, Done> {
        let _gate = self.network_gate.read().await;
        let desired = &order.desired;
        let seat = desired.job.seat();
        let volumes = volume::volumes(&self.cluster, &seat, &desired.spec.settings.volume);
        let gateway = self.ensure(desired, &volumes).await?;
        let listeners = self.listeners(&desired.links, gateway).await?;
        let fittings = Fittings {
            cluster: &self.cluster,
            host: &self.host,
            image: image.to_owned(),
            gateway: gateway.map(|gateway| gateway.addr()),
            volumes: &volumes,
            ports: ports.to_vec(),
            listeners: &listeners,
            shared,
        };
        // A port that is not in the book yet is held by the container.
        let (made, ()) = tokio::join!(self.create(desired, fittings), self.keep_book(desired));
        made
    }

    /// The values of the shared variables that its spec names, by the names its process knows. One
    /// that is not there is nobody's fault but who took it away.
    async fn shared(&self, desired: &Desired) -> Result<BTreeMap<String, SecretValue>, Done> {
        let named = &desired.spec.settings.shared;
        if named.is_empty() {
            return Ok(BTreeMap::new());
        }
        let outside = |reason: String| Done::Failed(Failure::outside(reason));
        let wanted = named.values().cloned().collect();
        let found = self.tables.secrets(&wanted).await;
        let found = found.map_err(|e| outside(format!("read its shared variables: {e}")))?;
        let value = |(name, at): (&String, &SharedVar)| {
            let value = found.get(at).cloned();
            let value = value.ok_or_else(|| outside(missing(at)))?;
            Ok((name.clone(), value))
        };
        named.iter().map(value).collect()
    }

    /// The name on this host of what a job is made from, once it is there.
    async fn image_of(&self, desired: &Desired, pulling: impl Fn()) -> Result<String, Done> {
        match &desired.spec.image {
            ImageRef::Local { id } if runs_registry(&desired.job) => {
                self.registry_image(id, pulling).await
            }
            image => self.image(image, pulling).await,
        }
    }

    /// The image of the registry, which the leader names by the id it has where it was looked up. On
    /// another host it may come from another copy, under that id, or be what this host's own operator
    /// named.
    async fn registry_image(&self, id: &str, pulling: impl Fn()) -> Result<String, Done> {
        let look = async |reference: &str| {
            let found = self.engine.image(reference).await;
            found.map_err(|e| Done::error("look for the registry's image", &e))
        };
        let ours = registry::image_reference(&self.registry, id);
        let named = self.registry_image.clone();
        for reference in [id, &ours, &named] {
            if look(reference).await?.is_some() {
                return Ok(reference.to_owned());
            }
        }
        pulling();
        // From the other copy first: those are the very bytes.
        match self.pull(&ours).await {
            Ok(()) => return Ok(ours),
            Err(unknown @ Done::Unknown(_)) => return Err(unknown),
            Err(_) => {}
        }
        self.pull(&named).await.map(|()| named)
    }

    /// The image's name on this host, once it is there.
    pub(super) async fn image(&self, image: &ImageRef, pulling: impl Fn()) -> Result<String, Done> {
        let reference = image.reference(&self.registry);
        let found = self.engine.image(&reference).await;
        if found
            .map_err(|e| Done::error("look for the image", &e))?
            .is_some()
        {
            return Ok(reference);
        }
        if let ImageRef::Local { id } = image {
            let reason = format!("image {id} is not on this host");
            return Err(Done::Failed(Failure::outside(reason)));
        }
        pulling();
        self.pull(&reference).await.map(|()| reference)
    }

    async fn pull(&self, reference: &str) -> Result<(), Done> {
        let (lines, mut unread) = mpsc::channel(1);
        unread.close();
        let pull = self.engine.pull(reference, &lines);
        match tokio::time::timeout(PULL_MAX, pull).await {
            Ok(Ok(())) => Ok(()),
            // Whatever a registry says is not the commit's fault.
            Ok(Err(Error::Unreachable(reason))) => Err(Done::Unknown(reason)),
            Ok(Err(error)) => {
                let reason = format!("pull {reference}: {error}");
                Err(Done::Failed(Failure::outside(reason)))
            }
            Err(_) => {
                let reason = format!("pull {reference}: not done after {PULL_MAX:?}");
                Err(Done::Failed(Failure::outside(reason)))
            }
        }
    }

    /// Network and volumes; answers the host's address on the network.
    async fn ensure(
        &self,
        desired: &Desired,
        volumes: &[WantedVolume],
    ) -> Result<Option<IpNet>, Done> {
        let labels = network::labels(&self.cluster, &desired.job.stack);
        let network = self.engine.ensure_network(&desired.network, &labels).await;
        let network = network.map_err(|e| Done::error("make the network", &e))?;
        for volume in volumes {
            let made = self
                .engine
                .ensure_volume(&volume.name, &volume.labels)
                .await;
            made.map_err(|e| Done::error("make the volume", &e))?;
        }
        Ok(network.gateway)
    }

    async fn listeners(
        &self,
        needs: &[LinkKey],
        gateway: Option<IpNet>,
    ) -> Result<Vec<Listener>, Done> {
        let mut listeners = Vec::new();
        for key in needs {
            let Some(gateway) = gateway else {
                let reason = "the stack's network has no gateway to link through";
                return Err(Done::Failed(Failure::outside(reason)));
            };
            let request = ListenRequest {
                key: key.clone(),
                gateway,
                port: None,
            };
            let port = self.ask(request).await.map_err(|reason| {
                Done::Failed(Failure::outside(format!("link {}: {reason}", key.target)))
            })?;
            listeners.push((key.clone(), port));
        }
        Ok(listeners)
    }

    /// Writes the port book to disk, if this job took something from it.
    async fn keep_book(&self, desired: &Desired) {
        if !bare(desired) {
            return;
        }
        // One writer at a time, and each writes what the book says then.
        let _writing = self.book_file.lock().await;
        let page = {
            let book = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
            book.page()
        };
        if let Some((path, bytes)) = page
            && let Err(error) = ports::write(&path, &bytes).await
        {
            // The port is good all the same; only a restart would forget it.
            tracing::warn!(path = %path.display(), "cannot keep the port book: {error}");
        }
    }

    /// Host ports for what it exposes: fixed ones as written, others from the book.
    fn pick(&self, desired: &Desired, bound: &BTreeSet<u16>) -> Result<Vec<PortBinding>, Done> {
        let mut book = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let now_ms = clock::now_ms();
        let ip = endpoints::publish_on(&desired.job, self.address);
        let mut bindings = Vec::new();
        let mut bound = bound.clone();
        for expose in &desired.spec.settings.expose {
            let owner = format!("{} {}", desired.job, expose.label());
            let free = |port| ports::is_free(ip, port, expose.proto);
            let port = expose
                .host_port
                .or_else(|| book.give(&owner, &bound, free, now_ms));
            let Some(host_port) = port else {
                let reason = "all host ports that viking hands out are in use";
                return Err(Done::Failed(Failure::outside(reason)));
            };
            bound.insert(host_port);
            bindings.push(PortBinding {
                port: expose.port,
                proto: expose.proto,
                ip,
                host_port,
            });
        }
        Ok(bindings)
    }

    /// Its ports were somebody else's: forget them and the container that asked for them.
    async fn give_back(
        &self,
        desired: &Desired,
        id: &str,
        ports: &[PortBinding],
        bound: &mut BTreeSet<u16>,
    ) -> Result<(), Done> {
        let removed = self.engine.remove(id).await;
        removed.map_err(|e| Done::error("remove", &e))?;
        let fixed: BTreeSet<_> = desired.spec.settings.expose.iter().collect();
        let picked = |port: &&PortBinding| {
            !fixed
                .iter()
                .any(|expose| expose.host_port == Some(port.host_port))
        };
        let now_ms = clock::now_ms();
        let mut book = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        for port in ports.iter().filter(picked) {
            book.taken(port.host_port, now_ms);
            bound.insert(port.host_port);
        }
        Ok(())
    }

    /// Makes the container. A name that somebody else's container has, perhaps another cluster's on
    /// the same Docker, gets ours behind it: who a container is, its labels say.
    async fn create(&self, desired: &Desired, fittings: Fittings<'_>) -> Result<String, Done> {
        let mut new = new_container(desired, fittings);
        if let Some(id) = self.create_named(desired, &new).await? {
            return Ok(id);
        }
        new.name = format!("{}.{}", new.name, volume::cluster_short(&self.cluster));
        if let Some(id) = self.create_named(desired, &new).await? {
            return Ok(id);
        }
        let reason = format!(
            "containers that are not viking's have the name {}",
            new.name
        );
        Err(Done::Failed(Failure::outside(reason)))
    }

    /// One that a crash left behind under the same name is taken over if it is the same, and removed
    /// if it is ours but not the same; `None` when it is somebody else's.
    async fn create_named(
        &self,
        desired: &Desired,
        new: &NewContainer,
    ) -> Result<Option<String>, Done> {
        let failed = |e: &Error| Done::error("create", e);
        match self.engine.create(new).await {
            Ok(id) => return Ok(Some(id)),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(failed(&error)),
        }
        let found = self.engine.container(&new.name).await;
        let Some(found) = found.map_err(|e| failed(&e))? else {
            return Err(Done::Changed);
        };
        if found.labels.get(label::CLUSTER) != Some(&self.cluster) {
            return Ok(None);
        }
        let id = found.id.clone();
        let same = Observed::read(found).is_some_and(|o| {
            o.job == desired.job
                && o.instance == desired.instance
                && o.spec_hash == desired.spec_hash
        });
        if same {
            return Ok(Some(id));
        }
        self.engine.remove(&id).await.map_err(|e| failed(&e))?;
        let made = self.engine.create(new).await;
        made.map(Some).map_err(|e| failed(&e))
    }
}

fn missing(at: &SharedVar) -> String {
    let SharedVar {
        scope,
        name,
        version,
    } = at;
    format!(
        "the shared variable {scope}/{name} has no value on record for version {version}: \
         viking env set {scope} {name}"
    )
}

//! Networks and volumes through bollard. Called by the engine's trait only.

use std::collections::BTreeMap;

use bollard::models::{IpamConfig, Network as Raw, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{ListNetworksOptions, ListVolumesOptions};
use ipnet::IpNet;

use super::containers::label_filter;
use super::errors::Doing;
use super::{BollardEngine, found, inspect, segment, within};
use crate::docker::{Error, Network, Result, Volume, label};

/// The only kind of network viking makes.
const DRIVER: &str = "bridge";

impl BollardEngine {
    pub(super) async fn list_networks(&self, cluster: &str) -> Result<Vec<Network>> {
        let options = ListNetworksOptions {
            filters: Some(label_filter(cluster)),
        };
        let call = self.raw().await?.list_networks(Some(options));
        let list = within(self.deadlines.look, Doing::Else, call).await?;
        let mut all: Vec<Network> = list.into_iter().filter_map(network).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn make_network(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<Network> {
        let _one_at_a_time = self.making_network.lock().await;
        if let Some(there) = self.find_network(name).await? {
            return ours(&there.labels, labels, name).map(|()| there);
        }
        let request = NetworkCreateRequest {
            name: segment(name)?.to_owned(),
            driver: Some(DRIVER.into()),
            labels: Some(labels.clone().into_iter().collect()),
            ..NetworkCreateRequest::default()
        };
        let call = self.raw().await?.create_network(request);
        within(self.deadlines.create, Doing::Else, call).await?;
        let made = self.find_network(name).await?;
        made.ok_or_else(|| Error::NotFound(format!("network {name} just made")))
    }

    async fn find_network(&self, name: &str) -> Result<Option<Network>> {
        let call = self.raw().await?.inspect_network(segment(name)?, None);
        let answer = found(within(self.deadlines.look, Doing::Else, call).await)?;
        // The engine also takes the start of an id for a name.
        Ok(answer
            .and_then(inspected)
            .filter(|there| there.name == name))
    }

    pub(super) async fn list_volumes(&self, cluster: &str) -> Result<Vec<Volume>> {
        let options = ListVolumesOptions {
            filters: Some(label_filter(cluster)),
        };
        let call = self.raw().await?.list_volumes(Some(options));
        let list = within(self.deadlines.look, Doing::Else, call).await?;
        let volumes = list.volumes.unwrap_or_default().into_iter();
        let mut all: Vec<Volume> = volumes
            .map(|raw| Volume {
                name: raw.name,
                labels: raw.labels.into_iter().collect(),
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    pub(super) async fn make_volume(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let request = VolumeCreateRequest {
            name: Some(segment(name)?.to_owned()),
            labels: Some(labels.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        let call = self.raw().await?.create_volume(request);
        // Docker answers with the volume that is there, whoever made it.
        let there = within(self.deadlines.create, Doing::Else, call).await?;
        if ours(&inspect::labels(Some(there.labels)), labels, name).is_ok() {
            return Ok(());
        }
        // After a restart of the daemon that answer leaves out the labels of a volume that was
        // there before (seen with 20.10); a look at it does not.
        let call = self.raw().await?.inspect_volume(segment(name)?);
        let there = within(self.deadlines.look, Doing::Else, call).await?;
        ours(&inspect::labels(Some(there.labels)), labels, name)
    }
}

/// What carries another cluster's label, or none, is not ours to use.
fn ours(
    found: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
    name: &str,
) -> Result<()> {
    if found.get(label::CLUSTER) == wanted.get(label::CLUSTER) {
        return Ok(());
    }
    Err(Error::Conflict(format!("{name} was made by somebody else")))
}

fn network(raw: Raw) -> Option<Network> {
    Some(Network {
        id: raw.id?,
        name: raw.name?,
        labels: inspect::labels(raw.labels),
        gateway: gateway(raw.ipam.and_then(|ipam| ipam.config)),
    })
}

fn inspected(raw: bollard::models::NetworkInspect) -> Option<Network> {
    Some(Network {
        id: raw.id?,
        name: raw.name?,
        labels: inspect::labels(raw.labels),
        gateway: gateway(raw.ipam.and_then(|ipam| ipam.config)),
    })
}

/// The first gateway, in its subnet; some engines write the address with a prefix length too.
fn gateway(config: Option<Vec<IpamConfig>>) -> Option<IpNet> {
    let parse = |config: IpamConfig| {
        let subnet: IpNet = config.subnet?.parse().ok()?;
        let gateway = config.gateway?;
        let address = gateway.split('/').next()?.parse().ok()?;
        IpNet::new(address, subnet.prefix_len()).ok()
    };
    config?.into_iter().find_map(parse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_knows_who_is_on_its_network() {
        let config = |gateway: &str| {
            let config = IpamConfig {
                subnet: Some("172.27.0.0/16".into()),
                gateway: Some(gateway.into()),
                ..IpamConfig::default()
            };
            super::gateway(Some(vec![IpamConfig::default(), config])).unwrap()
        };
        let gateway = config("172.27.0.1");
        assert_eq!(gateway, config("172.27.0.1/16"));
        assert_eq!(gateway.addr().to_string(), "172.27.0.1");
        let on_it = |ip: &str| gateway.contains(&ip.parse::<std::net::IpAddr>().unwrap());
        assert!(on_it("172.27.9.9") && !on_it("172.28.0.2"));
    }
}

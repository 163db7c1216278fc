//! Volumes of a job: their names and labels. Called when a container is made and when one is
//! compared with its spec. Volumes are created and never removed here.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::docker::label;
use crate::model::job::Seat;
use crate::model::names::{NodeName, StackName, VolumeName};
use crate::model::spec::VolumeMount;
use crate::model::world::PinKey;

/// A volume that must be there before its container is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedVolume {
    /// Docker's name.
    pub name: String,
    /// Path inside the container.
    pub path: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The part of a cluster's id that names carry.
#[must_use]
pub fn cluster_short(cluster: &str) -> &str {
    cluster.get(..8).unwrap_or(cluster)
}

/// The volumes of one slot, in file order. No segment of a name can hold a dot, so two different
/// volumes never get the same name: three segments for a named one, five for a slot's own.
#[must_use]
pub fn volumes(cluster: &str, seat: &Seat, mounts: &[VolumeMount]) -> Vec<WantedVolume> {
    mounts
        .iter()
        .map(|mount| match &mount.name {
            Some(name) => named(cluster, &seat.stack, name.as_str(), mount),
            None => own(cluster, seat, mount),
        })
        .collect()
}

fn named(cluster: &str, stack: &StackName, name: &str, mount: &VolumeMount) -> WantedVolume {
    let labels = [
        (label::CLUSTER, cluster.to_owned()),
        (label::STACK, stack.to_string()),
        (label::VOLUME, name.to_owned()),
    ];
    WantedVolume {
        name: format!("viking-{}.{stack}.{name}", cluster_short(cluster)),
        path: mount.path.clone(),
        labels: labels.map(|(k, v)| (k.to_owned(), v)).into(),
    }
}

fn own(cluster: &str, seat: &Seat, mount: &VolumeMount) -> WantedVolume {
    let hash = hex::encode(&Sha256::digest(mount.path.as_bytes())[..4]);
    let Seat { stack, node, slot } = seat;
    let labels = [
        (label::CLUSTER, cluster.to_owned()),
        (label::STACK, stack.to_string()),
        (label::NODE, node.to_string()),
        (label::SLOT, slot.to_string()),
        (label::PATH, mount.path.clone()),
    ];
    WantedVolume {
        name: format!(
            "viking-{}.{stack}.{node}.{slot}.{hash}",
            cluster_short(cluster)
        ),
        path: mount.path.clone(),
        labels: labels.map(|(k, v)| (k.to_owned(), v)).into(),
    }
}

/// Whose data a volume holds, by its labels.
#[must_use]
pub fn holds(labels: &BTreeMap<String, String>) -> Option<PinKey> {
    let stack = StackName::parse(labels.get(label::STACK)?).ok()?;
    if let Some(name) = labels.get(label::VOLUME) {
        return Some(PinKey::Volume(stack, VolumeName::parse(name).ok()?));
    }
    Some(PinKey::Seat(Seat {
        stack,
        node: NodeName::parse(labels.get(label::NODE)?).ok()?,
        slot: labels.get(label::SLOT)?.parse().ok()?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn seat(stack: &str, node: &str, slot: u32) -> Seat {
        Seat {
            stack: StackName::parse(stack).unwrap(),
            node: NodeName::parse(node).unwrap(),
            slot,
        }
    }

    fn name_of(seat: &Seat, name: Option<&str>, path: &str) -> String {
        let mount = VolumeMount {
            name: name.map(|n| VolumeName::parse(n).unwrap()),
            path: path.to_owned(),
        };
        volumes("0123456789", seat, &[mount]).remove(0).name
    }

    #[test]
    fn names_with_dashes_never_collide() {
        let names = [
            name_of(&seat("a-b", "c", 0), None, "/d"),
            name_of(&seat("a", "b-c", 0), None, "/d"),
            name_of(&seat("a", "b", 0), None, "/d"),
            name_of(&seat("a", "b", 1), None, "/d"),
            name_of(&seat("a", "b", 0), None, "/e"),
            name_of(&seat("a", "b", 0), Some("vol-b"), "/d"),
            name_of(&seat("a-vol", "b", 0), Some("b"), "/d"),
        ];
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
    }

    #[test]
    fn labels_say_whose_data_it_is() {
        let seat = seat("a", "b", 2);
        let of = |name: Option<&str>| {
            let mount = VolumeMount {
                name: name.map(|n| VolumeName::parse(n).unwrap()),
                path: "/d".to_owned(),
            };
            holds(&volumes("0123456789", &seat, &[mount]).remove(0).labels)
        };
        assert_eq!(of(None), Some(PinKey::Seat(seat.clone())));
        let data = VolumeName::parse("data").unwrap();
        assert_eq!(
            of(Some("data")),
            Some(PinKey::Volume(seat.stack.clone(), data))
        );
        assert_eq!(holds(&BTreeMap::new()), None);
    }

    #[test]
    fn a_named_volume_is_one_for_all_nodes_and_slots_of_the_stack() {
        let one = name_of(&seat("a", "b", 0), Some("data"), "/d");
        assert_eq!(one, name_of(&seat("a", "x", 3), Some("data"), "/other"));
    }
}

//! A world in a file: what `viking debug dump` writes and `viking sim` reads. Lossless.

use serde::{Deserialize, Serialize};

use super::wire;
use super::world::World;

/// A world, and who wrote it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dump {
    /// Schema: `viking.dump/v1`.
    pub schema: String,
    /// viking's version.
    pub version: String,
    /// Everything the planner reads.
    pub world: World,
}

impl Dump {
    /// A world to be written.
    #[must_use]
    pub fn of(world: World) -> Self {
        Self {
            schema: wire::schema("dump"),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            world,
        }
    }
}

/// Maps whose keys are no texts, as lists of pairs: JSON has no other form for them.
pub(super) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::model) fn serialize<K, V, S>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error>
    where
        K: Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map)
    }

    pub(in crate::model) fn deserialize<'de, K, V, D>(
        deserializer: D,
    ) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        let pairs = Vec::<(K, V)>::deserialize(deserializer)?;
        Ok(pairs.into_iter().collect())
    }
}

//! Shared variables: what nodes of any stack may name in `env:`, by scope and name. A version is
//! written once; specs, releases and worlds hold versions only. Types only.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::names::{ScopeName, VarName};

/// Longest value, in bytes: half of what Linux lets a program have in one variable.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// A shared variable, whatever its version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VarRef {
    /// What it belongs to.
    pub scope: ScopeName,
    /// Its name there.
    pub name: VarName,
}

impl VarRef {
    /// It, at this version.
    #[must_use]
    pub fn at(&self, version: u64) -> SharedVar {
        SharedVar {
            scope: self.scope.clone(),
            name: self.name.clone(),
            version,
        }
    }
}

impl fmt::Display for VarRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.scope, self.name)
    }
}

/// One version of a shared variable, as a container spec names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SharedVar {
    /// What it belongs to.
    pub scope: ScopeName,
    /// Its name there.
    pub name: VarName,
    /// Which value: counts from 1, and no number is used twice.
    pub version: u64,
}

impl SharedVar {
    /// The variable, whatever its version.
    #[must_use]
    pub fn var(&self) -> VarRef {
        VarRef {
            scope: self.scope.clone(),
            name: self.name.clone(),
        }
    }
}

impl fmt::Display for SharedVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.scope, self.name, self.version)
    }
}

/// What the store has of one variable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VarIndex {
    /// Whether it is set: else no new release may name it.
    pub set: bool,
    /// Versions on record. The highest stays when its value is forgotten, so that the next one has
    /// another number.
    pub versions: BTreeSet<u64>,
}

impl VarIndex {
    /// The version that new releases get; `None` when it is not set.
    #[must_use]
    pub fn current(&self) -> Option<u64> {
        self.versions.last().copied().filter(|_| self.set)
    }
}

/// Every variable on record.
pub type Variables = BTreeMap<VarRef, VarIndex>;

/// The version of a variable that new releases get; `None` when it is not set.
#[must_use]
pub fn current(env: &Variables, var: &VarRef) -> Option<u64> {
    env.get(var)?.current()
}

/// Value of `/env/<scope>/<VAR>`, which is there as long as the variable is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VarRecord {
    /// Version of this record.
    pub v: u32,
    /// The current version of the variable.
    pub version: u64,
    /// When it was set, Unix milliseconds.
    pub at_ms: u64,
    /// What the store's revisions were counted from then: another number means that the store was put
    /// back from a copy since, and may have forgotten versions.
    #[serde(default)]
    pub base: i64,
}

/// Value of `/env/<scope>/<VAR>/<version>`; written once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueRecord {
    /// Version of this record.
    pub v: u32,
    /// The value; absent once it is forgotten and only the number is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<SecretValue>,
}

/// The value of a shared variable. It has no `Display`, and `Debug` does not show it.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct SecretValue(String);

impl SecretValue {
    /// Checks a value and keeps it.
    ///
    /// # Errors
    /// In words that do not repeat it.
    pub fn parse(text: String) -> Result<Self, String> {
        if text.len() > VALUE_BYTES_MAX {
            return Err(format!(
                "the value has {} bytes; at most {VALUE_BYTES_MAX} are allowed",
                text.len()
            ));
        }
        if text.contains('\0') {
            return Err("the value holds a NUL, which no environment variable can".to_owned());
        }
        Ok(Self(text))
    }

    /// The value, for whoever puts it into a container.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl<'de> Deserialize<'de> for SecretValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Not the reader's own words: they would repeat what was found.
        let text = String::deserialize(deserializer)
            .map_err(|_| serde::de::Error::custom("a value is a text"))?;
        Self::parse(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_bounded_and_never_shown() {
        let value = |text: &str| SecretValue::parse(text.to_owned());
        let secret = value("hunter2\u{1b}\n").unwrap();
        assert_eq!(format!("{secret:?}"), "(hidden)");
        let record = ValueRecord {
            v: 1,
            value: Some(secret),
        };
        assert!(!format!("{record:?}").contains("hunter2"));
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<ValueRecord>(&text).unwrap(), record);
        assert!(value(&"x".repeat(VALUE_BYTES_MAX)).is_ok());
        assert!(value("").is_ok());
        assert!(!value("hunter2\0").unwrap_err().contains("hunter2"));
        assert!(value(&"x".repeat(VALUE_BYTES_MAX + 1)).is_err());
        for odd in [
            r#"{"v":1,"value":271828}"#,
            r#"{"v":1,"value":["hunter2"]}"#,
        ] {
            let error = serde_json::from_str::<ValueRecord>(odd).unwrap_err();
            let error = error.to_string();
            assert!(
                !error.contains("271828") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_variable_that_is_not_set_has_no_current_version_but_keeps_its_number() {
        let mut index = VarIndex {
            set: true,
            versions: [1, 2].into(),
        };
        assert_eq!(index.current(), Some(2));
        index.set = false;
        assert_eq!(index.current(), None);
        assert_eq!(VarIndex::default().current(), None);
    }
}

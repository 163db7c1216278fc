//! What every kind of store refuses in the same words, before anything is sent or done. Used by
//! `local` and `etcd`; knows no state.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Error, Op, Result, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX};

/// Longest key, in bytes; a key of ours is a few names of at most 253 bytes.
const KEY_BYTES_MAX: usize = 4 * 1024;

/// Most compares of a transaction: etcd counts them like operations.
const COMPARES_MAX: usize = TXN_OPS_MAX;

/// Most bytes of keys and values of a transaction: etcd refuses requests above 1.5 MiB, with their
/// wrapping.
const TXN_BYTES_MAX: usize = 1400 * 1024;

/// Shortest and longest lease; a longer one would keep a dead host alive for good.
const LEASE_TTL_MIN: Duration = Duration::from_millis(10);
const LEASE_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A lease that is too short or too long.
pub(super) fn ttl(ttl: Duration) -> Result<()> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    refused(format!(
        "a lease of {ttl:?}; {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?} is possible"
    ))
}

/// A watch that starts before everything.
pub(super) fn watch(from: i64) -> Result<()> {
    if from < 0 {
        return refused(format!("a watch from revision {from}"));
    }
    Ok(())
}

fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Refused(why.into()))
}

fn check_key(key: &str) -> Result<()> {
    match key.len() {
        0 => refused("an empty key"),
        1..=KEY_BYTES_MAX => Ok(()),
        bytes => refused(format!(
            "a key of {bytes} bytes; {KEY_BYTES_MAX} are possible"
        )),
    }
}

/// What is never right of a transaction, whatever the state.
pub(super) fn transaction(txn: &Txn) -> Result<()> {
    if txn.ops.len() > TXN_OPS_MAX || txn.compares.len() > COMPARES_MAX {
        return refused(format!(
            "{} operations and {} compares in a transaction; {TXN_OPS_MAX} and {COMPARES_MAX} are possible",
            txn.ops.len(),
            txn.compares.len()
        ));
    }
    let mut written = BTreeSet::new();
    let mut sum = 0;
    for op in &txn.ops {
        let (key, bytes) = match op {
            Op::Put { key, value, .. } => (key, value.len()),
            Op::Delete { key } => (key, 0),
            Op::DeletePrefix { prefix } => {
                check_key(prefix)?;
                continue;
            }
        };
        check_key(key)?;
        if bytes > VALUE_BYTES_MAX {
            return refused(format!(
                "{bytes} bytes for {key}; {VALUE_BYTES_MAX} are possible"
            ));
        }
        if !written.insert(key.as_str()) {
            return refused(format!("{key} written twice in a transaction"));
        }
        sum += key.len() + bytes;
    }
    if sum > TXN_BYTES_MAX {
        return refused(format!(
            "{sum} bytes in a transaction; {TXN_BYTES_MAX} are possible"
        ));
    }
    check_prefixes(txn)
}

fn check_prefixes(txn: &Txn) -> Result<()> {
    let puts = || {
        txn.ops.iter().filter_map(|op| match op {
            Op::Put { key, .. } => Some(key),
            Op::Delete { .. } | Op::DeletePrefix { .. } => None,
        })
    };
    for op in &txn.ops {
        if let Op::DeletePrefix { prefix } = op
            && let Some(key) = puts().find(|key| key.starts_with(prefix.as_str()))
        {
            return refused(format!(
                "{key} written and {prefix} deleted in a transaction"
            ));
        }
    }
    Ok(())
}

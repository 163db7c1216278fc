//! What the leader writes about the registry's copies: the credential between hosts, which copies are
//! whole, and the pins of the built-in stack. Every write carries the leader's fence.

use std::collections::BTreeSet;

use super::write::{Outcome, Unit};
use super::{Result, Tables, decode, encode};
use crate::model::job::JobId;
use crate::model::registry::{Credential, CredentialRecord, WholeRecord};
use crate::model::world::{Pin, PinKey};
use crate::store::election::Leadership;
use crate::store::keys::Key;
use crate::store::{Compare, Op};

impl Tables {
    /// Writes the credential that `make` makes if there is none. One that cannot be read is left
    /// alone, as every such key is.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn ensure_credential(
        &self,
        leadership: &Leadership,
        make: impl FnOnce() -> Option<Credential>,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::RegistryCredential);
        let read = self.read_keys([key.clone()].into_iter()).await?;
        if read.contains_key(&key) {
            return Ok(Outcome::Done(self.seen()));
        }
        let Some(credential) = make() else {
            return Ok(Outcome::Conflict);
        };
        let record = CredentialRecord { v: 1, credential };
        let absent = Compare::CreateRevision(key.clone(), 0);
        let unit = Unit::new(vec![absent], vec![Op::put(key, encode(&record))]);
        self.lead(leadership, vec![unit]).await
    }

    /// Notes which copies of the registry are whole, if that is news.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn note_whole(
        &self,
        leadership: &Leadership,
        whole: &BTreeSet<JobId>,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::WholeCopies);
        let read = self.read_keys([key.clone()].into_iter()).await?;
        let before = read.get(&key);
        let known = before.and_then(|kv| decode::<WholeRecord>(kv).ok());
        if known.is_some_and(|record| record.whole == *whole) {
            return Ok(Outcome::Done(self.seen()));
        }
        let as_read = Compare::ModRevision(key.clone(), before.map_or(0, |kv| kv.mod_revision));
        let record = WholeRecord {
            v: 1,
            whole: whole.clone(),
        };
        let unit = Unit::new(vec![as_read], vec![Op::put(key, encode(&record))]);
        self.lead(leadership, vec![unit]).await
    }

    /// A pin, to be written with whatever makes it due.
    #[must_use]
    pub fn pin_op(&self, key: &PinKey, pin: &Pin) -> Op {
        Op::put(self.keys.text(&Key::Fixed(key.clone())), encode(pin))
    }

    /// Takes a pin away if it is still this one.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn unpin(&self, leadership: &Leadership, pin: &PinKey, was: &Pin) -> Result<Outcome> {
        let key = self.keys.text(&Key::Fixed(pin.clone()));
        let read = self.read_keys([key.clone()].into_iter()).await?;
        let Some(kv) = read.get(&key) else {
            return Ok(Outcome::Done(self.seen()));
        };
        if decode::<Pin>(kv).ok().as_ref() != Some(was) {
            return Ok(Outcome::Conflict);
        }
        let as_read = Compare::ModRevision(key.clone(), kv.mod_revision);
        let unit = Unit::new(vec![as_read], vec![Op::delete(key)]);
        self.lead(leadership, vec![unit]).await
    }
}

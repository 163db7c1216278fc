//! Certificates by ACME: what is known of each, what is secret of it, the account, and the challenges
//! under way. Written by the leader under its fence, read by every host. Never tells a key to anybody
//! but who serves by it.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use super::write::{Outcome, Unit};
use super::{Result, Tables, decode, encode};
use crate::model::certificate::{
    AccountRecord, CHALLENGES_MAX, CertificateNote, CertificateRecord, ChallengeRecord,
};
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::{Compare, KeyValue, Op, Selector};

/// Families below `/secret`.
const CERTIFICATES: &str = "certificate";
const CHALLENGES: &str = "challenge";

/// What a front door needs of the store.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Every certificate, by domain, with the revision of its last change.
    pub there: BTreeMap<String, i64>,
    /// Those that are new to who asked.
    pub new: BTreeMap<String, CertificateRecord>,
    /// What the CA is answered, by token.
    pub challenges: BTreeMap<String, ChallengeRecord>,
}

impl Tables {
    /// Starts of what a front door watches.
    #[must_use]
    pub fn served_prefixes(&self) -> [String; 2] {
        [CERTIFICATES, CHALLENGES].map(|kind| self.keys.family_of(Family::Secret, kind))
    }

    /// Certificates and challenges. Of certificates only those that are not in `known` at their
    /// revision are read.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn served(&self, known: &BTreeMap<String, i64>) -> Result<Served> {
        let [certificates, challenges] = self.served_prefixes();
        let selectors = vec![Selector::Names(certificates), Selector::Prefix(challenges)];
        let mut lists = self.read(selectors).await?.lists.into_iter();
        let mut served = Served::default();
        for kv in lists.next().into_iter().flatten() {
            if let Ok(Key::Certificate(domain)) = self.keys.parse(&kv.key) {
                served.there.insert(domain, kv.mod_revision);
            }
        }
        for kv in lists.next().into_iter().flatten().take(CHALLENGES_MAX) {
            if let Ok(Key::Challenge(token)) = self.keys.parse(&kv.key)
                && let Some(record) = readable(&kv)
            {
                served.challenges.insert(token, record);
            }
        }
        let new = served.there.iter();
        let new = new.filter(|(domain, at)| known.get(*domain) != Some(at));
        let new = new.map(|(domain, _)| self.keys.text(&Key::Certificate(domain.clone())));
        let new: Vec<String> = new.collect();
        if new.is_empty() {
            return Ok(served);
        }
        for kv in self.read_keys(new.into_iter()).await?.values() {
            if let Ok(Key::Certificate(domain)) = self.keys.parse(&kv.key)
                && let Some(record) = readable(kv)
            {
                // It may be newer than its name: what is served is what was read.
                served.there.insert(domain.clone(), kv.mod_revision);
                served.new.insert(domain, record);
            }
        }
        Ok(served)
    }

    /// What is known of each domain's certificate.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn certificate_notes(&self) -> Result<BTreeMap<String, CertificateNote>> {
        let all = Selector::Prefix(self.keys.family(Family::Certificate));
        let snapshot = self.read(vec![all]).await?;
        let mut notes = BTreeMap::new();
        for kv in snapshot.lists.iter().flatten() {
            if let Ok(Key::CertificateNote(domain)) = self.keys.parse(&kv.key)
                && let Some(note) = readable(kv)
            {
                notes.insert(domain, note);
            }
        }
        Ok(notes)
    }

    /// Notes how certificates stand.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn note_certificates(
        &self,
        leadership: &Leadership,
        notes: &BTreeMap<String, CertificateNote>,
    ) -> Result<Outcome> {
        let units = notes.iter().map(|(domain, note)| {
            let key = self.keys.text(&Key::CertificateNote(domain.clone()));
            Unit::new(Vec::new(), vec![Op::put(key, encode(note))])
        });
        self.lead(leadership, units.collect()).await
    }

    /// Keeps a new certificate, in place of the one there was.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn keep_certificate(
        &self,
        leadership: &Leadership,
        domain: &str,
        (record, note): (&CertificateRecord, &CertificateNote),
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::Certificate(domain.to_owned()));
        let noted = self.keys.text(&Key::CertificateNote(domain.to_owned()));
        let ops = vec![Op::put(key, encode(record)), Op::put(noted, encode(note))];
        let unit = Unit::new(Vec::new(), ops);
        self.lead(leadership, vec![unit]).await
    }

    /// Forgets certificates, with their keys and all that is known of them.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn forget_certificates(
        &self,
        leadership: &Leadership,
        domains: &BTreeSet<String>,
    ) -> Result<Outcome> {
        let units = domains.iter().map(|domain| {
            let keys = [
                Key::Certificate(domain.clone()),
                Key::CertificateNote(domain.clone()),
            ];
            let gone = keys.map(|key| Op::delete(self.keys.text(&key)));
            Unit::new(Vec::new(), gone.to_vec())
        });
        self.lead(leadership, units.collect()).await
    }

    /// The cluster's account at a CA, with the revision that guards its next change.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn acme_account(&self) -> Result<(Option<AccountRecord>, i64)> {
        let key = self.keys.text(&Key::AcmeAccount);
        let read = self.read_keys([key.clone()].into_iter()).await?;
        let kv = read.get(&key);
        let revision = kv.map_or(0, |kv| kv.mod_revision);
        Ok((kv.and_then(readable), revision))
    }

    /// Keeps the account that was made, unless somebody kept another since it was read at `revision`.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn keep_acme_account(
        &self,
        leadership: &Leadership,
        revision: i64,
        record: &AccountRecord,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::AcmeAccount);
        let as_read = Compare::ModRevision(key.clone(), revision);
        let unit = Unit::new(vec![as_read], vec![Op::put(key, encode(record))]);
        self.lead(leadership, vec![unit]).await
    }

    /// The challenges on record: the domain of each, by token.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn challenges(&self) -> Result<BTreeMap<String, Option<String>>> {
        let [_, challenges] = self.served_prefixes();
        let snapshot = self.read(vec![Selector::Prefix(challenges)]).await?;
        let mut found = BTreeMap::new();
        for kv in snapshot.lists.iter().flatten() {
            if let Ok(Key::Challenge(token)) = self.keys.parse(&kv.key) {
                let record: Option<ChallengeRecord> = readable(kv);
                found.insert(token, record.map(|record| record.domain));
            }
        }
        Ok(found)
    }

    /// Has every host answer a challenge.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn pose_challenge(
        &self,
        leadership: &Leadership,
        token: &str,
        record: &ChallengeRecord,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::Challenge(token.to_owned()));
        let unit = Unit::new(Vec::new(), vec![Op::put(key, encode(record))]);
        self.lead(leadership, vec![unit]).await
    }

    /// Has nobody answer these challenges any more.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn drop_challenges(
        &self,
        leadership: &Leadership,
        tokens: &BTreeSet<String>,
    ) -> Result<Outcome> {
        let units = tokens.iter().map(|token| {
            let gone = Op::delete(self.keys.text(&Key::Challenge(token.clone())));
            Unit::new(Vec::new(), vec![gone])
        });
        self.lead(leadership, units.collect()).await
    }
}

/// A record, unless it cannot be read, which is told.
fn readable<T: DeserializeOwned>(kv: &KeyValue) -> Option<T> {
    match decode(kv) {
        Ok(record) => Some(record),
        Err(reason) => {
            tracing::warn!(key = kv.key, "left out: {reason}");
            None
        }
    }
}

//! One order at the CA: the account, the proof that a domain is ours, the certificate. Talks to the CA
//! and poses challenges in the store; decides neither when nor for what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Mutex;

use super::Parts;
use super::due::Failed;
use super::http::Client;
use super::validity::{Validity, validity};
use crate::clock::now_ms;
use crate::config;
use crate::model::certificate::{
    AccountRecord, CertificateRecord, ChallengeKind, ChallengeRecord, DoorRecord,
};
use crate::model::env::SecretValue;
use crate::model::names::HostName;
use crate::store::election::Leadership;
use crate::store::tables::Outcome;
use crate::wake::Ear;

/// How long the CA may take to look at a challenge, and to sign.
const POLL_MAX: Duration = Duration::from_secs(60);

/// How long hosts may take until all of them answer a challenge. One that is dying is not waited for.
const DOORS_MAX: Duration = Duration::from_secs(10);

/// Longest token that becomes a key of the store (RFC 8555 asks for at least 22 characters).
const TOKEN_MAX: usize = 200;

/// Between two questions to the CA; doubled each time.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .timeout(POLL_MAX);

/// What the CA gave.
pub(super) struct Got {
    pub(super) record: CertificateRecord,
    pub(super) validity: Validity,
}

/// The CA, and who we are to it.
pub(super) struct Ca {
    settings: config::Acme,
    account: Mutex<Option<Account>>,
}

impl Ca {
    pub(super) fn new(settings: config::Acme) -> Self {
        Self {
            settings,
            account: Mutex::new(None),
        }
    }

    /// The cluster's account: the one on record if it is of this CA and for this address, else a new one.
    async fn account(&self, parts: &Parts, leadership: &Leadership) -> anyhow::Result<Account> {
        let mut known = self.account.lock().await;
        if let Some(account) = &*known {
            return Ok(account.clone());
        }
        let config::Acme {
            email,
            directory,
            ca,
        } = &self.settings;
        let client = Client::new(ca.as_deref())?;
        let (record, revision) = parts.tables.acme_account().await?;
        let same = record.filter(|record| record.directory == *directory && record.email == *email);
        let builder = Account::builder_with_http(Box::new(client));
        let account = match same {
            Some(record) => {
                let credentials = credentials(&record)?;
                builder.from_credentials(credentials).await?
            }
            None => {
                let contact = format!("mailto:{email}");
                let new = NewAccount {
                    contact: &[&contact],
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let made = builder.create(&new, directory.clone(), None).await;
                let (account, credentials) = made.context("making an account at the CA")?;
                let record = AccountRecord {
                    v: 1,
                    directory: directory.clone(),
                    email: email.clone(),
                    credentials: hidden(serde_json::to_string(&credentials)?)?,
                };
                let kept = parts
                    .tables
                    .keep_acme_account(leadership, revision, &record);
                if !matches!(kept.await?, Outcome::Done(_)) {
                    bail!("somebody else made an account at the same time");
                }
                account
            }
        };
        *known = Some(account.clone());
        Ok(account)
    }

    /// Orders a certificate for one domain. Challenges that it posed are left to the caller to drop.
    ///
    /// # Errors
    /// In the words that people are told.
    pub(super) async fn order(&self, posed: &Posing<'_>) -> Result<Got, Failed> {
        let ordered = self.try_order(posed).await;
        if ordered.is_err() {
            // It may be the account that the CA does not know any more.
            *self.account.lock().await = None;
        }
        ordered.map_err(|error| Failed {
            limited: problem(&error).is_some_and(is_limit),
            reason: reason(&error),
        })
    }

    async fn try_order(&self, posing: &Posing<'_>) -> anyhow::Result<Got> {
        let account = self.account(posing.parts, posing.leadership).await?;
        let names = [Identifier::Dns(posing.domain.to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names)).await?;
        prove(&mut order, posing).await?;
        let status = order.poll_ready(&POLL).await;
        if !matches!(status, Ok(OrderStatus::Ready)) {
            bail!(why_not(&mut order, status).await);
        }
        let key = hidden(order.finalize().await?)?;
        let chain = order.poll_certificate(&POLL).await?;
        let first = CertificateDer::from_pem_slice(chain.as_bytes());
        let first = first.context("what the CA sent is no certificate in PEM")?;
        let validity = validity(&first).context("the CA's certificate says no sound time")?;
        let record = CertificateRecord { v: 1, chain, key };
        Ok(Got { record, validity })
    }
}

/// Where one order's challenges are posed.
pub(super) struct Posing<'a> {
    pub(super) parts: &'a Parts,
    pub(super) leadership: &'a Arc<Leadership>,
    pub(super) domain: &'a str,
    /// The kind of challenge to take.
    pub(super) kind: ChallengeKind,
    /// Hears of what hosts say.
    pub(super) ear: Ear,
}

/// Shows the CA for each of an order's names that it is ours.
async fn prove(order: &mut Order, posing: &Posing<'_>) -> anyhow::Result<()> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        match authorization.status {
            AuthorizationStatus::Pending => {}
            AuthorizationStatus::Valid => continue,
            _ => bail!("the CA does not take proofs of this domain from us"),
        }
        let kind = posing.kind;
        let wanted = match kind {
            ChallengeKind::Http01 => ChallengeType::Http01,
            ChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
        };
        let challenge = authorization.challenge(wanted);
        let mut challenge = challenge.with_context(|| format!("the CA offers no {kind}"))?;
        let token = challenge.token.clone();
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(sound) {
            bail!("the CA's token is none");
        }
        let answer = hidden(challenge.key_authorization().as_str().to_owned())?;
        pose(posing, &token, answer).await?;
        challenge.set_ready().await?;
    }
    Ok(())
}

/// Poses a challenge, and waits until the front doors answer it.
async fn pose(posing: &Posing<'_>, token: &str, answer: SecretValue) -> anyhow::Result<()> {
    let record = ChallengeRecord {
        v: 1,
        domain: posing.domain.to_owned(),
        kind: posing.kind,
        answer,
    };
    let tables = &posing.parts.tables;
    let posed = tables.pose_challenge(posing.leadership, token, &record);
    if !matches!(posed.await?, Outcome::Done(_)) {
        bail!("this host does not lead any more");
    }
    let answered = async {
        let mut ear = posing.ear.clone();
        loop {
            let hosts = tables.world(now_ms()).await?.hosts;
            let doors = hosts.into_iter().map(|(host, record)| (host, record.door));
            if silent(&doors.collect(), posing.kind, token).is_empty() {
                return anyhow::Ok(());
            }
            ear.heard().await;
        }
    };
    let Ok(answered) = tokio::time::timeout(DOORS_MAX, answered).await else {
        // The CA may well come to one of the others.
        tracing::debug!(posing.domain, "not every door answers yet");
        return Ok(());
    };
    answered
}

/// Hosts whose doors such a challenge can come to and that do not answer it yet.
fn silent<'a>(
    doors: &'a BTreeMap<HostName, DoorRecord>,
    kind: ChallengeKind,
    token: &str,
) -> BTreeSet<&'a HostName> {
    let open = doors.iter().filter(|(_, door)| door.takes(kind));
    let silent = open.filter(|(_, door)| !door.answers.iter().any(|known| known == token));
    silent.map(|(host, _)| host).collect()
}

/// Why an order did not get ready: what the CA says of the challenge, if it does.
async fn why_not(order: &mut Order, status: Result<OrderStatus, Error>) -> anyhow::Error {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        let Ok(state) = authorization.refresh().await else {
            break;
        };
        let mut problems = state.challenges.iter().filter_map(|c| c.error.clone());
        if let Some(problem) = problems.next() {
            return Error::Api(problem).into();
        }
    }
    match status {
        Ok(_) => anyhow::anyhow!("the CA did not accept the proof"),
        Err(error) => error.into(),
    }
}

fn credentials(record: &AccountRecord) -> anyhow::Result<AccountCredentials> {
    // Not the reader's own words: they would repeat what was found.
    serde_json::from_str(record.credentials.expose())
        .map_err(|_| anyhow::anyhow!("the account on record cannot be read"))
}

fn hidden(text: String) -> anyhow::Result<SecretValue> {
    SecretValue::parse(text).map_err(anyhow::Error::msg)
}

fn problem(error: &anyhow::Error) -> Option<&Problem> {
    match error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Error>())
    {
        Some(Error::Api(problem)) => Some(problem),
        _ => None,
    }
}

fn is_limit(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    kind.ends_with(":rateLimited") || problem.status == Some(429)
}

/// What people are told: the CA's own words where there are some.
fn reason(error: &anyhow::Error) -> String {
    match problem(error).and_then(|problem| problem.detail.as_ref()) {
        Some(detail) => format!("the CA says: {detail}"),
        None => format!("{error:#}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(http: bool, answers: &[&str]) -> DoorRecord {
        DoorRecord {
            http,
            https: true,
            answers: answers.iter().map(|token| (*token).to_owned()).collect(),
        }
    }

    #[test]
    fn only_doors_that_a_challenge_can_come_to_are_waited_for() {
        let host = |name: &str| HostName::parse(name).unwrap();
        let doors = BTreeMap::from([
            (host("a"), door(true, &["t"])),
            (host("b"), door(true, &["u"])),
            (host("c"), door(false, &[])),
            (host("d"), DoorRecord::default()),
        ]);
        let names = |kind| {
            let silent = silent(&doors, kind, "t");
            silent.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names(ChallengeKind::Http01), ["b"]);
        assert_eq!(names(ChallengeKind::TlsAlpn01), ["b", "c"]);
    }

    #[test]
    fn a_ca_that_is_asked_too_much_is_told_from_one_that_refuses() {
        let said = |kind: &str| {
            let problem: Problem =
                serde_json::from_value(serde_json::json!({"type": kind, "detail": "no"})).unwrap();
            anyhow::Error::from(Error::Api(problem)).context("ordering")
        };
        let limited = said("urn:ietf:params:acme:error:rateLimited");
        assert!(problem(&limited).is_some_and(is_limit));
        let refused = said("urn:ietf:params:acme:error:unauthorized");
        assert!(!problem(&refused).is_some_and(is_limit));
        assert_eq!(reason(&refused), "the CA says: no");
        assert_eq!(reason(&anyhow::anyhow!("x").context("y")), "y: x");
    }
}

//! The members of etcd, a client for each, and calls that go on through the next member when one
//! does not answer. Used by the rest of `etcd`. Never asks twice for what may have been done once,
//! unless doing it twice is the same.

use std::future::Future;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::wire::{Fault, Head, fault, some_key};
use crate::store::Error;

/// Between two rounds through the members.
const PAUSE: Duration = Duration::from_millis(100);

/// How long a call may take, and whether doing it twice is the same as once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For one member.
    pub(super) attempt: Duration,
    /// For all of them together.
    pub(super) overall: Duration,
    /// Ask again also when it may have been done.
    pub(super) again: bool,
}

/// A read, or a write that is the same when it is done twice.
pub(super) const REPEATABLE: Limits = Limits {
    attempt: Duration::from_secs(2),
    overall: Duration::from_secs(5),
    again: true,
};

/// A write that must not be done twice.
pub(super) const ONCE: Limits = Limits {
    again: false,
    ..REPEATABLE
};

/// A keep-alive: a leader has a second for it, in which a member that hangs must leave time to ask
/// another.
pub(super) const KEEP_ALIVE: Limits = Limits {
    attempt: Duration::from_millis(500),
    overall: Duration::from_secs(3),
    again: true,
};

/// What was seen of etcd so far, by all clients together.
#[derive(Debug, Default)]
pub(super) struct Seen {
    cluster: OnceLock<u64>,
    revision: AtomicI64,
    doubts: watch::Sender<()>,
}

impl Seen {
    /// Hears when a call to a member failed: what is silent anyway, a watch, looks after itself then.
    pub(super) fn doubts(&self) -> watch::Receiver<()> {
        self.doubts.subscribe()
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    pub(super) fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    /// Whether an answer counts: of the cluster we know, and not older than what was seen when it
    /// was asked for.
    pub(super) fn judge(&self, head: Head, asked: i64) -> Result<(), String> {
        self.known(head.cluster)?;
        if head.revision < asked {
            return Err(format!(
                "it answers from revision {}, after {asked} was seen",
                head.revision
            ));
        }
        self.saw(head.revision);
        Ok(())
    }

    /// Whether a member is one of ours.
    pub(super) fn known(&self, cluster: u64) -> Result<(), String> {
        let known = *self.cluster.get_or_init(|| cluster);
        if cluster == known {
            return Ok(());
        }
        Err(format!(
            "it belongs to etcd cluster {cluster:x}, not to {known:x} as the others"
        ))
    }
}

/// One client for each member, all of one runtime.
pub(super) struct Pool {
    members: Vec<Member>,
    options: ConnectOptions,
    /// The member that is asked first: the one that answered last.
    current: AtomicUsize,
    seen: Arc<Seen>,
}

struct Member {
    endpoint: String,
    client: Mutex<Option<Client>>,
}

impl Member {
    async fn client(&self, options: &ConnectOptions) -> Result<Client, etcd_client::Error> {
        let mut slot = self.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([&self.endpoint], Some(options.clone())).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Drops a connection that may be dead without knowing it, or whose token is. Whoever holds the
    /// lock is making a new one already.
    fn forget(&self) {
        if let Ok(mut slot) = self.client.try_lock() {
            drop(slot.take());
        }
    }
}

/// The member to ask first: one on this machine, so that nobody else's loss is felt here; else by
/// chance, so that not all hosts ask the same one.
fn first(endpoints: &[String]) -> usize {
    let local = |endpoint: &String| {
        let url = url::Url::parse(endpoint).ok();
        let ip = url.and_then(|url| match url.host()? {
            url::Host::Ipv4(ip) => Some(IpAddr::from(ip)),
            url::Host::Ipv6(ip) => Some(IpAddr::from(ip)),
            url::Host::Domain(_) => None,
        });
        // Only an address of this machine can be bound.
        ip.is_some_and(|ip| UdpSocket::bind((ip, 0)).is_ok())
    };
    let own = endpoints.iter().position(local);
    own.unwrap_or_else(|| fastrand::usize(..endpoints.len().max(1)))
}

impl Pool {
    /// Connects to nobody yet; `options` hold the secrets.
    pub(super) fn new(endpoints: &[String], options: ConnectOptions, seen: Arc<Seen>) -> Self {
        let member = |endpoint: &String| Member {
            endpoint: endpoint.clone(),
            client: Mutex::new(None),
        };
        Self {
            members: endpoints.iter().map(member).collect(),
            options,
            current: AtomicUsize::new(first(endpoints)),
            seen,
        }
    }

    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    /// The member to ask next, for who asks by itself; see [`Self::leave`].
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Acquire) % self.members.len()
    }

    /// Asks another member next; does nothing when somebody else has seen to it.
    pub(super) fn leave(&self, at: usize) {
        self.seen.doubts.send_replace(());
        let next = (at + 1) % self.members.len();
        let left = self
            .current
            .compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire);
        if left.is_ok() && next != at {
            tracing::debug!(member = self.members[at].endpoint, "asking another member");
        }
    }

    /// The newest revision, agreed on by the members; `key` is one that our user may read.
    pub(super) async fn revision(&self, key: &str) -> Result<i64, Fault> {
        let ask = |mut client: Client| async move {
            let options = GetOptions::new().with_keys_only();
            let answer = client.get(some_key(key), Some(options)).await?;
            let head = Head::of(answer.header());
            Ok((head, head.map_or(0, |head| head.revision)))
        };
        self.call(REPEATABLE, ask).await
    }

    /// Asks until there is an answer, an error that is final, or no time left.
    pub(super) async fn call<T, F, A>(&self, limits: Limits, ask: F) -> Result<T, Fault>
    where
        F: Fn(Client) -> A,
        A: Future<Output = Result<(Option<Head>, T), etcd_client::Error>>,
    {
        let until = Instant::now() + limits.overall;
        let mut tries = 0;
        let mut before = None;
        let mut doubted = 0;
        loop {
            tries += 1;
            let at = self.current();
            let limit = until.min(Instant::now() + limits.attempt);
            let fault = match self.attempt(at, limit, limits.again, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            match fault {
                Fault::NotDone(_) => self.leave(at),
                Fault::Token(_) => {}
                Fault::Doubted(_) => {
                    self.leave(at);
                    doubted += 1;
                    // When none can be believed, time does not help.
                    if doubted >= self.members.len() {
                        return Err(fault);
                    }
                }
                Fault::Unsure(_) => {
                    self.leave(at);
                    if !limits.again {
                        return Err(fault);
                    }
                }
                Fault::NoLease | Fault::Compacted | Fault::Final(_) => return Err(fault),
            }
            let round = tries % self.members.len() == 0;
            let pause = if round { PAUSE } else { Duration::ZERO };
            if Instant::now() + pause >= until {
                // That the last try was cut short says less than why the one before it failed.
                let cut_short = Instant::now() >= until;
                return Err(before.filter(|_| cut_short).unwrap_or(fault));
            }
            before = Some(fault);
            sleep(pause).await;
        }
    }

    async fn attempt<T, F, A>(
        &self,
        at: usize,
        limit: Instant,
        again: bool,
        ask: &F,
    ) -> Result<T, Fault>
    where
        F: Fn(Client) -> A,
        A: Future<Output = Result<(Option<Head>, T), etcd_client::Error>>,
    {
        let client = self.connect(at, limit).await?;
        let member = &self.members[at];
        let asked = self.seen.revision();
        let Ok(answer) = timeout_at(limit, ask(client)).await else {
            member.forget();
            return Err(Fault::Unsure("no answer in time".into()).said_by(&member.endpoint));
        };
        let (head, answer) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let fault = fault(&error).said_by(&member.endpoint);
                if matches!(fault, Fault::Token(_)) {
                    member.forget();
                }
                return Err(fault);
            }
        };
        let judged = head.map_or(Ok(()), |head| self.seen.judge(head, asked));
        match judged {
            Ok(()) => Ok(answer),
            // What was written there is written; whoever asked must not take it for done.
            Err(why) if !again => Err(Fault::Final(Error::Failed(why)).said_by(&member.endpoint)),
            Err(why) => Err(Fault::Doubted(why).said_by(&member.endpoint)),
        }
    }

    /// A client of a member. With a user it has to log in; without one nothing is sent yet.
    pub(super) async fn connect(&self, at: usize, limit: Instant) -> Result<Client, Fault> {
        let member = &self.members[at];
        match timeout_at(limit, member.client(&self.options)).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(match fault(&error).said_by(&member.endpoint) {
                // Nothing was asked for yet.
                Fault::Unsure(why) => Fault::NotDone(why),
                other => other,
            }),
            Err(_) => Err(Fault::NotDone("no login in time".into()).said_by(&member.endpoint)),
        }
    }

    /// For who found a member silent by itself.
    pub(super) fn forget(&self, at: usize) {
        self.members[at].forget();
    }
}

//! Between our words and etcd's: keys, transactions, events, and what an error means for who asked.
//! Pure; used by the rest of `etcd`.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, DeleteOptions, EventType, GetOptions, PutOptions,
    ResponseHeader, TxnOp,
};
use tonic::{Code, ConnectError, Status};

use super::words::{bounded, chain, explained};
use crate::store::{Compare, Error, Event, KeyValue, LeaseId, Op, Selector, Txn};

/// What the client says when a keep-alive is answered with no time to live.
const LEASE_NOT_FOUND: &str = "lease not found";

/// Who answered, and at which revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) cluster: u64,
    pub(super) revision: i64,
}

impl Head {
    pub(super) fn of(header: Option<&ResponseHeader>) -> Option<Self> {
        header.map(|header| Self {
            cluster: header.cluster_id(),
            revision: header.revision(),
        })
    }
}

/// Why a call has no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Not carried out, for certain; another member or a later try may.
    NotDone(String),
    /// Perhaps carried out.
    Unsure(String),
    /// The lease that was named has ended.
    NoLease,
    /// The revision asked for is forgotten.
    Compacted,
    /// The token is out of date; nothing was done.
    Token(String),
    /// The member's answer cannot be true; another's may be.
    Doubted(String),
    /// Asking again helps nobody.
    Final(Error),
}

impl Fault {
    /// For the caller of the store; `lease` is the one that was named.
    pub(super) fn into_error(self, lease: LeaseId) -> Error {
        match self {
            Self::NotDone(why) | Self::Unsure(why) | Self::Token(why) => Error::Unreachable(why),
            Self::Doubted(why) => Error::Failed(why),
            Self::NoLease => Error::LeaseGone(lease),
            Self::Compacted => Error::Unreachable("it was compacted while it was read".into()),
            Self::Final(error) => error,
        }
    }

    /// Names who said it.
    pub(super) fn said_by(self, endpoint: &str) -> Self {
        let named = |why: String| format!("{endpoint}: {why}");
        match self {
            Self::NotDone(why) => Self::NotDone(named(why)),
            Self::Unsure(why) => Self::Unsure(named(why)),
            Self::Token(why) => Self::Token(named(why)),
            Self::Doubted(why) => Self::Doubted(named(why)),
            Self::Final(Error::Refused(why)) => Self::Final(Error::Refused(named(why))),
            Self::Final(Error::Failed(why)) => Self::Final(Error::Failed(named(why))),
            other => other,
        }
    }
}

/// What an error of the client means.
pub(super) fn fault(error: &etcd_client::Error) -> Fault {
    match error {
        etcd_client::Error::GRpcStatus(status) => of_status(status),
        etcd_client::Error::LeaseKeepAliveError(why) if why == LEASE_NOT_FOUND => Fault::NoLease,
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => {
            Fault::Final(Error::Failed(bounded(&error.to_string())))
        }
        // Made while the client is set up: files that cannot be used.
        etcd_client::Error::TransportError(transport) => {
            Fault::Final(Error::Failed(bounded(&chain(transport))))
        }
        other => Fault::Unsure(bounded(&other.to_string())),
    }
}

fn of_status(status: &Status) -> Fault {
    let text = explained(status);
    let message = status.message();
    if message.contains("requested lease not found") {
        return Fault::NoLease;
    }
    if message.contains("has been compacted") {
        return Fault::Compacted;
    }
    // The users were changed since the token was made; or the token is too old.
    if message.contains("revision") && message.contains("old") || message.contains("auth token") {
        return Fault::Token(text);
    }
    // Refused before it was proposed to the members.
    let unproposed = [
        "etcdserver: no leader",
        "too many requests",
        "proposal dropped",
    ];
    if never_sent(status) || unproposed.iter().any(|sign| message.contains(sign)) {
        return Fault::NotDone(text);
    }
    let too_large = message.contains("too large")
        || message.contains("too many operations")
        || message.contains("duplicate key")
        || message.contains("larger than max");
    match status.code() {
        Code::InvalidArgument | Code::ResourceExhausted if too_large => {
            Fault::Final(Error::Refused(text))
        }
        Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss => Fault::Final(Error::Failed(text)),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => Fault::Unsure(text),
    }
}

/// Whether there was no connection to send it over.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The first key and the end of all keys that start so, as etcd writes ranges.
pub(super) fn prefix_range(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let start = prefix.as_bytes();
    let mut end = start.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (start.to_vec(), end);
        }
    }
    // All keys: a zero stands for the first and for no end.
    let from = if start.is_empty() { &[0] } else { start };
    (from.to_vec(), vec![0])
}

/// What is read when only the revision is wanted. It must be something: a transaction that reads
/// nothing is answered by one member alone, from what it happens to know.
pub(super) fn some_key(key: &str) -> &str {
    if key.is_empty() { "/" } else { key }
}

/// A read that goes on page by page.
#[derive(Debug)]
pub(super) struct Want {
    next: Vec<u8>,
    /// None for a single key.
    end: Option<Vec<u8>>,
    /// Keys without their values.
    names: bool,
    pub(super) more: bool,
    pub(super) list: Vec<KeyValue>,
}

impl Want {
    pub(super) fn of(selector: &Selector) -> Self {
        let (next, end) = match selector {
            Selector::Key(key) => (key.as_bytes().to_vec(), None),
            Selector::Prefix(prefix) | Selector::Names(prefix) => {
                let (start, end) = prefix_range(prefix);
                (start, Some(end))
            }
        };
        Self {
            next,
            end,
            names: matches!(selector, Selector::Names(_)),
            more: true,
            list: Vec::new(),
        }
    }

    /// The next page at `revision`, 0 for the newest.
    pub(super) fn page(&self, revision: i64, limit: i64) -> TxnOp {
        let mut options = GetOptions::new().with_revision(revision).with_limit(limit);
        if let Some(end) = &self.end {
            options = options.with_range(end.clone());
        }
        if self.names {
            options = options.with_keys_only();
        }
        TxnOp::get(self.next.clone(), Some(options))
    }

    pub(super) fn take(&mut self, kvs: Vec<etcd_client::KeyValue>, more: bool) {
        if let Some(last) = kvs.last() {
            self.next = last.key().to_vec();
            self.next.push(0);
        }
        self.more = more && !kvs.is_empty();
        self.list.extend(kvs.into_iter().map(key_value));
    }
}

/// A key that is no text is shown as well as it can be: who reads it reports it.
fn key_value(kv: etcd_client::KeyValue) -> KeyValue {
    let (create_revision, mod_revision, lease) =
        (kv.create_revision(), kv.mod_revision(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue {
        key: text(key),
        value,
        create_revision,
        mod_revision,
        lease,
    }
}

fn text(key: Vec<u8>) -> String {
    String::from_utf8(key)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// What a watch tells, without what it told before `from`.
pub(super) fn events(events: &[etcd_client::Event], from: i64) -> Vec<Event> {
    let told = events.iter().filter_map(|event| {
        let kv = event.kv()?;
        let revision = kv.mod_revision();
        let deleted = event.event_type() == EventType::Delete;
        (revision >= from).then(|| Event {
            key: text(kv.key().to_vec()),
            value: (!deleted).then(|| key_value(kv.clone())),
            revision,
        })
    });
    told.collect()
}

/// A transaction as etcd takes it.
pub(super) fn transaction(txn: &Txn) -> etcd_client::Txn {
    let compares: Vec<EtcdCompare> = txn.compares.iter().map(compare).collect();
    let ops: Vec<TxnOp> = txn.ops.iter().map(op).collect();
    etcd_client::Txn::new().when(compares).and_then(ops)
}

fn compare(compare: &Compare) -> EtcdCompare {
    match compare {
        Compare::CreateRevision(key, at) => {
            EtcdCompare::create_revision(key.as_str(), CompareOp::Equal, *at)
        }
        Compare::ModRevision(key, at) => {
            EtcdCompare::mod_revision(key.as_str(), CompareOp::Equal, *at)
        }
    }
}

fn op(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = PutOptions::new().with_lease(*lease);
            TxnOp::put(key.as_str(), value.as_slice(), Some(options))
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
        Op::DeletePrefix { prefix } => {
            let (start, end) = prefix_range(prefix);
            TxnOp::delete(start, Some(DeleteOptions::new().with_range(end)))
        }
    }
}

/// The lease that a transaction puts under; 0 for none. Ours never use two.
pub(super) fn lease_of(txn: &Txn) -> LeaseId {
    let lease = |op: &Op| match op {
        Op::Put { lease, .. } => *lease,
        Op::Delete { .. } | Op::DeletePrefix { .. } => 0,
    };
    txn.ops
        .iter()
        .map(lease)
        .find(|lease| *lease != 0)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_no_key_can_start_so() {
        let range = |prefix: &str| {
            let (start, end) = prefix_range(prefix);
            (start, end)
        };
        assert_eq!(range("/a/"), (b"/a/".to_vec(), b"/a0".to_vec()));
        assert_eq!(range(""), (vec![0], vec![0]));
        // The last byte of a text is never the highest, so there is always an end.
        assert_eq!(
            range("/\u{10ffff}").1,
            [b"/".as_slice(), &[0xf4, 0x8f, 0xbf, 0xc0]].concat()
        );
    }

    #[test]
    fn only_what_was_refused_before_it_was_proposed_is_known_not_to_be_done() {
        let of = |code, message: &str| of_status(&Status::new(code, message));
        let not_done = |fault| matches!(fault, Fault::NotDone(_));
        assert!(not_done(of(Code::Unavailable, "etcdserver: no leader")));
        assert!(not_done(of(
            Code::ResourceExhausted,
            "etcdserver: too many requests"
        )));
        for message in [
            "etcdserver: request timed out",
            "etcdserver: leader changed",
            "transport error",
        ] {
            let fault = of(Code::Unavailable, message);
            assert!(matches!(fault, Fault::Unsure(_)), "{fault:?}");
        }
    }

    #[test]
    fn a_request_that_can_never_work_is_told_from_a_store_that_cannot() {
        let of = |code, message: &str| of_status(&Status::new(code, message));
        assert!(matches!(
            of(Code::InvalidArgument, "etcdserver: request is too large"),
            Fault::Final(Error::Refused(_))
        ));
        for (code, message) in [
            (Code::PermissionDenied, "etcdserver: permission denied"),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            let Fault::Final(Error::Failed(text)) = of(code, message) else {
                panic!("{message}");
            };
            assert!(text.starts_with(message) && text.contains("; "), "{text}");
        }
    }
}

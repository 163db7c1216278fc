//! The flows of one UDP link: which client is led to which copy, and which flow ends when there are too
//! many. Driven by `datagrams`; knows no sockets, no stacks and no clock. What carries a flow (`S`) is
//! dropped with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::endpoint::Copy;

/// Nothing passed for this long: whoever comes again begins anew, perhaps at another copy. RFC 4787
/// (REQ-5) lets nothing that stands between two UDP peers forget them sooner.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(120);

/// What was asked of a copy just before it was replaced is still answered for this long.
pub(super) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A copy that refused a datagram is passed over for this long, if there is another one.
const PASSED_OVER: Duration = Duration::from_secs(1);

/// A copy on another host that has answered nothing for this long is left, if there is another one. An
/// endpoint may outlive its host, and a host without power refuses nothing.
const SILENT_MAX: Duration = Duration::from_secs(3);

/// For how long it is passed over then. Who never answers, as some protocols have it, costs his clients
/// no more than a change of copy now and then.
const SILENT_PASSED_OVER: Duration = Duration::from_secs(30);

/// One of the flows that a client had one after the other.
pub(super) type FlowId = u64;

struct Flow<S> {
    id: FlowId,
    copy: SocketAddr,
    used: Instant,
    /// When the first datagram was sent that nothing has come back for.
    unanswered_since: Option<Instant>,
    /// Its place in the order of use.
    turn: u64,
    gone_since: Option<Instant>,
    carrier: S,
}

/// Where a datagram goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Lead<'a, S> {
    /// The way of those before it.
    Along(&'a mut S),
    /// To this copy, by a new flow.
    Anew(SocketAddr),
    /// There is no copy.
    Nowhere,
}

/// See the file's head.
pub(super) struct Flows<S> {
    by_client: BTreeMap<SocketAddr, Flow<S>>,
    /// Clients, the least recently used first.
    by_turn: BTreeMap<u64, SocketAddr>,
    /// How many flows each copy has.
    loads: BTreeMap<SocketAddr, usize>,
    /// Copies that refused, and until when they are passed over.
    refusing: BTreeMap<SocketAddr, Instant>,
    /// Counts uses; also numbers flows.
    turn: u64,
}

impl<S> Flows<S> {
    pub(super) fn new() -> Self {
        Self {
            by_client: BTreeMap::new(),
            by_turn: BTreeMap::new(),
            loads: BTreeMap::new(),
            refusing: BTreeMap::new(),
            turn: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_client.is_empty()
    }

    /// The way of a client's datagram. A flow to a copy that is not among the copies any more ends.
    pub(super) fn lead(
        &mut self,
        client: SocketAddr,
        copies: &[Copy],
        now: Instant,
    ) -> Lead<'_, S> {
        if let Some(silent) = self.silent(client, copies, now) {
            self.refusing.insert(silent, now + SILENT_PASSED_OVER);
            self.end(client);
        }
        let leads = |flow: &Flow<S>| is_among(copies, flow.copy);
        if !self.by_client.get(&client).is_some_and(leads) {
            self.end(client);
            return self.choose(copies, now).map_or(Lead::Nowhere, Lead::Anew);
        }
        let Some(flow) = self.touch(client, now) else {
            return Lead::Nowhere;
        };
        flow.unanswered_since.get_or_insert(now);
        Lead::Along(&mut flow.carrier)
    }

    /// Something has come back on a flow.
    pub(super) fn answered(&mut self, client: SocketAddr, now: Instant) {
        if let Some(flow) = self.touch(client, now) {
            flow.unanswered_since = None;
        }
    }

    /// A flow is used.
    fn touch(&mut self, client: SocketAddr, now: Instant) -> Option<&mut Flow<S>> {
        let flow = self.by_client.get_mut(&client)?;
        self.by_turn.remove(&flow.turn);
        self.turn += 1;
        (flow.turn, flow.used) = (self.turn, now);
        self.by_turn.insert(self.turn, client);
        Some(flow)
    }

    /// The copy of a client's flow, if it says nothing and there is another one. Of a copy on this host
    /// the engine would have told.
    fn silent(&self, client: SocketAddr, copies: &[Copy], now: Instant) -> Option<SocketAddr> {
        let flow = self.by_client.get(&client)?;
        let since = flow.unanswered_since?;
        let elsewhere = |copy: &&Copy| copy.address == flow.copy && !copy.here;
        let copy = copies.iter().find(elsewhere)?.address;
        let other =
            |other: &Copy| other.address != copy && !self.is_passed_over(other.address, now);
        let silent = now.saturating_duration_since(since) >= SILENT_MAX;
        (silent && copies.iter().any(other)).then_some(copy)
    }

    /// What carries a flow, if it is still the one meant.
    pub(super) fn carrier(&mut self, client: SocketAddr, id: FlowId) -> Option<&mut S> {
        let flow = self.by_client.get_mut(&client).filter(|f| f.id == id)?;
        Some(&mut flow.carrier)
    }

    /// A client's flow to a copy begins. With no `room` left those least recently used end.
    pub(super) fn begin(
        &mut self,
        client: SocketAddr,
        copy: SocketAddr,
        carrier: S,
        now: Instant,
        room: usize,
    ) -> FlowId {
        self.end(client);
        self.shrink(room.saturating_sub(1));
        self.turn += 1;
        let flow = Flow {
            id: self.turn,
            copy,
            used: now,
            unanswered_since: Some(now),
            turn: self.turn,
            gone_since: None,
            carrier,
        };
        self.by_client.insert(client, flow);
        self.by_turn.insert(self.turn, client);
        *self.loads.entry(copy).or_default() += 1;
        self.turn
    }

    /// Ends a client's flow; answers what carried it.
    pub(super) fn end(&mut self, client: SocketAddr) -> Option<(SocketAddr, S)> {
        let flow = self.by_client.remove(&client)?;
        self.by_turn.remove(&flow.turn);
        if let Some(load) = self.loads.get_mut(&flow.copy) {
            *load -= 1;
            if *load == 0 {
                self.loads.remove(&flow.copy);
            }
        }
        Some((flow.copy, flow.carrier))
    }

    /// A copy took nothing.
    pub(super) fn refused(&mut self, copy: SocketAddr, now: Instant) {
        self.refusing.insert(copy, now + PASSED_OVER);
    }

    /// Whether any of these is not passed over now.
    pub(super) fn any_open(&self, copies: &[Copy], now: Instant) -> bool {
        copies
            .iter()
            .any(|copy| !self.is_passed_over(copy.address, now))
    }

    /// Ends what nobody uses any more, what leads to copies that are gone, and what there is no room for.
    pub(super) fn sweep(&mut self, copies: &[Copy], now: Instant, room: usize) {
        self.refusing
            .retain(|copy, until| *until > now && is_among(copies, *copy));
        let mut over = Vec::new();
        for (client, flow) in &mut self.by_client {
            let gone = !is_among(copies, flow.copy);
            let since = flow.gone_since.take().unwrap_or(now);
            flow.gone_since = gone.then_some(since);
            let idle = now.saturating_duration_since(flow.used) >= IDLE_MAX;
            if idle || (gone && now.saturating_duration_since(since) >= LAST_ANSWERS) {
                over.push(*client);
            }
        }
        for client in over {
            self.end(client);
        }
        self.shrink(room);
    }

    fn shrink(&mut self, room: usize) {
        while self.by_client.len() > room
            && let Some((_, client)) = self.by_turn.pop_first()
        {
            self.end(client);
        }
    }

    fn is_passed_over(&self, copy: SocketAddr, now: Instant) -> bool {
        self.refusing.get(&copy).is_some_and(|until| *until > now)
    }

    /// Rather a copy that did not refuse, then the one with the fewest flows, then one of this host;
    /// among equals another one each time.
    fn choose(&self, copies: &[Copy], now: Instant) -> Option<SocketAddr> {
        let first = usize::try_from(self.turn).unwrap_or(0) % copies.len().max(1);
        let order = copies[first..].iter().chain(&copies[..first]);
        let cost = |copy: &&Copy| {
            let load = self.loads.get(&copy.address).copied().unwrap_or(0);
            (self.is_passed_over(copy.address, now), load, !copy.here)
        };
        order.min_by_key(cost).map(|copy| copy.address)
    }
}

fn is_among(copies: &[Copy], address: SocketAddr) -> bool {
    copies.iter().any(|copy| copy.address == address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::job::JobId;
    use proptest::prelude::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([172, 18, 0, 9], port))
    }

    fn copies(ports: &[u16]) -> Vec<Copy> {
        ports.iter().map(|port| copy(*port, false)).collect()
    }

    fn copy(port: u16, here: bool) -> Copy {
        Copy {
            job_id: JobId(format!("s.t.dns.{port}.1")),
            address: at(port),
            here,
            slot: None,
        }
    }

    /// Leads a client's datagram; answers the copy it goes to.
    fn go(
        flows: &mut Flows<SocketAddr>,
        from: u16,
        copies: &[Copy],
        now: Instant,
        room: usize,
    ) -> Option<SocketAddr> {
        let to = match flows.lead(client(from), copies, now) {
            Lead::Along(to) => return Some(*to),
            Lead::Nowhere => return None,
            Lead::Anew(to) => to,
        };
        flows.begin(client(from), to, to, now, room);
        Some(to)
    }

    #[test]
    fn a_client_stays_with_its_copy_and_clients_are_spread_evenly() {
        let (mut flows, now, two) = (Flows::new(), Instant::now(), copies(&[1, 2]));
        let first: Vec<_> = (0..10).map(|n| go(&mut flows, n, &two, now, 99)).collect();
        let again: Vec<_> = (0..10).map(|n| go(&mut flows, n, &two, now, 99)).collect();
        assert_eq!(first, again);
        assert_eq!(flows.loads, [(at(1), 5), (at(2), 5)].into());
    }

    #[test]
    fn of_copies_with_as_many_flows_the_nearer_one_is_chosen() {
        let (mut flows, now) = (Flows::new(), Instant::now());
        let both = [copy(1, false), copy(2, true)];
        assert_eq!(go(&mut flows, 1, &both, now, 99), Some(at(2)));
        assert_eq!(go(&mut flows, 2, &both, now, 99), Some(at(1)));
        assert_eq!(go(&mut flows, 3, &both, now, 99), Some(at(2)));
    }

    #[test]
    fn the_next_datagram_after_a_copy_is_gone_goes_to_one_that_lives() {
        let (mut flows, now) = (Flows::new(), Instant::now());
        assert_eq!(go(&mut flows, 1, &copies(&[1]), now, 99), Some(at(1)));
        assert_eq!(go(&mut flows, 1, &copies(&[2]), now, 99), Some(at(2)));
        assert_eq!(go(&mut flows, 1, &[], now, 99), None);
        assert!(flows.is_empty() && flows.loads.is_empty());
    }

    #[test]
    fn who_asked_a_copy_just_before_it_was_replaced_still_gets_an_answer() {
        let (mut flows, now) = (Flows::new(), Instant::now());
        go(&mut flows, 1, &copies(&[1]), now, 99);
        let id = flows.by_client[&client(1)].id;
        flows.sweep(&copies(&[2]), now, 99);
        assert!(flows.carrier(client(1), id).is_some());
        flows.sweep(&copies(&[2]), now + LAST_ANSWERS, 99);
        assert!(flows.carrier(client(1), id).is_none());
    }

    #[test]
    fn a_copy_elsewhere_that_says_nothing_is_left_if_there_is_another() {
        let (mut flows, now, two) = (Flows::new(), Instant::now(), copies(&[1, 2]));
        let first = go(&mut flows, 1, &two, now, 99);
        let ms = |ms| now + Duration::from_millis(ms);
        assert_eq!(go(&mut flows, 1, &two, ms(2_900), 99), first);
        let second = go(&mut flows, 1, &two, ms(3_000), 99);
        assert_ne!(second, first);
        // Others do not go there either, and whoever is answered stays where he is.
        assert_eq!(go(&mut flows, 2, &two, ms(3_000), 99), second);
        flows.answered(client(1), ms(5_000));
        assert_eq!(go(&mut flows, 1, &two, ms(60_000), 99), second);
        assert_eq!(go(&mut flows, 1, &two, ms(62_000), 99), second);
        // The only one that is left is better than none, and one of this host is never left for that.
        assert_eq!(go(&mut flows, 1, &two, ms(64_000), 99), first);
        assert_eq!(go(&mut flows, 1, &two, ms(68_000), 99), first);
        let here = [copy(1, true), copy(2, false)];
        assert_eq!(go(&mut flows, 3, &here, now, 99), Some(at(1)));
        assert_eq!(go(&mut flows, 3, &here, ms(90_000), 99), Some(at(1)));
    }

    #[test]
    fn a_copy_that_comes_back_keeps_its_flows() {
        let (mut flows, now) = (Flows::new(), Instant::now());
        go(&mut flows, 1, &copies(&[1]), now, 99);
        flows.sweep(&[], now, 99);
        flows.sweep(&copies(&[1]), now + LAST_ANSWERS, 99);
        flows.sweep(&[], now + LAST_ANSWERS, 99);
        assert!(!flows.is_empty());
    }

    #[test]
    fn a_copy_that_refuses_is_passed_over_for_a_while_if_there_is_another() {
        let (mut flows, now, two) = (Flows::new(), Instant::now(), copies(&[1, 2]));
        flows.refused(at(1), now);
        for n in 0..4 {
            assert_eq!(go(&mut flows, n, &two, now, 99), Some(at(2)));
        }
        assert_eq!(go(&mut flows, 9, &two, now + PASSED_OVER, 99), Some(at(1)));
        flows.refused(at(2), now);
        assert!(!flows.any_open(&two, now));
        assert!(go(&mut flows, 10, &two, now, 99).is_some());
    }

    #[test]
    fn what_nobody_uses_ends_and_what_is_used_does_not() {
        let (mut flows, now, one) = (Flows::new(), Instant::now(), copies(&[1]));
        go(&mut flows, 1, &one, now, 99);
        go(&mut flows, 2, &one, now, 99);
        go(&mut flows, 2, &one, now + IDLE_MAX / 2, 99);
        flows.sweep(&one, now + IDLE_MAX, 99);
        assert_eq!(flows.by_client.keys().collect::<Vec<_>>(), [&client(2)]);
    }

    #[test]
    fn with_no_room_left_the_least_recently_used_goes_first() {
        let (mut flows, now, one) = (Flows::new(), Instant::now(), copies(&[1]));
        for n in [1, 2, 3, 1, 4] {
            go(&mut flows, n, &one, now, 3);
        }
        let left: Vec<_> = flows.by_client.keys().map(SocketAddr::port).collect();
        assert_eq!(left, [1, 3, 4]);
        flows.sweep(&one, now, 1);
        let left: Vec<_> = flows.by_client.keys().map(SocketAddr::port).collect();
        assert_eq!(left, [4]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Datagram(u16),
        Refusal(u16),
        Sweep,
        Wait(u64),
        Copies(Vec<u16>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..12_u16).prop_map(Step::Datagram),
            2 => (0..12_u16).prop_map(Step::Refusal),
            2 => Just(Step::Sweep),
            2 => (0..90_000_u64).prop_map(Step::Wait),
            1 => proptest::collection::btree_set(1..5_u16, 0..4)
                .prop_map(|set| Step::Copies(set.into_iter().collect())),
        ]
    }

    proptest! {
        #[test]
        fn never_more_flows_than_there_is_room_for_and_never_a_datagram_to_a_copy_that_is_gone(
            steps in proptest::collection::vec(step(), 1..200),
            room in 1..8_usize,
        ) {
            let (mut flows, mut now, mut there) = (Flows::new(), Instant::now(), copies(&[1, 2]));
            for step in steps {
                match step {
                    Step::Datagram(from) => {
                        let to = go(&mut flows, from, &there, now, room);
                        prop_assert_eq!(to.is_some(), !there.is_empty());
                        prop_assert!(to.is_none_or(|to| is_among(&there, to)));
                    }
                    Step::Refusal(from) => {
                        if let Some((copy, _)) = flows.end(client(from)) {
                            flows.refused(copy, now);
                        }
                    }
                    Step::Sweep => {
                        flows.sweep(&there, now, room);
                        flows.sweep(&there, now + LAST_ANSWERS, room);
                        now += LAST_ANSWERS;
                        prop_assert!(flows.loads.keys().all(|copy| is_among(&there, *copy)));
                        prop_assert!(flows.refusing.len() <= there.len());
                    }
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Copies(ports) => there = copies(&ports),
                }
                prop_assert!(flows.by_client.len() <= room);
                prop_assert_eq!(flows.by_turn.len(), flows.by_client.len());
                prop_assert_eq!(flows.loads.values().sum::<usize>(), flows.by_client.len());
            }
        }
    }
}

//! What a test does to the fake engine: scripts, faults, misbehaviour from outside, and looking at
//! what happened. Never called by the stages.

use std::collections::BTreeMap;
use std::time::Duration;

use super::state::BuildRule;
use super::{Behaviour, FakeEngine};
use crate::docker::{Container, Error, NewContainer};

/// Exit code of what was killed.
const KILLED: i64 = 137;
/// Image of what others run.
const FOREIGN_IMAGE: &str = "foreign:1";
/// Network of what others run.
const FOREIGN_NETWORK: &str = "bridge";

/// Scripts.
impl FakeEngine {
    /// What containers do whose name, command (joined by spaces), image reference, digest or image
    /// id is `key`. What runs already keeps its timer, but is judged anew by probes and stops.
    pub fn behave(&self, key: &str, behaviour: Behaviour) {
        self.state().behaviours.insert(key.to_owned(), behaviour);
    }

    /// Containers of images whose build context holds `text` do this. Goes with the image through
    /// the registry.
    pub fn build_behaves(&self, text: &str, behaviour: Behaviour) {
        self.state().build_rules.push(BuildRule {
            text: text.to_owned(),
            behaviour: Some(behaviour),
            ..BuildRule::default()
        });
    }

    /// Builds whose context holds `text` print `lines` and fail with `error`.
    pub fn build_fails(&self, text: &str, lines: &[&str], error: &str) {
        self.state().build_rules.push(BuildRule {
            text: text.to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            error: Some(error.to_owned()),
            ..BuildRule::default()
        });
    }

    /// Images whose build context holds `text` have these ONBUILD lines.
    pub fn build_triggers(&self, text: &str, on_build: &[&str]) {
        self.state().build_rules.push(BuildRule {
            text: text.to_owned(),
            on_build: on_build.iter().map(|line| (*line).to_owned()).collect(),
            ..BuildRule::default()
        });
    }

    /// What containers print when they start; the key is as in [`Self::behave`].
    pub fn prints(&self, key: &str, lines: &[&str]) {
        let lines = lines.iter().map(|line| (*line).to_owned()).collect();
        self.state().prints.insert(key.to_owned(), lines);
    }

    /// What a command inside a container answers; without a script it succeeds silently.
    pub fn exec_answers(&self, argv: &[&str], code: i64, output: &str) {
        let answer = (code, output.to_owned());
        self.state().exec_answers.insert(argv.join(" "), answer);
    }

    /// Puts an image onto this host; answers its id.
    pub fn add_image(&self, reference: &str) -> String {
        self.state().images.add(reference, false)
    }

    /// Puts an image with its own HEALTHCHECK onto this host; answers its id.
    pub fn add_image_with_healthcheck(&self, reference: &str) -> String {
        self.state().images.add(reference, true)
    }

    /// Networks made from now on have addresses that listeners can be bound to, `127.<second>.…`.
    pub fn networks_on_loopback(&self, second: u8) {
        self.state().loopback = Some(second);
    }

    /// A host port is taken by somebody who is no container.
    pub fn take_port(&self, port: u16) {
        self.state().ports_taken.insert(port);
    }
}

/// Faults. A verb is the name of a method of the trait, or [`super::ANY`].
impl FakeEngine {
    /// From now on every such call takes this long before it does anything.
    pub fn latency(&self, verb: &str, latency: Duration) {
        let faults = &mut self.state().faults;
        faults.latency.insert(verb.to_owned(), latency);
    }

    /// The next `times` such calls fail and do nothing.
    pub fn fail_next(&self, verb: &str, error: Error, times: u32) {
        let faults = &mut self.state().faults;
        faults.before.remove(verb);
        if times > 0 {
            faults.before.insert(verb.to_owned(), (error, times));
        }
    }

    /// The next `times` such calls do their work and then fail, as when the answer got lost.
    pub fn fail_after_next(&self, verb: &str, error: Error, times: u32) {
        let faults = &mut self.state().faults;
        faults.after.remove(verb);
        if times > 0 {
            faults.after.insert(verb.to_owned(), (error, times));
        }
    }

    /// The engine does not answer any more who looks at this container, as while it hangs in a
    /// start.
    pub fn hang(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.faults.hung.insert(id);
    }

    /// While down, every call is `Unreachable`, streams have ended, containers run on.
    pub fn down(&self, down: bool) {
        let mut state = self.state();
        state.faults.down = down;
        if down {
            state.end_streams();
        }
    }
}

/// Misbehaviour from outside: what somebody at the host's shell does. A container that is not
/// there is a mistake of the test and panics.
impl FakeEngine {
    /// `docker kill`.
    pub fn kill(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.emit_for(&id, "kill");
        state.end(&id, KILLED);
    }

    /// It ends by itself with this code.
    pub fn exit(&self, name: &str, code: i64) {
        let mut state = self.state();
        let id = state.known(name);
        state.end(&id, code);
    }

    /// The kernel ends it for want of memory.
    pub fn oom(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.emit_for(&id, "oom");
        state.end(&id, KILLED);
        state.change(&id, |container| container.oom_killed = true);
    }

    /// `docker stop`.
    pub fn stop_outside(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.emit_for(&id, "kill");
        state.end(&id, 143);
        state.emit_for(&id, "stop");
    }

    /// `docker rm -f`.
    pub fn rm_f(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.destroy(&id);
    }

    /// `docker pause`.
    pub fn pause(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.pause(&id);
    }

    /// `docker update --memory`.
    pub fn update_memory(&self, name: &str, bytes: u64) {
        let mut state = self.state();
        let id = state.known(name);
        state.change(&id, |container| container.memory_bytes = bytes);
        state.emit_for(&id, "update");
    }

    /// `docker network disconnect` from all networks.
    pub fn disconnect(&self, name: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.disconnect(&id);
        state.change(&id, |container| container.networks.clear());
    }

    /// Somebody else's running container.
    pub fn add_foreign(&self, name: &str) {
        let mut state = self.state();
        state.images.add(FOREIGN_IMAGE, false);
        if !state.networks.contains_key(FOREIGN_NETWORK) {
            state.make_network(FOREIGN_NETWORK, &BTreeMap::new());
        }
        let new = NewContainer {
            name: name.to_owned(),
            image: FOREIGN_IMAGE.into(),
            network: FOREIGN_NETWORK.into(),
            ..NewContainer::default()
        };
        let id = state.create(&new).expect("a foreign name must be free");
        state.start(&id).expect("a foreign container has no needs");
    }

    /// `docker network prune`.
    pub fn prune_networks(&self) {
        let mut state = self.state();
        let unused = |state: &super::State, name: &str| !state.network_in_use(name);
        let names: Vec<String> = state.networks.keys().cloned().collect();
        for name in names {
            if unused(&state, &name) {
                state.networks.remove(&name);
                state.emit("destroy", BTreeMap::new(), name, None);
            }
        }
    }

    /// A container prints a line.
    pub fn print(&self, name: &str, text: &str) {
        let mut state = self.state();
        let id = state.known(name);
        state.print(&id, text);
    }
}

/// What happened.
impl FakeEngine {
    /// How often each verb was called, failed calls included.
    #[must_use]
    pub fn calls(&self) -> BTreeMap<String, u32> {
        self.state().calls.clone()
    }

    /// Starts the counting of calls anew.
    pub fn reset_calls(&self) {
        self.state().calls.clear();
    }

    /// What must never happen and did: two running containers with one volume.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// The container that answers at a published host port now, as a client would find it.
    #[must_use]
    pub fn answers(&self, port: u16) -> Option<Container> {
        let state = self.state();
        let mut all = state.snapshot().into_iter();
        all.find(|container| {
            container.published.iter().any(|p| p.host_port == port)
                && state.healthy(&container.id).is_ok()
        })
    }

    /// Names of all volumes.
    #[must_use]
    pub fn volume_names(&self) -> Vec<String> {
        self.state().volumes.keys().cloned().collect()
    }

    /// What a container was made from; a name that is not there is a mistake of the test and panics.
    #[must_use]
    pub fn made(&self, name: &str) -> NewContainer {
        let state = self.state();
        let id = state.known(name);
        state.made_from(&id)
    }

    /// All containers, also other people's, in name order, whatever the faults.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Container> {
        self.state().snapshot()
    }
}

//! Stacks that another one requires: whether they are live, whether they require each other, and who
//! requires one that people want to remove. Asked by `leader` right before a release is staged, and by
//! the API. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::names::StackName;
use crate::model::world::{StackWorld, World};

/// How every reason for waiting begins.
const WAITS: &str = "waits for stack ";

/// What becomes of a commit that requires other stacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Required {
    /// All of them are live.
    Live,
    /// One is not, in words: no fault of the commit's.
    Waits(String),
    /// It would wait for itself, in words: the commit's own fault.
    Circle(String),
}

/// Looks at what a commit of `name` requires.
#[must_use]
pub fn judge(world: &World, name: &StackName, require: &BTreeSet<StackName>) -> Required {
    if let Some(chain) = circle(world, name, require) {
        let chain: Vec<_> = chain.iter().map(StackName::as_str).collect();
        let chain = chain.join(" → ");
        return Required::Circle(format!("stacks require each other in a circle: {chain}"));
    }
    match require.iter().find(|stack| !is_live(world, stack)) {
        Some(stack) => Required::Waits(format!("{WAITS}{stack}, which is not live")),
        None => Required::Live,
    }
}

/// Whether a reason is one that [`judge`] gave.
#[must_use]
pub fn is_wait(reason: &str) -> bool {
    reason.starts_with(WAITS)
}

/// Stacks whose live release requires this one.
#[must_use]
pub fn by_whom<'a>(world: &'a World, name: &StackName) -> Vec<&'a StackName> {
    let requires = |(_, stack): &(&StackName, &StackWorld)| {
        let live = stack.live().filter(|_| !stack.pointer.removing);
        live.is_some_and(|live| live.require.contains(name))
    };
    let stacks = world.stacks.iter().filter(requires);
    stacks.map(|(other, _)| other).collect()
}

fn is_live(world: &World, name: &StackName) -> bool {
    let stack = world.stacks.get(name);
    stack.is_some_and(|stack| stack.live().is_some() && !stack.pointer.removing)
}

/// The shortest way over what stacks require that leads back to where it began.
fn circle(
    world: &World,
    name: &StackName,
    require: &BTreeSet<StackName>,
) -> Option<Vec<StackName>> {
    let mut came_from: BTreeMap<StackName, StackName> = BTreeMap::new();
    let mut front: Vec<(StackName, BTreeSet<StackName>)> = vec![(name.clone(), require.clone())];
    while !front.is_empty() {
        let mut next = Vec::new();
        for (from, required) in front {
            for stack in required {
                if stack == *name {
                    return Some(way(&came_from, name, from));
                }
                if !came_from.contains_key(&stack) {
                    came_from.insert(stack.clone(), from.clone());
                    let required = newest(world, &stack);
                    next.push((stack, required));
                }
            }
        }
        front = next;
    }
    None
}

/// From `name` to `last`, and back to `name`.
fn way(
    came_from: &BTreeMap<StackName, StackName>,
    name: &StackName,
    last: StackName,
) -> Vec<StackName> {
    let mut chain = vec![name.clone()];
    let mut at = Some(last);
    while let Some(stack) = at.filter(|stack| stack != name) {
        at = came_from.get(&stack).cloned();
        chain.push(stack);
    }
    chain.push(name.clone());
    chain.reverse();
    chain
}

/// What the newest of a stack's commits requires, as far as that is on record: one that waits for
/// others, else what is staged, else what is live.
fn newest(world: &World, name: &StackName) -> BTreeSet<StackName> {
    let Some(stack) = world.stacks.get(name) else {
        return BTreeSet::new();
    };
    let building = stack.pointer.building.as_ref();
    let waiting = building.filter(|building| !building.require.is_empty());
    if let Some(waiting) = waiting {
        return waiting.require.clone();
    }
    let release = stack.staged().or_else(|| stack.live());
    release
        .map(|release| release.require.clone())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::release::{Building, Commit, RunId};
    use crate::schedule::script;

    fn name(text: &str) -> StackName {
        StackName::parse(text).unwrap()
    }

    fn names(all: &[&str]) -> BTreeSet<StackName> {
        all.iter().map(|one| name(one)).collect()
    }

    /// Stacks that are live and require others, and one more that only waits.
    fn world(live: &[(&str, &[&str])], waiting: (&str, &[&str])) -> World {
        let mut world = script::world("stacks: {}").unwrap();
        for (stack, require) in live {
            let text = format!("stacks: {{{stack}: {{live: a1, releases: {{a1: {{}}}}}}}}");
            let mut one = script::world(&text).unwrap();
            world.stacks.append(&mut one.stacks);
            let releases = &mut world.stacks.get_mut(&name(stack)).unwrap().releases;
            releases.values_mut().next().unwrap().require = names(require);
        }
        let (stack, require) = waiting;
        let commit = Commit {
            id: "c".into(),
            subject: String::new(),
            author: String::new(),
            at_ms: 0,
        };
        let building = Building {
            commit,
            tag: "c1".parse().unwrap(),
            run: RunId(String::new()),
            since_ms: 0,
            reason: String::new(),
            require: names(require),
        };
        world
            .stacks
            .entry(name(stack))
            .or_default()
            .pointer
            .building = Some(building);
        world
    }

    #[test]
    fn a_stack_waits_until_all_that_it_requires_are_live() {
        let mut world = world(&[("a", &[]), ("b", &["a"])], ("c", &[]));
        let asks = |required: &[&str]| judge(&world, &name("shop"), &names(required));
        assert_eq!(asks(&[]), Required::Live);
        assert_eq!(asks(&["a", "b"]), Required::Live);
        let waits =
            |stack: &str| Required::Waits(format!("waits for stack {stack}, which is not live"));
        assert_eq!(asks(&["a", "c"]), waits("c"));
        assert_eq!(asks(&["a", "nosuch"]), waits("nosuch"));
        let Required::Waits(reason) = waits("c") else {
            return;
        };
        assert!(is_wait(&reason) && !is_wait("waits for room"));
        world.stacks.get_mut(&name("a")).unwrap().pointer.removing = true;
        assert_eq!(judge(&world, &name("shop"), &names(&["a"])), waits("a"));
    }

    #[test]
    fn who_would_wait_for_himself_is_told_the_whole_chain() {
        let world = world(
            &[("a", &["b"]), ("b", &["d"]), ("x", &["x2"]), ("x2", &["x"])],
            ("c", &["a"]),
        );
        let asks = |stack: &str, required: &[&str]| judge(&world, &name(stack), &names(required));
        let circle = |chain: &str| {
            Required::Circle(format!("stacks require each other in a circle: {chain}"))
        };
        assert_eq!(asks("d", &["a"]), circle("d → a → b → d"));
        assert_eq!(asks("b", &["b"]), circle("b → b"));
        // Also what is not live yet and waits itself.
        assert_eq!(asks("d", &["c"]), circle("d → c → a → b → d"));
        // Somebody else's circle is not this one's fault.
        assert_eq!(asks("shop", &["x"]), Required::Live);
    }

    #[test]
    fn those_whose_live_release_requires_a_stack_are_named() {
        let world = world(&[("a", &["d"]), ("b", &["d", "a"])], ("c", &["d"]));
        let by = |stack: &str| -> Vec<String> {
            let by = by_whom(&world, &name(stack)).into_iter();
            by.map(ToString::to_string).collect()
        };
        assert_eq!(by("d"), ["a", "b"]);
        assert_eq!(by("a"), ["b"]);
        assert!(by("b").is_empty());
    }
}

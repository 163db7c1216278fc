//! What is on record made into another release: an earlier one once more, or the live one with a node
//! anew. Called by `order`, which says whether that makes sense. Pure.

use super::compose::{Procs, describe, free_tag, keep_tag, settle};
use super::order::{Refused, refuse};
use crate::model::names::{NodeName, StackName, Tag};
use crate::model::release::{Again, NodeKind, Quarantine, Release, ReleaseNode, RunId, SET_ASIDE};
use crate::model::route;
use crate::model::spec::ContainerSpec;
use crate::model::world::StackWorld;

/// The release that a commit brought and this one says once more, as far back as the record goes.
pub(super) fn root<'a>(stack: &'a StackWorld, release: &'a Release) -> &'a Release {
    let before = |release: &&Release| stack.releases.get(release.again.as_ref()?.of());
    let chain = std::iter::successors(Some(release), before);
    chain
        .take(stack.releases.len() + 1)
        .last()
        .unwrap_or(release)
}

/// What an earlier release says, beside the live one: nodes that are the same run on.
pub(super) fn rollback(
    stack: &StackWorld,
    to: &Release,
    run: RunId,
    now_ms: u64,
) -> Result<(Release, Procs), Refused> {
    let again = Again::Rollback { of: to.tag.clone() };
    let mut release = renewed(stack, to, again, run, now_ms);
    let mut procs = Procs::new();
    for (name, node) in &mut release.nodes {
        let spec = spec_of(stack, name, node).cloned();
        let before = stack.live().and_then(|live| live.nodes.get(name));
        node.tag.clone_from(&release.tag);
        if node.kind != NodeKind::Container {
            keep_tag(node, before);
            continue;
        }
        *node = match (spec, before) {
            (Some(spec), _) => settle(name, node.clone(), spec, before, &mut procs),
            // A service that was made anew since: it would not be touched either way.
            (None, Some(before)) if node.service && before.service => before.clone(),
            (None, _) => {
                return refuse(
                    format!(
                        "what {name} was made from in {} is not on record any more",
                        to.tag
                    ),
                    "push a commit that reverts what is wrong",
                );
            }
        };
    }
    Ok((release, procs))
}

/// The live release with one node at a tag of its own, made from the spec that waits, if one does. A
/// service goes on under that tag: what it runs now stays on record for when the new one fails.
pub(super) fn restart(
    stack: &StackWorld,
    live: &Release,
    name: &NodeName,
    run: RunId,
    now_ms: u64,
) -> Result<(Release, Procs), Refused> {
    let of = match &live.again {
        Some(Again::Restart { of, .. }) => of.clone(),
        Some(Again::Rollback { .. } | Again::Variables { .. }) | None => live.tag.clone(),
    };
    let node = name.clone();
    let mut release = renewed(stack, live, Again::Restart { of, node }, run, now_ms);
    let mut procs = Procs::new();
    if let Some(node) = release.nodes.get_mut(name) {
        let at = stack.procs.get(&(name.clone(), node.tag.clone()));
        let Some(spec) = node.pending.take().map(|spec| *spec).or(at.cloned()) else {
            let why = format!("what {name} is made from is not on record");
            return refuse(why, "push a commit that changes it");
        };
        node.tag.clone_from(&release.tag);
        describe(node, &spec);
        procs.insert((name.clone(), node.tag.clone()), spec);
    }
    Ok((release, procs))
}

/// A release that says the same under a tag of its own.
pub(super) fn renewed(
    stack: &StackWorld,
    of: &Release,
    again: Again,
    run: RunId,
    now_ms: u64,
) -> Release {
    let mut release = of.clone();
    release.tag = free_tag(stack, &of.commit.id);
    release.run = run;
    release.made_ms = now_ms;
    release.stages_ms = Vec::new();
    release.again = Some(again);
    for node in release.nodes.values_mut() {
        node.squeezed = false;
    }
    route::claim(&mut release, stack.live(), now_ms);
    for image in release.images.values_mut() {
        image.build_ms = 0;
    }
    release
}

/// What a release wanted a node to be made from. Under `static` there is only what services run now,
/// so that what another ran is known by its hash.
pub(super) fn spec_of<'a>(
    stack: &'a StackWorld,
    name: &NodeName,
    node: &'a ReleaseNode,
) -> Option<&'a ContainerSpec> {
    if let Some(waiting) = &node.pending {
        return Some(waiting);
    }
    let at = stack.procs.get(&(name.clone(), node.tag.clone()));
    let at = at.filter(|spec| !node.tag.is_static() || spec.hash() == node.spec_hash);
    let same = |((of, _), spec): &(&(NodeName, Tag), &ContainerSpec)| {
        of == name && spec.hash() == node.spec_hash
    };
    at.or_else(|| stack.procs.iter().find(same).map(|(_, spec)| spec))
}

/// Commits that a rollback leaves: sync would bring them straight back. Of what serves and of what
/// is on its way, what is newer than where it goes, or what the branch is at.
pub(super) fn left(
    name: &StackName,
    stack: &StackWorld,
    to: &Release,
    now_ms: u64,
) -> Vec<Quarantine> {
    let target = root(stack, to);
    let source = stack.pointer.source.as_ref();
    let seen = source.and_then(|source| Some(&source.seen.as_ref()?.id));
    let roots = [stack.live(), stack.staged()].into_iter().flatten();
    let newer = roots.map(|release| root(stack, release)).filter(|root| {
        // The branch may be at an older one that people went back to before.
        let would_return = root.made_ms > target.made_ms || seen == Some(&root.commit.id);
        would_return && root.commit.id != target.commit.id
    });
    let aside = |root: &Release| Quarantine {
        commit: root.commit.clone(),
        tag: root.tag.clone(),
        // Not the rollback's: of two commits that are not tried again the newer one is told of.
        run: root.run.clone(),
        stage: SET_ASIDE.to_owned(),
        reason: format!(
            "set aside by a rollback to {}; a newer commit goes on, or `viking retry {name}`",
            to.tag
        ),
        log: Vec::new(),
        at_ms: now_ms,
    };
    newer.map(aside).collect()
}

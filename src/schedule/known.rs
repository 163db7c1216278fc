//! What is on record that a next release may use again: images of the stack, what its external references
//! meant, live images of other stacks. Asked by `leader` before a build and by `foretell`. Pure.

use std::collections::BTreeMap;

use crate::model::names::{ImageName, StackName};
use crate::model::release::ImageRecord;
use crate::model::spec::ImageRef;
use crate::model::vikingfile::{ImageText, VikingFile};
use crate::model::world::{StackWorld, World};

/// Live images of other stacks, by stack and image.
pub type Foreign = BTreeMap<(StackName, ImageName), ImageRef>;

/// Every image this stack has on record, newest release first.
#[must_use]
pub fn images(stack: &StackWorld) -> BTreeMap<ImageName, Vec<ImageRecord>> {
    let mut releases: Vec<_> = stack.releases.values().collect();
    releases.sort_by_key(|release| std::cmp::Reverse(release.made_ms));
    let mut known: BTreeMap<ImageName, Vec<ImageRecord>> = BTreeMap::new();
    for release in releases {
        for (name, record) in &release.images {
            known.entry(name.clone()).or_default().push(record.clone());
        }
    }
    known
}

/// What each external reference was last resolved to. A release that failed may have asked for an
/// image anew; what serves counts more.
#[must_use]
pub fn externals(stack: &StackWorld) -> BTreeMap<String, ImageRef> {
    let mut releases: Vec<_> = stack.releases.values().collect();
    releases.sort_by_key(|release| release.made_ms);
    releases.extend(stack.live());
    let all = releases.into_iter().flat_map(|release| &release.external);
    all.map(|(text, image)| (text.clone(), image.clone()))
        .collect()
}

/// An image of a stack's live release.
#[must_use]
pub fn live_image(world: &World, stack: &StackName, image: &ImageName) -> Option<ImageRef> {
    let live = world.stacks.get(stack)?.live()?;
    live.images.get(image).map(ImageRecord::image_ref)
}

/// Live images of other stacks that nodes of this file name.
#[must_use]
pub fn foreign(file: &VikingFile, world: &World) -> Foreign {
    foreign_names(file)
        .filter_map(|(stack, image)| {
            let reference = live_image(world, stack, image)?;
            Some(((stack.clone(), image.clone()), reference))
        })
        .collect()
}

fn foreign_names(file: &VikingFile) -> impl Iterator<Item = (&StackName, &ImageName)> {
    file.deploy.iter().filter_map(|node| match &node.image {
        Some(ImageText::Viking { stack, image }) if *stack != file.stack => Some((stack, image)),
        Some(ImageText::Viking { .. } | ImageText::External(_)) | None => None,
    })
}

/// An image of another stack that is not there yet, in words. It may come: not this commit's fault.
#[must_use]
pub fn missing_foreign(file: &VikingFile, world: &World) -> Option<String> {
    let mut names = foreign_names(file);
    let missing = names.find(|(stack, image)| live_image(world, stack, image).is_none());
    missing.map(|(stack, image)| format!("stack {stack} has no live image {image} yet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::names::Tag;
    use crate::schedule::script;

    #[test]
    fn references_are_those_that_serve_and_others_as_they_were_last_resolved() {
        let text = "stacks: {s: {live: a1, releases: {a1: {web: {}}, b2: {web: {}}}}}";
        let mut world = script::world(text).unwrap();
        let mut stack = world.stacks.pop_first().unwrap().1;
        let image = |digest: &str| ImageRef::External {
            name: "x".to_owned(),
            digest: digest.to_owned(),
        };
        let texts = [
            ("a1", "web", "serves"),
            ("b2", "web", "failed"),
            ("b2", "db", "new"),
        ];
        for (tag, text, digest) in texts {
            let release = stack.releases.get_mut(&Tag::parse(tag).unwrap()).unwrap();
            release.external.insert(text.to_owned(), image(digest));
        }
        let known = externals(&stack);
        assert_eq!(known["web"], image("serves"));
        assert_eq!(known["db"], image("new"));
    }
}

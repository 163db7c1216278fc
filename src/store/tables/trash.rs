//! Clean-up, the writing half: records of a dropped release make room for `/trash`, in transactions
//! that compare the stack's pointer, so that whatever moves meanwhile wins. Called by the leader.

use std::collections::BTreeMap;

use super::write::{Outcome, Unit};
use super::{Result, Tables, decode, encode};
use crate::model::names::{StackName, Tag};
use crate::model::trash::{Dropped, TrashRecord};
use crate::store::election::Leadership;
use crate::store::keys::{Family, Key};
use crate::store::{Compare, Op, Selector};

impl Tables {
    /// Everything that was thrown away, with the revision that guards its end.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn trash(&self) -> Result<BTreeMap<(StackName, Tag), (TrashRecord, i64)>> {
        let all = Selector::Prefix(self.keys.family(Family::Trash));
        let snapshot = self.read(vec![all]).await?;
        let mut trash = BTreeMap::new();
        for kv in snapshot.lists.iter().flatten() {
            let Ok(Key::Trash(stack, tag)) = self.keys.parse(&kv.key) else {
                continue;
            };
            match decode(kv) {
                Ok(record) => drop(trash.insert((stack, tag), (record, kv.mod_revision))),
                Err(reason) => tracing::warn!(key = kv.key, "left alone: {reason}"),
            }
        }
        Ok(trash)
    }

    /// Throws away what is dropped of one tag. The trash is written first and the release goes last,
    /// so that an attempt that ends half way is found and finished by the next one.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn throw_away(
        &self,
        leadership: &Leadership,
        stack: &StackName,
        pointer_revision: i64,
        (tag, dropped): (&Tag, &Dropped),
        now_ms: u64,
    ) -> Result<Outcome> {
        let pointer = self.keys.text(&Key::Pointer(stack.clone()));
        let unit = |op: Op| {
            let at_rest = Compare::ModRevision(pointer.clone(), pointer_revision);
            Unit::new(vec![at_rest], vec![op])
        };
        let key = |key: Key| self.keys.text(&key);
        let trash = key(Key::Trash(stack.clone(), tag.clone()));
        let record = self.more_trash(&trash, dropped, now_ms).await?;
        let mut units = vec![unit(Op::put(trash, encode(&record)))];
        for image in &dropped.images {
            let record = Key::Image(stack.clone(), tag.clone(), image.clone());
            let text = Key::ImageText(stack.clone(), tag.clone(), image.clone());
            units.extend([record, text].map(|gone| unit(Op::delete(key(gone)))));
        }
        for node in &dropped.procs {
            let proc = Key::Proc(stack.clone(), tag.clone(), node.clone());
            units.push(unit(Op::delete(key(proc))));
        }
        if dropped.release {
            let release = Key::Release(stack.clone(), tag.clone());
            units.push(unit(Op::delete(key(release))));
        }
        self.lead(leadership, units).await
    }

    /// What is in the trash of this tag already, and this.
    async fn more_trash(&self, key: &str, dropped: &Dropped, now_ms: u64) -> Result<TrashRecord> {
        let snapshot = self.read(vec![Selector::Key(key.to_owned())]).await?;
        let before = snapshot.lists.iter().flatten().next();
        let before = before.and_then(|kv| decode::<TrashRecord>(kv).ok());
        let mut images = before.map(|record| record.images).unwrap_or_default();
        images.extend(dropped.manifests.iter().cloned());
        Ok(TrashRecord {
            v: 1,
            at_ms: now_ms,
            images,
        })
    }

    /// The bytes are gone.
    ///
    /// # Errors
    /// When the store has no answer, or none that counts.
    pub async fn forget_trash(
        &self,
        leadership: &Leadership,
        stack: &StackName,
        tag: &Tag,
        mod_revision: i64,
    ) -> Result<Outcome> {
        let key = self.keys.text(&Key::Trash(stack.clone(), tag.clone()));
        let as_read = Compare::ModRevision(key.clone(), mod_revision);
        let unit = Unit::new(vec![as_read], vec![Op::delete(key)]);
        self.lead(leadership, vec![unit]).await
    }
}

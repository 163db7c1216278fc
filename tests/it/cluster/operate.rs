//! What people ask of a stack that is there, with the real leader and a repository.

use viking::api::status::status;
use viking::model::release::Pointer;
use viking::model::status::HealthWord;

use super::source::{Followed, web};
use super::{name, s};
use crate::e2e::repo::Commit;

impl Followed {
    async fn suspend(&self, since_ms: Option<u64>) {
        let stack = name("shop");
        let mut known = self.cluster.clear.sources().await.unwrap();
        let (mut source, revision) = known.sources.remove(&stack).unwrap();
        source.suspended_ms = since_ms;
        let put = self.cluster.clear.put_source(&stack, &source, revision);
        put.await.unwrap();
    }

    async fn pointer(&self) -> Pointer {
        let world = self.cluster.world().await;
        world.stacks[&name("shop")].pointer.clone()
    }

    /// Pushes, follows if nobody does yet, and waits.
    async fn go_live(&self, yaml: &str) -> Commit {
        let commit = self.push(yaml);
        self.add().await;
        self.until_live(&commit).await;
        commit
    }

    /// Nothing happens for so long that a look at the repository would have shown.
    async fn stays(&self, tag: &str) {
        let created = self.cluster.calls("create");
        tokio::time::sleep(s(200)).await;
        assert_eq!(self.cluster.calls("create"), created);
        let pointer = self.pointer().await;
        assert_eq!(pointer.live.unwrap().as_str(), tag);
        assert_eq!(pointer.staged, None);
    }

    async fn until_staged(&self, commit: &Commit) {
        let staged = |pointer: &Pointer| {
            let staged = pointer.staged.as_ref();
            staged.is_some_and(|staged| staged.as_str() == commit.tag())
        };
        self.until("it is staged", staged).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspended_stack_takes_nothing_new_until_it_is_resumed() {
    let followed = Followed::start().await;
    let first = followed.go_live(&web("v1")).await;
    followed.suspend(Some(1)).await;
    let second = followed.push(&web("v2"));
    followed.stays(first.tag()).await;
    let world = followed.cluster.world().await;
    let told = &status(&world, Some(&name("shop"))).stacks[0];
    assert_eq!(told.health, HealthWord::Suspended);
    assert!(
        told.reason.starts_with("suspended since 1970-"),
        "{}",
        told.reason
    );
    // What runs is kept running.
    let killed = followed.cluster.running("web").remove(0);
    followed.cluster.engine().kill(&killed.name);
    let runs = |_: &viking::model::world::World| !followed.cluster.running("web").is_empty();
    followed
        .cluster
        .until("it is started again", s(30), runs)
        .await;
    followed.suspend(None).await;
    followed.until_live(&second).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_when_a_stack_is_suspended_comes_to_its_end() {
    let followed = Followed::start().await;
    followed.go_live(&web("v1")).await;
    let second = followed.push(&web("slow"));
    followed.until_staged(&second).await;
    followed.suspend(Some(1)).await;
    followed.until_live(&second).await;
}

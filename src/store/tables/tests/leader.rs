//! What the leader and people write: whole, guarded, fenced.

use super::*;
use crate::model::trash::{Dropped, Manifest};

#[tokio::test(start_paused = true)]
async fn what_is_thrown_away_leaves_its_manifests_behind_and_only_while_the_stack_rests() {
    let t = tables().await;
    let l = lead(&t).await;
    stage(&t, &l, "a1", "sha256:1", 0).await;
    let at = t.world(0).await.unwrap().stacks[&stack()].pointer_revision;
    let manifest = Manifest {
        repository: "web/src".into(),
        digest: "sha256:1".into(),
    };
    let dropped = Dropped {
        procs: ["app".parse().unwrap()].into(),
        images: ["src".parse().unwrap()].into(),
        release: true,
        manifests: [manifest.clone()].into(),
    };
    let of_tag = (&tag("a1"), &dropped);
    let late = t.throw_away(&l, &stack(), at - 1, of_tag, 7).await;
    assert_eq!(late.unwrap(), Outcome::Conflict);
    assert!(t.trash().await.unwrap().is_empty());
    let thrown = t.throw_away(&l, &stack(), at, of_tag, 7).await.unwrap();
    assert!(matches!(thrown, Outcome::Done(_)));
    let world = t.world(0).await.unwrap();
    assert!(world.stacks[&stack()].releases.is_empty());
    assert!(world.stacks[&stack()].procs.is_empty());
    assert!(t.images(None).await.unwrap().is_empty());
    let trash = t.trash().await.unwrap();
    let (record, revision) = &trash[&(stack(), tag("a1"))];
    assert_eq!((record.at_ms, &record.images), (7, &[manifest].into()));
    t.forget_trash(&l, &stack(), &tag("a1"), *revision)
        .await
        .unwrap();
    assert!(t.trash().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_staged_release_is_on_record_with_its_images_and_specs() {
    let t = tables().await;
    let l = lead(&t).await;
    assert!(matches!(
        stage(&t, &l, "a1", "sha256:1", 0).await,
        Outcome::Done(_)
    ));
    let text = value(&t, "/images/web/a1/src").await;
    assert_eq!(text.as_deref(), Some("127.0.0.1:5000/web/src@sha256:1"));
    let world = t.world(7).await.unwrap();
    let web = &world.stacks[&stack()];
    assert_eq!(web.staged(), Some(&release("a1", "sha256:1")));
    assert_eq!(
        web.procs[&("app".parse().unwrap(), tag("a1"))],
        spec("sha256:1")
    );
    assert_eq!((world.now_ms, web.pointer_revision), (7, world.revision));
    assert!(world.frozen.is_empty() && world.frozen_stacks.is_empty());
}

#[tokio::test(start_paused = true)]
async fn staging_again_is_fine_and_a_release_is_never_rewritten() {
    let t = tables().await;
    let l = lead(&t).await;
    // What an attempt that crashed before its pointer left behind is overwritten.
    write(
        &t,
        vec![
            Op::put("/proc/web/a1/app", "{}"),
            Op::put("/image/web/a1/src", "{}"),
        ],
    )
    .await;
    let Outcome::Done(at) = stage(&t, &l, "a1", "sha256:1", 0).await else {
        panic!("was not staged");
    };
    let Outcome::Done(at) = stage(&t, &l, "a1", "sha256:1", at).await else {
        panic!("the same again is fine");
    };
    assert_eq!(stage(&t, &l, "a1", "sha256:2", at).await, Outcome::Conflict);
    assert_eq!(
        t.world(0).await.unwrap().stacks[&stack()].staged(),
        Some(&release("a1", "sha256:1"))
    );
    assert_eq!(
        stage(&t, &l, "b2", "sha256:2", at - 1).await,
        Outcome::Conflict
    );
    assert_eq!(
        value(&t, "/release/web/b2").await,
        None,
        "the pointer had moved"
    );
}

#[tokio::test(start_paused = true)]
async fn a_service_whose_spec_is_replaced_is_placed_anew() {
    let t = tables().await;
    let l = lead(&t).await;
    let stage = async |text: &str, run: &str, at: i64| {
        let settings = Settings {
            run: Some(vec![run.to_owned()]),
            ..Settings::default()
        };
        let spec = ContainerSpec::new(record("sha256:1").image_ref(), settings);
        let key = ("app".parse().unwrap(), Tag::of_services());
        let (release, pointer) = (release(text, "sha256:1"), pointer(text));
        let procs = BTreeMap::from([(key, spec)]);
        let staged = t.stage(&l, &release, &procs, REGISTRY, &pointer, at, vec![]);
        match staged.await.unwrap() {
            Outcome::Done(at) => at,
            other => panic!("{other:?}"),
        }
    };
    let of_app = |slot| JobKey {
        tag: Tag::of_services(),
        ..job(slot)
    };
    let pointer_at = async || t.world(0).await.unwrap().stacks[&stack()].pointer_revision;
    stage("a1", "v1", 0).await;
    let other = JobKey {
        node: "other".parse().unwrap(),
        ..of_app(0)
    };
    // More than one transaction holds.
    let mut starts: Vec<Start> = (0..70).map(|slot| start(of_app(slot), "a")).collect();
    starts.extend([start(other.clone(), "a"), start(job(0), "a")]);
    assign(&t, &l, starts, vec![]).await;
    stage("b2", "v1", pointer_at().await).await;
    assert_eq!(
        t.world(0).await.unwrap().run.len(),
        72,
        "the same spec ends nothing"
    );
    stage("c3", "v2", pointer_at().await).await;
    let world = t.world(0).await.unwrap();
    let left: Vec<_> = world.run.keys().cloned().collect();
    assert_eq!(left, [job(0), other]);
    assert_eq!(world.assignments.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_changes_nothing() {
    let t = tables().await;
    let old = lead(&t).await;
    write(&t, vec![Op::delete("/leader")]).await;
    let new = lead(&t).await;
    assert_eq!(stage(&t, &old, "a1", "sha256:1", 0).await, Outcome::Deposed);
    assert_eq!(
        assign(&t, &old, vec![start(job(0), "a")], vec![]).await,
        Outcome::Deposed
    );
    assert!(t.world(0).await.unwrap().stacks.is_empty());
    assert!(matches!(
        stage(&t, &new, "a1", "sha256:1", 0).await,
        Outcome::Done(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn placements_are_written_in_batches_and_end_by_instance() {
    let t = tables().await;
    let l = lead(&t).await;
    let many: Vec<Start> = (0..200).map(|slot| start(job(slot), "a")).collect();
    let run = many[0].run.clone();
    assert!(matches!(
        assign(&t, &l, many, vec![]).await,
        Outcome::Done(_)
    ));
    let world = t.world(0).await.unwrap();
    assert_eq!((world.assignments.len(), world.run.len()), (200, 200));
    let why = t.placed_in(&stack(), &run).await.unwrap();
    assert_eq!(why.len(), 200, "each has an event of its own");
    let all: Vec<Assignment> = world.assignments.into_values().collect();
    let mut wrong = all[0].clone();
    wrong.instance = Instance(1);
    assert_eq!(assign(&t, &l, vec![], vec![wrong]).await, Outcome::Conflict);
    assert!(matches!(
        assign(&t, &l, vec![], all).await,
        Outcome::Done(_)
    ));
    let world = t.world(0).await.unwrap();
    assert!(world.assignments.is_empty() && world.run.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_moved_job_is_answered_for_by_its_new_host() {
    let t = tables().await;
    let l = lead(&t).await;
    assign(&t, &l, vec![start(job(0), "a")], vec![]).await;
    let placed = t
        .world(0)
        .await
        .unwrap()
        .placement(&job(0))
        .cloned()
        .unwrap();
    assert_eq!(
        assign(&t, &l, vec![start(job(0), "a")], vec![]).await,
        Outcome::Conflict
    );
    let moved = assign(&t, &l, vec![start(job(0), "b")], vec![placed]).await;
    assert!(matches!(moved, Outcome::Done(_)));
    let world = t.world(0).await.unwrap();
    assert_eq!(world.placement(&job(0)).unwrap().host, host("b"));
    assert_eq!(world.assignments.len(), 1);
    // Stopped and started in one place: another instance.
    let placed = world.placement(&job(0)).cloned().unwrap();
    let again = assign(&t, &l, vec![start(job(0), "b")], vec![placed.clone()]).await;
    assert!(matches!(again, Outcome::Done(_)));
    let now = t
        .world(0)
        .await
        .unwrap()
        .placement(&job(0))
        .cloned()
        .unwrap();
    assert!(now.instance > placed.instance);
}

#[tokio::test(start_paused = true)]
async fn pins_are_written_once() {
    let t = tables().await;
    let l = lead(&t).await;
    let pin = PinKey::Seat(job(0).seat());
    let record = Pin {
        v: 1,
        host: host("a"),
        since_ms: 0,
        reason: "volume".into(),
    };
    let plan = Plan {
        start: vec![start(job(0), "a")],
        pins: BTreeMap::from([(String::new(), (pin.clone(), record.clone()))]),
        ..Plan::default()
    };
    assert!(matches!(
        t.assign(&l, &plan).await.unwrap(),
        Outcome::Done(_)
    ));
    assert_eq!(t.world(0).await.unwrap().fixed[&pin], record);
    let plan = Plan {
        start: vec![],
        ..plan
    };
    assert_eq!(t.assign(&l, &plan).await.unwrap(), Outcome::Conflict);
}

#[tokio::test(start_paused = true)]
async fn sources_are_guarded_and_requests_are_obeyed_with_the_pointer() {
    let t = tables().await;
    let l = lead(&t).await;
    let source = Source {
        v: 1,
        url: "/srv/web".into(),
        branch: None,
        path: String::new(),
        poll_ms: 1,
        suspended_ms: None,
    };
    assert!(matches!(
        t.put_source(&stack(), &source, 0).await.unwrap(),
        Outcome::Done(_)
    ));
    assert_eq!(
        t.put_source(&stack(), &source, 0).await.unwrap(),
        Outcome::Conflict
    );
    assert_eq!(t.sources().await.unwrap().sources[&stack()].0, source);
    let asked = Request {
        v: 1,
        kind: "retry".into(),
        about: String::new(),
        at_ms: 5,
    };
    let id = t.request(&stack(), &asked).await.unwrap();
    assert_eq!(t.requests().await.unwrap(), [(stack(), id.clone(), asked)]);
    let obeyed = vec![t.obey_op(&stack(), &id)];
    t.set_pointer(&l, &stack(), &pointer("a1"), 0, obeyed)
        .await
        .unwrap();
    assert!(t.requests().await.unwrap().is_empty());
    assert_eq!(
        t.forget_stack(&l, &stack(), 1).await.unwrap(),
        Outcome::Conflict,
        "its pointer was changed since"
    );
    assert!(t.remove_source(&stack()).await.unwrap());
    assert!(!t.remove_source(&stack()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_image_of_an_earlier_release_must_not_go_meanwhile() {
    let t = tables().await;
    let l = lead(&t).await;
    let Outcome::Done(at) = stage(&t, &l, "a1", "sha256:1", 0).await else {
        panic!()
    };
    assert!(matches!(
        stage(&t, &l, "b2", "sha256:1", at).await,
        Outcome::Done(_)
    ));
    let images = t.images(Some(&stack())).await.unwrap();
    assert_eq!(images.len(), 2);
    assert!(
        images
            .iter()
            .all(|image| image.record.built_by == tag("a1"))
    );
    let reference = ImageRef::Ours {
        repository: "web/src".into(),
        digest: "sha256:1".into(),
    };
    assert_eq!(images[1].record.image_ref(), reference);
}

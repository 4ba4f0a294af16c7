//! Releases, brought in and taken back.

use minato_model::code::Code;

use super::rig::{Manner, Rig, digest, key};
use crate::apply::Wishes;

const SHOP: &str = r#"
app = "shop"

[services.web]
image = "shop/web:1"
hosts = ["shop.localhost"]
"#;

async fn serving(instances: u32) -> Rig {
    let rig = Rig::start().await;
    rig.image("shop/web:1", 1);
    rig.apply(SHOP).await;
    rig.stable("shop/web", 1).await;
    rig.load("shop/web", instances);
    rig
}

/// Moves the tag to another image and applies.
async fn next(rig: &Rig, n: u8) -> Vec<String> {
    rig.image("shop/web:1", n);
    rig.apply(SHOP).await
}

async fn instances(rig: &Rig, count: u32) {
    rig.until("shop/web", |status| status.ready == count).await;
}

#[tokio::test]
async fn a_moved_tag_rolls_a_tenth_at_a_time() {
    let rig = serving(20).await;
    instances(&rig, 20).await;
    rig.image("shop/web:1", 2);
    let plan = rig.plan(SHOP).await;
    let (from, to) = (digest(1), digest(2));
    assert_eq!(plan.changes[0].reason, format!("shop/web:1 moved from {} to {}", from.short(), to.short()));
    assert_eq!(next(&rig, 2).await, ["release shop/web"]);
    rig.stable("shop/web", 2).await;
    instances(&rig, 20).await;
    let weights = rig.weights("shop/web");
    assert!(weights.len() >= 10, "{weights:?}");
    let new: Vec<u32> = weights
        .iter()
        .filter_map(|all| all.iter().find(|(number, _)| *number == 2))
        .map(|(_, weight)| *weight)
        .collect();
    assert!(new[..10].windows(2).all(|pair| pair[0] <= pair[1]), "{new:?}");
    assert_eq!(rig.events("release_stable").len(), 2);
    assert_eq!(rig.status("shop/web").await.verdict, "good");
}

#[tokio::test]
async fn at_rest_one_is_started_to_see_that_it_can() {
    let rig = serving(0).await;
    next(&rig, 2).await;
    rig.stable("shop/web", 2).await;
    assert_eq!(rig.weights("shop/web")[..3], [vec![(1, 1)], vec![(1, 1), (2, 0)], vec![(1, 0), (2, 1)]]);
    instances(&rig, 0).await;
    let status = rig.status("shop/web").await;
    assert_eq!((status.verdict, status.release), ("at_rest", Some(2)));
}

#[tokio::test]
async fn a_release_that_cannot_start_is_taken_back_and_remembered() {
    let rig = serving(3).await;
    rig.manner(2, Some(Manner::Crashes));
    next(&rig, 2).await;
    let failed = rig.rollout("shop/web", |rollout| rollout.state == "failed").await;
    assert_eq!((failed.release, failed.serving, failed.code), (2, Some(1), Some("exited")));
    instances(&rig, 3).await;
    let status = rig.status("shop/web").await;
    assert_eq!((status.verdict, status.release), ("good", Some(1)));
    assert!(status.why.unwrap().contains("release 2 was taken back"), "the reader is told");

    let refused = rig.try_apply(SHOP, Wishes::default()).await.unwrap_err();
    assert_eq!(refused.code, Code::ReleaseRefused);
    assert!(rig.plan(SHOP).await.changes[0].reason.contains("refused"));
    let retry = || Wishes { retry: true, ..Wishes::default() };
    rig.try_apply(SHOP, retry()).await.unwrap();
    rig.rollout("shop/web", |rollout| rollout.state == "failed").await;

    rig.manner(2, None);
    rig.try_apply(SHOP, retry()).await.unwrap();
    rig.stable("shop/web", 2).await;
    assert_eq!(rig.apply(SHOP).await, [""; 0]);
    assert_eq!(rig.read().await.services[&key("shop/web")].value.last_release, 2);
}

#[tokio::test]
async fn going_back_to_what_serves_starts_nothing() {
    let rig = serving(2).await;
    rig.manner(2, Some(Manner::Unpackable));
    next(&rig, 2).await;
    let failed = rig.rollout("shop/web", |rollout| rollout.state == "failed").await;
    assert_eq!(failed.code, Some("image_refused"));
    assert_eq!(next(&rig, 1).await, ["release shop/web"]);
    rig.stable("shop/web", 1).await;
    let weights = rig.weights("shop/web");
    assert!(weights.iter().flatten().all(|(number, weight)| (*number == 1) == (*weight > 0)), "{weights:?}");
    assert_eq!(rig.apply(SHOP).await, [""; 0]);
}

#[tokio::test]
async fn a_release_under_way_is_not_overtaken_and_survives_a_restart() {
    let rig = serving(4).await;
    instances(&rig, 4).await;
    rig.manner(2, Some(Manner::Hangs));
    next(&rig, 2).await;
    rig.rollout("shop/web", |rollout| rollout.phase == "warming").await;
    assert_eq!(rig.apply(SHOP).await, [""; 0]);
    let longer = SHOP.replace("hosts", "timeout = \"7s\"\nhosts");
    assert_eq!(rig.apply(&longer).await, ["update shop/web timeout"]);
    rig.image("shop/web:1", 3);
    let problem = rig.try_apply(&longer, Wishes::default()).await.unwrap_err();
    assert_eq!(problem.code, Code::Conflict);
    assert!(problem.message.contains("release 2 of shop/web is under way"), "{}", problem.message);

    let rig = rig.restart().await;
    let still = rig.rollout("shop/web", |rollout| rollout.phase == "warming").await;
    assert_eq!((still.release, still.serving), (2, Some(1)));
    rig.manner(2, None);
    rig.stable("shop/web", 2).await;
}

#[tokio::test]
async fn a_first_release_that_cannot_start_gives_way_to_the_next() {
    let rig = Rig::start().await;
    rig.image("shop/web:1", 1);
    rig.manner(1, Some(Manner::Crashes));
    let text = format!("{SHOP}scale = {{ min = 2 }}\n");
    rig.apply(&text).await;
    rig.rollout("shop/web", |rollout| rollout.state == "failed").await;
    let status = rig.status("shop/web").await;
    assert_eq!((status.verdict, status.ready), ("down", 0));
    assert_eq!(rig.try_apply(&text, Wishes::default()).await.unwrap_err().code, Code::ReleaseRefused);
    rig.image("shop/web:1", 2);
    rig.apply(&text).await;
    rig.stable("shop/web", 2).await;
    instances(&rig, 2).await;
}

#[tokio::test]
async fn a_first_release_that_starts_after_all_is_good() {
    let rig = Rig::start().await;
    rig.image("shop/web:1", 1);
    rig.manner(1, Some(Manner::Crashes));
    let text = format!("{SHOP}scale = {{ min = 1 }}\n");
    rig.apply(&text).await;
    rig.rollout("shop/web", |rollout| rollout.state == "failed").await;
    rig.manner(1, None);
    rig.stable("shop/web", 1).await;
    assert_eq!(rig.apply(&text).await, [""; 0]);
}

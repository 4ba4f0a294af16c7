//! What is declared, and what isn't.

use minato_model::{code::Code, keys, slice::Slice};
use minato_state::State as _;

use super::rig::{Rig, key};
use crate::apply::Wishes;

const SHOP: &str = r#"
app = "shop"

[services.web]
image = "shop/web:1"
hosts = ["shop.localhost"]

[services.cart]
image = "shop/cart:1"
"#;

async fn shop() -> Rig {
    let rig = Rig::start().await;
    rig.image("shop/web:1", 1);
    rig.image("shop/cart:1", 2);
    rig
}

#[tokio::test]
async fn an_app_is_in_force_when_apply_answers_and_nothing_changes_the_second_time() {
    let rig = shop().await;
    assert_eq!(rig.apply(SHOP).await, ["create shop/cart", "create shop/web"]);
    let slice = rig.slice("shop/web").await.unwrap();
    assert_eq!(slice.route.hosts, ["shop.localhost"]);
    let world = rig.read().await;
    assert!(world.slices.keys().all(|place| world.confirmed(place)));
    let offsets: Vec<u16> = world.services.values().map(|record| record.value.virtual_offset).collect();
    assert_eq!(offsets, [2, 3]);
    rig.stable("shop/web", 1).await;

    let before = rig.slice("shop/web").await;
    assert_eq!(rig.apply(SHOP).await, [""; 0]);
    assert_eq!(rig.slice("shop/web").await, before);
    assert_eq!(rig.events("app_applied").len(), 1);
}

#[tokio::test]
async fn a_key_of_the_service_starts_nothing_anew() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    rig.stable("shop/web", 1).await;
    let changed = SHOP.replace("hosts = [", "timeout = \"5s\"\nhosts = [\"www.localhost\", ");
    assert_eq!(rig.apply(&changed).await, ["update shop/web hosts", "update shop/web timeout"]);
    let slice = rig.slice("shop/web").await.unwrap();
    assert_eq!(slice.route.timeout.as_secs(), 5);
    assert_eq!(slice.releases.len(), 1);
    assert_eq!(slice.releases[0].release.number, 1);
}

#[tokio::test]
async fn a_host_that_moves_is_at_no_moment_nobodys() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    let before = rig.read().await.revision;
    let host = "hosts = [\"shop.localhost\"]\n";
    let moved = format!("{}{host}", SHOP.replace(host, ""));
    assert_eq!(rig.apply(&moved).await, ["update shop/cart hosts", "update shop/web hosts"]);
    for revision in before..=rig.read().await.revision {
        let page = rig.state.list(keys::SLICES, None, 100, Some(revision)).await.unwrap();
        let slices = page.items.iter().map(|item| serde_json::from_slice::<Slice>(&item.value).unwrap());
        let owners = slices.filter(|slice| slice.route.hosts == ["shop.localhost"]).count();
        assert_eq!(owners, 1, "at revision {revision}");
    }
}

#[tokio::test]
async fn a_plan_holds_until_something_moves() {
    let rig = shop().await;
    let plan = rig.plan(SHOP).await;
    let id = || Wishes { plan: Some(plan.id.clone()), ..Wishes::default() };
    rig.image("shop/web:1", 3);
    let moved = rig.try_apply(SHOP, id()).await.unwrap_err();
    assert_eq!(moved.code, Code::PlanOutdated);
    assert!(rig.read().await.apps.is_empty());
    rig.image("shop/web:1", 1);
    rig.try_apply(SHOP, id()).await.unwrap();
    assert_eq!(rig.try_apply(SHOP, id()).await.unwrap_err().code, Code::PlanOutdated);
}

#[tokio::test]
async fn a_host_and_path_belong_to_one_service() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    let other = "app = \"blog\"\n[services.front]\nimage = \"shop/web:1\"\nhosts = [\"shop.localhost\"]\n";
    let problem = rig.try_apply(other, Wishes::default()).await.unwrap_err();
    assert_eq!(problem.code, Code::RouteTaken);
    assert!(problem.message.contains("shop/web"), "{}", problem.message);
    assert_eq!((problem.file.as_deref(), problem.line), (Some("shop.toml"), Some(4)));
    assert!(!rig.read().await.services.contains_key(&key("blog/front")));

    let deeper = other.replace("image", "paths = [\"/blog\"]\nimage");
    assert_eq!(rig.apply(&deeper).await, ["create blog/front"]);
}

#[tokio::test]
async fn an_image_that_is_missing_is_told_with_its_line() {
    let rig = shop().await;
    let problem = rig.try_apply(&SHOP.replace("cart:1", "cart:2"), Wishes::default()).await.unwrap_err();
    assert_eq!(problem.code, Code::ImageMissing);
    assert_eq!(problem.key.as_deref(), Some("services.cart.image"));
    assert_eq!(problem.line, Some(9));
    assert!(rig.read().await.apps.is_empty());
}

#[tokio::test]
async fn of_two_applies_at_once_none_is_lost() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    rig.stable("shop/web", 1).await;
    let with = |timeout: &str| SHOP.replace("hosts", &format!("timeout = \"{timeout}\"\nhosts"));
    let (one, other) = (with("1s"), with("2s"));
    let (first, second, same) = tokio::join!(
        rig.try_apply(&one, Wishes::default()),
        rig.try_apply(&other, Wishes::default()),
        rig.try_apply(SHOP, Wishes::default()),
    );
    same.unwrap();
    let timeout = rig.slice("shop/web").await.unwrap().route.timeout.as_secs();
    match (first, second) {
        (Ok(_), Err(problem)) => assert_eq!((timeout, problem.code), (1, Code::Conflict)),
        (Err(problem), Ok(_)) => assert_eq!((timeout, problem.code), (2, Code::Conflict)),
        both => panic!("{both:?}"),
    }
}

#[tokio::test]
async fn apps_applied_at_once_get_addresses_of_their_own() {
    let rig = shop().await;
    let app = |name: &str| {
        SHOP.replace("\"shop\"", &format!("\"{name}\""))
            .replace("shop.localhost", &format!("{name}.localhost"))
    };
    let texts = ["a", "b", "c", "d"].map(app);
    let all = texts.iter().map(|text| rig.try_apply(text, Wishes::default()));
    for end in futures_util::future::join_all(all).await {
        end.unwrap();
    }
    let world = rig.read().await;
    let offsets: std::collections::BTreeSet<u16> =
        world.services.values().map(|record| record.value.virtual_offset).collect();
    assert_eq!(offsets.len(), 8);
}

#[tokio::test]
async fn what_is_deleted_leaves_its_numbers_behind() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    rig.stable("shop/cart", 1).await;
    let before = rig.slice("shop/cart").await.unwrap();
    let only_web = SHOP.split("[services.cart]").next().unwrap();
    assert_eq!(rig.apply(only_web).await, ["delete shop/cart"]);
    assert!(rig.slice("shop/cart").await.is_none());
    assert_eq!(rig.delete("shop").await.unwrap(), ["delete shop/web"]);
    assert!(rig.slice("shop/web").await.is_none());
    let world = rig.read().await;
    assert!(world.apps.is_empty() && world.rollouts.is_empty() && world.reports.is_empty());
    assert_eq!(rig.delete("shop").await.unwrap_err().code, Code::NotFound);

    rig.image("shop/cart:1", 9);
    rig.apply(SHOP).await;
    let after = rig.slice("shop/cart").await.unwrap();
    assert_eq!(after.releases[0].release.number, 2);
    assert_eq!(after.route.virtual_offset, before.route.virtual_offset);
    assert!(after.generation > before.generation);
    assert_eq!(rig.slice("shop/web").await.unwrap().releases[0].release.number, 1);
}

#[tokio::test]
async fn prune_takes_away_what_no_file_names() {
    let rig = shop().await;
    rig.apply(SHOP).await;
    let blog = "app = \"blog\"\n[services.front]\nimage = \"shop/web:1\"\nhosts = [\"shop.localhost\"]\n";
    let wishes = Wishes { prune: true, ..Wishes::default() };
    rig.try_apply(blog, wishes).await.unwrap();
    let world = rig.read().await;
    assert_eq!(world.apps.len(), 1);
    assert!(world.slices.keys().all(|place| place.service == key("blog/front")));
}

#[tokio::test]
async fn an_app_of_many_services_is_applied_whole() {
    let rig = shop().await;
    let mut text = "app = \"big\"\n".to_owned();
    for n in 0..150 {
        text.push_str(&format!("[services.s{n}]\nimage = \"shop/web:1\"\n"));
    }
    assert_eq!(rig.apply(&text).await.len(), 150);
    assert_eq!(rig.apply(&text).await.len(), 0);
}

//! Sandboxes that are made ahead: found by a start, made again, and given back.

use minato_model::{node::NodeView, routing::Wake};

use crate::ground::{get, key, run};

#[test]
fn a_start_finds_a_sandbox_and_another_is_made() {
    run(async |ground| {
        let agent = ground.agent().await;
        ground.apply(&ground.slice(1, 1, &[])).await;
        let says = |line: &str| agent.metrics().lines().any(|found| found == line).then_some(());
        let ready = "minato_sandbox_pool{state=\"ready\"} 4";
        ground.until("ready", async || says(ready)).await;
        agent.wake(&key(1), 1);
        let endpoint = ground.admitted(1).await.remove(0);
        assert!(get(&endpoint, "/index.html").await.contains("hello"));
        says("minato_sandboxes_total{how=\"pooled\"} 1").unwrap();
        ground.until("ready again", async || says(ready)).await;
        agent.leave().await;
        drop(agent);
        *ground.edge.seen() = Default::default();

        // The next server takes none of them over, and makes its own.
        let agent = ground.agent().await;
        let kept = ground.admitted(1).await.remove(0);
        assert_eq!(kept.instance, endpoint.instance);
        let ready = async || agent.metrics().lines().any(|found| found == ready).then_some(());
        ground.until("ready", ready).await;
        agent.stop(true).await;
    });
}

//! Act 5: a new version under load.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    cluster::Cluster,
    images,
    load::{Load, Seen},
    say,
};
use crate::failure::Failure;

pub(super) async fn play(cluster: &Cluster) -> Result<(), Failure> {
    images::image(cluster, "storefront", 2).await?;
    let load = Load::start(cluster.edge, 24, "/ping?work=20");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    images::put(cluster, 2).await?;
    stable(cluster, "storefront").await?;
    let took = begun.elapsed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (seen, _) = load.stop().await;
    say(&format!(
        "   release 2 is stable after {} ms; meanwhile {} requests answered, {} failed",
        took.as_millis(),
        seen.answered,
        seen.failed
    ));
    complain(&seen);
    Ok(())
}

/// Waits until a service's release is stable.
pub(super) async fn stable(cluster: &Cluster, service: &str) -> Result<(), Failure> {
    loop {
        let rollout: serde_json::Value =
            cluster.client.get(&format!("/api/v1/rollouts/market/{service}")).await?;
        match rollout.get("state").and_then(|state| state.as_str()) {
            Some("stable") => return Ok(()),
            Some("failed") => {
                return Err(Failure::Failed(anyhow::anyhow!("the release was taken back: {rollout}")));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Says what the first failure was, if there was one: a demo that hides it is worth nothing.
pub(super) fn complain(seen: &Seen) {
    if let Some(failure) = &seen.first_failure {
        say(&format!("   the first failure was: {failure}"));
    }
}

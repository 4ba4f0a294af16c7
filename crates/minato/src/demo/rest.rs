//! Act 7: to rest.

use std::time::Duration;

use minato_model::inventory::InstanceState;
use tokio::time::Instant;

use super::{cluster::Cluster, load, say};
use crate::failure::Failure;

/// Four seconds idle, and some for draining.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) async fn play(cluster: &Cluster) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let instances = cluster.instances().await?;
        let ended = |state| matches!(state, InstanceState::Stopped | InstanceState::Failed);
        if instances.iter().all(|instance| ended(instance.state)) {
            break;
        }
        if begun.elapsed() > PATIENCE {
            say("   instances still run after 30 s, which they should not");
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    say(&format!(
        "   after {:.1} s the storefront is at rest: no instance, no process",
        begun.elapsed().as_secs_f64()
    ));
    let answer = load::one(cluster.edge, "/ping").await?;
    say(&format!("   and one request later it is there again: {:.1} ms", answer.took.as_secs_f64() * 1e3));
    Ok(())
}

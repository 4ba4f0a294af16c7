//! Act 4: load, and the instances that it needs.

use std::time::Duration;

use minato_model::inventory::InstanceState;

use super::{cluster::Cluster, load::Load, say};
use crate::failure::Failure;

pub(super) async fn play(cluster: &Cluster) -> Result<(), Failure> {
    let load = Load::start(cluster.edge, 48, "/ping?work=50");
    let mut most = 0;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let ready = |instances: Vec<_>| {
            let instances: Vec<minato_model::inventory::Instance> = instances;
            instances.iter().filter(|instance| instance.state == InstanceState::Ready).count()
        };
        most = most.max(ready(cluster.instances().await?));
    }
    let (seen, took) = load.stop().await;
    #[expect(clippy::cast_precision_loss, reason = "for people, to a whole number")]
    let rate = seen.answered as f64 / took.as_secs_f64();
    say("   48 clients at once, each request 50 ms of work, 8 requests meant for one instance:");
    say(&format!(
        "   {} instances, {rate:.0} requests a second, {} answered, {} failed",
        most, seen.answered, seen.failed
    ));
    super::version::complain(&seen);
    Ok(())
}

//! Act 6: an instance is killed under load.

use std::time::Duration;

use anyhow::Context as _;
use minato_model::inventory::InstanceState;
use tokio::time::Instant;

use super::{cluster::Cluster, load::Load, say};
use crate::failure::Failure;

/// How long recovery may take before the demo says that it didn't come.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn play(cluster: &Cluster) -> Result<(), Failure> {
    let load = Load::start(cluster.edge, 48, "/ping?work=50");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cluster.instances().await?;
    let ready = before.iter().filter(|instance| instance.state == InstanceState::Ready);
    let victim = ready.clone().next().cloned().context("no instance is ready")?;
    let wanted = ready.count();
    let pid = victim.pid.and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()));
    let pid = pid.context("the instance has no process")?;
    let killed = Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).context("can't kill it")?;
    say(&format!("   kill -9 {} ({} of {wanted})", pid.as_raw_nonzero(), victim.id));
    let recovered = loop {
        let now = cluster.instances().await?;
        let ready: Vec<_> = now.iter().filter(|instance| instance.state == InstanceState::Ready).collect();
        if ready.len() >= wanted && ready.iter().all(|instance| instance.id != victim.id) {
            break Some(killed.elapsed());
        }
        if killed.elapsed() > PATIENCE {
            break None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (seen, _) = load.stop().await;
    match recovered {
        Some(took) => {
            say(&format!("   as many instances as before are ready again after {} ms", took.as_millis()))
        }
        None => say("   it was not replaced within 10 s"),
    }
    say(&format!(
        "   {} requests answered, {} failed, the slowest took {} ms",
        seen.answered,
        seen.failed,
        seen.slowest.as_millis()
    ));
    super::version::complain(&seen);
    Ok(())
}

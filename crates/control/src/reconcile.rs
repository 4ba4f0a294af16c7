//! The reconcilers: they take no input but the cluster state, do nothing the second time, and run on
//! a signal and on a timer.

pub(crate) mod doors;
pub(crate) mod rollouts;
pub(crate) mod slices;

use std::time::Duration;

use minato_state::{Revision, Watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::rollouts::Clocks;
use crate::{
    core::{Core, Fault},
    world::World,
};

/// The timer while a release is under way: its deadline and its waits are looked at this often.
const MOVING: Duration = Duration::from_secs(1);
/// The timer otherwise: only what no signal told would wait for it.
const STILL: Duration = Duration::from_secs(10);
/// Between two rounds at least: what comes in a heap, as reports do under load, is looked at once.
const PACE: Duration = Duration::from_millis(10);
/// After a failure of the cluster state.
const AFTER_FAULT: Duration = Duration::from_secs(1);
/// Rounds without a pause: each follows what the one before wrote. More than a roll-out can take
/// while nobody reports anything.
const ROUNDS: u32 = 16;

/// Runs until told to stop.
pub(crate) async fn run(core: &Core, shutdown: &CancellationToken) {
    let mut clocks = Clocks::default();
    let mut told = doors::Told::default();
    let driven = async {
        loop {
            let swept = doors::sweep(core).await;
            let end = match swept {
                Ok(()) => drive(core, &mut clocks, &mut told).await,
                Err(fault) => Err(fault),
            };
            if let Err(fault) = end {
                tracing::warn!(
                    error = &fault as &dyn std::error::Error,
                    "reconciling failed; it is tried again"
                );
            }
            tokio::time::sleep(AFTER_FAULT).await;
        }
    };
    let _ended: Option<()> = shutdown.run_until_cancelled(driven).await;
}

/// Rounds for as long as the cluster state can be used.
async fn drive(core: &Core, clocks: &mut Clocks, told: &mut doors::Told) -> Result<(), Fault> {
    let mut watch: Option<Box<dyn Watch>> = None;
    loop {
        let (done, moving) = round(core, clocks, told).await?;
        let open = match watch.take() {
            Some(open) => open,
            None => core.state.watch("/", done + 1).await?,
        };
        let timer = Instant::now() + if moving { MOVING } else { STILL };
        watch = Some(until(open, done, timer).await?);
        tokio::time::sleep(PACE).await;
    }
}

/// Waits for a change after `done`, or for the timer.
async fn until(mut watch: Box<dyn Watch>, done: Revision, timer: Instant) -> Result<Box<dyn Watch>, Fault> {
    loop {
        match tokio::time::timeout_at(timer, watch.next()).await {
            Ok(changes) if changes.as_ref().is_ok_and(|changes| changes.revision <= done) => {}
            Ok(changes) => {
                changes?;
                return Ok(watch);
            }
            Err(_) => return Ok(watch),
        }
    }
}

/// Everything once, until nothing more follows by itself. Says up to which revision, and whether a
/// release is under way.
async fn round(core: &Core, clocks: &mut Clocks, told: &mut doors::Told) -> Result<(Revision, bool), Fault> {
    let mut world = settle(core).await?;
    for _ in 0..ROUNDS {
        if !rollouts::advance(core, &world, clocks).await? {
            break;
        }
        world = settle(core).await?;
    }
    doors::tell(core, &world, told);
    let moving = world.rollouts.values().any(|rollout| rollout.value.under_way());
    Ok((world.revision, moving))
}

/// Begins the roll-outs and writes the slices that what is declared asks for. Whoever changes what is
/// declared can wait for this instead of for the loop: done by both, it is done once.
pub(crate) async fn settle(core: &Core) -> Result<World, Fault> {
    let mut world = World::read(&*core.state).await?;
    for _ in 0..ROUNDS {
        let begun = rollouts::begin(core, &world).await?;
        if !begun && !slices::write(core, &world).await? {
            break;
        }
        world = World::read(&*core.state).await?;
    }
    Ok(world)
}

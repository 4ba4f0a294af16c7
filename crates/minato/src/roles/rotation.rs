//! The cluster's authority: opened in the data directory, and kept in time. What it renews by itself is
//! noted as events.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use minato_identity::{Authority, Lifetimes, Made, Rotation};
use minato_model::{
    event::{Event, Journal},
    ids::NodeName,
    time::Moment,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::clock::now;

/// Opens the authority of a data directory; at the first start it is made.
pub(super) fn open(data: &Path, node: &NodeName, lifetimes: Lifetimes) -> anyhow::Result<Arc<Authority>> {
    Authority::open(&data.join("identity"), node, lifetimes, Arc::new(now))
        .context("the cluster's certificate authority can't be opened")
}

/// Does what is due, again and again: a rotation that fails is tried anew at the next look, long before
/// what is there expires.
pub(super) async fn run(
    authority: Arc<Authority>,
    journal: Arc<dyn Journal>,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let mut looks = interval(authority.lifetimes().look());
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        let rotating = authority.clone();
        match tokio::task::spawn_blocking(move || rotating.rotate()).await {
            Ok(Ok(rotation)) => events(&rotation, now()).into_iter().for_each(|event| journal.record(event)),
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::error!("certificates of the authority could not be renewed: {error:#}");
            }
            Err(error) => tracing::error!(%error, "the look at the authority broke off"),
        }
    }
}

/// What a rotation has done, as events.
fn events(rotation: &Rotation, now: Moment) -> Vec<Event> {
    let data = |made: &Made| {
        json!({
            "number": made.number,
            "root": made.root,
            "not_before": made.not_before,
            "not_after": made.not_after,
            "bundle": rotation.bundle,
        })
    };
    let roots = rotation.roots.iter().map(|root| {
        let reason = format!("root {} is made, and in every bundle from now on", root.number);
        Event::new(now, "root_rotated", reason).with_data(data(root))
    });
    let intermediate = rotation.intermediate.iter().map(|made| {
        let reason = format!("this node signs by intermediate {} of root {}", made.number, made.root);
        Event::new(now, "intermediate_renewed", reason).with_data(data(made))
    });
    roots.chain(intermediate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_told_in_events() {
        let made = Made { number: 4, root: 4, not_before: Moment(0), not_after: Moment(1_000) };
        let rotation =
            Rotation { roots: vec![made], intermediate: Some(Made { number: 9, ..made }), bundle: Some(6) };
        let told = events(&rotation, Moment(5));
        let kinds: Vec<_> = told.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["root_rotated", "intermediate_renewed"]);
        assert_eq!(told[1].data["number"], 9);
        assert_eq!(told[1].data["not_after"], "1970-01-01T00:00:01.000Z");
        assert!(events(&Rotation::default(), Moment(5)).is_empty());
    }
}

//! The running server's side: it gives everything away but its connections, or takes it back.

use std::{os::fd::AsFd as _, sync::Arc, time::Duration};

use minato_edge::Edge;
use minato_runtime::crash;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    desk::Visitor,
    follow::{Asked, Follower},
    line::{DESCRIPTORS_MAX, Writer},
    protocol::{FromOld, Name},
};
use crate::{
    roles::{
        Signals,
        start::{Ground, Server},
        works::{Stores, Works},
    },
    show,
};

/// How long the new server has from the descriptors until it serves: with hundreds of instances on a
/// busy machine it takes seconds.
const READY: Duration = Duration::from_secs(60);
/// It is counted in these: time in which this process doesn't run itself is nobody's fault.
const TICK: Duration = Duration::from_millis(100);
/// How long a new server that gave up may take to end.
const END: Duration = Duration::from_secs(5);
/// How long streams live on where their instances do, as `drain_streams` is by default.
const STREAMS: Duration = Duration::from_secs(3_600);

/// What came of a hand-over.
pub(in crate::roles) enum Outcome {
    /// The new server serves.
    Replaced(Retiring),
    /// It came to nothing, and this one goes on.
    Kept(Box<Server>),
}

/// A server that has a successor.
pub(in crate::roles) struct Retiring {
    edge: Edge,
    /// Ends what is told to the successor.
    stop: CancellationToken,
    /// It has ended.
    over: CancellationToken,
    alone: CancellationToken,
    successor: i32,
}

/// Hands over to a server that asked for it.
///
/// # Errors
/// What was given away can't be had back.
#[expect(clippy::disallowed_methods, reason = "the task ends with the other server, or with this process")]
pub(in crate::roles) async fn hand_over(server: Server, visitor: Visitor) -> anyhow::Result<Outcome> {
    let Server { mut ground, edge, routing, mut works, api, posted, desk, alone } = server;
    let Visitor { reader, mut writer, process } = visitor;
    crash::point("handover.old.begun");
    works.pause().await?;
    let asked = Arc::new(Asked::default());
    ground.wake.set(asked.clone());
    works.hand_over().await;
    crash::point("handover.old.ended");
    let server = Held { ground: &ground, edge: &edge, api: &api, desk: desk.socket() };
    let given = server.give(&mut writer).await;
    crash::point("handover.old.given");
    let ready = CancellationToken::new();
    if let Err(error) = given {
        tracing::warn!(%error, "the listeners can't be handed over");
    } else {
        let over = CancellationToken::new();
        let follower = Follower::new(reader, writer, routing.clone(), asked);
        let stop = CancellationToken::new();
        let following = follower.run(ready.clone(), stop.clone());
        let ended = over.clone().drop_guard();
        // Ends with the other server, or when it is stopped here.
        drop(tokio::spawn(async move {
            following.await;
            drop(ended);
        }));
        tokio::select! {
            biased;
            () = ready.cancelled() => {}
            () = over.cancelled() => {}
            () = patience(READY) => tracing::warn!("the new server isn't ready after {} s", READY.as_secs()),
        }
        if ready.is_cancelled() {
            crash::point("handover.old.replaced");
            posted.leave();
            return Ok(Outcome::Replaced(Retiring { edge, stop, over, alone, successor: process.pid }));
        }
        stop.cancel();
        // Closes the connection, which the other takes for the end; not before it is gone.
        drop(timeout(END, over.cancelled()).await);
    }
    process.end(END).await;
    crash::point("handover.old.alone");
    let works = Works::start(
        &ground,
        Stores::open(&ground.data.path)?,
        routing.clone(),
        edge.handle(),
        api.try_clone()?,
    );
    let works = works.await?;
    // The other may have said that it is the one that has them.
    ground.data.sign()?;
    posted.leave();
    let posted = ground.post()?;
    tracing::warn!(pid = process.pid, "the new server did not come to serve: this one goes on");
    let reason = "the new server did not come to serve, and this one goes on";
    works.record("upgrade_failed", reason, serde_json::json!({ "pid": process.pid }));
    Ok(Outcome::Kept(Box::new(Server { ground, edge, routing, works, api, posted, desk, alone })))
}

/// Waits in steps. After a stop (SIGSTOP) of longer than all of them, what came meanwhile is heard first.
async fn patience(time: Duration) {
    let mut waited = Duration::ZERO;
    while waited < time {
        sleep(TICK).await;
        waited += TICK;
    }
}

/// What is given away, in duplicates.
struct Held<'a> {
    ground: &'a Ground,
    edge: &'a Edge,
    api: &'a std::net::TcpListener,
    desk: std::os::fd::BorrowedFd<'a>,
}

impl Held<'_> {
    /// Sends all listening sockets and the lock.
    async fn give(&self, writer: &mut Writer) -> std::io::Result<()> {
        let listening = self.edge.listeners().await?;
        let mut all = vec![
            (Name::Lock, self.ground.data.lock()),
            (Name::Handover, self.desk),
            (Name::Api, self.api.as_fd()),
        ];
        all.extend(listening.iter().map(|one| (Name::Edge(one.name.to_string()), one.descriptor.as_fd())));
        let send = async {
            for some in all.chunks(DESCRIPTORS_MAX) {
                let (names, descriptors): (Vec<_>, Vec<_>) = some.iter().cloned().unzip();
                writer.send(&FromOld::Sockets { names }, &descriptors).await?;
            }
            writer.send(&FromOld::Handed, &[]).await
        };
        timeout(super::link::PATIENCE, send).await?
    }
}

impl Retiring {
    /// Serves until the last connection is gone, here and in the servers before that are led through
    /// this one. After a signal, or the end of the successor, which leads it, it hurries: streams get no
    /// longer than anybody else. After another signal nobody is waited for.
    pub(in crate::roles) async fn run(self, signals: &mut Signals) {
        let Self { edge, stop, over, alone, successor } = self;
        tracing::info!(pid = successor, "this server is replaced, and ends with its last connection");
        let hurry = CancellationToken::new();
        let retired = async {
            edge.retire(STREAMS, hurry.cancelled()).await;
            let _hurried = hurry.run_until_cancelled(alone.cancelled()).await;
        };
        let cut = async {
            tokio::select! {
                () = signals.next() => {}
                () = over.cancelled() => tracing::info!("the server that took over is gone"),
            }
            hurry.cancel();
            signals.next().await;
        };
        tokio::select! {
            () = retired => {}
            () = cut => tracing::info!("a second signal: what is left is cut"),
        }
        stop.cancel();
        drop(timeout(END, over.cancelled()).await);
        show::line(&format!("replaced by pid {successor}"));
    }
}

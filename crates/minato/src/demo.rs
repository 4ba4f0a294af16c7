//! `minato demo`: a cluster of its own, the sample application in it, and what a cluster is for, shown
//! act by act with figures that are measured as they are said.

mod cluster;
mod failure;
mod first;
mod images;
mod load;
mod rest;
mod scale;
mod version;

use cluster::{Cluster, Server};

use crate::{failure::Failure, show};

/// A line of the story.
fn say(text: &str) {
    show::line(text);
}

/// Begins an act.
fn act(number: u32, title: &str) {
    say("");
    say(&format!("{number}. {title}"));
}

/// Plays the demo, and stays until Ctrl-C.
pub(crate) async fn run() -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        let program =
            std::env::current_exe().map_or_else(|_| "minato".to_owned(), |path| path.display().to_string());
        return Err(Failure::Usage(format!(
            "the demo makes containers and a network, which root alone may; run: sudo {program} demo"
        )));
    }
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| Failure::Failed(error.into()))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Failure::Failed(error.into()))?;
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .map_err(|error| Failure::Failed(error.into()))?;
    say("Minato: an application cluster in one binary. This is one, on this machine, with real containers.");
    let (mut server, cluster) = Server::start().await?;
    let played = tokio::select! {
        played = story(&cluster) => played,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
        // The terminal was closed.
        _ = hangup.recv() => Ok(()),
        status = server.ended() => Err(status),
    };
    say("");
    say("stopping: instances drain, and everything is given back");
    let stopped = server.stop().await;
    played.and(stopped)
}

async fn story(cluster: &Cluster) -> Result<(), Failure> {
    act(1, "Images: this very program holds the sample application; it is packed and pushed");
    images::pack_and_push(cluster).await?;
    act(2, "A manifest: three services, all at rest");
    images::apply(cluster).await?;
    act(3, "A request arrives, and there is no instance");
    first::play(cluster).await?;
    act(4, "Many requests: as many instances as they need");
    scale::play(cluster).await?;
    act(5, "A new version, while requests keep coming");
    version::play(cluster).await?;
    act(6, "An instance is killed, while requests keep coming");
    failure::play(cluster).await?;
    act(7, "No more requests: back to nothing");
    rest::play(cluster).await?;
    say("");
    say("That was the story; the cluster stays for you to try:");
    say(&format!("  the storefront, to open in a browser   {}", cluster.url()));
    say(&format!("  the command line                       {}", cluster.command("status")));
    say(&format!("                                         {}", cluster.command("events -f")));
    say("Ctrl-C ends it and takes everything away.");
    std::future::pending().await
}

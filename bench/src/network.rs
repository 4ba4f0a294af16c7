//! The networks that the peers are given, made beforehand and not timed: a namespace that plays the
//! host, one that runc's container gets, and a pair of links between them. Nothing is routed beyond, so
//! no packet leaves the machine, and all goes with the namespaces.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    patience::{Patience, now, pause},
    processes::{expect, run, run_at_the_end},
};

/// Where runc's container answers.
pub(crate) const GIVEN: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 1);
const GIVEN_MAC: &str = "02:00:00:00:00:02";
const HOST_MAC: &str = "02:00:00:00:00:01";

/// Two namespaces with a pair of links between them.
#[derive(Debug)]
pub(crate) struct Network {
    host: String,
    given: String,
}

impl Network {
    /// Makes both, up, with permanent neighbours: a lost ARP would cost a second.
    pub(crate) fn make(patience: &Patience) -> Result<Self> {
        expect("ip")?;
        let pid = std::process::id();
        let network = Self { host: format!("mnbench{pid}h"), given: format!("mnbench{pid}g") };
        let (host, given) = (&network.host, &network.given);
        let steps = [
            format!("netns add {host}"),
            format!("netns add {given}"),
            format!("-n {host} link set lo up"),
            format!("-n {given} link set lo up"),
            format!(
                "-n {host} link add given address {HOST_MAC} type veth peer name eth0 address {GIVEN_MAC} netns {given}"
            ),
            format!("-n {host} addr add {HOST}/30 dev given"),
            format!("-n {given} addr add {GIVEN}/30 dev eth0"),
            format!("-n {host} link set given up"),
            format!("-n {given} link set eth0 up"),
            format!("-n {host} neigh replace {GIVEN} lladdr {GIVEN_MAC} dev given nud permanent"),
            format!("-n {given} neigh replace {HOST} lladdr {HOST_MAC} dev eth0 nud permanent"),
        ];
        for step in steps {
            run(patience, Command::new("ip").args(step.split(' ')))?;
        }
        Ok(network)
    }

    /// Where the namespace is that runc's container gets.
    pub(crate) fn given(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.given)
    }

    /// Does something on a thread in the namespace that plays the host; what it starts is there too.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = PathBuf::from("/run/netns").join(&self.host);
        let space = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))
                    .context("can't enter the network namespace")?;
                work()
            });
            thread.join().map_err(|_| anyhow!("a thread of the benchmark ended early"))?
        })
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in [&self.given, &self.host] {
            run_at_the_end(Command::new("ip").args(["netns", "del", name]));
        }
    }
}

/// Asks an address that may not answer yet until its first byte, and returns the time since `begun`.
///
/// Each try to connect takes at most a millisecond, and the next follows after a quarter of one: a lost
/// first packet is tried again by a new socket, not a second later. It is over when what starts the
/// program fails.
pub(crate) fn first_answer(
    patience: &Patience,
    begun: Instant,
    address: Ipv4Addr,
    port: u16,
    starter: &mut Child,
) -> Result<Duration> {
    let address = SocketAddr::from((address, port));
    while begun.elapsed() < Duration::from_secs(20) {
        patience.check()?;
        if let Some(status) = starter.try_wait()?
            && !status.success()
        {
            bail!("it ended: {status}");
        }
        match TcpStream::connect_timeout(&address, Duration::from_millis(1)) {
            Ok(stream) => return answered(stream, begun),
            Err(error) if hopeless(error.kind()) => bail!("{address} can't be asked: {error}"),
            Err(_) => pause(Duration::from_micros(250)),
        }
    }
    bail!("no answer from {address} in 20 s")
}

fn hopeless(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::AddrNotAvailable | ErrorKind::InvalidInput)
}

fn answered(mut stream: TcpStream, begun: Instant) -> Result<Duration> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: ok\r\n\r\n")?;
    let mut start = [0; 12];
    stream.read_exact(&mut start[..1])?;
    let took = now() - begun;
    stream.read_exact(&mut start[1..])?;
    if &start != b"HTTP/1.1 200" {
        bail!("an answer that isn't 200: {:?}", String::from_utf8_lossy(&start));
    }
    Ok(took)
}

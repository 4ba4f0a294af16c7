//! The networks that the peers are given, made beforehand and not timed: a namespace that plays the
//! host, one that each container of runc gets, and a pair of links to each. Nothing is routed beyond, so
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

const GIVEN_MAC: &str = "02:00:00:00:00:02";
const HOST_MAC: &str = "02:00:00:00:00:01";

/// The namespace that plays the host, and those that are given.
#[derive(Debug)]
pub(crate) struct Network {
    host: String,
    given: Vec<Given>,
}

/// A namespace for one container.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    name: String,
    /// Where its container answers.
    pub(crate) address: Ipv4Addr,
}

impl Given {
    /// Where the namespace is.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Network {
    /// Makes them, up, with permanent neighbours: a lost ARP would cost a second. At most 63.
    pub(crate) fn make(patience: &Patience, containers: u8) -> Result<Self> {
        expect("ip")?;
        let name = format!("mnbench{}", std::process::id());
        let mut network = Self { host: format!("{name}h"), given: Vec::new() };
        let host = network.host.clone();
        let run_all = |steps: &[String]| {
            steps
                .iter()
                .try_for_each(|step| run(patience, Command::new("ip").args(step.split(' '))).map(drop))
        };
        run_all(&[format!("netns add {host}"), format!("-n {host} link set lo up")])?;
        for number in 0..containers.min(63) {
            let own = Ipv4Addr::new(10, 255, 255, 4 * number + 1);
            let address = Ipv4Addr::new(10, 255, 255, 4 * number + 2);
            let (given, link) = (format!("{name}g{number}"), format!("given{number}"));
            network.given.push(Given { name: given.clone(), address });
            run_all(&[
                format!("netns add {given}"),
                format!("-n {given} link set lo up"),
                format!(
                    "-n {host} link add {link} address {HOST_MAC} type veth peer name eth0 address {GIVEN_MAC} netns {given}"
                ),
                format!("-n {host} addr add {own}/30 dev {link}"),
                format!("-n {given} addr add {address}/30 dev eth0"),
                format!("-n {host} link set {link} up"),
                format!("-n {given} link set eth0 up"),
                format!("-n {host} neigh replace {address} lladdr {GIVEN_MAC} dev {link} nud permanent"),
                format!("-n {given} neigh replace {own} lladdr {HOST_MAC} dev eth0 nud permanent"),
            ])?;
        }
        Ok(network)
    }

    /// What the containers are given, one each.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
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
        for name in self.given.iter().map(|given| &given.name).chain([&self.host]) {
            run_at_the_end(Command::new("ip").args(["netns", "del", name]));
        }
    }
}

/// How long one that starts alone is left between two tries.
pub(crate) const EAGER: Duration = Duration::from_micros(250);

/// Asks an address that may not answer yet until its first byte, and returns the time since `begun`.
///
/// Each try to connect takes at most a millisecond, and the next follows after `every`: a lost first
/// packet is tried again by a new socket, not a second later. It is over when what starts the program
/// fails.
pub(crate) fn first_answer(
    patience: &Patience,
    begun: Instant,
    (address, port): (Ipv4Addr, u16),
    every: Duration,
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
            Err(_) => pause(every),
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

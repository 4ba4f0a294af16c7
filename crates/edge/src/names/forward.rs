//! Questions that the host's resolvers answer.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::Instant,
};

/// How long one resolver has.
const EACH: Duration = Duration::from_secs(2);
/// As resolvers themselves: three at most, all of them twice.
const RESOLVERS_MAX: usize = 3;
const ROUNDS: usize = 2;
/// How long the list of resolvers is believed.
const FRESH: Duration = Duration::from_secs(5);

/// How a question came, and goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Asks the host's resolvers.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolv_conf: PathBuf,
    own: IpAddr,
    resolvers: RefCell<Option<(Instant, Vec<SocketAddr>)>>,
}

impl Forwarder {
    /// `own` is our own address, which isn't asked even if the host names it.
    pub(super) fn new(resolv_conf: PathBuf, own: Ipv4Addr) -> Self {
        Self { resolv_conf, own: own.into(), resolvers: RefCell::default() }
    }

    /// The answer of the first resolver that gives one.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let resolvers = self.resolvers();
        for _ in 0..ROUNDS {
            for resolver in &resolvers {
                let asking = async {
                    match transport {
                        Transport::Udp => ask_udp(*resolver, query).await,
                        Transport::Tcp => ask_tcp(*resolver, query).await,
                    }
                };
                match tokio::time::timeout(EACH, asking).await {
                    Ok(Ok(answer)) => return Some(answer),
                    Ok(Err(error)) => tracing::debug!(%resolver, %error, "a resolver can't be asked"),
                    Err(_) => tracing::debug!(%resolver, "a resolver doesn't answer"),
                }
            }
        }
        None
    }

    /// The resolvers that the host has now.
    fn resolvers(&self) -> Vec<SocketAddr> {
        if let Some((read, resolvers)) = &*self.resolvers.borrow()
            && read.elapsed() < FRESH
        {
            return resolvers.clone();
        }
        let text = std::fs::read_to_string(&self.resolv_conf).unwrap_or_else(|error| {
            tracing::debug!(%error, "the list of resolvers can't be read");
            String::new()
        });
        let resolvers = parse(&text, self.own);
        self.resolvers.replace(Some((Instant::now(), resolvers.clone())));
        resolvers
    }
}

/// The name servers of a resolv.conf.
fn parse(text: &str, own: IpAddr) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and_then(|_| words.next())?;
        address.parse::<IpAddr>().ok()
    });
    servers.filter(|server| *server != own).take(RESOLVERS_MAX).map(|server| (server, 53).into()).collect()
}

/// Asks under an id and from a port of our own, so that a forged answer has to guess both.
async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if resolver.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let disguised = Disguised::new(query)?;
    socket.send(&disguised.query).await?;
    let mut buffer = vec![0_u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = disguised.uncover(buffer.get(..length).unwrap_or_default()) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let disguised = Disguised::new(query)?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), disguised.query.as_slice()].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0_u8; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    disguised.uncover(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// A question under another id.
struct Disguised {
    original: [u8; 2],
    query: Vec<u8>,
}

impl Disguised {
    fn new(query: &[u8]) -> io::Result<Self> {
        let id = getrandom::u32().map_err(io::Error::other)?.to_be_bytes();
        let (original, rest) = query.split_first_chunk::<2>().ok_or(io::ErrorKind::InvalidData)?;
        let id = id.first_chunk::<2>().copied().unwrap_or_default();
        Ok(Self { original: *original, query: [&id, rest].concat() })
    }

    /// The answer under the original id, if it is one to this question.
    fn uncover(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = answer.split_first_chunk::<2>()?;
        let is_answer = self.query.starts_with(id) && rest.first()? & 0x80 != 0;
        let question = |message: &[u8]| {
            let message = hickory_proto::op::Message::from_vec(message).ok()?;
            let query = message.queries.into_iter().next()?;
            Some((query.name().to_lowercase(), query.query_type()))
        };
        let same = is_answer && question(answer) == question(&self.query);
        same.then(|| [&self.original, rest].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_the_host_does() {
        let text = "# nameserver 192.0.2.1\nsearch example\nnameserver 192.0.2.2\nnameserver\tfd00::1\n\
                    nameserver 10.7.0.1\nnameserver x\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n";
        let resolvers = parse(text, "10.7.0.1".parse().unwrap());
        let expected = ["192.0.2.2:53", "[fd00::1]:53", "192.0.2.3:53"];
        assert_eq!(resolvers.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }
}

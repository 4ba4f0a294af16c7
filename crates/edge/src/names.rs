//! Names for instances: `<service>.<app>.internal` is the service's virtual address; what isn't the
//! cluster's is asked of the host's resolvers.

mod forward;
mod reply;

use std::{io, net::SocketAddr, path::PathBuf, rc::Rc, sync::Arc, time::Duration};

use minato_model::{ids::ServiceKey, network::AddressPlan};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
};

use crate::{serve::Life, shared::Shared};
use forward::{Forwarder, Transport};
use reply::Reply;

/// Questions on their way to the host's resolvers, and connections: each holds a socket.
const FORWARDED_MAX: usize = 256;
const CONNECTIONS_MAX: usize = 128;
/// How long a connection may say nothing.
const IDLE: Duration = Duration::from_secs(10);

/// A name server that is about to run.
pub(crate) struct Server {
    pub(crate) udp: std::net::UdpSocket,
    pub(crate) tcp: std::net::TcpListener,
    pub(crate) plan: AddressPlan,
    pub(crate) resolv_conf: PathBuf,
    pub(crate) shared: Arc<Shared>,
}

/// A running one.
struct Running {
    plan: AddressPlan,
    shared: Arc<Shared>,
    forwarder: Forwarder,
    forwarded: Semaphore,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Answers until the edge has ended, or has a successor.
    pub(crate) async fn run(self, mut life: watch::Receiver<Life>) {
        let (udp, tcp) = match (UdpSocket::from_std(self.udp), TcpListener::from_std(self.tcp)) {
            (Ok(udp), Ok(tcp)) => (Rc::new(udp), tcp),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "the name server's sockets could not be registered");
                return;
            }
        };
        let running = Rc::new(Running {
            plan: self.plan,
            shared: self.shared,
            forwarder: Forwarder::new(self.resolv_conf, self.plan.gateway()),
            forwarded: Semaphore::new(FORWARDED_MAX),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        });
        // Without an edge there is an error, now and below.
        drop(life.wait_for(|life| *life != Life::Preparing).await);
        tokio::select! {
            () = packets(&running, &udp) => {}
            () = connections(&running, &tcp) => {}
            _ = life.wait_for(|life| matches!(life, Life::Ended | Life::Retiring)) => {}
        }
    }
}

async fn packets(running: &Rc<Running>, udp: &Rc<UdpSocket>) {
    let mut buffer = [0_u8; 4096];
    loop {
        let (length, from) = match udp.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving a question failed");
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let query = buffer.get(..length).unwrap_or_default();
        if !running.is_ours(from) {
            continue;
        }
        match running.reply(query) {
            Reply::Own(answer) => send(udp, &answer, from).await,
            Reply::None => {}
            Reply::Forward => {
                let (running, udp, query) = (Rc::clone(running), Rc::clone(udp), query.to_vec());
                drop(tokio::task::spawn_local(async move {
                    if let Some(answer) = running.forward(&query, Transport::Udp).await {
                        send(&udp, &answer, from).await;
                    }
                }));
            }
        }
    }
}

async fn send(udp: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = udp.send_to(answer, to).await {
        tracing::debug!(%error, %to, "an answer could not be sent");
    }
}

async fn connections(running: &Rc<Running>, tcp: &TcpListener) {
    loop {
        let Ok(permit) = Arc::clone(&running.connections).acquire_owned().await else { return };
        match tcp.accept().await {
            Ok((stream, from)) if running.is_ours(from) => {
                let running = Rc::clone(running);
                drop(tokio::task::spawn_local(async move {
                    // The end of a connection is nothing to speak of.
                    drop(converse(&running, stream).await);
                    drop(permit);
                }));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Messages with their length before them (RFC 1035, 4.2.2), one after the other.
async fn converse(running: &Running, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let query = tokio::time::timeout(IDLE, async {
            let length = stream.read_u16().await?;
            let mut query = vec![0_u8; usize::from(length)];
            stream.read_exact(&mut query).await?;
            io::Result::Ok(query)
        })
        .await??;
        let answer = match running.reply(&query) {
            Reply::Own(answer) => Some(answer),
            Reply::Forward => running.forward(&query, Transport::Tcp).await,
            Reply::None => None,
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        tokio::time::timeout(IDLE, stream.write_all(&message)).await??;
    }
}

impl Running {
    /// Instances are answered, nobody else.
    fn is_ours(&self, from: SocketAddr) -> bool {
        matches!(from, SocketAddr::V4(from) if self.plan.contains(*from.ip()))
    }

    fn reply(&self, query: &[u8]) -> Reply {
        let snapshot = self.shared.snapshot.load();
        reply::reply(query, |key: &ServiceKey| {
            snapshot.service(key).map(|service| self.plan.at(service.route.virtual_offset))
        })
    }

    async fn forward(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let answer = match self.forwarded.try_acquire() {
            Ok(_permit) => self.forwarder.ask(query, transport).await,
            // Too many are on their way.
            Err(_) => None,
        };
        answer.or_else(|| reply::failure(query))
    }
}

/// A question has one answer at most, which is one to it.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn check(query: &[u8]) {
    let address = |_: &minato_model::ids::ServiceKey| Some(std::net::Ipv4Addr::new(10, 1, 0, 2));
    if let Reply::Own(answer) = reply::reply(query, address) {
        assert_eq!(answer.get(..2), query.get(..2), "{query:?}");
        assert!(answer.len() <= 4096, "{query:?}");
    }
    drop(reply::failure(query));
}

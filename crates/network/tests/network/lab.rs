//! Network namespaces for one test: a node, instances, and a machine outside. Nothing leaves them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use minato_model::network::AddressPlan;
use minato_network::{NodeId8, NodeNetwork, link};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long to wait for what should not come.
pub(crate) const SILENCE: Duration = Duration::from_millis(300);
/// How long to wait for what should come.
const ANSWER: Duration = Duration::from_secs(5);

/// The machine outside, and the node on the link between them.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub(crate) const NODE_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace that goes with its value.
pub(crate) struct Space {
    name: String,
}

impl Space {
    pub(crate) fn new(role: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let space = Self { name: format!("mnt{}-{number}-{role}", std::process::id()) };
        run("ip", &["netns", "add", &space.name]);
        run("ip", &["-n", &space.name, "link", "set", "lo", "up"]);
        space
    }

    pub(crate) fn descriptor(&self) -> File {
        File::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    /// Runs this in the namespace, in a thread of its own.
    pub(crate) fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let space = self.descriptor();
        thread::scope(|scope| {
            let act = move || {
                move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                act()
            };
            scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program in the namespace and gives its output; it must succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        self.inside(|| run(program, arguments))
    }

    /// Whether another user than root gets a TCP connection.
    pub(crate) fn nobody_reaches(&self, address: SocketAddr) -> bool {
        use std::os::unix::process::CommandExt as _;
        let script = format!("exec 3<>/dev/tcp/{}/{}", address.ip(), address.port());
        self.inside(|| {
            let mut command = Command::new("timeout");
            command.args(["2", "bash", "-c", &script]).uid(65534).gid(65534);
            command.output().unwrap().status.success()
        })
    }

    /// Who the other side says that we are, if a TCP connection comes about.
    pub(crate) fn reaches(&self, address: impl Into<SocketAddr>) -> Option<IpAddr> {
        let address = address.into();
        self.inside(|| greeted(TcpStream::connect_timeout(&address, SILENCE).ok()?))
    }

    /// Serves TCP: each connection is told where it comes from. Ends with the value.
    pub(crate) fn serve(&self, address: impl Into<SocketAddr>) -> Server {
        let address = address.into();
        let listener = self.inside(|| TcpListener::bind(address).unwrap());
        let stop = listener.try_clone().unwrap();
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                let peer = stream.peer_addr().unwrap().ip().to_string();
                // A client that has gone is no matter.
                stream.write_all(peer.as_bytes()).ok();
            }
        });
        Server { stop, thread: Some(thread) }
    }

    /// Whether a datagram to this address is answered.
    pub(crate) fn asks(&self, address: impl Into<SocketAddr>) -> bool {
        let address = address.into();
        self.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket.connect(address).unwrap();
            socket.send(b"?").is_ok() && socket.recv(&mut [0; 8]).is_ok()
        })
    }

    /// Answers one datagram after another until none comes for a while.
    pub(crate) fn answer(&self, address: impl Into<SocketAddr>) -> thread::JoinHandle<()> {
        let address = address.into();
        let socket = self.inside(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(SILENCE * 4)).unwrap();
        thread::spawn(move || {
            while let Ok((_, peer)) = socket.recv_from(&mut [0; 8]) {
                socket.send_to(b"!", peer).ok();
            }
        })
    }
}

use std::os::fd::AsFd as _;

impl Drop for Space {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.name]).output().ok();
    }
}

/// What the server said about us.
fn greeted(mut stream: TcpStream) -> Option<IpAddr> {
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

pub(crate) struct Server {
    stop: TcpListener,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.stop, rustix::net::Shutdown::Both).ok();
        self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A node that is joined to a machine outside, which knows the way back to the node's network: only
/// the node's rules keep it out.
pub(crate) struct Lab {
    pub(crate) node: Space,
    pub(crate) outside: Space,
    pub(crate) network: NodeNetwork,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let (node, outside) = (Space::new("node"), Space::new("out"));
        let network = network(0x00c0_ffee, 77);
        let (n, o) = (node.name.clone(), outside.name.clone());
        run("ip", &["-n", &n, "link", "add", "up0", "type", "veth", "peer", "up0", "netns", &o]);
        for (space, address) in [(&n, NODE_OUTSIDE), (&o, OUTSIDE)] {
            run("ip", &["-n", space, "address", "add", &format!("{address}/24"), "dev", "up0"]);
            run("ip", &["-n", space, "link", "set", "up0", "up"]);
        }
        let whole = format!("{}/16", network.plan.base());
        run("ip", &["-n", &o, "route", "add", &whole, "via", &NODE_OUTSIDE.to_string()]);
        // A new namespace may begin with the settings of the machine.
        for (setting, value) in
            [("conf/all/rp_filter", "0"), ("conf/up0/rp_filter", "0"), ("ip_forward", "0")]
        {
            node.inside(|| std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).unwrap());
        }
        Self { node, outside, network }
    }

    /// An instance with this offset in the node's network.
    pub(crate) fn instance(&self, offset: u16) -> (Space, Ipv4Addr) {
        let (space, address) = (Space::new("inst"), self.network.plan.at(offset));
        let target = space.descriptor();
        self.node.inside(|| link::create_instance_pair(&self.network, address, target.as_fd()).unwrap());
        space.inside(|| link::configure_inside(address, self.network.plan.gateway()).unwrap());
        assert!(self.node.inside(|| link::settle(&self.network, address).unwrap()));
        (space, address)
    }
}

/// A node's network by its id and the second octet of its range.
pub(crate) fn network(id: u32, second: u8) -> NodeNetwork {
    NodeNetwork { id: NodeId8::new(id), plan: AddressPlan::new(Ipv4Addr::new(10, second, 0, 0)) }
}

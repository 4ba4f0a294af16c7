//! Attempts by the network, on a node whose only outside is a namespace of this test.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{linux::net::SocketAddrExt, unix::net::SocketAddr as UnixAddr, unix::net::UnixListener},
    sync::mpsc::{Sender, channel},
    thread,
};

use minato_runtime::protection::Protection::{Capabilities, NetworkNamespace, Seccomp};

use crate::{
    ground::leave_the_hosts_network,
    lab::{Lab, inside, run, serve},
    table::{Attempt, Off, Off::Part, Off::Rule},
};

const EVERYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// The machine outside, the node on the link to it, and where clouds tell secrets.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const NODE_OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// The offset of an address in the node's network that no instance has.
const NOBODYS: u16 = 0x7777;

fn tcp(what: &str, address: impl std::fmt::Display, off: &[Off]) -> Attempt {
    Attempt::new(what, ["tcp".to_owned(), address.to_string()], off)
}

#[test]
fn the_node_and_others_are_not_reached() {
    let mut lab = Lab::new("What answers on the network");
    let plan = lab.ground.plan;
    let gateway = plan.gateway();
    let _outside = Outside::new(&lab);
    serve((EVERYWHERE, 7070));
    lab.try_out(tcp("the node's API by 127.0.0.1", "127.0.0.1:7070", &[Part(NetworkNamespace)]));
    let to_gateway = [
        Rule("refuse all else to the gateway"),
        Rule("refuse virtual addresses without a listener"),
        Rule("refuse the rest of the node"),
    ];
    lab.try_out(tcp("the node's API by the gateway's address", format!("{gateway}:7070"), &to_gateway));
    let to_node = [Rule("refuse the rest of the node")];
    lab.try_out(tcp("the node's API by an address of the host", format!("{NODE_OUTSIDE}:7070"), &to_node));

    let (other, spec) = lab.make(&[]);
    inside(&other, || serve((EVERYWHERE, 80)));
    let between = [Rule("refuse the way to other instances"), Rule("refuse links of other instances")];
    lab.try_out(tcp("another instance", format!("{}:80", spec.address), &between));

    let link_local = [Rule("drop what goes to link-local addresses")];
    lab.try_out(tcp("link-local metadata", format!("{METADATA}:80"), &link_local));
    serve((Ipv6Addr::UNSPECIFIED, 7071));
    lab.try_out(tcp(
        "the host's end by IPv6 link-local",
        "[fe80::1%eth0]:7071",
        &[
            Rule("drop IPv6 from instances"),
            Rule("drop foreign sources from instances"),
            Rule("refuse the rest of the node"),
            Off::NoLinkLocalAddress,
        ],
    ));

    let name = format!("minato-escape-{}", std::process::id());
    greet_at(&name);
    lab.try_out(Attempt::new(
        "an abstract socket of the host",
        ["abstract", &name],
        &[Part(NetworkNamespace)],
    ));
}

#[test]
fn addresses_are_not_forged() {
    let mut lab = Lab::new("Raw packets, and others' addresses");
    let raw = |what: &str, family: i32, protocol: i32, off: &[Off]| {
        let kind = libc::SOCK_RAW.to_string();
        Attempt::new(what, ["socket".to_owned(), family.to_string(), kind, protocol.to_string()], off)
    };
    let both = [Part(Seccomp), Part(Capabilities)];
    lab.try_out(raw("a packet socket", libc::AF_PACKET, 0x0300, &both));
    lab.try_out(raw("a raw socket", libc::AF_INET, libc::IPPROTO_ICMP, &both[1..]));
    lab.try_out(raw("a raw socket with a head of its own", libc::AF_INET, libc::IPPROTO_RAW, &both[1..]));

    // What goes to the name server passes all rules but those that are tried here.
    let target = (lab.ground.plan.gateway(), 53);
    lab.receiver = Some(UdpSocket::bind(target).unwrap());
    let target = format!("{}:{}", target.0, target.1);
    let (_other, spec) = lab.make(&[]);
    let another = spec.address;
    let forge = |what: &str, how: &str, source: Ipv4Addr, off: &[Off]| {
        Attempt::new(what, [how.to_owned(), source.to_string(), target.clone()], off).heard_from(source)
    };
    let proof = [Part(Capabilities), Off::ReversePathFilter];
    lab.try_out(forge("a datagram as another instance", "forge", another, &proof));
    lab.try_out(forge("bind to another's address (IP_TRANSPARENT)", "transparent", another, &proof));
    let foreign = [&proof[..], &[Rule("drop foreign sources from instances")]].concat();
    let stranger = Ipv4Addr::new(203, 0, 113, 9);
    lab.try_out(forge("a datagram as a stranger", "forge", stranger, &foreign));
}

#[test]
fn nothing_for_nobodys_address_leaves_the_machine() {
    let mut lab = Lab::new("What is sent to an address of the node's network that nobody has");
    let outside = Outside::new(&lab);
    let target = lab.ground.plan.at(NOBODYS);
    lab.receiver = Some(outside.receiver.try_clone().unwrap());
    // Each instance has an address of its own: the next ones.
    let off = [
        Rule("refuse the way to other instances"),
        Off::UnreachableRoute,
        Rule("keep private sources on the machine"),
    ];
    lab.try_out(
        Attempt::new("a datagram", ["udp".to_owned(), format!("{target}:9")], &off).heard_from(EVERYWHERE),
    );
}

/// Greets whoever connects to an abstract socket of the node's network.
fn greet_at(name: &str) {
    let listener = UnixListener::bind_addr(&UnixAddr::from_abstract_name(name).unwrap()).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.write_all(b"hello").ok();
        }
    });
}

/// A machine outside, in a namespace that goes with the value.
struct Outside {
    receiver: UdpSocket,
    _ends: Sender<()>,
}

impl Outside {
    fn new(lab: &Lab) -> Self {
        let nobodys = lab.ground.plan.at(NOBODYS);
        let (told, tells) = channel();
        let (ends, joined) = channel();
        let (ready, is_ready) = channel();
        thread::spawn(move || {
            leave_the_hosts_network();
            told.send(rustix::thread::gettid()).unwrap();
            joined.recv().unwrap();
            run("ip", &["link", "set", "lo", "up"]);
            run("ip", &["address", "add", &format!("{nobodys}/32"), "dev", "lo"]);
            run("ip", &["address", "add", &format!("{METADATA}/32"), "dev", "up0"]);
            run("ip", &["address", "add", &format!("{OUTSIDE}/24"), "dev", "up0"]);
            run("ip", &["link", "set", "up0", "up"]);
            // A new namespace may begin with the settings of the machine.
            for link in ["all", "up0"] {
                std::fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), "0").unwrap();
            }
            serve((METADATA, 80));
            ready.send(UdpSocket::bind((nobodys, 9)).unwrap()).unwrap();
            // Until nobody needs it.
            joined.recv().ok();
        });
        let thread = tells.recv().unwrap().to_string();
        run("ip", &["link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", &thread]);
        run("ip", &["address", "add", &format!("{NODE_OUTSIDE}/24"), "dev", "up0"]);
        run("ip", &["link", "set", "up0", "up"]);
        run("ip", &["route", "add", &format!("{METADATA}/32"), "dev", "up0"]);
        run("ip", &["route", "add", "default", "via", &OUTSIDE.to_string()]);
        ends.send(()).unwrap();
        Self { receiver: is_ready.recv().unwrap(), _ends: ends }
    }
}

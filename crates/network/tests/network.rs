//! The network as the kernel has it: each sentence of its specification in real namespaces (needs root,
//! iproute2, nftables, iptables).
#![expect(clippy::unwrap_used, reason = "tests end at the first surprise")]

#[path = "network/lab.rs"]
mod lab;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::Command,
    time::Duration,
};

use lab::{Lab, NODE_OUTSIDE, OUTSIDE, Space, network};
use minato_network::{
    EnsureError, Listening, Node, Probe, clean, forward_blocked, link, link::PairError, listener_owner,
    remove_links_but,
};
use rustix::{
    fs::Timespec,
    process::Uid,
    process::{Pid, PidfdFlags, pidfd_open},
    thread::set_thread_res_uid,
    time::{ClockId, clock_gettime},
};

const EVERYWHERE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A lab with its node's network in force.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.node.inside(|| Node::ensure(&lab.network).unwrap());
    lab
}

/// Everything of the network that a node could leave behind.
fn traces(space: &Space) -> [String; 4] {
    [
        space.run("ip", &["-4", "address"]),
        space.run("ip", &["-4", "route", "show", "table", "all"]),
        space.run("ip", &["-br", "link"]),
        space.run("nft", &["list", "ruleset"]),
    ]
}

#[test]
fn ensure_is_whole_again_and_clean_leaves_nothing() {
    let lab = Lab::new();
    let before = traces(&lab.node);
    let first = lab.node.inside(|| Node::ensure(&lab.network).unwrap());
    assert!(first.forwarding_turned_on());
    let rules = traces(&lab.node);
    let (instance, address) = lab.instance(0x4000);
    let second = lab.node.inside(|| Node::ensure(&lab.network).unwrap());
    assert!(!second.forwarding_turned_on());
    assert_eq!(rules[3], traces(&lab.node)[3]);
    let _server = instance.serve((EVERYWHERE, 80));
    assert!(lab.node.reaches((address, 80)).is_some());
    for _ in 0..2 {
        lab.node.inside(|| clean(lab.network.id).unwrap());
        assert_eq!(before, traces(&lab.node));
    }
}

#[test]
fn links_that_belong_to_nobody_are_removed_while_their_namespaces_are_held() {
    let lab = lab();
    let other = network(7, 71);
    lab.node.inside(|| Node::ensure(&other).unwrap());
    let (held, address) = lab.instance(0x4000);
    let before = traces(&lab.node);
    // Their namespaces stay.
    let stale: Vec<_> = (1..20).map(|number| lab.instance(0x4000 + number)).collect();
    let remove = || lab.node.inside(|| remove_links_but(lab.network.id, &[address]).unwrap());
    assert_eq!(remove(), stale.len());
    assert_eq!(before, traces(&lab.node));
    assert_eq!(remove(), 0);
    assert_eq!(lab.node.inside(|| remove_links_but(other.id, &[]).unwrap()), 0);
    let _server = held.serve((EVERYWHERE, 80));
    assert!(lab.node.reaches((address, 80)).is_some());
    // Their addresses can be had again at once.
    drop(lab.instance(0x4001));
}

#[test]
fn two_nodes_on_one_machine_never_meet() {
    let space = Space::new("node");
    let (one, other) = (network(0x1111_1111, 70), network(0x1111_1112, 71));
    space.inside(|| Node::ensure(&one).unwrap());
    let alone = traces(&space);
    space.inside(|| Node::ensure(&other).unwrap());
    let taken = space.inside(|| Node::ensure(&network(0x1111_1113, 70)));
    assert!(matches!(taken, Err(EnsureError::RangeTaken { .. })), "{taken:?}");
    space.inside(|| clean(other.id).unwrap());
    assert_eq!(alone, traces(&space));
    let chosen = space.inside(|| minato_network::choose_range().unwrap());
    assert!(chosen != one.plan);
    space.run("ip", &["route", "add", "10.80.3.0/24", "dev", "lo"]);
    let taken = space.inside(|| Node::ensure(&network(1, 80)));
    assert!(matches!(taken, Err(EnsureError::RangeTaken { .. })), "{taken:?}");
}

#[test]
fn instances_of_two_nodes_do_not_reach_each_other() {
    let lab = lab();
    let other = Lab { network: network(7, 71), node: Space::new("unused"), outside: Space::new("unused") };
    lab.node.inside(|| Node::ensure(&other.network).unwrap());
    let (mine, _) = lab.instance(0x4000);
    let (theirs, address) = (Space::new("inst"), other.network.plan.at(0x4000));
    let target = theirs.descriptor();
    lab.node.inside(|| link::create_instance_pair(&other.network, address, target.as_fd()).unwrap());
    theirs.inside(|| link::configure_inside(address, other.network.plan.gateway()).unwrap());
    let _server = theirs.serve((EVERYWHERE, 80));
    let _service = lab.node.serve((other.network.plan.at(9), 80));
    assert!(lab.node.reaches((address, 80)).is_some());
    assert!(theirs.reaches((other.network.plan.at(9), 80)).is_some());
    assert_eq!(mine.reaches((address, 80)), None);
    assert_eq!(mine.reaches((other.network.plan.at(9), 80)), None);
}

#[test]
fn the_edge_reaches_an_instance_untracked_and_only_root_does() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let _server = instance.serve((EVERYWHERE, 8080));
    assert_eq!(lab.node.reaches((address, 8080)), Some(lab.network.plan.gateway().into()));
    let tracked =
        || lab.node.inside(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
    assert!(!tracked().contains("8080"), "{}", tracked());
    let target = SocketAddr::from((address, 8080));
    assert!(!lab.node.nobody_reaches(target));
    without_rules(&lab);
    assert!(lab.node.nobody_reaches(target));
}

#[test]
fn an_instance_reaches_of_the_node_only_names_and_virtual_addresses() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let (gateway, virtual_address) = (lab.network.plan.gateway(), lab.network.plan.at(1000));
    let _edge = lab.node.serve((virtual_address, 80));
    let _names = lab.node.serve((gateway, 53));
    let _other = lab.node.serve((gateway, 7070));
    let _host = lab.node.serve((EVERYWHERE, 22));
    let answers = lab.node.answer((gateway, 53));
    let host_answers = lab.node.answer((EVERYWHERE, 5353));
    assert_eq!(instance.reaches((virtual_address, 80)), Some(address.into()));
    assert_eq!(instance.reaches((gateway, 53)), Some(address.into()));
    assert!(instance.asks((gateway, 53)));
    for refused in
        [(gateway, 7070), (gateway, 22), (virtual_address, 22), (NODE_OUTSIDE, 22), (virtual_address, 81)]
    {
        assert_eq!(instance.reaches(refused), None, "{refused:?}");
    }
    for refused in [gateway, virtual_address, NODE_OUTSIDE] {
        assert!(!instance.asks((refused, 5353)), "{refused}");
    }
    without_rules(&lab);
    for open in [(gateway, 7070), (gateway, 22), (virtual_address, 22), (NODE_OUTSIDE, 22)] {
        assert!(instance.reaches(open).is_some(), "{open:?}");
    }
    host_answers.join().unwrap();
    let host_answers = lab.node.answer((NODE_OUTSIDE, 5353));
    assert!(instance.asks((NODE_OUTSIDE, 5353)));
    answers.join().unwrap();
    host_answers.join().unwrap();
}

#[test]
fn a_virtual_address_answers_only_instances() {
    let lab = lab();
    let virtual_address = lab.network.plan.at(1000);
    let _edge = lab.node.serve((virtual_address, 80));
    let target = SocketAddr::from((virtual_address, 80));
    assert_eq!(lab.node.reaches(target), None);
    assert!(!lab.node.nobody_reaches(target));
    assert_eq!(lab.outside.reaches(target), None);
    // Refused at once, by word and not by silence.
    let refusal = lab.node.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)));
    assert_ne!(refusal.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    without_rules(&lab);
    assert!(lab.node.reaches(target).is_some());
    assert!(lab.outside.reaches(target).is_some());
}

#[test]
fn between_instances_there_is_nothing() {
    let lab = lab();
    let ((one, _), (other, address)) = (lab.instance(0x4000), lab.instance(0xfffe));
    let _server = other.serve((EVERYWHERE, 80));
    let answers = other.answer((EVERYWHERE, 81));
    assert_eq!(one.reaches((address, 80)), None);
    assert!(!one.asks((address, 81)));
    without_rules(&lab);
    assert!(one.reaches((address, 80)).is_some());
    answers.join().unwrap();
}

#[test]
fn outside_is_reached_by_masquerade_and_reaches_nothing() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let _outside = lab.outside.serve((EVERYWHERE, 80));
    let _inside = instance.serve((EVERYWHERE, 80));
    assert_eq!(instance.reaches((OUTSIDE, 80)), Some(NODE_OUTSIDE.into()));
    assert_eq!(lab.outside.reaches((address, 80)), None);
    without_rules(&lab);
    assert!(lab.outside.reaches((address, 80)).is_some());
    // The way back exists in this lab alone: without masquerade the address leaves the machine.
    assert_eq!(instance.reaches((OUTSIDE, 80)), Some(address.into()));
}

#[test]
fn a_source_of_ours_from_outside_is_dropped() {
    let lab = lab();
    let forged = lab.network.plan.at(0x5000).to_string();
    lab.outside.run("ip", &["address", "add", &forged, "dev", "lo"]);
    lab.outside.run("ip", &["route", "replace", "198.51.100.0/24", "dev", "up0", "src", &forged]);
    // So that an answer would find the way, were there one.
    lab.node.run("ip", &["route", "add", &forged, "via", &OUTSIDE.to_string()]);
    let _host = lab.node.serve((NODE_OUTSIDE, 22));
    assert_eq!(lab.outside.reaches((NODE_OUTSIDE, 22)), None);
    without_rules(&lab);
    assert!(lab.outside.reaches((NODE_OUTSIDE, 22)).is_some());
}

#[test]
fn link_local_addresses_are_out_of_reach() {
    let lab = lab();
    let (instance, _) = lab.instance(0x4000);
    let metadata = Ipv4Addr::new(169, 254, 169, 254);
    lab.outside.run("ip", &["address", "add", "169.254.169.254/32", "dev", "up0"]);
    lab.node.run("ip", &["route", "add", "169.254.169.254/32", "dev", "up0"]);
    let _server = lab.outside.serve((metadata, 80));
    assert!(lab.node.reaches((metadata, 80)).is_some());
    assert_eq!(instance.reaches((metadata, 80)), None);
    without_rules(&lab);
    assert!(instance.reaches((metadata, 80)).is_some());
}

#[test]
fn an_address_proves_who_calls() {
    let lab = lab();
    let ((one, first), (_other, second)) = (lab.instance(0x4000), lab.instance(0x4001));
    let virtual_address = lab.network.plan.at(1000);
    let _edge = lab.node.serve((virtual_address, 80));
    assert_eq!(one.reaches((virtual_address, 80)), Some(first.into()));
    let gateway = lab.network.plan.gateway().to_string();
    one.run("ip", &["address", "add", &format!("{second}/32"), "dev", "eth0"]);
    let forged = ["route", "replace", "default", "via", &gateway, "dev", "eth0", "onlink", "src"];
    one.run("ip", &[&forged[..], &[&second.to_string()]].concat());
    // Forged as another instance, the answer goes to that one; refused already when it comes in.
    let martians = || {
        let counters = lab.node.run("cat", &["/proc/thread-self/net/netstat"]);
        field(&counters, "IPReversePathFilter")
    };
    let before = martians();
    assert_eq!(one.reaches((virtual_address, 80)), None);
    assert!(martians() > before);
}

/// A counter of /proc/net/netstat: names in one line, values in the next.
fn field(text: &str, name: &str) -> u64 {
    let lines: Vec<_> = text.lines().collect();
    let pair = lines.windows(2).find(|pair| pair[0].split(' ').any(|n| n == name)).unwrap();
    let at = pair[0].split(' ').position(|n| n == name).unwrap();
    pair[1].split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn instances_have_no_ipv6() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let host = lab.network.host_link(address);
    assert_eq!(instance.run("ip", &["-6", "-o", "address", "show", "dev", "eth0"]), "");
    instance.run("ip", &["address", "add", "fd00::2/64", "dev", "eth0", "nodad"]);
    lab.node.run("ip", &["address", "add", "fd00::1/64", "dev", &host, "nodad"]);
    let target: Ipv6Addr = "fd00::1".parse().unwrap();
    let _server = lab.node.serve((target, 80));
    assert_eq!(instance.reaches((target, 80)), None);
    without_rules(&lab);
    // The neighbour that didn't answer is asked again only after a while.
    assert!((0..20).any(|_| instance.reaches((target, 80)).is_some()));
}

#[test]
fn no_first_packet_is_lost_once_a_pair_has_settled() {
    let lab = lab();
    // Without settling about one in ten loses its first packet, and waits a second for the next.
    for offset in 0x4000..0x4018 {
        let target = Space::new("inst");
        let (address, descriptor) = (lab.network.plan.at(offset), target.descriptor());
        let _server = target.serve((EVERYWHERE, 80));
        let first = lab.node.inside(|| {
            link::create_instance_pair(&lab.network, address, descriptor.as_fd()).unwrap();
            target.inside(|| link::configure_inside(address, lab.network.plan.gateway()).unwrap());
            assert!(link::settle(&lab.network, address).unwrap());
            TcpStream::connect_timeout(&SocketAddr::from((address, 80)), Duration::from_millis(900))
        });
        assert!(first.is_ok(), "{offset}: {first:?}");
    }
}

/// Whether it is so within some seconds.
fn comes(mut is: impl FnMut() -> bool) -> bool {
    (0..1_000).any(|_| {
        let so = is();
        if !so {
            rustix::event::poll(&mut [], Some(&Timespec { tv_sec: 0, tv_nsec: 10_000_000 })).unwrap();
        }
        so
    })
}

#[test]
fn an_instance_that_is_gone_is_unreachable_and_its_address_free_only_then() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let target = Space::new("inst");
    let again = || {
        let descriptor = target.descriptor();
        lab.node.inside(|| link::create_instance_pair(&lab.network, address, descriptor.as_fd()))
    };
    assert!(matches!(again(), Err(PairError::Busy { .. })));
    drop(instance);
    assert!(comes(|| again().is_ok()));
    let gone = SocketAddr::from((lab.network.plan.at(0x4123), 80));
    let error = lab.node.inside(|| TcpStream::connect_timeout(&gone, Duration::from_secs(5)));
    let error = error.unwrap_err();
    assert!(matches!(error.kind(), std::io::ErrorKind::HostUnreachable), "{error:?}");
    let elsewhere = Ipv4Addr::new(10, 99, 64, 1);
    let descriptor = target.descriptor();
    let outside = lab.node.inside(|| link::create_instance_pair(&lab.network, elsewhere, descriptor.as_fd()));
    assert!(matches!(outside, Err(PairError::Outside { .. })));
}

#[test]
fn a_probe_tells_who_can_reach_a_listener() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let mut probe = Probe::open(instance.descriptor(), address).unwrap();
    for (listener, expected) in [
        ("0.0.0.0:80".to_owned(), Listening::Yes),
        (format!("{address}:80"), Listening::Yes),
        ("[::]:80".to_owned(), Listening::Yes),
        ("127.0.0.1:80".to_owned(), Listening::Loopback),
        ("[::1]:80".to_owned(), Listening::Loopback),
    ] {
        // The last one is there for as long as a child that another test forks hasn't executed.
        let over = comes(|| probe.look(80).unwrap() == Listening::No);
        assert!(over, "{listener}: {:?}", probe.look(80));
        let held = instance.inside(|| TcpListener::bind(&listener).unwrap());
        assert_eq!(probe.look(80).unwrap(), expected, "{listener}");
        assert_eq!(probe.look(81).unwrap(), Listening::No);
        drop(held);
    }
}

#[test]
fn a_probe_opens_by_a_process_and_a_look_costs_little() {
    let lab = lab();
    let (instance, address) = lab.instance(0x4000);
    let mut process = instance.inside(|| Command::new("sleep").arg("60").spawn().unwrap());
    let pid = Pid::from_child(&process);
    let probe = Probe::open(pidfd_open(pid, PidfdFlags::empty()).unwrap(), address);
    process.kill().unwrap();
    process.wait().unwrap();
    let mut probe = probe.unwrap();
    let _held = instance.inside(|| TcpListener::bind("127.0.0.1:80").unwrap());
    let mut micros: Vec<_> = (0..501)
        .map(|_| {
            let before = clock_gettime(ClockId::Monotonic);
            assert_eq!(probe.look(80).unwrap(), Listening::Loopback);
            let after = clock_gettime(ClockId::Monotonic);
            (after.tv_sec - before.tv_sec) * 1_000_000 + (after.tv_nsec - before.tv_nsec) / 1000
        })
        .collect();
    micros.sort_unstable();
    assert!(micros[250] <= 50, "median {} µs", micros[250]);
}

#[test]
fn what_another_user_holds_on_a_virtual_address_answers_nobody() {
    let lab = lab();
    let (instance, _) = lab.instance(0x4000);
    let squatted = SocketAddr::from((lab.network.plan.at(1000), 8080));
    let nobody = Uid::from_raw(65534);
    let held = lab.node.inside(|| {
        // Of this thread alone, which ends with the closure.
        set_thread_res_uid(nobody, nobody, nobody).unwrap();
        TcpListener::bind(squatted).unwrap()
    });
    let owner = || lab.node.inside(|| listener_owner(squatted).unwrap());
    assert_eq!(owner(), Some(65534));
    assert_eq!(instance.reaches(squatted), None);
    drop(held);
    assert_eq!(owner(), None);
    let _edge = lab.node.serve(squatted);
    assert_eq!(owner(), Some(0));
    assert!(instance.reaches(squatted).is_some());
}

#[test]
fn a_host_that_drops_what_is_forwarded_is_seen_and_cured() {
    let lab = lab();
    let blocked = || lab.node.inside(|| forward_blocked(&lab.network).unwrap());
    assert_eq!(blocked(), None);
    for cure in [true, false] {
        lab.node.run("iptables-nft", &["-P", "FORWARD", "DROP"]);
        let said = blocked().unwrap();
        assert!(said.contains("FORWARD") && said.contains("iptables"), "{said}");
        if cure {
            for way in ["-i", "-o"] {
                let links = format!("{}+", lab.network.id.link_prefix());
                lab.node.run("iptables-nft", &["-I", "FORWARD", way, &links, "-j", "ACCEPT"]);
            }
        } else {
            lab.node.run("iptables-nft", &["-P", "FORWARD", "ACCEPT"]);
        }
        assert_eq!(blocked(), None);
        lab.node.run("nft", &["delete", "table", "ip", "filter"]);
    }
    lab.node.run(
        "nft",
        &["add table inet wall; add chain inet wall last { type filter hook forward priority 10; }"],
    );
    lab.node.run("nft", &["add rule inet wall last ct state established accept"]);
    assert_eq!(blocked(), None);
    lab.node.run("nft", &["add rule inet wall last counter reject with icmpx admin-prohibited"]);
    let (instance, _) = lab.instance(0x4000);
    let _outside = lab.outside.serve((EVERYWHERE, 80));
    assert_eq!(instance.reaches((OUTSIDE, 80)), None);
    // The cure is what it says, word for word.
    let said = blocked().unwrap();
    let (_, cure) = said.split_once("to let them: ").unwrap();
    lab.node.run("sh", &["-c", cure]);
    assert_eq!(blocked(), None);
    assert_eq!(instance.reaches((OUTSIDE, 80)), Some(NODE_OUTSIDE.into()));
}

/// Takes the rules away, to show that it was they who refused.
fn without_rules(lab: &Lab) {
    lab.node.run("nft", &["delete", "table", "inet", &lab.network.id.table()]);
}

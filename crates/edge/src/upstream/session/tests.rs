//! A session without a socket: its bytes are cut, and changed, as no network would.

use std::{
    io::{Read as _, Write as _},
    net::Ipv4Addr,
};

use minato_identity::{
    Authority, Holder, Lifetimes,
    client::{Client, Terms},
};
use minato_model::time::Moment;
use rustls::{
    ServerConfig, ServerConnection, SupportedProtocolVersion, crypto::aws_lc_rs, pki_types::UnixTime, version,
};

use super::*;
use crate::balance::mix;

struct Ground {
    terms: Terms,
    server: Arc<ServerConfig>,
}

fn ground(versions: &[&'static SupportedProtocolVersion]) -> Ground {
    let directory = tempfile::tempdir().unwrap();
    let clock = || Moment(i64::try_from(UnixTime::now().as_secs()).unwrap() * 1_000);
    let node = "one".parse().unwrap();
    let authority = Authority::open(directory.path(), &node, Lifetimes::default(), Arc::new(clock)).unwrap();
    let (service, instance) = ("shop/web".parse().unwrap(), "one".parse().unwrap());
    let who = Holder { service: &service, instance: &instance, address: Ipv4Addr::LOCALHOST };
    let issued = authority.instance(&who, std::time::Duration::ZERO, authority.key().unwrap()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(minato_identity::verify::caller_verifier(authority.trust()))
        .with_single_cert(issued.chain, issued.key)
        .unwrap();
    let terms = Client::new(authority).terms(&service, &instance, None).unwrap();
    Ground { terms, server: Arc::new(server) }
}

/// Numbers that look random.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: usize) -> usize {
        self.0 += 1;
        usize::try_from(mix(self.0) % u64::try_from(below).unwrap()).unwrap()
    }
}

/// Both ends, and what each got.
struct Talk {
    edge: State,
    server: ServerConnection,
    at_edge: Vec<u8>,
    at_server: Vec<u8>,
    /// What is on its way to the edge.
    wire: Vec<u8>,
    /// Bytes that were on it before.
    passed: usize,
}

impl Talk {
    fn new(ground: &Ground) -> Self {
        let (config, name) = (Arc::clone(&ground.terms.config), ground.terms.name.clone());
        Self {
            edge: State::new(UnbufferedClientConnection::new(config, name).unwrap()),
            server: ServerConnection::new(Arc::clone(&ground.server)).unwrap(),
            at_edge: Vec::new(),
            at_server: Vec::new(),
            wire: Vec::new(),
            passed: 0,
        }
    }

    /// Carries some of what is on its way; `change`: which byte to the edge isn't what was sent. Whether
    /// anything was.
    fn carry(&mut self, draw: &mut Draw, change: Option<usize>) -> Result<bool, rustls::Error> {
        let mut moved = false;
        let due = self.edge.due().to_vec();
        if !due.is_empty() {
            let some = 1 + draw.next(due.len());
            let mut part = &due[..some];
            while !part.is_empty() {
                self.server.read_tls(&mut part).unwrap();
                self.server.process_new_packets()?;
                let mut room = [0; 32 * 1024];
                while let Ok(length @ 1..) = self.server.reader().read(&mut room) {
                    self.at_server.extend_from_slice(&room[..length]);
                }
            }
            self.edge.sent(some);
            moved = true;
        }
        while self.server.wants_write() {
            self.server.write_tls(&mut self.wire).unwrap();
        }
        if !self.wire.is_empty() {
            let some = 1 + draw.next(self.wire.len());
            let mut part: Vec<u8> = self.wire.drain(..some).collect();
            if let Some(at) = change.and_then(|at| at.checked_sub(self.passed)).filter(|at| *at < some) {
                part[at] ^= u8::try_from(1 + draw.next(255)).unwrap();
            }
            self.passed += some;
            self.edge.incoming.extend_from_slice(&part);
            self.edge.fresh = true;
            moved = true;
        }
        let looked = self.edge.keep_plain();
        self.at_edge.extend_from_slice(&self.edge.plain);
        self.edge.plain.clear();
        looked.map(|_| moved)
    }

    /// Agrees, then sends both ways in pieces of all sizes, and ends.
    fn run(&mut self, draw: &mut Draw, change: Option<usize>) -> Result<(Vec<u8>, Vec<u8>), rustls::Error> {
        while self.edge.tls.is_handshaking() || self.server.is_handshaking() {
            self.carry(draw, change)?;
        }
        let (mut down, mut up) = (Vec::new(), Vec::new());
        for step in 0..6 {
            let length = [1, 100, 16_384, 16_385, 50_000][draw.next(5)];
            let piece = vec![u8::try_from(draw.next(256)).unwrap(); length];
            self.server.writer().write_all(&piece).unwrap();
            down.extend_from_slice(&piece);
            self.carry(draw, change)?;
            if self.edge.encrypt(&piece).is_ok() {
                up.extend_from_slice(&piece);
            }
            if step == 3 {
                // Not in TLS 1.2.
                drop(self.server.refresh_traffic_keys());
            }
        }
        self.server.send_close_notify();
        if change.is_none() {
            self.edge.close();
        }
        while self.carry(draw, change)? {}
        Ok((down, up))
    }
}

const VERSIONS: [&[&SupportedProtocolVersion]; 2] = [&[&version::TLS13], &[&version::TLS12]];

#[test]
fn all_arrives_however_it_is_cut() {
    for versions in VERSIONS {
        let ground = ground(versions);
        for seed in 0..40 {
            let mut talk = Talk::new(&ground);
            let (down, up) = talk.run(&mut Draw(seed << 32), None).unwrap();
            assert!(talk.at_edge == down && talk.at_server == up, "{seed}");
            assert!(talk.edge.ended && talk.edge.closed, "{seed}");
        }
    }
}

#[test]
fn a_byte_that_was_changed_is_noticed_and_nothing_behind_it_believed() {
    for versions in VERSIONS {
        let ground = ground(versions);
        let mut noticed = 0;
        for seed in 0..200 {
            let mut draw = Draw(seed << 32);
            let mut talk = Talk::new(&ground);
            let change = draw.next(if seed % 2 == 0 { 1_500 } else { 40_000 });
            let ended = talk.run(&mut draw, Some(change));
            if let Ok((down, _)) = &ended {
                // Beyond all that was sent, or where it makes no difference, such as a record's old version.
                assert!(talk.at_edge == *down, "{seed} {change}");
            }
            noticed += usize::from(ended.is_err());
            // What is asked of a broken session does nothing.
            assert_eq!(
                talk.edge.failed.get().is_some(),
                talk.edge.encrypt(b"more").is_err() && ended.is_err(),
                "{seed}"
            );
            talk.edge.close();
            assert!(talk.edge.keep_plain().is_err() || ended.is_ok(), "{seed}");
        }
        assert!(noticed > 150, "{noticed}");
    }
}

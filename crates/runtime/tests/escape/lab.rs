//! Runs attempts in instances of a real keeper, on a real node's network, with things left out.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use minato_network::{Node, NodeNetwork, link};
use minato_runtime::{
    protection::Protection,
    sandbox::Sandbox,
    spec::{Event, SandboxSpec},
};
use rustix::{
    fs::{XattrFlags, setxattr},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    ground::{Ground, text},
    table::{self, Attempt, Off, Outcome, Row},
};

/// How long to wait for a datagram that should not come. One that does is there already.
const SILENCE: Duration = Duration::from_millis(100);

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Lab {
    pub(crate) ground: Ground,
    pub(crate) network: NodeNetwork,
    /// Where datagrams arrive.
    pub(crate) receiver: Option<UdpSocket>,
    rows: Vec<Row>,
    title: &'static str,
}

impl Lab {
    pub(crate) fn new(title: &'static str) -> Self {
        let ground = Ground::new();
        let network = NodeNetwork { id: ground.config.id.parse().unwrap(), plan: ground.plan };
        furnish(&ground.tree());
        Self { ground, network, receiver: None, rows: Vec::new(), title }
    }

    /// Makes an attempt in all its runs.
    pub(crate) fn try_out(&mut self, attempt: Attempt) {
        let control = self.run(&attempt, &attempt.off);
        let lacks = attempt.lacks(&control);
        assert!(
            lacks || attempt.succeeds(&control),
            "{}: without {:?} it should succeed: {control}",
            attempt.what,
            attempt.off
        );
        let result = self.run(&attempt, &[]);
        assert!(!attempt.succeeds(&result), "{}: it succeeds: {result}", attempt.what);
        let mut alone = Vec::new();
        for one in attempt.alone.iter().filter(|_| !lacks) {
            let off: Vec<Off> = attempt.off.iter().copied().filter(|off| off != one).collect();
            let outcome = if off.is_empty() { result.clone() } else { self.run(&attempt, &off) };
            assert!(!attempt.succeeds(&outcome), "{}: {one} alone lets it succeed: {outcome}", attempt.what);
            alone.push((*one, outcome));
        }
        self.rows.push(Row { attempt, control, result, alone });
    }

    /// One run in an instance of its own.
    fn run(&self, attempt: &Attempt, off: &[Off]) -> Outcome {
        let parts: Vec<Protection> =
            off.iter().filter_map(|off| if let Off::Part(part) = off { Some(*part) } else { None }).collect();
        let (sandbox, spec) = self.make(&parts);
        off.iter().for_each(|off| self.take_away(*off, &sandbox, &spec));
        if !parts.contains(&Protection::NetworkNamespace) {
            assert!(link::settle(&self.network, spec.address).unwrap());
        }
        let words: Vec<&str> =
            ["/bin/escape"].into_iter().chain(attempt.words.iter().map(String::as_str)).collect();
        let mut start = self.ground.start_of(&words);
        (start.uid, start.gid) = (attempt.uid, attempt.uid);
        sandbox.start(&start).unwrap_or_else(|error| panic!("{}, {off:?}: {error:?}", attempt.what));
        let outcome = self.outcome(&spec);
        let outcome = match (&outcome, attempt.from) {
            (Outcome::Done, Some(source)) if !self.hears(source) => Outcome::Said("not delivered".into()),
            _ => outcome,
        };
        if off.len() > parts.len() {
            Node::ensure(&self.network).unwrap();
            set_reverse_path_filter("all", "0");
        }
        outcome
    }

    pub(crate) fn make(&self, off: &[Protection]) -> (Sandbox, SandboxSpec) {
        let spec = self.ground.spec();
        let made = self.ground.client().make_without(&spec, off);
        (made.unwrap_or_else(|error| panic!("{off:?}: {error:?}")), spec)
    }

    fn outcome(&self, spec: &SandboxSpec) -> Outcome {
        loop {
            match self.ground.events.recv_timeout(PATIENCE).unwrap() {
                Event::Ended(ended) if ended.instance == spec.instance => {
                    self.ground.client().forget(&ended.instance).unwrap();
                    return Outcome::read(&text(&spec.log));
                }
                Event::Ended(_) => {}
                Event::KeeperGone => panic!("the keeper is gone: {}", self.ground.keeper_log()),
            }
        }
    }

    fn hears(&self, source: std::net::Ipv4Addr) -> bool {
        let receiver = self.receiver.as_ref().unwrap();
        receiver.set_read_timeout(Some(SILENCE)).unwrap();
        let mut heard = false;
        while let Ok((_, from)) = receiver.recv_from(&mut [0; 16]) {
            heard |= source.is_unspecified() || from.ip() == source;
        }
        heard
    }

    /// What isn't a part of the sandbox is taken away in the kernel.
    fn take_away(&self, off: Off, sandbox: &Sandbox, spec: &SandboxSpec) {
        let host = self.network.host_link(spec.address);
        match off {
            Off::Part(_) => {}
            Off::Rule(rule) => delete_rule(&self.network.id.table(), rule),
            Off::UnreachableRoute => {
                run("ip", &["route", "del", "unreachable", &format!("{}/16", self.network.plan.base())]);
            }
            Off::ReversePathFilter => {
                set_reverse_path_filter("all", "0");
                set_reverse_path_filter(&host, "0");
            }
            Off::NoLinkLocalAddress => {
                run("ip", &["-6", "address", "add", "fe80::1/64", "dev", &host, "nodad"]);
                inside(sandbox, || {
                    run("ip", &["-6", "address", "add", "fe80::2/64", "dev", "eth0", "nodad"])
                });
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        table::print(self.title, &self.rows);
    }
}

/// Everything that attempts need of the image: the program, with rights and without, and its libraries.
fn furnish(tree: &Path) {
    let program = env!("CARGO_BIN_EXE_minato-escape");
    for name in ["escape", "escape-setuid", "escape-capable"] {
        fs::copy(program, tree.join("bin").join(name)).unwrap();
    }
    fs::set_permissions(tree.join("bin/escape-setuid"), PermissionsExt::from_mode(0o4755)).unwrap();
    // Revision 2, effective: it may bind to every port.
    let capable: [u32; 5] = [0x0200_0001, 1 << 10, 0, 0, 0];
    let capable: Vec<u8> = capable.iter().flat_map(|word| word.to_le_bytes()).collect();
    setxattr(tree.join("bin/escape-capable"), "security.capability", &capable, XattrFlags::empty()).unwrap();
    fs::create_dir(tree.join("host")).unwrap();
    // This test has the same libraries.
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    for path in maps.lines().filter_map(|line| line.split_whitespace().nth(5)) {
        if path.contains(".so") {
            let interpreter = Path::new("/lib64").join(Path::new(path).file_name().unwrap());
            for place in [path, interpreter.to_str().unwrap()] {
                let target = tree.join(place.trim_start_matches('/'));
                fs::create_dir_all(target.parent().unwrap()).unwrap();
                fs::copy(path, target).unwrap();
            }
        }
    }
}

/// Runs this in the network of a sandbox.
pub(crate) fn inside<T: Send>(sandbox: &Sandbox, act: impl FnOnce() -> T + Send) -> T {
    let space = sandbox.network_namespace();
    thread::scope(|scope| {
        let act = move || {
            move_into_link_name_space(space, Some(LinkNameSpaceType::Network)).unwrap();
            act()
        };
        scope.spawn(act).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Greets whoever connects, as long as the process lives.
pub(crate) fn serve(address: impl Into<SocketAddr>) {
    let listener = TcpListener::bind(address.into()).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Who has gone is no matter.
            stream.write_all(b"hello").ok();
        }
    });
}

/// Runs a program that must succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn set_reverse_path_filter(link: &str, value: &str) {
    fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), value).unwrap();
}

fn delete_rule(table: &str, comment: &str) {
    let listing = run("nft", &["-a", "list", "table", "inet", table]);
    let mut chain = "";
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.split(' ').next().unwrap();
        }
        if line.contains(&format!("comment \"{comment}\"")) {
            let (_, handle) = line.rsplit_once("# handle ").unwrap();
            run("nft", &["delete", "rule", "inet", table, chain, "handle", handle]);
            return;
        }
    }
    panic!("there is no rule `{comment}`: {listing}");
}

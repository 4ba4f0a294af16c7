//! A keeper of its own for each test, a small root file system, and the taking away of both.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc::Receiver,
    },
    time::Duration,
};

use minato_model::{ids::InstanceId, network::AddressPlan};
use minato_runtime::{
    ids::Ids,
    keeper::{self, Client, Config, Connection},
    logs, mounts,
    sandbox::{Sandbox, StartError},
    spec::{Ended, Event, Held, Limits, Running, SandboxSpec, Start},
};

use minato_network::{Node, NodeId8, NodeNetwork};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// How many there were in this process.
static GROUNDS: AtomicU32 = AtomicU32::new(0);

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Ground {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) config: Config,
    pub(crate) client: Option<Client>,
    pub(crate) ids: Ids,
    pub(crate) held: Vec<Held>,
    pub(crate) events: Receiver<Event>,
    pub(crate) plan: AddressPlan,
    next: AtomicU32,
}

impl Ground {
    /// A keeper, and a tree of busybox.
    pub(crate) fn new() -> Self {
        let busybox = Path::new("/bin/busybox");
        assert!(busybox.exists(), "these tests need /bin/busybox: apt-get install busybox-static");
        let folder = tempfile::tempdir().unwrap();
        // No two tests at a time share it, in one process or in several.
        let number = std::process::id() << 8 | GROUNDS.fetch_add(1, Ordering::Relaxed);
        let config = Config {
            // Longer than a socket's path may be.
            data: folder.path().join("d".repeat(120)),
            id: format!("{number:08x}"),
            exe: PathBuf::from(env!("CARGO_BIN_EXE_minato-starts")),
        };
        std::fs::create_dir(&config.data).unwrap();
        leave_the_hosts_network();
        let plan = AddressPlan::new(Ipv4Addr::new(10, 200, 0, 0));
        Node::ensure(&NodeNetwork { id: NodeId8::new(number), plan }).unwrap();
        let Connection { client, held, ids, events } = Client::connect_or_spawn(&config).unwrap();
        let ground =
            Self { folder, config, client: Some(client), ids, held, events, plan, next: AtomicU32::new(0) };
        let tree = ground.tree();
        for folder in ["bin", "etc", "var/cache/app"] {
            std::fs::create_dir_all(tree.join(folder)).unwrap();
        }
        std::fs::copy(busybox, tree.join("bin/busybox")).unwrap();
        for name in
            ["sh", "cat", "id", "mount", "unshare", "ls", "stat", "sleep", "kill", "env", "dd", "nc", "ip"]
        {
            std::os::unix::fs::symlink("busybox", tree.join("bin").join(name)).unwrap();
        }
        std::fs::write(tree.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
            .unwrap();
        std::fs::write(tree.join("var/cache/app/seed"), "from the image\n").unwrap();
        std::os::unix::fs::chown(tree.join("var/cache"), Some(33), Some(34)).unwrap();
        mounts::mount_points(&tree, &["/var/cache".into(), "/work".into()]).unwrap();
        ground
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.folder.path().join("tree")
    }

    pub(crate) fn client(&self) -> &Client {
        self.client.as_ref().unwrap()
    }

    pub(crate) fn spec(&self) -> SandboxSpec {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let instance: InstanceId = format!("t{number:09}").parse().unwrap();
        SandboxSpec {
            log: self.folder.path().join("logs").join(format!("{instance}.log")),
            instance,
            address: self.plan.at(16_384 + u16::try_from(number).unwrap()),
            plan: self.plan,
            id_range_start: self.ids.range(number % self.ids.ranges).unwrap(),
            hostname: "inside".into(),
            limits: Limits { memory: 64 << 20, pids: 32, cpu_millis: 500, cpu_max_millis: 0 },
            scratch: 8 << 20,
            dns: self.plan.gateway(),
            log_max: 1 << 20,
        }
    }

    pub(crate) fn make(&self) -> (Sandbox, SandboxSpec) {
        let spec = self.spec();
        (self.client().make(&spec).unwrap_or_else(|error| panic!("{error}: {error:?}")), spec)
    }

    pub(crate) fn start_of(&self, argv: &[&str]) -> Start {
        Start {
            root: self.tree(),
            argv: argv.iter().map(|&part| part.into()).collect(),
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            writable: vec!["/var/cache".into()],
            scratch: 4 << 20,
            files: 1024,
            init: true,
            identity: None,
            tag: b"tag".to_vec(),
        }
    }

    /// Starts a command in a new sandbox.
    pub(crate) fn start(&self, argv: &[&str]) -> (Running, SandboxSpec) {
        let (sandbox, spec) = self.make();
        let running =
            sandbox.start(&self.start_of(argv)).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        (running, spec)
    }

    /// Starts a command that must fail to start.
    pub(crate) fn refused(&self, change: impl FnOnce(&mut Start)) -> StartError {
        let (sandbox, spec) = self.make();
        let mut start = self.start_of(&["true"]);
        change(&mut start);
        let error = sandbox.start(&start).unwrap_err();
        self.end(&spec.instance);
        error
    }

    /// Runs a shell command to its end: what it wrote, and how it ended.
    pub(crate) fn run_as(&self, uid: u32, command: &str) -> (String, Ended) {
        let (sandbox, spec) = self.make();
        let mut start = self.start_of(&["sh", "-c", command]);
        (start.uid, start.gid) = (uid, uid);
        sandbox.start(&start).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let ended = self.end(&spec.instance);
        (text(&spec.log), ended)
    }

    pub(crate) fn run(&self, command: &str) -> (String, Ended) {
        self.run_as(0, command)
    }

    /// Waits for the end of an instance; others' ends before it are an error.
    pub(crate) fn end(&self, instance: &InstanceId) -> Ended {
        match self.events.recv_timeout(PATIENCE).unwrap() {
            Event::Ended(ended) => {
                assert_eq!(ended.instance, *instance);
                self.client().forget(instance).unwrap();
                ended
            }
            Event::KeeperGone => panic!("the keeper is gone: {}", self.keeper_log()),
        }
    }

    /// Waits until an instance wrote this line.
    pub(crate) fn wait_for_line(&self, spec: &SandboxSpec, line: &str) {
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let seen = (0..5000).any(|_| {
            rustix::event::poll(&mut [], Some(&pause)).unwrap();
            text(&spec.log).lines().any(|written| written == line)
        });
        assert!(seen, "no `{line}` in {}", text(&spec.log));
    }

    pub(crate) fn keeper_log(&self) -> String {
        std::fs::read_to_string(self.config.data.join("keeper/log")).unwrap_or_default()
    }

    /// As a server that is started anew.
    pub(crate) fn reconnect(&mut self) {
        self.client = None;
        let Connection { client, held, ids, events } = Client::connect_or_spawn(&self.config).unwrap();
        (self.client, self.held, self.ids, self.events) = (Some(client), held, ids, events);
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(client) = &self.client {
            client.shutdown().ok();
        }
        keeper::clean(&self.config.id, &self.config.data).unwrap();
    }
}

/// This thread, the keeper that it starts and all instances get a network of their own, which goes
/// with them.
pub(crate) fn leave_the_hosts_network() {
    // SAFETY: no descriptor or memory is shared or parted; this thread's later sockets are elsewhere.
    #[expect(unsafe_code, reason = "a flag that parts descriptors would be unsound; this one doesn't")]
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
}

/// Everything in a log, without numbers and times.
pub(crate) fn text(log: &Path) -> String {
    let records = logs::read(log, logs::Begin::Tail, 1000).unwrap();
    records.into_iter().map(|record| record.text + "\n").collect()
}

//! The keeper alone, for the tests of this crate; and how long starts take, printed by
//! `unshare -n minato-starts TREE PROGRAM [ROUNDS]` (a network of its own: it makes a node's there).

#![expect(clippy::print_stdout, reason = "it prints what it measured")]

use std::{
    error::Error,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use minato_model::network::AddressPlan;
use minato_network::{Node, NodeId8, NodeNetwork};
use minato_runtime::{
    keeper::{self, Client, Config, Connection},
    mounts,
    spec::{Event, Identity, Limits, SandboxSpec, Start},
};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let first = args.next();
    if first.as_ref().is_some_and(|first| first == keeper::ARGUMENT) {
        return keeper::main(args);
    }
    let (Some(tree), Some(program)) = (first, args.next().and_then(|word| word.into_string().ok())) else {
        println!("unshare -n minato-starts TREE PROGRAM [ROUNDS]");
        return ExitCode::from(2);
    };
    let rounds = args.next().and_then(|word| word.to_str()?.parse().ok()).unwrap_or(100);
    match measure(Path::new(&tree), &program, rounds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure(tree: &Path, program: &str, rounds: u16) -> Result<(), Box<dyn Error>> {
    let data = std::env::temp_dir().join(format!("minato-starts-{}", std::process::id()));
    std::fs::create_dir(&data)?;
    let number = std::process::id();
    let plan = AddressPlan::new(Ipv4Addr::new(10, 200, 0, 0));
    Node::ensure(&NodeNetwork { id: NodeId8::new(number), plan })?;
    mounts::mount_points(tree, &[])?;
    let config = Config { data: data.clone(), id: format!("{number:08x}"), exe: std::env::current_exe()? };
    let connection = Client::connect_or_spawn(&config)?;
    let result = rounds_of(&connection, plan, tree, program, rounds);
    connection.client.shutdown()?;
    std::fs::remove_dir_all(&data)?;
    result
}

fn rounds_of(
    connection: &Connection,
    plan: AddressPlan,
    tree: &Path,
    program: &str,
    rounds: u16,
) -> Result<(), Box<dyn Error>> {
    let Connection { client, ids, events, .. } = connection;
    let mut columns: [(&str, Vec<u64>); 6] =
        ["made", "taken", "mounted", "executed", "made and executed", "killed and told"]
            .map(|name| (name, Vec::new()));
    for round in 0..rounds {
        let spec = SandboxSpec {
            instance: format!("s{round}").parse()?,
            address: plan.at(16_384 + round),
            plan,
            id_range_start: ids.range(u32::from(round) % ids.ranges).ok_or("there is no such range")?,
            hostname: "starts".into(),
            limits: Limits { memory: 128 << 20, pids: 256, cpu_millis: 500, cpu_max_millis: 0 },
            scratch: 64 << 20,
            dns: plan.gateway(),
            log: std::env::temp_dir().join(format!("minato-starts-{}/log", std::process::id())),
            log_max: 1 << 20,
        };
        let begun = now();
        let sandbox = client.make(&spec)?;
        let made = begun.elapsed();
        let running = sandbox.start(&start_of(tree, program))?;
        let executed = begun.elapsed();
        let killed = now();
        client.kill(&spec.instance)?;
        let Event::Ended(ended) = events.recv_timeout(Duration::from_secs(10))? else {
            return Err("the keeper is gone".into());
        };
        client.forget(&ended.instance)?;
        let phases = running.phases;
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let values = [
            micros(made),
            phases.taken,
            phases.mounted,
            phases.executed,
            micros(executed),
            micros(killed.elapsed()),
        ];
        columns.iter_mut().zip(values).for_each(|((_, column), value)| column.push(value));
    }
    for (name, mut values) in columns {
        values.sort_unstable();
        let at = |share: usize| values.get(values.len() * share / 100).copied().unwrap_or_default();
        println!("{name:18} p50 {:6} µs  p90 {:6} µs  p99 {:6} µs", at(50), at(90), at(99));
    }
    Ok(())
}

fn start_of(tree: &Path, program: &str) -> Start {
    Start {
        root: PathBuf::from(tree),
        argv: vec![program.to_owned(), "1000".to_owned()],
        env: vec!["PATH=/bin:/usr/bin".to_owned()],
        cwd: "/".to_owned(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        writable: Vec::new(),
        scratch: 1 << 20,
        files: 1024,
        init: true,
        identity: Some(Identity {
            certificate: vec![b'-'; 1_600],
            key: vec![b'-'; 240],
            roots: vec![b'-'; 2_000],
        }),
        tag: Vec::new(),
    }
}

#[expect(clippy::disallowed_methods, reason = "it measures, and has no other clock")]
fn now() -> Instant {
    Instant::now()
}

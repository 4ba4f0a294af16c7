//! Who the keeper takes for its server, and what is left of the one before.

use std::os::fd::{AsRawFd, OwnedFd};

use minato_runtime::{
    keeper::Client,
    spec::{Event, HeldState},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{
        AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, send, socket_with,
        sockopt::socket_peercred,
    },
    process::{Signal, kill_process},
};

use crate::ground::Ground;

/// A connection that has said nothing yet.
fn stranger(ground: &Ground) -> OwnedFd {
    // The socket's path is longer than an address may be.
    let folder = std::fs::File::open(ground.config.data.join("keeper")).unwrap();
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let path = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

fn say(socket: &OwnedFd, head: &str, blob: &str) {
    let length = u32::try_from(head.len()).unwrap().to_le_bytes();
    let message = [length.as_slice(), head.as_bytes(), blob.as_bytes()].concat();
    send(socket, &message, SendFlags::NOSIGNAL).unwrap();
}

/// Waits until there is something to read: an answer, or the end.
fn answered(socket: &OwnedFd) {
    poll(&mut [PollFd::new(socket, PollFlags::IN)], None).unwrap();
}

#[test]
fn who_does_not_say_hello_is_not_the_server() {
    let mut ground = Ground::new();
    let strangers: Vec<OwnedFd> = (0..5).map(|_| stranger(&ground)).collect();
    // One too many: the oldest is gone.
    answered(&strangers[0]);
    for head in [r#""Shutdown""#, r#"{"Hello":{"version":0}}"#, "nonsense"] {
        let one = stranger(&ground);
        say(&one, head, "");
        answered(&one);
    }
    assert_eq!(ground.run("echo well").0, "well\n");
    ground.reconnect();
    assert_eq!(ground.run("echo well").0, "well\n");
    drop(strangers);
    assert_eq!(ground.run("echo well").0, "well\n");
}

#[test]
fn what_a_server_had_asked_for_is_done_before_another_takes_over() {
    for leaves in [true, false] {
        let mut ground = Ground::new();
        let (sandbox, spec) = ground.make();
        let (_, other) = ground.make();
        let keeper = socket_peercred(stranger(&ground)).unwrap().pid;
        kill_process(keeper, Signal::STOP).unwrap();
        for _ in 0..50 {
            ground.client().signal(&other.instance, 0).unwrap();
        }
        sandbox.start(&ground.start_of(&["sleep", "1000"])).unwrap();
        let before = if leaves { None } else { ground.client.clone() };
        ground.client = None;
        let config = ground.config.clone();
        let connection = std::thread::scope(|scope| {
            let connecting = scope.spawn(move || Client::connect_or_spawn(&config).unwrap());
            // Stopped for as long as another takes to connect: its word is there with the rest.
            let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
            poll(&mut [], Some(&pause)).unwrap();
            kill_process(keeper, Signal::CONT).unwrap();
            connecting.join().unwrap()
        });
        let held = connection.held.iter().find(|held| held.instance == spec.instance).unwrap();
        assert_eq!((&held.state, held.tag.as_slice()), (&HeldState::Running, b"tag".as_slice()));
        (ground.client, ground.events) = (Some(connection.client), connection.events);
        drop(before);
    }
}

#[test]
fn what_a_server_said_before_it_died_is_not_lost() {
    let mut ground = Ground::new();
    let (_sandbox, spec) = ground.make();
    let server = stranger(&ground);
    say(&server, r#"{"Hello":{"version":2}}"#, "");
    // It dies with the answer unread.
    answered(&server);
    let signal = format!(r#"{{"Signal":{{"instance":"{}","signal":0}}}}"#, spec.instance);
    (0..50).for_each(|_| say(&server, &signal, ""));
    say(&server, &format!(r#"{{"Started":{{"instance":"{}"}}}}"#, spec.instance), "late");
    drop(server);
    ground.reconnect();
    let held = ground.held.iter().find(|held| held.instance == spec.instance).unwrap();
    assert_eq!((&held.state, held.tag.as_slice()), (&HeldState::Running, b"late".as_slice()));
}

#[test]
fn the_end_of_a_keeper_is_told_to_who_took_it_over_and_to_who_started_it() {
    let ground = Ground::new();
    let (_, spec) = ground.start(&["sleep", "1000"]);
    let patience = std::time::Duration::from_secs(10);
    let next = Client::connect_or_spawn(&ground.config).unwrap();
    assert_eq!(next.held.len(), 1);
    // Who was taken over learns at once that it has no keeper any more, though its child lives on.
    assert_eq!(ground.events.recv_timeout(patience), Ok(Event::KeeperGone));
    ground.client().kill(&spec.instance).unwrap_err();
    let keeper = socket_peercred(stranger(&ground)).unwrap().pid;
    kill_process(keeper, Signal::KILL).unwrap();
    assert_eq!(next.events.recv_timeout(patience), Ok(Event::KeeperGone));
    let another = Client::connect_or_spawn(&ground.config).unwrap();
    assert!(another.held.is_empty());
    another.client.shutdown().unwrap();
}

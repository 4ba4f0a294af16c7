//! The keeper's loop: one thread, never blocked by anyone it serves.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use minato_model::ids::InstanceId;
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    net::{SocketFlags, accept_with, sockopt::socket_peercred},
};

use super::{
    children::{Call, Child, Ground, State},
    ends::Ends,
    output::{STREAMS, Stream, Taken as Read},
    protocol::{BINDS, FIRST, Failure, Reply, Request},
    server::Server,
};
use crate::{
    cgroup::Leaving,
    crash,
    ids::Taken,
    init::{Told, monotonic},
    protection::Without,
    spec::SandboxSpec,
};

/// From so many instances on that log more than they may, all of them rest longer: what the keeper
/// does for logs has a bound of its own.
const RESTING_FREE: u64 = 8;
/// Between two looks at how often want of memory killed something in an instance, in nanoseconds, and how
/// many of them are looked at in a row.
const LOOK: u64 = 10_000_000_000;
const LOOKS_MAX: usize = 64;
/// How long an end takes at most, in nanoseconds: the server waits a little longer.
const END_MAX: u64 = 8_000_000_000;
/// Connections that haven't said hello: of more the oldest go.
const STRANGERS_MAX: usize = 4;

/// What is waited for. Packed into the 64 bits that epoll gives back; numbers are never used again,
/// so that a late event of something gone finds nothing.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener,
    Server(u64),
    Exit(u64),
    Line(u64),
    Stdout(u64),
    Stderr(u64),
}

impl Token {
    fn pack(self) -> epoll::EventData {
        let (kind, number) = match self {
            Self::Listener => (0, 0),
            Self::Server(n) => (1, n),
            Self::Exit(n) => (2, n),
            Self::Line(n) => (3, n),
            Self::Stdout(n) => (4, n),
            Self::Stderr(n) => (5, n),
        };
        epoll::EventData::new_u64(number << 3 | kind)
    }

    fn unpack(data: epoll::EventData) -> Self {
        let (kind, number) = (data.u64() & 7, data.u64() >> 3);
        match kind {
            0 => Self::Listener,
            1 => Self::Server(number),
            2 => Self::Exit(number),
            3 => Self::Line(number),
            4 => Self::Stdout(number),
            _ => Self::Stderr(number),
        }
    }
}

/// Everything that the keeper knows.
#[derive(Debug)]
pub(super) struct Keeper {
    epoll: OwnedFd,
    listener: OwnedFd,
    socket_path: PathBuf,
    server: Option<(u64, Server)>,
    /// Who has connected and not said hello yet, the oldest first.
    strangers: VecDeque<(u64, Server)>,
    children: BTreeMap<u64, Child>,
    numbers: BTreeMap<InstanceId, u64>,
    next: u64,
    /// Children whose output isn't read until then, in monotonic nanoseconds.
    resting: BTreeSet<(u64, u64)>,
    /// When running instances are looked at again, in monotonic nanoseconds, and from which number on.
    look: (u64, u64),
    /// Control groups that something is still leaving.
    leaving: Vec<Leaving>,
    ends: Ends,
    ids: Taken,
    ground: Ground,
    /// The version that is spoken at most.
    protocol: u32,
    /// Since it was told to end: until when it waits for what it holds, in monotonic nanoseconds.
    ending: Option<u64>,
}

impl Keeper {
    pub(super) fn new(
        listener: OwnedFd,
        socket: &Path,
        ends: Ends,
        ids: Taken,
        ground: Ground,
        protocol: u32,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, Token::Listener.pack(), epoll::EventFlags::IN)?;
        Ok(Self {
            epoll,
            listener,
            socket_path: socket.to_owned(),
            server: None,
            strangers: VecDeque::new(),
            children: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: 1,
            resting: BTreeSet::new(),
            look: (0, 0),
            leaving: Vec::new(),
            ends,
            ids,
            ground,
            protocol,
            ending: None,
        })
    }

    /// With what a former keeper left, to be taken away when that can be.
    pub(super) fn after(mut self, left: Vec<Leaving>) -> Self {
        self.leaving = left;
        self
    }

    /// Until it is told to end and nothing runs any more.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(256);
        while !self.is_over() {
            let timeout = self.patience();
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => continue,
                result => result?,
            };
            for event in &events {
                self.handle(Token::unpack(event.data), event.flags);
            }
            self.take_away();
            self.read_again();
            self.look();
        }
        self.ground.parent.leave();
        drop(std::fs::remove_file(&self.socket_path));
        if let Some((_, server)) = &mut self.server {
            server.flush_all();
        }
        Ok(())
    }

    /// How long to wait for events at most.
    fn patience(&self) -> Option<Timespec> {
        let rest = self.resting.first().map(|(due, _)| *due);
        let left = self.leaving.iter().map(Leaving::due).min();
        let look = (!self.children.is_empty()).then_some(self.look.0);
        let due = rest.into_iter().chain(left).chain(look).chain(self.ending).min()?;
        Timespec::try_from(std::time::Duration::from_nanos(due.saturating_sub(monotonic()))).ok()
    }

    /// Whether it was told to end and nothing runs any more, or what does can't be ended in time: the
    /// next keeper takes that away.
    fn is_over(&self) -> bool {
        let done = self.children.is_empty() && self.leaving.is_empty();
        self.ending.is_some_and(|limit| done || monotonic() > limit)
    }

    /// Takes away the control groups that everything has left.
    fn take_away(&mut self) {
        if !self.leaving.is_empty() {
            let now = monotonic();
            self.leaving.retain_mut(|group| !group.take_away(now));
        }
    }

    fn handle(&mut self, token: Token, flags: epoll::EventFlags) {
        match token {
            Token::Listener => self.accept(),
            Token::Server(number) => {
                if self.is_server(number) {
                    self.serve(number);
                } else {
                    self.meet(number);
                }
            }
            Token::Exit(number) => self.exited(number),
            Token::Line(number) => self.hear(number, flags),
            Token::Stdout(number) => self.read(number, Stream::Stdout),
            Token::Stderr(number) => self.read(number, Stream::Stderr),
        }
    }

    /// Whoever connects is a stranger until it says hello.
    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        if socket_peercred(&socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid()) {
            let number = self.number();
            if self.watch(&socket, Token::Server(number), epoll::EventFlags::IN).is_ok() {
                self.strangers.push_back((number, Server::new(socket)));
            }
            if self.strangers.len() > STRANGERS_MAX {
                self.strangers.pop_front();
            }
        }
    }

    /// Who says hello is the server from now on: it has the data directory's lock. What the one before
    /// had still asked for is obeyed first.
    fn meet(&mut self, number: u64) {
        let Some(index) = self.strangers.iter().position(|(of, _)| *of == number) else { return };
        let Some((_, stranger)) = self.strangers.remove(index) else { return };
        let version = match stranger.receive() {
            Ok(Some((Request::Hello { version }, _))) if version >= FIRST => version,
            Ok(None) => {
                self.strangers.insert(index, (number, stranger));
                return;
            }
            // It left, or is none of ours.
            Ok(Some(_)) | Err(_) => return,
        };
        if let Some((_, before)) = &mut self.server {
            before.part();
            self.serve_all();
        }
        self.server = Some((number, stranger));
        self.greet(version);
        self.rearm();
    }

    fn is_server(&self, number: u64) -> bool {
        self.server.as_ref().is_some_and(|(of, _)| *of == number)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn watch(&self, fd: impl AsFd, token: Token, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, token.pack(), flags)?)
    }

    /// Obeys one request; whether there was one.
    fn serve(&mut self, number: u64) -> bool {
        let Some((current, server)) = &mut self.server else { return false };
        if *current != number {
            return false;
        }
        server.flush();
        let received = server.receive();
        let some = matches!(received, Ok(Some(_)));
        match received {
            Ok(Some((request, blob))) => self.obey(request, blob),
            Ok(None) => {}
            // It ended, or speaks nonsense: what runs runs on, until another server comes.
            Err(_) => self.server = None,
        }
        self.rearm();
        some
    }

    /// Obeys all that was asked up to now.
    fn serve_all(&mut self) {
        while let Some((number, _)) = self.server
            && self.serve(number)
        {}
    }

    /// Waits for room to send as long as something is queued.
    fn rearm(&mut self) {
        if let Some((number, server)) = &mut self.server
            && let Some(waiting) = server.changed()
        {
            let flags =
                if waiting { epoll::EventFlags::IN | epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
            epoll::modify(&self.epoll, server.socket(), Token::Server(*number).pack(), flags).ok();
        }
    }

    fn tell(&mut self, reply: &Reply, blob: &[u8], fds: Vec<OwnedFd>) {
        if let Some((_, server)) = &mut self.server
            && server.version.is_some()
        {
            server.send(reply, blob, fds);
        }
        self.rearm();
    }

    fn obey(&mut self, request: Request, blob: Vec<u8>) {
        match request {
            Request::Hello { version } => self.greet(version),
            Request::Make { call, spec, without } => self.make(call, *spec, without),
            Request::Bind { instance, log, log_max } => self.bind(&instance, log, log_max),
            Request::Started { instance } => match self.child(&instance) {
                Some(child) => {
                    child.tag = blob;
                    child.state = State::Running;
                    crash::point("keeper.started");
                }
                None => self.ends.tag(&instance, blob),
            },
            Request::Signal { instance, signal } => {
                if let Some(child) = self.child(&instance) {
                    child.signal(signal);
                    crash::point("keeper.signalled");
                }
            }
            Request::Kill { instance } => {
                if let Some(child) = self.child(&instance) {
                    child.kill();
                }
            }
            Request::Forget { instance } => self.ends.forget(&instance),
            Request::Shutdown => {
                self.ending.get_or_insert_with(|| monotonic() + END_MAX);
                self.children.values_mut().for_each(Child::kill);
            }
        }
    }

    fn child(&mut self, instance: &InstanceId) -> Option<&mut Child> {
        self.children.get_mut(self.numbers.get(instance)?)
    }

    fn greet(&mut self, theirs: u32) {
        crash::point("keeper.hello");
        let version = theirs.min(self.protocol);
        let held: Vec<_> =
            self.children.values().map(|child| child.held(None)).chain(self.ends.all().cloned()).collect();
        if let Some((_, server)) = &mut self.server {
            server.version = Some(version);
        }
        // Who speaks the first version holds nothing back for another.
        let held = if version == theirs || version > FIRST { held } else { Vec::new() };
        self.tell(&Reply::Hello { version, ids: self.ids.ids, held: held.len() }, &[], Vec::new());
        for mut held in held {
            let tag = std::mem::take(&mut held.tag);
            self.tell(&Reply::Held(Box::new(held)), &tag, Vec::new());
            crash::point("keeper.held");
        }
        crash::point("keeper.greeted");
    }

    fn make(&mut self, call: u64, spec: SandboxSpec, without: Without) {
        let asker = self.server.as_ref().map_or(0, |(number, _)| *number);
        let call = Call { asker, number: call };
        let instance = spec.instance.clone();
        let made = if self.ending.is_some() || self.numbers.contains_key(&instance) {
            Err(Failure { step: "take the instance's id".into(), errno: libc::EEXIST })
        } else {
            Child::make(&mut self.ground, call, spec, &without)
        };
        match made {
            Ok(mut child) => {
                crash::point("keeper.make.forked");
                // Who speaks the first version never says it later.
                child.bound = self.version() < BINDS;
                let number = self.number();
                let input = epoll::EventFlags::IN;
                let watched = self
                    .watch(&child.pidfd, Token::Exit(number), input)
                    .and_then(|()| self.watch(&child.line, Token::Line(number), input));
                self.numbers.insert(instance, number);
                self.children.insert(number, child);
                if watched.and_then(|()| self.watch_output(number)).is_err()
                    && let Some(child) = self.children.get_mut(&number)
                {
                    child.kill();
                }
            }
            Err(failure) => self.tell(&Reply::NotMade { call: call.number, failure }, &[], Vec::new()),
        }
    }

    fn version(&self) -> u32 {
        self.server.as_ref().and_then(|(_, server)| server.version).unwrap_or(FIRST)
    }

    /// Says where an instance's output goes. It is said once, before anything was written.
    fn bind(&mut self, instance: &InstanceId, log: PathBuf, log_max: u64) {
        if self.version() < BINDS {
            // Nonsense in what was agreed on.
            self.server = None;
            return;
        }
        let Some(number) = self.numbers.get(instance).copied() else { return };
        if let Some(child) = self.children.get_mut(&number).filter(|child| !child.bound) {
            child.bind(log, log_max);
            if self.watch_output(number).is_err()
                && let Some(child) = self.children.get_mut(&number)
            {
                child.kill();
            }
        }
    }

    fn hear(&mut self, number: u64, flags: epoll::EventFlags) {
        let Some(child) = self.children.get_mut(&number) else { return };
        match child.hear() {
            Some(Told::Parked) => {
                if let State::Making { call, handles, .. } = &mut child.state
                    && let Some(handles) = handles.take()
                {
                    let call = *call;
                    child.state = State::Parked;
                    crash::point("keeper.make.parked");
                    let pid = child.pid.unsigned_abs();
                    let fds = vec![handles.control, handles.user_namespace, handles.network_namespace];
                    // Without its handles it ends; another server than the one that asked has no use for it.
                    if self.is_server(call.asker) {
                        self.tell(&Reply::Made { call: call.number, pid }, &[], fds);
                    }
                }
            }
            Some(Told::Failed(_) | Told::Ended(_)) => {}
            // A program took the init's place: the line's end isn't news.
            None if flags.contains(epoll::EventFlags::HUP) => {
                epoll::delete(&self.epoll, &child.line).ok();
            }
            None => {}
        }
    }

    fn read(&mut self, number: u64, stream: Stream) {
        let Some(child) = self.children.get_mut(&number).filter(|child| !child.rests) else { return };
        if child.output.read(stream, now_ms()) == Read::End {
            if let Some(pipe) = child.output.pipe(stream) {
                epoll::delete(&self.epoll, pipe).ok();
            }
            child.output.end(stream);
        }
        let now = monotonic();
        if let Some(rest) = child.output.rest(now) {
            child.rests = true;
            for pipe in STREAMS.iter().filter_map(|stream| child.output.pipe(*stream)) {
                epoll::delete(&self.epoll, pipe).ok();
            }
            let crowd = (self.resting.len() as u64 / RESTING_FREE).max(1);
            self.resting.insert((now.saturating_add(rest.saturating_mul(crowd)), number));
        }
    }

    /// Goes on with those that have rested.
    fn read_again(&mut self) {
        while let Some((_, number)) = self.resting.first().filter(|(due, _)| *due <= monotonic()).copied() {
            self.resting.pop_first();
            if let Some(child) = self.children.get_mut(&number) {
                child.rests = false;
                self.watch_output(number).ok();
            }
        }
    }

    /// Looks at some of what runs, and in `LOOK` at all of it: nobody waits for long.
    fn look(&mut self) {
        let (due, from) = self.look;
        let now = monotonic();
        if now < due || self.children.is_empty() {
            return;
        }
        let looked_at = self.children.range_mut(from..).take(LOOKS_MAX);
        let last = looked_at.map(|(number, child)| {
            if matches!(child.state, State::Running) {
                child.look();
            }
            *number
        });
        let next = last.last().map_or(0, |number| number + 1);
        let more = self.children.range(next..).next().is_some();
        let rounds = self.children.len().div_ceil(LOOKS_MAX) as u64;
        self.look = (now + LOOK / rounds, if more { next } else { 0 });
    }

    fn watch_output(&self, number: u64) -> io::Result<()> {
        let Some(child) = self.children.get(&number).filter(|child| child.bound) else { return Ok(()) };
        for (stream, token) in
            [(Stream::Stdout, Token::Stdout(number)), (Stream::Stderr, Token::Stderr(number))]
        {
            if let Some(pipe) = child.output.pipe(stream) {
                self.watch(pipe, token, epoll::EventFlags::IN)?;
            }
        }
        Ok(())
    }

    fn exited(&mut self, number: u64) {
        // A short life may be over before it is read here where its output goes; that was said first.
        if self.children.get(&number).is_some_and(|child| !child.bound) {
            self.serve_all();
        }
        let Some(child) = self.children.get_mut(&number) else { return };
        let Some(ended) = child.end(now_ms()) else { return };
        crash::point("keeper.exited");
        let Some(child) = self.children.remove(&number) else { return };
        self.numbers.remove(&child.spec.instance);
        let failed = match &child.state {
            State::Making { call, failure, .. } => {
                let unknown = || Failure { step: "start its init".into(), errno: libc::ECHILD };
                Some((*call, failure.clone().unwrap_or_else(unknown)))
            }
            State::Parked | State::Running => {
                self.ends.add(child.held(Some(ended.clone())));
                None
            }
        };
        // What it had is given back before anyone hears of its end.
        if let Err(leaving) = child.into_group().remove() {
            self.leaving.push(leaving);
        }
        match failed {
            Some((call, failure)) if self.is_server(call.asker) => {
                self.tell(&Reply::NotMade { call: call.number, failure }, &[], Vec::new());
            }
            // Who didn't ask was told that it is held, or nobody is there.
            Some(_) | None => self.tell(&Reply::Ended(ended), &[], Vec::new()),
        }
        crash::point("keeper.ended");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the keeper's border with the clock: ends and lines get their time here"
)]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

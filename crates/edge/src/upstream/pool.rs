//! Connections to instances that nobody uses now, of one edge thread.
//!
//! Kept by the target's serial number, never by address: an address may have gone to another
//! instance since.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::{Rc, Weak},
};

use tokio::net::TcpStream;

use super::connection::Connection;
use crate::{
    clock::{Clock, micros},
    config::Limits,
    target::Target,
};

/// The connections of one edge thread.
#[derive(Debug)]
pub(crate) struct Pool {
    clock: Clock,
    idle_max: u64,
    each: usize,
    targets: RefCell<BTreeMap<u64, Connections>>,
}

#[derive(Debug, Default)]
struct Connections {
    /// Unused, the one used last at the back.
    idle: VecDeque<Connection>,
    /// All, for cutting them.
    all: Vec<Weak<TcpStream>>,
}

impl Pool {
    pub(crate) fn new(clock: Clock, limits: &Limits) -> Self {
        Self { clock, idle_max: micros(limits.pool_idle), each: limits.pool, targets: RefCell::default() }
    }

    /// A connection that was used before, and is still good; `surely`: for a request that can't be
    /// repeated.
    pub(crate) fn take(&self, target: &Target, surely: bool) -> Option<Connection> {
        let mut targets = self.targets.borrow_mut();
        let connections = targets.get_mut(&target.serial)?;
        let oldest = self.clock.recent().saturating_sub(self.idle_max);
        while let Some(connection) = connections.idle.pop_back() {
            if connection.idle_since < oldest {
                // Those before it are older still.
                connections.idle.clear();
                return None;
            }
            if connection.is_alive(surely) {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps track of a new connection.
    pub(crate) fn opened(&self, target: &Target, connection: &Connection) {
        let mut targets = self.targets.borrow_mut();
        let all = &mut targets.entry(target.serial).or_default().all;
        if all.len() == all.capacity() {
            all.retain(|stream| stream.strong_count() > 0);
        }
        all.push(Rc::downgrade(&connection.wire.stream));
    }

    /// How many are open, used or not.
    pub(crate) fn open(&self) -> usize {
        let open =
            |target: &Connections| target.all.iter().filter(|stream| stream.strong_count() > 0).count();
        self.targets.borrow().values().map(open).sum()
    }

    /// Keeps a connection for the next request, unless the instance is being taken away.
    pub(crate) fn put(&self, target: &Target, mut connection: Connection) {
        if target.is_withdrawn() {
            return;
        }
        connection.rest();
        connection.idle_since = self.clock.recent();
        let mut targets = self.targets.borrow_mut();
        let idle = &mut targets.entry(target.serial).or_default().idle;
        if idle.len() < self.each {
            idle.push_back(connection);
        }
    }

    /// Closes what is unused.
    pub(crate) fn withdraw(&self, serial: u64) {
        if let Some(connections) = self.targets.borrow_mut().get_mut(&serial) {
            connections.idle.clear();
        }
    }

    /// Cuts all, used or not: whoever reads from one finds its end.
    pub(crate) fn cut(&self, serial: u64) {
        let connections = self.targets.borrow_mut().remove(&serial).unwrap_or_default();
        for stream in connections.all.iter().filter_map(Weak::upgrade) {
            // An error says that it was cut already.
            drop(socket2::SockRef::from(&*stream).shutdown(std::net::Shutdown::Both));
        }
    }

    /// Closes what has been unused for too long. Called from time to time.
    pub(crate) fn sweep(&self) {
        let oldest = self.clock.now().saturating_sub(self.idle_max);
        self.targets.borrow_mut().retain(|_, connections| {
            connections.idle.retain(|connection| connection.idle_since >= oldest);
            connections.all.retain(|stream| stream.strong_count() > 0);
            !connections.all.is_empty()
        });
    }
}

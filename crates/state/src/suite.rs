//! What every engine must pass, as functions over a factory that gives an empty state each time.
//!
//! `minato_state::suite!(make)` makes a test of each. Revisions are compared, never counted: another
//! engine may use some for itself.

mod commits;
mod lists;
mod watches;

use std::{fmt::Debug, sync::Arc, time::Duration};

use minato_model::BoxFuture;

pub use self::{
    commits::{
        a_commit_is_all_or_nothing, a_dropped_commit_can_be_tried_again, a_restart_goes_on,
        concurrent_writers_take_turns, guards_decide_over_several_keys, revisions_only_grow,
        what_is_too_big_is_refused,
    },
    lists::{a_random_history_is_kept, pages_are_of_one_revision, prefixes_have_exact_edges},
    watches::{
        a_compacted_history_is_said_so, a_dropped_wait_loses_nothing, a_slow_watcher_misses_nothing,
        a_watch_can_be_resumed, a_watch_sees_whole_revisions_of_its_prefix, compaction_under_a_watcher,
        list_then_watch_has_no_hole,
    },
};
use crate::{Changes, Committed, Guard, Item, Revision, State, StateError, Watch, Write};

/// An engine under test.
pub trait Subject: Sized + Send + Sync + 'static {
    /// The engine.
    fn state(&self) -> Arc<dyn State>;

    /// Makes this revision the oldest that may be asked for.
    fn compact(&self, oldest: Revision) -> BoxFuture<'_, Result<(), StateError>>;

    /// The same state, after its process has stopped and started again.
    fn reopen(self) -> impl Future<Output = Self> + Send;
}

/// Makes a test of each function of the suite. `$make` is called for each with no argument and gives
/// a [`Subject`](crate::suite::Subject) with an empty state. The crate needs `tokio`.
#[macro_export]
macro_rules! suite {
    ($make:expr) => {
        $crate::suite!($make;
            revisions_only_grow, guards_decide_over_several_keys, a_commit_is_all_or_nothing,
            what_is_too_big_is_refused, concurrent_writers_take_turns, a_restart_goes_on,
            a_dropped_commit_can_be_tried_again,
            pages_are_of_one_revision, prefixes_have_exact_edges, a_random_history_is_kept,
            a_watch_sees_whole_revisions_of_its_prefix, list_then_watch_has_no_hole,
            a_watch_can_be_resumed, a_dropped_wait_loses_nothing, a_slow_watcher_misses_nothing,
            a_compacted_history_is_said_so, compaction_under_a_watcher);
    };
    ($make:expr; $($name:ident),+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            $crate::suite::$name($make).await;
        })+
    };
}

/// No wait of a test takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn ok<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("should work: {error:?}"))
}

fn put(key: impl Into<String>, value: impl Into<Vec<u8>>) -> Write {
    Write::Put { key: key.into(), value: value.into() }
}

fn delete(key: impl Into<String>) -> Write {
    Write::Delete { key: key.into() }
}

/// Commits without a guard.
async fn write(state: &dyn State, writes: Vec<Write>) -> Revision {
    match ok(state.commit(Vec::new(), writes).await) {
        Committed::Done(revision) => revision,
        Committed::Refused { .. } => panic!("refused without a guard"),
    }
}

/// Whether the guards let the writes through.
async fn passes(state: &dyn State, guards: Vec<Guard>, writes: Vec<Write>) -> bool {
    matches!(ok(state.commit(guards, writes).await), Committed::Done(_))
}

async fn get(state: &dyn State, key: &str) -> Option<Item> {
    ok(state.get(key).await).0
}

async fn watch(state: &dyn State, prefix: &str, from: Revision) -> Box<dyn Watch> {
    ok(state.watch(prefix, from).await)
}

async fn next(watch: &mut Box<dyn Watch>) -> Result<Changes, StateError> {
    ok(tokio::time::timeout(PATIENCE, watch.next()).await)
}

/// Random enough for a test, and the same again for the same seed (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    /// From a seed that nobody chose; to be named when the test fails.
    fn new() -> (Self, u64) {
        let seed = ok(getrandom::u64()) | 1;
        (Self(seed), seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

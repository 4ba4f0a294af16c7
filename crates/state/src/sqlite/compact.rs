//! Compaction: which revision becomes the oldest, and the removal of what nobody can ask for.
//!
//! A row is superseded when its key has a newer one that is not after the oldest revision. Instead
//! of looking at every old row, the sweep walks over the rows that fall out of the history and
//! removes what each supersedes: its cost is that of the changes, not of the state.

use std::{collections::VecDeque, time::Duration};

use rusqlite::Connection;
use tokio::time::Instant;

use super::schema;
use crate::Revision;

/// How many rows one step of the sweep walks over, in one transaction between commits.
const SWEEP_ROWS: usize = 500;

/// Free pages that are left for what comes next (4 MiB), and how many one step gives back.
const FREE_PAGES: u64 = 1024;
const VACUUM_PAGES: u64 = 512;

/// Remembers which revision was the newest when. By a clock that only goes forward: a change of the
/// time of day must not throw history away.
#[derive(Debug)]
pub(super) struct Marks {
    marks: VecDeque<(Instant, Revision)>,
    history: Duration,
    revisions: u64,
}

impl Marks {
    pub(super) fn new(history: Duration, revisions: u64) -> Self {
        Self { marks: VecDeque::new(), history, revisions }
    }

    /// Notes the newest revision and says which may now become the oldest.
    pub(super) fn tick(&mut self, now: Instant, newest: Revision) -> Revision {
        self.marks.push_back((now, newest));
        let mut oldest = newest.saturating_sub(self.revisions);
        while let Some(&(at, revision)) = self.marks.front()
            && now.duration_since(at) >= self.history
        {
            oldest = oldest.max(revision);
            self.marks.pop_front();
        }
        oldest
    }
}

/// Makes a revision the oldest.
pub(super) fn set_oldest(connection: &Connection, oldest: Revision) -> rusqlite::Result<()> {
    connection.execute("UPDATE meta SET oldest = ?1", [oldest])?;
    Ok(())
}

/// One step of the sweep; true when nothing is left to remove.
///
/// Deletions at the oldest revision itself stay until the next time: it can still be watched from.
pub(super) fn sweep(connection: &Connection) -> rusqlite::Result<bool> {
    let meta = schema::meta(connection)?;
    let end = schema::id(meta.oldest, 0);
    let transaction = connection.unchecked_transaction()?;
    let rows: Vec<(u64, Vec<u8>, u64)> = transaction
        .prepare_cached("SELECT id, key, version FROM rev WHERE id >= ?1 AND id < ?2 ORDER BY id LIMIT ?3")?
        .query_map((meta.swept, end, SWEEP_ROWS), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (id, key, version) in &rows {
        transaction.prepare_cached("DELETE FROM rev WHERE key = ?1 AND id < ?2")?.execute((key, id))?;
        if *version == 0 {
            transaction.prepare_cached("DELETE FROM rev WHERE id = ?1")?.execute([id])?;
        }
    }
    let done = rows.len() < SWEEP_ROWS;
    let swept = if done { end.max(meta.swept) } else { rows.last().map_or(end, |(id, ..)| id + 1) };
    if swept != meta.swept {
        transaction.execute("UPDATE meta SET swept = ?1", [swept])?;
    }
    transaction.commit()?;
    Ok(done)
}

/// Gives one step's worth of free pages back to the file system; true when there are few.
pub(super) fn vacuum(connection: &Connection) -> rusqlite::Result<bool> {
    let free = |connection: &Connection| {
        connection.query_row("PRAGMA freelist_count", [], |row| row.get::<_, u64>(0))
    };
    let before = free(connection)?;
    if before <= FREE_PAGES {
        return Ok(true);
    }
    let pages = VACUUM_PAGES.min(before - FREE_PAGES);
    // A row a page: the statement has to be walked to its end.
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(free(connection)? >= before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_kept_for_its_time_and_up_to_its_number() {
        let mut marks = Marks::new(Duration::from_mins(10), 100);
        let start = Instant::now();
        let after = |minutes| start + Duration::from_mins(minutes);
        assert_eq!(marks.tick(after(0), 5), 0);
        assert_eq!(marks.tick(after(5), 50), 0);
        assert_eq!(marks.tick(after(9), 60), 0);
        assert_eq!(marks.tick(after(10), 70), 5, "what was the newest ten minutes ago");
        assert_eq!(marks.tick(after(11), 400), 300, "no more than a hundred revisions");
        assert_eq!(marks.tick(after(30), 400), 400, "nothing happened for long");
    }
}

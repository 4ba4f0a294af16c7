//! Reads: each on a connection of the pool, in one snapshot, on a thread that may block.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::Semaphore;

use super::{
    fault,
    schema::{self, Meta},
};
use crate::{Change, Changes, Item, Page, Revision, StateError, limits};

/// How many read at once. More would not be faster on few cores, and each holds a cache of up to
/// 2 MiB.
const CONNECTIONS: u32 = 4;

/// How many revisions one step of a replay looks at, and how many changes it takes: bounds how long
/// it holds its snapshot (and with it the write-ahead log).
const REPLAY_REVISIONS: u64 = 4096;
const REPLAY_CHANGES: usize = 512;

const COLUMNS: &str = "rev.id, rev.key, created, version, value";

/// The pool.
#[derive(Debug)]
pub(super) struct Readers {
    free: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let free = (0..CONNECTIONS).map(|_| schema::open_reader(path)).collect::<Result<_, _>>()?;
        Ok(Self { free: Arc::new(Mutex::new(free)), permits: Arc::new(Semaphore::new(CONNECTIONS as usize)) })
    }

    /// Reads in one snapshot; waits for a free connection.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> Result<T, StateError> + Send + 'static,
    ) -> Result<T, StateError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| StateError::Closed)?;
        let free = Arc::clone(&self.free);
        let reading = tokio::task::spawn_blocking(move || {
            let taken = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = taken.ok_or(StateError::Closed)?;
            let result = snapshot(&connection, read);
            free.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            drop(permit);
            result
        });
        reading.await.unwrap_or(Err(StateError::Closed))
    }

    /// Waits for the reads that are under way and ends the pool; hands out what is to be dropped.
    pub(super) async fn close(&self) -> Vec<Connection> {
        let all = self.permits.acquire_many(CONNECTIONS).await;
        self.permits.close();
        drop(all);
        std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn snapshot<T>(
    connection: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, StateError>,
) -> Result<T, StateError> {
    let transaction = connection.unchecked_transaction().map_err(fault::meaning)?;
    let result = read(&transaction)?;
    transaction.finish().map_err(fault::meaning)?;
    Ok(result)
}

/// The bytes from `from` to before `end`.
#[derive(Debug)]
pub(super) struct Range {
    from: Vec<u8>,
    end: Vec<u8>,
}

impl Range {
    /// The keys that begin with a prefix, and come after a key.
    pub(super) fn below(prefix: &str, after: Option<&str>) -> Self {
        let mut from = prefix.as_bytes().to_owned();
        if let Some(after) = after.filter(|after| after.as_bytes() >= from.as_slice()) {
            // The next possible key.
            from = [after.as_bytes(), &[0]].concat();
        }
        Self { from, end: end(prefix.as_bytes()) }
    }
}

/// The first bytes after all that begin with a prefix.
fn end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // Nothing but 0xFF, or nothing at all: longer than every key, hence after all of them.
    vec![0xFF; limits::KEY_BYTES + 1]
}

pub(super) fn get(connection: &Connection, key: &str) -> Result<(Option<Item>, Revision), StateError> {
    let get = || {
        let sql = format!("SELECT {COLUMNS} FROM cur JOIN rev ON rev.id = cur.id WHERE cur.key = ?1");
        let item = connection.prepare_cached(&sql)?.query_row([key.as_bytes()], schema::item).optional()?;
        Ok((item, schema::meta(connection)?.revision))
    };
    get().map_err(fault::meaning)
}

pub(super) fn list(
    connection: &Connection,
    range: &Range,
    limit: usize,
    at: Option<Revision>,
) -> Result<Page, StateError> {
    let Meta { revision: current, oldest, .. } = schema::meta(connection).map_err(fault::meaning)?;
    let revision = at.unwrap_or(current);
    if revision > current {
        return Err(StateError::Future { asked: revision, current });
    }
    if revision < oldest {
        return Err(StateError::Compacted { oldest });
    }
    let mut page = Page { items: Vec::new(), revision, more: false };
    let filled = if revision == current {
        list_current(connection, range, limit, &mut page)
    } else {
        list_past(connection, range, limit, &mut page)
    };
    filled.map_err(fault::meaning)?;
    Ok(page)
}

fn list_current(
    connection: &Connection,
    range: &Range,
    limit: usize,
    page: &mut Page,
) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT {COLUMNS} FROM cur JOIN rev ON rev.id = cur.id
         WHERE cur.key >= ?1 AND cur.key < ?2 ORDER BY cur.key"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query((&range.from, &range.end))?;
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        if !add(page, limit, &mut bytes, || schema::item(row))? {
            break;
        }
    }
    Ok(())
}

/// For each key its newest row up to the page's revision, unless that is a deletion.
fn list_past(connection: &Connection, range: &Range, limit: usize, page: &mut Page) -> rusqlite::Result<()> {
    let mut newest = connection.prepare_cached(
        "SELECT max(id) FROM rev INDEXED BY rev_key
         WHERE key >= ?1 AND key < ?2 AND id < ?3 GROUP BY key ORDER BY key",
    )?;
    let sql = format!("SELECT {COLUMNS} FROM rev WHERE id = ?1 AND version > 0");
    let mut fetch = connection.prepare_cached(&sql)?;
    let mut ids = newest.query((&range.from, &range.end, schema::id(page.revision + 1, 0)))?;
    let mut bytes = 0;
    while let Some(row) = ids.next()? {
        let item = fetch.query_row([row.get::<_, u64>(0)?], schema::item).optional()?;
        if let Some(item) = item
            && !add(page, limit, &mut bytes, || Ok(item))?
        {
            break;
        }
    }
    Ok(())
}

/// Adds an item to a page; false when it is full and there is more.
fn add(
    page: &mut Page,
    limit: usize,
    bytes: &mut usize,
    item: impl FnOnce() -> rusqlite::Result<Item>,
) -> rusqlite::Result<bool> {
    if page.items.len() >= limit || *bytes >= limits::PAGE_BYTES {
        page.more = true;
        return Ok(false);
    }
    let item = item()?;
    *bytes += item.key.len() + item.value.len();
    page.items.push(item);
    Ok(true)
}

/// A part of the stored history.
pub(super) struct Replayed {
    /// Whole revisions.
    pub(super) changes: Vec<Changes>,
    /// Where to go on.
    pub(super) next: Revision,
}

/// The changes of a prefix from a revision on, as many as one step takes.
pub(super) fn replay(connection: &Connection, prefix: &str, from: Revision) -> Result<Replayed, StateError> {
    let Meta { revision: current, oldest, .. } = schema::meta(connection).map_err(fault::meaning)?;
    if from < oldest {
        return Err(StateError::Compacted { oldest });
    }
    let end = (current + 1).min(from.saturating_add(REPLAY_REVISIONS));
    replay_until(connection, prefix, from, end).map_err(fault::meaning)
}

fn replay_until(
    connection: &Connection,
    prefix: &str,
    from: Revision,
    end: Revision,
) -> rusqlite::Result<Replayed> {
    let range = Range::below(prefix, None);
    // The plus keeps SQLite on the order of the history instead of the index by key.
    let sql = format!(
        "SELECT {COLUMNS} FROM rev WHERE id >= ?1 AND id < ?2 AND +key >= ?3 AND +key < ?4 ORDER BY id"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let bounds = (schema::id(from, 0), schema::id(end, 0), &range.from, &range.end);
    let mut rows = statement.query(bounds)?;
    let mut changes: Vec<Changes> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        let revision = schema::revision(row.get(0)?);
        if changes.last().is_none_or(|last| last.revision != revision) {
            if count >= REPLAY_CHANGES || bytes >= limits::PAGE_BYTES {
                return Ok(Replayed { changes, next: revision });
            }
            changes.push(Changes { revision, changes: Vec::new() });
        }
        let change = if row.get::<_, u64>(3)? == 0 {
            Change::Delete { key: schema::key(row, 1)? }
        } else {
            let item = schema::item(row)?;
            bytes += item.value.len();
            Change::Put(item)
        };
        count += 1;
        if let Some(last) = changes.last_mut() {
            last.changes.push(change);
        }
    }
    Ok(Replayed { changes, next: end.max(from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_greater_bytes() {
        assert_eq!(end(b"a/"), b"a0");
        assert_eq!(end(&[b'a', 0xFF, 0xFF]), b"b");
        assert_eq!(end("\u{10FFFF}".as_bytes()), [0xF4, 0x8F, 0xBF, 0xC0]);
        for all in [&[][..], &[0xFF], &[0xFF, 0xFF]] {
            assert!(end(all).as_slice() > [0xFF; limits::KEY_BYTES].as_slice());
        }
    }

    #[test]
    fn a_range_begins_after_the_given_key() {
        assert_eq!(Range::below("a/", Some("a/b")).from, b"a/b\0");
        assert_eq!(Range::below("a/", Some("Z")).from, b"a/", "a key before the prefix does not widen it");
        assert_eq!(Range::below("", None).from, b"");
    }
}

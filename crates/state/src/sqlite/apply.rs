//! One commit within the writer's transaction: its guards, then its writes.

use rusqlite::{Connection, OptionalExtension};

use super::schema;
use crate::{Change, Changes, Guard, Item, Revision, Write};

/// What became of a commit.
pub(super) enum Applied {
    /// A guard did not hold.
    Refused,
    /// There was nothing to do.
    Unchanged,
    /// It was written, at the revision that was offered.
    Written(Changes),
}

/// What is valid for a key.
struct Current {
    id: u64,
    created: Revision,
    version: u64,
}

/// Writes the commit as `revision`, if its guards hold and anything changes.
pub(super) fn apply(
    connection: &Connection,
    revision: Revision,
    guards: &[Guard],
    writes: &[Write],
) -> rusqlite::Result<Applied> {
    for guard in guards {
        if !holds(connection, guard)? {
            return Ok(Applied::Refused);
        }
    }
    let mut changes = Vec::with_capacity(writes.len());
    let mut place = 0;
    for write in writes {
        let id = schema::id(revision, place);
        let change = match write {
            Write::Put { key, value } => Some(put(connection, id, key, value)?),
            Write::Delete { key } => delete(connection, id, key)?,
        };
        if let Some(change) = change {
            changes.push(change);
            place += 1;
        }
    }
    Ok(if changes.is_empty() { Applied::Unchanged } else { Applied::Written(Changes { revision, changes }) })
}

fn holds(connection: &Connection, guard: &Guard) -> rusqlite::Result<bool> {
    let id: Option<u64> = connection
        .prepare_cached("SELECT id FROM cur WHERE key = ?1")?
        .query_row([guard.key().as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(match guard {
        Guard::Absent(_) | Guard::ModifiedAt(_, 0) => id.is_none(),
        Guard::Present(_) => id.is_some(),
        Guard::ModifiedAt(_, revision) => id.map(schema::revision) == Some(*revision),
    })
}

fn current(connection: &Connection, key: &str) -> rusqlite::Result<Option<Current>> {
    connection
        .prepare_cached(
            "SELECT rev.id, created, version FROM cur JOIN rev ON rev.id = cur.id WHERE cur.key = ?1",
        )?
        .query_row([key.as_bytes()], |row| {
            Ok(Current { id: row.get(0)?, created: row.get(1)?, version: row.get(2)? })
        })
        .optional()
}

fn put(connection: &Connection, id: u64, key: &str, value: &[u8]) -> rusqlite::Result<Change> {
    let modified = schema::revision(id);
    let (created, version) = match current(connection, key)? {
        Some(current) => (current.created, current.version + 1),
        None => (modified, 1),
    };
    record(connection, id, key, (created, version), value)?;
    connection
        .prepare_cached("INSERT INTO cur VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET id = excluded.id")?
        .execute((key.as_bytes(), id))?;
    let (key, value) = (key.to_owned(), value.to_owned());
    Ok(Change::Put(Item { key, value, created, modified, version }))
}

fn delete(connection: &Connection, id: u64, key: &str) -> rusqlite::Result<Option<Change>> {
    let Some(current) = current(connection, key)? else { return Ok(None) };
    record(connection, id, key, (current.created, 0), &[])?;
    connection
        .prepare_cached("DELETE FROM cur WHERE key = ?1 AND id = ?2")?
        .execute((key.as_bytes(), current.id))?;
    Ok(Some(Change::Delete { key: key.to_owned() }))
}

fn record(
    connection: &Connection,
    id: u64,
    key: &str,
    (created, version): (Revision, u64),
    value: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO rev (id, key, created, version, value) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((id, key.as_bytes(), created, version, value))?;
    Ok(())
}

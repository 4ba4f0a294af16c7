//! The tables, and how the file is opened.
//!
//! `rev` is the history: a row a change, its id the revision and the place within it, so that the
//! order of the rows is the order in which things happened. `cur` points at the row that is now
//! valid for a key. The next revision comes from `meta`, which is written in the same transaction:
//! taken from the rows, compaction could make it begin again.

use std::{
    fs::{self, File, Permissions, TryLockError},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Config, fault};
use crate::{Item, Revision, StateError};

/// The version of the tables. A file with a greater one is refused.
const FORMAT: u32 = 1;

/// Marks the file as a cluster state of Minato ("MNST").
const APPLICATION_ID: i32 = 0x4D4E_5354;

/// The first SQLite whose write-ahead log cannot lose a page when it begins anew.
const SQLITE_AT_LEAST: i32 = 3_051_003;

/// How long a connection waits for another one's short exclusive step (recovery, checkpoint).
const BUSY: Duration = Duration::from_secs(5);

/// The revision of an empty state.
pub(super) const FIRST_REVISION: Revision = 1;

/// A change's id is its revision and, in the lowest bits, its place within it.
const PLACE_BITS: u32 = 8;

/// How many KiB of pages the writer keeps, as SQLite has it: what it needs often is little, and the
/// system keeps the files anyhow.
const CACHE: i32 = -512;

const TABLES: &str = "
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,    -- of the tables
        cluster TEXT NOT NULL,      -- a random name, made once
        revision INTEGER NOT NULL,  -- the newest
        oldest INTEGER NOT NULL,    -- the oldest that may be asked for
        swept INTEGER NOT NULL      -- the id up to which superseded rows are gone
    );
    CREATE TABLE rev (
        id INTEGER PRIMARY KEY,     -- revision and place
        key BLOB NOT NULL,
        created INTEGER NOT NULL,   -- a revision
        version INTEGER NOT NULL,   -- 0: the key was deleted
        lease INTEGER,
        value BLOB NOT NULL
    );
    CREATE INDEX rev_key ON rev (key);
    CREATE TABLE cur (key BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE lease (id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL, granted_ms INTEGER NOT NULL);
";

/// Why the state could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Somebody has it open.
    #[error("the cluster state {} is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{} is not a cluster state of Minato, or its beginning is damaged", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a newer Minato.
    #[error(
        "the cluster state {} has format {found}, this Minato knows formats up to {known}: use the newer Minato",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one that is known here.
        known: u32,
    },
    /// The file contradicts itself.
    #[error("the cluster state {} is damaged, {what}: restore a backup", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// The SQLite that was built in may damage the file.
    #[error("SQLite {version} can lose pages of its write-ahead log: build with 3.51.3 or newer")]
    Library {
        /// Its version.
        version: &'static str,
    },
    /// The file's lock cannot be made.
    #[error("cannot lock the cluster state {}", path.display())]
    Lock {
        /// The lock's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others could read it.
    #[error("cannot keep others from reading {}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there cannot be brought on the disk.
    #[error("cannot sync {}", path.display())]
    Sync {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no random number for the cluster's name.
    #[error("cannot draw a random name for the cluster")]
    Random {
        /// What the system said.
        source: getrandom::Error,
    },
    /// The writer's thread cannot be made.
    #[error("cannot start the thread that writes the cluster state")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be read or written.
    #[error("cannot open the cluster state {}", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// What the store said.
        source: StateError,
    },
}

/// What `meta` holds.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub(super) cluster: String,
    pub(super) revision: Revision,
    pub(super) oldest: Revision,
    pub(super) swept: u64,
}

/// An open file, for the writer.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) meta: Meta,
    /// Held as long as the connection. A file of its own: a lock on the database itself would be
    /// lost whenever SQLite closes a handle of it.
    pub(super) lock: File,
}

/// The id of a revision's first change; with the next revision, the end of this one.
pub(super) fn id(revision: Revision, place: u64) -> u64 {
    (revision << PLACE_BITS) | place
}

/// The revision that an id belongs to.
pub(super) fn revision(id: u64) -> Revision {
    id >> PLACE_BITS
}

pub(super) fn storage(path: &Path, error: rusqlite::Error) -> OpenError {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => OpenError::Foreign { path: path.to_owned() },
        _ => OpenError::Storage { path: path.to_owned(), source: fault::meaning(error) },
    }
}

/// Opens the file for writing, makes what is missing and brings on the disk what a crash left in the
/// write-ahead log.
pub(super) fn open(path: &Path, config: &Config) -> Result<Opened, OpenError> {
    if rusqlite::version_number() < SQLITE_AT_LEAST {
        return Err(OpenError::Library { version: rusqlite::version() });
    }
    let lock = lock(path)?;
    sync_log(path)?;
    let wrap = |error| storage(path, error);
    let connection = Connection::open(path).map_err(wrap)?;
    connection.busy_timeout(BUSY).map_err(wrap)?;
    // Before anything is changed: the file may be somebody else's.
    let fresh = recognise(&connection, path)?;
    close_to_others(path)?;
    prepare(&connection, config).map_err(wrap)?;
    if fresh {
        create(&connection, path)?;
        sync_folder(path)?;
    }
    empty_log(&connection).map_err(wrap)?;
    let meta = meta(&connection).map_err(wrap)?;
    let newest: Option<u64> =
        connection.query_row("SELECT max(id) FROM rev", [], |row| row.get(0)).map_err(wrap)?;
    if newest.is_some_and(|newest| revision(newest) > meta.revision) {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            what: "its history is ahead of its revision",
        });
    }
    if meta.oldest > meta.revision {
        return Err(OpenError::Damaged { path: path.to_owned(), what: "its history ends before it begins" });
    }
    Ok(Opened { connection, meta, lock })
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

pub(super) fn meta(connection: &Connection) -> rusqlite::Result<Meta> {
    connection.prepare_cached("SELECT cluster, revision, oldest, swept FROM meta")?.query_row([], |row| {
        Ok(Meta { cluster: row.get(0)?, revision: row.get(1)?, oldest: row.get(2)?, swept: row.get(3)? })
    })
}

/// Reads an item from a row that begins with id, key, created, version, value.
pub(super) fn item(row: &rusqlite::Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item {
        key: key(row, 1)?,
        value: row.get(4)?,
        created: row.get(2)?,
        modified: revision(row.get(0)?),
        version: row.get(3)?,
    })
}

/// Reads a key, stored as bytes so that it sorts as bytes.
pub(super) fn key(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    String::from_utf8(row.get(column)?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(error))
    })
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let name = beside(path, ".lock");
    let failed = |source| OpenError::Lock { path: name.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// What a killed process left in the write-ahead log can be read, but may not be on the disk yet: it
/// has to be before anybody is told of it.
fn sync_log(path: &Path) -> Result<(), OpenError> {
    let log = beside(path, "-wal");
    match File::open(&log).and_then(|file| file.sync_data()) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpenError::Sync { path: log, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Lets nobody but the owner read it: there are private keys in it. The log and its index, which SQLite
/// makes as the database is, may be there from before.
fn close_to_others(path: &Path) -> Result<(), OpenError> {
    for suffix in ["", "-wal", "-shm"] {
        let name = beside(path, suffix);
        match fs::set_permissions(&name, Permissions::from_mode(0o600)) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(OpenError::Exposed { path: name, source });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Moves the log into the database. On a full disk it stays what it is: all can be read from it.
fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    match connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            tracing::warn!("no space to move the state's write-ahead log into the database");
            Ok(())
        }
        end => end,
    }
}

/// A file whose name is the database's and a suffix.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether the file is new; an error if it is not one of ours or too new.
fn recognise(connection: &Connection, path: &Path) -> Result<bool, OpenError> {
    let wrap = |error| storage(path, error);
    let one = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i32>(0)).map_err(wrap);
    let tables = one("SELECT count(*) FROM sqlite_schema")?;
    let application = one("PRAGMA application_id")?;
    if tables == 0 && application == 0 {
        return Ok(true);
    }
    if application != APPLICATION_ID {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    let found = connection.query_row("SELECT format FROM meta", [], |row| row.get(0)).map_err(wrap)?;
    if found > FORMAT {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT });
    }
    Ok(false)
}

fn prepare(connection: &Connection, config: &Config) -> rusqlite::Result<()> {
    // Incremental vacuum has to be chosen before the first page is written.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", config.checkpoint_pages)?;
    // A long read lets the log grow; this cuts it back afterwards.
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", CACHE)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Makes the tables, all or none.
fn create(connection: &Connection, path: &Path) -> Result<(), OpenError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|source| OpenError::Random { source })?;
    let cluster = format!("{:032x}", u128::from_be_bytes(random));
    let make = || -> rusqlite::Result<()> {
        let transaction = connection.unchecked_transaction()?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.execute_batch(TABLES)?;
        transaction
            .execute("INSERT INTO meta VALUES (1, ?1, ?2, ?3, ?3, 0)", (FORMAT, &cluster, FIRST_REVISION))?;
        transaction.commit()
    };
    make().map_err(|error| storage(path, error))
}

/// Makes the new file's name durable; SQLite does that for its log only.
fn sync_folder(path: &Path) -> Result<(), OpenError> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| OpenError::Sync { path: folder.to_owned(), source })
}

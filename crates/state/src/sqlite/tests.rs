//! The suite with usual and with tiny bounds, and what is the engine's own: its file, a full disk,
//! upkeep.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use minato_model::BoxFuture;
use rusqlite::Connection;
use tempfile::TempDir;

use super::{Config, Engine, OpenError, schema};
use crate::{Committed, Revision, State, StateError, Write, list_all, suite::Subject};

struct Sqlite {
    engine: Arc<Engine>,
    config: Config,
    folder: TempDir,
}

impl Sqlite {
    fn new(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { engine: Engine::open(folder.path(), config.clone()).unwrap(), config, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn count(&self, sql: &str) -> u64 {
        let connection = schema::open_reader(&self.file()).unwrap();
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

impl Subject for Sqlite {
    fn state(&self) -> Arc<dyn State> {
        Arc::<Engine>::clone(&self.engine)
    }

    fn compact(&self, oldest: Revision) -> BoxFuture<'_, Result<(), StateError>> {
        Box::pin(self.engine.compact(oldest))
    }

    async fn reopen(self) -> Self {
        self.engine.close().await;
        let engine = Engine::open(self.folder.path(), self.config.clone()).unwrap();
        Self { engine, ..self }
    }
}

mod usual_bounds {
    crate::suite!(|| super::Sqlite::new(super::Config::default()));
}

/// Nearly everything comes from the disk: a watch replays, the log is moved all the time.
mod tiny_bounds {
    crate::suite!(|| super::Sqlite::new(super::Config {
        checkpoint_pages: 1,
        ring_revisions: 2,
        ..super::Config::default()
    }));
}

async fn put(state: &dyn State, key: &str, value: Vec<u8>) -> Result<Committed, StateError> {
    state.commit(Vec::new(), vec![Write::Put { key: key.to_owned(), value }]).await
}

/// Waits for a state of the upkeep, which goes its own pace.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect(what);
}

#[tokio::test]
async fn a_file_has_one_owner() {
    let subject = Sqlite::new(Config::default());
    let second = Engine::open(&subject.file(), Config::default());
    assert!(matches!(second, Err(OpenError::InUse { .. })));
    let cluster = subject.engine.cluster().to_owned();
    let mut watch = subject.engine.watch("", 1).await.unwrap();
    let waiting = tokio::spawn(async move { watch.next().await });
    subject.engine.close().await;
    assert!(matches!(waiting.await.unwrap(), Err(StateError::Closed)));
    assert!(matches!(put(&*subject.engine, "k", Vec::new()).await, Err(StateError::Closed)));
    assert!(matches!(subject.engine.get("k").await, Err(StateError::Closed)));
    assert!(matches!(subject.engine.watch("", 1).await, Err(StateError::Closed)));
    assert!(matches!(subject.engine.compact(1).await, Err(StateError::Closed)));
    let again = Engine::open(&subject.file(), Config::default()).unwrap();
    assert_eq!((again.cluster(), cluster.len()), (cluster.as_str(), 32));
    drop(again);
    Engine::open(&subject.file(), Config::default()).expect("dropping it frees the file");
}

#[tokio::test]
async fn what_was_accepted_is_written_before_the_end() {
    let subject = Sqlite::new(Config::default());
    let commits: Vec<_> = (0..100)
        .map(|n| {
            let engine = Arc::clone(&subject.engine);
            tokio::spawn(async move { put(&*engine, &format!("{n}"), vec![7; 1000]).await })
        })
        .collect();
    tokio::task::yield_now().await;
    let subject = subject.reopen().await;
    let mut done = 0;
    for commit in commits {
        match commit.await.unwrap() {
            Ok(_) => done += 1,
            Err(error) => assert!(matches!(error, StateError::Closed), "{error:?}"),
        }
    }
    assert_eq!(list_all(&*subject.engine, "").await.unwrap().0.len(), done);
}

#[tokio::test]
async fn other_files_are_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    let open = || Engine::open(&file, Config::default());
    let make = |sql: &str| Connection::open(&file).unwrap().execute_batch(sql).unwrap();

    std::fs::write(&file, "not a database, but long enough to be looked at as one".repeat(100)).unwrap();
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(open(), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    std::fs::remove_file(&file).unwrap();
    make("CREATE TABLE theirs (x)");
    let before = std::fs::read(&file).unwrap();
    assert!(matches!(open(), Err(OpenError::Foreign { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), before);
    std::fs::remove_file(&file).unwrap();

    drop(open().unwrap());
    make("UPDATE meta SET format = 7");
    let error = open().unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 7, known: 1, .. }));
    assert!(error.to_string().contains("use the newer Minato"), "{error}");
    make("UPDATE meta SET format = 1, revision = 5; INSERT INTO rev VALUES (2560, x'61', 10, 1, NULL, x'')");
    assert!(matches!(open(), Err(OpenError::Damaged { .. })));
    make("UPDATE meta SET revision = 10");
    drop(open().unwrap());
    let missing = Engine::open(&folder.path().join("no/state.db"), Config::default());
    assert!(matches!(missing, Err(OpenError::Lock { .. })));
}

#[tokio::test]
async fn damage_is_called_damage() {
    let subject = Sqlite::new(Config::default());
    for n in 0..200 {
        put(&*subject.engine, &format!("{n:03}"), vec![7; 2000]).await.unwrap();
    }
    subject.engine.close().await;
    let mut bytes = std::fs::read(subject.file()).unwrap();
    let end = bytes.len() - 4096;
    bytes[40960..end].fill(0xAA);
    std::fs::write(subject.file(), bytes).unwrap();
    let error = match Engine::open(&subject.file(), Config::default()) {
        Err(OpenError::Storage { source, .. }) => source,
        Err(error) => panic!("{error:?}"),
        Ok(engine) => list_all(&*engine, "").await.unwrap_err(),
    };
    assert!(matches!(error, StateError::Damaged(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_store_refuses_what_does_not_fit_and_goes_on() {
    let subject = Sqlite::new(Config::default());
    put(&*subject.engine, "before", vec![7; 1000]).await.unwrap();
    let pages = subject.count("PRAGMA page_count");
    let limit = format!("PRAGMA max_page_count = {}", pages + 20);
    subject.engine.execute_in_writer(&limit).await;
    let commits: Vec<_> = (0..40)
        .map(|n| {
            let engine = Arc::clone(&subject.engine);
            let size = if n % 4 == 0 { 1_000_000 } else { 100 };
            tokio::spawn(async move { (n, size, put(&*engine, &format!("k/{n}"), vec![7; size]).await) })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for commit in commits {
        let (n, size, result) = commit.await.unwrap();
        match result {
            Ok(_) => acknowledged.push(format!("k/{n}")),
            Err(error) => {
                assert!(matches!(error, StateError::Full), "{error:?}");
                assert_eq!(size, 1_000_000, "a small one fits");
            }
        }
    }
    acknowledged.sort();
    assert_eq!(acknowledged.len(), 30);
    let keys = || async {
        let (items, revision) = list_all(&*subject.engine, "k/").await.unwrap();
        (items.into_iter().map(|item| item.key).collect::<Vec<_>>(), revision)
    };
    let (found, revision) = keys().await;
    assert_eq!(found, acknowledged);
    subject.engine.execute_in_writer("PRAGMA max_page_count = 1000000").await;
    let done = put(&*subject.engine, "k/0", vec![7; 1_000_000]).await.unwrap();
    assert_eq!(done, Committed::Done(revision + 1), "a failure leaves no revision behind");
    assert_eq!(keys().await.0.len(), 31);
}

#[tokio::test]
async fn upkeep_removes_what_nobody_can_ask_for() {
    let config =
        Config { history_revisions: 50, compact_every: Duration::from_millis(20), ..Config::default() };
    let subject = Sqlite::new(config);
    for n in 0..3000_u32 {
        put(&*subject.engine, &format!("k/{}", n % 10), vec![7; 3000]).await.unwrap();
    }
    for n in 0..5 {
        let write = Write::Delete { key: format!("k/{n}") };
        subject.engine.commit(Vec::new(), vec![write]).await.unwrap();
    }
    eventually("superseded rows go", || subject.count("SELECT count(*) FROM rev") <= 61).await;
    eventually("free pages go", || subject.count("PRAGMA freelist_count") <= 1024).await;
    assert!(
        subject.count("PRAGMA page_count") < 1500,
        "3000 values took {}",
        subject.count("PRAGMA page_count")
    );
    assert_eq!(list_all(&*subject.engine, "k/").await.unwrap().0.len(), 5);

    // Nothing but time passes: the deletions go too, the current values stay.
    let Sqlite { engine, config, folder } = subject;
    engine.close().await;
    let config = Config { history: Duration::ZERO, ..config };
    let subject = Sqlite { engine: Engine::open(folder.path(), config.clone()).unwrap(), config, folder };
    put(&*subject.engine, "k/last", Vec::new()).await.unwrap();
    eventually("deletions go", || subject.count("SELECT count(*) FROM rev") == 6).await;
    assert_eq!(subject.count("SELECT count(*) FROM rev WHERE version = 0"), 0);
    assert_eq!(list_all(&*subject.engine, "").await.unwrap().0.len(), 6);
}

#[tokio::test]
async fn an_interrupted_sweep_is_finished_after_the_start() {
    let subject = Sqlite::new(Config::default());
    for n in 0..2000_u32 {
        put(&*subject.engine, &format!("k/{}", n % 7), Vec::new()).await.unwrap();
    }
    let newest = subject.engine.get("k/0").await.unwrap().1;
    subject.engine.close().await;
    Connection::open(subject.file()).unwrap().execute("UPDATE meta SET oldest = ?1", [newest]).unwrap();
    let subject = subject.reopen().await;
    eventually("the rest goes", || subject.count("SELECT count(*) FROM rev") <= 8).await;
    assert_eq!(list_all(&*subject.engine, "k/").await.unwrap().0.len(), 7);
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.db");
    for loose in [false, true] {
        if loose {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        }
        let engine = Engine::open(&file, Config::default()).unwrap();
        put(&*engine, "k", Vec::new()).await.unwrap();
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        engine.close().await;
    }
}

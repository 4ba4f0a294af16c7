//! What survives: a process that is killed, a write-ahead log whose end is torn, a disk that is full.
//!
//! The process under test is this binary again, told by a variable of its environment what to do.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write as _},
    os::unix::fs::FileExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use minato_state::{
    Committed, Guard, Item, Revision, State, StateError, Write, list_all,
    sqlite::{Config, Engine},
};

/// The variables: the folder of the state, the number of the round, how it keeps house.
const FOLDER: &str = "MINATO_CRASH_FOLDER";
const ROUND: &str = "MINATO_CRASH_ROUND";
const UPKEEP: &str = "MINATO_CRASH_UPKEEP";

const WRITERS: usize = 16;

/// Random enough for a test, and the same again for the same seed (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    #[expect(clippy::print_stderr, reason = "shown when the test fails")]
    fn new() -> Self {
        let seed = getrandom::u64().unwrap() | 1;
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }
}

/// The value that belongs to a key: 200 to 4000 bytes.
fn value_of(key: &str) -> Vec<u8> {
    let sum = key.bytes().fold(7_usize, |sum, byte| (sum * 31 + usize::from(byte)) % 1_000_003);
    key.bytes().cycle().take(200 + sum % 3800).collect()
}

/// Compacts all the time and moves its log often, or does neither.
fn config(upkeep: bool) -> Config {
    if upkeep {
        let compact_every = Duration::from_millis(30);
        Config { history_revisions: 200, compact_every, checkpoint_pages: 200, ..Config::default() }
    } else {
        Config { checkpoint_pages: 0, ..Config::default() }
    }
}

/// What the child does in place of a test: writes until it is killed, and tells what was acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_writes() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let round = std::env::var(ROUND).unwrap();
    let engine = Engine::open(Path::new(&folder), config(std::env::var(UPKEEP).unwrap() == "true")).unwrap();
    // The test harness may have begun a line.
    print_line("");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(write_for_ever(Arc::clone(&engine), format!("{round}/{writer}"))))
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

async fn write_for_ever(engine: Arc<Engine>, name: String) {
    for number in 0_u64.. {
        let key = format!("{name}/{number}");
        let put = |key: String, value: Vec<u8>| Write::Put { key, value };
        let writes = vec![
            put(format!("one/{key}"), value_of(&key)),
            put(format!("hot/{name}"), number.to_string().into_bytes()),
            put(format!("two/{key}"), key.clone().into_bytes()),
        ];
        let committed = engine.commit(vec![Guard::Absent(format!("one/{key}"))], writes).await.unwrap();
        let Committed::Done(revision) = committed else { panic!("{key} was there before") };
        print_line(&format!("done {revision} {key}"));
    }
}

fn print_line(line: &str) {
    // At once and whole: a line that is out is an acknowledgement that somebody saw.
    std::io::stdout().lock().write_all(format!("{line}\n").as_bytes()).unwrap();
}

fn spawn(test: &str, folder: &Path, round: u64, upkeep: bool) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .env(UPKEEP, upkeep.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a child write and kills it after a random number of acknowledgements; gives all that it made.
fn write_and_kill(
    folder: &Path,
    round: u64,
    upkeep: bool,
    random: &mut Random,
) -> BTreeMap<String, Revision> {
    let mut child = spawn("child_that_writes", folder, round, upkeep);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let enough = 1 + random.below(400);
    let mut acknowledged = BTreeMap::new();
    let mut lines = 0;
    let mut line = String::new();
    // What is in the pipe after the kill was acknowledged before it; half a line was not.
    while output.read_line(&mut line).unwrap() > 0 {
        let mut words = line.split_ascii_whitespace();
        if line.ends_with('\n') && words.next() == Some("done") {
            let revision = words.next().unwrap().parse().unwrap();
            acknowledged.insert(words.next().unwrap().to_owned(), revision);
            lines += 1;
            if lines == enough {
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    assert!(!child.wait().unwrap().success() && lines >= enough, "the child ended by itself");
    acknowledged
}

/// Everything below a prefix, by the rest of the key.
async fn all(engine: &Engine, prefix: &str) -> (BTreeMap<String, Item>, Revision) {
    let (items, revision) = list_all(engine, prefix).await.unwrap();
    (items.into_iter().map(|item| (item.key[prefix.len()..].to_owned(), item)).collect(), revision)
}

/// Every commit that is there is there whole, with its content, at a revision of its own.
async fn check_whole(engine: &Engine) -> (BTreeMap<String, Item>, Revision) {
    let (one, revision) = all(engine, "one/").await;
    let (two, _) = all(engine, "two/").await;
    let mut by_revision = BTreeMap::new();
    for (key, item) in &one {
        assert!(item.value == value_of(key), "{key} has other content");
        assert!(item.modified <= revision);
        assert_eq!(two.get(key).map(|item| item.modified), Some(item.modified), "{key} is there by half");
        assert_eq!(by_revision.insert(item.modified, key), None, "two commits have one revision");
    }
    assert_eq!(one.len(), two.len());
    (one, revision)
}

#[tokio::test]
async fn acknowledged_commits_survive_thirty_kills() {
    let mut random = Random::new();
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    let mut newest = 0;
    for round in 0..30 {
        let new = write_and_kill(folder.path(), round, round % 3 != 0, &mut random);
        let least = new.values().min().unwrap();
        assert!(*least > newest, "revision {least} was used again, the state was at {newest}");

        let engine = Engine::open(folder.path(), Config::default()).unwrap();
        let (found, revision) = check_whole(&engine).await;
        let (hot, _) = all(&engine, "hot/").await;
        for (key, revision) in &new {
            let (name, number) = key.rsplit_once('/').unwrap();
            let last: u64 = String::from_utf8_lossy(&hot[name].value).parse().unwrap();
            assert!(last >= number.parse().unwrap(), "{name} went back to {last}, {number} was acknowledged");
            assert!(hot[name].modified >= *revision);
        }
        acknowledged.extend(new);
        for (key, revision) in &acknowledged {
            assert_eq!(found.get(key).map(|item| item.modified), Some(*revision), "{key} was acknowledged");
        }
        newest = revision;
        engine.close().await;
    }
}

/// Cuts the log at a random place, or writes garbage from there on.
fn tear(log: &File, random: &mut Random) {
    let length = log.metadata().unwrap().len();
    let from = random.below(length);
    if random.below(2) == 0 {
        log.set_len(from).unwrap();
    } else {
        let until = if random.below(2) == 0 { length } else { from + 1 + random.below(length - from) };
        let garbage: Vec<_> = (from..until).map(|_| random.below(256).to_le_bytes()[0]).collect();
        log.write_all_at(&garbage, from).unwrap();
    }
}

#[tokio::test]
async fn a_torn_log_loses_only_its_end() {
    let mut random = Random::new();
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: BTreeMap<String, Revision> = BTreeMap::new();
    let mut lost = 0;
    for round in 0..20 {
        // The log is moved at the open only: all that the child wrote is in it, nothing else.
        let new = write_and_kill(folder.path(), round, false, &mut random);
        let log = OpenOptions::new().write(true).open(folder.path().join("state.db-wal")).unwrap();
        tear(&log, &mut random);
        drop(log);

        let engine = Engine::open(folder.path(), Config::default()).unwrap();
        let (found, revision) = check_whole(&engine).await;
        let before = acknowledged.len() + new.len();
        acknowledged.extend(new.into_iter().filter(|(_, at)| *at <= revision));
        lost += before - acknowledged.len();
        for (key, revision) in &acknowledged {
            assert_eq!(found.get(key).map(|item| item.modified), Some(*revision), "{key} is before the end");
        }
        let after = Write::Put { key: format!("after/{round}"), value: Vec::new() };
        assert_eq!(engine.commit(Vec::new(), vec![after]).await.unwrap(), Committed::Done(revision + 1));
        engine.close().await;
    }
    assert!(lost > 0, "twenty torn logs lost nothing: the test tears the wrong file");
}

/// What the child does in place of a test: fills its small disk and makes space again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_on_a_small_disk() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let ballast = Path::new(&folder).join("ballast");
    std::fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let engine = Engine::open(Path::new(&folder), Config::default()).unwrap();
    let put = async |number: u32, size: usize| {
        let write = Write::Put { key: format!("{number:05}"), value: vec![7; size] };
        engine.commit(Vec::new(), vec![write]).await
    };
    let mut done = Vec::new();
    for number in 0..100_000 {
        match put(number, 20_000).await {
            Ok(_) => done.push(format!("{number:05}")),
            Err(StateError::Full) => break,
            Err(error) => panic!("should be full: {error:?}"),
        }
    }
    let keys = async || {
        let (items, revision) = list_all(&*engine, "").await.unwrap();
        (items.into_iter().map(|item| item.key).collect::<Vec<_>>(), revision)
    };
    assert!(matches!(put(99_998, 20_000).await, Err(StateError::Full)));
    assert!(done.len() > 10 && keys().await.0 == done, "reads go on, and nothing is lost");
    std::fs::remove_file(&ballast).unwrap();
    let (_, revision) = keys().await;
    assert_eq!(put(99_999, 20_000).await.unwrap(), Committed::Done(revision + 1));
    done.push("99999".to_owned());
    engine.close().await;
    drop(engine);
    let engine = Engine::open(Path::new(&folder), Config::default()).unwrap();
    let (items, _) = list_all(&*engine, "").await.unwrap();
    assert_eq!(items.into_iter().map(|item| item.key).collect::<Vec<_>>(), done);
    print_line("\nsmall disk passed");
}

/// In a mount namespace of its own, which takes the small disk with it when the child ends.
#[test]
fn a_full_disk_loses_nothing_and_recovers() {
    let folder = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=4m tmpfs \"$MINATO_CRASH_FOLDER\" && exec \"$@\"";
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_on_a_small_disk", "--nocapture"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("small disk passed"), "{text}{output:?}");
}

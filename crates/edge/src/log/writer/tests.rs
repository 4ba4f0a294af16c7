use std::{
    fs,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::*;

struct Log {
    folder: tempfile::TempDir,
    batches: Option<SyncSender<Batch>>,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl Log {
    fn start(name: &str, max_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (batches, received) = sync_channel(4);
        let desk = Arc::new(Desk::default());
        let writer = Writer::new(folder.path().join(name), max_bytes, received, Arc::clone(&desk));
        let thread = std::thread::spawn(move || writer.run());
        Self { folder, batches: Some(batches), desk, thread: Some(thread) }
    }

    fn write(&self, text: &str) {
        let lines = u32::try_from(text.lines().count()).unwrap();
        self.batches.as_ref().unwrap().send(Batch { text: text.into(), lines }).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    fn end(&mut self) {
        self.batches = None;
        self.thread.take().unwrap().join().unwrap();
    }

    /// Waits until it is so.
    fn until(&self, so: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !so(self) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_file_that_is_full_becomes_the_one_before() {
    let mut log = Log::start("logs/access.log", 10);
    for text in ["one\ntwo\n", "three\n", "four\nfive\n", "six\n"] {
        log.write(text);
    }
    log.end();
    assert_eq!(
        (log.read("logs/access.log.1"), log.read("logs/access.log")),
        ("four\nfive\n".into(), "six\n".into())
    );
    assert_eq!(fs::read_dir(log.folder.path().join("logs")).unwrap().count(), 2);
}

#[test]
fn a_file_that_was_there_is_continued() {
    let mut log = Log::start("access.log", 1_000);
    fs::write(log.folder.path().join("access.log"), "before\n").unwrap();
    log.write("after\n");
    log.end();
    assert_eq!(log.read("access.log"), "before\nafter\n");
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let mut log = Log::start("access.log", 1_000);
    log.write("first\n");
    log.until(|log| log.read("access.log") == "first\n");
    fs::rename(log.folder.path().join("access.log"), log.folder.path().join("moved")).unwrap();
    // What comes before the next look still goes to the file that was moved.
    log.until(|log| {
        log.write("x\n");
        log.folder.path().join("access.log").exists()
    });
    log.end();
    assert!(log.read("moved").starts_with("first\n"));
    assert!(log.read("access.log").starts_with("x\n"));
}

#[test]
fn lines_that_cant_be_written_are_counted_and_writing_goes_on_when_it_can() {
    let mut log = Log::start("access.log", 1_000);
    let path = log.folder.path().join("access.log");
    fs::create_dir(&path).unwrap();
    log.write("one\ntwo\n");
    log.write("three\n");
    log.until(|log| log.desk.dropped.load(Relaxed) == 3);
    fs::remove_dir(&path).unwrap();
    log.write("four\n");
    log.end();
    assert_eq!(log.read("access.log"), "four\n");
    assert_eq!(log.desk.dropped.load(Relaxed), 3);
}

#[test]
fn a_pipe_that_nobody_reads_holds_nobody_up() {
    let mut log = Log::start("access.log", 1_000);
    let path = log.folder.path().join("access.log");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    log.write("lost\n");
    log.end();
    assert_eq!(log.desk.dropped.load(Relaxed), 1);
}

#[test]
fn a_full_disk_drops_whole_batches_and_begins_on_a_new_line() {
    let mut log = Log::start("access.log", 1_000);
    std::os::unix::fs::symlink("/dev/full", log.folder.path().join("access.log")).unwrap();
    log.write("one\n");
    log.write("two\n");
    log.end();
    assert_eq!(log.desk.dropped.load(Relaxed), 2);
}

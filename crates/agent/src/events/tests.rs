#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
use std::fs;

use minato_model::time::Moment;
use serde_json::json;

use super::*;

fn event(number: u64) -> Event {
    Event::new(Moment(1_700_000_000_000), "instance_ready", format!("number {number}"))
        .with_service(&"shop/cart".parse().unwrap())
        .with_release(3)
        .with_data(json!({ "number": number }))
}

fn numbers(journal: &FileJournal, after: Option<u64>, limit: usize) -> Vec<u64> {
    journal.read(after, limit).into_iter().map(|(seq, _)| seq).collect()
}

#[test]
fn reads_after_a_number_or_the_last_ones() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    (1..=5).for_each(|number| journal.record(event(number)));
    assert_eq!(numbers(&journal, None, 2), [4, 5]);
    assert_eq!(numbers(&journal, Some(1), 2), [2, 3]);
    assert_eq!(numbers(&journal, Some(5), 2), [0; 0]);
    assert_eq!(numbers(&journal, None, 0), [0; 0]);
}

#[test]
fn continues_after_a_restart_and_past_a_torn_line() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    (1..=3).for_each(|number| journal.record(event(number)));
    drop(journal);
    let path = folder.path().join("events.ndjson");
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str("{\"seq\":4,\"at\":\"20");
    fs::write(&path, text).unwrap();

    let journal = FileJournal::open(folder.path()).unwrap();
    assert_eq!(
        journal.read(None, 10).into_iter().map(|(_, event)| event).collect::<Vec<_>>(),
        [event(1), event(2), event(3)]
    );
    journal.record(event(4));
    drop(journal);
    let journal = FileJournal::open(folder.path()).unwrap();
    assert_eq!(numbers(&journal, None, 10), [1, 2, 3, 4]);
}

#[test]
fn both_memory_and_files_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    let long = "x".repeat(64 << 10);
    // Twice as much as both files may hold; the writer is given time by the joins of reopening.
    let mut journal = Some(journal);
    for round in 0..4 {
        for number in 0..80 {
            let mut event = event(round * 80 + number);
            event.reason.clone_from(&long);
            journal.as_ref().unwrap().record(event);
        }
        drop(journal.take());
        journal = Some(FileJournal::open(folder.path()).unwrap());
    }
    let size: u64 = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(size <= 2 * (FILE_MAX + (66 << 10)), "{size}");
    let journal = journal.unwrap();
    assert_eq!(journal.read(None, 1)[0].0, 320);

    let mut ring = Ring::default();
    let line: Arc<str> = "x".repeat(KEPT / 4).into();
    (1..=9).for_each(|seq| ring.push(seq, Arc::clone(&line)));
    assert_eq!((ring.events.len(), ring.events[0].0, ring.bytes), (4, 6, KEPT));
}

#[test]
fn what_memory_no_longer_holds_is_read_from_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    let long = "x".repeat(KEPT / 4);
    for number in 1..=40 {
        let mut event = event(number);
        event.reason.clone_from(&long);
        journal.record(event);
    }
    // The writer has its time.
    drop(journal);
    let journal = FileJournal::open(folder.path()).unwrap();
    journal.record(event(41));
    assert!(journal.ring().events.len() < 10);
    assert_eq!(numbers(&journal, None, 12), (30..=41).collect::<Vec<_>>());
    assert_eq!(numbers(&journal, Some(20), 3), [21, 22, 23]);
    assert_eq!(numbers(&journal, Some(39), 9), [40, 41]);
    assert_eq!(numbers(&journal, None, 99).last(), Some(&41));
}

#[tokio::test]
async fn tells_when_it_has_grown() {
    let folder = tempfile::tempdir().unwrap();
    let journal = FileJournal::open(folder.path()).unwrap();
    journal.record(event(1));
    journal.grown(0).await;
    let waiting = tokio::spawn({
        let journal = Arc::clone(&journal);
        async move { journal.grown(1).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    journal.record(event(2));
    waiting.await.unwrap();
}

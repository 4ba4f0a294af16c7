//! Watches: from any revision, without loss or repetition, and told when the history is gone.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Subject, delete, get, next, ok, put, watch, write};
use crate::{Change, Changes, Item, Revision, State, StateError, Watch, list_all};

fn keys(changes: &Changes) -> Vec<&str> {
    changes.changes.iter().map(Change::key).collect()
}

/// Writes `n/0`, `n/1`, … one a commit; gives their revisions.
async fn write_numbers(state: &dyn State, numbers: std::ops::Range<usize>) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for number in numbers {
        revisions.push(write(state, vec![put(format!("n/{number}"), number.to_string())]).await);
    }
    revisions
}

/// Expects exactly these revisions, one after the other.
async fn expect(watch: &mut Box<dyn Watch>, revisions: &[Revision]) {
    for revision in revisions {
        assert_eq!(ok(next(watch).await).revision, *revision);
    }
}

/// From the past, from now and from the future; only its prefix; a revision is never split.
pub async fn a_watch_sees_whole_revisions_of_its_prefix<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let first = write(state, vec![put("a/1", "x"), put("b/1", "x"), put("a/2", "x")]).await;
    let other = write(state, vec![put("b/2", "x")]).await;
    let mut past = watch(state, "a/", first).await;
    let mut start = watch(state, "a/", 0).await;
    let mut all = watch(state, "", first).await;
    let mut now = watch(state, "a/", other + 1).await;
    let mut ahead = watch(state, "a/", other + 2).await;

    let changes = ok(next(&mut past).await);
    assert_eq!((changes.revision, keys(&changes)), (first, vec!["a/1", "a/2"]));
    assert_eq!(ok(next(&mut start).await), changes);
    assert_eq!(keys(&ok(next(&mut all).await)), ["a/1", "b/1", "a/2"]);
    let Change::Put(item) = &changes.changes[0] else { panic!("a put") };
    let expected =
        Item { key: "a/1".to_owned(), value: b"x".into(), created: first, modified: first, version: 1 };
    assert_eq!(*item, expected);

    let gone = write(state, vec![delete("a/1"), delete("a/absent"), put("a/2", "y")]).await;
    for watch in [&mut past, &mut now] {
        let changes = ok(next(watch).await);
        assert_eq!((changes.revision, keys(&changes)), (gone, vec!["a/1", "a/2"]));
        assert_eq!(changes.changes[0], Change::Delete { key: "a/1".to_owned() });
        assert!(
            matches!(&changes.changes[1], Change::Put(item) if item.version == 2 && item.created == first)
        );
    }
    let later = write(state, vec![put("a/3", "z")]).await;
    assert_eq!(ok(next(&mut ahead).await).revision, later, "what came before its start is not for it");
    expect(&mut all, &[other, gone, later]).await;
}

/// A list and a watch from the next revision give the present, whatever is written meanwhile.
pub async fn list_then_watch_has_no_hole<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                for round in 0..150 {
                    let key = format!("w/{writer}/{}", round % 10);
                    let change = if round % 7 == 3 { delete(key) } else { put(key, round.to_string()) };
                    write(&*state, vec![change]).await;
                }
            })
        })
        .collect();
    let mut followers = Vec::new();
    for _ in 0..8 {
        let state = Arc::clone(&state);
        let (items, revision) = ok(list_all(&*state, "w/").await);
        followers.push(tokio::spawn(follow(state, items, revision)));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for writer in writers {
        ok(writer.await);
    }
    write(&*state, vec![put("w/end", "")]).await;
    let (present, _) = ok(list_all(&*state, "w/").await);
    for follower in followers {
        assert_eq!(ok(follower.await), present);
    }
}

async fn follow(state: Arc<dyn State>, items: Vec<Item>, mut at: Revision) -> Vec<Item> {
    let mut known: BTreeMap<_, _> = items.into_iter().map(|item| (item.key.clone(), item)).collect();
    let mut watch = watch(&*state, "w/", at + 1).await;
    while !known.contains_key("w/end") {
        let changes = ok(next(&mut watch).await);
        assert!(changes.revision > at, "revision {} after {at}", changes.revision);
        at = changes.revision;
        for change in changes.changes {
            match change {
                Change::Put(item) => {
                    let before = known.insert(item.key.clone(), item.clone());
                    assert_eq!(
                        item.version,
                        before.map_or(0, |item| item.version) + 1,
                        "a change is missing"
                    );
                }
                Change::Delete { key } => assert!(known.remove(&key).is_some(), "{key} was not there"),
            }
        }
    }
    known.into_values().collect()
}

/// After a break a watch from the next revision goes on where the old one was.
pub async fn a_watch_can_be_resumed<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let mut revisions = write_numbers(&*state, 0..5).await;
    let mut first = watch(&*state, "n/", revisions[0]).await;
    expect(&mut first, &revisions[..3]).await;
    drop(first);
    revisions.extend(write_numbers(&*state, 5..50).await);
    let mut second = watch(&*state, "n/", revisions[2] + 1).await;
    expect(&mut second, &revisions[3..20]).await;
    drop((second, state));

    let subject = subject.reopen().await;
    let state = subject.state();
    let mut third = watch(&*state, "n/", revisions[19] + 1).await;
    expect(&mut third, &revisions[20..]).await;
    revisions.extend(write_numbers(&*state, 50..60).await);
    expect(&mut third, &revisions[50..]).await;
}

/// A wait that is given up loses no change.
pub async fn a_dropped_wait_loses_nothing<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let start = ok(state.get("n/").await).1;
    let mut watch = watch(&*state, "n/", start + 1).await;
    let writer = {
        let state = Arc::clone(&state);
        tokio::spawn(async move { write_numbers(&*state, 0..200).await })
    };
    let mut seen = Vec::new();
    while seen.len() < 200 {
        // Given up at every possible point: at once, after a poll or two, or not at all.
        tokio::select! {
            biased;
            changes = watch.next() => seen.push(ok(changes).revision),
            () = async { for _ in 0..seen.len() % 3 { tokio::task::yield_now().await; } } => {}
        }
    }
    assert_eq!(seen, ok(writer.await));
}

/// Who reads nothing for thousands of revisions gets them all, and stops nobody else meanwhile.
pub async fn a_slow_watcher_misses_nothing<S: Subject>(make: impl Fn() -> S) {
    const COMMITS: usize = 6000;
    let subject = make();
    let state = subject.state();
    let start = ok(state.get("n/").await).1 + 1;
    let mut slow = watch(&*state, "s/", start).await;
    let mut quick = watch(&*state, "s/", start).await;
    let mut rare = watch(&*state, "rare/", start).await;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let mut revisions = Vec::new();
                for round in 0..COMMITS / 16 {
                    revisions.push(write(&*state, vec![put(format!("s/{writer}"), round.to_string())]).await);
                }
                revisions
            })
        })
        .collect();
    let mut seen = Vec::new();
    for _ in 0..COMMITS {
        seen.push(ok(next(&mut quick).await).revision);
    }
    let mut written = Vec::new();
    for writer in writers {
        written.extend(ok(writer.await));
    }
    written.sort_unstable();
    assert!(seen == written, "the quick one missed something");
    for revision in &written {
        assert_eq!(ok(next(&mut slow).await).revision, *revision, "the slow one missed something");
    }
    let last = write(&*state, vec![put("rare/1", "")]).await;
    assert_eq!(ok(next(&mut rare).await).revision, last);
}

/// The past before the oldest revision is refused with its number; that revision itself is there.
pub async fn a_compacted_history_is_said_so<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let revisions = write_numbers(state, 0..20).await;
    let gone = write(state, vec![delete("n/19")]).await;
    let last = write(state, vec![put("n/18", "again")]).await;
    let oldest = revisions[10];
    ok(subject.compact(oldest).await);
    assert!(matches!(subject.compact(last + 1).await, Err(StateError::Future { .. })));
    ok(subject.compact(revisions[5]).await);

    for at in [revisions[0], oldest - 1] {
        let listed = state.list("n/", None, 100, Some(at)).await;
        assert!(matches!(listed, Err(StateError::Compacted { oldest: told }) if told == oldest));
        let error = refused(state, at).await;
        assert!(matches!(error, StateError::Compacted { oldest: told } if told == oldest), "{error:?}");
    }
    for (at, count) in [(oldest, 11), (revisions[15], 16), (gone, 19), (last, 19)] {
        assert_eq!(ok(state.list("n/", None, 100, Some(at)).await).items.len(), count, "at {at}");
    }
    assert_eq!(get(state, "n/0").await.map(|item| item.modified), Some(revisions[0]), "old, but current");
    let mut watched = watch(state, "n/", oldest).await;
    expect(&mut watched, &revisions[10..]).await;
    expect(&mut watched, &[gone, last]).await;

    // A deletion at the oldest revision can still be seen.
    ok(subject.compact(gone).await);
    let mut watched = watch(state, "n/", gone).await;
    let changes = ok(next(&mut watched).await);
    assert_eq!(changes.changes, [Change::Delete { key: "n/19".to_owned() }]);
    ok(subject.compact(last).await);
    assert_eq!(ok(list_all(state, "n/").await).0.len(), 19);
}

/// The error of a watch, which may come at once or with the first wait.
async fn refused(state: &dyn State, from: Revision) -> StateError {
    match state.watch("n/", from).await {
        Err(error) => error,
        Ok(mut watch) => match next(&mut watch).await {
            Err(error) => error,
            Ok(changes) => panic!("should be refused: {changes:?}"),
        },
    }
}

/// A watcher whose place is compacted gets every change or is told, never something in between.
pub async fn compaction_under_a_watcher<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let mut revisions = write_numbers(state, 0..10).await;
    let mut behind = watch(state, "n/", revisions[0]).await;
    let mut abreast = watch(state, "n/", revisions[0]).await;
    expect(&mut behind, &revisions[..1]).await;
    expect(&mut abreast, &revisions).await;
    revisions.extend(write_numbers(state, 10..1000).await);
    expect(&mut abreast, &revisions[10..]).await;
    ok(subject.compact(revisions[990]).await);

    for revision in &revisions[1..] {
        match next(&mut behind).await {
            Ok(changes) => assert_eq!(changes.revision, *revision, "a change was skipped in silence"),
            Err(StateError::Compacted { oldest }) => {
                assert_eq!(oldest, revisions[990]);
                let again = next(&mut behind).await;
                assert!(matches!(again, Err(StateError::Compacted { .. })), "told once, told always");
                break;
            }
            Err(error) => panic!("should be compacted: {error:?}"),
        }
    }
    let (items, at) = ok(list_all(state, "n/").await);
    assert_eq!(items.len(), 1000);
    let mut anew = watch(state, "n/", at + 1).await;
    let last = write(state, vec![put("n/last", "")]).await;
    expect(&mut anew, &[last]).await;
    expect(&mut abreast, &[last]).await;
}

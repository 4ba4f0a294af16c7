//! Commits: revisions, guards, limits, writers at the same time, restarts.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{collections::BTreeSet, pin::pin, sync::Arc};

use super::{Subject, delete, get, ok, passes, put, write};
use crate::{Committed, Guard, Item, StateError, Write, limits, list_all};

/// Each change has a greater revision; an item says when it was created, changed and how often.
pub async fn revisions_only_grow<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let (nothing, empty) = ok(state.get("k").await);
    assert_eq!(nothing, None);
    assert!(empty >= 1, "0 is never a revision");

    let first = write(&*state, vec![put("k", "one")]).await;
    let second = write(&*state, vec![put("k", "two")]).await;
    assert!(empty < first && first < second);
    let item = |value: &str, created, modified, version| Item {
        key: "k".to_owned(),
        value: value.into(),
        created,
        modified,
        version,
    };
    let (found, revision) = ok(state.get("k").await);
    assert_eq!(found, Some(item("two", first, second, 2)));
    assert!(revision >= second);

    let gone = write(&*state, vec![delete("k")]).await;
    assert!(gone > second);
    assert_eq!(get(&*state, "k").await, None);
    let again = write(&*state, vec![put("k", "")]).await;
    assert_eq!(get(&*state, "k").await, Some(item("", again, again, 1)));

    let same = write(&*state, vec![delete("absent")]).await;
    assert_eq!(same, again, "nothing changed, so there is no new revision");
    assert_eq!(write(&*state, Vec::new()).await, again);
}

/// All guards must hold, also on keys that are not written.
pub async fn guards_decide_over_several_keys<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let absent = |key: &str| Guard::Absent(key.to_owned());
    let present = |key: &str| Guard::Present(key.to_owned());
    let at = |key: &str, revision| Guard::ModifiedAt(key.to_owned(), revision);

    assert!(passes(state, vec![absent("a"), at("b", 0)], vec![put("a", "1"), put("b", "1")]).await);
    let made = get(state, "a").await.map_or(0, |item| item.modified);
    assert!(!passes(state, vec![absent("a")], vec![put("a", "2")]).await);
    assert!(!passes(state, vec![at("a", 0)], vec![put("a", "2")]).await);
    assert!(!passes(state, vec![present("c")], vec![put("a", "2")]).await);
    assert!(!passes(state, vec![at("a", made), at("b", made + 1)], vec![put("a", "2")]).await);
    assert_eq!(get(state, "a").await.map(|item| item.version), Some(1));

    assert!(passes(state, vec![at("a", made), at("b", made), absent("c")], vec![put("a", "2")]).await);
    assert!(!passes(state, vec![at("a", made)], vec![delete("b")]).await, "a has moved on");
    assert!(passes(state, vec![present("a"), at("b", made)], vec![delete("b")]).await);
    assert!(passes(state, vec![absent("b")], Vec::new()).await, "guards alone are a question");
    let before = ok(state.get("a").await).1;
    assert!(
        matches!(ok(state.commit(vec![present("b")], Vec::new()).await), Committed::Refused { revision } if revision == before)
    );
    assert_eq!(ok(state.get("a").await).1, before, "a refusal is not a revision");
}

/// The writes of a commit appear together or not at all, to readers at any time.
pub async fn a_commit_is_all_or_nothing<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let all = |value: &str| (0..100).map(|n| put(format!("all/{n:03}"), value)).collect::<Vec<_>>();
    let revision = write(&*state, all("0")).await;
    let (items, _) = ok(list_all(&*state, "all/").await);
    assert!(items.len() == 100 && items.iter().all(|item| item.modified == revision));

    let refused = [all("no"), vec![delete("all/000")]].concat();
    assert!(matches!(state.commit(Vec::new(), refused).await, Err(StateError::WrittenTwice { .. })));
    assert!(!passes(&*state, vec![Guard::Present("x".to_owned())], all("no")).await);

    let writer = {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            for round in 1..=30 {
                write(&*state, all(&round.to_string())).await;
            }
        })
    };
    while !writer.is_finished() {
        let (items, _) = ok(list_all(&*state, "all/").await);
        let seen: BTreeSet<_> = items.iter().map(|item| (&item.value, item.modified)).collect();
        assert_eq!((items.len(), seen.len()), (100, 1), "a list saw half a commit: {seen:?}");
    }
    ok(writer.await);
}

/// Limits hold to the byte, and what is refused leaves nothing behind.
pub async fn what_is_too_big_is_refused<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let before = ok(state.get("k").await).1;
    let refused = async |guards: Vec<Guard>, writes: Vec<Write>| match state.commit(guards, writes).await {
        Err(error) => error,
        Ok(done) => panic!("should be refused: {done:?}"),
    };
    let big = |size: usize| vec![put("k", vec![7; size - 1])];
    let long = "k".repeat(limits::KEY_BYTES + 1);
    let many = |count: usize| (0..count).map(|n| put(format!("{n}"), "")).collect::<Vec<_>>();

    let error = refused(Vec::new(), big(limits::COMMIT_BYTES + 1)).await;
    assert!(
        matches!(error, StateError::TooLarge { size, limit, .. } if size == limit + 1 && limit == limits::COMMIT_BYTES)
    );
    let halves =
        vec![put("a", vec![7; limits::COMMIT_BYTES / 2]), put("b", vec![7; limits::COMMIT_BYTES / 2])];
    assert!(matches!(refused(Vec::new(), halves).await, StateError::TooLarge { .. }));
    assert!(matches!(refused(Vec::new(), vec![put(&long, "")]).await, StateError::TooLarge { .. }));
    assert!(matches!(
        refused(vec![Guard::Absent(long.clone())], Vec::new()).await,
        StateError::TooLarge { .. }
    ));
    assert!(matches!(refused(Vec::new(), vec![put("", "")]).await, StateError::EmptyKey));
    let error = refused(Vec::new(), many(limits::COMMIT_OPERATIONS + 1)).await;
    assert!(matches!(error, StateError::TooMany { .. }));
    let guards = vec![Guard::Absent("k".to_owned()); limits::COMMIT_OPERATIONS + 1];
    assert!(matches!(refused(guards, Vec::new()).await, StateError::TooMany { .. }));
    assert!(matches!(state.get(&long).await, Err(StateError::TooLarge { .. })));
    assert!(matches!(state.get("").await, Err(StateError::EmptyKey)));
    assert_eq!(ok(list_all(state, "").await), (Vec::new(), before), "something was left behind");

    write(state, big(limits::COMMIT_BYTES)).await;
    write(state, many(limits::COMMIT_OPERATIONS)).await;
    write(state, vec![put(&long[1..], "")]).await;
    assert_eq!(get(state, "k").await.map(|item| item.value.len()), Some(limits::COMMIT_BYTES - 1));
    assert!(get(state, &long[1..]).await.is_some());
}

/// Sixteen writers race for one counter: one wins each revision, no increment is lost.
pub async fn concurrent_writers_take_turns<S: Subject>(make: impl Fn() -> S) {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 25;
    let subject = make();
    let state = subject.state();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let state = Arc::clone(&state);
            tokio::spawn(async move {
                let mut won = Vec::new();
                while won.len() < ROUNDS {
                    let counter = get(&*state, "counter").await;
                    let modified = counter.as_ref().map_or(0, |item| item.modified);
                    let count = counter.map_or(0, |item| parse(&item.value)) + 1;
                    let own = put(format!("own/{writer}/{}", won.len()), count.to_string());
                    let guards = vec![Guard::ModifiedAt("counter".to_owned(), modified)];
                    let writes = vec![put("counter", count.to_string()), own];
                    if let Committed::Done(revision) = ok(state.commit(guards, writes).await) {
                        won.push(revision);
                    }
                }
                won
            })
        })
        .collect();
    let mut revisions = BTreeSet::new();
    for writer in writers {
        for revision in ok(writer.await) {
            assert!(revisions.insert(revision), "revision {revision} has two winners");
        }
    }
    let counter = get(&*state, "counter").await;
    assert_eq!(counter.map(|item| (parse(&item.value), item.version)), Some((400, 400)));
    let (own, _) = ok(list_all(&*state, "own/").await);
    let counts: BTreeSet<_> = own.iter().map(|item| parse(&item.value)).collect();
    assert_eq!(counts, (1..=WRITERS * ROUNDS).collect());
    assert_eq!(own.iter().map(|item| item.modified).collect::<BTreeSet<_>>(), revisions);
}

fn parse(value: &[u8]) -> usize {
    ok(ok(str::from_utf8(value)).parse())
}

/// What was acknowledged is there after a restart, and no revision is used again, not even one whose
/// every trace is compacted.
pub async fn a_restart_goes_on<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = subject.state();
    let kept = write(&*state, vec![put("kept", "1")]).await;
    write(&*state, vec![put("gone", "1")]).await;
    write(&*state, vec![delete("gone")]).await;
    let newest = write(&*state, vec![put("x", "1")]).await;
    drop(state);

    let subject = subject.reopen().await;
    let state = subject.state();
    assert_eq!(ok(state.get("kept").await).1, newest);
    let mut watch = super::watch(&*state, "", kept).await;
    assert_eq!(ok(super::next(&mut watch).await).revision, kept, "the history outlives a restart");
    let gone = write(&*state, vec![delete("x")]).await;
    ok(subject.compact(gone).await);
    drop((state, watch));

    let subject = subject.reopen().await;
    let state = subject.state();
    let (items, revision) = ok(list_all(&*state, "").await);
    assert_eq!(
        items.iter().map(|item| (item.key.as_str(), item.modified)).collect::<Vec<_>>(),
        [("kept", kept)]
    );
    assert_eq!(revision, gone);
    assert!(write(&*state, vec![put("x", "2")]).await > gone);
}

/// Who did not wait for the answer reads, or tries again under the same guard: it happens once.
pub async fn a_dropped_commit_can_be_tried_again<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    for round in 0..50 {
        let key = format!("k/{round}");
        let guards = || vec![Guard::Absent(key.clone())];
        {
            let mut dropped = pin!(state.commit(guards(), vec![put(&key, "first")]));
            tokio::select! { biased; _ = &mut dropped => {}, () = tokio::task::yield_now() => {} }
        }
        let won = passes(state, guards(), vec![put(&key, "second")]).await;
        let item = get(state, &key).await.map(|item| (item.value, item.version));
        let expected = if won { b"second".to_vec() } else { b"first".to_vec() };
        assert_eq!(item, Some((expected, 1)));
    }
}

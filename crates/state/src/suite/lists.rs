//! Lists: pages of one revision, prefixes, and the past as it was.

use std::collections::BTreeMap;

use super::{Random, Subject, delete, next, ok, put, watch, write};
use crate::{Change, Item, Page, Revision, State, StateError, limits, list_all};

/// Reads a list in pages of a size, all at the revision of the first.
async fn paged(state: &dyn State, prefix: &str, limit: usize, at: Option<Revision>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut at = at;
    loop {
        let after = items.last().map(|item| item.key.clone());
        let page = ok(state.list(prefix, after.as_deref(), limit, at).await);
        assert!(page.items.len() <= limit);
        assert!(at.is_none_or(|at| at == page.revision));
        assert!(!page.more || !page.items.is_empty(), "a page that leads nowhere");
        at = Some(page.revision);
        items.extend(page.items);
        if !page.more {
            return items;
        }
    }
}

/// Pages fit together whatever is written between them.
pub async fn pages_are_of_one_revision<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    for chunk in 0..3 {
        write(state, (0..80).map(|n| put(format!("p/{chunk}{n:02}"), "old")).collect()).await;
    }
    write(state, vec![put("o", ""), put("p", ""), put("p0", "")]).await;
    let (before, at) = ok(list_all(state, "p/").await);
    assert_eq!(before.len(), 240);

    let first = ok(state.list("p/", None, 7, None).await);
    assert_eq!((first.items.as_slice(), first.revision, first.more), (&before[..7], at, true));
    write(state, vec![delete("p/007"), delete("p/100"), put("p/0075", "new"), put("p/239", "new")]).await;
    let mut items = first.items;
    let mut more = first.more;
    while more {
        let last = items.last().map(|item| item.key.clone());
        let page = ok(state.list("p/", last.as_deref(), 7, Some(at)).await);
        write(state, vec![put(format!("p/{:03}", 240 - items.len() / 2), "new")]).await;
        assert_eq!(page.revision, at);
        more = page.more;
        items.extend(page.items);
    }
    assert_eq!(items, before);
    let Page { items, more, .. } = ok(state.list("p/", None, 240, Some(at)).await);
    assert_eq!((items.len(), more), (240, false), "exactly all of them, and no more");

    let now = ok(state.get("o").await).1;
    let ahead = state.list("p/", None, 1, Some(now + 1)).await;
    assert!(
        matches!(ahead, Err(StateError::Future { asked, current }) if asked == now + 1 && current == now)
    );
    assert_eq!(ok(state.list("p/", None, 0, None).await).items.len(), 1, "no limit is one");
    assert_eq!(ok(state.list("nobody/", None, 5, None).await).items, []);

    // A page of large values ends early instead of taking all memory.
    for n in 0..10 {
        write(state, vec![put(format!("large/{n}"), vec![7; 1 << 20])]).await;
    }
    let page = ok(state.list("large/", None, 10, None).await);
    assert!(page.more && page.items.len() <= limits::PAGE_BYTES >> 20);
    assert_eq!(paged(state, "large/", 10, None).await.len(), 10);
}

/// A prefix takes what begins with it, byte by byte, and nothing else.
pub async fn prefixes_have_exact_edges<S: Subject>(make: impl Fn() -> S) {
    let subject = make();
    let state = &*subject.state();
    let mut keys = [
        "a",
        "a/",
        "a/b",
        "a/b/c",
        "a0",
        "a\0",
        "a\0b",
        "aa",
        "b",
        "B",
        "\0",
        " ",
        "%",
        "_",
        "é",
        "ée",
        "ê",
        "\u{7f}",
        "\u{80}",
        "\u{7ff}",
        "\u{800}",
        "\u{ffff}",
        "\u{10000}",
        "\u{10ffff}",
        "\u{10ffff}\u{10ffff}",
        "a\u{10ffff}",
        "a\u{10ffff}b",
        "*",
        "a*",
        "A/",
    ];
    write(state, keys.iter().map(|key| put(*key, *key)).collect()).await;
    keys.sort_unstable();
    let at = ok(state.get("a").await).1;
    for prefix in keys.iter().copied().chain([""]) {
        let expected: Vec<_> = keys.iter().copied().filter(|key| key.starts_with(prefix)).collect();
        for at in [None, Some(at)] {
            let items = paged(state, prefix, 3, at).await;
            assert_eq!(
                items.iter().map(|item| item.key.as_str()).collect::<Vec<_>>(),
                expected,
                "{prefix:?}"
            );
        }
        let mut watch = watch(state, prefix, at).await;
        let changes = ok(next(&mut watch).await).changes;
        assert_eq!(changes.len(), expected.len(), "{prefix:?}");
        for after in keys {
            let page = ok(state.list(prefix, Some(after), 1, None).await);
            let next = expected.iter().find(|key| **key > after);
            assert_eq!(
                page.items.first().map(|item| item.key.as_str()),
                next.copied(),
                "{prefix:?} {after:?}"
            );
        }
        // Off the newest revision the past is read another way.
        write(state, vec![put("zz", prefix)]).await;
        if !"zz".starts_with(prefix) {
            assert_eq!(paged(state, prefix, 4, Some(at)).await.len(), expected.len(), "{prefix:?}");
        }
        write(state, vec![delete("zz")]).await;
    }
}

type Model = BTreeMap<String, Item>;

/// A random history against a map in memory: every revision can be listed as it was, before and
/// after compaction, and a watch from any of them leads to the present.
pub async fn a_random_history_is_kept<S: Subject>(make: impl Fn() -> S) {
    let (mut random, seed) = Random::new();
    let subject = make();
    let state = &*subject.state();
    let mut past: Vec<(Revision, Model)> = Vec::new();
    let mut model = Model::new();
    for _ in 0..300 {
        let revision = random_commit(state, &mut random, &mut model).await;
        if past.last().is_none_or(|(last, _)| *last < revision) {
            past.push((revision, model.clone()));
        }
    }
    check_past(state, &past, seed).await;
    for keep in [200, 60, 1] {
        let start = past.len().saturating_sub(keep);
        ok(subject.compact(past[start].0).await);
        if start > 0 {
            let gone = state.list("", None, 1, Some(past[start - 1].0)).await;
            assert!(matches!(gone, Err(StateError::Compacted { .. })), "seed {seed}");
        }
        past.drain(..start);
        check_past(state, &past, seed).await;
        for _ in 0..20 {
            let revision = random_commit(state, &mut random, &mut model).await;
            if past.last().is_none_or(|(last, _)| *last < revision) {
                past.push((revision, model.clone()));
            }
        }
        check_past(state, &past, seed).await;
    }
}

async fn random_commit(state: &dyn State, random: &mut Random, model: &mut Model) -> Revision {
    let mut writes = BTreeMap::new();
    for _ in 0..=random.below(4) {
        let key = format!("{}/{}", ["a", "b"][usize::from(random.below(2) == 0)], random.below(12));
        let value = random.below(1 << 30).to_string();
        let write = if random.below(3) == 0 { delete(&key) } else { put(&key, value) };
        writes.insert(key, write);
    }
    let revision = write(state, writes.values().cloned().collect()).await;
    for (key, write) in writes {
        match write {
            crate::Write::Put { value, .. } => {
                let (created, version) =
                    model.get(&key).map_or((revision, 0), |item| (item.created, item.version));
                let item =
                    Item { key: key.clone(), value, created, modified: revision, version: version + 1 };
                model.insert(key, item);
            }
            crate::Write::Delete { .. } => drop(model.remove(&key)),
        }
    }
    revision
}

async fn check_past(state: &dyn State, past: &[(Revision, Model)], seed: u64) {
    let Some((newest, present)) = past.last() else { return };
    for (revision, model) in past {
        let items = paged(state, "", 5, Some(*revision)).await;
        assert!(items.iter().eq(model.values()), "seed {seed}: revision {revision} reads otherwise");
        let below = paged(state, "b/", 100, Some(*revision)).await;
        assert!(below.iter().eq(model.values().filter(|item| item.key.starts_with("b/"))), "seed {seed}");
    }
    for (revision, model) in past.iter().step_by(17) {
        let mut now = model.clone();
        let mut at = *revision;
        let mut watch = watch(state, "", revision + 1).await;
        while at < *newest {
            let changes = ok(next(&mut watch).await);
            assert!(changes.revision > at, "seed {seed}");
            at = changes.revision;
            for change in changes.changes {
                match change {
                    Change::Put(item) => drop(now.insert(item.key.clone(), item)),
                    Change::Delete { key } => assert!(now.remove(&key).is_some(), "seed {seed}: {key}"),
                }
            }
        }
        assert!(now == *present, "seed {seed}: the watch from {revision} leads elsewhere");
    }
}

//! Whose turn it is: of all nodes one asks the authority at a time.

use std::time::Duration;

use minato_model::{ids::NodeName, keys, time::Moment};
use minato_state::{Committed, Guard, Revision, State, StateError, Write};
use serde::{Deserialize, Serialize};

/// Longer than an order takes at most; a node that is lost holds it no longer.
const LEASE: Duration = Duration::from_secs(7 * 60);

#[derive(Debug, Serialize, Deserialize)]
struct Lease {
    node: NodeName,
    until: Moment,
}

/// A turn that was taken; to be given back.
#[derive(Debug)]
pub(crate) struct Turn(Revision);

/// Takes the turn; `None`: it is another node's.
pub(crate) async fn take(
    state: &dyn State,
    node: &NodeName,
    now: Moment,
) -> Result<Option<Turn>, StateError> {
    let (item, _) = state.get(keys::ACME_ORDER).await?;
    let modified = item.as_ref().map_or(0, |item| item.modified);
    // One that can't be read is nobody's; one's own is what a crash left.
    let held = item.and_then(|item| serde_json::from_slice::<Lease>(&item.value).ok());
    // A clock that was ahead doesn't keep everybody waiting.
    let current = |held: &Lease| held.until > now && held.until <= now.plus(LEASE * 2);
    if held.is_some_and(|held| held.node != *node && current(&held)) {
        return Ok(None);
    }
    let lease = Lease { node: node.clone(), until: now.plus(LEASE) };
    let value = serde_json::to_vec(&lease).unwrap_or_default();
    let guard = Guard::ModifiedAt(keys::ACME_ORDER.to_owned(), modified);
    let put = Write::Put { key: keys::ACME_ORDER.to_owned(), value };
    match state.commit(vec![guard], vec![put]).await? {
        Committed::Done(revision) => Ok(Some(Turn(revision))),
        Committed::Refused { .. } => Ok(None),
    }
}

/// Gives it back, if it is still one's own.
pub(crate) async fn give_back(state: &dyn State, turn: Turn) -> Result<(), StateError> {
    let guard = Guard::ModifiedAt(keys::ACME_ORDER.to_owned(), turn.0);
    let delete = Write::Delete { key: keys::ACME_ORDER.to_owned() };
    state.commit(vec![guard], vec![delete]).await.map(|_| ())
}

/// Gives back whatever is one's own: an order was broken off.
pub(crate) async fn give_up(state: &dyn State, node: &NodeName) -> Result<(), StateError> {
    let (Some(item), _) = state.get(keys::ACME_ORDER).await? else { return Ok(()) };
    let held = serde_json::from_slice::<Lease>(&item.value);
    if held.is_ok_and(|held| held.node == *node) {
        give_back(state, Turn(item.modified)).await
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minato_state::sqlite;

    use super::*;

    #[tokio::test]
    async fn one_node_at_a_time_has_the_turn() {
        let folder = tempfile::tempdir().unwrap();
        let state = sqlite::Engine::open(folder.path(), sqlite::Config::default()).unwrap();
        let (one, other) = ("one".parse().unwrap(), "other".parse().unwrap());
        let (begin, later) = (Moment(1_000_000), Moment(1_000_000).plus(LEASE));
        let turn = take(&*state, &one, begin).await.unwrap().unwrap();
        assert!(take(&*state, &other, begin).await.unwrap().is_none());
        give_back(&*state, turn).await.unwrap();
        let turn = take(&*state, &other, begin).await.unwrap().unwrap();
        assert!(take(&*state, &one, begin).await.unwrap().is_none());
        let again = take(&*state, &other, begin).await.unwrap();
        assert!(again.is_some(), "its own, which a crash left");
        let taken = take(&*state, &one, later).await.unwrap();
        assert!(taken.is_some(), "a lost node's turn ends");
        give_back(&*state, turn).await.unwrap();
        give_up(&*state, &other).await.unwrap();
        assert!(take(&*state, &other, later).await.unwrap().is_none(), "what isn't one's own stays");
        give_up(&*state, &one).await.unwrap();
        assert!(take(&*state, &other, later).await.unwrap().is_some());
    }
}

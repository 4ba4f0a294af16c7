//! A cluster state that can be away: whoever asks is told so, and nothing is heard of it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use minato_model::BoxFuture;
use minato_state::{
    Changes, Committed, Guard, Item, Page, Revision, State, StateError, Watch, Write, sqlite,
};

/// The state, while it isn't away.
#[derive(Clone)]
pub(crate) struct Sometimes {
    pub(crate) state: Arc<sqlite::Engine>,
    pub(crate) away: Arc<AtomicBool>,
}

struct Watching {
    watch: Box<dyn Watch>,
    away: Arc<AtomicBool>,
}

fn there(away: &AtomicBool) -> Result<(), StateError> {
    let away = away.load(Ordering::Relaxed).then(|| std::io::Error::other("it is away"));
    away.map_or(Ok(()), |error| Err(StateError::Storage(Arc::new(error))))
}

impl State for Sometimes {
    fn get(&self, key: &str) -> BoxFuture<'_, Result<(Option<Item>, Revision), StateError>> {
        let got = self.state.get(key);
        Box::pin(async { there(&self.away).map(|()| got)?.await })
    }

    fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> BoxFuture<'_, Result<Page, StateError>> {
        let listed = self.state.list(prefix, after, limit, at);
        Box::pin(async { there(&self.away).map(|()| listed)?.await })
    }

    fn commit(&self, guards: Vec<Guard>, writes: Vec<Write>) -> BoxFuture<'_, Result<Committed, StateError>> {
        Box::pin(async move { there(&self.away).map(|()| self.state.commit(guards, writes))?.await })
    }

    fn watch(&self, prefix: &str, from: Revision) -> BoxFuture<'_, Result<Box<dyn Watch>, StateError>> {
        let watched = self.state.watch(prefix, from);
        Box::pin(async {
            let watch = there(&self.away).map(|()| watched)?.await?;
            Ok(Box::new(Watching { watch, away: Arc::clone(&self.away) }) as Box<dyn Watch>)
        })
    }
}

impl Watch for Watching {
    fn next(&mut self) -> BoxFuture<'_, Result<Changes, StateError>> {
        Box::pin(async {
            let next = self.watch.next().await;
            there(&self.away).and(next)
        })
    }
}

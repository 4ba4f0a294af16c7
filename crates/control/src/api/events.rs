//! What happened.

use std::sync::Arc;

use axum::{Extension, extract::State, http::Method, response::Response, routing::get};
use futures_util::stream;
use minato_identity::token::Bearer;
use minato_model::event::Event;
use serde::Deserialize;

use super::{
    Answer, Endpoint, Needs, Shared,
    answer::Failed,
    asked, needs,
    query::Asked,
    stream::{LIMIT, LIMIT_MAX, lines, whole},
};
use crate::core::Core;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/events",
        needs: Needs::Read,
        summary: "Events, oldest first",
        parameters: vec![
            asked("follow", "boolean", "goes on with what comes"),
            asked("limit", "integer", "at most this many of the last events, 10000 at most"),
            asked("app", "string", "of this app only"),
        ],
        body: None,
        answer: Answer::Lines("Event"),
        handler: get(read),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    #[serde(default)]
    follow: bool,
    limit: Option<usize>,
    app: Option<String>,
}

async fn read(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Asked(query): Asked<Query>,
) -> Result<Response, Failed> {
    let limit = query.limit.unwrap_or(LIMIT).min(LIMIT_MAX);
    let mut reader = Reader { core: Arc::clone(&core), app: query.app, after: 0 };
    // Of one app's the last ones may lie far apart.
    let mut first =
        reader.take(core.events(None, if reader.app.is_some() { LIMIT_MAX } else { limit }).await);
    first.drain(..first.len().saturating_sub(limit));
    if !query.follow {
        return Ok(whole(&first));
    }
    let heaps = stream::unfold((reader, Some(first)), |(mut reader, first)| async move {
        let heap = match first {
            Some(first) => first,
            None => reader.next().await,
        };
        Some((heap, (reader, None)))
    });
    Ok(lines(heaps, needs::over(&core, &bearer)))
}

struct Reader {
    core: Arc<Core>,
    app: Option<String>,
    /// The last number that was read.
    after: u64,
}

impl Reader {
    async fn next(&mut self) -> Vec<Event> {
        let core = Arc::clone(&self.core);
        core.journal.grown(self.after).await;
        self.take(core.events(Some(self.after), LIMIT_MAX).await)
    }

    /// Notes how far it was read, and leaves what isn't asked for.
    fn take(&mut self, read: Vec<(u64, Event)>) -> Vec<Event> {
        self.after = read.last().map_or(self.after, |(number, _)| *number);
        let of = |event: &Event| {
            let app = event.app.as_ref().map(minato_model::ids::AppName::as_str);
            self.app.as_deref().is_none_or(|asked| app == Some(asked))
        };
        read.into_iter().map(|(_, event)| event).filter(of).collect()
    }
}

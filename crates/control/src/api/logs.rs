//! What instances wrote.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Extension, extract::State, http::Method, response::Response, routing::get};
use futures_util::stream;
use minato_identity::token::Bearer;
use minato_model::{
    code::{Code, Problem},
    ids::{InstanceId, NodeName, ReleaseNumber, ServiceKey},
    node::{LogLine, LogPosition, LogQuery},
};
use serde::Deserialize;

use super::{
    Answer, Endpoint, Needs, Shared,
    answer::Failed,
    asked, needed, needs,
    query::Asked,
    stream::{LIMIT, LIMIT_MAX, lines, whole},
};
use crate::{core::Core, world::World};

/// How often nodes are asked for more. A node has no signal for lines: they are many, and rarely
/// watched.
const EVERY: Duration = Duration::from_millis(200);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint {
        method: Method::GET,
        path: "/api/v1/logs",
        needs: Needs::Read,
        summary: "Lines that instances of a service wrote, oldest first",
        parameters: vec![
            needed("service", "app/service"),
            asked("follow", "boolean", "goes on with what comes"),
            asked("limit", "integer", "at most this many of the last lines, 10000 at most"),
            asked("release", "integer", "of this release only"),
            asked("instance", "string", "of this instance only"),
        ],
        body: None,
        answer: Answer::Lines("LogLine"),
        handler: get(read),
    }]
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    service: String,
    #[serde(default)]
    follow: bool,
    limit: Option<usize>,
    release: Option<ReleaseNumber>,
    instance: Option<InstanceId>,
}

async fn read(
    State(core): Shared,
    Extension(bearer): Extension<Bearer>,
    Asked(query): Asked<Query>,
) -> Result<Response, Failed> {
    let service: ServiceKey = query
        .service
        .parse()
        .map_err(|_| Problem::new(Code::InvalidRequest, "`service` is written app/service"))?;
    let world = World::read(&*core.state).await?;
    // A service that was deleted may still be asked for what it wrote.
    if !world.services.contains_key(&service) {
        let message = format!("there is no service `{service}`");
        let hint = "`minato status` lists what there is";
        return Err(Problem::new(Code::NotFound, message).with_hint(hint).into());
    }
    let mut reader = Reader {
        core: Arc::clone(&core),
        query: LogQuery {
            service,
            release: query.release,
            instance: query.instance,
            after: None,
            limit: query.limit.unwrap_or(LIMIT).min(LIMIT_MAX),
        },
        after: BTreeMap::new(),
    };
    let first = reader.read().await;
    if !query.follow {
        return Ok(whole(&first));
    }
    reader.query.limit = LIMIT_MAX;
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
    query: LogQuery,
    /// How far each node's lines were read.
    after: BTreeMap<NodeName, LogPosition>,
}

impl Reader {
    /// The next lines, which may be none yet.
    async fn next(&mut self) -> Vec<LogLine> {
        tokio::time::sleep(EVERY).await;
        self.read().await
    }

    /// What there is after what was read, of every node, in order.
    async fn read(&mut self) -> Vec<LogLine> {
        let mut all = Vec::new();
        for (name, node) in self.core.nodes.all() {
            let after = self.after.get(&name).cloned();
            let found = node.logs(LogQuery { after, ..self.query.clone() }).await;
            if let Some(last) = found.last() {
                self.after.insert(name, last.position.clone());
            }
            all.extend(found);
        }
        all.sort_by(|one, other| one.position.cmp(&other.position));
        let surplus = all.len().saturating_sub(self.query.limit);
        // Only where several nodes gave their last lines at the beginning.
        if self.query.limit < LIMIT_MAX {
            all.drain(..surplus);
        }
        all
    }
}

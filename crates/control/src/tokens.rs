//! The cluster's tokens: made and revoked in the cluster state, and followed from there into memory, where they
//! are checked.

use std::time::Duration;

use minato_identity::token::{self, MakeError, Order, Record, Scope, Token, TokenId, Who};
use minato_model::{
    code::{Code, Problem},
    event::Event,
    keys,
};
use minato_state::{Change, Committed, Revision, StateError, list_all};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::core::{Batch, Core, Fault, decode};

/// Tokens at most: they are kept in memory, and nobody looks after more.
const TOKENS_MAX: usize = 1_000;
/// Between tries when the state doesn't answer.
const RETRY: Duration = Duration::from_secs(1);

/// What a token is to be.
pub(crate) struct Wanted {
    pub(crate) name: String,
    pub(crate) scopes: Vec<Scope>,
    /// For how long it counts; `None`: until it is revoked.
    pub(crate) lives: Option<Duration>,
    /// Who asks.
    pub(crate) by: String,
}

/// Makes a token; its text is kept nowhere.
///
/// # Errors
/// An order that can't be carried out, too many tokens, or the state's.
pub(crate) async fn make(core: &Core, wanted: Wanted) -> Result<(Token, Zeroizing<String>), Problem> {
    let Wanted { name, scopes, lives, by } = wanted;
    let now = core.now();
    let mut batch = Batch::default();
    let known = core.access.tokens().list();
    if known.len() >= TOKENS_MAX {
        let Some(ended) =
            known.iter().filter(|token| token.ended(now).is_some()).min_by_key(|token| token.ended(now))
        else {
            let message = format!("there are {TOKENS_MAX} tokens, the most there may be");
            let hint = "`minato token list` shows them; revoke those that nobody uses";
            return Err(Problem::new(Code::Conflict, message).with_hint(hint));
        };
        batch.writes.push(minato_state::Write::Delete { key: keys::token(ended.id.as_str()) });
    }
    if lives.is_some_and(|lives| lives.is_zero()) {
        return Err(Problem::new(Code::InvalidRequest, "a token that expires at once allows nothing"));
    }
    let order = Order { name, scopes, expires_at: lives.map(|lives| now.plus(lives)), by };
    let (record, text) = token::make(order, now).map_err(|error| match error {
        MakeError::NoScope | MakeError::ManyScopes | MakeError::Name => {
            Problem::new(Code::InvalidRequest, error.to_string())
        }
        MakeError::Random(_) => Problem::new(Code::Internal, error.to_string()),
    })?;
    batch.replace(keys::token(record.token.id.as_str()), 0, &record)?;
    match core.state.commit(batch.guards, batch.writes).await.map_err(Fault::from)? {
        Committed::Done(revision) => core.access.tokens().put(record.clone(), revision),
        Committed::Refused { .. } => return Err(Problem::new(Code::Conflict, "another token has this id")),
    }
    told(core, "token_made", &record.token, &record.token.created_by);
    Ok((record.token, text))
}

/// Revokes a token: from the answer on it counts nowhere on this node.
///
/// # Errors
/// There is none such, or the state's.
pub(crate) async fn revoke(core: &Core, id: &str, by: &Who) -> Result<Token, Problem> {
    let shown: String = id.chars().take(80).collect();
    let nothing = || {
        Problem::new(Code::NotFound, format!("there is no token `{shown}`"))
            .with_hint("`minato token list` shows what there is")
    };
    let id: TokenId = id.parse().map_err(|_| nothing())?;
    let key = keys::token(id.as_str());
    loop {
        let (item, _) = core.state.get(&key).await.map_err(Fault::from)?;
        let item = item.ok_or_else(nothing)?;
        let mut record: Record = decode(&key, &item.value)?;
        if record.token.revoked_at.is_some() {
            return Ok(record.token);
        }
        record.token.revoked_at = Some(core.now());
        record.token.revoked_by = Some(by.to_string());
        let mut batch = Batch::default();
        batch.replace(key.clone(), item.modified, &record)?;
        if let Committed::Done(revision) =
            core.state.commit(batch.guards, batch.writes).await.map_err(Fault::from)?
        {
            core.access.tokens().put(record.clone(), revision);
            told(core, "token_revoked", &record.token, &by.to_string());
            return Ok(record.token);
        }
    }
}

fn told(core: &Core, kind: &str, token: &Token, by: &str) {
    let scopes: Vec<String> = token.scopes.iter().map(ToString::to_string).collect();
    let reason = format!("{} by {by}: {}", token.id, scopes.join(", "));
    let data = json!({ "token": token.id, "name": token.name, "scopes": scopes, "by": by });
    core.record(Event::new(core.now(), kind, reason).with_data(data));
}

/// Takes over every token that there is; the revision that they are of.
pub(crate) async fn load(core: &Core) -> Result<Revision, StateError> {
    let (items, revision) = list_all(&*core.state, keys::TOKENS).await?;
    let read = |item: minato_state::Item| match decode::<Record>(&item.key, &item.value) {
        Ok(record) => Some((record, item.modified)),
        Err(error) => {
            tracing::error!(key = item.key, %error, "a token can't be read: it counts no longer");
            None
        }
    };
    core.access.tokens().replace(items.into_iter().filter_map(read).collect(), revision);
    Ok(revision)
}

/// Follows what becomes of tokens, whoever changes them, until told to stop.
pub(crate) async fn follow(core: &Core, shutdown: &CancellationToken) {
    let followed = async {
        loop {
            let error = match load(core).await {
                Ok(revision) => watch(core, revision).await,
                Err(error) => error,
            };
            if matches!(error, StateError::Closed) {
                return;
            }
            tracing::warn!(%error, "tokens can't be followed; trying again");
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = followed => {}
        () = shutdown.cancelled() => {}
    }
}

async fn watch(core: &Core, revision: Revision) -> StateError {
    let mut watch = match core.state.watch(keys::TOKENS, revision + 1).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    loop {
        let changes = match watch.next().await {
            Ok(changes) => changes,
            Err(error) => return error,
        };
        for change in changes.changes {
            match change {
                Change::Put(item) => match decode::<Record>(&item.key, &item.value) {
                    Ok(record) => core.access.tokens().put(record, changes.revision),
                    Err(error) => tracing::error!(key = item.key, %error, "a token can't be read"),
                },
                Change::Delete { key } => {
                    if let Some(Ok(id)) = key.strip_prefix(keys::TOKENS).map(str::parse) {
                        core.access.tokens().remove(&id, changes.revision);
                    }
                }
            }
        }
    }
}

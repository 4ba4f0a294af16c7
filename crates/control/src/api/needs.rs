//! What an endpoint asks of whoever calls it, and what is noted of who was refused and who changed something.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, RawPathParams, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use minato_identity::token::{Bearer, Scope};
use minato_model::{
    code::{Code, Problem},
    event::Event,
    ids::AppName,
    time::Moment,
};
use serde_json::json;

use super::{Shared, answer::Failed};
use crate::core::Core;

/// As many refusals are noted in a second: who tries all passwords fills no journal.
const NOTED: u64 = 10;

/// What a token must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// To read.
    Read,
    /// To read, or to deploy the app of the path.
    ReadApp,
    /// To deploy: the app of the path, or those that the request is found to be about.
    Deploy,
    /// Everything.
    Admin,
}

impl Needs {
    /// As the description of the API says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::ReadApp => "read, or deploy:APP",
            Self::Deploy => "deploy:APP",
            Self::Admin => "admin",
        }
    }

    fn check(self, bearer: &Bearer, app: Option<&AppName>) -> Result<(), Problem> {
        let deploys = || app.is_some_and(|app| bearer.may_deploy(app));
        let may = match self {
            Self::Read => bearer.may_read(),
            Self::ReadApp => bearer.may_read() || deploys(),
            Self::Deploy if app.is_none() => bearer.may_deploy_some(),
            Self::Deploy => deploys(),
            Self::Admin => bearer.is_admin(),
        };
        let wanted = match (self, app) {
            (Self::Read | Self::ReadApp, _) => "read".to_owned(),
            (Self::Deploy, Some(app)) => Scope::Deploy(app.clone()).to_string(),
            (Self::Deploy, None) => "deploy:APP".to_owned(),
            (Self::Admin, _) => "admin".to_owned(),
        };
        if may { Ok(()) } else { Err(lacks(bearer, &wanted)) }
    }
}

/// The token doesn't allow it.
fn lacks(bearer: &Bearer, wanted: &str) -> Problem {
    Problem::new(Code::Denied, format!("the token {} doesn't allow this: it takes `{wanted}`", bearer.who()))
        .with_hint("whoever has an admin's token makes one: `minato token new --help`")
}

/// Whether every one of these apps may be deployed.
///
/// # Errors
/// `denied`, naming the first that may not.
pub(super) fn deploys<'a>(
    bearer: &Bearer,
    mut apps: impl Iterator<Item = &'a AppName>,
) -> Result<(), Problem> {
    match apps.find(|app| !bearer.may_deploy(app)) {
        Some(app) => Err(lacks(bearer, &Scope::Deploy(app.clone()).to_string())),
        None => Ok(()),
    }
}

/// Whether everything may be done.
///
/// # Errors
/// `denied`.
pub(super) fn is_admin(bearer: &Bearer) -> Result<(), Problem> {
    Needs::Admin.check(bearer, None)
}

/// How often it is looked whether the token of who follows something still counts.
const LOOK: Duration = Duration::from_secs(1);

/// Resolves when who follows something may no longer, or the server stops.
pub(super) fn over(core: &Arc<Core>, bearer: &Bearer) -> impl Future<Output = ()> + Send + use<> {
    let (core, who) = (Arc::clone(core), bearer.who().clone());
    async move {
        let ended = async {
            while core.access.tokens().again(&who).is_ok() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = core.closing.cancelled() => {}
        }
    }
}

/// Lets only those to an endpoint who may use it.
pub(super) async fn allowed(
    State(needs): State<Needs>,
    path: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let app = path.iter().find(|(name, _)| *name == "app").and_then(|(_, app)| app.parse().ok());
    match request.extensions().get::<Bearer>().map(|bearer| needs.check(bearer, app.as_ref())) {
        Some(Ok(())) => next.run(request).await,
        Some(Err(problem)) => Failed(problem).into_response(),
        None => Failed(Problem::new(Code::Unauthorized, "a token is needed")).into_response(),
    }
}

/// Lets only those through who may call the API, and notes who changes something and who is turned away.
pub(super) async fn guarded(State(core): Shared, mut request: Request, next: Next) -> Response {
    let authority = request.uri().authority().map(axum::http::uri::Authority::as_str);
    let checked = core.access.check(request.method(), authority, request.headers());
    // A plan changes nothing.
    let reads = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let writes = !reads && request.uri().path() != "/api/v1/plans";
    let what = format!("{} {}", request.method(), shown(request.uri().path()));
    let from = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(from)| from.ip());
    let (who, response) = match checked {
        Ok(bearer) => {
            let who = Some(bearer.who().to_string());
            request.extensions_mut().insert(bearer);
            (who, next.run(request).await)
        }
        Err((who, problem)) => (who, Failed(problem).into_response()),
    };
    let status = response.status().as_u16();
    let refused = matches!(status, 401 | 403);
    if (refused && core.refusals.takes(core.now())) || (writes && !refused) {
        let (kind, reason) = match refused {
            true => ("api_refused", format!("{what} was refused")),
            false => ("api_write", format!("{what} was asked")),
        };
        let from = from.map(|from| from.to_string());
        let data = json!({ "who": who, "from": from, "what": what, "status": status });
        core.record(Event::new(core.now(), kind, reason).with_data(data));
    }
    response
}

fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}

/// How many refusals were noted in which second.
#[derive(Debug, Default)]
pub(crate) struct Refusals(AtomicU64);

impl Refusals {
    /// Whether one more is noted.
    fn takes(&self, now: Moment) -> bool {
        // The second in the upper bits, the count in the lower.
        let second = u64::try_from(now.0 / 1_000).unwrap_or(0) << 16;
        let more = |noted: u64| {
            let count = if noted & !0xffff == second { noted & 0xffff } else { 0 };
            (count < NOTED).then_some(second | (count + 1))
        };
        self.0.fetch_update(Relaxed, Relaxed, more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_noted_in_part() {
        let refusals = Refusals::default();
        let noted = (0..50).filter(|_| refusals.takes(Moment(7_000))).count();
        assert_eq!(noted, 10);
        assert!(refusals.takes(Moment(8_000)), "another second");
    }
}

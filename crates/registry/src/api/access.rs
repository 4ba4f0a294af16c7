//! Who may do what under `/v2/`.
//!
//! The Bearer flow of the distribution world: a request without a token is answered 401 and told
//! where tickets are made; one is made there for whoever shows a token as a password, and, for pulling,
//! for anybody on loopback. A ticket says whose it is: what that token allows, and whether it still counts,
//! is looked up at each use. `Host` and `Origin` are checked first, so that no web page
//! reaches the registry through a browser on this machine.

mod host;
mod ticket;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json,
    extract::ConnectInfo,
    http::{HeaderMap, HeaderValue, Request, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use minato_identity::token::{Bearer, Refused, Tokens};
use serde_json::json;

use super::refusal::{ErrorCode, Refusal};
use host::Host;
use ticket::{Holder, LIFETIME, Tickets};

/// Who may use the registry.
#[derive(Clone)]
pub struct Access {
    /// Shown as a Basic password (any user name) or as a Bearer token, one allows what its scopes say.
    pub tokens: Arc<Tokens>,
    /// Whether anonymous callers on loopback may push, too.
    pub anonymous_push: bool,
    /// Names and addresses, without ports, by which this API may be called besides loopback's.
    pub hosts: Vec<String>,
    /// Whether it is asked by TLS.
    pub secure: bool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("anonymous_push", &self.anonymous_push)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted<'a> {
    /// To be known at all.
    Entry,
    /// To see every repository.
    List,
    /// To read a repository.
    Pull(&'a str),
    /// To write to a repository.
    Push(&'a str),
}

/// Who somebody is shown to be.
#[derive(Debug, Clone)]
pub(super) enum Caller {
    /// Somebody on loopback without a token.
    Anonymous {
        /// Whether such may push.
        push: bool,
    },
    /// Who has a token that counts.
    Bearer(Bearer),
}

impl Caller {
    pub(super) fn may(&self, wanted: Wanted<'_>) -> bool {
        match (self, wanted) {
            (Self::Anonymous { .. }, Wanted::Entry | Wanted::List | Wanted::Pull(_)) => true,
            (Self::Anonymous { push }, Wanted::Push(_)) => *push,
            (Self::Bearer(_), Wanted::Entry) => true,
            (Self::Bearer(bearer), Wanted::List) => bearer.may_read(),
            (Self::Bearer(bearer), Wanted::Pull(repository)) => bearer.may_pull(repository),
            (Self::Bearer(bearer), Wanted::Push(repository)) => bearer.may_push(repository),
        }
    }
}

impl Wanted<'_> {
    /// The scope of a token that allows it.
    fn scope(self) -> String {
        match self {
            Self::Entry | Self::List => "read".to_owned(),
            Self::Pull(repository) => format!("read` or `push:{repository}"),
            Self::Push(repository) => format!("push:{repository}"),
        }
    }
}

/// Decides for every request.
#[derive(Debug)]
pub(super) struct Guard {
    access: Access,
    tickets: Tickets,
}

impl Guard {
    pub(super) fn new(access: Access) -> Self {
        Self { access, tickets: Tickets::new() }
    }

    /// Checks by which name the API was called, and from which page.
    pub(super) fn check_host<B>(&self, request: &Request<B>) -> Result<Host, Refusal> {
        let host = Host::of(request)
            .ok_or_else(|| Refusal::bad(ErrorCode::Unsupported, "the request has no valid Host header"))?;
        if !host.is_loopback() && !self.access.hosts.iter().any(|name| host.is(name)) {
            let message = format!("this API is not called `{host}`: use 127.0.0.1 or a configured name");
            return Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message));
        }
        let own = |origin: &HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            authority.is_some_and(|authority| Host::parse(authority).as_ref() == Some(&host))
        };
        if request.headers().get_all(header::ORIGIN).iter().all(own) {
            return Ok(host);
        }
        let message = "pages of another origin may not use this API";
        Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message))
    }

    /// Who sent the request, if it may do `wanted`.
    pub(super) fn check_right(
        &self,
        headers: &HeaderMap,
        host: &Host,
        wanted: Wanted<'_>,
        scope: Option<&str>,
    ) -> Result<Caller, Refusal> {
        let shown = headers.get(header::AUTHORIZATION).map(|value| self.caller(value));
        let (message, error) = match shown {
            Some(Ok(caller)) if caller.may(wanted) => return Ok(caller),
            Some(Ok(Caller::Bearer(bearer))) => {
                let (who, scope) = (bearer.who(), wanted.scope());
                let message = format!("the token {who} doesn't allow this: it takes `{scope}`");
                return Err(Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message));
            }
            Some(Ok(Caller::Anonymous { .. })) => {
                let message = "to push, log in with a token as the password: `minato token new`, or the \
                               one in the data directory's file `token`";
                (message.to_owned(), ",error=\"insufficient_scope\"")
            }
            // What ended is said to whoever has it.
            Some(Err(refused)) if refused.id().is_some() => (refused.to_string(), ",error=\"invalid_token\""),
            Some(Err(_)) | None => ("get a token where WWW-Authenticate says".to_owned(), ""),
        };
        let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        let scheme = if self.access.secure { "https" } else { "http" };
        let challenge =
            format!("Bearer realm=\"{scheme}://{host}/v2/token\",service=\"minato\"{scope}{error}");
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message);
        Err(match HeaderValue::try_from(challenge) {
            Ok(challenge) => refusal.with(header::WWW_AUTHENTICATE, challenge),
            Err(_) => refusal,
        })
    }

    /// `GET /v2/token`: makes a ticket for whoever the caller is shown to be. It says who, not what: that is
    /// looked up whenever it is used.
    pub(super) fn make_ticket<B>(&self, request: &Request<B>) -> Result<Response, Refusal> {
        let holder = match request.headers().get(header::AUTHORIZATION) {
            // Whoever shows a password wants it to count: a wrong one is never taken for anonymous.
            Some(value) => match self.caller(value) {
                Ok(Caller::Bearer(bearer)) => Holder::Token(bearer.who().clone()),
                Ok(Caller::Anonymous { push }) => Holder::Anonymous { push },
                Err(refused) => return Err(Self::wrong_password(&refused)),
            },
            None if !is_from_loopback(request) => return Err(Self::wrong_password(&Refused::Unknown)),
            None => Holder::Anonymous { push: self.access.anonymous_push },
        };
        let ticket = self.tickets.make(&holder);
        let body = json!({ "token": ticket, "access_token": ticket, "expires_in": LIFETIME.as_secs() });
        Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
    }

    fn caller(&self, authorization: &HeaderValue) -> Result<Caller, Refused> {
        let text = authorization.to_str().map_err(|_| Refused::Unknown)?;
        let (scheme, value) = text.split_once(' ').ok_or(Refused::Unknown)?;
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return match self.tickets.holder(value) {
                Some(Holder::Anonymous { push }) => Ok(Caller::Anonymous { push }),
                Some(Holder::Token(who)) => self.access.tokens.again(&who).map(Caller::Bearer),
                None => self.access.tokens.check(value.as_bytes()).map(Caller::Bearer),
            };
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let password = decoded.as_deref().and_then(|text| text.split_once(':'));
            let (_, password) = password.ok_or(Refused::Unknown)?;
            return self.access.tokens.check(password.as_bytes()).map(Caller::Bearer);
        }
        Err(Refused::Unknown)
    }

    fn wrong_password(refused: &Refused) -> Refusal {
        let message = format!(
            "{refused}: log in with one as the password (any user name): `minato token new`, or the one in the \
             data directory's file `token`"
        );
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"minato\""))
    }
}

/// Whether the connection comes from this machine. Not known is no.
fn is_from_loopback<B>(request: &Request<B>) -> bool {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.is_some_and(|ConnectInfo(address)| address.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests;

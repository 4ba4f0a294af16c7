//! Who may do what under `/v2/`.
//!
//! The Bearer flow of the distribution world: a request without a token is answered 401 and told
//! where tokens are made; a token is made there for whoever shows the API token as a password, and,
//! for pulling, for anybody on loopback. `Host` and `Origin` are checked first, so that no web page
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
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::refusal::{ErrorCode, Refusal};
use host::Host;
use ticket::{LIFETIME, Tickets};

/// Who may use the registry.
#[derive(Clone)]
pub struct Access {
    /// Shown as a Basic password (any user name) or as a Bearer token, it allows everything.
    pub api_token: Arc<str>,
    /// Whether anonymous callers on loopback may push, too.
    pub anonymous_push: bool,
    /// Names and addresses, without ports, by which this API may be called besides loopback's.
    pub hosts: Vec<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access")
            .field("anonymous_push", &self.anonymous_push)
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

/// What somebody may do; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Nothing,
    Pull,
    Push,
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

    /// Lets the request pass if whoever sent it may do `wanted`.
    pub(super) fn check_right(
        &self,
        headers: &HeaderMap,
        host: &Host,
        wanted: Right,
        scope: Option<&str>,
    ) -> Result<(), Refusal> {
        let has = match headers.get(header::AUTHORIZATION) {
            None => Right::Nothing,
            Some(value) => self.right_of(value),
        };
        if has >= wanted {
            return Ok(());
        }
        let message = if has == Right::Pull {
            "to push, log in with the API token as the password: it is in the data directory's file `token`"
        } else {
            "get a token where WWW-Authenticate says"
        };
        let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
        let error = if has == Right::Nothing { "" } else { ",error=\"insufficient_scope\"" };
        let challenge = format!("Bearer realm=\"http://{host}/v2/token\",service=\"minato\"{scope}{error}");
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message);
        Err(match HeaderValue::try_from(challenge) {
            Ok(challenge) => refusal.with(header::WWW_AUTHENTICATE, challenge),
            Err(_) => refusal,
        })
    }

    /// `GET /v2/token`: makes a token for what the caller may do.
    pub(super) fn make_ticket<B>(&self, request: &Request<B>) -> Result<Response, Refusal> {
        let right = match request.headers().get(header::AUTHORIZATION) {
            // Whoever shows a password wants it to count: a wrong one is never taken for anonymous.
            Some(value) => match self.right_of(value) {
                Right::Nothing => return Err(Self::wrong_password()),
                right @ (Right::Pull | Right::Push) => right,
            },
            None if !is_from_loopback(request) => return Err(Self::wrong_password()),
            None if self.access.anonymous_push => Right::Push,
            None => Right::Pull,
        };
        let ticket = self.tickets.make(right);
        let body = json!({ "token": ticket, "access_token": ticket, "expires_in": LIFETIME.as_secs() });
        Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)).into_response())
    }

    fn right_of(&self, authorization: &HeaderValue) -> Right {
        let text = authorization.to_str().unwrap_or_default();
        let Some((scheme, value)) = text.split_once(' ') else { return Right::Nothing };
        let value = value.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return if self.is_api_token(value) { Right::Push } else { self.tickets.right_of(value) };
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(value).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let is_right = decoded
                .as_deref()
                .and_then(|text| text.split_once(':'))
                .is_some_and(|(_, password)| self.is_api_token(password));
            return if is_right { Right::Push } else { Right::Nothing };
        }
        Right::Nothing
    }

    fn is_api_token(&self, text: &str) -> bool {
        let token = self.access.api_token.as_bytes();
        !token.is_empty() && bool::from(text.as_bytes().ct_eq(token))
    }

    fn wrong_password() -> Refusal {
        let message = "log in with the API token as the password (any user name): \
                       it is in the data directory's file `token`";
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

//! Who may call the API. Loopback is no proof: other users of the machine reach it, and so do web
//! pages, by names that lead there (DNS rebinding).

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Method, header, uri::Authority};
use minato_identity::token::{Bearer, Refused, Tokens};
use minato_model::code::{Code, Problem};

/// What a caller is measured by.
pub(crate) struct Access {
    tokens: Arc<Tokens>,
    allowed_hosts: Vec<String>,
}

/// Who was turned away, where that is known, and why.
type TurnedAway = (Option<String>, Problem);

impl Access {
    pub(crate) fn new(tokens: Arc<Tokens>, allowed_hosts: Vec<String>) -> Self {
        let allowed_hosts = allowed_hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { tokens, allowed_hosts }
    }

    pub(crate) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Whether a request may be answered at all, and whose it is.
    ///
    /// # Errors
    /// `foreign_origin`, `unauthorized` (`token_expired`, `token_revoked`), `unsupported_media`, in this order.
    pub(crate) fn check(
        &self,
        method: &Method,
        authority: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Bearer, TurnedAway> {
        let nobody = |problem| (None, problem);
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).or(authority);
        self.check_host(host).map_err(nobody)?;
        check_origin(host, headers).map_err(nobody)?;
        let bearer = self.check_token(headers)?;
        match check_media(method, headers) {
            Ok(()) => Ok(bearer),
            Err(problem) => Err((Some(bearer.who().to_string()), problem)),
        }
    }

    fn check_host(&self, host: Option<&str>) -> Result<(), Problem> {
        let authority = host.and_then(|host| host.parse::<Authority>().ok());
        let name = authority.as_ref().map(|authority| authority.host().to_ascii_lowercase());
        let name = name.as_deref().map(|name| name.trim_start_matches('[').trim_end_matches(']'));
        let known = name.is_some_and(|name| {
            name == "localhost"
                || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
                || self.allowed_hosts.iter().any(|allowed| allowed == name)
        });
        if known {
            return Ok(());
        }
        let name = host.unwrap_or("no name");
        Err(Problem::new(Code::ForeignOrigin, format!("the API doesn't answer as {}", shown(name)))
            .with_hint("call it by 127.0.0.1 or localhost, or by the address that the server's `api` names"))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<Bearer, TurnedAway> {
        let given = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let given = given.and_then(|given| {
            let (scheme, token) = given.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
        });
        let Some(given) = given else {
            return Err((None, Problem::new(Code::Unauthorized, "a token is needed").with_hint(HINT)));
        };
        self.tokens.check(given).map_err(|refused| {
            let who = refused.id().map(ToString::to_string);
            let (code, hint) = match refused {
                Refused::Unknown => (Code::Unauthorized, HINT),
                Refused::Expired { .. } => (Code::TokenExpired, "ask an admin for another"),
                Refused::Revoked { .. } => (Code::TokenRevoked, "ask an admin for another"),
            };
            (who, Problem::new(code, refused.to_string()).with_hint(hint))
        })
    }
}

/// Where a token comes from.
const HINT: &str =
    "set MINATO_TOKEN to a token, or on the server's machine to what its data directory has in `token`";

/// A page may call only the server that it came from.
fn check_origin(host: Option<&str>, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or("one that isn't text");
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if authority.is_some_and(|authority| host.is_some_and(|host| host.eq_ignore_ascii_case(authority))) {
        return Ok(());
    }
    Err(Problem::new(Code::ForeignOrigin, format!("pages of {} may not call the API", shown(origin))))
}

/// A form of a foreign page can post, but never this type.
fn check_media(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let bodyless = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && !headers.contains_key(header::TRANSFER_ENCODING);
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if reads || (*method == Method::DELETE && bodyless) {
        return Ok(());
    }
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMedia, "a write needs `Content-Type: application/json`"))
}

/// What a caller sent, short enough for an answer.
fn shown(text: &str) -> String {
    format!("`{}`", text.chars().take(80).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, headers: &[(header::HeaderName, &str)]) -> Option<Code> {
        let tokens = Tokens::new("s3cret", Arc::new(|| minato_model::time::Moment(0)));
        let access = Access::new(Arc::new(tokens), vec!["Minato.Example".to_owned()]);
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect();
        access.check(&method, None, &headers).err().map(|(_, problem)| problem.code)
    }

    const TOKEN: (header::HeaderName, &str) = (header::AUTHORIZATION, "Bearer s3cret");

    #[test]
    fn names_of_loopback_and_configured_ones_are_answered() {
        for host in ["127.0.0.1:7070", "localhost", "[::1]:7070", "127.9.9.9", "minato.example:80"] {
            assert_eq!(check(Method::GET, &[(header::HOST, host), TOKEN]), None, "{host}");
        }
        for host in ["evil.example", "10.0.0.1", "localhost.evil.example", "a@b@c", ""] {
            assert_eq!(
                check(Method::GET, &[(header::HOST, host), TOKEN]),
                Some(Code::ForeignOrigin),
                "{host}"
            );
        }
        assert_eq!(check(Method::GET, &[TOKEN]), Some(Code::ForeignOrigin));
    }

    #[test]
    fn a_page_calls_only_where_it_came_from() {
        let host = (header::HOST, "localhost:7070");
        let ask = |origin| check(Method::GET, &[host.clone(), (header::ORIGIN, origin), TOKEN]);
        assert_eq!(ask("http://localhost:7070"), None);
        for origin in ["http://localhost:3000", "http://evil.example", "null", "localhost:7070"] {
            assert_eq!(ask(origin), Some(Code::ForeignOrigin), "{origin}");
        }
    }

    #[test]
    fn nothing_is_answered_without_the_token() {
        let host = (header::HOST, "localhost");
        assert_eq!(check(Method::GET, std::slice::from_ref(&host)), Some(Code::Unauthorized));
        for wrong in ["Bearer s3cre", "Bearer s3crett", "Bearer ", "Basic s3cret", "s3cret", "Bearer"] {
            let given = (header::AUTHORIZATION, wrong);
            assert_eq!(check(Method::GET, &[host.clone(), given]), Some(Code::Unauthorized), "{wrong}");
        }
    }

    #[test]
    fn a_write_is_json() {
        let ask = |method, media: &str| {
            check(method, &[(header::HOST, "localhost"), TOKEN, (header::CONTENT_TYPE, media)])
        };
        assert_eq!(ask(Method::POST, "application/json; charset=utf-8"), None);
        assert_eq!(ask(Method::POST, "text/plain"), Some(Code::UnsupportedMedia));
        assert_eq!(ask(Method::DELETE, "text/plain"), None);
        assert_eq!(check(Method::POST, &[(header::HOST, "localhost"), TOKEN]), Some(Code::UnsupportedMedia));
    }
}

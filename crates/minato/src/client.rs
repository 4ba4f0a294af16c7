//! The command line's way to the API: one connection a call, JSON both ways, lines for what follows.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use minato_model::code::{Code, Problem};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::failure::Failure;

/// The largest answer that is read whole, in bytes: a list of ten thousand instances is a tenth.
const ANSWER_MAX: usize = 64 << 20;
/// The longest line of a stream, in bytes: a log line is at most 16 KiB, escaped at most six times.
const LINE_MAX: usize = 256 << 10;
/// An API that doesn't accept in this time is not there.
const CONNECT: Duration = Duration::from_secs(5);

/// A way to one API.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
    host: String,
    token: Option<String>,
    /// How it is spoken to beyond loopback.
    tls: Option<Tls>,
}

/// By whom the API's certificate has to be, and for which name.
#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    /// By the roots in the file that `$MINATO_CA` names.
    fn find(host: &str) -> Result<Self, Failure> {
        let Some(path) = std::env::var_os("MINATO_CA").filter(|path| !path.is_empty()) else {
            return Err(Failure::Usage(
                "MINATO_CA names no file: an API by https is known by its cluster's roots, which \
                 `minato ca export` prints on the server's machine"
                    .to_owned(),
            ));
        };
        let path = std::path::PathBuf::from(path);
        let wrong = |why: String| Failure::Usage(format!("MINATO_CA is {}: {why}", path.display()));
        let bytes = bounded(&path).map_err(|error| wrong(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(&bytes) {
            let root = root.map_err(|error| wrong(error.to_string()))?;
            roots.add(root).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(wrong("it holds no certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name)
            .map_err(|_| Failure::Usage(format!("MINATO_API has `{host}`, which is no host's name")))?;
        Ok(Self { connector: Arc::new(config).into(), name })
    }
}

/// A file of roots; a bundle is some kilobytes.
fn bounded(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(path)?, MOST), &mut bytes)?;
    Ok(bytes)
}

impl Client {
    /// The API that `$MINATO_API` names, else this machine's, with the token of `$MINATO_TOKEN`,
    /// else the one that a server of this machine left for its user.
    pub(crate) fn find() -> Result<Self, Failure> {
        let url = std::env::var("MINATO_API").unwrap_or_else(|_| "http://127.0.0.1:7070".to_owned());
        let wrong = || {
            Failure::Usage(format!(
                "MINATO_API is `{url}`; write it as http://127.0.0.1:7070, or https://HOST:PORT beyond loopback"
            ))
        };
        let (host, secure) = api_host(&url).ok_or_else(wrong)?;
        let address = host.to_socket_addrs().ok().and_then(|mut found| found.next()).ok_or_else(|| {
            Failure::Unreachable(format!("MINATO_API is `{url}`, and `{host}` is found nowhere"))
        })?;
        let token = std::env::var("MINATO_TOKEN").ok().filter(|token| !token.is_empty());
        if !secure && !address.ip().is_loopback() {
            return Err(Failure::Usage(format!(
                "MINATO_API is `{url}`: beyond loopback a token goes by https only; write https://{host}"
            )));
        }
        let tls = if secure { Some(Tls::find(host)?) } else { None };
        let token = token.map_or_else(|| found_token(address), Some);
        Ok(Self { address, host: host.to_owned(), token, tls })
    }

    /// A way to an API that is known, for a process that started it.
    #[cfg_attr(not(feature = "demo"), expect(dead_code, reason = "only the demo starts a server"))]
    pub(crate) fn to(address: SocketAddr, token: String) -> Self {
        Self { address, host: address.to_string(), token: Some(token), tls: None }
    }

    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Opens a connection and sends a request, whose `Host` is the API's.
    pub(crate) async fn send<B>(&self, mut request: Request<B>) -> Result<Response<Incoming>, Failure>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let unreachable = |why: String| {
            Failure::Unreachable(format!(
                "the API at {} can't be reached: {why}; start it with `sudo minato server`, or set MINATO_API",
                self.address
            ))
        };
        let stream = tokio::time::timeout(CONNECT, TcpStream::connect(self.address))
            .await
            .map_err(|_| unreachable("no answer within 5 s".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))?;
        let mut sender = match &self.tls {
            None => converse(stream).await.map_err(|error| unreachable(error.to_string()))?,
            Some(Tls { connector, name }) => {
                let agreed = tokio::time::timeout(CONNECT, connector.connect(name.clone(), stream)).await;
                let agreed = agreed.map_err(|_| unreachable("no TLS within 5 s".to_owned()))?;
                let stream = agreed.map_err(|error| unreachable(error.to_string()))?;
                converse(stream).await.map_err(|error| unreachable(error.to_string()))?
            }
        };
        let host = header::HeaderValue::from_str(&self.host)
            .map_err(|_| Failure::Usage("MINATO_API holds what no host name can".to_owned()))?;
        request.headers_mut().insert(header::HOST, host);
        sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))
    }

    fn request(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::from(body))
            .map_err(|error| Failure::Usage(format!("this can't be sent to the API: {error}")))
    }

    /// Calls the API and reads its whole answer.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<T, Failure> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let response = self.send(self.request(method, path, body)?).await?;
        let status = response.status();
        let bytes = whole(response).await?;
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::Failed(anyhow::anyhow!("the API's answer to {path} isn't understood: {error}"))
        })
    }

    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, path, None).await
    }

    /// Begins to read lines.
    pub(crate) async fn lines(&self, path: &str) -> Result<Lines, Failure> {
        let response = self.send(self.request(Method::GET, path, Vec::new())?).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(refused(status, &whole(response).await?));
        }
        Ok(Lines { body: response.into_body(), buffer: Vec::new(), ended: false })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it ends with the connection, and its error reaches the request too"
)]
async fn converse<S, B>(stream: S) -> hyper::Result<hyper::client::conn::http1::SendRequest<B>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    drop(tokio::task::spawn(async move { drop(connection.await) }));
    Ok(sender)
}

/// The host and port of an API's address: `http://HOST:PORT`, or without what goes without saying; and whether
/// it is asked by TLS.
fn api_host(url: &str) -> Option<(&str, bool)> {
    let secure = url.strip_prefix("https://");
    let rest = secure.or_else(|| url.strip_prefix("http://")).unwrap_or(url).trim_end_matches('/');
    let (host, port) = rest.rsplit_once(':')?;
    let plain = !host.is_empty() && !host.contains(['/', '@', ' ']);
    (plain && port.parse::<u16>().is_ok()).then_some((rest, secure.is_some()))
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::Failed(anyhow::anyhow!("the API's answer broke off: {error}")))
}

/// What a refusal says, whoever made it.
pub(crate) fn refused(status: StatusCode, body: &[u8]) -> Failure {
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Problem,
    }
    let problem = serde_json::from_slice::<Answer>(body).map(|answer| answer.error);
    let problem = problem.or_else(|_| registry_said(status, body).ok_or(())).unwrap_or_else(|()| {
        let said: String = String::from_utf8_lossy(body).chars().take(400).collect();
        Problem::new(Code::Internal, format!("the API answered {status}: {said}"))
    });
    let hint = "set MINATO_TOKEN to what the server's data directory has in `token`";
    let hintless = problem.code == Code::Unauthorized && problem.hint.is_none();
    Failure::Refused(Box::new(if hintless { problem.with_hint(hint) } else { problem }))
}

/// What a registry says, in its own form (OCI distribution specification 1.1, "Error Codes").
fn registry_said(status: StatusCode, body: &[u8]) -> Option<Problem> {
    #[derive(serde::Deserialize)]
    struct Answer {
        errors: Vec<Said>,
    }
    #[derive(serde::Deserialize)]
    struct Said {
        message: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let message = &answer.errors.first()?.message;
    if status == StatusCode::UNAUTHORIZED {
        return Some(Problem::new(Code::Unauthorized, "the registry wants the right token"));
    }
    Some(Problem::new(Code::Internal, format!("the registry says no ({status}): {message}")))
}

/// The token that a server of this machine left for its user. It is used only towards loopback, and
/// only if what listens there belongs to root: whoever takes the port of a server that is gone
/// learns nothing.
fn found_token(address: SocketAddr) -> Option<String> {
    if !address.ip().is_loopback() || !matches!(minato_network::listener_owner(address), Ok(Some(0))) {
        return None;
    }
    let path = format!("/run/minato/{}.token", address.port());
    let token = std::fs::read_to_string(path).ok()?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// Lines of a stream that may never end.
#[derive(Debug)]
pub(crate) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    ended: bool,
}

impl Lines {
    /// The next line; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if text.is_empty() {
                    continue;
                }
                return Ok(Some(text));
            }
            if self.ended || self.buffer.len() > LINE_MAX {
                return Ok(None);
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => {
                    return Err(Failure::Failed(anyhow::anyhow!("the stream broke off: {error}")));
                }
            }
        }
    }
}

/// Escapes what may not stand in a query (RFC 3986, section 3.4).
pub(crate) fn query(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/@:".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_is_named_with_or_without_its_scheme() {
        for (url, host) in [
            ("http://127.0.0.1:7070", Some("127.0.0.1:7070")),
            ("http://localhost:7070/", Some("localhost:7070")),
            ("127.0.0.1:7070", Some("127.0.0.1:7070")),
            ("[::1]:7070", Some("[::1]:7070")),
            ("", None),
            ("127.0.0.1", None),
            (":7070", None),
            ("https://minato.example:7070", Some("minato.example:7070")),
            ("ftp://127.0.0.1:7070", None),
            ("http://127.0.0.1:7070/api", None),
            ("http://127.0.0.1:70700", None),
            ("http://me@127.0.0.1:7070", None),
        ] {
            assert_eq!(api_host(url), host.map(|host| (host, url.starts_with("https:"))), "{url}");
        }
    }

    #[test]
    fn a_query_holds_what_it_may() {
        assert_eq!(query("shop/web@2"), "shop/web@2");
        assert_eq!(query("a b&c=d#e%"), "a%20b%26c%3Dd%23e%25");
        assert_eq!(query("\u{6e2f}+"), "%E6%B8%AF%2B");
        assert_eq!(query(""), "");
    }

    #[test]
    fn a_refusal_is_read_in_every_form() {
        let read = |status: u16, body: &str| {
            let Failure::Refused(problem) = refused(StatusCode::from_u16(status).unwrap(), body.as_bytes())
            else {
                unreachable!("a refusal is refused")
            };
            (problem.code, problem.message, problem.hint.unwrap_or_default())
        };
        let own = r#"{"error":{"code":"not_found","message":"there is no app `x`","hint":"look"}}"#;
        assert_eq!(read(404, own), (Code::NotFound, "there is no app `x`".into(), "look".into()));
        let (code, message, hint) = read(401, r#"{"errors":[{"code":"UNAUTHORIZED","message":"log in"}]}"#);
        assert_eq!((code, message.as_str()), (Code::Unauthorized, "the registry wants the right token"));
        assert!(hint.contains("MINATO_TOKEN"));
        let (_, message, _) =
            read(400, r#"{"errors":[{"code":"DIGEST_INVALID","message":"it is another"}]}"#);
        assert_eq!(message, "the registry says no (400 Bad Request): it is another");
        let (_, message, _) = read(502, "<html>");
        assert_eq!(message, "the API answered 502 Bad Gateway: <html>");
    }
}

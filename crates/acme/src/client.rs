//! The way to the authority: HTTPS alone, one connection a request, every answer bounded in time and size.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

/// An answer to anything that is asked comes in this time, or never.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The largest answer; a chain of certificates has some KiB.
const ANSWER_MAX: usize = 256 << 10;
/// The longest that an authority may tell to wait while an order is on its way.
const WAIT_MAX: u64 = 600;

/// Why there is no way to an authority.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There are no roots by which it could be known.
    #[error("there are no roots by which the directory could be known")]
    NoRoots,
    /// They aren't understood.
    #[error("the roots by which the directory is known can't be used")]
    Tls(#[from] rustls::Error),
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("`{0}` isn't https")]
    NotHttps(String),
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    TooSlow,
    #[error("{0} can't be reached")]
    Unreachable(String, #[source] std::io::Error),
    #[error("the answer broke off, or was longer than {ANSWER_MAX} bytes")]
    Body,
}

/// The way to the authority.
#[derive(Clone)]
pub(crate) struct Client {
    tls: TlsConnector,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    pub(crate) fn new(roots: &[CertificateDer<'static>]) -> Result<Self, ClientError> {
        let mut store = RootCertStore::empty();
        // A system's bundle may have one that isn't understood.
        let (taken, _) = store.add_parsable_certificates(roots.iter().cloned());
        if taken == 0 {
            return Err(ClientError::NoRoots);
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn answer(self, request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Error> {
        let other = |failed: Failed| Error::Other(Box::new(failed));
        match timeout(ANSWER_WITHIN, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(other(Failed::TooSlow)),
        }
    }

    async fn exchange(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Error> {
        let other = |failed: Failed| Error::Other(Box::new(failed));
        let uri = request.uri().clone();
        let not_https = || other(Failed::NotHttps(uri.to_string().chars().take(200).collect()));
        let authority =
            uri.authority().filter(|_| uri.scheme_str() == Some("https")).ok_or_else(not_https)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let unreachable = |error| other(Failed::Unreachable(authority.to_string(), error));
        let port = authority.port_u16().unwrap_or(443);
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(unreachable)?;
        let name = ServerName::try_from(host).map_err(|_| not_https())?;
        let stream = self.tls.connect(name, stream).await.map_err(unreachable)?;
        let wrong = |error: hyper::Error| Error::Other(Box::new(error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
        let value = http::HeaderValue::from_str(authority.as_str()).map_err(|_| not_https())?;
        request.headers_mut().insert(header::HOST, value);
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        *request.uri_mut() = path.parse()?;
        let answered = async {
            let (mut parts, body) = sender.send_request(request).await.map_err(wrong)?.into_parts();
            bound_wait(&mut parts.headers);
            let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|_| other(Failed::Body))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        // The connection is driven for as long as its one answer takes, and dropped with it.
        tokio::pin!(answered, connection);
        tokio::select! {
            biased;
            answer = &mut answered => answer,
            _ = connection => answered.await,
        }
    }
}

/// Takes away what would have an order wait for longer than it may take.
fn bound_wait(headers: &mut http::HeaderMap) {
    const RETRY_AFTER: HeaderName = header::RETRY_AFTER;
    let seconds =
        headers.get(RETRY_AFTER).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    if seconds.is_some_and(|seconds: Option<u64>| seconds.is_none_or(|seconds| seconds > WAIT_MAX)) {
        headers.remove(RETRY_AFTER);
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let answer = self.clone().answer(request);
        Box::pin(async move {
            let (parts, body) = answer.await?.into_parts();
            Ok(BytesResponse { parts, body: Box::new(body) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_to_wait_for_ever() {
        for (value, stays) in [
            ("5", true),
            ("600", true),
            ("601", false),
            ("99999999999999999999999", false),
            ("Fri, 31 Dec 9999 23:59:59 GMT", false),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert(header::RETRY_AFTER, value.parse().unwrap());
            bound_wait(&mut headers);
            assert_eq!(headers.contains_key(header::RETRY_AFTER), stays, "{value}");
        }
    }

    #[tokio::test]
    async fn only_https_is_spoken() {
        let made = rcgen::generate_simple_self_signed(["a.b".to_owned()]).unwrap();
        let client = Client::new(&[made.cert.der().clone()]).unwrap();
        for uri in ["http://127.0.0.1/directory", "/directory", "ftp://127.0.0.1/a"] {
            let request = Request::get(uri).body(BodyWrapper::default()).unwrap();
            let error = client.clone().answer(request).await.unwrap_err();
            assert!(error.to_string().contains("isn't https"), "{error}");
        }
        assert!(matches!(Client::new(&[]), Err(ClientError::NoRoots)));
    }
}

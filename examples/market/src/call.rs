//! Calling another service by its name: one request, JSON both ways.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// How long a call may take, a start from nothing included.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It took too long.
    #[error("{0} didn't answer in time")]
    Late(String),
    /// It couldn't be spoken to.
    #[error("{service} can't be reached: {why}")]
    Unreachable {
        /// Whom.
        service: String,
        /// Why.
        why: String,
    },
    /// It said no.
    #[error("{service} answered {status}")]
    Refused {
        /// Who.
        service: String,
        /// What.
        status: StatusCode,
    },
}

/// Asks a service of this app; `None`: it has no such thing.
pub(crate) async fn get<T: DeserializeOwned>(service: &str, path: &str) -> Result<Option<T>, CallError> {
    send(service, Method::GET, path, Vec::new()).await
}

/// Gives a service of this app something.
pub(crate) async fn post<T: DeserializeOwned>(
    service: &str,
    path: &str,
    body: &serde_json::Value,
) -> Result<Option<T>, CallError> {
    send(service, Method::POST, path, body.to_string().into_bytes()).await
}

async fn send<T: DeserializeOwned>(
    service: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<Option<T>, CallError> {
    let app = std::env::var("MINATO_APP").unwrap_or_else(|_| "market".to_owned());
    let host = format!("{service}.{app}.internal");
    let exchange = exchange(&host, method, path, body);
    let (status, bytes) = match tokio::time::timeout(PATIENCE, exchange).await {
        Err(_) => return Err(CallError::Late(service.to_owned())),
        Ok(Err(error)) => {
            return Err(CallError::Unreachable { service: service.to_owned(), why: error.to_string() });
        }
        Ok(Ok(answer)) => answer,
    };
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !status.is_success() {
        return Err(CallError::Refused { service: service.to_owned(), status });
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| CallError::Unreachable { service: service.to_owned(), why: error.to_string() })
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[expect(
    clippy::disallowed_methods,
    reason = "it ends with the connection, and its error reaches the request too"
)]
async fn exchange(
    host: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, Bytes), AnyError> {
    let stream = TcpStream::connect((host, 80)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    drop(tokio::task::spawn(async move { drop(connection.await) }));
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let bytes = Limited::new(response.into_body(), ANSWER_MAX).collect().await?.to_bytes();
    Ok((status, bytes))
}

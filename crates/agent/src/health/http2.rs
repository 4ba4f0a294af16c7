//! A health check in HTTP/2, for instances that speak nothing else: a `GET` whose answer is 200, or a
//! call of gRPC without arguments whose outcome is OK.

use std::io;

use bytes::Bytes;
use h2::{RecvStream, client::ResponseFuture};
use http::{Request, StatusCode, Version, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::CheckError;

/// A message of gRPC without content: not compressed, and no byte long.
const EMPTY: [u8; 5] = [0; 5];
/// What gRPC's own health service answers when it is well: `status = SERVING`.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];
pub(super) const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// No more of an answer is looked at.
const BODY_MAX: usize = 16 * 1024;

/// Asks once; `call`: by gRPC.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    (scheme, authority): (&str, &str),
    path: &str,
    call: bool,
) -> Result<(), CheckError> {
    let (mut send, connection) = h2::client::handshake(stream).await.map_err(failed)?;
    let uri = format!("{scheme}://{authority}{path}");
    let mut request =
        Request::builder().uri(uri).version(Version::HTTP_2).header("user-agent", "minato-health");
    if call {
        request = request
            .method("POST")
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers");
    }
    let request = request.body(()).map_err(io::Error::other)?;
    let (response, mut body) = send.send_request(request, !call).map_err(failed)?;
    if call {
        body.send_data(Bytes::from_static(&EMPTY), true).map_err(failed)?;
    }
    let judged = async { if call { call_is_well(response, path).await } else { is_well(response).await } };
    tokio::select! {
        judged = judged => judged,
        // It moves what the other reads, and ends only with an error.
        ended = connection => Err(ended.err().map_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into(), failed)),
    }
}

fn failed(error: h2::Error) -> CheckError {
    if error.is_io() {
        CheckError::Io(io::Error::other(error))
    } else {
        CheckError::Answer(error.to_string())
    }
}

async fn is_well(response: ResponseFuture) -> Result<(), CheckError> {
    let status = response.await.map_err(failed)?.status();
    if status == StatusCode::OK { Ok(()) } else { Err(CheckError::Answer(status.to_string())) }
}

async fn call_is_well(response: ResponseFuture, path: &str) -> Result<(), CheckError> {
    let (head, mut body) = response.await.map_err(failed)?.into_parts();
    if head.status != StatusCode::OK {
        return Err(CheckError::Answer(head.status.to_string()));
    }
    let message = read(&mut body).await?;
    let trailers = body.trailers().await.map_err(failed)?.unwrap_or(head.headers);
    let outcome = trailers.get("grpc-status").and_then(|status| status.to_str().ok()).unwrap_or("none");
    if outcome != "0" {
        return Err(CheckError::Answer(format!("grpc-status {outcome}")));
    }
    if path == HEALTH && message != SERVING {
        return Err(CheckError::Answer("not serving".to_owned()));
    }
    Ok(())
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, CheckError> {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        // The stream may be over, and nobody wait for room in it.
        drop(body.flow_control().release_capacity(data.len()));
        all.extend_from_slice(&data);
        if all.len() > BODY_MAX {
            return Err(CheckError::Answer(format!("more than {BODY_MAX} bytes")));
        }
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use http::{HeaderMap, Response};
    use minato_model::manifest::{Health, Protocol};
    use tokio::net::TcpListener;

    use super::{super::Speech, *};

    /// A server that answers one request so.
    async fn check(
        (protocol, path): (Protocol, &str),
        status: u16,
        body: &'static [u8],
        outcome: Option<&'static str>,
    ) -> Result<(), String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let head = Response::builder().status(status).body(()).unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(Bytes::from_static(body), outcome.is_none()).unwrap();
            if let Some(outcome) = outcome {
                let trailers =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), outcome.parse().unwrap())]);
                stream.send_trailers(trailers).unwrap();
            }
            drop(connection.accept().await);
            request.method().to_string()
        });
        let health = Health { path: path.to_owned(), every: Duration::from_secs(2) };
        let result = super::super::ask((Ipv4Addr::LOCALHOST, port), &Speech::Plain(protocol), &health).await;
        let method = served.await.unwrap();
        assert_eq!(method, if protocol == Protocol::Grpc { "POST" } else { "GET" });
        result.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn two_hundred_is_well_in_http2_too() {
        let path = (Protocol::H2c, "/healthz");
        assert_eq!(check(path, 200, b"well", None).await, Ok(()));
        assert!(check(path, 503, b"", None).await.unwrap_err().contains("503"));
    }

    #[tokio::test]
    async fn a_call_is_well_if_its_outcome_is() {
        let own = (Protocol::Grpc, "/test.Echo/Health");
        assert_eq!(check(own, 200, &EMPTY, Some("0")).await, Ok(()));
        assert!(check(own, 200, b"", Some("14")).await.unwrap_err().contains("grpc-status 14"));
        let health = (Protocol::Grpc, HEALTH);
        assert_eq!(check(health, 200, &SERVING, Some("0")).await, Ok(()));
        assert!(
            check(health, 200, &[0, 0, 0, 0, 2, 8, 2], Some("0")).await.unwrap_err().contains("not serving")
        );
    }
}

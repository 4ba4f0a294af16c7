//! A health check over TLS: of that very instance, in the version of HTTP that it chooses.

use std::{io, sync::Arc};

use minato_identity::client::{Distrust, Terms};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{CheckError, http2};

/// Asks once; gRPC's own health service by a call.
pub(super) async fn exchange(
    stream: TcpStream,
    terms: &Terms,
    host: &str,
    path: &str,
) -> Result<(), CheckError> {
    let connector = TlsConnector::from(Arc::clone(&terms.config));
    let stream = connector.connect(terms.name.clone(), stream).await.map_err(distrusted)?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        return http2::exchange(stream, ("https", host), path, path == http2::HEALTH).await;
    }
    match super::exchange(stream, host, path).await {
        // In TLS 1.3 it is said only now what became of the node's own certificate.
        Err(CheckError::Io(error)) => Err(distrusted(error)),
        asked => asked,
    }
}

fn distrusted(error: io::Error) -> CheckError {
    match Distrust::in_handshake(&error) {
        Some(distrust) => CheckError::Distrusted(distrust),
        None => CheckError::Io(error),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use minato_identity::{Authority, Holder, Lifetimes, client::Client};
    use minato_model::{manifest::Health, time::Moment};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };
    use tokio_rustls::{
        TlsAcceptor,
        rustls::{HandshakeKind, ServerConfig, crypto::aws_lc_rs},
    };

    use super::{super::Speech, *};

    fn now() -> Moment {
        Moment(i64::try_from(rustls_pki_types::UnixTime::now().as_secs()).unwrap() * 1_000)
    }

    fn config(authority: &Authority, name: &str, speaks: &[u8]) -> ServerConfig {
        let (service, instance) = ("shop/web".parse().unwrap(), name.parse().unwrap());
        let who = Holder { service: &service, instance: &instance, address: Ipv4Addr::LOCALHOST };
        let issued = authority.instance(&who, Duration::from_secs(60), authority.key().unwrap()).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(issued.chain, issued.key)
            .unwrap();
        config.alpn_protocols = vec![speaks.to_vec()];
        config
    }

    /// Asks an instance twice that is `name` and should be `one`; what came of it and how each session began.
    async fn check(
        name: &str,
        speaks: &'static [u8],
    ) -> (Vec<Result<(), String>>, Vec<Option<HandshakeKind>>) {
        let directory = tempfile::tempdir().unwrap();
        let node = "one".parse().unwrap();
        let authority =
            Authority::open(directory.path(), &node, Lifetimes::default(), Arc::new(now)).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(&authority, name, speaks)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let mut kinds = Vec::new();
            for _ in 0..2 {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                kinds.push(stream.get_ref().1.handshake_kind());
                if speaks == b"h2" {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                    assert_eq!(request.uri().scheme_str(), Some("https"));
                    respond.send_response(http::Response::new(()), true).unwrap();
                    drop(connection.accept().await);
                } else {
                    assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
                    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    drop(stream.shutdown().await);
                }
            }
            kinds
        });
        let client = Client::new(authority);
        let terms = client.terms(&"shop/web".parse().unwrap(), &"one".parse().unwrap(), None).unwrap();
        let health = Health { path: "/healthz".to_owned(), every: Duration::from_secs(2) };
        let speech = Speech::Secured(terms);
        let mut asked = Vec::new();
        for _ in 0..2 {
            let result = super::super::ask((Ipv4Addr::LOCALHOST, port), &speech, &health).await;
            asked.push(result.map_err(|error| error.to_string()));
        }
        (asked, served.await.unwrap())
    }

    #[tokio::test]
    async fn an_instance_is_asked_in_its_own_version_and_its_session_goes_on() {
        for speaks in [&b"http/1.1"[..], b"h2"] {
            let (asked, kinds) = check("one", speaks).await;
            assert_eq!(asked, [Ok(()), Ok(())]);
            assert_eq!(kinds[0], Some(HandshakeKind::Full));
            assert_eq!(kinds.len(), 2);
        }
    }

    #[tokio::test]
    async fn another_instance_is_not_well() {
        let (asked, kinds) = check("two", b"http/1.1").await;
        for asked in asked {
            let error = asked.unwrap_err();
            assert!(error.contains("not trusted") && error.contains("/instance/two"), "{error}");
        }
        assert!(kinds.is_empty());
    }
}

//! A registry on loopback, and a plain client for it.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::{net::SocketAddr, path::Path, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use minato_identity::Tokens;
use minato_image::digest;
use minato_model::digest::Digest;
use minato_registry::{Access, Library, Limits, router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

pub(crate) const TOKEN: &str = "the-api-token-of-this-test";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A running registry in a directory of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) library: Arc<Library>,
    pub(crate) folder: TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Limits::default(), false).await
    }

    pub(crate) async fn with(limits: Limits, anonymous_push: bool) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), limits, anonymous_push).await
    }

    pub(crate) async fn in_folder(folder: TempDir, limits: Limits, anonymous_push: bool) -> Self {
        let library = Library::open(&folder.path().join("registry"), limits).unwrap();
        let (address, task) = serve(Arc::clone(&library), anonymous_push).await;
        Self { address, library, folder, task }
    }

    /// Ends the server as a crash would, and starts another one on what it left.
    pub(crate) async fn restart(self) -> Self {
        self.task.abort();
        drop(self.task.await);
        drop(self.library);
        let library = Library::open(&self.folder.path().join("registry"), Limits::default()).unwrap();
        let (address, task) = serve(Arc::clone(&library), false).await;
        Self { address, library, folder: self.folder, task }
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("registry")
    }

    /// Sends a request with the API token.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let authorization = format!("Bearer {TOKEN}");
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend_from_slice(fields);
        self.send_plain(method, path, &all, body).await
    }

    /// Sends a request with nothing added but `Host`.
    pub(crate) async fn send_plain(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::new(body.into());
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        *request.uri_mut() = path.parse().unwrap();
        request.headers_mut().insert("host", self.address.to_string().parse().unwrap());
        for (name, value) in fields {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        driver.abort();
        Answer { status: head.status, headers: head.headers, bytes }
    }

    /// Pushes a blob by one POST.
    pub(crate) async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = digest::of(content);
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        self.send("POST", &path, &[], content.to_vec()).await.check(201);
        digest
    }

    /// Begins an upload; gives its path.
    pub(crate) async fn begin(&self, repository: &str) -> String {
        let begun = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], Body::empty()).await;
        begun.check(202);
        begun.header("location").to_owned()
    }

    pub(crate) async fn put_manifest(&self, repository: &str, name: &str, manifest: &Value) -> Answer {
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        let path = format!("/v2/{repository}/manifests/{name}");
        self.send("PUT", &path, &[("content-type", &media_type)], manifest.to_string()).await
    }

    /// Pushes an image with one layer; gives its manifest.
    pub(crate) async fn push_image(&self, repository: &str, tag: &str, config: &Value) -> Value {
        let manifest = self.image(repository, config).await;
        self.put_manifest(repository, tag, &manifest).await.check(201);
        manifest
    }

    /// Pushes an image's blobs; gives its manifest.
    pub(crate) async fn image(&self, repository: &str, config: &Value) -> Value {
        let layer = b"a layer, as far as a registry can tell";
        let config = config.to_string();
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": self.push_blob(repository, config.as_bytes()).await,
                "size": config.len(),
            },
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": self.push_blob(repository, layer).await,
                "size": layer.len(),
            }],
        })
    }
}

async fn serve(library: Arc<Library>, anonymous_push: bool) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let tokens = Arc::new(Tokens::new(TOKEN, Arc::new(|| minato_model::time::Moment(0))));
    let access = Access { tokens, anonymous_push, hosts: vec!["registry.test".to_owned()], secure: false };
    let service = router(library, access).into_make_service_with_connect_info::<SocketAddr>();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (address, tokio::spawn(async move { axum::serve(listener, service).await.unwrap() }))
}

/// An answer, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Bytes,
}

impl Answer {
    pub(crate) fn check(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self
    }

    /// A refusal with this status and code.
    pub(crate) fn refused(&self, status: u16, code: &str) -> &Self {
        self.check(status);
        assert_eq!(self.json()["errors"][0]["code"], code, "{self:?}");
        assert_ne!(self.json()["errors"][0]["message"], "", "{self:?}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }
}

/// The files below a directory, by their paths within it.
pub(crate) fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_path_buf()];
    while let Some(at) = ahead.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ahead.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

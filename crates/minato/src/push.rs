//! Pushing an image to the cluster's registry (OCI distribution specification 1.1, "Pushing"): what
//! is there already is not sent.

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use indicatif::{ProgressBar, ProgressStyle};
use minato_image::pack::{Blob, Packed};
use minato_model::{digest::Digest, reference::ImageReference};
use std::{io::Read as _, sync::Arc};

use crate::{
    client::{Client, refused},
    failure::Failure,
    show,
};

/// How much of a blob is read at once, in bytes.
const CHUNK: usize = 256 << 10;
/// The largest answer of a registry that is read, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// What was pushed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pushed {
    /// All of the image, in bytes.
    pub(crate) bytes: u64,
    /// What had to be sent.
    pub(crate) sent: u64,
}

/// Pushes an image under a tag.
pub(crate) async fn image(
    client: &Client,
    reference: &ImageReference,
    packed: &Arc<Packed>,
) -> Result<Pushed, Failure> {
    let repository = &reference.repository;
    let registry = Registry { client, repository, token: token(client, repository).await? };
    let bytes = packed.blobs().map(|blob| blob.size).sum();
    let bar = bar(bytes);
    let mut sent = 0;
    for blob in packed.blobs() {
        if registry.has(&blob.digest).await? {
            bar.inc(blob.size);
            continue;
        }
        if registry.upload(packed, blob, &bar).await? {
            sent += blob.size;
        } else {
            bar.inc(blob.size);
        }
    }
    let tag = reference.tag.as_deref().unwrap_or("latest");
    registry.manifest(tag, packed).await?;
    bar.finish_and_clear();
    Ok(Pushed { bytes, sent })
}

fn bar(bytes: u64) -> ProgressBar {
    if !show::is_interactive() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("pushing {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
    ProgressBar::new(bytes).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A token for pushing to a repository, by the Bearer flow that the registry speaks.
async fn token(client: &Client, repository: &str) -> Result<String, Failure> {
    #[derive(serde::Deserialize)]
    struct Answer {
        token: String,
    }
    let path = format!("/v2/token?service=minato&scope=repository:{repository}:pull,push");
    let mut request = Request::get(path);
    if let Some(token) = client.token() {
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("minato:{token}"));
        request = request.header(header::AUTHORIZATION, format!("Basic {basic}"));
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| Failure::Failed(error.into()))?;
    let response = client.send(request).await?;
    let (status, bytes) = read(response).await?;
    if !status.is_success() {
        return Err(refused(status, &bytes));
    }
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|error| Failure::Failed(error.into()))?;
    Ok(answer.token)
}

async fn read(response: Response<Incoming>) -> Result<(StatusCode, Bytes), Failure> {
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body =
        body.map_err(|error| Failure::Failed(anyhow::anyhow!("the registry's answer broke off: {error}")))?;
    Ok((status, body.to_bytes()))
}

/// One repository of the registry, and the right to push to it.
struct Registry<'a> {
    client: &'a Client,
    repository: &'a str,
    token: String,
}

impl Registry<'_> {
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
    }

    async fn empty(&self, method: Method, path: &str) -> Result<Response<Incoming>, Failure> {
        let request = self.request(method, path).body(Full::<Bytes>::default());
        self.client.send(request.map_err(|error| Failure::Failed(error.into()))?).await
    }

    async fn has(&self, digest: &Digest) -> Result<bool, Failure> {
        let response = self.empty(Method::HEAD, &format!("/v2/{}/blobs/{digest}", self.repository)).await?;
        Ok(response.status() == StatusCode::OK)
    }

    /// Puts a blob into the repository; `false` if another repository had it, so that nothing was sent.
    async fn upload(&self, packed: &Arc<Packed>, blob: &Blob, bar: &ProgressBar) -> Result<bool, Failure> {
        let path = format!("/v2/{}/blobs/uploads/?mount={}", self.repository, blob.digest);
        let response = self.empty(Method::POST, &path).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(false);
        }
        let place = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        let Some(place) = place.map(str::to_owned) else {
            let (status, bytes) = read(response).await?;
            return Err(refused(status, &bytes));
        };
        let path =
            place.parse::<http::Uri>().ok().and_then(|uri| Some(uri.path_and_query()?.as_str().to_owned()));
        let path = path.unwrap_or(place);
        let join = if path.contains('?') { '&' } else { '?' };
        let request = self
            .request(Method::PUT, &format!("{path}{join}digest={}", blob.digest))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, blob.size)
            .body(stream(packed.clone(), blob.digest.clone(), bar.clone()));
        let response = self.client.send(request.map_err(|error| Failure::Failed(error.into()))?).await?;
        let (status, bytes) = read(response).await?;
        if status == StatusCode::CREATED { Ok(true) } else { Err(refused(status, &bytes)) }
    }

    async fn manifest(&self, tag: &str, packed: &Packed) -> Result<(), Failure> {
        let request = self
            .request(Method::PUT, &format!("/v2/{}/manifests/{tag}", self.repository))
            .header(header::CONTENT_TYPE, minato_image::manifest::media::OCI_MANIFEST)
            .body(Full::<Bytes>::from(packed.manifest.clone()));
        let response = self.client.send(request.map_err(|error| Failure::Failed(error.into()))?).await?;
        let (status, bytes) = read(response).await?;
        if status == StatusCode::CREATED { Ok(()) } else { Err(refused(status, &bytes)) }
    }
}

type BlobBody =
    StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = std::io::Result<Frame<Bytes>>> + Send>>>;

/// A blob as a body, read on a thread of its own as it is sent.
fn stream(packed: Arc<Packed>, digest: Digest, bar: ProgressBar) -> BlobBody {
    // Four chunks ahead of the wire: a mebibyte.
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = read_blob(&packed, &digest, &bar, &sender) {
            // Whoever reads has gone where it can't be told.
            drop(sender.blocking_send(Err(error)));
        }
    }));
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk.map(Frame::data), receiver))
    });
    StreamBody::new(Box::pin(frames))
}

fn read_blob(
    packed: &Packed,
    digest: &Digest,
    bar: &ProgressBar,
    sender: &tokio::sync::mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let Some(blob) = packed.blobs().find(|blob| blob.digest == *digest) else { return Ok(()) };
    let mut reader = blob.open()?;
    loop {
        let mut chunk = vec![0; CHUNK];
        let length = reader.read(&mut chunk)?;
        chunk.truncate(length);
        if length == 0 || sender.blocking_send(Ok(Bytes::from(chunk))).is_err() {
            return Ok(());
        }
        bar.inc(u64::try_from(length).unwrap_or(0));
    }
}

//! The OCI distribution API, version 1.1, under `/v2/`.
//!
//! A request goes one way: `Host` and `Origin`, its place, the caller's right, the method. What is
//! refused is refused with one of the specification's codes; only a failing disk is a 5xx.

mod access;
mod blobs;
mod lists;
mod manifests;
mod place;
mod refusal;
mod uploads;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode},
    response::{IntoResponse as _, Response},
    routing::{any, get},
};

use crate::library::Library;
pub use access::Access;
use access::{Guard, Wanted};
use place::{Place, Reference, Thing};
use refusal::{ErrorCode, Refusal};

const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// The registry's routes. To tell callers on loopback, the server must give connections'
/// [`ConnectInfo`](axum::extract::ConnectInfo) with their `SocketAddr`; without it nobody is anonymous.
pub fn router(library: Arc<Library>, access: Access) -> Router {
    let registry = Registry { library, guard: Arc::new(Guard::new(access)) };
    Router::new()
        .route("/v2", any(ping))
        .route("/v2/", any(ping))
        .route("/v2/token", get(token))
        .route("/v2/{*path}", any(serve))
        .with_state(registry)
}

#[derive(Debug, Clone)]
struct Registry {
    library: Arc<Library>,
    guard: Arc<Guard>,
}

/// A request's query, in order.
#[derive(Debug)]
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

async fn ping(State(registry): State<Registry>, request: Request<Body>) -> Response {
    let guard = &registry.guard;
    let answer = guard
        .check_host(&request)
        .and_then(|host| guard.check_right(request.headers(), &host, Wanted::Entry, None))
        .map(|_| axum::Json(serde_json::json!({})).into_response());
    finish(answer)
}

async fn token(State(registry): State<Registry>, request: Request<Body>) -> Response {
    let guard = &registry.guard;
    finish(guard.check_host(&request).and_then(|_| guard.make_ticket(&request)))
}

async fn serve(
    State(registry): State<Registry>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
    request: Request<Body>,
) -> Response {
    let parsed = match (path, query) {
        (Ok(Path(path)), Ok(Query(query))) => Ok((path, Parameters(query))),
        _ => Err(Refusal::bad(ErrorCode::Unsupported, "the path or the query is no UTF-8")),
    };
    finish(registry.answer(parsed, request).await)
}

fn finish(answer: Result<Response, Refusal>) -> Response {
    let mut response = answer.unwrap_or_else(Refusal::into_response);
    response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    response
}

impl Registry {
    async fn answer(
        &self,
        parsed: Result<(String, Parameters), Refusal>,
        request: Request<Body>,
    ) -> Result<Response, Refusal> {
        let host = self.guard.check_host(&request)?;
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let verbs = if is_read { "pull" } else { "pull,push" };
        let place = parsed.and_then(|(path, query)| Ok((Place::parse(&path)?, query)));
        let scope = match &place {
            Ok((Place::In(repository, _), _)) => Some(format!("repository:{repository}:{verbs}")),
            Ok((Place::Catalogue, _)) => Some("registry:catalog:*".to_owned()),
            Err(_) => None,
        };
        let wanted = match &place {
            Ok((Place::In(repository, _), _)) if is_read => Wanted::Pull(repository.as_str()),
            Ok((Place::In(repository, _), _)) => Wanted::Push(repository.as_str()),
            Ok((Place::Catalogue, _)) => Wanted::List,
            Err(_) => Wanted::Entry,
        };
        let caller = self.guard.check_right(request.headers(), &host, wanted, scope.as_deref())?;

        let (place, query) = place?;
        let (head, body) = request.into_parts();
        let (method, headers) = (&head.method, &head.headers);
        match place {
            Place::Catalogue if is_read => self.catalogue(&query).await,
            Place::Catalogue => Err(Refusal::method()),
            Place::In(repository, thing) => match (thing, method.as_str()) {
                (Thing::Uploads, "POST") => self.begin_upload(repository, &caller, &query, body).await,
                (Thing::Upload(id), "PATCH") => self.continue_upload(repository, id, headers, body).await,
                (Thing::Upload(id), "PUT") => self.finish_upload(repository, id, &query, headers, body).await,
                (Thing::Upload(id), "GET" | "HEAD") => self.upload_status(repository, id).await,
                (Thing::Upload(id), "DELETE") => self.cancel_upload(repository, id).await,
                (Thing::Blob(digest), "GET" | "HEAD") => self.blob(repository, digest, method, headers).await,
                (Thing::Blob(digest), "DELETE") => self.delete_blob(repository, digest).await,
                (Thing::Manifest(reference), "GET" | "HEAD") => {
                    self.manifest(repository, reference, method).await
                }
                (Thing::Manifest(reference), "PUT") => {
                    self.put_manifest(repository, reference, &query, headers, body).await
                }
                (Thing::Manifest(reference), "DELETE") => self.delete_manifest(repository, reference).await,
                (Thing::Tags, "GET" | "HEAD") => self.tags(repository, &query).await,
                (Thing::Referrers(subject), "GET" | "HEAD") => {
                    self.referrers(repository, subject, &query).await
                }
                _ => Err(Refusal::method()),
            },
        }
    }

    /// Runs what blocks on the disk.
    async fn blocking<T, E, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        E: Into<Refusal> + Send + 'static,
        F: FnOnce(&Library) -> Result<T, E> + Send + 'static,
    {
        let library = Arc::clone(&self.library);
        let done = tokio::task::spawn_blocking(move || work(&library)).await;
        done.map_err(std::io::Error::other)?.map_err(Into::into)
    }
}

/// An answer without a body. Headers are made of checked names, digests and numbers only.
fn empty<const N: usize>(status: StatusCode, headers: [(HeaderName, String); N]) -> Response {
    let mut response = status.into_response();
    put_headers(response.headers_mut(), headers);
    response
}

fn put_headers<const N: usize>(map: &mut HeaderMap, headers: [(HeaderName, String); N]) {
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::try_from(value) {
            map.insert(name, value);
        }
    }
}

//! The sample application: an online marketplace (after Laigner et al., "Online Marketplace: A
//! Benchmark for Data Management in Microservices", SIGMOD 2025) as small services, each with its
//! own state. They know nothing of Minato: they listen on `$PORT`, call each other by name, and end
//! on SIGTERM.
//!
//! ```text
//! browser ──▶ storefront ──▶ product     what there is, and what it costs
//!                        └─▶ cart ──▶ product
//! ```
//! State is in memory and ends with its instance, until the application has stores.

mod call;
mod cart;
mod product;
mod storefront;

use std::{ffi::OsString, net::Ipv4Addr, process::ExitCode};

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

/// Runs the service that the first argument names, until SIGTERM or SIGINT.
#[expect(clippy::print_stderr, reason = "a service's last word goes to its log")]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let first = arguments.into_iter().next();
    let router = match first.as_deref().and_then(|name| name.to_str()) {
        Some("storefront") => storefront::router(),
        Some("product") => product::router(),
        Some("cart") => cart::router(),
        _ => {
            eprintln!("market: name a service: storefront, product or cart");
            return ExitCode::from(2);
        }
    };
    match serve(router.route("/healthz", get(|| async { "well\n" }))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("market: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(router: Router) -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            })
            .await
    })
}

/// What a service answers when it can't do what was asked.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// There is no such thing.
    #[error("there is no {0}")]
    NotFound(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// Another service didn't do its part.
    #[error(transparent)]
    Call(#[from] call::CallError),
}

impl IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        let status = match self {
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Call(_) => StatusCode::BAD_GATEWAY,
        };
        (status, Json(serde_json::json!({ "error": self.to_string() }))).into_response()
    }
}

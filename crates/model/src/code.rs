//! Every code of an error or a reason, once. What is written here is relied on from outside.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A code: stable, short, for programs; the message beside it is for people.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl Code {
            /// The code as it is written.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

codes! {
    // Answers that the edge makes itself (`Minato-Code`).
    /// 404: no service has this host and path.
    NoRoute = "no_route",
    /// 503: the release can't be started.
    StartFailed = "start_failed",
    /// 503: too many wait for an instance already.
    QueueFull = "queue_full",
    /// 503: the breaker of every instance is tripped.
    Tripped = "tripped",
    /// 503: the node is stopping.
    Draining = "draining",
    /// 504: the instance didn't answer in time, or none was there in time.
    Timeout = "timeout",
    /// 502: the instance's answer broke off or was none.
    Upstream = "upstream",
    /// 429.
    RateLimited = "rate_limited",
    /// 508: the request has passed too many edges.
    Loop = "loop",
    /// 403: the caller may not call this service.
    Denied = "denied",
    /// 308: the service is to be had over TLS only.
    Redirected = "redirected",
    /// 421: the connection was made for another host than the request names.
    Misdirected = "misdirected",
    /// 400.
    BadRequest = "bad_request",
    /// 408: the client didn't send its request in time.
    ClientTimeout = "client_timeout",
    /// 413.
    BodyTooLarge = "body_too_large",
    /// 414.
    UriTooLong = "uri_too_long",
    /// 431.
    HeadersTooLarge = "headers_too_large",

    // Why an instance isn't, or is no more (the reason within `start_failed`, and for `why`).
    /// The image isn't in the registry.
    ImageMissing = "image_missing",
    /// The image has no variant for this node's platform.
    ImagePlatform = "image_platform",
    /// A blob isn't what its digest says.
    ImageDigest = "image_digest",
    /// The image's content is refused: a path, a link, a device, a size.
    ImageRefused = "image_refused",
    /// The program to run isn't in the image, or can't be executed.
    EntrypointMissing = "entrypoint_missing",
    /// The user isn't in the image.
    UserMissing = "user_missing",
    /// The process ended by itself.
    Exited = "exited",
    /// The process was killed by a signal that Minato didn't send.
    Killed = "killed",
    /// The instance needed more memory than it may use.
    OutOfMemory = "out_of_memory",
    /// It runs, but nothing listens on its port.
    NotListening = "not_listening",
    /// It listens on 127.0.0.1 only.
    ListensOnLoopback = "listens_on_loopback",
    /// It listens, but its health check doesn't answer 200.
    Unhealthy = "unhealthy",
    /// It failed again and again, and waits for its next try.
    BackingOff = "backing_off",
    /// The data directory's disk is full.
    DiskFull = "disk_full",
    /// The node could not do what was asked of it.
    NodeFault = "node_fault",

    // Errors of the API and of manifests.
    /// The manifest isn't TOML.
    ManifestSyntax = "manifest_syntax",
    /// A key that doesn't exist.
    UnknownKey = "unknown_key",
    /// A value of another type than the key takes.
    WrongType = "wrong_type",
    /// A value that the key doesn't take.
    InvalidValue = "invalid_value",
    /// A key that must be there isn't.
    MissingKey = "missing_key",
    /// A key or value that this version doesn't make work.
    NotSupported = "not_supported",
    /// Two services claim the same host and path.
    RouteTaken = "route_taken",
    /// The state has moved since the plan.
    PlanOutdated = "plan_outdated",
    /// Another change of the same app is under way.
    Conflict = "conflict",
    /// The release was taken back or is refused.
    ReleaseRefused = "release_refused",
    /// There is no such thing.
    NotFound = "not_found",
    /// No token, or a wrong one.
    Unauthorized = "unauthorized",
    /// The token has expired.
    TokenExpired = "token_expired",
    /// The token was revoked.
    TokenRevoked = "token_revoked",
    /// A foreign `Host` or `Origin`.
    ForeignOrigin = "foreign_origin",
    /// A write that isn't `application/json`.
    UnsupportedMedia = "unsupported_media",
    /// The request is larger than the API takes.
    RequestTooLarge = "request_too_large",
    /// The API can't be reached; only the command line says so.
    Unreachable = "unreachable",
    /// The request itself is wrong.
    InvalidRequest = "invalid_request",
    /// Minato failed.
    Internal = "internal",
}

impl Code {
    /// Whether it is the node that couldn't: no fault of the release.
    #[must_use]
    pub fn is_of_the_node(self) -> bool {
        matches!(self, Self::DiskFull | Self::NodeFault)
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error as the API answers it: `{"error": {…}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// For programs.
    pub code: Code,
    /// What happened, for people.
    pub message: String,
    /// In which file of the request, where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<String>,
    /// In which line of it, from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// At which key, with its path: `services.web.port`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub key: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a place.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), file: None, line: None, key: None, hint: None }
    }

    /// The same, with what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, at a key.
    #[must_use]
    pub fn at_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }
}

//! What is sent and answered, field by field.

/// A schema's fields, each with its type: a JSON type, `time`, `digest`, `any` or a schema's name
/// (capital); with `[]` an array of it; with `?` what may be absent or null.
type Fields = &'static [(&'static str, &'static str)];

/// Every schema by its name.
pub(super) const SCHEMAS: &[(&str, Fields)] = &[
    ("File", &[("name", "string"), ("text", "string")]),
    ("PlanRequest", &[("files", "File[]")]),
    (
        "ApplyRequest",
        &[("files", "File[]"), ("plan", "string?"), ("prune", "boolean?"), ("retry", "boolean?")],
    ),
    (
        "Change",
        &[
            ("action", "string"),
            ("what", "string"),
            ("from", "string?"),
            ("to", "string?"),
            ("reason", "string"),
        ],
    ),
    ("Plan", &[("id", "string"), ("app", "string"), ("changes", "Change[]")]),
    ("Plans", &[("plans", "Plan[]")]),
    ("ServiceState", &[("service", "string"), ("release", "integer?"), ("state", "string")]),
    ("AppState", &[("app", "string"), ("services", "ServiceState[]")]),
    ("Applied", &[("plans", "Plan[]"), ("apps", "AppState[]")]),
    (
        "Rollout",
        &[
            ("state", "string"),
            ("release", "integer"),
            ("serving", "integer?"),
            ("phase", "string"),
            ("reason", "string"),
            ("waiting_for", "string?"),
            ("code", "string?"),
            ("elapsed_ms", "integer"),
        ],
    ),
    (
        "Service",
        &[
            ("service", "string"),
            ("release", "integer?"),
            ("verdict", "string"),
            ("why", "string?"),
            ("instances", "integer"),
            ("ready", "integer"),
            ("hosts", "string[]"),
            ("url", "string"),
            ("rollout", "Rollout?"),
        ],
    ),
    ("App", &[("app", "string"), ("services", "Service[]")]),
    ("Apps", &[("apps", "App[]")]),
    (
        "Instance",
        &[
            ("id", "string"),
            ("app", "string"),
            ("service", "string"),
            ("release", "integer"),
            ("image", "digest"),
            ("state", "string"),
            ("reason", "string"),
            ("address", "string?"),
            ("node", "string"),
            ("pid", "integer?"),
            ("started_at", "time"),
            ("requests", "integer"),
            ("in_flight", "integer"),
        ],
    ),
    ("Instances", &[("instances", "Instance[]")]),
    ("Why", &[("thing", "string"), ("kind", "string"), ("lines", "string[]"), ("life", "any?")]),
    (
        "LogLine",
        &[
            ("at", "time"),
            ("instance", "string"),
            ("line", "integer"),
            ("release", "integer"),
            ("stream", "string"),
            ("text", "string"),
        ],
    ),
    (
        "Event",
        &[
            ("at", "time"),
            ("kind", "string"),
            ("app", "string?"),
            ("service", "string?"),
            ("release", "integer?"),
            ("instance", "string?"),
            ("reason", "string"),
            ("data", "any"),
        ],
    ),
    (
        "Release",
        &[
            ("number", "integer"),
            ("hash", "string"),
            ("image", "string"),
            ("digest", "digest"),
            ("state", "string"),
            ("created_at", "time"),
            ("reason", "string?"),
        ],
    ),
    ("Releases", &[("releases", "Release[]")]),
    (
        "Problem",
        &[
            ("code", "string"),
            ("message", "string"),
            ("file", "string?"),
            ("line", "integer?"),
            ("key", "string?"),
            ("hint", "string?"),
        ],
    ),
    ("Failure", &[("error", "Problem")]),
    ("Description", &[("openapi", "string"), ("paths", "any")]),
];

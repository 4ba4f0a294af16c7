//! The API's own description, made from the table of endpoints (OpenAPI 3.1).

use serde_json::{Map, Value, json};

use super::{Answer, Endpoint, Parameter, Place, endpoints};

/// The description.
pub(super) fn description() -> Value {
    let mut paths = Map::new();
    for endpoint in endpoints() {
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        let method = endpoint.method.as_str().to_ascii_lowercase();
        if let Some(path) = path.as_object_mut() {
            path.insert(method, operation(&endpoint));
        }
    }
    let ready = json!({ "get": {
        "summary": "Whether every role answers; needs no token",
        "security": [],
        "responses": { "200": { "description": "ready" }, "503": { "description": "not yet" } },
    } });
    paths.insert("/readyz".to_owned(), ready);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Minato", "version": env!("CARGO_PKG_VERSION") },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn operation(endpoint: &Endpoint) -> Value {
    let content = match endpoint.answer {
        Answer::Json(schema) => json!({ "application/json": { "schema": reference(schema) } }),
        Answer::Lines(schema) => json!({ "application/x-ndjson": { "schema": reference(schema) } }),
        Answer::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    let error = json!({ "application/json": { "schema": reference("Failure") } });
    let mut operation = json!({
        "summary": endpoint.summary,
        "parameters": endpoint.parameters.iter().map(parameter).collect::<Vec<_>>(),
        "responses": {
            "200": { "description": "done", "content": content },
            "default": { "description": "why not", "content": error },
        },
    });
    if let (Some(body), Some(operation)) = (endpoint.body, operation.as_object_mut()) {
        let content = json!({ "application/json": { "schema": reference(body) } });
        operation.insert("requestBody".to_owned(), json!({ "required": true, "content": content }));
    }
    operation
}

fn parameter(parameter: &Parameter) -> Value {
    json!({
        "name": parameter.name,
        "in": match parameter.place { Place::Path => "path", Place::Query => "query" },
        "required": parameter.required,
        "description": parameter.what,
        "schema": { "type": parameter.kind },
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// An object's schema from `name: type` pairs. A type is a JSON type, a schema's name (capital), either
/// with `[]` for an array of it, and `?` for what may be absent or null.
fn object(fields: &[(&str, &str)]) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, written) in fields {
        let kind = written.trim_end_matches('?');
        let optional = kind.len() < written.len();
        properties.insert((*name).to_owned(), of_kind(kind, optional));
        if !optional {
            required.push(*name);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

fn of_kind(kind: &str, optional: bool) -> Value {
    if let Some(element) = kind.strip_suffix("[]") {
        return json!({ "type": "array", "items": of_kind(element, false) });
    }
    match (kind, optional) {
        ("any", _) => json!({}),
        ("time", _) => json!({ "type": nullable("string", optional), "format": "date-time" }),
        ("digest", _) => {
            json!({ "type": "string", "pattern": "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$" })
        }
        (kind, true) if kind.starts_with(char::is_uppercase) => {
            json!({ "anyOf": [reference(kind), { "type": "null" }] })
        }
        (kind, false) if kind.starts_with(char::is_uppercase) => reference(kind),
        (kind, optional) => json!({ "type": nullable(kind, optional) }),
    }
}

fn nullable(kind: &str, optional: bool) -> Value {
    if optional { json!([kind, "null"]) } else { json!(kind) }
}

fn schemas() -> Value {
    let all: &[(&str, &[(&str, &str)])] = &[
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
    all.iter().map(|(name, fields)| ((*name).to_owned(), object(fields))).collect::<Map<_, _>>().into()
}

//! The API's own description, made from the table of endpoints (OpenAPI 3.1).

use serde_json::{Map, Value, json};

use super::{Answer, Endpoint, Parameter, Place, endpoints, schemas::SCHEMAS};

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
        "description": format!("Needs a token that allows `{}`", endpoint.needs.as_str()),
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

/// An object's schema from its fields, as [`SCHEMAS`] writes them.
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
    let all = SCHEMAS.iter().map(|(name, fields)| ((*name).to_owned(), object(fields)));
    all.collect::<Map<_, _>>().into()
}

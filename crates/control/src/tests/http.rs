//! The API as it is on the wire.
#![expect(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::time::Duration;

use minato_model::event::Event;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::rig::{Manner, NOW, Rig, TOKEN, key};

const SHOP: &str = "app = \"shop\"\n[services.web]\nimage = \"shop/web:1\"\nhosts = [\"shop.localhost\"]\n";

struct Api {
    rig: Rig,
    address: std::net::SocketAddr,
}

impl Api {
    async fn start() -> Self {
        let rig = Rig::start().await;
        rig.image("shop/web:1", 1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = rig.control.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { rig, address }
    }

    /// Sends the head, as much of a body as is given, and reads the answer to its end.
    async fn raw(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n{kind}\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let (status, answer) = self.raw(&head, body.as_bytes()).await;
        let text = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(text).unwrap_or_else(|_| json!(text)))
    }

    async fn code(&self, head: &str) -> (u16, String) {
        let (status, answer) = self.raw(head, b"").await;
        let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        (status, body["error"]["code"].as_str().unwrap().to_owned())
    }

    async fn apply(&self) -> (u16, Value) {
        let body = json!({ "files": [{ "name": "shop.toml", "text": SHOP }] });
        self.ask("POST", "/api/v1/apply", Some(&body)).await
    }
}

#[tokio::test]
async fn only_who_may_is_answered() {
    let api = Api::start().await;
    let token = format!("Authorization: Bearer {TOKEN}\r\nConnection: close\r\n");
    let get = |headers: &str| format!("GET /api/v1/apps HTTP/1.1\r\n{headers}\r\n");
    let code = async |headers: &str| api.code(&get(headers)).await;
    assert_eq!(code("Host: localhost\r\nConnection: close\r\n").await, (401, "unauthorized".into()));
    assert_eq!(code(&format!("Host: evil.example\r\n{token}")).await, (403, "foreign_origin".into()));
    let foreign = format!("Host: localhost\r\nOrigin: http://evil.example\r\n{token}");
    assert_eq!(code(&foreign).await, (403, "foreign_origin".into()));
    for path in ["/metrics", "/api/openapi.json", "/api/v1/nothing"] {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        assert_eq!(api.code(&head).await.0, 401, "{path}");
    }
    let form = format!(
        "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\n{token}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    assert_eq!(api.code(&form).await, (415, "unsupported_media".into()));
    let (status, _) = api.raw("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"").await;
    assert_eq!(status, 503);
    api.rig.control.set_ready(true);
    let (status, _) = api.raw("GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_body_of_a_gigabyte_is_refused_before_it_is_read() {
    let api = Api::start().await;
    let head = |length: &str| {
        format!(
            "POST /api/v1/apply HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Type: application/json\r\n{length}\r\n\r\n"
        )
    };
    let (status, code) = api.code(&head("Content-Length: 1073741824")).await;
    assert_eq!((status, code.as_str()), (413, "request_too_large"));
    // Unannounced, it ends where the limit is.
    let chunk = vec![b' '; 3 << 20];
    let body = [format!("{:x}\r\n", chunk.len()).as_bytes(), &chunk].concat();
    let (status, _) = api.raw(&head("Transfer-Encoding: chunked"), &body).await;
    assert_eq!(status, 413);
}

#[tokio::test]
async fn what_is_wrong_says_so() {
    let api = Api::start().await;
    let post = async |body: Value| {
        let (status, answer) = api.ask("POST", "/api/v1/apply", Some(&body)).await;
        (status, answer["error"]["code"].as_str().unwrap_or_default().to_owned(), answer)
    };
    assert_eq!(post(json!({ "files": 1 })).await.0, 400);
    assert_eq!(post(json!({ "files": [], "force": true })).await.1, "invalid_request");
    assert_eq!(post(json!({ "files": [], "supersede": true })).await.1, "not_supported");
    let (status, code, answer) =
        post(json!({ "files": [{ "name": "a.toml", "text": "app = \"a\"\nimag = 1\n" }] })).await;
    assert_eq!((status, code.as_str()), (422, "unknown_key"));
    assert_eq!((&answer["error"]["file"], &answer["error"]["line"]), (&json!("a.toml"), &json!(2)));
    assert_eq!(api.ask("GET", "/api/v1/apps/none", None).await.0, 404);
    assert_eq!(api.ask("DELETE", "/api/v1/apps/None", None).await.0, 404);
    assert_eq!(api.ask("GET", "/api/v1/nothing", None).await.0, 404);
    assert_eq!(api.ask("PUT", "/api/v1/apps", Some(&json!({}))).await.0, 404);
    assert_eq!(api.ask("GET", "/api/v1/logs?service=shop", None).await.0, 400);
    assert_eq!(api.ask("GET", "/api/v1/logs", None).await.0, 400);
    assert_eq!(api.ask("GET", "/api/v1/releases?service=shop/web", None).await.0, 404);
    assert_eq!(api.ask("GET", "/api/v1/why?thing=shop@x", None).await.0, 404);
    assert_eq!(api.ask("GET", "/api/v1/instances?state=x", None).await.0, 400);
    assert_eq!(api.ask("GET", "/api/v1/top?app=No", None).await.0, 400);
}

#[tokio::test]
async fn the_whole_way_of_an_app() {
    let api = Api::start().await;
    let files = json!({ "files": [{ "name": "shop.toml", "text": SHOP }] });
    let (_, planned) = api.ask("POST", "/api/v1/plans", Some(&files)).await;
    assert_eq!(planned["plans"][0]["changes"][0]["action"], "create");
    let (status, applied) = api.apply().await;
    assert_eq!(status, 200);
    assert_eq!(applied["plans"], planned["plans"]);
    assert_eq!(applied["apps"][0]["services"][0]["release"], 1);
    api.rig.stable("shop/web", 1).await;

    let (_, apps) = api.ask("GET", "/api/v1/apps", None).await;
    let service = &apps["apps"][0]["services"][0];
    assert_eq!(
        (&service["verdict"], &service["url"]),
        (&json!("at_rest"), &json!("http://shop.localhost:8080/"))
    );
    let (_, rollout) = api.ask("GET", "/api/v1/rollouts/shop/web", None).await;
    assert_eq!((&rollout["state"], &rollout["release"]), (&json!("stable"), &json!(1)));
    let (_, releases) = api.ask("GET", "/api/v1/releases?service=shop/web", None).await;
    assert_eq!(releases["releases"][0]["state"], "serving");
    let (_, instances) = api.ask("GET", "/api/v1/instances?app=shop", None).await;
    assert_eq!(instances["instances"][0]["id"], "instance01");
    let (_, none) = api.ask("GET", "/api/v1/instances?app=blog", None).await;
    assert_eq!(none["instances"], json!([]));
    let (_, top) = api.ask("GET", "/api/v1/top?app=shop", None).await;
    assert_eq!(top["nodes"][0]["instances"][0]["cpu"], 0.25);
    let (_, none) = api.ask("GET", "/api/v1/top?app=blog", None).await;
    assert_eq!((&none["nodes"][0]["instances"], &none["nodes"][0]["at_rest"]), (&json!([]), &json!(2)));
    let (_, metrics) = api.ask("GET", "/metrics", None).await;
    assert_eq!(metrics, "minato_instances{state=\"ready\"} 1\nextra 1\n");
    assert_eq!(api.ask("DELETE", "/api/v1/apps/shop", None).await.0, 200);
    assert_eq!(api.ask("GET", "/api/v1/apps", None).await.1, json!({ "apps": [] }));
}

#[tokio::test]
async fn why_tells_the_story() {
    let api = Api::start().await;
    api.apply().await;
    api.rig.stable("shop/web", 1).await;
    api.rig.manner(1, Some(Manner::Crashes));
    api.rig.load("shop/web", 1);
    api.rig.until("shop/web", |status| status.verdict == "down").await;
    let why = async |thing: &str| {
        let (status, why) = api.ask("GET", &format!("/api/v1/why?thing={thing}"), None).await;
        assert_eq!(status, 200, "{thing}: {why}");
        let lines: Vec<String> = serde_json::from_value(why["lines"].clone()).unwrap();
        lines.join("\n")
    };
    for thing in ["shop", "shop/web"] {
        let story = why(thing).await;
        for part in [
            "shop/web is down",
            "exited",
            "it exited with status 3",
            "no next try before",
            "| no such database",
        ] {
            assert!(story.contains(part), "{part} is missing in:\n{story}");
        }
    }
    assert!(why("shop/web@1").await.contains("state serving"));
    let story = why("instance01").await;
    for part in [
        "asked by request: requests needed more instances",
        "waited 0.05 ms for a slot",
        "taken from the pool",
        "executed        1.50 ms  (+1.25)",
        "listening  not reached",
        "127.0.0.1 only",
        "exit status 3",
    ] {
        assert!(story.contains(part), "{part} is missing in:\n{story}");
    }
}

/// What nodes report of instances that there are none of yet.
#[tokio::test]
async fn who_is_to_come_is_listed() {
    let api = Api::start().await;
    let row = async |state: &str| {
        for _ in 0..2_000 {
            let (_, list) = api.ask("GET", "/api/v1/instances?all=false&app=shop", None).await;
            let found = list["instances"].as_array().unwrap().iter().find(|row| row["state"] == state);
            if let Some(row) = found.cloned() {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no instance is {state}")
    };
    api.rig.manner(1, Some(Manner::Unpacks));
    api.apply().await;
    let preparing = row("preparing").await;
    assert_eq!((&preparing["id"], &preparing["release"]), (&Value::Null, &json!(1)));
    assert_eq!((&preparing["node"], &preparing["pid"]), (&json!("node-1"), &Value::Null));
    let (_, why) = api.ask("GET", "/api/v1/why?thing=shop/web", None).await;
    assert!(why.to_string().contains("on node-1, release 1: its image is being prepared"), "{why}");

    api.rig.manner(1, None);
    api.rig.stable("shop/web", 1).await;
    api.rig.manner(1, Some(Manner::Crashes));
    api.rig.load("shop/web", 1);
    let waiting = row("backing_off").await;
    assert!(waiting["id"].as_str().unwrap().starts_with("crashed"), "{waiting}");
    assert!(waiting["reason"].as_str().unwrap().contains("no next try before"), "{waiting}");
}

#[tokio::test]
async fn renewals_are_told() {
    let api = Api::start().await;
    api.apply().await;
    api.rig.stable("shop/web", 1).await;
    let event = |kind: &str, instance: &str, data: Value| {
        let event = Event::new(NOW, kind, "it has reached its age and is renewed").with_data(data);
        let event = event.with_service(&key("shop/web")).with_instance(&instance.parse().unwrap());
        api.rig.control.core.record(event);
    };
    event("rehearsal", "a1", json!({ "why": "age", "gap_ms": 0.0, "start_ms": 4.2, "errors": 0 }));
    let replaced = json!({ "why": "stuck", "replacement": "instance01", "gap_ms": 2.5, "errors": 3 });
    event("instance_replaced", "b2", replaced);
    let why = async |thing: &str| {
        let (_, why) = api.ask("GET", &format!("/api/v1/why?thing={thing}"), None).await;
        serde_json::from_value::<Vec<String>>(why["lines"].clone()).unwrap().join("\n")
    };
    let story = why("shop/web").await;
    for part in [
        "rehearsals lately: 1 (age 1)",
        "repairs lately: 1 (stuck 1)",
        "(gap 0.0 ms, start 4.2 ms, 0 errors)",
    ] {
        assert!(story.contains(part), "{part} is missing in:\n{story}");
    }
    assert!(why("instance01").await.contains("it took the place of b2"));
}

#[tokio::test]
async fn lines_go_on_until_the_client_goes_or_the_server_stops() {
    let api = Api::start().await;
    api.apply().await;
    let (_, logs) = api.ask("GET", "/api/v1/logs?service=shop/web&limit=1", None).await;
    assert!(logs.to_string().contains("line 1"), "{logs}");
    let (_, events) = api.ask("GET", "/api/v1/events?limit=1&app=shop", None).await;
    assert!(events["kind"].is_string(), "{events}");
    for path in ["/api/v1/logs?service=shop/web&follow=true", "/api/v1/events?follow=true&limit=0"] {
        let mut stream = TcpStream::connect(api.address).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        let mut part = [0; 4096];
        let files = SHOP.replace("hosts", "timeout = \"9s\"\nhosts");
        api.rig.apply(&files).await;
        api.rig.apply(SHOP).await;
        while !text.contains("line 5") && !text.contains("app_applied") {
            let read = stream.read(&mut part).await.unwrap();
            assert!(read > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&part[..read]));
        }
    }
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let head = format!(
        "GET /api/v1/events?follow=true HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut part = [0; 16];
    stream.read_exact(&mut part).await.unwrap();
    api.rig.control.core.closing.cancel();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(b"0\r\n\r\n"));
}

/// What is answered has the fields that the description says, and no others.
#[tokio::test]
async fn the_description_fits_the_answers() {
    let api = Api::start().await;
    let (_, description) = api.ask("GET", "/api/openapi.json", None).await;
    let (_, applied) = api.apply().await;
    fits(&description, "Applied", &applied);
    api.rig.stable("shop/web", 1).await;
    for (path, schema) in [
        ("/api/v1/apps", "Apps"),
        ("/api/v1/apps/shop", "Apps"),
        ("/api/v1/instances", "Instances"),
        ("/api/v1/top", "Tops"),
        ("/api/v1/why?thing=instance01", "Why"),
        ("/api/v1/logs?service=shop/web&limit=1", "LogLine"),
        ("/api/v1/events?limit=1", "Event"),
        ("/api/v1/releases?service=shop/web", "Releases"),
        ("/api/v1/rollouts/shop/web", "Rollout"),
        ("/api/v1/ca", "Authority"),
        ("/api/v1/nothing", "Failure"),
    ] {
        let (_, answer) = api.ask("GET", path, None).await;
        fits(&description, schema, &answer);
        let template = path
            .split('?')
            .next()
            .unwrap()
            .replace("/shop/web", "/{app}/{service}")
            .replace("/shop", "/{app}");
        let described = &description["paths"][&template]["get"]["responses"]["200"]["content"];
        assert!(schema == "Failure" || described.to_string().contains(&format!("/{schema}\"")), "{template}");
    }
}

fn fits(description: &Value, schema: &str, value: &Value) {
    let schema_of = &description["components"]["schemas"][schema];
    let object = value.as_object().unwrap_or_else(|| panic!("{schema}: {value}"));
    let properties = schema_of["properties"].as_object().unwrap_or_else(|| panic!("no schema {schema}"));
    for required in schema_of["required"].as_array().unwrap() {
        assert!(object.contains_key(required.as_str().unwrap()), "{schema} without {required}");
    }
    for (name, value) in object {
        let property = properties.get(name).unwrap_or_else(|| panic!("{schema}.{name} isn't described"));
        let inner = property.get("items").or_else(|| property.get("anyOf")?.get(0)).unwrap_or(property);
        let Some(inner) = inner.get("$ref").and_then(Value::as_str) else { continue };
        let inner = inner.rsplit('/').next().unwrap();
        if let Some(elements) = value.as_array() {
            elements.iter().for_each(|element| fits(description, inner, element));
        } else if !value.is_null() {
            fits(description, inner, value);
        }
    }
}

use super::*;
use crate::{
    code::Code,
    traffic::{Balance, Breaker, Key, Rate, RateKey, Retries},
};

fn one(text: &str) -> Manifest {
    parse(&[Source { name: "app.toml", text }]).unwrap().remove(0)
}

/// The first problem of a manifest as `line code key: message | hint`.
#[track_caller]
fn check(text: &str, expected: &str) {
    let problems = parse(&[Source { name: "app.toml", text }]).unwrap_err().problems;
    let first = &problems[0];
    let shown = format!(
        "{} {} {}: {}{}",
        first.line.unwrap_or(0),
        first.code,
        first.key.as_deref().unwrap_or("-"),
        first.message,
        first.hint.as_deref().map(|hint| format!(" | {hint}")).unwrap_or_default()
    );
    assert_eq!(shown, expected);
}

const HEAD: &str = "app = \"shop\"\n[services.web]\nimage = \"shop/web:1\"\n";

#[test]
fn an_image_is_enough() {
    let manifest = one(HEAD);
    let web = manifest.services.values().next().unwrap();
    assert_eq!(manifest.app.as_str(), "shop");
    assert_eq!(web.image.to_string(), "shop/web:1");
    assert_eq!(web.paths, ["/"]);
    assert_eq!(
        (web.scale.min, web.scale.max, web.scale.concurrency, web.scale.concurrency_max),
        (0, 20, 32, 128)
    );
    assert_eq!(web.resources.memory, 128 << 20);
    assert!(web.init);
    assert_eq!(web.timeout, Duration::from_secs(30));
}

#[test]
fn every_supported_key_is_read() {
    let manifest = one(r#"
app = "shop"
[services.web]
image = "shop/web@sha256:0123456789012345678901234567890123456789012345678901234567890123"
port = 9000
protocol = "http"
hosts = ["shop.localhost", "www.shop.localhost"]
paths = ["/", "/api/"]
calls = ["cart", "billing.invoices"]
env = { LOG = "info" }
command = ["/bin/web", "-v"]
writable = ["/var/cache"]
init = false
resources = { cpu = 0.25, cpu_max = 2, memory = "64MiB", pids = 10, files = 100, scratch = "1MiB" }
timeout = "5s"
drain = "2s"
body_max = "1MiB"
balance = "least-request"
health = { path = "/healthz", every = "1s" }
[services.web.scale]
min = 1
max = 4
concurrency = 1
idle = "10s"
[services.web.release]
strategy = "rolling"
deadline = "10m"
[services.cart]
image = "shop/cart"
"#);
    let web = &manifest.services[&"web".parse().unwrap()];
    assert_eq!(web.port, Some(9000));
    assert_eq!(web.paths, ["/", "/api"]);
    assert_eq!(web.calls.as_ref().unwrap().len(), 2);
    assert_eq!(web.resources.cpu_millis, 250);
    assert_eq!(web.resources.cpu_max_millis, 2000);
    assert_eq!(web.scale.concurrency_max, 4);
    assert!(!web.init);
    assert_eq!(manifest.services[&"cart".parse().unwrap()].image.tag.as_deref(), Some("latest"));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    check(
        "app = ",
        "1 manifest_syntax -: this is not TOML: string values must be quoted, expected literal string",
    );
    check(
        "[services.web]\nimage = \"a\"",
        "1 missing_key -: the manifest doesn't say whose it is: `app` is missing | begin the file with `app = \"name\"`",
    );
    check(
        &format!("{HEAD}prot = 1"),
        "4 unknown_key services.web.prot: `prot` is no key of [services.web] | did you mean `port`?",
    );
    check(
        &format!("{HEAD}port = \"80\""),
        "4 wrong_type services.web.port: `port` takes a whole number, not a string | write it as `port = 80`",
    );
    check(&format!("{HEAD}port = 0"), "4 invalid_value services.web.port: `port` is 0; it can be 1 to 65535");
    check(
        &format!("{HEAD}timeout = \"5min\""),
        "4 invalid_value services.web.timeout: `5min` is no duration: write a whole number and ms, s, m, h or d, such as \"30s\"",
    );
    check(
        &format!("{HEAD}timeout = \"2h\""),
        "4 invalid_value services.web.timeout: `timeout` is 2h; it can be 1ms to 1h",
    );
    check(
        &format!("{HEAD}hosts = [\"Shop.localhost\"]"),
        "4 invalid_value services.web.hosts: `Shop.localhost` is no host name | lower-case letters, digits and - in parts joined by dots; no port, no wildcard",
    );
    check(
        &format!("{HEAD}env = {{ PORT = \"1\" }}"),
        "4 invalid_value services.web.env.PORT: `PORT` is set by Minato | choose another name; the port is the service's `port`",
    );
    check(
        &format!("{HEAD}calls = [\"cart\"]"),
        "0 invalid_value services.web.calls: `web` calls `cart`, but shop has no such service | a service of another app is written `app.service`",
    );
    check(
        "app = \"shop\"\n[services.web]\nport = 1",
        "2 missing_key services.web: the service has no `image` | add `image = \"repository:tag\"`",
    );
    check(
        "app = \"shop\"",
        "1 missing_key -: app `shop` has no services | add `[services.NAME]` with an `image`",
    );
}

#[test]
fn renewal_is_on_unless_it_is_said_otherwise() {
    let web = |text: &str| one(&format!("{HEAD}{text}")).services.pop_first().unwrap().1;
    let default = web("");
    assert_eq!(default.drain_streams, Duration::from_secs(3_600));
    let Recycle { requests, age, in_flight_millis, memory_growth_millis } = default.recycle;
    assert_eq!((requests, in_flight_millis, memory_growth_millis), (1_000_000, 2_000, 500));
    assert_eq!(age, Duration::from_secs(7_200));
    // What is left out keeps its default.
    let some = web("drain_streams = \"0s\"\nrecycle = { age = \"1s\", requests = 1_000 }");
    assert_eq!(some.drain_streams, Duration::ZERO);
    assert_eq!(some.recycle, Recycle { age: Duration::from_secs(1), requests: 1_000, ..Recycle::default() });
    // 0 is never; the age has no never.
    let never =
        web("[services.web.recycle]\nrequests = 0\nin_flight = 0\nmemory_growth = 0.0\nage = \"30d\"");
    let Recycle { requests, age, in_flight_millis, memory_growth_millis } = never.recycle;
    assert_eq!((requests, in_flight_millis, memory_growth_millis), (0, 0, 0));
    assert_eq!(age, Duration::from_secs(30 * 86_400));
    let fine = web("recycle = { in_flight = 1.5, memory_growth = 0.125 }").recycle;
    assert_eq!((fine.in_flight_millis, fine.memory_growth_millis), (1_500, 125));
}

#[test]
fn what_is_wrong_about_renewal_is_said_with_its_place() {
    check(
        &format!("{HEAD}drain_streams = \"8d\""),
        "4 invalid_value services.web.drain_streams: `drain_streams` is 8d; it can be 0s to 1d",
    );
    check(
        &format!("{HEAD}[services.web.recycle]\nage = \"0s\""),
        "5 invalid_value services.web.recycle.age: `age` is 0s; it can be 1s to 30d",
    );
    check(
        &format!("{HEAD}[services.web.recycle]\nrequests = -1"),
        "5 invalid_value services.web.recycle.requests: `requests` is -1; it can be 0 to 4294967295",
    );
    check(
        &format!("{HEAD}[services.web.recycle]\nin_flight = 0.5"),
        "5 invalid_value services.web.recycle.in_flight: `in_flight` is below 1: every instance would have too much | 0 means never",
    );
    check(
        &format!("{HEAD}[services.web.recycle]\nmemory_growth = \"50%\""),
        "5 wrong_type services.web.recycle.memory_growth: `memory_growth` takes a number, not a string | write it as `memory_growth = 0.5`",
    );
    check(
        &format!("{HEAD}[services.web.recycle]\nagee = \"1h\""),
        "5 unknown_key services.web.recycle.agee: `agee` is no key of [services.web.recycle] | did you mean `age`?",
    );
}

#[test]
fn a_route_belongs_to_one_service() {
    let text = format!(
        "{HEAD}hosts = [\"a.localhost\"]\n[services.api]\nimage = \"x\"\nhosts = [\"a.localhost\"]\n"
    );
    let problems = parse(&[Source { name: "app.toml", text: &text }]).unwrap_err().problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].code, Code::RouteTaken);
    assert_eq!(problems[0].message, "`a.localhost/` belongs to shop/api already (app.toml, line 7)");
    assert_eq!(problems[0].line, Some(4));
}

#[test]
fn an_app_is_one_file() {
    let again = [Source { name: "a.toml", text: HEAD }, Source { name: "b.toml", text: HEAD }];
    let problems = parse(&again).unwrap_err().problems;
    assert_eq!(problems[0].message, "app `shop` is described twice, first in a.toml, line 1");
}

/// Everything of the design that doesn't work yet is refused by name and line, never ignored.
#[test]
fn what_does_not_work_yet_is_refused() {
    let keys = [
        "bind = [\"orders\"]",
        "sign = \"required\"",
        "metrics = { path = \"/metrics\" }",
        "place = { spread = \"zone\" }",
        "scale = { metrics = [] }",
        "release = { before = [\"x\"] }",
        "release = { strategy = \"canary\" }",
        "release = { mirror = 0.1 }",
        "release = { steps = [] }",
        "release = { promote = \"time\" }",
    ];
    for key in keys {
        let text = format!("{HEAD}{key}");
        let problems = parse(&[Source { name: "app.toml", text: &text }]).unwrap_err().problems;
        assert_eq!((problems[0].code, problems[0].line), (Code::NotSupported, Some(4)), "{key}");
        assert!(problems[0].message.ends_with("is not supported yet"), "{key}: {}", problems[0].message);
    }
    for table in ["[stores.orders]\nkind = \"postgres\"", "[transactions.checkout]\ntimeout = \"10m\""] {
        let text = format!("{HEAD}{table}");
        let problems = parse(&[Source { name: "app.toml", text: &text }]).unwrap_err().problems;
        assert_eq!(problems[0].code, Code::NotSupported, "{table}");
    }
}

#[test]
fn how_an_instance_is_spoken_to_is_read() {
    let protocol = |keys: &str| one(&format!("{HEAD}{keys}")).services.into_values().next().unwrap().protocol;
    assert_eq!(protocol(""), Protocol::Http);
    assert_eq!(protocol("protocol = \"h2c\""), Protocol::H2c);
    assert_eq!(protocol("protocol = \"grpc\""), Protocol::Grpc);
    assert_eq!(protocol("protocol = \"https\""), Protocol::Https);
    check(
        &format!("{HEAD}protocol = \"http2\""),
        "4 invalid_value services.web.protocol: `services.web.protocol` can't be \"http2\" | it takes \"http\", \"h2c\", \"https\", \"grpc\" or \"tcp\"",
    );
}

#[test]
fn plain_tcp_has_a_port_and_nothing_of_http() {
    let service = |keys: &str| one(&format!("{HEAD}{keys}")).services.into_values().next().unwrap();
    let tcp = service("protocol = \"tcp\"\nlisten = 5432");
    assert_eq!((tcp.protocol, tcp.listen), (Protocol::Tcp, Some(5432)));
    assert_eq!(service("protocol = \"tcp\"").listen, None, "inside the cluster only");
    check(
        &format!("{HEAD}listen = 5432"),
        "4 invalid_value services.web.listen: `listen` is for plain TCP | add `protocol = \"tcp\"`, or leave it out: \
         hosts and paths share the edge's own ports",
    );
    for key in
        ["hosts = [\"a.localhost\"]", "paths = [\"/a\"]", "health = { path = \"/\" }", "rate = { limit = 1 }"]
    {
        let text = format!("{HEAD}protocol = \"tcp\"\n{key}");
        let problems = parse(&[Source { name: "app.toml", text: &text }]).unwrap_err().problems;
        assert!(problems[0].message.contains("is for HTTP"), "{key}: {}", problems[0].message);
        assert_eq!((problems[0].code, problems[0].line), (Code::InvalidValue, Some(5)), "{key}");
    }
}

#[test]
fn how_requests_are_treated_is_read() {
    let traffic = |keys: &str| one(&format!("{HEAD}{keys}")).services.into_values().next().unwrap().traffic;
    assert_eq!(traffic(""), Policy::default());
    let policy = traffic(
        r#"
        balance = "hash:header:X-User"
        slow_start = "20s"
        retries = { attempts = 1, budget = 0.1 }
        rate = { per = "header:X-Key", limit = 5, every = "1m" }
        breaker = { failures = 3, success = 0.5, eject = "2s", pending = 9 }
        "#,
    );
    let user = Key::Header("x-user".to_owned());
    assert_eq!((policy.balance, policy.slow_start), (Balance::Hash(user), Duration::from_secs(20)));
    assert_eq!(policy.retries, Retries { attempts: 1, budget_millis: 100 });
    let per = RateKey::Header("x-key".to_owned());
    assert_eq!(policy.rate, Some(Rate { per, limit: 5, every: Duration::from_secs(60) }));
    let eject = Duration::from_secs(2);
    assert_eq!(policy.breaker, Breaker { failures: 3, success_millis: 500, eject, pending: 9 });
}

#[test]
fn what_requests_are_not_treated_like_is_refused() {
    let takes =
        "\"least-request\", \"ewma\", \"round-robin\" or \"hash:\" with header:NAME, cookie:NAME or address";
    check(
        &format!("{HEAD}balance = \"random\""),
        &format!(
            "4 invalid_value services.web.balance: `services.web.balance` can't be \"random\" | it takes {takes}"
        ),
    );
    check(
        &format!("{HEAD}rate = {{ per = \"address\" }}"),
        "4 missing_key services.web.rate: `rate` needs a `limit` | { per = \"address\", limit = 100, every = \"1s\" }",
    );
    check(
        &format!("{HEAD}breaker = {{ pending = 0 }}"),
        "4 invalid_value services.web.breaker.pending: `pending` is 0; it can be 1 to 100000",
    );
    check(
        &format!("{HEAD}listen = 5432"),
        "4 invalid_value services.web.listen: `listen` is for plain TCP | add `protocol = \"tcp\"`, or leave it out: \
         hosts and paths share the edge's own ports",
    );
}

#[test]
fn all_that_is_wrong_is_shown_at_once() {
    let text = format!("{HEAD}port = 0\nprot = 1\ninit = 3\n");
    let problems = parse(&[Source { name: "app.toml", text: &text }]).unwrap_err().problems;
    let lines: Vec<_> = problems.iter().map(|problem| problem.line.unwrap()).collect();
    assert_eq!(lines, [4, 5, 6]);
}

#[test]
fn tls_at_the_door_is_read() {
    const HOSTS: &str = "hosts = [\"shop.localhost\"]\n";
    let tls = |keys: &str| one(&format!("{HEAD}{keys}")).services.into_values().next().unwrap().tls;
    assert_eq!(tls(""), Tls::default());
    let all = "tls = { certificate = \"a.pem\", key = \"/b\", redirect = true, hsts = \"180d\", client_ca = \"../c\" }";
    let all = tls(&format!("{HOSTS}{all}"));
    assert_eq!(
        all.files().collect::<Vec<_>>(),
        [("certificate", "a.pem"), ("key", "/b"), ("client_ca", "../c")]
    );
    assert!(all.redirect);
    assert_eq!(all.hsts, Some(Duration::from_secs(180 * 86_400)));
    for (keys, says) in [
        (
            "tls = { key = \"b\" }",
            "5 missing_key services.web.tls.key: `key` needs `certificate` beside it | add `certificate = \"FILE\"`",
        ),
        (
            "tls = { certificate = \"\", key = \"b\" }",
            "5 invalid_value services.web.tls.certificate: `certificate` is no path | a path relative to the manifest's folder, or an absolute one: \"files/shop.pem\"",
        ),
        (
            "tls = { hsts = \"999d\" }",
            "5 invalid_value services.web.tls.hsts: `hsts` is 999d; it can be 0s to 730d",
        ),
        (
            "tls = { redirct = true }",
            "5 unknown_key services.web.tls.redirct: `redirct` is no key of [services.web.tls] | did you mean `redirect`?",
        ),
    ] {
        check(&format!("{HEAD}{HOSTS}{keys}"), says);
    }
    check(
        &format!("{HEAD}tls = {{ redirect = true }}"),
        "4 missing_key services.web.tls: `tls` is for public names, and the service has none | add `hosts`, or take it out: within the cluster every name has the cluster's certificate",
    );
    check(
        &format!("{HEAD}protocol = \"tcp\"\nlisten = 5432\ntls = {{ redirect = true }}"),
        "6 invalid_value services.web.tls: `tls` is for HTTP: over plain TCP there are only bytes",
    );
}

#[test]
fn a_key_is_found_in_the_text() {
    let text = "app = \"a\"\n\n[services.web.tls]\nkey = \"x\"\n[services.api]\ntls = { redirect = true,\n hsts = \"1d\" }\n";
    for (key, line) in [
        ("app", Some(1)),
        ("services.web.tls.key", Some(4)),
        ("services.web.tls.certificate", Some(3)),
        ("services.api.tls.redirect", Some(6)),
        ("stores", None),
    ] {
        assert_eq!(line_of(text, key), line, "{key}");
    }
    assert_eq!(line_of("not = = toml", "not"), None);
}

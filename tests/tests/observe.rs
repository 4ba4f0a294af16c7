//! What one sees of a whole server: its figures as Prometheus wants them, and its access log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
};

use minato_tests::{Server, http, images, until, wire};
use serde_json::Value;

const MANIFEST: &str = r#"
app = "hello"
[services.web]
image = "hello/web:1"
hosts = ["hello.localhost"]
"#;

fn hello() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "hello/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(MANIFEST);
    assert_eq!(server.ask("hello.localhost", "/").status, 200);
    assert_eq!(server.ask("nobody.localhost", "/").status, 404);
    server
}

fn metrics(server: &Server) -> String {
    let answer = wire::call(server, "GET", "/metrics", &[("Authorization", &wire::bearer(server))], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

/// The name of the family that a sample belongs to.
fn family<'a>(kinds: &BTreeMap<&str, &str>, name: &'a str) -> &'a str {
    let histogram = |family: &&str| kinds.get(family) == Some(&"histogram");
    let parts = ["_bucket", "_sum", "_count"].into_iter().filter_map(|part| name.strip_suffix(part));
    parts.into_iter().find(histogram).unwrap_or(name)
}

/// What `promtool check metrics` would criticise, and what makes a text none of Prometheus's.
fn faults(text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
    let (mut series, mut families, mut last) = (BTreeSet::new(), BTreeSet::new(), "");
    let mut fault = |what: &str, line: &str| faults.push(format!("{what}: {line}"));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            if !helped.insert(name) || help.is_empty() {
                fault("help twice, or none", line);
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            if kinds.insert(name, kind).is_some() {
                fault("type twice", line);
            }
            if (kind == "counter") != name.ends_with("_total") {
                fault("counters, and they alone, end in _total", line);
            }
            let base =
                ["_ms", "_milliseconds", "_micros", "_minutes", "_kib", "_mib", "_kilobytes", "_percent"];
            if base.iter().any(|unit| name.contains(unit)) {
                fault("units are seconds, bytes and ratios", line);
            }
            if name.contains(kind) || name.chars().any(|c| c.is_ascii_uppercase()) {
                fault("a name has neither its type nor capitals", line);
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let family = family(&kinds, name);
        if family != last && !families.insert(family) {
            fault("a family in two places", line);
        }
        last = family;
        if !kinds.contains_key(family) || !helped.contains(family) {
            fault("no type or help before it", line);
        }
        if !series.insert(sample) {
            fault("a series twice", line);
        }
        if labels.contains("le=\"") != (kinds.get(family) == Some(&"histogram") && name.ends_with("_bucket"))
        {
            fault("le belongs to buckets", line);
        }
        if value.parse::<f64>().is_err() {
            fault("no number", line);
        }
    }
    faults
}

#[test]
fn prometheus_finds_nothing_to_criticise() {
    let server = hello();
    let text = metrics(&server);
    for name in [
        "minato_requests_total{app=\"hello\",service=\"web\",release=\"1\",code=\"200\"} 1",
        "minato_requests_total{app=\"\",service=\"\",release=\"\",code=\"404\"} 1",
        "minato_request_flags_total{flag=\"no_route\"} 1",
    ] {
        assert!(text.lines().any(|line| line == name), "{name} is not in\n{text}");
    }
    assert_eq!(faults(&text), Vec::<String>::new());
    // Where Prometheus's own program is, it has the last word.
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else { return };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert!(
        said.status.success() && said.stderr.is_empty(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
}

#[test]
fn faults_are_found() {
    let check = |text: &str| faults(text).len();
    assert_eq!(check("# HELP a_total A.\n# TYPE a_total counter\na_total{x=\"1\"} 1\n"), 0);
    for text in [
        "a 1\n",
        "# HELP a A.\n# TYPE a counter\na 1\n",
        "# HELP a_total A.\n# TYPE a_total gauge\na_total 1\n",
        "# HELP a A.\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a_ms A.\n# TYPE a_ms gauge\na_ms 1\n",
        "# HELP a A.\n# TYPE a gauge\na{le=\"1\"} 1\n",
        "# HELP a A.\n# TYPE a gauge\na x\n",
    ] {
        assert_eq!(check(text), 1, "{text}");
    }
}

#[test]
fn the_access_log_is_in_the_data_directory() {
    let mut server = hello();
    let path = server.data().join("logs/access.log");
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let both = until("two lines", || {
        let lines = lines();
        if lines.len() == 2 { Ok(lines) } else { Err(format!("{lines:?}")) }
    });
    let first = both.iter().find(|line| line["host"] == "hello.localhost").unwrap();
    assert_eq!((&first["app"], &first["status"]), (&"hello".into(), &200.into()));
    assert!(first["cold_ms"].as_f64().unwrap() > 0.0, "the first request started the instance: {first}");
    let other = both.iter().find(|line| line["host"] == "nobody.localhost").unwrap();
    assert_eq!(other["flag"], "no_route");
    let now = minato_tests::run(Command::new("date").args(["-u", "+%Y-%m-%dT"])).ok().stdout;
    assert!(first["time"].as_str().unwrap().starts_with(now.trim()), "{first} is not of {now}");
    // What was asked last is written before the server ends.
    assert_eq!(server.ask("hello.localhost", "/last").status, 404);
    server.stop();
    assert_eq!(lines().last().unwrap()["path"], "/last");
    assert_eq!(lines().len(), 3);
}

#[test]
fn no_line_is_lost_or_torn_where_one_server_takes_over_from_another() {
    let mut server = hello();
    let address = server.http;
    let stop = AtomicBool::new(false);
    let asked = std::thread::scope(|scope| {
        let (stop, asker) = (&stop, |from: usize| {
            let mut number = from;
            while !stop.load(SeqCst) {
                let answer = http::get(address, "hello.localhost", &format!("/n{number}")).unwrap();
                assert_eq!(answer.status, 404);
                number += 2;
            }
            number
        });
        let ends = [0, 1].map(|from| scope.spawn(move || asker(from)));
        let mut before = server.upgrade(&[]);
        assert!(before.wait().unwrap().success());
        stop.store(true, SeqCst);
        ends.map(|end| end.join().unwrap())
    });
    server.stop();
    let text = std::fs::read_to_string(server.data().join("logs/access.log")).unwrap();
    let mut paths = BTreeMap::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        *paths.entry(line["path"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    for (from, end) in [0, 1].into_iter().zip(asked) {
        for number in (from..end).step_by(2) {
            assert_eq!(paths.get(&format!("/n{number}")), Some(&1), "/n{number} of {asked:?}");
        }
    }
}

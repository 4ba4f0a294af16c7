//! Who may do what: tokens with scopes, their ends, and the API beyond loopback.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use minato_tests::{
    Said, Server, run,
    sample::{self, manifest},
    until,
};

const SCALE: &str = "min = 0\nmax = 1";
/// Of the app's environment: the state and the manifest have it, and nothing else.
const PASSWORD: &str = "eX4mple-of-4-secret";

/// A token with these scopes: its id and its text.
fn token(server: &Server, scopes: &[&str]) -> (String, String) {
    let made = server.minato(&[&["token", "new", "--json"], scopes].concat()).ok().json();
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("id"), text("text"))
}

/// A command line by whoever has this token.
fn by(server: &Server, token: &str, words: &[&str]) -> Said {
    run(server.command(words).env("MINATO_TOKEN", token))
}

#[track_caller]
fn refused(said: &Said, with: &str) {
    assert_ne!(said.code(), 0, "{said:?}");
    assert!(said.stderr.contains(with), "{said:?}");
}

/// Every file below a folder that isn't the state itself, as bytes.
fn files(below: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(below).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
}

#[test]
fn a_token_does_what_its_scopes_say_and_ends_when_it_is_told() {
    let mut server = sample::server();
    let text = manifest("1", SCALE, "").replace("VERSION", &format!("PASSWORD = \"{PASSWORD}\"\nVERSION"));
    let path = server.manifest(&text);
    let file = path.to_str().unwrap();
    let (_, reader) = token(&server, &["--read", "--name", "dashboard"]);
    let (_, other) = token(&server, &["--deploy", "blog"]);
    let (deployer, deploy) = token(&server, &["--deploy", "app"]);
    let (_, pusher) = token(&server, &["--push", "app/*"]);

    refused(&by(&server, &reader, &["apply", file]), "it takes `deploy:APP`");
    refused(&by(&server, &other, &["apply", file]), "it takes `deploy:app`");
    refused(&by(&server, &other, &["plan", file]), "it takes `deploy:app`");
    refused(&by(&server, &deploy, &["apply", "--prune", file]), "admin");
    by(&server, &deploy, &["apply", "--wait", file]).ok();
    by(&server, &reader, &["status"]).ok();
    refused(&by(&server, &deploy, &["events"]), "it takes `read`");
    refused(&by(&server, &deploy, &["token", "list"]), "it takes `admin`");
    refused(&by(&server, &reader, &["token", "new", "--admin"]), "it takes `admin`");
    refused(&by(&server, &other, &["delete", "app"]), "it takes `deploy:app`");

    let program = sample::program();
    let program = program.to_str().unwrap();
    by(&server, &pusher, &["build", program, "-t", "app/other:1", "--port", "8080"]).ok();
    refused(
        &by(&server, &pusher, &["build", program, "-t", "blog/web:1", "--port", "8080"]),
        "push:blog/web",
    );
    refused(
        &by(&server, &reader, &["build", program, "-t", "app/other:2", "--port", "8080"]),
        "push:app/other",
    );

    for wrong in ["mnt_", "mnt_abcdefghij_00", &"x".repeat(4_000), &format!("{deploy}0"), "a b"] {
        refused(&by(&server, wrong, &["status"]), "the token is wrong");
    }

    // Who follows something does so for as long as the token counts.
    let (follower, follows) = token(&server, &["--read"]);
    let mut command = server.command(&["events", "--follow"]);
    let mut child =
        command.env("MINATO_TOKEN", &follows).stdout(std::process::Stdio::null()).spawn().unwrap();
    assert!(child.try_wait().unwrap().is_none());
    server.minato(&["token", "revoke", &follower]).ok();
    until("the follower's end", || match child.try_wait().unwrap() {
        Some(_) => Ok(()),
        None => Err("it follows".to_owned()),
    });

    // What was made is there after a crash, and what was revoked stays revoked.
    server.minato(&["token", "revoke", &deployer]).ok();
    refused(&by(&server, &deploy, &["apply", file]), "was revoked");
    server.kill();
    server.spawn(&["--anonymous-push"]);
    refused(&by(&server, &deploy, &["apply", file]), "was revoked");
    by(&server, &reader, &["status"]).ok();
    let (_, brief) = token(&server, &["--read", "--expires", "1s"]);
    until("the token to expire", || {
        let said = by(&server, &brief, &["status"]);
        if said.stderr.contains("expired") { Ok(()) } else { Err(format!("{said:?}")) }
    });
    let listed = server.minato(&["token", "list"]).ok();
    assert!(listed.stdout.contains("dashboard") && listed.stdout.contains("revoked"), "{}", listed.stdout);

    let events = server.minato(&["events", "--json"]).ok().stdout;
    for kind in ["token_made", "token_revoked", "api_write", "api_refused"] {
        assert!(events.contains(&format!("\"{kind}\"")), "no {kind} in {events}");
    }
    let mut said = vec![events, listed.stdout];
    for words in
        [&["status", "--json"][..], &["ps", "--json"], &["why", "app/web"], &["plan", file, "--json"]]
    {
        said.push(server.minato(words).ok().stdout);
    }
    told_nowhere(&server, &[reader, other, deploy, pusher, brief, follows], &said);
}

/// Neither what was written nor what was said has a secret in it; the data directory's own token is in its file.
fn told_nowhere(server: &Server, tokens: &[String], said: &[String]) {
    let secret = |token: &String| token.rsplit('_').next().unwrap().to_owned();
    let own = server.token();
    let mut secrets: Vec<String> = tokens.iter().map(secret).collect();
    let mut found = Vec::new();
    files(server.data(), &mut found);
    found.extend(said.iter().map(|text| ("what was said".to_owned(), text.clone().into_bytes())));
    for pid in std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()) {
        // A process that has ended has no arguments.
        let words = std::fs::read(pid.join("cmdline")).unwrap_or_default();
        if words.windows(6).any(|part| part == b"minato") {
            found.push((pid.display().to_string(), words));
        }
    }
    let keys: Vec<_> = found.iter().filter(|(name, _)| name.ends_with(".key")).cloned().collect();
    assert!(!keys.is_empty(), "the authority has keys");
    for (_, key) in &keys {
        // A line from the middle of it.
        let text = String::from_utf8_lossy(key).lines().nth(1).unwrap().to_owned();
        secrets.push(text);
    }
    secrets.extend([own, PASSWORD.to_owned()]);
    for (name, bytes) in &found {
        for secret in &secrets {
            let has = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            let is_state = name.contains("/state.db") || name.ends_with("/manifest.toml");
            let its_own =
                name.ends_with("/token") || name.ends_with(".key") || (secret == PASSWORD && is_state);
            assert!(!has || its_own, "{name} has a secret in it");
        }
    }
}

/// An address of this machine beyond loopback, on a link of its own that goes with this.
struct Beyond {
    link: String,
    /// Of the range for measuring devices (RFC 2544): nobody's.
    address: IpAddr,
}

impl Beyond {
    fn new() -> Self {
        let pid = std::process::id();
        let address = std::net::Ipv4Addr::from(u32::from_be_bytes([198, 18, 0, 1]) + pid % 0xfff0);
        let beyond = Self { link: format!("mt{pid}a"), address: address.into() };
        let ip = |words: &[&str]| run(Command::new("ip").args(words)).ok();
        ip(&["link", "add", &beyond.link, "type", "veth", "peer", "name", &format!("mt{pid}b")]);
        ip(&["address", "add", &format!("{address}/32"), "dev", &beyond.link]);
        ip(&["link", "set", &beyond.link, "up"]);
        beyond
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        drop(run(Command::new("ip").args(["link", "delete", &self.link])));
    }
}

#[test]
fn beyond_loopback_the_api_speaks_tls_alone() {
    let beyond = Beyond::new();
    let mut server = Server::start_with(&[]);
    let roots = server.data().join("roots.pem");
    std::fs::write(&roots, server.minato(&["ca", "export"]).ok().stdout).unwrap();
    let (_, pusher) = token(&server, &["--push", "app/*", "--read"]);
    server.stop();
    server.api = SocketAddr::new(beyond.address, server.api.port());
    server.spawn(&[]);
    let url = format!("https://{}", server.api);
    let ask = |url: &str, token: &str, roots: &Path, words: &[&str]| {
        let mut command = server.command(words);
        run(command.env("MINATO_API", url).env("MINATO_TOKEN", token).env("MINATO_CA", roots))
    };
    ask(&url, &pusher, &roots, &["status"]).ok();
    let program = sample::program();
    let build = ["build", program.to_str().unwrap(), "-t", "app/sample:1", "--port", "8080"];
    ask(&url, &pusher, &roots, &build).ok();

    // Not in plain, not without roots, not by another's roots, not without a token.
    refused(&ask(&format!("http://{}", server.api), &pusher, &roots, &["status"]), "by https only");
    refused(&ask(&url, &pusher, Path::new(""), &["status"]), "minato ca export");
    let foreign = server.data().join("foreign.pem");
    let key = server.data().join("foreign.key");
    let words = ["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let mut openssl = Command::new("openssl");
    openssl.args(words).args(["-subj", "/CN=foreign", "-days", "1", "-out"]).arg(&foreign);
    run(openssl.arg("-keyout").arg(&key)).ok();
    let said = ask(&url, &pusher, &foreign, &["status"]);
    assert_eq!(said.code(), 5, "{said:?}");
    refused(&ask(&url, "wrong", &roots, &["status"]), "token");
    // An anonymous pull is loopback's alone; what speaks plain gets no answer.
    let curl = |words: &[&str]| {
        run(Command::new("curl").args(["-sS", "-m", "10", "--cacert"]).arg(&roots).args(words))
    };
    let said = curl(&["-o", "/dev/null", "-w", "%{http_code}", &format!("{url}/v2/token")]).ok();
    assert_eq!(said.stdout, "401");
    let said = curl(&["-i", &format!("{url}/v2/")]).ok();
    assert!(said.stdout.contains(&format!("realm=\"{url}/v2/token\"")), "{}", said.stdout);
    assert_ne!(curl(&[&format!("http://{}/readyz", server.api)]).code(), 0);
    assert_eq!(curl(&[&format!("{url}/readyz")]).ok().stdout, "ready\n");
    drop(beyond);
}

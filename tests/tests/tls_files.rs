//! Certificates from files on a whole server: sent by the command line, shown by the edge to curl and
//! OpenSSL, changed under a connection that stays, there again after a crash and an upgrade, and their
//! keys nowhere but where they rest.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use minato_tests::{Said, Server, run, sample, until};

/// Files made by OpenSSL, as people do.
struct Files(PathBuf);

impl Files {
    fn new(server: &Server) -> Self {
        let folder = server.data().join("files");
        fs::create_dir(&folder).unwrap();
        let files = Self(folder);
        files.root("ca");
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn openssl(&self, line: &str) {
        run(Command::new("openssl").args(line.split(' ')).current_dir(&self.0)).ok();
    }

    fn root(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.pem -days 30 -subj /CN={name}"
        ));
    }

    /// `NAME.crt` and `NAME.key` for a host, by a root.
    fn leaf(&self, name: &str, host: &str, root: &str) {
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"
        ));
        fs::write(self.0.join("names"), format!("subjectAltName=DNS:{host}\n")).unwrap();
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA {root}.pem -CAkey {root}.key -days 10 -extfile names -out {name}.crt"
        ));
    }

    fn sha256(&self, name: &str) -> String {
        let said = run(Command::new("openssl")
            .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
            .arg(self.path(name)))
        .ok();
        said.stdout.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
    }
}

fn manifest(tls: &str) -> String {
    let app = sample::manifest("1", "min = 0\nidle = \"1h\"", "");
    app.replace("[services.web.env]", &format!("[services.web.tls]\n{tls}\n[services.web.env]"))
}

const SHOP: &str = "certificate = \"files/shop.crt\"\nkey = \"files/shop.key\"";

/// Asks the edge over TLS as a client that trusts these roots alone.
fn curl(server: &Server, roots: &str, further: &[&str]) -> Said {
    let resolve = format!("app.localhost:{}:127.0.0.1", server.https.port());
    let url = format!("https://app.localhost:{}/", server.https.port());
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-i", "--max-time", "30", "--resolve", &resolve, "--cacert", roots]);
    run(curl.args(further).arg(url))
}

/// The SHA-256 of the certificate that a new client is shown.
fn shown(server: &Server) -> String {
    let line = format!("s_client -connect {} -servername app.localhost", server.https);
    let hello = run(Command::new("openssl").args(line.split(' '))).stdout;
    let mut x509 = Command::new("openssl")
        .args(["x509", "-noout", "-fingerprint", "-sha256"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    x509.stdin.take().unwrap().write_all(hello.as_bytes()).unwrap();
    let said = String::from_utf8(x509.wait_with_output().unwrap().stdout).unwrap();
    said.trim().rsplit('=').next().unwrap().replace(':', "").to_lowercase()
}

/// A connection that stays.
struct Kept(Child, ChildStdin, BufReader<ChildStdout>);

impl Kept {
    fn new(server: &Server) -> Self {
        let line = format!("s_client -quiet -connect {} -servername app.localhost", server.https);
        let mut child = Command::new("openssl")
            .args(line.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self(child, to, from)
    }

    /// The status line of an answer.
    fn ask(&mut self) -> String {
        self.1.write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
        let mut first = String::new();
        self.2.read_line(&mut first).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.2.read_line(&mut line).unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        self.2.read_exact(&mut vec![0; length]).unwrap();
        first.trim().to_owned()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        drop(self.0.wait());
    }
}

fn ready(server: &Server) -> Vec<String> {
    let all = server.instances("app/web");
    let ready = all.iter().filter(|instance| instance["state"] == "ready");
    ready.map(|instance| instance["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_certificate_is_shown_changed_and_there_after_a_crash_and_an_upgrade() {
    let mut server = sample::server();
    let files = Files::new(&server);
    files.leaf("shop", "app.localhost", "ca");
    server.apply(&manifest(SHOP));
    let answer = curl(&server, &files.path("ca.pem"), &[]).ok().stdout;
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    files.root("other");
    assert_ne!(curl(&server, &files.path("other.pem"), &[]).code(), 0, "roots that it isn't by");
    assert_eq!(shown(&server), files.sha256("shop.crt"));
    let again = server.apply(&manifest(SHOP)).stdout;
    assert!(again.contains("nothing to change"), "{again}");

    let mut kept = Kept::new(&server);
    assert_eq!(kept.ask(), "HTTP/1.1 200 OK");
    let instances = ready(&server);
    files.leaf("shop", "app.localhost", "ca");
    let changed = server.apply(&manifest(SHOP)).stdout;
    assert!(changed.contains("update  app/web tls: certificate "), "{changed}");
    let renewed = files.sha256("shop.crt");
    assert_eq!(shown(&server), renewed, "in force when apply answers");
    assert_eq!(kept.ask(), "HTTP/1.1 200 OK", "who was connected stays");
    assert_eq!(ready(&server), instances, "nothing starts anew");
    let status = server.minato(&["status", "app", "--json"]).ok().json();
    let host = &status["apps"][0]["services"][0]["tls"]["hosts"][0];
    assert_eq!((host["certificate"].as_str(), host["sha256"].as_str()), (Some("files"), Some(&*renewed)));
    assert!(server.why("app/web").contains("https://app.localhost: a certificate from files"));

    let before = server.upgrade(&[]);
    assert_eq!(shown(&server), renewed, "the successor has it before it listens");
    assert_eq!(kept.ask(), "HTTP/1.1 200 OK", "and who was connected stays still");
    drop((kept, before));
    server.kill();
    server.spawn(&[]);
    assert_eq!(shown(&server), renewed);
    server.apply(&manifest("redirect = true"));
    until("the cluster's certificate", || match shown(&server) {
        now if now == renewed => Err(now),
        _ => Ok(()),
    });
}

/// Ends what runs beside a test, however that ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_change_under_load_fails_nobody() {
    let server = sample::server();
    let files = Files::new(&server);
    files.leaf("shop", "app.localhost", "ca");
    server.apply(&manifest(SHOP));
    let roots = files.path("ca.pem");
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = || {
            let mut answers = 0;
            while !over.load(Ordering::Relaxed) {
                // Two requests by one connection, and a new one each time.
                let url = format!("https://app.localhost:{}/", server.https.port());
                let answer = curl(&server, &roots, &[&url]).ok().stdout;
                assert_eq!(answer.matches("HTTP/2 200").count(), 2, "{answer}");
                answers += 2;
            }
            answers
        };
        let clients: Vec<_> = (0..3).map(|_| scope.spawn(client)).collect();
        let ends = Ends(&over);
        for _ in 0..8 {
            files.leaf("shop", "app.localhost", "ca");
            server.apply(&manifest(SHOP));
            assert_eq!(shown(&server), files.sha256("shop.crt"));
        }
        drop(ends);
        let answers: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(answers > 20, "{answers}");
    });
}

#[test]
fn redirects_and_client_certificates_are_as_declared() {
    let server = sample::server();
    let files = Files::new(&server);
    files.leaf("shop", "app.localhost", "ca");
    files.root("clients");
    files.leaf("client", "someone", "clients");
    server.apply(&manifest(&format!("{SHOP}\nredirect = true\nclient_ca = \"files/clients.pem\"")));
    let plain = server.ask("app.localhost", "/a?b=c");
    assert_eq!(plain.status, 308);
    let location = format!("https://app.localhost:{}/a?b=c", server.https.port());
    assert_eq!(plain.header("location"), Some(&*location));
    let roots = files.path("ca.pem");
    let without = curl(&server, &roots, &[]);
    assert!(!without.stdout.contains(" 200"), "{without:?}");
    let (certificate, key) = (files.path("client.crt"), files.path("client.key"));
    let with = curl(&server, &roots, &["--cert", &certificate, "--key", &key]).ok().stdout;
    assert!(with.starts_with("HTTP/2 200"), "{with}");
    files.leaf("stranger", "someone", "ca");
    let (certificate, key) = (files.path("stranger.crt"), files.path("stranger.key"));
    let stranger = curl(&server, &roots, &["--cert", &certificate, "--key", &key]);
    assert!(!stranger.stdout.contains(" 200"), "{stranger:?}");

    server.apply(&manifest("client_ca = \"files/clients.pem\""));
    assert_eq!(server.ask("app.localhost", "/").status, 403, "no way around it without TLS");
}

#[test]
fn browsers_are_told_to_come_by_https_alone_where_that_is_at_its_own_port() {
    let mut server = sample::server();
    // An address of loopback that no other test has.
    let [_, _, high, low] = std::process::id().to_be_bytes();
    server.https = SocketAddr::from(([127, 77, high, low.max(1)], 443));
    assert!(server.stop().success());
    server.spawn(&[]);
    let files = Files::new(&server);
    files.leaf("shop", "app.localhost", "ca");
    server.apply(&manifest(&format!("{SHOP}\nredirect = true\nhsts = \"180d\"")));
    let plain = server.ask("app.localhost", "/");
    assert_eq!((plain.status, plain.header("location")), (308, Some("https://app.localhost/")));
    assert_eq!(plain.header("strict-transport-security"), None, "not without TLS");
    let resolve = format!("app.localhost:443:{}", server.https.ip());
    let ca = files.path("ca.pem");
    let line = ["-sS", "-i", "--resolve", &resolve, "--cacert", &ca, "https://app.localhost/"];
    let answer = run(Command::new("curl").args(line)).ok().stdout.to_lowercase();
    assert!(answer.contains("strict-transport-security: max-age=15552000\r\n"), "{answer}");
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let server = sample::server();
    let files = Files::new(&server);
    for name in ["shop", "other"] {
        files.leaf(name, "app.localhost", "ca");
    }
    files.leaf("foreign", "else.localhost", "ca");
    fs::write(files.path("large.crt"), "-".repeat(1 << 20)).unwrap();
    fs::write(files.path("empty.crt"), "").unwrap();
    files.openssl("pkey -in shop.key -aes256 -passout pass:x -out locked.key");
    files.openssl("x509 -in shop.crt -outform der -out der.crt");
    let mixed = ["shop.crt", "other.crt"].map(|name| fs::read_to_string(files.path(name)).unwrap()).concat();
    fs::write(files.path("mixed.crt"), mixed).unwrap();
    for (certificate, key, code, says) in [
        ("large.crt", "shop.key", 2, "large.crt has 1048576 bytes; 65536 is the limit"),
        ("empty.crt", "shop.key", 2, "empty.crt: there is no certificate in it"),
        ("der.crt", "shop.key", 2, "der.crt: it isn't PEM"),
        ("none.crt", "shop.key", 2, "none.crt: No such file"),
        ("../../../../etc/passwd", "shop.key", 2, "there is no certificate in it"),
        ("shop.crt", "other.key", 1, "the private key doesn't belong to the certificate"),
        ("shop.crt", "locked.key", 1, "the private key is encrypted"),
        ("mixed.crt", "shop.key", 1, "the chain is out of order"),
        ("foreign.crt", "foreign.key", 1, "isn't for the host `app.localhost`: it is for else.localhost"),
    ] {
        let tls = format!("certificate = \"files/{certificate}\"\nkey = \"files/{key}\"");
        let path = server.manifest(&manifest(&tls));
        let said = server.minato(&["plan", path.to_str().unwrap()]);
        assert_eq!(said.code(), code, "{said:?}");
        assert!(said.stderr.contains(says) && said.stderr.contains("manifest.toml:"), "{}", said.stderr);
    }
    let path = server.manifest(&manifest(&format!("{SHOP}\nhsts = \"180d\"")));
    let said = server.minato(&["apply", path.to_str().unwrap()]);
    assert!(said.stderr.contains("`hsts` needs HTTPS on port 443"), "{}", said.stderr);
    let status = server.minato(&["status", "--json"]).ok().json();
    assert_eq!(status["apps"], serde_json::json!([]));
}

#[test]
fn a_key_rests_in_the_state_alone() {
    let server = sample::server();
    let files = Files::new(&server);
    files.leaf("shop", "app.localhost", "ca");
    let mut said = server.apply(&manifest(SHOP)).stdout;
    let key = fs::read_to_string(files.path("shop.key")).unwrap();
    let secret = key.lines().nth(1).unwrap();
    curl(&server, &files.path("ca.pem"), &[]).ok();
    files.leaf("shop", "app.localhost", "ca");
    let path = server.manifest(&manifest(SHOP));
    for words in [
        &["plan", path.to_str().unwrap(), "--json"] as &[&str],
        &["apply", path.to_str().unwrap(), "--json"],
        &["status", "--json"],
        &["why", "app/web", "--json"],
        &["events", "--json"],
    ] {
        said.push_str(&server.minato(words).ok().stdout);
    }
    let next = fs::read_to_string(files.path("shop.key")).unwrap();
    let secrets = [secret, next.lines().nth(1).unwrap()];
    assert!(said.contains("valid until"), "{said}");
    for secret in secrets {
        assert!(!said.contains(secret) && !said.contains("PRIVATE KEY"), "{said}");
    }
    let mut found = Vec::new();
    search(server.data(), &secrets, &mut found);
    for path in &found {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("state.db") || path.starts_with(&files.0), "{found:?}");
    }
    let state = server.data().join("state.db");
    assert_eq!(fs::metadata(state).unwrap().permissions().mode() & 0o077, 0);
}

/// The files below a folder that hold one of these words.
fn search(folder: &Path, words: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let known = fs::symlink_metadata(&path).unwrap();
        if known.is_dir() {
            search(&path, words, found);
        } else if known.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            if words.iter().any(|word| text.contains(word)) {
                found.push(path);
            }
        }
    }
}

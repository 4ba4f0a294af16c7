//! Certificates by ACME on a whole server, from Debian's `pebble`: both proofs, a renewal under a
//! connection that stays, and an authority that can't prove what it is asked for.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use minato_tests::{Server, free_address, run, sample, until};

/// A public authority, and the names that it looks up.
struct Pebble {
    folder: tempfile::TempDir,
    directory: SocketAddr,
    management: SocketAddr,
    processes: Vec<Child>,
}

impl Pebble {
    /// One that knows every name as this machine, and looks at these ports of it.
    fn start(http: u16, tls: u16, seconds: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [directory, management, names] = std::array::from_fn(|_| free_address());
        let certificate = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pebble.key -out pebble.pem -days 30 -subj /CN=pebble -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
        run(Command::new("openssl").args(certificate.split(' ')).current_dir(folder.path())).ok();
        let config = serde_json::json!({ "pebble": {
            "listenAddress": directory.to_string(),
            "managementListenAddress": management.to_string(),
            "certificate": "pebble.pem",
            "privateKey": "pebble.key",
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": seconds,
        }});
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut pebble = Self { directory, management, processes: Vec::new(), folder };
        let names = names.to_string();
        let dns = [
            "-dns01",
            &names,
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-management",
            "",
            "-defaultIPv6",
            "",
        ];
        let dns =
            Command::new("pebble-challtestsrv").args(dns).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        pebble.processes.push(dns.unwrap());
        let authority = Command::new("pebble")
            .args(["-config", "config.json", "-dnsserver", &names])
            .current_dir(pebble.folder.path())
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(log)
            .stderr(Stdio::null())
            .spawn();
        pebble.processes.push(authority.unwrap());
        until("pebble", || match run(&mut pebble.curl(&format!("https://{directory}/dir"))) {
            said if said.status.success() => Ok(()),
            said => Err(said.stderr),
        });
        pebble
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn curl(&self, url: &str) -> Command {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail", "--cacert", &self.path("pebble.pem"), url]);
        curl
    }

    /// A file with the root of what it issues.
    fn root(&self) -> String {
        let said = run(&mut self.curl(&format!("https://{}/roots/0", self.management))).ok();
        fs::write(self.path("root.pem"), said.stdout).unwrap();
        self.path("root.pem")
    }

    /// A server that asks it for `app.localhost`.
    fn server(&self, server: &mut Server, proof: &str) {
        let text = format!(
            "[tls]\nacme = {{ directory = \"https://{}/dir\", contact = [\"mailto:me@minato.dev\"], terms_agreed = true, \
             hosts = [\"app.localhost\"], ca = \"{}\", proof = \"{proof}\" }}\n",
            self.directory,
            self.path("pebble.pem"),
        );
        let path = self.path("minato.toml");
        fs::write(&path, text).unwrap();
        assert!(server.stop().success());
        server.spawn(&["--anonymous-push", "--config", &path]);
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            process.kill().unwrap_or_default();
            drop(process.wait());
        }
        if std::thread::panicking() {
            let log = fs::read(self.folder.path().join("log")).unwrap_or_default();
            std::io::stderr().write_all(&log).unwrap_or_default();
        }
    }
}

fn app(server: &Server) {
    // Even who sends everybody to HTTPS answers a proof without it.
    server.apply(&sample::manifest("1", "min = 0\nidle = \"1h\"", "tls = { redirect = true }"));
}

/// Asks the edge over TLS as a client that trusts these roots alone.
fn ask(server: &Server, roots: &str) -> Result<String, String> {
    let resolve = format!("app.localhost:{}:127.0.0.1", server.https.port());
    let url = format!("https://app.localhost:{}/", server.https.port());
    let line = ["-sS", "-i", "--max-time", "30", "--resolve", &resolve, "--cacert", roots, &url];
    let said = run(Command::new("curl").args(line));
    if said.status.success() { Ok(said.stdout) } else { Err(said.stderr) }
}

/// The host as the API tells it.
fn host(server: &Server) -> serde_json::Value {
    let status = server.minato(&["status", "app", "--json"]).ok().json();
    status["apps"][0]["services"][0]["tls"]["hosts"][0].clone()
}

fn events(server: &Server, kind: &str) -> Vec<String> {
    let said = server.minato(&["events", "--json"]).ok().stdout;
    said.lines().filter(|line| line.contains(&format!("\"{kind}\""))).map(str::to_owned).collect()
}

#[test]
fn a_host_is_proven_by_http_and_its_certificate_kept() {
    let mut server = sample::server();
    let pebble = Pebble::start(server.http.port(), server.https.port(), 90 * 86_400);
    pebble.server(&mut server, "http-01");
    app(&server);
    let root = pebble.root();
    let answer = until("a certificate by pebble", || ask(&server, &root));
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    let issued = host(&server);
    assert_eq!(issued["certificate"], "acme");
    assert!(server.why("app/web").contains("https://app.localhost: a certificate by ACME"));
    assert_eq!(events(&server, "acme_issued").len(), 1);
    let plain = server.ask("app.localhost", "/.well-known/acme-challenge/unknown");
    assert_ne!(plain.header("content-type"), Some("application/octet-stream"), "what isn't asked is routed");
    for entry in fs::read_dir(server.data().join("identity/acme")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }

    server.kill();
    server.spawn(&["--config", &pebble.path("minato.toml")]);
    ask(&server, &root).unwrap();
    assert_eq!(host(&server), issued);
    let before = server.upgrade(&["--config", &pebble.path("minato.toml")]);
    ask(&server, &root).unwrap();
    drop(before);
    assert_eq!(events(&server, "acme_issued").len(), 1, "it is kept, not asked for again");
    no_key_is_told(&server);
}

/// No key of the account or a host is in what the server wrote or says.
fn no_key_is_told(server: &Server) {
    let mut said = fs::read_to_string(server.log()).unwrap();
    for words in [&["events", "--json"] as &[&str], &["status", "--json"], &["why", "app/web"]] {
        said.push_str(&server.minato(words).ok().stdout);
    }
    let files = fs::read_dir(server.data().join("identity/acme")).unwrap();
    let files: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    for path in files {
        let text = fs::read_to_string(path).unwrap();
        let account = serde_json::from_str::<serde_json::Value>(&text);
        let secret = match &account {
            Ok(account) => account["key_pkcs8"].as_str().unwrap(),
            Err(_) => text.lines().nth(2).unwrap(),
        };
        assert!(secret.len() > 40 && !said.contains(secret));
    }
}

#[test]
fn a_host_is_proven_by_tls_and_renewed_in_time() {
    let mut server = sample::server();
    let pebble = Pebble::start(server.http.port(), server.https.port(), 24);
    pebble.server(&mut server, "tls-alpn-01");
    app(&server);
    let root = pebble.root();
    until("a certificate by pebble", || ask(&server, &root));
    let first = host(&server)["sha256"].clone();
    until("another before it ends", || {
        ask(&server, &root).unwrap_or_else(|error| panic!("nobody is refused meanwhile: {error}"));
        match host(&server)["sha256"].clone() {
            same if same == first => Err("the first".to_owned()),
            _ => Ok(()),
        }
    });
    ask(&server, &root).unwrap();
    assert!(events(&server, "acme_failed").is_empty());
}

#[test]
fn a_host_that_can_not_be_proven_keeps_the_clusters_certificate() {
    let mut server = sample::server();
    let pebble = Pebble::start(free_address().port(), free_address().port(), 90 * 86_400);
    pebble.server(&mut server, "http-01");
    app(&server);
    let failed = until("the failure", || events(&server, "acme_failed").pop().ok_or_else(String::new));
    assert!(failed.contains("couldn't prove it by http-01") && failed.contains("\"next\""), "{failed}");
    assert_eq!(host(&server)["certificate"], "cluster");
    let why = server.why("app/web");
    assert!(
        why.contains("a certificate of the cluster; no new one by ACME: the authority couldn't prove"),
        "{why}"
    );
    let roots = server.data().join("identity/root-0.crt");
    let answer = ask(&server, roots.to_str().unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
}

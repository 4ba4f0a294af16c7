//! Names inside the cluster: programs with glibc, with musl and of Node.js, each with its own way of
//! resolving them, ask services that don't run, and are refused what isn't theirs.

use std::{fmt::Write as _, net::TcpListener, path::Path};

use minato_tests::{
    Server,
    clients::Client,
    debian::{Made, packages},
    images, programs, run,
};

/// The services that ask, as their hosts and the services that only they ask are called.
const ASKERS: [&str; 3] = ["glibc", "musl", "node"];

fn service(name: &str, image: &str, further: &str) -> String {
    format!("[services.{name}]\nimage = \"{image}\"\n{further}\n[services.{name}.scale]\nidle = \"10m\"\n")
}

/// Pushes what asks and what is asked.
fn push(server: &Server) {
    let page = images::busybox(server.data());
    server.build(&page, "names/page:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    for (tag, musl) in [("glibc", false), ("musl", true)] {
        let program = programs::asker(server.data(), musl);
        server.build(&program, &format!("names/{tag}:1"), &["--port", "9000"]);
    }
    let buildah = Client::buildah();
    let image = format!("{}/names/node:1", server.api);
    let entrypoint = serde_json::json!(["/usr/bin/node", "-e", programs::asker_for_node()]).to_string();
    let tar = packages("nodejs", Made::Extracted);
    buildah.image(&image, &tar, &["--entrypoint", &entrypoint, "--port", "9000"]);
    buildah.run(["push", "--quiet", "--tls-verify=false", &image]);
}

/// What an instance got when it asked.
#[track_caller]
fn asked(server: &Server, by: &str, host: &str, port: u16) -> String {
    let answer = server.ask(&format!("{by}.localhost"), &format!("/{host}/{port}"));
    assert_eq!(answer.status, 200, "{}{}\n{}", answer.head, answer.text(), server.why(&format!("shop/{by}")));
    answer.text()
}

/// Where the node answers its instances, as they have it for resolving names.
fn gateway(data: &Path) -> String {
    let id = std::fs::read_to_string(data.join("id")).unwrap_or_default();
    let prefix = format!("mn{}", id.trim().get(..6).unwrap_or_default());
    let links = run(std::process::Command::new("ip").args(["-o", "-4", "address"])).ok().stdout;
    let found = links.lines().find(|line| line.contains(&prefix)).and_then(|line| {
        let address = line.split_whitespace().skip_while(|word| *word != "inet").nth(1)?;
        address.split('/').next().map(str::to_owned)
    });
    found.unwrap_or_else(|| panic!("no address of {prefix}: {links}"))
}

#[test]
fn services_are_asked_by_name_from_zero() {
    let server = Server::start();
    push(&server);
    let mut shop = "app = \"shop\"\n".to_owned();
    for by in ASKERS {
        let host = format!("hosts = [\"{by}.localhost\"]");
        shop += &service(by, &format!("names/{by}:1"), &host);
        shop += &service(&format!("for-{by}"), "names/page:1", "");
        shop += &service(&format!("own-{by}"), "names/page:1", "");
    }
    let only = "hosts = [\"only.localhost\"]\ncalls = [\"for-musl\", \"bank.open\"]";
    shop += &service("only", "names/musl:1", only);
    server.apply(&shop);
    let mut bank = "app = \"bank\"\n".to_owned();
    for name in ["vault", "open"] {
        write!(bank, "{}", service(name, "names/page:1", "")).unwrap_or_default();
    }
    server.apply(&bank);

    for by in ASKERS {
        for (name, port) in [("for", 80), ("own", 8080)] {
            let service = format!("shop/{name}-{by}");
            assert!(server.instances(&service).is_empty(), "{service} is at zero");
            let said = asked(&server, by, &format!("{name}-{by}.shop.internal"), port);
            assert!(said.starts_with("HTTP/1.1 200") && said.contains("from busybox"), "{by}: {said}");
            if by == "node" {
                let both = said.contains("\nresolve4 10.") && said.contains(" resolve6 ENODATA");
                assert!(both, "there are addresses of one family, and the name exists: {said}");
            }
            assert_eq!(server.count(&service, "ready"), 1, "{service} was started by the call");
        }
        let said = asked(&server, by, "vault.bank.internal", 80);
        assert!(said.starts_with("HTTP/1.1 403"), "{by}: {said}");
        let key = format!("`services.{by}.calls` in the manifest of app shop");
        for part in ["add \\\"bank.vault\\\" to", &*key] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = asked(&server, by, "nobody.shop.internal", 80);
        assert!(said.contains("no name") || said.contains("ENOTFOUND"), "{by}: {said}");
    }
    assert!(server.instances("bank/vault").is_empty(), "a refused call starts nothing");

    let said = asked(&server, "only", "open.bank.internal", 80);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let said = asked(&server, "only", "for-node.shop.internal", 80);
    assert!(said.starts_with("HTTP/1.1 403") && said.contains("`services.only.calls`"), "{said}");
    nothing_else_is_reached(&server);
}

/// Instances reach neither one another nor the node, but by the addresses of services.
fn nothing_else_is_reached(server: &Server) {
    let other = server.instances("shop/for-glibc");
    let address = other.first().and_then(|other| other["address"].as_str()).unwrap_or_default();
    let address = address.split(':').next().unwrap_or_default();
    assert!(!address.is_empty(), "{other:?}");
    let outside = run(std::process::Command::new("/bin/busybox")
        .args(["wget", "-q", "-O-"])
        .arg(format!("http://{address}:8080/")));
    assert!(
        outside.ok().stdout.contains("from busybox"),
        "the address is right: root on the node reaches it"
    );

    let gateway = gateway(server.data());
    let Ok(open) = TcpListener::bind("0.0.0.0:0") else { panic!("no port is free") };
    let open = open.local_addr().map(|address| address.port()).unwrap_or_default();
    let places = [
        (address, 8080),
        (&*gateway, server.api.port()),
        (&*gateway, server.http.port()),
        (&*gateway, open),
        ("127.0.0.1", server.api.port()),
    ];
    for by in ["musl", "node"] {
        for (host, port) in places {
            let said = asked(server, by, host, port);
            let refused = ["no connection", "ECONNREFUSED", "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT"];
            let refused = refused.iter().any(|word| said.contains(word)) || said.contains("EPERM");
            assert!(refused, "{by} reached {host}:{port}: {said}");
        }
    }
}

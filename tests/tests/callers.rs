//! Services call each other over TLS, at the virtual address: a program in an instance verifies whom it calls by the
//! files that it finds, and proves who it is. And a host without a certificate has one of the cluster's.

use std::process::Command;

use minato_tests::{
    Server,
    debian::{Made, packages},
    programs, run,
    watch::{id, until_ready},
};

#[test]
fn a_caller_is_named_if_it_proves_who_it_is() {
    let mut server = Server::start();
    let root = server.data().join("call");
    std::fs::create_dir(&root).unwrap();
    let tar = packages("python3", Made::Extracted);
    run(Command::new("tar").arg("-xf").arg(tar).arg("-C").arg(&root)).ok();
    std::fs::copy(programs::source("tls/call.py"), root.join("call.py")).unwrap();
    let entrypoint = r#"["/usr/bin/python3", "/call.py"]"#;
    server.build(&root, "tls/call:1", &["--entrypoint", entrypoint, "--port", "8080"]);
    std::fs::remove_dir_all(&root).unwrap();
    server.apply(
        "app = \"shop\"\n[services.front]\nimage = \"tls/call:1\"\nhosts = [\"shop.localhost\"]\n\
         env.CALLEE = \"cart.shop.internal\"\nscale = { min = 1, max = 1 }\n\
         [services.cart]\nimage = \"tls/call:1\"\n",
    );
    until_ready(&server, "shop/front", 1);
    let cluster = std::fs::read_to_string(server.data().join("identity/cluster")).unwrap();
    let cluster: serde_json::Value = serde_json::from_str(&cluster).unwrap();
    let cluster = cluster["cluster"].as_str().unwrap();
    // Across an upgrade the same addresses are listened at.
    for upgraded in [false, true] {
        if upgraded {
            let mut before = server.upgrade(&["--anonymous-push"]);
            assert!(before.wait().unwrap().success());
        }
        let front = id(&until_ready(&server, "shop/front", 1)[0]);
        let named = format!("spiffe://{cluster}/app/shop/service/front/instance/{front} https");
        for (path, answer) in [("/proven", &*named), ("/bare", "None https"), ("/claimed", "None https")] {
            let said = server.ask("shop.localhost", path);
            assert_eq!((said.status, &*said.text()), (200, answer), "{path}");
        }
        // From outside, with what the command line gives to trust.
        let roots = server.data().join("ca.pem");
        std::fs::write(&roots, server.minato(&["ca", "export"]).ok().stdout).unwrap();
        let port = server.https.port();
        let curl = |http: &str| {
            run(Command::new("curl")
                .args(["--silent", "--show-error", http, "--max-time", "20", "--noproxy", "*"])
                .args(["--resolve", &format!("shop.localhost:{port}:127.0.0.1"), "--cacert"])
                .arg(&roots)
                .arg(format!("https://shop.localhost:{port}/")))
        };
        for http in ["--http1.1", "--http2"] {
            assert_eq!(curl(http).ok().stdout, "None https", "{http}");
        }
    }
    assert!(server.stop().success());
}

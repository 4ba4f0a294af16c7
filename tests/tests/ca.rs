//! The cluster's authority on a whole server: exported, told, the same after a restart, and named when its
//! files are damaged.

use std::fs;

use minato_tests::{Server, watch::events_of};

#[test]
fn the_roots_are_exported_told_and_the_same_after_a_restart() {
    let mut server = Server::start();
    let pem = server.minato(&["ca", "export"]).ok().stdout;
    assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----\n").count(), 2, "{pem}");
    assert!(!pem.contains("PRIVATE"));
    let told = server.minato(&["ca", "export", "--json"]).ok().json();
    assert_eq!(told["pem"], pem.as_str());
    assert!(told["cluster"].as_str().unwrap().starts_with("minato-"), "{told}");
    assert_eq!(told["roots"].as_array().unwrap().len(), 2);
    assert_eq!(events_of(&server, "root_rotated").len(), 2);
    assert_eq!(events_of(&server, "intermediate_renewed").len(), 1);

    server.kill();
    server.spawn(&[]);
    assert_eq!(server.minato(&["ca", "export", "--json"]).ok().json(), told);
    assert_eq!(events_of(&server, "root_rotated").len(), 2, "nothing was made anew");

    server.kill();
    let root = server.data().join("identity/root-0.crt");
    let kept = fs::read(&root).unwrap();
    fs::write(&root, "nothing").unwrap();
    assert!(!server.spawn_armed(&[]), "a damaged root is no reason to make another");
    let log = fs::read_to_string(server.log()).unwrap();
    assert!(log.contains("root-0.crt: it is no certificate in PEM; put both files"), "{log}");
    fs::write(&root, kept).unwrap();
    server.spawn(&[]);
    assert_eq!(server.minato(&["ca", "export", "--json"]).ok().json(), told);
}

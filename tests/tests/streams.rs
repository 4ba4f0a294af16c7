//! Streams outlive what replaces their instance, as long as they may.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use minato_tests::{
    Server,
    sample::{self, Load, failed, manifest, now},
    socket::{Frame, Socket},
    until,
    watch::{id, ready, until_ready},
};

/// The second release is in force, and the first instance streams on.
fn deployed(server: &Server, further: &str) {
    server.apply(&manifest("2", "min = 1", further));
    assert!(server.ask("app.localhost", "/").text().starts_with("2 "));
}

#[test]
fn a_websocket_survives_a_deploy_until_its_time_is_over() {
    let server = sample::server();
    let further = "drain = \"1s\"\ndrain_streams = \"6s\"";
    server.apply(&manifest("1", "min = 1", further));
    let old = id(&until_ready(&server, "app/web", 1)[0]);
    let mut socket = Socket::open(server.http, "app.localhost");
    let mut echoes = |text: &str| {
        socket.send(text).unwrap();
        assert_eq!(socket.read().unwrap(), Frame::Text(text.to_owned()));
    };
    echoes("before");
    let load = Load::start(&server, 2, "app.localhost", "/slow?10");
    let begun = now();
    deployed(&server, further);
    until("the drain of requests to be long over", || {
        echoes("during");
        let over = begun.elapsed() > Duration::from_secs(3);
        if over { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert!(server.instances("app/web").iter().any(|one| id(one) == old && one["state"] == "draining"));
    assert_eq!(socket.read().unwrap(), Frame::Close(1001));
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(40)).contains(&took), "{took:?}");
    until("the old one to stop", || match server.instances("app/web").iter().find(|one| id(one) == old) {
        Some(one) if one["state"] == "stopped" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let shots = load.end();
    assert!(failed(&shots).is_empty(), "{:?}", failed(&shots).first());
}

#[test]
fn a_stream_that_ends_lets_its_instance_go_at_once() {
    let server = sample::server();
    let further = "drain = \"1s\"\ndrain_streams = \"1h\"";
    server.apply(&manifest("1", "min = 1", further));
    let old = id(&until_ready(&server, "app/web", 1)[0]);
    let mut ticks = TcpStream::connect(server.http).unwrap();
    ticks.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    ticks.write_all(b"GET /ticks HTTP/1.1\r\nHost: app.localhost\r\n\r\n").unwrap();
    let mut some = [0; 64];
    ticks.read_exact(&mut some).unwrap();
    deployed(&server, further);
    let begun = now();
    until("more than requests may take", || {
        ticks.read_exact(&mut some).unwrap();
        if begun.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    assert_eq!(ready(&server, "app/web").len(), 1);
    drop(ticks);
    until("the old one to stop", || match server.instances("app/web").iter().find(|one| id(one) == old) {
        Some(one) if one["state"] == "stopped" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

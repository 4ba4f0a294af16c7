//! A service of plain TCP on a whole server: from zero, on a port of its own, across an upgrade, and gone with its app.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpStream},
};

use minato_tests::{free_address, sample, until};

fn manifest(port: u16) -> String {
    format!(
        "app = \"app\"\n[services.web]\nimage = \"app/sample:1\"\nprotocol = \"tcp\"\nlisten = {port}\n\
         [services.web.env]\nVERSION = \"1\"\n[services.web.scale]\nmin = 0\nidle = \"1h\"\n"
    )
}

/// The first line of what the sample answers: it speaks HTTP, of which nothing here knows.
fn first_line(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn connect(address: SocketAddr) -> TcpStream {
    until("the port to be listened at", || TcpStream::connect(address).map_err(|error| error.to_string()))
}

#[test]
fn a_service_of_plain_tcp_is_reached_at_its_own_port() {
    let mut server = sample::server();
    let address = free_address();
    server.apply(&manifest(address.port()));
    let mut kept = connect(address);
    assert_eq!(first_line(&mut kept), "HTTP/1.1 200 OK\r\n", "a connection starts what answers it");
    let status = server.minato(&["status", "app", "--json"]).ok().stdout;
    assert!(status.contains(&format!("tcp://{address}")), "{status}");
    let other = manifest(address.port()).replace("app = \"app\"", "app = \"other\"");
    let other = server.manifest(&other);
    let said = server.minato(&["apply", other.to_str().unwrap()]);
    assert!(said.stderr.contains(&format!("port {} belongs to app/web already", address.port())), "{said:?}");
    let before = server.upgrade(&[]);
    assert_eq!(first_line(&mut connect(address)), "HTTP/1.1 200 OK\r\n", "the successor listens there");
    assert_eq!(first_line(&mut kept), "HTTP/1.1 200 OK\r\n", "what was connected stays");
    drop((kept, before));
    server.minato(&["delete", "app"]).ok();
    until("the port to be closed", || match TcpStream::connect(address) {
        Err(_) => Ok(()),
        Ok(_) => Err("it is open".to_owned()),
    });
}

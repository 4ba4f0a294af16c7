//! The static image's only program: answers every request with `ok`, one connection after the other.
//! The benchmarks compile it alone, without Cargo and without shared libraries.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080u16);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { continue };
        let mut head = [0; 4096];
        let mut length = 0;
        while length < head.len() && !head[..length].windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut head[length..]) {
                Ok(0) | Err(_) => break,
                Ok(count) => length += count,
            }
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n");
    }
    Ok(())
}

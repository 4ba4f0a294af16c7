//! A server in one file: what a program that `minato build` packs looks like.

use std::io::{Read, Write};

fn main() {
    let port = std::env::var("PORT").expect("PORT is set");
    let port: u16 = port.parse().expect("PORT is a number");
    let listener = std::net::TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let mut stream = stream;
            let mut head = Vec::new();
            let mut bytes = [0; 1024];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(count) if count > 0 => head.extend_from_slice(&bytes[..count]),
                    _ => return,
                }
            }
            let body = format!("from Rust on {port}\n");
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length";
            drop(write!(stream, "{head}: {}\r\n\r\n{body}", body.len()));
        });
    }
}

//! A static server that serves many at once: keeps connections open, a thread for each, and says in every
//! answer which instance it is. `/wait/N` answers after N milliseconds. Compiled alone, as `ok.rs` is.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

unsafe extern "C" {
    fn listen(socket: i32, backlog: i32) -> i32;
}

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080u16);
    let name = std::env::var("MINATO_INSTANCE").unwrap_or_default();
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    // The standard library's backlog of 128 loses connections when a thousand come at once.
    // SAFETY: a plain system call on a descriptor that lives until the end.
    unsafe { listen(listener.as_raw_fd(), 4096) };
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let name = name.clone();
        // Where there is no thread to be had the connection is dropped, and whoever asked sees it.
        let _ = thread::Builder::new().stack_size(64 << 10).spawn(move || serve(&stream, &name));
    }
    Ok(())
}

fn serve(mut stream: &TcpStream, name: &str) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::with_capacity(4096, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default();
        let wait = path.strip_prefix("/wait/").and_then(|text| text.parse().ok());
        while line != "\r\n" {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        if let Some(wait) = wait {
            thread::sleep(Duration::from_millis(wait));
        }
        let length = name.len();
        stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{name}").as_bytes())?;
    }
}

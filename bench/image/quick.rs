//! A static server that costs little: one thread, one epoll, answers that are written beforehand. `/small`
//! is 128 bytes, `/large` 256 KiB, whatever the method; a request's body is read and dropped. Compiled
//! alone, as `ok.rs` is.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Event {
    events: u32,
    data: u64,
}

const IN: u32 = 1;
const OUT: u32 = 4;
const ADD: i32 = 1;
const CHANGE: i32 = 3;

unsafe extern "C" {
    fn listen(socket: i32, backlog: i32) -> i32;
    fn epoll_create1(flags: i32) -> i32;
    fn epoll_ctl(epoll: i32, operation: i32, descriptor: i32, event: *mut Event) -> i32;
    fn epoll_wait(epoll: i32, events: *mut Event, most: i32, timeout: i32) -> i32;
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    /// Bytes of a body that are still to come.
    skip: usize,
    written: Vec<u8>,
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

fn answer(length: usize) -> Vec<u8> {
    let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + length, b'x');
    answer
}

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080u16);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    listener.set_nonblocking(true)?;
    // SAFETY: plain system calls; each descriptor and each buffer outlives its call.
    let epoll = unsafe {
        listen(listener.as_raw_fd(), 4096);
        epoll_create1(0)
    };
    let watch = |operation, descriptor: i32, events| {
        let mut event = Event { events, data: descriptor as u64 };
        // SAFETY: as above.
        unsafe { epoll_ctl(epoll, operation, descriptor, &mut event) };
    };
    watch(ADD, listener.as_raw_fd(), IN);
    let answers = Answers { small: answer(128), large: answer(256 << 10) };
    let mut connections: HashMap<i32, Connection> = HashMap::new();
    let mut events = [Event { events: 0, data: 0 }; 256];
    loop {
        // SAFETY: as above.
        let count = unsafe { epoll_wait(epoll, events.as_mut_ptr(), 256, -1) };
        for event in events.iter().take(usize::try_from(count).unwrap_or(0)) {
            let descriptor = event.data as i32;
            if descriptor == listener.as_raw_fd() {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = (stream.set_nonblocking(true), stream.set_nodelay(true));
                    watch(ADD, stream.as_raw_fd(), IN);
                    let (read, written) = (Vec::new(), Vec::new());
                    connections.insert(stream.as_raw_fd(), Connection { stream, read, skip: 0, written });
                }
            } else if let Some(connection) = connections.get_mut(&descriptor) {
                let waited = !connection.written.is_empty();
                if !connection.go_on(&answers) {
                    connections.remove(&descriptor);
                } else if waited == connection.written.is_empty() {
                    watch(CHANGE, descriptor, if waited { IN } else { IN | OUT });
                }
            }
        }
    }
}

impl Connection {
    /// Reads what there is and answers it; whether there may be more.
    fn go_on(&mut self, answers: &Answers) -> bool {
        let mut buffer = [0; 65_536];
        loop {
            if !self.flush() {
                return false;
            }
            if !self.written.is_empty() {
                return true;
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => {
                    self.read.extend_from_slice(&buffer[..length]);
                    self.take(answers);
                    if length < buffer.len() {
                        return self.flush();
                    }
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    /// Takes whole requests, and adds their answers.
    fn take(&mut self, answers: &Answers) {
        loop {
            let skipped = self.skip.min(self.read.len());
            self.read.drain(..skipped);
            self.skip -= skipped;
            let end = self.read.windows(4).position(|window| window == b"\r\n\r\n");
            let Some(end) = end.filter(|_| self.skip == 0) else { return };
            let head = String::from_utf8_lossy(&self.read[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            let large = head.split(' ').nth(1) == Some("/large");
            self.skip = length.unwrap_or(0);
            self.read.drain(..end + 4);
            self.written.extend_from_slice(if large { &answers.large } else { &answers.small });
        }
    }

    fn flush(&mut self) -> bool {
        while !self.written.is_empty() {
            match self.stream.write(&self.written) {
                Ok(0) => return false,
                Ok(length) => drop(self.written.drain(..length)),
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
    }
}

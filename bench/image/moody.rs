//! A static server with moods, which whoever reaches it directly sets: `/mood/well`, `/mood/503` (or another
//! status: what it answers from then on), `/mood/slow` (300 ms later). `/work` takes 20 ms, four at a time, as a
//! program with four workers does. Compiled alone, as `ok.rs` is.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

unsafe extern "C" {
    fn listen(socket: i32, backlog: i32) -> i32;
}

static STATUS: AtomicU16 = AtomicU16::new(200);
static LATER: AtomicU64 = AtomicU64::new(0);
static WORKERS: Mutex<u32> = Mutex::new(4);
static FREE: Condvar = Condvar::new();

fn main() -> std::io::Result<()> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080u16);
    let listener = TcpListener::bind(("0.0.0.0", port))?;
    // SAFETY: a plain system call on a descriptor that lives until the end.
    unsafe { listen(listener.as_raw_fd(), 4096) };
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        // Where there is no thread to be had the connection is dropped, and whoever asked sees it.
        let _ = thread::Builder::new().stack_size(64 << 10).spawn(move || serve(&stream));
    }
    Ok(())
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::with_capacity(4096, stream);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        while line != "\r\n" {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
        }
        let status = answer(&path);
        stream.write_all(format!("HTTP/1.1 {status} x\r\nContent-Length: 2\r\n\r\nok").as_bytes())?;
    }
}

fn answer(path: &str) -> u16 {
    match path.strip_prefix("/mood/") {
        Some(mood) => {
            STATUS.store(mood.parse().unwrap_or(200), SeqCst);
            LATER.store(if mood == "slow" { 300 } else { 0 }, SeqCst);
            200
        }
        None => {
            if path == "/work" {
                work();
            }
            thread::sleep(Duration::from_millis(LATER.load(SeqCst)));
            STATUS.load(SeqCst)
        }
    }
}

fn work() {
    let Ok(mut workers) = WORKERS.lock() else { return };
    while *workers == 0 {
        let Ok(again) = FREE.wait(workers) else { return };
        workers = again;
    }
    *workers -= 1;
    drop(workers);
    thread::sleep(Duration::from_millis(20));
    if let Ok(mut workers) = WORKERS.lock() {
        *workers += 1;
    }
    FREE.notify_one();
}

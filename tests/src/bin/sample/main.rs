//! A service for tests: its answers say who gave them, and its paths make it slow, loud, greedy or
//! dead. It handles no signals: as a first process it would ignore SIGTERM, so tests give it
//! `init = true`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it writes is what tests read")]

mod strain;

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// The key of RFC 6455's example and its answer: the one handshake that this service can do.
const KEY: (&str, &str) = ("dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");

/// Nothing is answered any more.
static STUCK: AtomicBool = AtomicBool::new(false);
/// `/healthz` says so, and nothing else does.
static SICK: AtomicBool = AtomicBool::new(false);
/// Everything is answered with 503.
static FAILING: AtomicBool = AtomicBool::new(false);
/// Each later answer takes so many milliseconds more.
static LAG: AtomicU64 = AtomicU64::new(0);

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    println!("sample {} begins", variable("VERSION"));
    if let Ok(status) = variable("EXIT_AT_ONCE").parse() {
        eprintln!("it was told to end with {status}");
        exit(status);
    }
    pause(variable("BEGIN_AFTER_MS").parse().unwrap_or(0));
    let port = variable("PORT").parse().unwrap_or(8080);
    let Ok(listener) = TcpListener::bind(("0.0.0.0", port)) else {
        eprintln!("port {port} can't be had");
        exit(1);
    };
    // Room for a thousand clients at once: the standard library's 128 are too few.
    rustix::net::listen(&listener, 4_096).unwrap_or_default();
    for stream in listener.incoming().flatten() {
        drop(std::thread::Builder::new().stack_size(256 << 10).spawn(move || drop(serve(stream))));
    }
}

#[expect(clippy::disallowed_methods, reason = "being slow is what is asked for")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Answers requests until the client closes.
fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let (mut target, mut key, mut length) = (None, None, 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                target = line.split(' ').nth(1).map(str::to_owned);
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "sec-websocket-key" => key = Some(value.trim().to_owned()),
                "content-length" => length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
        io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
        if let Some(key) = key {
            return echo(reader, &key);
        }
        let target = target.unwrap_or_default();
        if target.starts_with("/ticks") {
            return ticks(&mut reader);
        }
        let lag = LAG.load(Relaxed);
        let body = answer(&target);
        pause(lag);
        while STUCK.load(Relaxed) {
            pause(1_000);
        }
        let sick = (target == "/healthz" && SICK.load(Relaxed)) || FAILING.load(Relaxed);
        let status = if sick { "503 Service Unavailable" } else { "200 OK" };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", body.len());
        reader.get_mut().write_all(format!("{head}{body}").as_bytes())?;
    }
}

#[expect(clippy::exit, reason = "ending with a status is what is asked for")]
fn exit(status: i32) -> ! {
    std::process::exit(status)
}

/// Does what the path says, and says who did it.
fn answer(target: &str) -> String {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number: u64 = query.parse().unwrap_or(0);
    match path {
        "/slow" => pause(number),
        "/say" => println!("{query}"),
        "/complain" => eprintln!("{query}"),
        "/flood" => {
            let line = "x".repeat(1_000);
            (0..number).for_each(|n| println!("{n} {line}"));
        }
        "/exit" => exit(i32::try_from(number).unwrap_or(1)),
        "/abort" => std::process::abort(),
        "/eat" => eat(),
        "/stick" => STUCK.store(true, Relaxed),
        "/lag" => LAG.store(number, Relaxed),
        "/sick" => SICK.store(number == 1, Relaxed),
        "/fail" => FAILING.store(number == 1, Relaxed),
        "/burn" => return strain::burn(number),
        "/files" => return strain::files(number),
        "/threads" => return strain::threads(number),
        "/fill" => return strain::fill(number),
        _ => {}
    }
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    format!("{} {} {}\n", variable("VERSION"), variable("MINATO_RELEASE"), variable("MINATO_INSTANCE"))
}

/// Takes memory until it is stopped.
fn eat() {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1_u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// Server-sent events, ten a second, until the client goes.
fn ticks(reader: &mut BufReader<TcpStream>) -> io::Result<()> {
    let stream = reader.get_mut();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")?;
    loop {
        stream.write_all(b"data: tick\n\n")?;
        pause(100);
    }
}

/// Gives back what a client sends on a WebSocket: short frames, unmasked.
fn echo(mut reader: BufReader<TcpStream>, key: &str) -> io::Result<()> {
    if key != KEY.0 {
        return reader.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    }
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n";
    reader.get_mut().write_all(format!("{head}sec-websocket-accept: {}\r\n\r\n", KEY.1).as_bytes())?;
    loop {
        let mut head = [0; 6];
        reader.read_exact(&mut head)?;
        let [kind, length, mask @ ..] = head;
        let length = length & 0x7f;
        let mut text = vec![0; usize::from(length)];
        reader.read_exact(&mut text)?;
        text.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        reader.get_mut().write_all(&[&[kind, length], text.as_slice()].concat())?;
        if kind & 0x0f == 8 {
            return Ok(());
        }
    }
}

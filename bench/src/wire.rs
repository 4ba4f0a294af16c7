//! A client of HTTP/1.1 as small as a benchmark needs: requests without a body, answers with a length or
//! until the end of the connection.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::net::RecvFlags;

use crate::patience::now;

/// How long an answer may take; longer than the edge lets a request wait.
const ANSWER_MAX: Duration = Duration::from_secs(35);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
    /// Whether the connection stays open for another request.
    pub(crate) reusable: bool,
}

/// A connection that may be used again and again.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    /// When the last answer's first byte was there.
    pub(crate) first: Option<Instant>,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { stream, received: Vec::new(), first: None })
    }

    /// Whether the other side hasn't closed it while nothing was asked.
    pub(crate) fn stands(&self) -> bool {
        let mut byte = [0];
        match rustix::net::recv(&self.stream, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok(_) => false,
            Err(error) => error == rustix::io::Errno::AGAIN,
        }
    }

    /// Asks, and waits for the whole answer.
    pub(crate) fn ask(&mut self, request: &str) -> io::Result<Answer> {
        self.received.clear();
        self.first = None;
        self.stream.write_all(request.as_bytes())?;
        let mut chunk = [0; 16 << 10];
        loop {
            let count = self.stream.read(&mut chunk)?;
            self.first.get_or_insert_with(now);
            self.received.extend_from_slice(&chunk[..count]);
            if let Some(answer) = answer(&self.received, count == 0)? {
                return Ok(answer);
            }
        }
    }
}

/// A GET.
pub(crate) fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// The answer in what was received, once it is whole; `ended`: nothing follows.
pub(crate) fn answer(received: &[u8], ended: bool) -> io::Result<Option<Answer>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return if ended { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    let body = &received[end + 4..];
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, head.clone()))?;
    let length = field(&head, "content-length").and_then(|length| length.parse::<usize>().ok());
    let whole = length.map_or(ended, |length| body.len() >= length);
    if !whole {
        return if ended { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(None) };
    }
    let closes = field(&head, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let body = String::from_utf8_lossy(body).into_owned();
    Ok(Some(Answer { status, head, body, reusable: length.is_some() && !closes }))
}

/// A header's value.
fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// The phases of `Server-Timing`, as in `name;dur=1.5, other;dur=2`, in milliseconds; none where nothing
/// had to start.
pub(crate) fn phases(head: &str) -> Vec<(String, f64)> {
    let phase = |text: &str| {
        let (name, time) = text.trim().split_once(";dur=")?;
        Some((name.to_owned(), time.parse().ok()?))
    };
    field(head, "server-timing").map(|line| line.split(',').filter_map(phase).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{answer, phases};

    #[test]
    fn phases_are_read() {
        let head = "HTTP/1.1 200 OK\r\nserver-timing: start;dur=4.5, taken;dur=1\r\n\r\nok";
        assert_eq!(phases(head), [("start".to_owned(), 4.5), ("taken".to_owned(), 1.0)]);
        assert_eq!(phases("HTTP/1.1 200 OK\r\n\r\n"), []);
    }

    #[test]
    fn an_answer_ends_where_it_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let found = answer(whole, false).unwrap().unwrap();
        assert_eq!((found.status, &*found.body, found.reusable), (200, "ok", true));
        assert!(answer(&whole[..whole.len() - 1], false).unwrap().is_none());
        assert!(answer(&whole[..whole.len() - 1], true).is_err(), "cut off");
        let until_the_end = b"HTTP/1.1 503 No\r\n\r\nlater";
        assert!(answer(until_the_end, false).unwrap().is_none());
        let found = answer(until_the_end, true).unwrap().unwrap();
        assert_eq!((found.status, &*found.body, found.reusable), (503, "later", false));
    }
}

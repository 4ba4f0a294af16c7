//! A WebSocket to the sample service, byte by byte: short frames only.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// One end of it, the client's.
#[derive(Debug)]
pub struct Socket(BufReader<TcpStream>);

/// What the other side said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text.
    Text(String),
    /// The end, and its status.
    Close(u16),
}

impl Socket {
    /// Opens one.
    ///
    /// # Panics
    /// When the handshake fails.
    #[must_use]
    pub fn open(address: SocketAddr, host: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut reader = BufReader::new(stream);
        let head = format!(
            "GET /echo HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 101 "), "{line}");
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        Self(reader)
    }

    /// Sends a short text.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        let length = u8::try_from(text.len()).unwrap() | 0x80;
        // A mask of zeros changes nothing.
        self.0.get_mut().write_all(&[&[0x81, length, 0, 0, 0, 0], text.as_bytes()].concat())
    }

    /// Reads what comes next.
    ///
    /// # Errors
    /// When nothing comes within a minute, or the connection ends without a word.
    pub fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head)?;
        let [kind, length] = head;
        let mut data = vec![0; usize::from(length)];
        self.0.read_exact(&mut data)?;
        Ok(match (kind & 0x0f, data.as_slice()) {
            (8, [high, low, ..]) => Frame::Close(u16::from_be_bytes([*high, *low])),
            _ => Frame::Text(String::from_utf8_lossy(&data).into_owned()),
        })
    }
}

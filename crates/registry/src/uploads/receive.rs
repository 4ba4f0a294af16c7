//! From a request's body to the disk: pieces of a bounded size, of which one is written and hashed on
//! a blocking thread while the next arrives. A slow client holds no thread, a slow disk slows its client.

use std::{io, time::Duration};

use axum::body::Body;
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::Writing;

/// Large enough that a hand-over to another thread costs nothing beside it.
const PIECE: usize = 1 << 20;

/// Why a body was not received to its end. What had arrived is kept unless it could not be stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("nothing came for {} seconds", .0.as_secs())]
    Idle(Duration),
    #[error("the body broke off")]
    Broken(#[source] axum::Error),
    #[error("the body is longer than the {0} bytes that it may have")]
    TooLong(u64),
    #[error("the upload can't be stored")]
    Storage(#[from] io::Error),
}

/// Appends the body to the upload; at most `room` bytes of it.
pub(crate) async fn receive(
    writing: Writing,
    body: Body,
    room: u64,
    idle: Duration,
) -> Result<Writing, ReceiveError> {
    let mut stream = body.into_data_stream();
    let mut sink = Sink { state: Some(State::Idle(writing, Vec::new())) };
    let mut piece = Vec::new();
    let mut received = 0;
    let ended = loop {
        let bytes = match tokio::time::timeout(idle, stream.next()).await {
            Err(_) => break Err(ReceiveError::Idle(idle)),
            Ok(None) => break Ok(()),
            Ok(Some(Err(source))) => break Err(ReceiveError::Broken(source)),
            Ok(Some(Ok(bytes))) => bytes,
        };
        received += bytes.len() as u64;
        if received > room {
            break Err(ReceiveError::TooLong(room));
        }
        piece.extend_from_slice(&bytes);
        if piece.len() >= PIECE {
            piece = sink.write(piece).await?;
        }
    };
    // Also after an error: a client that comes back goes on where it was cut off.
    if !piece.is_empty() {
        sink.write(piece).await?;
    }
    let (writing, _) = sink.settle().await?;
    ended.map(|()| writing)
}

/// The upload and at most one piece being written.
struct Sink {
    /// `None` only while a piece is handed over.
    state: Option<State>,
}

enum State {
    Idle(Writing, Vec<u8>),
    Busy(JoinHandle<io::Result<(Writing, Vec<u8>)>>),
}

impl Sink {
    /// Begins to write a piece; gives an empty buffer for the next.
    async fn write(&mut self, piece: Vec<u8>) -> io::Result<Vec<u8>> {
        let (mut writing, mut spare) = self.settle().await?;
        self.state = Some(State::Busy(tokio::task::spawn_blocking(move || {
            writing.write(&piece)?;
            Ok((writing, piece))
        })));
        spare.clear();
        Ok(spare)
    }

    /// Waits until all that was handed over is on its way to the disk.
    async fn settle(&mut self) -> io::Result<(Writing, Vec<u8>)> {
        match self.state.take() {
            Some(State::Idle(writing, spare)) => Ok((writing, spare)),
            Some(State::Busy(task)) => task.await.map_err(io::Error::other)?,
            None => Err(io::Error::other("the upload was lost by an earlier error")),
        }
    }
}

//! A connection between two servers: messages with a length before them, and descriptors with some.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

/// A message's greatest length, in bytes: a table of 100,000 routes is half of it.
const MESSAGE_MAX: usize = 128 << 20;
/// Descriptors in one message, fewer than the kernel's 253.
pub(super) const DESCRIPTORS_MAX: usize = 64;
/// As much is read at once, in bytes.
const PIECE: usize = 64 << 10;
/// Length, and number of descriptors.
const HEAD: usize = 5;

/// The end that is read from.
#[derive(Debug)]
pub(super) struct Reader {
    stream: Arc<UnixStream>,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// The end that is written to.
#[derive(Debug)]
pub(super) struct Writer {
    stream: Arc<UnixStream>,
}

/// A connection's two ends.
pub(super) fn split(stream: UnixStream) -> (Reader, Writer) {
    let stream = Arc::new(stream);
    let reader = Reader { stream: Arc::clone(&stream), bytes: Vec::new(), descriptors: VecDeque::new() };
    (reader, Writer { stream })
}

impl Reader {
    /// The next message and its descriptors; `None`: the other side is gone. Cancel-safe.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let stream = Arc::clone(&self.stream);
            let (bytes, descriptors) = (&mut self.bytes, &mut self.descriptors);
            if stream.async_io(Interest::READABLE, || read(&stream, bytes, descriptors)).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// A whole message of what was read.
    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [a, b, c, d, count] = *head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a message is not well formed");
        if length > MESSAGE_MAX {
            return Err(wrong());
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(text).map_err(io::Error::other)?;
        let count = usize::from(count);
        if self.descriptors.len() < count {
            return Err(wrong());
        }
        let descriptors = self.descriptors.drain(..count).collect();
        self.bytes.drain(..HEAD + length);
        Ok(Some((message, descriptors)))
    }
}

/// Reads a piece; how many bytes.
fn read(stream: &UnixStream, bytes: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
    let begun = bytes.len();
    bytes.resize(begun + PIECE, 0);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let piece = bytes.get_mut(begun..).unwrap_or_default();
    let received = recvmsg(stream.as_fd(), &mut [IoSliceMut::new(piece)], &mut control, flags);
    bytes.truncate(begun + received.as_ref().map_or(0, |received| received.bytes));
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let received = received?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("more descriptors came than there is room for"));
    }
    Ok(received.bytes)
}

impl Writer {
    /// Sends a message; at most [`DESCRIPTORS_MAX`] descriptors go with it.
    pub(super) async fn send(
        &mut self,
        message: &impl Serialize,
        descriptors: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let mut bytes = vec![0; HEAD];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() - HEAD;
        let count =
            u8::try_from(descriptors.len()).ok().filter(|count| usize::from(*count) <= DESCRIPTORS_MAX);
        let (Some(count), Ok(head), true) = (count, u32::try_from(length), length <= MESSAGE_MAX) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is longer than allowed"));
        };
        for (place, byte) in bytes.iter_mut().zip(head.to_le_bytes().into_iter().chain([count])) {
            *place = byte;
        }
        let (mut rest, mut descriptors) = (bytes.as_slice(), descriptors);
        while !rest.is_empty() {
            let write = || write(&self.stream, rest, descriptors);
            let sent = self.stream.async_io(Interest::WRITABLE, write).await?;
            rest = rest.get(sent..).unwrap_or_default();
            // They went with the first byte.
            descriptors = &[];
        }
        Ok(())
    }
}

fn write(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("there are more descriptors than there is room for"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(stream.as_fd(), &[IoSlice::new(bytes)], &mut control, flags)?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use tokio::net::UnixStream;

    use super::{DESCRIPTORS_MAX, split};

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order_with_their_own_descriptors() {
        let (one, other) = UnixStream::pair().unwrap();
        let ((_, mut writer), (mut reader, _)) = (split(one), split(other));
        let file = std::fs::File::open("/dev/null").unwrap();
        let send = async {
            for length in [0, 1, 1 << 20] {
                writer.send(&"x".repeat(length), &[]).await.unwrap();
                writer.send(&length, &vec![file.as_fd(); DESCRIPTORS_MAX]).await.unwrap();
            }
            assert!(writer.send(&1, &vec![file.as_fd(); DESCRIPTORS_MAX + 1]).await.is_err());
            drop(writer);
        };
        let receive = async {
            for length in [0, 1, 1 << 20] {
                let (text, none) = reader.next::<String>().await.unwrap().unwrap();
                assert_eq!((text.len(), none.len()), (length, 0));
                let (number, all) = reader.next::<usize>().await.unwrap().unwrap();
                assert_eq!((number, all.len()), (length, DESCRIPTORS_MAX));
            }
        };
        tokio::join!(send, receive);
    }

    #[tokio::test]
    async fn the_end_is_told_and_nonsense_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, _writer) = split(other);
        one.try_write(b"\xff\xff\xff\xff\0{}").unwrap();
        assert!(reader.next::<String>().await.is_err());
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, _writer) = split(other);
        drop(one);
        assert!(reader.next::<String>().await.unwrap().is_none());
    }
}

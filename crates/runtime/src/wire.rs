//! Messages with descriptors over a socket that keeps their bounds: how server, keeper and init speak.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use serde::{Serialize, de::DeserializeOwned};

/// The largest message, in bytes: below what a socket takes with the kernel's default buffers.
pub(crate) const MESSAGE_MAX: usize = 192 * 1024;

/// The most descriptors in a message.
const FDS_MAX: usize = 4;

/// What was received.
#[derive(Debug)]
pub(crate) struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its descriptors, all of them closed on exec.
    pub fds: Vec<OwnedFd>,
}

/// Two connected sockets.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message; `EAGAIN` if that would block and the flags say not to.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// Receives one message; `None`: the other end is closed.
pub(crate) fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Option<Message>> {
    // Its length first: the longest would be written over, page by page, for each short one.
    let length = loop {
        match recv(&socket, &mut [0; 1], flags | RecvFlags::PEEK | RecvFlags::TRUNC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?.1,
        }
    };
    let mut bytes = vec![0; length.clamp(1, MESSAGE_MAX)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was longer than allowed"));
    }
    bytes.truncate(received.bytes);
    Ok(Some(Message { bytes, fds }))
}

/// A message as bytes: the length of its head, the head as JSON, then the blob as it is.
pub(crate) fn encode(head: &impl Serialize, blob: &[u8]) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, head)?;
    let length = u32::try_from(bytes.len() - 4).map_err(|_| io::ErrorKind::InvalidInput)?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(blob);
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is longer than allowed"));
    }
    Ok(bytes)
}

/// The head and the blob of a message.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "a message is not well formed");
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(invalid)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| invalid())?;
    let (head, blob) = rest.split_at_checked(length).ok_or_else(invalid)?;
    Ok((serde_json::from_slice(head).map_err(|_| invalid())?, blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_arrive_whole_with_their_descriptors() {
        let (one, other) = pair().unwrap();
        for length in [1, 64, MESSAGE_MAX / 2] {
            send(&one, &vec![7; length], &[one.as_fd()], SendFlags::empty()).unwrap();
            let message = receive(&other, RecvFlags::empty()).unwrap().unwrap();
            assert_eq!((message.bytes, message.fds.len()), (vec![7; length], 1));
        }
        let nothing = receive(&other, RecvFlags::DONTWAIT).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(receive(&other, RecvFlags::empty()).unwrap().is_none());
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let text = encode(&"head", b"blob").unwrap();
        assert_eq!(decode::<String>(&text).unwrap(), ("head".to_owned(), &b"blob"[..]));
        for bytes in [&b""[..], b"\x01\0\0", b"\xff\xff\xff\xff{}", b"\x02\0\0\0{", b"\x01\0\0\0{"] {
            assert_eq!(decode::<String>(bytes).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
        assert!(encode(&"", &vec![0; MESSAGE_MAX]).is_err());
    }
}

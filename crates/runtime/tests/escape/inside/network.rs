//! The network: what answers, and packets with another's address.

use std::{
    io::{self, IoSliceMut, Read},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixStream},
    },
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketFlags, SocketType,
    recvmsg, sendto, socket_with,
};

use crate::{
    raw::{call, descriptor, place},
    said,
};

/// Longer than a lost first packet takes.
const PATIENCE: Duration = Duration::from_millis(1500);

pub(crate) fn attempt(words: &[&str]) -> Option<io::Result<()>> {
    match *words {
        ["tcp", address] => Some(tcp(address)),
        ["udp", target] => Some(
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
                .and_then(|socket| socket.send_to(b"hello", target))
                .map(drop),
        ),
        ["abstract", name] => Some(
            UnixAddr::from_abstract_name(name)
                .and_then(|address| UnixStream::connect_addr(&address))
                .and_then(greeted),
        ),
        ["path", path] => Some(UnixStream::connect(path).and_then(greeted)),
        ["forge", source, target] => Some(forge(source.parse().ok()?, target.parse().ok()?)),
        ["transparent", source, target] => Some(transparent(source.parse().ok()?, target.parse().ok()?)),
        _ => None,
    }
}

fn greeted(mut stream: impl Read) -> io::Result<()> {
    match stream.read(&mut [0; 16])? {
        0 => said("nothing said"),
        _ => Ok(()),
    }
}

/// `%eth0` in an address becomes the number of that link.
fn tcp(address: &str) -> io::Result<()> {
    let number = std::fs::read_dir("/proc/sys/net/ipv4/conf").and_then(|_| link_number("eth0"));
    let address = match number {
        Ok(number) => address.replace("%eth0", &format!("%{number}")),
        Err(_) => address.to_owned(),
    };
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    greeted(stream)
}

fn link_number(name: &str) -> io::Result<u32> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// A datagram with a head of its own making.
fn forge(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    let body = b"forged";
    let socket =
        call(libc::SYS_socket, &[libc::AF_INET.into(), libc::SOCK_RAW.into(), libc::IPPROTO_RAW.into()])?;
    // SAFETY: the kernel made this descriptor, and nobody else owns it.
    #[expect(unsafe_code, reason = "the socket was made by number, as the attempt demands")]
    let socket = unsafe { OwnedFd::from_raw_fd(i32::try_from(socket).unwrap_or(-1)) };
    let length = u16::try_from(8 + body.len()).unwrap_or(0);
    let mut packet = vec![0x45, 0];
    packet.extend((20 + length).to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.ip().octets());
    packet.extend(4000_u16.to_be_bytes());
    packet.extend(target.port().to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(body);
    Ok(sendto(&socket, &packet, SendFlags::empty(), &target).map(drop)?)
}

/// A datagram from a socket that is bound to what isn't its own.
fn transparent(source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    const IP_TRANSPARENT: libc::c_long = 19;
    let on = [1_i32];
    call(libc::SYS_setsockopt, &[descriptor(&socket), 0, IP_TRANSPARENT, place(&on), 4])?;
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 4000))?;
    Ok(sendto(&socket, b"forged", SendFlags::empty(), &target).map(drop)?)
}

/// Takes the descriptor that is offered at a socket.
pub(crate) fn receive_descriptor(path: &str) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(path)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0; 1];
    recvmsg(stream.as_fd(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let rights = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut rights) = message { rights.next() } else { None }
    });
    rights.map_or_else(|| said("nothing was handed out"), Ok)
}

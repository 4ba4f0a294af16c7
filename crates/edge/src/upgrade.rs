//! A connection that became another protocol's: bytes both ways until one side ends it.

use std::{io, rc::Rc, time::Duration};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    inbound::Inbound,
    release::Lease,
    upstream::connection::{Connection, write_all},
};

/// Large enough that bulk transfers need few system calls.
const BUFFER: usize = 64 * 1024;
/// How long the client has to close after the instance did.
const FAREWELL: Duration = Duration::from_secs(1);

/// Copies until either side ends, or nothing moves for `idle`. The place on the instance is held
/// until then.
pub(crate) async fn tunnel(
    client: OnUpgrade,
    instance: Connection,
    lease: Lease,
    inbound: Rc<Inbound>,
    idle: Duration,
) {
    if let Ok(client) = client.await {
        let (read, write) = tokio::io::split(TokioIo::new(client));
        let moved = Moved::default();
        let mut up = std::pin::pin!(upwards(read, &instance.stream, &moved));
        let mut down = std::pin::pin!(downwards(&instance.stream, &instance.buffer, write, &moved));
        tokio::select! {
            _ = &mut down => {
                // What the client still sends is taken, so that it can read to the end.
                drop(tokio::time::timeout(FAREWELL, up).await);
            }
            _ = &mut up => {
                tokio::select! {
                    _ = down => {}
                    () = moved.stands_still(idle) => {}
                }
            }
            () = moved.stands_still(idle) => {}
        }
    }
    drop((lease, inbound));
}

/// When something moved last.
struct Moved(std::cell::Cell<Instant>);

impl Default for Moved {
    fn default() -> Self {
        Self(std::cell::Cell::new(Instant::now()))
    }
}

impl Moved {
    fn now(&self) {
        self.0.set(Instant::now());
    }

    async fn stands_still(&self, limit: Duration) {
        while self.0.get().elapsed() < limit {
            tokio::time::sleep_until(self.0.get() + limit).await;
        }
    }
}

async fn upwards(mut from: impl AsyncRead + Unpin, to: &TcpStream, moved: &Moved) -> io::Result<()> {
    let mut buffer = vec![0_u8; BUFFER];
    let copied = async {
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return io::Result::Ok(());
            }
            write_all(to, buffer.get(..length).unwrap_or_default()).await?;
            moved.now();
        }
    }
    .await;
    // The instance learns that nothing more comes, and may still finish what it has to say.
    let how = if copied.is_ok() { std::net::Shutdown::Write } else { std::net::Shutdown::Both };
    drop(socket2::SockRef::from(to).shutdown(how));
    copied
}

async fn downwards(
    from: &TcpStream,
    first: &[u8],
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
) -> io::Result<()> {
    to.write_all(first).await?;
    to.flush().await?;
    let mut buffer = vec![0_u8; BUFFER];
    loop {
        from.readable().await?;
        match from.try_read(&mut buffer) {
            Ok(0) => return to.shutdown().await,
            Ok(length) => {
                to.write_all(buffer.get(..length).unwrap_or_default()).await?;
                to.flush().await?;
                moved.now();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

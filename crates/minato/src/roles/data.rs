//! The data directory: root's alone, one server at a time, with an id from which everything in the
//! kernel gets its name.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use minato_network::NodeId8;
use rustix::fs::{FlockOperation, flock};

/// A data directory that this process holds until it ends.
#[derive(Debug)]
pub(super) struct DataDirectory {
    pub(super) path: PathBuf,
    /// Eight hexadecimal digits.
    pub(super) id: String,
    lock: File,
}

impl DataDirectory {
    /// Makes it if it isn't there, and takes it.
    ///
    /// # Errors
    /// When it can be entered by others, belongs to somebody else, or a server has it.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("can't make the data directory {}", path.display()))?;
        let path = check(path)?;
        let lock = lock(&path)?;
        let id = id(&path)?;
        Ok(Self { path, id, lock })
    }

    /// Takes it over from the server that has it, with that one's lock.
    pub(super) fn inherit(path: &Path, lock: OwnedFd) -> anyhow::Result<Self> {
        let path = check(path)?;
        let id = id(&path)?;
        Ok(Self { path, id, lock: lock.into() })
    }

    /// Says in the lock that it is this process that has it.
    pub(super) fn sign(&mut self) -> anyhow::Result<()> {
        sign(&mut self.lock).with_context(|| format!("can't write {}", self.path.join("lock").display()))
    }

    /// The lock, for a server that takes over.
    pub(super) fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The id as the network's names take it.
    pub(super) fn node_id(&self) -> anyhow::Result<NodeId8> {
        self.id.parse().with_context(|| format!("{}/id holds no id", self.path.display()))
    }

    /// The network that was chosen at the first start.
    pub(super) fn network(&self) -> anyhow::Result<Option<Ipv4Addr>> {
        network(&self.path)
    }

    /// Remembers the network.
    pub(super) fn set_network(&self, base: Ipv4Addr) -> anyhow::Result<()> {
        write(&self.path.join("network"), &format!("{base}\n"))
    }
}

/// A data directory's full path, if it is one that may be used.
pub(super) fn check(path: &Path) -> anyhow::Result<PathBuf> {
    let path = path.canonicalize().with_context(|| format!("can't find {}", path.display()))?;
    let metadata = std::fs::metadata(&path)?;
    let shown = path.display();
    if metadata.uid() != 0 {
        bail!("the data directory {shown} belongs to uid {}; `sudo chown root: {shown}`", metadata.uid());
    }
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "the data directory {shown} is open to others (mode {:o}), and unpacked images hold root's \
             files; `sudo chmod 700 {shown}`",
            metadata.mode() & 0o7777
        );
    }
    Ok(path)
}

/// Which server has it, as it signed: `(pid …)`.
pub(super) fn holder(path: &Path) -> Option<String> {
    let lock = File::open(path.join("lock")).ok()?;
    // It is free for as long as `lock` is open, which is no longer than this.
    flock(&lock, FlockOperation::NonBlockingLockShared).is_err().then_some(())?;
    let pid = read(&path.join("lock")).ok()??;
    Some(format!("(pid {})", pid.trim()))
}

/// The network that was chosen at the first start on a data directory.
pub(super) fn network(path: &Path) -> anyhow::Result<Option<Ipv4Addr>> {
    let Some(text) = read(&path.join("network"))? else { return Ok(None) };
    let base = text.trim().parse();
    base.map(Some).with_context(|| format!("{}/network holds no address", path.display()))
}

fn lock(path: &Path) -> anyhow::Result<File> {
    let place = path.join("lock");
    let refused = || format!("can't write {}", place.display());
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&place).with_context(refused)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        (&mut file).take(20).read_to_string(&mut pid)?;
        bail!(
            "a server has the data directory {} already (pid {}); stop it, or give this one another with --data",
            path.display(),
            pid.trim()
        );
    }
    sign(&mut file).with_context(refused)?;
    Ok(file)
}

fn sign(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn id(path: &Path) -> anyhow::Result<String> {
    let place = path.join("id");
    if let Some(text) = read(&place)? {
        let id = text.trim().to_owned();
        let fits =
            id.len() == 8 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !fits {
            bail!("{} holds no id of eight hexadecimal digits", place.display());
        }
        return Ok(id);
    }
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    let id = format!("{:08x}", u32::from_be_bytes(bytes));
    write(&place, &format!("{id}\n"))?;
    Ok(id)
}

/// A small file's text; `None`: it isn't there.
pub(super) fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    let mut text = String::new();
    file.take(4_096).read_to_string(&mut text).with_context(|| format!("can't read {}", path.display()))?;
    Ok(Some(text))
}

/// Writes a small file whole: beside it first, synced, then renamed. For its owner alone.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let attempt = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    attempt().with_context(|| format!("can't write {}", path.display()))
}

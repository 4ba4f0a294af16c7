//! The authority's directory: what lies in it, how it is read, and how something is added to it.
//!
//! Invariants: a file is there whole or not at all (written beside, synced, renamed); a key is there before
//! its certificate, so that a certificate without a key is a loss and a key without a certificate is
//! nothing; nobody but the owner may read any of it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use minato_model::time::Moment;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};
use webpki::anchor_from_trusted_cert;
use zeroize::Zeroizing;

use crate::{
    certificate::{pem, signing},
    inspect::{self, Validity},
    rotation::Kept,
};

/// More than any of these files has.
const FILE_MAX: u64 = 64 << 10;

/// Why the authority's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{doing} {} failed", path.display())]
    Io {
        /// What was done to it.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file that isn't what it should be.
    #[error("{}: {wrong}; {cure}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
        /// What to do.
        cure: &'static str,
    },
}

pub(crate) const CURE_ROOT: &str = "put both files of this root back from a backup, or remove both: then it \
     is made anew, and instances that were started before it don't know it until they are replaced";
const CURE_CLUSTER: &str = "put it back from a backup, or remove the directory: then the cluster gets a new \
     name and new roots, and every instance has to be replaced";

/// The file `cluster`: what doesn't change with a rotation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cluster {
    pub(crate) cluster: String,
    /// When the period of the root `first` began.
    pub(crate) origin: Moment,
    pub(crate) first: u64,
    pub(crate) period_ms: u64,
}

/// What is kept under one number: a certificate, and its key if that is there.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) kept: Kept,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Option<Zeroizing<Vec<u8>>>,
}

/// Which pair it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Root,
    Node,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Root => "root-",
            Self::Node => "node-",
        }
    }
}

/// The directory.
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    /// Makes the directory if there is none, and closes it to others.
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        let mut builder = DirBuilder::new();
        match builder.mode(0o700).create(dir) {
            Ok(()) => sync_parent(dir)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("making", dir)(error)),
        }
        let store = Self { dir: dir.to_owned() };
        private(dir, 0o700)?;
        for name in store.names()? {
            private(&dir.join(name), 0o600)?;
        }
        Ok(store)
    }

    /// Only one process at a time rotates; while a server is followed by its successor there are two.
    pub(crate) fn lock(&self) -> Result<File, StoreError> {
        let path = self.dir.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("opening", &path))?;
        file.lock().map_err(io_error("locking", &path))?;
        Ok(file)
    }

    pub(crate) fn cluster(&self) -> Result<Option<Cluster>, StoreError> {
        let path = self.dir.join("cluster");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let cluster: Cluster = serde_json::from_slice(&bytes)
            .map_err(|error| unusable(&path, format!("it can't be read ({error})"), CURE_CLUSTER))?;
        if !crate::spiffe::is_cluster(&cluster.cluster) || cluster.period_ms == 0 {
            return Err(unusable(&path, "it names no cluster".to_owned(), CURE_CLUSTER));
        }
        Ok(Some(cluster))
    }

    pub(crate) fn put_cluster(&self, cluster: &Cluster) -> Result<(), StoreError> {
        let path = self.dir.join("cluster");
        let bytes = serde_json::to_vec_pretty(cluster)
            .map_err(|error| unusable(&path, error.to_string(), CURE_CLUSTER))?;
        self.write("cluster", &bytes)
    }

    /// The missing file `cluster` is an error where there are roots already.
    pub(crate) fn cluster_is_lost(&self) -> StoreError {
        let wrong = "it is missing, though there are roots beside it".to_owned();
        unusable(&self.dir.join("cluster"), wrong, CURE_CLUSTER)
    }

    /// All certificates of a kind, by number, with their keys.
    pub(crate) fn pairs(&self, kind: Kind) -> Result<Vec<(u64, Result<Pair, StoreError>)>, StoreError> {
        let mut numbers: Vec<u64> =
            self.names()?.iter().filter_map(|name| number(kind, name, ".crt")).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| (number, self.pair(kind, number))).collect())
    }

    fn pair(&self, kind: Kind, number: u64) -> Result<Pair, StoreError> {
        let path = self.path(kind, number, "crt");
        let wrong = |what: &str| unusable(&path, what.to_owned(), CURE_ROOT);
        let bytes = read(&path)?.ok_or_else(|| wrong("it is missing"))?;
        let certificate =
            CertificateDer::from_pem_slice(&bytes).map_err(|_| wrong("it is no certificate in PEM"))?;
        let validity = inspect::validity(&certificate).map_err(|_| wrong("it is no X.509 certificate"))?;
        let anchor =
            anchor_from_trusted_cert(&certificate).map_err(|_| wrong("it is no X.509 certificate"))?;
        let key = self.key(kind, number)?;
        if let Some(key) = &key {
            let path = self.path(kind, number, "key");
            let pair = signing(key)
                .map_err(|_| unusable(&path, "it is no ECDSA key over P-256".to_owned(), CURE_ROOT))?;
            if !anchor.subject_public_key_info.as_ref().ends_with(pair.public_key_raw()) {
                return Err(unusable(&path, "it isn't the key of its certificate".to_owned(), CURE_ROOT));
            }
        }
        Ok(Pair { kept: Kept { number, validity }, certificate, key })
    }

    fn key(&self, kind: Kind, number: u64) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.path(kind, number, "key");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes)
            .map_err(|_| unusable(&path, "it is no private key in PEM".to_owned(), CURE_ROOT))?;
        Ok(Some(Zeroizing::new(key.secret_pkcs8_der().to_vec())))
    }

    /// Adds a pair. Of a crash in between a key is left, which the next one of this number replaces.
    pub(crate) fn put(
        &self,
        kind: Kind,
        number: u64,
        certificate: CertificateDer<'static>,
        validity: Validity,
        pkcs8: &[u8],
    ) -> Result<Pair, StoreError> {
        let prefix = kind.prefix();
        let key = Zeroizing::new(pem("PRIVATE KEY", pkcs8));
        self.write(&format!("{prefix}{number}.key"), key.as_bytes())?;
        self.write(&format!("{prefix}{number}.crt"), pem("CERTIFICATE", &certificate).as_bytes())?;
        let key = Some(Zeroizing::new(pkcs8.to_vec()));
        Ok(Pair { kept: Kept { number, validity }, certificate, key })
    }

    /// Takes a pair away: the certificate first.
    pub(crate) fn remove(&self, kind: Kind, number: u64) -> Result<(), StoreError> {
        for end in ["crt", "key"] {
            let path = self.path(kind, number, end);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing", &path)(error));
                }
                _ => {}
            }
        }
        sync(&self.dir)
    }

    /// The highest number of a kind that was ever begun, readable or not.
    pub(crate) fn highest(&self, kind: Kind) -> Result<Option<u64>, StoreError> {
        let of = |name: &String| number(kind, name, ".crt").or_else(|| number(kind, name, ".key"));
        Ok(self.names()?.iter().filter_map(of).max())
    }

    pub(crate) fn path(&self, kind: Kind, number: u64, end: &str) -> PathBuf {
        self.dir.join(format!("{}{number}.{end}", kind.prefix()))
    }

    fn names(&self) -> Result<Vec<String>, StoreError> {
        let failed = || io_error("reading", &self.dir);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed())? {
            if let Ok(name) = entry.map_err(failed())?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let (path, beside) = (self.dir.join(name), self.dir.join(format!("{name}.partial")));
        let failed = || io_error("writing", &path);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed())?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed())?;
        fs::rename(&beside, &path).map_err(failed())?;
        sync(&self.dir)
    }
}

/// `root-12.crt` is 12; `root-012.crt` is nothing of ours.
fn number(kind: Kind, name: &str, end: &str) -> Option<u64> {
    let text = name.strip_prefix(kind.prefix())?.strip_suffix(end)?;
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("opening", path)(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    file.take(FILE_MAX).read_to_end(&mut bytes).map_err(io_error("reading", path))?;
    Ok(Some(bytes))
}

/// Closes a file to everybody but its owner, and says so if it was open.
fn private(path: &Path, mode: u32) -> Result<(), StoreError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        // Gone in the meantime: nobody reads it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("looking at", path)(error)),
    };
    if found.file_type().is_symlink() {
        let wrong = "it is a symbolic link".to_owned();
        return Err(unusable(path, wrong, "put what it points to in its place"));
    }
    if found.mode() & 0o777 != mode {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", found.mode() & 0o777), "permissions of the authority's file are set right");
        fs::set_permissions(path, Permissions::from_mode(mode))
            .map_err(io_error("closing to others", path))?;
    }
    Ok(())
}

fn sync(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("syncing", dir))
}

fn sync_parent(dir: &Path) -> Result<(), StoreError> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => Ok(()),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { doing, path, source }
}

fn unusable(path: &Path, wrong: String, cure: &'static str) -> StoreError {
    StoreError::Unusable { path: path.to_owned(), wrong, cure }
}

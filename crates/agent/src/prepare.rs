//! Prepares releases: an image becomes a merged tree with mount points, and a recipe of what is
//! executed in it. One tree per image, writable paths and working directory; releases share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use minato_image::{
    digest,
    manifest::{self, Document, ImageConfig, ImageManifest, ManifestError, NoPlatform, Platform},
    process::{self, Process, ProcessError},
    tree::{self, UnpackError},
    users::{self, UserError},
};
use minato_model::{code::Code, digest::Digest, release::ReleaseSpec};
use minato_registry::Library;
use minato_runtime::mounts::{self, MountPointError};
use tokio::{sync::Semaphore, time::Instant};

use crate::recipe::Recipe;

/// Trees that are unpacked at the same time: unpacking takes a core and the disk.
const AT_ONCE: usize = 2;
/// An index that names an index that names … ends here.
const INDEXES: usize = 4;
/// A tree that nobody needs is kept this long: a roll-back finds it.
pub(crate) const GRACE: Duration = Duration::from_secs(600);

/// A release that can be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prepared {
    pub(crate) tree: PathBuf,
    pub(crate) recipe: Recipe,
}

/// Why a release can't be prepared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("the {what} {digest} isn't in this cluster's registry: push the image again")]
    Missing { what: &'static str, digest: Digest },
    #[error("the {what} {digest} holds other bytes than its digest says: push the image again")]
    Digest { what: &'static str, digest: Digest },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Platform(#[from] NoPlatform),
    #[error("the index {0} names further indexes without end")]
    Indexes(Digest),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the image {digest} has {layers} layers, but its configuration speaks of {diff_ids}")]
    Layers { digest: Digest, layers: usize, diff_ids: usize },
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error(transparent)]
    MountPoint(#[from] MountPointError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error("the registry can't be read")]
    Registry(#[source] io::Error),
    #[error("the folder of trees can't be made")]
    Folder(#[source] io::Error),
    #[error("preparing was given up")]
    GivenUp,
}

impl PrepareError {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::ImageMissing,
            Self::Digest { .. } => Code::ImageDigest,
            Self::Manifest(error) => error.code(),
            Self::Platform(_) => Code::ImagePlatform,
            Self::Indexes(_) | Self::Layers { .. } => Code::ImageRefused,
            Self::Process(error) => error.code(),
            Self::Unpack(error) => error.code(),
            Self::MountPoint(MountPointError::Io { source, .. }) | Self::Folder(source) => disk(source),
            Self::MountPoint(_) => Code::ImageRefused,
            Self::User(error) => error.code(),
            Self::Registry(_) | Self::GivenUp => Code::NodeFault,
        }
    }

    /// Whether the same may succeed later: a disk is made empty, an image is pushed again. What an
    /// image holds never changes.
    pub(crate) fn heals(&self) -> bool {
        matches!(self.code(), Code::ImageMissing | Code::ImageDigest | Code::DiskFull | Code::NodeFault)
    }
}

fn disk(error: &io::Error) -> Code {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if full { Code::DiskFull } else { Code::NodeFault }
}

/// The whole reason: an error with what caused it.
pub(crate) fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The trees of a node.
#[derive(Debug)]
pub(crate) struct Trees {
    folder: PathBuf,
    library: Arc<Library>,
    platform: Platform,
    at_once: Semaphore,
    /// A lock per tree, so that each is made once; what nobody needs leaves.
    making: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Since when nobody needs a tree.
    unneeded: Mutex<BTreeMap<String, Instant>>,
}

/// An image as it was found in the registry.
struct Image {
    digest: Digest,
    manifest: ImageManifest,
    config: ImageConfig,
}

impl Trees {
    pub(crate) fn new(folder: PathBuf, library: Arc<Library>) -> Self {
        Self {
            folder,
            library,
            platform: Platform::of_this_machine(),
            at_once: Semaphore::new(AT_ONCE),
            making: Mutex::default(),
            unneeded: Mutex::default(),
        }
    }

    /// Makes a release ready to be started, or finds it so.
    pub(crate) async fn prepare(self: &Arc<Self>, spec: &ReleaseSpec) -> Result<Prepared, PrepareError> {
        let trees = Arc::clone(self);
        let digest = spec.digest.clone();
        let image = blocking(move || trees.image(&digest)).await?;
        let process = process::resolve(&image.config, spec)?;
        let directories = directories(&process);
        let name = name(&image.digest, &directories);
        let lock = Arc::clone(lock(&self.making).entry(name.clone()).or_default());
        let result = {
            let _one = lock.lock().await;
            let _some = self.at_once.acquire().await.map_err(|_closed| PrepareError::GivenUp)?;
            let (trees, tree) = (Arc::clone(self), self.folder.join(&name));
            blocking(move || trees.make(&image, process, &directories, tree)).await
        };
        drop(lock);
        leave(&self.making, &name);
        result
    }

    /// Follows indexes to the image of this platform.
    fn image(&self, digest: &Digest) -> Result<Image, PrepareError> {
        let mut digest = digest.clone();
        for _ in 0..INDEXES {
            let missing = || PrepareError::Missing { what: "manifest", digest: digest.clone() };
            let (bytes, media_type) = self
                .library
                .manifest_by_digest(&digest)
                .map_err(PrepareError::Registry)?
                .ok_or_else(missing)?;
            verify("manifest", &digest, &bytes)?;
            match manifest::parse(&bytes, Some(&media_type))? {
                Document::Index(index) => digest = index.choose(&self.platform)?.digest.clone(),
                Document::Image(manifest) => {
                    let config = ImageConfig::parse(&self.config(&manifest.config.digest)?)?;
                    return Ok(Image { digest, manifest, config });
                }
            }
        }
        Err(PrepareError::Indexes(digest))
    }

    fn config(&self, digest: &Digest) -> Result<Vec<u8>, PrepareError> {
        let what = "configuration";
        let missing = || PrepareError::Missing { what, digest: digest.clone() };
        let (file, _) = self.library.blob(digest).map_err(PrepareError::Registry)?.ok_or_else(missing)?;
        let mut bytes = Vec::new();
        // One byte more than is read: what is longer is refused as too long, not as cut off.
        let bound = manifest::MANIFEST_BYTES_MAX as u64 + 1;
        io::Read::read_to_end(&mut io::Read::take(file, bound), &mut bytes)
            .map_err(PrepareError::Registry)?;
        if bytes.len() <= manifest::MANIFEST_BYTES_MAX {
            verify(what, digest, &bytes)?;
        }
        Ok(bytes)
    }

    fn make(
        &self,
        image: &Image,
        process: Process,
        directories: &[String],
        tree: PathBuf,
    ) -> Result<Prepared, PrepareError> {
        if !tree.is_dir() {
            std::fs::create_dir_all(&self.folder).map_err(PrepareError::Folder)?;
            tree::unpack(&self.layers(image)?, &tree, &tree::Limits::default())?;
        }
        // Again for a tree that is there: a crash may have come between.
        mounts::mount_points(&tree, directories)?;
        let identity = users::resolve(&tree, &process.user)?;
        Ok(Prepared { recipe: Recipe::new(process, &identity), tree })
    }

    fn layers(&self, image: &Image) -> Result<Vec<tree::Layer>, PrepareError> {
        let (layers, diff_ids) = (&image.manifest.layers, &image.config.diff_ids);
        if layers.len() != diff_ids.len() {
            let (digest, layers, diff_ids) = (image.digest.clone(), layers.len(), diff_ids.len());
            return Err(PrepareError::Layers { digest, layers, diff_ids });
        }
        let mut found = Vec::with_capacity(layers.len());
        for (layer, diff_id) in layers.iter().zip(diff_ids) {
            let missing = || PrepareError::Missing { what: "layer", digest: layer.digest.clone() };
            let (file, _) =
                self.library.blob(&layer.digest).map_err(PrepareError::Registry)?.ok_or_else(missing)?;
            found.push(tree::Layer {
                file,
                media_type: layer.media_type.clone(),
                digest: layer.digest.clone(),
                diff_id: diff_id.clone(),
                size: layer.size,
            });
        }
        Ok(found)
    }

    /// Removes the trees that nobody has needed for [`GRACE`]. `needed` are paths of trees.
    pub(crate) async fn sweep(self: &Arc<Self>, needed: BTreeSet<PathBuf>) {
        let now = Instant::now();
        let trees = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || trees.sweep_now(&needed, now)).await;
        match swept {
            Ok(Ok(0)) => {}
            Ok(Ok(removed)) => tracing::info!(removed, "trees removed that nobody needs"),
            Ok(Err(error)) => tracing::warn!(%error, "trees not removed"),
            Err(error) => tracing::error!(%error, "removing trees panicked"),
        }
    }

    fn sweep_now(&self, needed: &BTreeSet<PathBuf>, now: Instant) -> io::Result<usize> {
        let mut removed = 0;
        let mut present = BTreeSet::new();
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            present.insert(name.clone());
            let making = name.trim_end_matches(".partial");
            if needed.contains(&path) || lock(&self.making).contains_key(making) {
                lock(&self.unneeded).remove(&name);
                continue;
            }
            let since = *lock(&self.unneeded).entry(name.clone()).or_insert(now);
            if now.duration_since(since) >= GRACE {
                self.remove(&path, &name)?;
                removed += 1;
            }
        }
        lock(&self.unneeded).retain(|name, _| present.contains(name));
        Ok(removed)
    }

    /// Out of sight first, so that a half-removed tree is never taken for a whole one.
    fn remove(&self, path: &Path, name: &str) -> io::Result<()> {
        let gone = self.folder.join(format!("{}.gone", name.trim_end_matches(".gone")));
        if path != gone {
            std::fs::rename(path, &gone)?;
        }
        std::fs::remove_dir_all(&gone)
    }
}

/// What must be there to be mounted on or entered: the writable paths and the working directory.
fn directories(process: &Process) -> Vec<String> {
    let mut all = process.volumes.clone();
    all.push(process.cwd.clone());
    all.retain(|path| path != "/");
    all.sort_unstable();
    all.dedup();
    all
}

/// The folder of a tree: the image, and what was made in it beyond the image.
fn name(image: &Digest, directories: &[String]) -> String {
    if directories.is_empty() {
        return image.hex().to_owned();
    }
    let made = digest::of(directories.join("\n").as_bytes());
    format!("{}-{}", image.hex(), made.short())
}

fn verify(what: &'static str, digest: &Digest, bytes: &[u8]) -> Result<(), PrepareError> {
    let mut hasher = digest::Hasher::new(digest.algorithm());
    hasher.update(bytes);
    if hasher.finish() == *digest {
        return Ok(());
    }
    Err(PrepareError::Digest { what, digest: digest.clone() })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrepareError> + Send + 'static,
) -> Result<T, PrepareError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(PrepareError::GivenUp))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leave(making: &Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>, name: &str) {
    let mut making = lock(making);
    if making.get(name).is_some_and(|lock| Arc::strong_count(lock) == 1) {
        making.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use minato_registry::Limits;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn trees_go_when_nobody_has_needed_them_for_a_while() {
        let data = tempfile::tempdir().unwrap();
        let library = Library::open(&data.path().join("registry"), Limits::default()).unwrap();
        let folder = data.path().join("trees");
        let trees = Trees::new(folder.clone(), library);
        assert_eq!(trees.sweep_now(&BTreeSet::new(), Instant::now()).unwrap(), 0);
        for name in ["needed", "unneeded", "made.partial", "old.gone"] {
            std::fs::create_dir_all(folder.join(name).join("etc")).unwrap();
        }
        lock(&trees.making).insert("made".to_owned(), Arc::default());
        let needed = BTreeSet::from([folder.join("needed")]);
        assert_eq!(trees.sweep_now(&needed, Instant::now()).unwrap(), 0);
        tokio::time::advance(GRACE - Duration::from_secs(1)).await;
        assert_eq!(trees.sweep_now(&needed, Instant::now()).unwrap(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(trees.sweep_now(&needed, Instant::now()).unwrap(), 2);
        let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["made.partial", "needed"]);
    }

    #[test]
    fn what_an_image_holds_never_heals() {
        let digest = digest::of(b"x");
        assert!(PrepareError::Missing { what: "layer", digest: digest.clone() }.heals());
        assert!(PrepareError::Registry(io::ErrorKind::StorageFull.into()).heals());
        assert!(!PrepareError::Process(ProcessError::NoCommand).heals());
        assert!(!PrepareError::Indexes(digest).heals());
    }
}

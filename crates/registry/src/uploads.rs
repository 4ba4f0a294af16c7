//! Uploads: content on its way in, `uploads/<id>/{repository,data}`.
//!
//! An upload's offset is the length of its file, so an upload outlives connections, crashes and
//! restarts; what a digest has seen so far is kept in memory and made anew from the file when it is
//! gone. Nothing under a digest's name is touched before the whole content was checked and synced.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use minato_image::digest::Hasher;
use minato_model::{
    digest::{Algorithm, Digest},
    time::Moment,
};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::{files, library::Library, limits::Limits, names};

mod receive;

pub(crate) use receive::{ReceiveError, receive};

/// How long a request waits for another one that writes to the same upload: the usual one is a broken
/// connection's, whose last piece is just being written.
const TURN: Duration = Duration::from_secs(5);

/// Why an upload could not be begun or gone on with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("there is no such upload: it was ended, cancelled or has expired; begin anew")]
    Unknown,
    #[error("another request is writing to this upload")]
    Busy,
    #[error("too many uploads are under way; try again later")]
    TooMany,
    #[error("the upload can't be stored")]
    Storage(#[from] io::Error),
}

/// Why an upload didn't become a blob.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FinishError {
    #[error(
        "the content has the digest {found}, not {wanted}: it was damaged on its way, or is something else"
    )]
    Digest { wanted: Digest, found: Digest },
    #[error("the blob can't be stored")]
    Storage(#[from] io::Error),
}

/// All uploads under way.
#[derive(Debug)]
pub(crate) struct Uploads {
    root: PathBuf,
    open: Mutex<BTreeMap<names::Upload, Entry>>,
    open_max: usize,
    receiving: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
struct Entry {
    repository: names::Repository,
    progress: Arc<tokio::sync::Mutex<Progress>>,
}

#[derive(Debug)]
enum Progress {
    /// Known from the disk only.
    Cold,
    Warm {
        offset: u64,
        hasher: Box<Hasher>,
        algorithm: Algorithm,
    },
    /// It became a blob or was removed while somebody waited for it.
    Ended,
}

impl Uploads {
    /// Finds what an earlier server left, to be resumed.
    pub(crate) fn open(root: PathBuf, limits: &Limits) -> io::Result<Self> {
        files::ensure_directory(&root)?;
        let mut open = BTreeMap::new();
        for name in files::names(&root)? {
            let home = root.join(&name);
            let written = files::if_present(fs::read_to_string(home.join("repository")))?;
            match (name.parse(), written.as_deref().map(str::parse)) {
                (Ok(id), Some(Ok(repository))) => {
                    let progress = Arc::new(tokio::sync::Mutex::new(Progress::Cold));
                    open.insert(id, Entry { repository, progress });
                }
                // A crash between the first steps of an upload that nobody was told of.
                _ => files::remove_tree(&home)?,
            }
        }
        let receiving = Arc::new(Semaphore::new(limits.receiving));
        Ok(Self { root, open: Mutex::new(open), open_max: limits.uploads, receiving })
    }

    /// Begins an upload. Blocks.
    pub(crate) fn begin(
        &self,
        repository: &names::Repository,
        algorithm: Algorithm,
    ) -> Result<names::Upload, UploadError> {
        let id: names::Upload = files::random_name()?.parse().map_err(io::Error::other)?;
        let progress = Progress::Warm { offset: 0, hasher: Box::new(Hasher::new(algorithm)), algorithm };
        let entry =
            Entry { repository: repository.clone(), progress: Arc::new(tokio::sync::Mutex::new(progress)) };
        {
            let mut open = self.entries();
            if open.len() >= self.open_max {
                return Err(UploadError::TooMany);
            }
            open.insert(id.clone(), entry);
        }
        let made = self.make_home(&id, repository);
        if made.is_err() {
            self.entries().remove(&id);
            drop(files::remove_tree(&self.home(&id)));
        }
        made?;
        Ok(id)
    }

    /// A place among those who send content at one time.
    pub(crate) fn admit(&self) -> Result<OwnedSemaphorePermit, UploadError> {
        Arc::clone(&self.receiving).try_acquire_owned().map_err(|_| UploadError::TooMany)
    }

    /// Waits until nobody else writes to the upload, and takes it.
    pub(crate) async fn take(
        library: &Arc<Library>,
        repository: &names::Repository,
        id: &names::Upload,
    ) -> Result<Writing, UploadError> {
        let entry = library.uploads.entries().get(id).cloned();
        let entry = entry.filter(|entry| entry.repository == *repository).ok_or(UploadError::Unknown)?;
        let progress =
            tokio::time::timeout(TURN, entry.progress.lock_owned()).await.map_err(|_| UploadError::Busy)?;
        let (library, id, repository) = (Arc::clone(library), id.clone(), entry.repository);
        let opened = tokio::task::spawn_blocking(move || Writing::open(library, id, repository, progress));
        opened.await.map_err(io::Error::other)?
    }

    /// Removes uploads last written to longer than `age` before `now`. One that is being written to stays.
    pub(crate) fn expire(&self, now: Moment, age: Duration) -> io::Result<usize> {
        let entries: Vec<_> = self.entries().iter().map(|(id, entry)| (id.clone(), entry.clone())).collect();
        let mut expired = 0;
        for (id, entry) in entries {
            let Ok(mut progress) = entry.progress.try_lock() else { continue };
            let written = files::if_present(fs::metadata(self.data(&id)))?;
            let written = written.and_then(|found| found.modified().ok()).unwrap_or(SystemTime::UNIX_EPOCH);
            let since = written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            if now.since(Moment(0).plus(since)) > age {
                self.forget(&id, &mut progress)?;
                expired += 1;
            }
        }
        Ok(expired)
    }

    fn forget(&self, id: &names::Upload, progress: &mut Progress) -> io::Result<()> {
        *progress = Progress::Ended;
        self.entries().remove(id);
        files::remove_tree(&self.home(id))
    }

    fn make_home(&self, id: &names::Upload, repository: &names::Repository) -> io::Result<()> {
        // Not synced: an upload that a power cut takes away is begun anew by its client.
        let home = self.home(id);
        fs::create_dir(&home)?;
        File::create_new(home.join("data"))?;
        fs::write(home.join("repository"), repository.as_str())
    }

    fn home(&self, id: &names::Upload) -> PathBuf {
        self.root.join(id.as_str())
    }

    fn data(&self, id: &names::Upload) -> PathBuf {
        self.home(id).join("data")
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<names::Upload, Entry>> {
        // Each change of the map is one step: a panic can't leave half of one.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An upload that one request has for itself. All its methods but the getters block.
#[derive(Debug)]
pub(crate) struct Writing {
    library: Arc<Library>,
    id: names::Upload,
    repository: names::Repository,
    file: File,
    offset: u64,
    progress: OwnedMutexGuard<Progress>,
}

impl Writing {
    fn open(
        library: Arc<Library>,
        id: names::Upload,
        repository: names::Repository,
        mut progress: OwnedMutexGuard<Progress>,
    ) -> Result<Self, UploadError> {
        let path = library.uploads.data(&id);
        let offset = match &*progress {
            Progress::Ended => return Err(UploadError::Unknown),
            Progress::Warm { offset, .. } => *offset,
            Progress::Cold => {
                let Some(file) = files::if_present(File::open(&path))? else {
                    library.uploads.forget(&id, &mut progress)?;
                    return Err(UploadError::Unknown);
                };
                let algorithm = Algorithm::Sha256;
                let (hasher, offset) = hash(file, algorithm)?;
                *progress = Progress::Warm { offset, hasher: Box::new(hasher), algorithm };
                offset
            }
        };
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { library, id, repository, file, offset, progress })
    }

    pub(crate) fn id(&self) -> &names::Upload {
        &self.id
    }

    /// How many bytes are there.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends. After an error the upload is as it was before, and can be gone on with.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Progress::Warm { offset, hasher, .. } = &mut *self.progress else {
            return Err(io::Error::other("the upload has ended"));
        };
        if let Err(error) = self.file.write_all_at(bytes, self.offset) {
            // A part may be there; a restart would take it for content.
            self.file.set_len(self.offset)?;
            return Err(error);
        }
        hasher.update(bytes);
        self.offset += bytes.len() as u64;
        *offset = self.offset;
        Ok(())
    }

    /// Makes the upload a blob of its repository. Whatever comes of it, the upload has ended then.
    pub(crate) fn finish(mut self, wanted: &Digest) -> Result<(), FinishError> {
        let finished = self.store(wanted);
        let forgotten = self.library.uploads.forget(&self.id, &mut self.progress);
        finished?;
        Ok(forgotten?)
    }

    fn store(&mut self, wanted: &Digest) -> Result<(), FinishError> {
        let data = self.library.uploads.data(&self.id);
        let found = match std::mem::replace(&mut *self.progress, Progress::Ended) {
            Progress::Warm { hasher, algorithm, .. } if algorithm == wanted.algorithm() => hasher.finish(),
            Progress::Cold | Progress::Warm { .. } | Progress::Ended => {
                hash(File::open(&data)?, wanted.algorithm())?.0.finish()
            }
        };
        if found != *wanted {
            return Err(FinishError::Digest { wanted: wanted.clone(), found });
        }
        self.file.sync_data()?;
        self.library.content.adopt(&data, wanted)?;
        self.library.repositories.link_blob(&self.repository, wanted)?;
        Ok(())
    }

    /// Ends the upload and removes what it brought.
    pub(crate) fn cancel(mut self) -> io::Result<()> {
        self.library.uploads.forget(&self.id, &mut self.progress)
    }
}

/// What a digest has seen when it has seen the whole file, and how long that is.
fn hash(mut file: File, algorithm: Algorithm) -> io::Result<(Hasher, u64)> {
    let mut hasher = Hasher::new(algorithm);
    let mut piece = vec![0; 256 << 10];
    let mut length = 0;
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok((hasher, length));
        }
        hasher.update(piece.get(..read).unwrap_or_default());
        length += read as u64;
    }
}

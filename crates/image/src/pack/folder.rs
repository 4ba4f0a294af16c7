//! What a folder holds, as items of a layer.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::{Item, PackError, What, unreadable};

/// All below `folder`. The folder's own mode isn't among it: what people pack is often closed to all
/// others, and an image's root must be open to the user that it runs as.
pub(super) fn items(folder: &Path) -> Result<Vec<Item>, PackError> {
    let mut items = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        let at = folder.join(&directory);
        for entry in fs::read_dir(&at).map_err(|error| unreadable(&at, error))? {
            let entry = entry.map_err(|error| unreadable(&at, error))?;
            let path = directory.join(entry.file_name());
            let source = entry.path();
            let what = what(&source)?;
            if matches!(what, What::Directory { .. }) {
                waiting.push(path.clone());
            }
            items.push(Item { path, what });
        }
    }
    Ok(items)
}

fn what(source: &Path) -> Result<What, PackError> {
    let metadata = fs::symlink_metadata(source).map_err(|error| unreadable(source, error))?;
    let kind = metadata.file_type();
    let special = |kind| Err(PackError::Special { path: source.to_owned(), kind });
    if kind.is_dir() {
        // The sticky bit makes a folder like /tmp.
        Ok(What::Directory { mode: metadata.mode() & 0o1777 })
    } else if kind.is_symlink() {
        let target = fs::read_link(source).map_err(|error| unreadable(source, error))?;
        Ok(What::Link { target })
    } else if kind.is_file() {
        let shared = (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino()));
        Ok(What::File { source: source.to_owned(), mode: metadata.mode() & 0o777, shared })
    } else if kind.is_socket() {
        special("socket")
    } else if kind.is_fifo() {
        special("named pipe")
    } else {
        special("device node")
    }
}

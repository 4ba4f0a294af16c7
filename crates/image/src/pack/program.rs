//! A program as the items of a layer: itself, its loader, its libraries, and the little that programs
//! expect of a system.
//!
//! What a program opens by name while it runs (plug-ins, time zones, certificates) isn't found; a folder
//! with all of it can be packed instead. Names of hosts and users need nothing more: glibc has had them
//! built in since 2.34, musl always.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{
    Item, PackError, What,
    elf::{self, Elf},
    library::{self, Placed},
};
use crate::manifest::Platform;

const DIRECTORY: &str = "/usr/local/bin";
const PASSWD: &str = "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnobody:x:65534:\n";
const NAMES: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// The items of `program`, and its path in the image.
pub(super) fn items(program: &Path, user: &str) -> Result<(Vec<Item>, String), PackError> {
    known_user(user)?;
    let elf = elf::read(program)?;
    check(program, &elf)?;
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned());
    let path = Path::new(DIRECTORY).join(name.ok_or_else(|| PackError::NotAProgram(program.to_owned()))?);
    let itself = Placed { source: program.to_owned(), path: path.clone() };
    let mut files = vec![itself.clone()];
    if let Some(loader) = elf.interpreter.clone() {
        if !loader.is_absolute() || !loader.is_file() {
            return Err(PackError::MissingLoader { program: program.to_owned(), loader });
        }
        files.extend(library::all(itself, elf, &loader)?);
        files.push(Placed { source: loader.clone(), path: loader });
    }
    let mut items: Vec<Item> = Vec::new();
    let mut placed = BTreeSet::new();
    for file in files {
        let path = below_root(&file.path);
        // A library may be the loader too.
        if placed.insert(path.clone()) {
            items.push(Item { path, what: What::File { source: file.source, mode: 0o755, shared: None } });
        }
    }
    for (path, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP), ("etc/nsswitch.conf", NAMES)] {
        items.push(Item { path: path.into(), what: What::Text { text } });
    }
    items.push(Item { path: "tmp".into(), what: What::Directory { mode: 0o1777 } });
    let parents: BTreeSet<PathBuf> = items
        .iter()
        .flat_map(|item| item.path.ancestors().skip(1))
        .filter(|path| !path.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect();
    let directory = |path| Item { path, what: What::Directory { mode: 0o755 } };
    items.extend(parents.into_iter().map(directory));
    Ok((items, path.to_string_lossy().into_owned()))
}

fn below_root(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

fn check(program: &Path, elf: &Elf) -> Result<(), PackError> {
    let here = Platform::of_this_machine().architecture;
    let found = elf::architecture(elf.machine)
        .map_or_else(|| format!("processor {} (as ELF numbers them)", elf.machine), str::to_owned);
    if found != here {
        return Err(PackError::Architecture { path: program.to_owned(), found, here });
    }
    if !elf.executable {
        return Err(PackError::NotExecutable(program.to_owned()));
    }
    Ok(())
}

/// The image is made here, so that a user it lacks is known before anything is started.
fn known_user(user: &str) -> Result<(), PackError> {
    let known =
        |name: &str| matches!(name, "" | "root" | "nobody") || name.bytes().all(|byte| byte.is_ascii_digit());
    if user.split(':').all(known) { Ok(()) } else { Err(PackError::User(user.to_owned())) }
}

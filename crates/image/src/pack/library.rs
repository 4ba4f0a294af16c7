//! Which shared libraries a program loads, and from where: what its loader does, done beforehand
//! (ld.so(8); musl's dynamic linker).
//!
//! The loader's cache isn't read: the packed image has none, and its loader looks only where programs
//! themselves say, and in its standard directories.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    PackError,
    elf::{self, Elf},
};

/// More is a program that nobody packs, or a circle.
const LIBRARIES_MAX: usize = 2048;
/// Files of directories (`include` lines) that are read.
const LISTS_MAX: usize = 256;

/// A file and its place in the image.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) source: PathBuf,
    pub(super) path: PathBuf,
}

struct Loaded {
    placed: Placed,
    elf: Elf,
    /// Who needs it: their RPATH is searched for it too.
    parent: Option<Rc<Loaded>>,
}

/// Directories, and where what they have goes in the image.
struct Standard {
    directories: Vec<(PathBuf, PathBuf)>,
    musl: bool,
}

impl Standard {
    fn of(loader: &Path) -> Self {
        let name = loader.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(rest) = name.strip_prefix("ld-musl-") {
            let list = PathBuf::from("/etc").join(format!("ld-musl-{}", rest.replace(".so.1", ".path")));
            let text = fs::read_to_string(list).unwrap_or_default();
            let own: Vec<&str> = text.split([':', '\n']).filter(|text| text.starts_with('/')).collect();
            let builtin = ["/lib", "/usr/local/lib", "/usr/lib"].map(PathBuf::from);
            let mut directories: Vec<_> = own.iter().map(|path| (path.into(), builtin[0].clone())).collect();
            if directories.is_empty() {
                directories.extend(builtin.map(|path| (path.clone(), path)));
            }
            return Self { directories, musl: true };
        }
        // Debian's directories with the machine's name, then those of everybody else.
        let machine = std::env::consts::ARCH;
        let builtin: Vec<PathBuf> = ["/lib", "/usr/lib"]
            .map(|path| PathBuf::from(format!("{path}/{machine}-linux-gnu")))
            .into_iter()
            .chain(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from))
            .filter(|path| path.is_dir())
            .collect();
        let fallback = builtin.first().cloned().unwrap_or_else(|| PathBuf::from("/lib"));
        let mut listed = Vec::new();
        listed_directories(Path::new("/etc/ld.so.conf"), &mut listed, &mut 0);
        // Configured directories go first, as in the cache; the packed image's loader knows no
        // configuration, so what they have goes where it looks anyway.
        let configured = listed.into_iter().map(|path| {
            let place = if builtin.contains(&path) { path.clone() } else { fallback.clone() };
            (path, place)
        });
        let mut directories: Vec<_> = configured.collect();
        directories.extend(builtin.iter().map(|path| (path.clone(), path.clone())));
        Self { directories, musl: false }
    }

    /// Whether the loader is this library itself.
    fn is_loader(&self, name: &str, loader: &Path) -> bool {
        // musl is its C library, in one file, whatever part of it is asked for.
        const PARTS: [&str; 7] = ["c.", "pthread.", "rt.", "m.", "dl.", "util.", "xnet."];
        let part =
            name.strip_prefix("lib").is_some_and(|rest| PARTS.iter().any(|part| rest.starts_with(part)));
        (self.musl && part) || loader.file_name().is_some_and(|loader| loader == name)
    }
}

/// The directories that ld.so.conf lists, with those of the files that it includes.
fn listed_directories(list: &Path, directories: &mut Vec<PathBuf>, lists: &mut usize) {
    *lists += 1;
    if *lists > LISTS_MAX {
        return;
    }
    let Ok(text) = fs::read_to_string(list) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").map(str::trim_start) {
            for list in included(&list.parent().unwrap_or_else(|| Path::new("/")).join(pattern)) {
                listed_directories(&list, directories, lists);
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
}

/// `directory/*.conf` or one file: the patterns in use have one star, in the name.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Some((start, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let entries = pattern.parent().map(fs::read_dir).and_then(Result::ok).into_iter().flatten().flatten();
    let mut lists: Vec<PathBuf> = entries
        .filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        })
        .map(|entry| entry.path())
        .collect();
    lists.sort();
    lists
}

/// All libraries of `program`, which is loaded by `loader`.
///
/// # Errors
/// When one is missing or damaged.
pub(super) fn all(program: Placed, elf: Elf, loader: &Path) -> Result<Vec<Placed>, PackError> {
    let standard = Standard::of(loader);
    let machine = elf.machine;
    // By name, as loaders have it: what is loaded once is found by whoever asks for it next.
    let mut found: BTreeMap<String, Placed> = BTreeMap::new();
    let mut waiting = VecDeque::from([Rc::new(Loaded { placed: program, elf, parent: None })]);
    while let Some(loaded) = waiting.pop_front() {
        for name in &loaded.elf.needed {
            if found.contains_key(name) || standard.is_loader(name, loader) {
                continue;
            }
            if found.len() == LIBRARIES_MAX {
                let path = loaded.placed.source.clone();
                return Err(PackError::Damaged { path, why: "it needs too many libraries" });
            }
            let (placed, elf) = search(name, &loaded, &standard, machine)?;
            found.insert(name.clone(), placed.clone());
            waiting.push_back(Rc::new(Loaded { placed, elf, parent: Some(Rc::clone(&loaded)) }));
        }
    }
    Ok(found.into_values().collect())
}

fn search(
    name: &str,
    loaded: &Rc<Loaded>,
    standard: &Standard,
    machine: u16,
) -> Result<(Placed, Elf), PackError> {
    let candidates: Vec<(PathBuf, PathBuf)> = if name.contains('/') {
        // A path, not a name: only an absolute one means the same in the image.
        let path = PathBuf::from(name);
        let directory = path.parent().filter(|_| path.is_absolute()).map(Path::to_owned);
        directory.into_iter().map(|directory| (directory.clone(), directory)).collect()
    } else {
        let own = directories(loaded).into_iter();
        own.chain(standard.directories.iter().cloned()).collect()
    };
    let file = Path::new(name).file_name().unwrap_or_default();
    for (directory, place) in &candidates {
        let source = directory.join(file);
        if !source.is_file() {
            continue;
        }
        // Loaders pass over what is built for another processor too.
        match elf::read(&source) {
            Ok(elf) if elf.machine == machine => {
                return Ok((Placed { source, path: place.join(file) }, elf));
            }
            Ok(_) | Err(PackError::NotAProgram(_) | PackError::Script { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let mut searched: Vec<PathBuf> = Vec::new();
    for (directory, _) in candidates {
        if !searched.contains(&directory) {
            searched.push(directory);
        }
    }
    Err(PackError::MissingLibrary {
        name: name.chars().take(160).collect(),
        needed_by: loaded.placed.source.clone(),
        searched,
    })
}

/// Where a file's own words send the loader: RUNPATH; without one RPATH, and those of who needs it.
fn directories(loaded: &Rc<Loaded>) -> Vec<(PathBuf, PathBuf)> {
    if !loaded.elf.runpath.is_empty() {
        return expanded(&loaded.elf.runpath, &loaded.placed);
    }
    let mut directories = Vec::new();
    let mut next = Some(loaded);
    while let Some(loaded) = next {
        if loaded.elf.runpath.is_empty() {
            directories.extend(expanded(&loaded.elf.rpath, &loaded.placed));
        }
        next = loaded.parent.as_ref();
    }
    directories
}

/// `$ORIGIN` is the directory of the file itself: one here, another in the image.
fn expanded(paths: &[String], placed: &Placed) -> Vec<(PathBuf, PathBuf)> {
    let real = fs::canonicalize(&placed.source).unwrap_or_else(|_| placed.source.clone());
    let origin = |file: &Path| file.parent().map(|path| path.display().to_string()).unwrap_or_default();
    let expand = |path: &str, origin: &str| {
        normalised(Path::new(&path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)))
    };
    paths
        .iter()
        .map(|path| (expand(path, &origin(&real)), expand(path, &origin(&placed.path))))
        // Other variables, and what is relative to wherever a program is started, mean nothing here.
        .filter(|(here, _)| here.is_absolute() && !here.to_string_lossy().contains('$'))
        .collect()
}

/// Without `.` and `..`.
fn normalised(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => clean.push(component),
        }
    }
    clean
}

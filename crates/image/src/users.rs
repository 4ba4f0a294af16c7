//! Whom an image means by its user: names looked up in the image's own `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's: they are read within bounds and only below its tree, links followed as
//! from its root.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use minato_model::code::Code;
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// More than any image's list of users; the rest would be somebody's attempt on memory.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// As many supplementary groups as are given: Linux takes 65,536, far more than images have.
const GROUPS_MAX: usize = 256;

/// Whom a process runs as, in the ids of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Further groups, ascending.
    pub groups: Vec<u32>,
    /// Its home; `/` where nothing says one.
    pub home: String,
}

/// Why nobody is meant.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A name that isn't listed.
    #[error(
        "the image's /etc/passwd has no user `{0}`: write a user that it has, or a number as `1000:1000`"
    )]
    NoUser(String),
    /// A group that isn't listed.
    #[error("the image's /etc/group has no group `{0}`: write a group that it has, or a number")]
    NoGroup(String),
    /// A number that no user has.
    #[error("`{0}` is no user or group id: those of an image go from 0 to 65535")]
    OutOfRange(String),
    /// A file that can't be read.
    #[error("the image's {file} can't be read")]
    Unreadable {
        /// Which.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A file that is too large, or no file.
    #[error("the image's {0} is no file of at most 4 MiB")]
    NoFile(&'static str),
}

impl UserError {
    /// The code that stands for it.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::NoUser(_) | Self::NoGroup(_) | Self::OutOfRange(_) => Code::UserMissing,
            Self::Unreadable { .. } => Code::NodeFault,
            Self::NoFile(_) => Code::ImageRefused,
        }
    }
}

/// Whom `user` (`name`, `uid`, `name:group`, `uid:gid`, or mixed; empty: root) means in the image
/// unpacked at `tree`. Blocking.
///
/// A number that isn't listed stands for itself, with group 0. Supplementary groups are those that list
/// the user by name, unless a group is written.
///
/// # Errors
/// When a name isn't listed, a number is out of range, or a file can't be read.
pub fn resolve(tree: &Path, user: &str) -> Result<Identity, UserError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let passwd = read(tree, "/etc/passwd")?;
    let users = || passwd.lines().filter_map(User::parse);
    let number = id(user)?;
    // A name may be all digits: the list comes first, as in every other runtime.
    let listed = users()
        .find(|listed| listed.name == user)
        .or_else(|| users().find(|listed| Some(listed.uid) == number));
    let uid = match (&listed, number) {
        (Some(listed), _) => listed.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(UserError::NoUser(user.chars().take(64).collect())),
    };
    let home = listed.as_ref().map_or("", |listed| listed.home);
    let home = if home.starts_with('/') { home.to_owned() } else { "/".to_owned() };

    let list = read(tree, "/etc/group")?;
    let groups = || list.lines().filter_map(Group::parse);
    if let Some(group) = group {
        let number = id(group)?;
        let found = groups().find(|listed| listed.name == group).map(|listed| listed.gid).or(number);
        let gid = found.ok_or_else(|| UserError::NoGroup(group.chars().take(64).collect()))?;
        return Ok(Identity { uid, gid, groups: Vec::new(), home });
    }
    let gid = listed.as_ref().map_or(0, |listed| listed.gid);
    let name = listed.as_ref().map(|listed| listed.name);
    let mut further: Vec<u32> = groups()
        .filter(|group| name.is_some_and(|name| group.members.split(',').any(|member| member == name)))
        .map(|group| group.gid)
        .filter(|&further| further != gid)
        .collect();
    further.sort_unstable();
    further.dedup();
    further.truncate(GROUPS_MAX);
    Ok(Identity { uid, gid, groups: further, home })
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> User<'a> {
    /// `name:password:uid:gid:comment:home:shell`; other lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = fields.nth(1).and_then(small)?;
        let gid = fields.next().and_then(small)?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or("") })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    /// `name:password:gid:members`; other lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim_end().split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = fields.nth(1).and_then(small)?;
        Some(Self { name, gid, members: fields.next().unwrap_or("") })
    }
}

fn small(text: &str) -> Option<u32> {
    text.parse::<u16>().ok().map(u32::from)
}

/// A number as an id; `None`: it is a name.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    small(text).map(Some).ok_or_else(|| UserError::OutOfRange(text.chars().take(64).collect()))
}

/// A file of the image; empty if it has none.
fn read(tree: &Path, file: &'static str) -> Result<String, UserError> {
    let unreadable = |errno: Errno| UserError::Unreadable { file, source: errno.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(tree, flags, Mode::empty()).map_err(unreadable)?;
    // Not blocking: a fifo of this name would be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let opened: OwnedFd = match rustix::fs::openat2(&root, file, flags, Mode::empty(), resolve) {
        Ok(opened) => opened,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(unreadable(errno)),
    };
    let stat = rustix::fs::fstat(&opened).map_err(unreadable)?;
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || size > FILE_BYTES_MAX {
        return Err(UserError::NoFile(file));
    }
    let mut bytes = Vec::new();
    File::from(opened)
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(|source| UserError::Unreadable { file, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34::/srv/web:/bin/false\n\
        big:x:70000:1::/:\n1000:x:5:6::relative:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:root,web\ndata:x:12:web\nlast:x:50:web";

    fn image(passwd: &str, group: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("etc")).unwrap();
        std::fs::write(tree.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(tree.path().join("etc/group"), group).unwrap();
        tree
    }

    #[test]
    fn names_and_numbers_are_resolved() {
        let tree = image(PASSWD, GROUP);
        let check = |user: &str, uid, gid, groups: &[u32], home: &str| {
            let expected = Identity { uid, gid, groups: groups.to_vec(), home: home.to_owned() };
            assert_eq!(resolve(tree.path(), user).unwrap(), expected, "{user}");
        };
        check("", 0, 0, &[40], "/root");
        check("root", 0, 0, &[40], "/root");
        check("web", 33, 34, &[12, 40, 50], "/srv/web");
        check("33", 33, 34, &[12, 40, 50], "/srv/web");
        check("web:data", 33, 12, &[], "/srv/web");
        check("web:7", 33, 7, &[], "/srv/web");
        check("web:", 33, 34, &[12, 40, 50], "/srv/web");
        check("4000", 4000, 0, &[], "/");
        check("4000:log", 4000, 40, &[], "/");
        check("1000", 5, 6, &[], "/");
        check(":log", 0, 40, &[], "/root");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let tree = image(PASSWD, GROUP);
        let check = |user: &str, message: &str| {
            let error = resolve(tree.path(), user).unwrap_err();
            assert_eq!(error.code(), Code::UserMissing);
            assert!(error.to_string().contains(message), "{error}");
        };
        check("nobody", "no user `nobody`");
        check("web:nogroup", "no group `nogroup`");
        check("65536", "0 to 65535");
        check("0:99999999999999999999", "0 to 65535");
        check("big", "no user");
        let bare = tempfile::tempdir().unwrap();
        assert_eq!(resolve(bare.path(), "10:20").unwrap().gid, 20);
        assert!(matches!(resolve(bare.path(), "web"), Err(UserError::NoUser(_))));
    }

    #[test]
    fn links_are_followed_within_the_image_only() {
        let tree = image("", "");
        let passwd = tree.path().join("etc/passwd");
        std::fs::remove_file(&passwd).unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(outside.path(), "host:x:1:1::/:\n").unwrap();
        std::os::unix::fs::symlink(outside.path(), &passwd).unwrap();
        assert!(matches!(resolve(tree.path(), "host"), Err(UserError::NoUser(_))));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::write(tree.path().join("etc/real"), "inner:x:7:8::/:\n").unwrap();
        std::os::unix::fs::symlink("/etc/real", &passwd).unwrap();
        assert_eq!(resolve(tree.path(), "inner").unwrap().uid, 7);
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let tree = image("", "");
        let passwd = tree.path().join("etc/passwd");
        std::fs::File::create(&passwd).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(matches!(resolve(tree.path(), "x"), Err(UserError::NoFile("/etc/passwd"))));
        std::fs::remove_file(&passwd).unwrap();
        let directory = rustix::fs::CWD;
        rustix::fs::mknodat(directory, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert!(matches!(resolve(tree.path(), "x"), Err(UserError::NoFile("/etc/passwd"))));
    }
}

use std::{
    io::Write,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
};

use minato_model::code::Code;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::digest;

/// A tar archive, entry by entry; names go in as they are, good or bad.
struct Tar(Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn header(kind: EntryType, path: &[u8], size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000);
        header.set_cksum();
        header
    }

    fn add(mut self, kind: EntryType, path: &str, change: impl FnOnce(&mut Header), data: &[u8]) -> Self {
        let mut header = Self::header(kind, path.as_bytes(), data.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.add(EntryType::Regular, path, |_| {}, data.as_bytes())
    }

    fn directory(self, path: &str, mode: u32) -> Self {
        self.add(EntryType::Directory, path, |header| header.set_mode(mode), b"")
    }

    fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        let name = |header: &mut Header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        };
        self.add(kind, path, name, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn layer(self) -> Layer {
        gzip(&self.bytes())
    }
}

fn compressed(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn gzip(content: &[u8]) -> Layer {
    stored(&compressed(content), content)
}

fn stored(blob: &[u8], content: &[u8]) -> Layer {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(blob).unwrap();
    Layer {
        file,
        media_type: media::OCI_LAYER_GZIP.to_owned(),
        digest: digest::of(blob),
        diff_id: digest::of(content),
        size: blob.len() as u64,
    }
}

struct Unpacking {
    directory: tempfile::TempDir,
    result: Result<Tree, UnpackError>,
}

impl Unpacking {
    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join("tree").join(path)
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(path))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn attempt(layers: &[Layer], limits: &Limits) -> Unpacking {
    let directory = tempfile::tempdir().unwrap();
    let result = unpack(layers, &directory.path().join("tree"), limits);
    if result.is_err() {
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "something is left");
    }
    Unpacking { directory, result }
}

fn unpacked(layers: &[Layer]) -> Unpacking {
    let unpacking = attempt(layers, &Limits::default());
    if let Err(error) = &unpacking.result {
        panic!("{error}: {error:?}");
    }
    unpacking
}

#[track_caller]
fn refused(layers: &[Layer], code: Code, message: &str) {
    let error = attempt(layers, &Limits { bytes: 1 << 20, files: 100 }).result.unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(message), "`{error}` doesn't say `{message}`");
}

#[test]
fn files_get_owner_mode_time_and_no_rights() {
    let special = |header: &mut Header| {
        header.set_mode(0o6755);
        header.set_uid(65_535);
        header.set_gid(33);
    };
    let tree = unpacked(&[Tar::new()
        .directory("./", 0o750)
        .directory("bin/", 0o1777)
        .pax(&[
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.kept", b"yes"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        ])
        .add(EntryType::Regular, "bin/tool", special, b"#!")
        .link(EntryType::Symlink, "sh", "/bin/tool")
        .add(EntryType::Fifo, "pipe", |header| header.set_mode(0o622), b"")
        .file("deep/er/file", "x")
        .layer()]);
    let tool = fs::metadata(tree.path("bin/tool")).unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid()), (0o755, 65_535, 33));
    assert_eq!((tool.mtime(), tool.mtime_nsec()), (12, 500_000_000));
    let mut value = [0; 8];
    let attribute = |name: &str, value: &mut [u8; 8]| {
        rustix::fs::getxattr(tree.path("bin/tool"), name, value.as_mut_slice())
    };
    // Memory file systems of older kernels have no such attributes.
    if attribute("user.none", &mut value) != Err(rustix::io::Errno::NOTSUP) {
        assert_eq!(attribute("user.kept", &mut value), Ok(3));
    }
    assert!(attribute("security.capability", &mut value).is_err());
    assert_eq!(fs::metadata(tree.path("bin")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(tree.path("bin")).unwrap().mtime(), 1_000);
    assert_eq!(fs::metadata(tree.path("")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(tree.path("deep/er")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(fs::metadata(tree.path("deep")).unwrap().mtime(), 0);
    assert_eq!(fs::read_link(tree.path("sh")).unwrap(), Path::new("/bin/tool"));
    let pipe = fs::symlink_metadata(tree.path("pipe")).unwrap();
    assert!(pipe.file_type().is_fifo());
    assert_eq!(pipe.permissions().mode() & 0o7777, 0o622);
}

#[test]
fn upper_layers_hide_and_replace_what_lower_ones_have() {
    let lower = Tar::new()
        .directory("etc/", 0o755)
        .file("etc/gone", "1")
        .file("etc/kept", "1")
        .file("cache/old/a", "1")
        .file("cache/new/b", "1")
        .file("dir/inside", "1")
        .file("file", "1")
        .link(EntryType::Symlink, "lib", "usr/lib")
        .file("usr/lib/one", "1")
        .file("twin", "first")
        .link(EntryType::Link, "other", "twin")
        // Below the lowest layer there is nothing to hide.
        .file("/.wh.file", "");
    let upper = Tar::new()
        .directory("etc/", 0o700)
        .file("etc/.wh.gone", "")
        .file("etc/.wh.never", "")
        .file("absent/.wh.never", "")
        // What the layer itself brings stays, whatever the order.
        .file("cache/new/c", "2")
        .file("cache/.wh..wh..opq", "")
        .file("cache/own", "2")
        .file("dir", "now a file")
        .directory("file/", 0o755)
        .file("file/below", "now a directory")
        .file("lib/two", "through the link")
        .file("twin", "second")
        .link(EntryType::Link, "lib/three", "/lib/one")
        .file(".wh..wh.plnk/1.2", "aufs");
    let tree = unpacked(&[lower.layer(), upper.layer()]);
    assert_eq!(tree.names(""), ["cache", "dir", "etc", "file", "lib", "other", "twin", "usr"]);
    assert_eq!(tree.names("etc"), ["kept"]);
    assert_eq!(fs::metadata(tree.path("etc")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(tree.names("cache"), ["new", "own"]);
    assert_eq!(tree.names("cache/new"), ["c"]);
    assert_eq!(tree.text("dir"), "now a file");
    assert_eq!(tree.text("file/below"), "now a directory");
    assert_eq!(tree.names("usr/lib"), ["one", "three", "two"]);
    // A file that is replaced leaves its other names alone.
    assert_eq!((tree.text("twin"), tree.text("other")), ("second".to_owned(), "first".to_owned()));
    let inode = |path| fs::metadata(tree.path(path)).unwrap().ino();
    assert_eq!(inode("usr/lib/one"), inode("usr/lib/three"));
}

#[test]
fn a_whiteout_follows_no_stale_directory() {
    let lower = Tar::new().file("a/b/c", "1").link(EntryType::Symlink, "way", "a/b");
    let upper = Tar::new()
        .file("way/d", "2")
        .file(".wh.way", "")
        .link(EntryType::Symlink, "way", "/elsewhere")
        .directory("elsewhere/", 0o755)
        .file("way/e", "2")
        .file("a/.wh.b", "");
    let tree = unpacked(&[lower.layer(), upper.layer()]);
    assert_eq!(tree.names("elsewhere"), ["e"]);
    assert_eq!(tree.names("a/b"), ["d"]);
}

#[test]
fn links_lead_nowhere_but_into_the_tree() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let out = target.trim_start_matches('/');
    let tree = unpacked(&[Tar::new()
        .link(EntryType::Symlink, "absolute", target)
        .link(EntryType::Symlink, "climbing", &format!("../../../../../../../../..{target}"))
        .directory(&format!("{out}/"), 0o755)
        .file("absolute/one", "1")
        .file("climbing/two", "2")
        .link(EntryType::Link, "hard", "absolute/one")
        .layer()]);
    assert_eq!(tree.names(out), ["one", "two"]);
    assert_eq!(tree.text("hard"), "1");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    // What a link leads to needn't be there yet.
    let tree = unpacked(&[Tar::new()
        .link(EntryType::Symlink, "var/run", "../../run/./a")
        .link(EntryType::Symlink, "one", "/two")
        .link(EntryType::Symlink, "two", "three/four")
        .file("var/run/pid", "1")
        .file("one/deep/x", "2")
        .layer()]);
    assert_eq!((tree.text("run/a/pid"), tree.text("three/four/deep/x")), ("1".to_owned(), "2".to_owned()));
    // A link at the very name that is written is replaced, not followed.
    let secret = outside.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    let name = secret.to_str().unwrap();
    let tree = unpacked(&[Tar::new().link(EntryType::Symlink, "x", name).file("x", "new").layer()]);
    assert_eq!(tree.text("x"), "new");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
}

#[test]
fn refuses_what_no_image_may_hold() {
    let refuse = |tar: Tar, message| refused(&[tar.layer()], Code::ImageRefused, message);
    let owner = |header: &mut Header| header.set_uid(65_536);
    refuse(Tar::new().file("../up", "x"), "`../up` has `..`");
    refuse(Tar::new().file("a/../../up", "x"), "has `..`");
    refuse(Tar::new().file("", "x"), "root directory");
    refuse(Tar::new().link(EntryType::Link, "hard", "../../etc/passwd"), "has `..`");
    refuse(Tar::new().link(EntryType::Link, "hard", "/etc/passwd"), "hard link to `/etc/passwd`");
    refuse(Tar::new().directory("d/", 0o755).link(EntryType::Link, "hard", "d"), "hard link to `d`");
    refuse(Tar::new().file("d/x", "").link(EntryType::Link, "d", "d/x"), "hard link to `d/x`");
    refuse(Tar::new().link(EntryType::Symlink, "l", ""), "0 bytes");
    refuse(Tar::new().link(EntryType::Symlink, "l", "l").file("l/x", "x"), "leads nowhere");
    refuse(Tar::new().link(EntryType::Symlink, "l", "f/x").file("f", "").file("l/x", "x"), "no directory");
    refuse(Tar::new().file("f", "x").file("f/x", "x"), "no directory");
    refuse(Tar::new().add(EntryType::Char, "dev/null", |_| {}, b""), "`dev/null` is a device");
    refuse(Tar::new().add(EntryType::Block, "dev/sda", |_| {}, b""), "is a device");
    refuse(Tar::new().add(EntryType::new(b'V'), "volume", |_| {}, b""), "kind `V`");
    refuse(Tar::new().add(EntryType::Regular, "f", owner, b"x"), "65536:0");
    refuse(Tar::new().file(".wh...", ""), "whiteout");
    refuse(Tar::new().file("a/.wh.", ""), "whiteout");
    refuse(Tar::new().pax(&[("path", &[b'x'; 300])]).file("f", "x"), "too long");
    refuse(Tar::new().pax(&[("path", "d/".repeat(300).as_bytes())]).file("f", "x"), "too long");
    refuse(Tar::new().pax(&[("path", b"a\0b")]).file("f", "x"), "zero byte");
    refuse(Tar::new().file("\u{1b}[2J/../x", "x"), "`\\u{1b}[2J/../x`");
    // Links make a tree deeper than any one path of it says.
    let mut tar = Tar::new();
    for at in 0..3 {
        let deep = "d/".repeat(120);
        let below = if at == 0 { String::new() } else { format!("l{}/", at - 1) };
        tar = tar.pax(&[("path", format!("{below}{deep}f").as_bytes())]).file("f", "x");
        tar = tar.pax(&[("linkpath", format!("{below}{deep}").as_bytes())]);
        tar = tar.link(EntryType::Symlink, &format!("l{at}"), "x");
    }
    let error = attempt(&[tar.layer()], &Limits::default()).result.unwrap_err();
    assert!(error.to_string().contains("too long"), "{error}");
}

#[test]
fn limits_hold_before_the_disk_is_filled() {
    let huge = Tar::header(EntryType::Regular, b"huge", 5 << 40);
    let mut bytes = huge.as_bytes().to_vec();
    bytes.extend_from_slice(&[0; 4096]);
    refused(&[gzip(&bytes)], Code::ImageRefused, "more than 1048576 bytes");
    // Ten thousandfold compression: counted where it comes out.
    refused(&[gzip(&vec![0; 30 << 20])], Code::ImageRefused, "more than 1048576 bytes");
    let half = || Tar::new().file("f", &"x".repeat(600_000)).layer();
    refused(&[half(), half()], Code::ImageRefused, "more than 1048576 bytes");
    let many = (0..101).fold(Tar::new(), |tar, at| tar.file(&format!("f{at}"), ""));
    refused(&[many.layer()], Code::ImageRefused, "more than 100 files");
    let implied = Tar::new().file(&"d/".repeat(45), "").file(&format!("e/{}f", "e/".repeat(46)), "");
    let implied =
        implied.file(&format!("f/{}f", "e/".repeat(46)), "").file(&format!("g/{}f", "e/".repeat(20)), "");
    refused(&[implied.layer()], Code::ImageRefused, "more than 100 files");
    let mut long = Tar::header(EntryType::GNULongName, b"././@LongLink", 900 << 20).as_bytes().to_vec();
    long.extend_from_slice(&[b'x'; 4096]);
    refused(&[gzip(&long)], Code::ImageRefused, "larger than 1 MiB");
    let sparse =
        Tar::new().pax(&[("GNU.sparse.map", b"0,1".as_slice()), ("GNU.sparse.size", b"9000000000000000000")]);
    refused(&[sparse.file("s", "x").layer()], Code::ImageRefused, "sparse file of 9000000000000000000");
}

#[test]
fn names_are_kept_within_a_bound() {
    let directory = tempfile::tempdir().unwrap();
    let root = rustix::fs::open(directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let place = Place::new(root).unwrap();
    let mut work = Work { place, files: 0, files_max: 100, names_left: 30, times: BTreeMap::new() };
    let tar =
        Tar::new().directory("ten-bytes/", 0o755).directory("ten-bytes/", 0o700).file("ten-bytes/file", "");
    let bytes = tar.directory("ten-bytes/twenty-bytes/", 0o755).directory("more/", 0o755).bytes();
    let mut application = Application::new(&mut work, true, 1 << 20);
    let fault = application.run(&mut Archive::new(bytes.as_slice())).unwrap_err();
    assert!(matches!(fault, Fault::Limit("bytes of names", _)), "{fault:?}");
    assert_eq!(application.path(), b"ten-bytes/twenty-bytes/");
}

#[test]
fn content_is_what_its_digests_say() {
    let content = Tar::new().file("f", "x").bytes();
    let good = compressed(&content);
    let changed = |change: &dyn Fn(&mut Layer)| {
        let mut layer = gzip(&content);
        change(&mut layer);
        layer
    };
    let other = digest::of(b"other");
    refused(&[changed(&|layer| layer.digest = other.clone())], Code::ImageDigest, "changed or damaged");
    refused(&[changed(&|layer| layer.diff_id = other.clone())], Code::ImageDigest, "don't belong together");
    refused(&[changed(&|layer| layer.size += 1)], Code::ImageDigest, "where the manifest says");
    refused(&[changed(&|layer| layer.size -= 1)], Code::ImageDigest, "where the manifest says");
    let config = |layer: &mut Layer| layer.media_type = "application/json".to_owned();
    refused(&[changed(&config)], Code::ImageRefused, "application/json");

    let cut = &good[..good.len() - 12];
    refused(&[stored(cut, &content)], Code::ImageRefused, "can't be decompressed");
    // The same on a damaged disk: the digest is the better explanation.
    let damaged = Layer { digest: digest::of(&good), ..stored(cut, &content) };
    refused(&[damaged], Code::ImageDigest, "");
    refused(&[gzip(&content[..600])], Code::ImageRefused, "is broken after `f`");
    refused(&[gzip(b"no archive at all")], Code::ImageRefused, "ends within a header");
    refused(&[gzip(&[b'x'; 1024])], Code::ImageRefused, "checksum");
}

#[test]
fn all_compressions_and_several_members_are_read() {
    let content = Tar::new().file("f", &"text ".repeat(200_000)).bytes();
    let (first, second) = content.split_at(1_000);
    let members = [compressed(first), compressed(second)].concat();
    let zstd = zstd::encode_all(content.as_slice(), 1).unwrap();
    for blob in [content.clone(), members, zstd] {
        let tree = unpacked(&[stored(&blob, &content)]);
        assert_eq!(tree.text("f").len(), 1_000_000);
    }
    // sha512 names content as well as sha256.
    let mut hasher = digest::Hasher::new(minato_model::digest::Algorithm::Sha512);
    hasher.update(&content);
    let name = hasher.finish();
    unpacked(&[Layer { digest: name.clone(), diff_id: name, ..stored(&content, &content) }]);
}

#[test]
fn sparse_files_keep_their_holes() {
    let size: u64 = 4 << 20;
    let expected = |tree: &Unpacking| {
        let content = fs::read(tree.path("s")).unwrap();
        assert_eq!(content.len() as u64, size);
        assert_eq!(&content[1 << 20..(1 << 20) + 4], b"data");
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 4);
        assert!(fs::metadata(tree.path("s")).unwrap().blocks() * 512 < size / 2);
    };
    let map = format!("{},4,{size},0", 1 << 20);
    let text = size.to_string();
    let pax = Tar::new().pax(&[
        ("GNU.sparse.size", text.as_bytes()),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.map", map.as_bytes()),
    ]);
    expected(&unpacked(&[pax.file("GNUSparseFile.0/s", "data").layer()]));

    let mut data = format!("1\n{}\n4\n", 1 << 20).into_bytes();
    data.resize(512, 0);
    data.extend_from_slice(b"data");
    let pax = Tar::new().pax(&[
        ("GNU.sparse.major", b"1".as_slice()),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", text.as_bytes()),
    ]);
    expected(&unpacked(&[pax.add(EntryType::Regular, "s", |_| {}, &data).file("after", "x").layer()]));

    let old = |header: &mut Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize[..11].copy_from_slice(format!("{size:011o}").as_bytes());
        gnu.sparse[0].offset[..11].copy_from_slice(format!("{:011o}", 1 << 20).as_bytes());
        gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000004");
    };
    let tar = Tar::new().add(EntryType::GNUSparse, "s", old, b"data").file("after", "x");
    expected(&unpacked(&[tar.layer()]));
}

#[test]
fn a_stale_try_is_removed_and_a_whole_tree_kept() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("tree");
    let stale = directory.path().join("tree.partial");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("junk"), "x").unwrap();
    let first = unpack(&[Tar::new().file("f", "1").layer()], &target, &Limits::default()).unwrap();
    assert_eq!(first.unpacked.unwrap().files, 1);
    assert!(!stale.exists() && !target.join("junk").exists());
    let again = unpack(&[Tar::new().file("f", "2").layer()], &target, &Limits::default()).unwrap();
    assert_eq!(again.unpacked, None);
    assert_eq!(fs::read_to_string(target.join("f")).unwrap(), "1");
}

/// A file system of one megabyte, taken away when it goes.
struct Small(tempfile::TempDir);

impl Small {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV;
        rustix::mount::mount("small", directory.path(), "tmpfs", flags, Some(c"size=1m,nr_inodes=50"))
            .unwrap();
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).ok();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let small = Small::new();
    let check = |layer: Layer| {
        let error = unpack(&[layer], &small.0.path().join("tree"), &Limits::default()).unwrap_err();
        assert_eq!(error.code(), Code::DiskFull, "{error:?}");
        assert_eq!(fs::read_dir(small.0.path()).unwrap().count(), 0);
    };
    check(Tar::new().file("small", "x").file("large", &"x".repeat(2 << 20)).layer());
    check((0..60).fold(Tar::new(), |tar, at| tar.file(&format!("f{at}"), "")).layer());
    // With room it works, in the very same place.
    unpack(&[Tar::new().file("f", "x").layer()], &small.0.path().join("tree"), &Limits::default()).unwrap();
}

#[test]
fn no_header_makes_the_reader_fall() {
    let sparse = |header: &mut Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize[..11].copy_from_slice(b"00000001000");
        gnu.sparse[0].offset[..11].copy_from_slice(b"00000000000");
        gnu.sparse[0].numbytes[..11].copy_from_slice(b"00000000004");
    };
    let content = Tar::new()
        .pax(&[("path", b"long"), ("mtime", b"-1.5"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"4")])
        .file("f", "x")
        .add(EntryType::GNUSparse, "s", sparse, b"data")
        .add(EntryType::GNULongName, "././@LongLink", |_| {}, b"name\0")
        .link(EntryType::Link, "h", "f")
        .bytes();
    let read = |bytes: &[u8]| {
        let mut archive = Archive::new(bytes);
        let mut entries = 0;
        while let Ok(Some(_)) = archive.next() {
            entries += 1;
        }
        entries
    };
    assert_eq!(read(&content), 3);
    for at in 0..content.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut broken = content.clone();
            broken[at] ^= change;
            let block = at - at % 512;
            if &broken[block + 257..block + 262] == b"ustar" {
                let mut header = Header::from_byte_slice(&broken[block..block + 512]).clone();
                header.set_cksum();
                broken[block..block + 512].copy_from_slice(header.as_bytes());
            }
            // There are five headers, whatever each is taken for.
            assert!(read(&broken) <= 5);
        }
    }
}

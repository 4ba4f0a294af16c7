use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;

fn check(tree: &Path, directories: &[&str]) -> Result<(), MountPointError> {
    mount_points(tree, &directories.iter().map(|&path| path.into()).collect::<Vec<_>>())
}

#[test]
fn everything_that_is_mounted_over_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path();
    check(tree, &["/var/lib/app", "/"]).unwrap();
    for path in ["proc", "dev", "sys", "tmp", "run", "etc", "var/lib/app"] {
        assert_eq!(fs::metadata(tree.join(path)).unwrap().permissions().mode() & 0o7777, 0o755, "{path}");
    }
    for name in FILES {
        assert!(fs::symlink_metadata(tree.join("etc").join(name)).unwrap().is_file());
    }
    // Again changes nothing.
    check(tree, &["/var/lib/app"]).unwrap();
}

#[test]
fn links_are_followed_inside_the_tree_only() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
    fs::create_dir_all(tree.join("data")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::create_dir(tree.join("etc")).unwrap();
    fs::write(outside.join("hosts"), "the host's").unwrap();
    symlink("/data", tree.join("var")).unwrap();
    symlink("../../../data", tree.join("up")).unwrap();
    symlink(outside.join("hosts"), tree.join("etc/hosts")).unwrap();
    check(&tree, &["/var/app", "/up/other"]).unwrap();
    assert!(tree.join("data/app").is_dir());
    assert!(tree.join("data/other").is_dir());
    assert!(fs::symlink_metadata(tree.join("etc/hosts")).unwrap().is_file());
    assert_eq!(fs::read_to_string(outside.join("hosts")).unwrap(), "the host's");
    // A link out of the tree leads nowhere.
    symlink(&outside, tree.join("out")).unwrap();
    assert!(check(&tree, &["/out/app"]).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn what_can_not_be_a_mount_point_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path();
    fs::write(tree.join("file"), "").unwrap();
    assert!(matches!(check(tree, &["/file"]), Err(MountPointError::Occupied { path }) if path == "/file"));
    assert!(matches!(check(tree, &["/file/below"]), Err(MountPointError::Occupied { .. })));
    assert!(matches!(check(tree, &["relative"]), Err(MountPointError::Path(_))));
    assert!(matches!(check(tree, &["/a/../b"]), Err(MountPointError::Path(_))));
    fs::create_dir_all(tree.join("etc/resolv.conf")).unwrap();
    assert!(
        matches!(check(tree, &[]), Err(MountPointError::Occupied { path }) if path == "/etc/resolv.conf")
    );
}

/// What is at `/run/minato/identity` for a process whose root the tree is: everybody can reach it.
fn identity_of(tree: &Path) {
    check(tree, &[]).unwrap();
    let root = open(tree, FOLDER, Mode::empty()).unwrap();
    for path in ["run", "run/minato", "run/minato/identity"] {
        let stat = fstat(resolve(&root, path, FOLDER).unwrap()).unwrap();
        assert_eq!(stat.st_mode & 0o111, 0o111, "{path}");
    }
    for path in ["run/minato", "run/minato/identity"] {
        let stat = fstat(resolve(&root, path, FOLDER | OFlags::NOFOLLOW).unwrap()).unwrap();
        assert_eq!((stat.st_uid, stat.st_gid, stat.st_mode & 0o7777), (0, 0, 0o755), "{path}");
    }
}

#[test]
fn the_place_of_the_identity_is_there_whatever_the_image_has() {
    let made = |make: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        identity_of(folder.path());
        folder
    };
    made(&|_| {});
    // `/run` leads elsewhere in the image: what is there is found still.
    let elsewhere = made(&|tree| {
        fs::create_dir_all(tree.join("var/run/app")).unwrap();
        symlink("var/run", tree.join("run")).unwrap();
    });
    assert!(elsewhere.path().join("run/app").is_dir());
    // To nowhere, to itself, out of the tree, and to what is another's when it runs.
    for to in ["/nowhere", "/run", "../..", "/tmp", "/dev/shm", "/proc/self/root/etc", "/tmp/../tmp/x"] {
        let folder = made(&|tree| {
            fs::create_dir_all(tree.join("tmp/x")).unwrap();
            fs::create_dir_all(tree.join("dev/shm")).unwrap();
            symlink(to, tree.join("run")).unwrap();
        });
        assert!(fs::symlink_metadata(folder.path().join("run")).unwrap().is_dir(), "{to}");
    }
    // Links, files and closed folders in its own place.
    for to in ["/etc", "/nowhere"] {
        made(&|tree| {
            fs::create_dir(tree.join("run")).unwrap();
            symlink(to, tree.join("run/minato")).unwrap();
        });
        made(&|tree| {
            fs::create_dir_all(tree.join("run/minato")).unwrap();
            symlink(to, tree.join("run/minato/identity")).unwrap();
        });
    }
    made(&|tree| {
        fs::create_dir(tree.join("run")).unwrap();
        fs::write(tree.join("run/minato"), "").unwrap();
    });
    made(&|tree| {
        fs::create_dir_all(tree.join("run/minato/identity/tls.key")).unwrap();
        for path in ["run", "run/minato", "run/minato/identity"] {
            fs::set_permissions(tree.join(path), fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(tree.join(path), Some(33), Some(33)).unwrap();
        }
    });
}

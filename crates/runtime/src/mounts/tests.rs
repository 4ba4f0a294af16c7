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

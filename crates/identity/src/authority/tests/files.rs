//! Files that are half made, damaged, lost, of somebody else, or open to others.

use std::{
    error::Error as _,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;

fn refused(rig: &Rig) -> String {
    let error = rig.try_open().unwrap_err();
    assert!(error.source().is_none(), "it says all of it: {error:?}");
    error.to_string()
}

#[test]
fn what_a_crash_left_half_made_is_made_anew() {
    for lost in [
        &["root-0.crt", "root-1.crt", "root-1.key", "node-0.crt", "node-0.key"][..],
        &["root-1.crt", "node-0.crt", "node-0.key"],
        &["root-1.crt"],
        &["node-0.crt"],
        &["node-0.crt", "node-0.key"],
    ] {
        let rig = Rig::new();
        let cluster = rig.open().cluster().to_owned();
        for name in lost {
            // As it was being written.
            let (path, beside) = (rig.path().join(name), rig.path().join(format!("{name}.partial")));
            fs::write(&beside, "-----BEGIN").unwrap();
            fs::remove_file(path).unwrap();
        }
        let authority = rig.open();
        assert_eq!(authority.cluster(), cluster);
        assert_eq!(authority.bundle().roots.len(), 2, "{lost:?}");
        verified(&authority.bundle(), &instance(&authority, DAY), START).unwrap();
        verified(&rig.open().bundle(), &instance(&authority, DAY), START).unwrap();
    }
}

#[test]
fn damaged_files_are_named_with_their_cure() {
    for (name, content, says) in [
        ("root-0.crt", "nothing", "it is no certificate in PEM; put both files of this root back"),
        ("root-0.crt", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "no X.509"),
        ("root-1.key", "nothing", "it is no private key in PEM"),
        ("root-1.key", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", "no ECDSA key"),
        ("cluster", "", "it can't be read"),
        ("cluster", "{}", "missing field `cluster`"),
    ] {
        let rig = Rig::new();
        drop(rig.open());
        fs::write(rig.path().join(name), content).unwrap();
        let error = refused(&rig);
        let place = rig.path().join(name).display().to_string();
        assert!(error.contains(&place) && error.contains(says), "{name}: {error}");
        assert!(error.contains("from a backup, or remove"), "{error}");
    }
}

#[test]
fn lost_and_foreign_files_are_named_with_their_cure() {
    let (rig, foreign) = (Rig::new(), Rig::new());
    drop((rig.open(), foreign.open()));
    let copy = |name: &str| fs::copy(foreign.path().join(name), rig.path().join(name)).unwrap();
    let keep = |name: &str| fs::read(rig.path().join(name)).unwrap();
    let key = keep("root-0.key");
    fs::remove_file(rig.path().join("root-0.key")).unwrap();
    assert!(refused(&rig).contains("root-0.key: it is missing, though its certificate is there"));
    copy("root-0.key");
    assert!(refused(&rig).contains("root-0.key: it isn't the key of its certificate"));
    let certificate = keep("root-0.crt");
    copy("root-0.crt");
    assert!(refused(&rig).contains("but of another cluster or number"));
    fs::write(rig.path().join("root-0.key"), key).unwrap();
    fs::write(rig.path().join("root-0.crt"), certificate).unwrap();
    drop(rig.open());
    fs::remove_file(rig.path().join("cluster")).unwrap();
    assert!(refused(&rig).contains("cluster: it is missing, though there are roots"));
}

#[test]
fn an_intermediate_that_is_damaged_or_foreign_is_replaced() {
    let (rig, foreign) = (Rig::new(), Rig::new());
    drop((rig.open(), foreign.open()));
    for end in ["crt", "key"] {
        let name = format!("node-0.{end}");
        fs::copy(foreign.path().join(&name), rig.path().join(&name)).unwrap();
    }
    for number in 1..4 {
        let authority = rig.open();
        verified(&authority.bundle(), &instance(&authority, DAY), START).unwrap();
        assert_eq!(authority.rotate().unwrap().intermediate.unwrap().number, number);
        fs::write(rig.path().join(format!("node-{number}.crt")), "nothing").unwrap();
    }
}

#[test]
fn a_root_that_was_removed_with_its_key_is_made_anew() {
    let rig = Rig::new();
    drop(rig.open());
    for name in ["root-0.crt", "root-0.key"] {
        fs::remove_file(rig.path().join(name)).unwrap();
    }
    let authority = rig.open();
    // The intermediate came from the one that was removed.
    verified(&authority.bundle(), &instance(&authority, DAY), START).unwrap();
}

#[test]
fn nobody_else_may_read_any_of_it() {
    let rig = Rig::new();
    drop(rig.open());
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let all_private = || {
        assert_eq!(mode(rig.path()), 0o700);
        for name in rig.files() {
            assert_eq!(mode(rig.path().join(&name)), 0o600, "{name}");
        }
    };
    all_private();
    for name in rig.files() {
        fs::set_permissions(rig.path().join(name), Permissions::from_mode(0o644)).unwrap();
    }
    fs::set_permissions(rig.path(), Permissions::from_mode(0o755)).unwrap();
    drop(rig.open());
    all_private();
    let elsewhere = rig.dir.path().join("elsewhere.key");
    fs::rename(rig.path().join("root-0.key"), &elsewhere).unwrap();
    symlink(&elsewhere, rig.path().join("root-0.key")).unwrap();
    assert!(refused(&rig).contains("root-0.key: it is a symbolic link; put what it points to in its place"));
}

#[test]
fn a_directory_that_can_not_be_written_is_named() {
    let rig = Rig::new();
    fs::write(rig.path(), "a file").unwrap();
    let error = rig.try_open().unwrap_err();
    assert!(error.to_string().contains(&rig.path().display().to_string()), "{error}");
}

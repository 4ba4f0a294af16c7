//! Starts that fail, each with its reason, and what can't be made.

use minato_runtime::{keeper::MakeError, sandbox::StartError};

use crate::ground::Ground;

#[test]
fn what_is_wrong_with_a_program_is_told() {
    let ground = Ground::new();
    let tree = ground.tree();
    std::fs::write(tree.join("bin/plain"), "not executable").unwrap();
    std::fs::write(tree.join("bin/script"), "#!/no/such/interpreter\n").unwrap();
    std::fs::write(tree.join("bin/garbage"), [0x7f, b'E', b'L', b'F', 1, 2, 3]).unwrap();
    for name in ["script", "garbage"] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(tree.join("bin").join(name), mode).unwrap();
    }
    let refused = |program: &str| ground.refused(|start| start.argv = vec![program.into()]);
    assert!(matches!(refused("/no/such"), StartError::Missing { path } if path == "/no/such"));
    assert!(matches!(refused("no-such"), StartError::Missing { path } if path == "no-such"));
    assert!(matches!(refused("plain"), StartError::NotExecutable { path } if path == "/bin/plain"));
    assert!(matches!(refused("/etc"), StartError::NotExecutable { .. }));
    assert!(matches!(refused("/bin/script"), StartError::NoInterpreter { path } if path == "/bin/script"));
    assert!(matches!(refused("garbage"), StartError::WrongFormat { path } if path == "/bin/garbage"));
}

#[test]
fn a_missing_directory_a_missing_tree_and_nonsense_are_told() {
    let ground = Ground::new();
    let error = ground.refused(|start| start.cwd = "/nowhere".into());
    assert!(matches!(error, StartError::Directory { path, .. } if path == "/nowhere"));
    let error = ground.refused(|start| start.root = "/nowhere".into());
    assert!(matches!(error, StartError::Root { .. }));
    let error = ground.refused(|start| start.writable = vec!["/nowhere".into()]);
    assert!(matches!(error, StartError::Step { step, .. } if step.contains("/nowhere")));
    let error = ground.refused(|start| start.argv.clear());
    assert!(matches!(error, StartError::Invalid(_)));
    let error = ground.refused(|start| start.env = vec!["A=\0".into()]);
    assert!(matches!(error, StartError::Invalid(_)));
    let error = ground.refused(|start| start.env = vec!["A".repeat(1 << 20)]);
    assert!(matches!(error, StartError::Invalid(_)));
    let error = ground.refused(|start| start.uid = 70_000);
    assert!(matches!(error, StartError::Invalid(_)));
}

#[test]
fn content_that_exceeds_scratch_is_refused() {
    let ground = Ground::new();
    std::fs::write(ground.tree().join("var/cache/app/large"), vec![1; 6 << 20]).unwrap();
    let error = ground.refused(|_| {});
    let StartError::Step { step, source } = error else { panic!("{error:?}") };
    assert!(step.contains("/var/cache"), "{step}");
    assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn an_address_or_an_id_in_use_is_refused() {
    let ground = Ground::new();
    let (_sandbox, first) = ground.make();
    let mut spec = ground.spec();
    spec.address = first.address;
    assert!(
        matches!(ground.client().make(&spec).unwrap_err(), MakeError::Busy { address } if address == first.address)
    );
    let mut spec = ground.spec();
    spec.instance = first.instance.clone();
    assert!(matches!(ground.client().make(&spec).unwrap_err(), MakeError::Step { .. }));
    let mut spec = ground.spec();
    spec.id_range_start = 0;
    assert!(matches!(ground.client().make(&spec).unwrap_err(), MakeError::Invalid(_)));
    // The keeper goes on as if nothing had been.
    let (text, _) = ground.run("echo well");
    assert_eq!(text, "well\n");
}

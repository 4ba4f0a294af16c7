use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    process::Command,
};

use super::*;
use crate::{
    manifest::{self, Document, ImageConfig},
    tree::{self, Layer, Limits},
};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = |path: &str| folder.path().join(path);
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir(path(directory)).unwrap();
        fs::set_permissions(path(directory), PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(path("tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
    for (name, text, mode) in
        [("bin/app", "#!/bin/sh\n", 0o4755), ("etc/b", "two", 0o640), ("etc/a", "", 0o600)]
    {
        fs::write(path(name), text).unwrap();
        fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    fs::hard_link(path("etc/b"), path("etc/c")).unwrap();
    symlink("/bin/app", path("run")).unwrap();
    fs::write(path(&format!("etc/{}", "n".repeat(150))), "long").unwrap();
    fs::set_permissions(path(&format!("etc/{}", "n".repeat(150))), PermissionsExt::from_mode(0o644)).unwrap();
    symlink("t".repeat(150), path("etc/link")).unwrap();
    folder
}

fn request(source: &Path) -> PackRequest {
    PackRequest {
        source: source.to_owned(),
        entrypoint: vec!["/bin/app".to_owned()],
        port: Some(8080),
        env: vec![("A".to_owned(), "1".to_owned())],
        user: "65534".to_owned(),
        workdir: "/tmp".to_owned(),
        labels: [("k".to_owned(), "v".to_owned())].into(),
        ..PackRequest::default()
    }
}

fn packed(request: &PackRequest) -> Packed {
    pack(request).unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

/// Goes the whole way that a pushed image goes.
fn unpacked(packed: &Packed) -> (tempfile::TempDir, ImageConfig) {
    for blob in packed.blobs() {
        let mut bytes = Vec::new();
        blob.open().unwrap().read_to_end(&mut bytes).unwrap();
        assert_eq!((digest::of(&bytes), bytes.len() as u64), (blob.digest.clone(), blob.size));
    }
    let Document::Image(image) = manifest::parse(&packed.manifest, Some(media::OCI_MANIFEST)).unwrap() else {
        panic!("an image was packed")
    };
    assert_eq!(image.config.digest, packed.config.digest);
    let mut config = Vec::new();
    packed.config.open().unwrap().read_to_end(&mut config).unwrap();
    let config = ImageConfig::parse(&config).unwrap();
    assert_eq!(config.diff_ids, packed.diff_ids);
    let Content::File(file) = &packed.layers[0].content else { panic!("a layer is a file") };
    let layer = Layer {
        file: file.try_clone().unwrap(),
        media_type: image.layers[0].media_type.clone(),
        digest: image.layers[0].digest.clone(),
        diff_id: config.diff_ids[0].clone(),
        size: image.layers[0].size,
    };
    let directory = tempfile::tempdir().unwrap();
    tree::unpack(&[layer], &directory.path().join("tree"), &Limits::default()).unwrap();
    (directory, config)
}

/// The promise that a digest stays on any day. When the compressor or the archive's form changes, this
/// changes with it: then write the new digest here, and say so in the change log, since every packed
/// image gets another digest once.
#[test]
fn the_digest_is_the_same_on_any_day() {
    let folder = folder();
    let packed = packed(&request(folder.path()));
    assert_eq!(
        packed.diff_ids[0].as_str(),
        "sha256:d3939ae5896c316113f620d4229f598e6480f7d6e184df86148fa0bbb3a4ad9b"
    );
    assert_eq!(
        packed.layers[0].digest.as_str(),
        "sha256:9de8453142da7f14cdc3cc12b27af4091b07c99aaa6b6174e0a58cce2539a92d"
    );
    // The configuration names the processor.
    if cfg!(target_arch = "x86_64") {
        assert_eq!(
            packed.digest.as_str(),
            "sha256:ce3f066c8f523b3e7b422d649aa7f6f19b5586f473271986fe7885177b08bde3"
        );
    }
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let folder = folder();
    let (directory, config) = unpacked(&packed(&request(folder.path())));
    let path = |path: &str| directory.path().join("tree").join(path);
    let mode = |name: &str| fs::symlink_metadata(path(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("bin/app"), mode("etc/b"), mode("")), (0o1777, 0o755, 0o640, 0o755));
    assert_eq!(fs::metadata(path("etc/b")).unwrap().ino(), fs::metadata(path("etc/c")).unwrap().ino());
    assert_eq!(fs::metadata(path("etc/b")).unwrap().mtime(), 0);
    assert_eq!(fs::read_link(path("run")).unwrap(), Path::new("/bin/app"));
    assert_eq!(fs::read_link(path("etc/link")).unwrap().as_os_str().len(), 150);
    assert_eq!(fs::read_to_string(path(&format!("etc/{}", "n".repeat(150)))).unwrap(), "long");
    assert_eq!(config.entrypoint, ["/bin/app"]);
    assert_eq!((config.ports.as_slice(), config.user.as_str()), ([8080].as_slice(), "65534"));
    assert_eq!(config.env, [("A".to_owned(), "1".to_owned())]);
    assert_eq!((config.working_dir.as_str(), config.labels["k"].as_str()), ("/tmp", "v"));
}

#[test]
fn special_files_are_refused() {
    let folder = folder();
    let _listening = std::os::unix::net::UnixListener::bind(folder.path().join("bin/socket")).unwrap();
    let error = pack(&request(folder.path())).unwrap_err().to_string();
    assert!(error.contains("bin/socket is a socket"), "{error}");
    assert!(pack(&request(&folder.path().join("none"))).unwrap_err().to_string().contains("can't be read"));
}

fn run_in(tree: &Path, argv: &[&str]) -> String {
    let mut command = Command::new("/usr/sbin/chroot");
    command.arg(tree.join("tree")).args(argv).env_clear();
    // What glibc takes for $ORIGIN where there is no /proc, which every instance has.
    command.env("LD_ORIGIN_PATH", "/usr/local/bin");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_program_brings_its_loader_and_libraries() {
    // This very test: a dynamic program on every machine that runs it with the usual toolchain.
    let program = std::env::current_exe().unwrap();
    let request = PackRequest { source: program.clone(), ..PackRequest::default() };
    let (directory, config) = unpacked(&packed(&request));
    let name = program.file_name().unwrap().to_str().unwrap();
    assert_eq!(config.entrypoint, [format!("/usr/local/bin/{name}")]);
    let output = run_in(directory.path(), &[&config.entrypoint[0], "--list"]);
    assert!(output.contains("a_program_brings_its_loader_and_libraries"));
    let tmp = fs::metadata(directory.path().join("tree/tmp")).unwrap();
    assert_eq!(tmp.mode() & 0o7777, 0o1777);
    let nobody = crate::users::resolve(&directory.path().join("tree"), "nobody").unwrap();
    assert_eq!(nobody.uid, 65_534);
}

fn compile(arguments: &[&str], directory: &Path, code: &str) {
    fs::write(directory.join("code.c"), code).unwrap();
    let mut compiler = Command::new("cc");
    compiler.current_dir(directory).args(["-x", "c", "code.c", "-x", "none"]).args(arguments);
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn libraries_are_found_as_loaders_find_them() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::create_dir_all(at.join("app/bin")).unwrap();
    fs::create_dir_all(at.join("app/lib/private")).unwrap();
    let inner = "int inner(void) { return 42; }";
    compile(&["-shared", "-fPIC", "-o", "app/lib/private/libinner.so"], at, inner);
    let middle = "int inner(void); int middle(void) { return inner(); }";
    let runpath = "-Wl,--enable-new-dtags,-rpath,${ORIGIN}/private";
    let link = ["-Lapp/lib/private", "-linner", runpath];
    compile(&[&["-shared", "-fPIC", "-o", "app/lib/libmiddle.so"], link.as_slice()].concat(), at, middle);
    let main = "#include <stdio.h>\nint middle(void); int main(void) { printf(\"%d\\n\", middle()); }";
    let rpath = "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib";
    let link = ["-Lapp/lib", "-lmiddle", rpath, "-Wl,-rpath-link,app/lib/private"];
    compile(&[&["-o", "app/bin/main"], link.as_slice()].concat(), at, main);

    let request = PackRequest { source: at.join("app/bin/main"), ..PackRequest::default() };
    let (tree, config) = unpacked(&packed(&request));
    assert_eq!(run_in(tree.path(), &[&config.entrypoint[0]]), "42\n");
    assert!(tree.path().join("tree/usr/local/lib/private/libinner.so").is_file());

    fs::remove_file(at.join("app/lib/private/libinner.so")).unwrap();
    let error = pack(&request).unwrap_err().to_string();
    assert!(error.contains("libmiddle.so needs the library libinner.so"), "{error}");
    assert!(error.contains("app/lib/private,"), "{error}");

    let library = PackRequest { source: at.join("app/lib/libmiddle.so"), ..PackRequest::default() };
    assert!(matches!(pack(&library), Err(PackError::NotExecutable(_))));
    compile(&["-static", "-o", "static"], at, "#include <stdio.h>\nint main(void) { puts(\"alone\"); }");
    let request = PackRequest { source: at.join("static"), ..PackRequest::default() };
    let (tree, config) = unpacked(&packed(&request));
    assert_eq!(run_in(tree.path(), &[&config.entrypoint[0]]), "alone\n");
    assert!(!tree.path().join("tree/lib").exists());
}

#[test]
fn what_is_no_program_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    let check = |bytes: &[u8], user: &str, message: &str| {
        fs::write(&path, bytes).unwrap();
        let request = PackRequest { source: path.clone(), user: user.to_owned(), ..PackRequest::default() };
        let error = pack(&request).unwrap_err().to_string();
        assert!(error.contains(message), "`{error}` doesn't say `{message}`");
    };
    let program = fs::read("/proc/self/exe").unwrap();
    check(b"#!/usr/bin/python3 -u\nprint()", "", "script for `/usr/bin/python3 -u`");
    check(b"text", "", "neither a folder nor a program");
    check(b"", "", "neither a folder nor a program");
    check(&program[..100], "", "is damaged");
    check(&program, "web", "not `web`");
    let mut other = program.clone();
    other[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    check(&other, "", "is built for a");
    other[18..20].copy_from_slice(&[0xff, 0xff]);
    check(&other, "", "processor 65535");
    let at = program.windows(10).position(|bytes| bytes == b"libc.so.6\0");
    let mut missing = program.clone();
    missing[at.unwrap() + 3] = b'X';
    check(&missing, "", "needs the library libX.so.6");
}

#[test]
fn no_header_makes_the_reader_fall() {
    let program = fs::read("/proc/self/exe").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app");
    // The header, and the table of segments after it.
    for at in 0..64 + 56 * 12 {
        let mut broken = program[..8192].to_vec();
        broken[at] ^= 0xff;
        fs::write(&path, &broken).unwrap();
        drop(elf::read(&path));
    }
}

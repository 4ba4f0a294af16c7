//! Images that are missing, for others, damaged or malicious: refused with the reason, at the moment
//! at which it can be known, and nothing of them is kept or run.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::path::{Path, PathBuf};

use minato_image::digest;
use minato_tests::{
    Server, images,
    oci::{self, Layer},
    until, wire,
};
use serde_json::{Value, json};
use tar::EntryType;

const GOOD: &str = "app = \"good\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"good.localhost\"]\n";

/// A server on which one service is well.
fn server() -> Server {
    let server = Server::start();
    let root = images::busybox(server.data());
    server.build(&root, "good/web:1", &["--entrypoint", images::HTTPD, "--port", "8080"]);
    server.apply(GOOD);
    good(&server);
    server
}

/// Whatever happens to others, the good service answers.
#[track_caller]
fn good(server: &Server) {
    assert_eq!(server.ask("good.localhost", "/").status, 200);
}

/// Applies one service of an image; the error, if it isn't taken.
#[track_caller]
fn refused(server: &Server, image: &str, code: &str) -> Value {
    let path = server.manifest(&format!("app = \"bad\"\n[services.web]\nimage = \"{image}\"\n"));
    let said = server.minato(&["apply", "--json", path.to_str().unwrap()]);
    assert_eq!(said.code(), 1, "{}{}", said.stdout, said.stderr);
    let error = said.json()["error"].clone();
    assert_eq!(error["code"], code, "{error}");
    assert_eq!((&error["line"], &error["key"]), (&3.into(), &"services.web.image".into()), "{error}");
    assert!(error["file"].as_str().unwrap().ends_with("manifest.toml"), "{error}");
    let text = server.minato(&["plan", path.to_str().unwrap()]);
    assert_eq!(text.code(), 1);
    assert!(text.stderr.contains("manifest.toml:3"), "{}", text.stderr);
    let apps = server.minato(&["status", "--json"]).ok().json();
    assert_eq!(apps["apps"].as_array().unwrap().len(), 1, "nothing was declared: {apps}");
    good(server);
    error
}

fn say(error: &Value) -> String {
    format!("{} {}", error["message"], error["hint"])
}

#[test]
fn what_cant_be_resolved_is_refused_by_the_plan() {
    let server = server();
    let error = refused(&server, "good/wbe:1", "image_missing");
    assert!(say(&error).contains("`good/web`") && say(&error).contains("push it"), "{error}");
    let error = refused(&server, "good/web:2", "image_missing");
    assert!(say(&error).contains("`1`"), "the tags that there are: {error}");
    let nothing = digest::of(b"nothing");
    refused(&server, &format!("good/web@{nothing}"), "image_missing");
    let error = refused(&server, "registry.example/library/nginx:1", "not_supported");
    assert!(say(&error).contains("skopeo copy"), "{error}");

    let layers = [Layer::default().file("bin/x", b"x").bytes()];
    let mut config = oci::config(&layers);
    config["architecture"] = "s390x".into();
    let tar = "application/vnd.oci.image.layer.v1.tar";
    oci::push_with(&server, "bad/web", "other", &layers, &config, tar);
    let error = refused(&server, "bad/web:other", "image_platform");
    assert!(say(&error).contains("s390x"), "{error}");

    let mut config = oci::config(&layers);
    config["config"] = json!({});
    oci::push_with(&server, "bad/web", "nothing", &layers, &config, tar);
    let path = server.manifest("app = \"bad\"\n[services.web]\nimage = \"bad/web:nothing\"\n");
    let said = server.minato(&["apply", "--json", path.to_str().unwrap()]);
    assert_eq!(said.code(), 1, "{}", said.stdout);
    assert!(say(&said.json()["error"]).contains("command"), "{}", said.stdout);

    // It is there now: the same manifest is taken.
    oci::push(&server, "bad/web", "now", &layers);
    let path = server.manifest("app = \"bad\"\n[services.web]\nimage = \"bad/web:now\"\n");
    server.minato(&["plan", path.to_str().unwrap()]).ok();
}

/// Everything below the registry's folder that isn't empty.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn a_push_that_isnt_what_it_says_leaves_nothing() {
    let server = Server::start();
    let registry = server.data().join("registry");
    let token = wire::pusher(&server, "bad/web");
    let token = token.as_str();
    let right = digest::of(b"right");
    let octets = [("Authorization", token), ("Content-Type", "application/octet-stream")];
    let single = format!("/v2/bad/web/blobs/uploads/?digest={right}");
    let kept = files(&registry);

    let answer = oci::push_blob(&server, token, "bad/web", b"wrong", &right);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("DIGEST_INVALID") && answer.text().contains(right.hex()));
    // More than was announced: what is too much is no part of it, whatever the digest.
    let mut long = wire::head(&server, "POST", &single, &octets, Some(4)).into_bytes();
    long.extend_from_slice(b"right");
    let answer = minato_tests::http::raw(server.api, &long).unwrap();
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("DIGEST_INVALID"), "{}", answer.text());
    // Longer than any blob may be: said before it is sent.
    let head = wire::head(&server, "POST", &single, &octets, Some(1 << 50));
    let answer = minato_tests::http::raw(server.api, head.as_bytes()).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.text());
    assert!(answer.text().contains("SIZE_INVALID"), "{}", answer.text());
    assert_eq!(files(&registry), kept, "nothing of it is left");

    // Broken off: what came can be gone on with, and is no blob before it is whole.
    let begun = wire::call(&server, "POST", "/v2/bad/web/blobs/uploads/", &octets, b"");
    assert_eq!(begun.status, 202, "{}", begun.text());
    let place = begun.header("location").unwrap().to_owned();
    let place = place.find("/v2/").map(|at| place[at..].to_owned()).unwrap();
    let mut cut = wire::head(&server, "PATCH", &place, &octets, Some(5)).into_bytes();
    cut.extend_from_slice(b"rig");
    broken_off(&server, &cut);
    let range = until("what came to be kept", || {
        let seen = wire::call(&server, "GET", &place, &octets[..1], b"");
        match seen.header("range") {
            Some("0-2") => Ok("0-2"),
            other => Err(format!("{} {other:?}", seen.status)),
        }
    });
    assert_eq!(range, "0-2");
    let blob = format!("/v2/bad/web/blobs/{right}");
    assert_eq!(wire::call(&server, "HEAD", &blob, &octets[..1], b"").status, 404);
    let finish = format!("{place}{}digest={right}", if place.contains('?') { '&' } else { '?' });
    let answer = wire::call(&server, "PUT", &finish, &octets, b"ht");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(wire::call(&server, "GET", &blob, &octets[..1], b"").body, b"right");

    // A manifest under another's digest, or of what isn't there.
    let missing = digest::of(b"missing");
    let config =
        json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "size": 7, "digest": missing });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [] });
    let manifest = manifest.to_string();
    let answer = oci::put_manifest(&server, token, "bad/web", "1", &manifest);
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains(missing.hex()), "{}", answer.text());
    let answer = oci::put_manifest(&server, token, "bad/web", &right.to_string(), &manifest);
    assert_eq!(answer.status, 400, "{}", answer.text());
    let answer = oci::put_manifest(&server, token, "bad/web", "1", "{");
    assert_eq!(answer.status, 400, "{}", answer.text());
    let answer = wire::call(&server, "GET", "/v2/bad/web/manifests/1", &octets[..1], b"");
    assert_eq!(answer.status, 404, "no tag came of it: {}", answer.text());
}

/// Sends bytes and closes the connection at once.
fn broken_off(server: &Server, bytes: &[u8]) {
    let mut stream = std::net::TcpStream::connect(server.api).unwrap();
    std::io::Write::write_all(&mut stream, bytes).unwrap();
}

fn busybox() -> Layer {
    Layer::default()
        .file("bin/busybox", &std::fs::read("/bin/busybox").unwrap())
        .file("www/index.html", b"from a layer\n")
}

/// Applies an image of these layers as a release that is taken back, and says why.
#[track_caller]
fn taken_back(server: &Server, tag: &str, layers: &[Vec<u8>], code: &str, says: &str) {
    oci::push(server, "bad/web", tag, layers);
    let app = format!("bad-{tag}");
    let host = format!("{app}.localhost");
    let manifest =
        format!("app = \"{app}\"\n[services.web]\nimage = \"bad/web:{tag}\"\nhosts = [\"{host}\"]\n");
    let path = server.manifest(&manifest);
    server.minato(&["apply", path.to_str().unwrap()]).ok();
    let answer = server.ask(&host, "/");
    assert_eq!(
        (answer.status, answer.header("minato-code")),
        (503, Some("start_failed")),
        "{tag}: {}",
        answer.text()
    );
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(body["reason"], code, "{tag}: {body}");
    let thing = format!("{app}/web");
    until("why to say it", || {
        let why = server.why(&thing);
        if why.contains(says) { Ok(()) } else { Err(why) }
    });
    assert!(!server.data().join("outside").exists() && !Path::new("/tmp/minato-escaped").exists(), "{tag}");
    server.minato(&["delete", &app]).ok();
    good(server);
}

#[test]
fn layers_that_reach_out_or_burst_are_refused_and_nothing_escapes() {
    let server = server();
    let outside = "../../../../../../../../../../tmp/minato-escaped";
    for (tag, layer, says) in [
        ("up", busybox().file(outside, b"x"), "has `..` in its path"),
        ("up-within", busybox().file("www/../../outside", b"x"), "has `..` in its path"),
        ("hard", busybox().entry(EntryType::Link, "www/host", "/etc/shadow", b""), "is a hard link to"),
        ("hard-up", busybox().entry(EntryType::Link, "www/host", "../../../../etc/shadow", b""), "has `..`"),
        ("device", busybox().entry(EntryType::Block, "dev/sda", "", b""), "is a device node"),
        ("null", busybox().entry(EntryType::Char, "www/null", "", b""), "is a device node"),
        (
            "fifo-like",
            busybox().entry(EntryType::new(b'V'), "www/volume", "", b""),
            "is an entry of kind `V`",
        ),
        ("whiteout", busybox().file("www/.wh...", b""), "is a whiteout of nothing"),
        ("whiteout-dot", busybox().file(".wh..", b""), "is a whiteout of nothing"),
        ("huge", busybox().huge("www/huge", 20 << 40), "more than 10737418240 bytes"),
        ("cut", busybox().huge("www/huge", 1 << 20), "is broken after"),
    ] {
        taken_back(&server, tag, &[layer.bytes()], "image_refused", says);
    }
    let all = files(server.data());
    let partial: Vec<_> = all.iter().filter(|path| path.to_string_lossy().contains(".partial")).collect();
    assert!(partial.is_empty(), "{partial:?}");
}

#[test]
fn a_release_whose_image_is_refused_is_taken_back_and_the_old_one_serves_on() {
    let server = server();
    oci::push(&server, "good/web", "2", &[busybox().entry(EntryType::Char, "dev/null", "", b"").bytes()]);
    let path = server.manifest(&GOOD.replace("web:1", "web:2"));
    let path = path.to_str().unwrap();
    let said = server.minato(&["apply", "--wait", path]);
    assert_eq!(said.code(), 4, "{said:?}");
    assert!(
        said.stderr.contains("is a device node") && said.stderr.contains("minato why"),
        "{}",
        said.stderr
    );
    good(&server);
    // The same again is refused at once, with what was found.
    let said = server.minato(&["apply", "--json", path]);
    assert_eq!((said.code(), &said.json()["error"]["code"]), (4, &"release_refused".into()), "{said:?}");
    assert!(say(&said.json()["error"]).contains("--retry"), "{}", said.stdout);
    good(&server);
    server.apply(GOOD);
    good(&server);
}

#[test]
fn links_and_whiteouts_stay_within_the_image() {
    let server = server();
    let host = tempfile::Builder::new().prefix("minato-test-").tempdir_in("/var/tmp").unwrap();
    let target = host.path().join("kept");
    std::fs::write(&target, "the host's own").unwrap();
    let folder = host.path().to_str().unwrap();
    // Absolute links mean the image's root: what is written or removed behind them is the image's.
    let lower = busybox().symlink("www/out", folder).symlink("www/etc", "/etc").file("etc/motd", b"image\n");
    let upper = Layer::default()
        .file("www/out/kept", b"the image's")
        .file("www/out/.wh.gone", b"")
        .file("www/out/.wh..wh..opq", b"")
        .file("www/index.html", b"within\n");
    let layers = [lower.bytes(), upper.bytes()];
    oci::push(&server, "links/web", "1", &layers);
    server.apply("app = \"links\"\n[services.web]\nimage = \"links/web:1\"\nhosts = [\"links.localhost\"]\n");
    assert_eq!(server.ask("links.localhost", "/").text(), "within\n");
    assert_eq!(server.ask("links.localhost", "/etc/motd").text(), "image\n");
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "the host's own");
    assert_eq!(std::fs::read_dir(host.path()).unwrap().count(), 1);
}

#[test]
fn a_bomb_is_stopped_by_its_size_and_not_by_the_disk() {
    let server = server();
    // 100 KiB that unpack to 96 MiB, a hundred and twenty times over.
    let content = Layer::default().zeros("zeros", 96 << 20).bytes();
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut zipped, &content).unwrap();
    let zipped = zipped.finish().unwrap();
    assert!(zipped.len() < 128 << 10, "{}", zipped.len());
    let layers = vec![zipped; 120];
    let mut config = oci::config(&[]);
    config["rootfs"]["diff_ids"] = vec![Value::from(digest::of(&content).to_string()); 120].into();
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    oci::push_with(&server, "bomb/web", "1", &layers, &config, gzip);
    server.apply("app = \"slow\"\n[services.web]\nimage = \"good/web:1\"\nhosts = [\"slow.localhost\"]\n");
    let path = server
        .manifest("app = \"bomb\"\n[services.web]\nimage = \"bomb/web:1\"\nhosts = [\"bomb.localhost\"]\n");
    server.minato(&["apply", path.to_str().unwrap()]).ok();
    good(&server);
    until("the bomb to be refused", || {
        let why = server.why("bomb/web");
        if why.contains("more than 10737418240 bytes") { Ok(()) } else { Err(why) }
    });
    good(&server);
}

#[test]
fn a_blob_that_the_disk_changed_is_found_and_mended_by_a_push() {
    let server = server();
    let layers = [busybox().bytes()];
    oci::push(&server, "bad/web", "1", &layers);
    let layer = digest::of(&layers[0]);
    let blob = files(&server.data().join("registry"));
    let blob = blob.iter().find(|path| path.ends_with(layer.hex())).unwrap();
    let mut bytes = layers[0].clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(blob, &bytes).unwrap();

    let manifest = "app = \"bad\"\n[services.web]\nimage = \"bad/web:1\"\nhosts = [\"bad.localhost\"]\n";
    let path = server.manifest(manifest);
    server.minato(&["apply", path.to_str().unwrap()]).ok();
    let answer = server.ask("bad.localhost", "/");
    assert_eq!(
        (answer.status, answer.header("minato-code")),
        (503, Some("start_failed")),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("image_digest"), "{}", answer.text());
    let why = server.why("bad/web");
    assert!(why.contains(layer.hex()) && why.contains("push the image again"), "{why}");
    good(&server);

    oci::push(&server, "bad/web", "1", &layers);
    until("the mended image to be served", || {
        let answer = server.ask("bad.localhost", "/");
        if answer.status == 200 {
            Ok(())
        } else {
            Err(format!("{} {}", answer.text(), server.why("bad/web")))
        }
    });

    // One that is shorter than it was is seen by the plan already.
    std::fs::write(blob, &bytes[..1000]).unwrap();
    let path = server.manifest(&manifest.replace("bad", "worse").replace("worse/web", "bad/web"));
    let said = server.minato(&["plan", "--json", path.to_str().unwrap()]);
    assert_eq!((said.code(), &said.json()["error"]["code"]), (1, &"image_digest".into()), "{}", said.stdout);
}

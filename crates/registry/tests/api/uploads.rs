//! Blobs in and out by plain requests: in one piece, in several, broken off, wrong.

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use minato_image::digest::{self, Hasher};
use minato_model::{
    digest::{Algorithm, Digest},
    time::Moment,
};
use minato_registry::Limits;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::server::{Server, TOKEN, files};

fn in_pieces(pieces: &[&'static [u8]]) -> Body {
    let pieces: Vec<_> =
        pieces.iter().map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece))).collect();
    Body::from_stream(stream::iter(pieces))
}

async fn check_blob(server: &Server, repository: &str, digest: &Digest, content: &[u8]) {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let answer = server.send("GET", &path, &[], Body::empty()).await;
    answer.check(200);
    assert_eq!(answer.bytes, content);
    assert_eq!(answer.header("docker-content-digest"), digest.as_str());
    let head = server.send("HEAD", &path, &[], Body::empty()).await;
    assert_eq!(head.check(200).header("content-length"), content.len().to_string());
}

#[tokio::test]
async fn in_one_request() {
    let server = Server::start().await;
    for content in [&b""[..], b"x", &vec![b'y'; (3 << 20) + 17]] {
        let digest = server.push_blob("a/b", content).await;
        check_blob(&server, "a/b", &digest, content).await;
    }
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"content");
    let long = hasher.finish();
    let path = format!("/v2/a/blobs/uploads/?digest={}", long.as_str().replace(':', "%3A"));
    let stored = server.send("POST", &path, &[], "content").await;
    assert_eq!(stored.check(201).header("location"), format!("/v2/a/blobs/{long}"));
    check_blob(&server, "a", &long, b"content").await;
    assert_eq!(files(&server.root().join("uploads")), [""; 0]);
}

#[tokio::test]
async fn in_chunks_and_in_a_stream_without_a_length() {
    let server = Server::start().await;
    let at = server.begin("a").await;
    let status = server.send("GET", &at, &[], Body::empty()).await;
    assert_eq!(status.check(204).header("range"), "0-0");

    let first = server.send("PATCH", &at, &[("content-range", "0-4")], "01234").await;
    assert_eq!(first.check(202).header("range"), "0-4");
    server.send("PATCH", &at, &[], in_pieces(&[b"56", b"7"])).await.check(202);
    for wrong in ["0-2", "9-11", "7-9"] {
        let refused = server.send("PATCH", &at, &[("content-range", wrong)], "xyz").await;
        refused.refused(416, "BLOB_UPLOAD_INVALID");
        assert_eq!(refused.header("range"), "0-7");
        assert_eq!(refused.header("location"), at);
    }
    for (range, body) in [("8-9", "xyz"), ("8-20", "xyz")] {
        let fields = [("content-range", range)];
        server.send("PATCH", &at, &fields, body).await.refused(400, "SIZE_INVALID");
    }
    server.send("PATCH", &at, &[("content-range", "x")], "8").await.refused(400, "BLOB_UPLOAD_INVALID");
    let status = server.send("GET", &at, &[], Body::empty()).await;
    assert_eq!(status.check(204).header("range"), "0-7");

    let digest = digest::of(b"0123456789");
    let last = [("content-range", "8-9")];
    server.send("PUT", &format!("{at}?digest={digest}"), &last, "89").await.check(201);
    check_blob(&server, "a", &digest, b"0123456789").await;
    server.send("GET", &at, &[], Body::empty()).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    // The algorithm may be known only in the end.
    let at = server.begin("a").await;
    server.send("PATCH", &at, &[], "01234").await.check(202);
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(b"0123456789");
    let long = hasher.finish();
    server.send("PUT", &format!("{at}?digest={long}"), &[], "56789").await.check(201);
    check_blob(&server, "a", &long, b"0123456789").await;
}

#[tokio::test]
async fn what_is_wrong_is_refused_and_leaves_nothing() {
    let limits = Limits { blob: 100, ..Limits::default() };
    let server = Server::with(limits, false).await;
    let digest = digest::of(b"something else");
    for wrong in [
        "sha256:abc",
        "sha256:E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "../../../etc/passwd",
        "",
    ] {
        let at = server.begin("a").await;
        let finish = format!("{at}?digest={wrong}");
        server.send("PUT", &finish, &[], "x").await.refused(400, "DIGEST_INVALID");
        server.send("DELETE", &at, &[], Body::empty()).await.check(204);
        let single = format!("/v2/a/blobs/uploads/?digest={wrong}");
        server.send("POST", &single, &[], "x").await.refused(400, "DIGEST_INVALID");
        let read = server.send("GET", &format!("/v2/a/blobs/{wrong}"), &[], Body::empty()).await;
        assert!(read.status.is_client_error(), "{read:?}");
    }
    let at = server.begin("a").await;
    server.send("PUT", &at, &[], "x").await.refused(400, "DIGEST_INVALID");
    server.send("PUT", &format!("{at}?digest={digest}"), &[], "x").await.refused(400, "DIGEST_INVALID");
    let single = format!("/v2/a/blobs/uploads/?digest={digest}");
    server.send("POST", &single, &[], "x").await.refused(400, "DIGEST_INVALID");
    server.send("POST", &single, &[], vec![0; 101]).await.refused(413, "SIZE_INVALID");
    let endless = vec![&[0; 60][..]; 2];
    server.send("POST", &single, &[], in_pieces(&endless)).await.refused(413, "SIZE_INVALID");
    // An upload that grows too long can still be seen and cancelled.
    let at = server.begin("a").await;
    server.send("PATCH", &at, &[], vec![0; 90]).await.check(202);
    server.send("PATCH", &at, &[], vec![0; 11]).await.refused(413, "SIZE_INVALID");
    server.send("PATCH", &at, &[], in_pieces(&endless)).await.refused(413, "SIZE_INVALID");
    server.send("DELETE", &at, &[], Body::empty()).await.check(204);
    assert_eq!(files(&server.root()), [""; 0]);
}

#[tokio::test]
async fn names_lead_nowhere_else() {
    let server = Server::start().await;
    for name in ["A", "a//b", "a/../../b", "..", "a/_tags", "a/", "-a", &"a".repeat(256)] {
        let path = format!("/v2/{name}/blobs/uploads/");
        let refused = server.send("POST", &path, &[], Body::empty()).await;
        assert!(refused.status.is_client_error(), "{name}: {refused:?}");
    }
    for name in ["%2e%2e%2f%2e%2e%2fb", "a%2F..%2Fb", "a%00", "%ff"] {
        let path = format!("/v2/{name}/blobs/uploads/");
        let refused = server.send("POST", &path, &[], Body::empty()).await;
        assert_eq!(refused.status.as_u16(), 400, "{name}: {refused:?}");
    }
    let at = server.begin("a").await;
    for other in
        [at.replace("/a/", "/b/"), at.replace("/uploads/", "/uploads/..%2Fuploads%2F"), format!("{at}%2F..")]
    {
        let refused = server.send("PATCH", &other, &[], "x").await;
        assert!(refused.status.is_client_error(), "{other}: {refused:?}");
    }
    server.send("GET", "/v2/a/b/c", &[], Body::empty()).await.refused(404, "UNSUPPORTED");
    server.send("POST", "/v2/a/tags/list", &[], Body::empty()).await.refused(405, "UNSUPPORTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_breaks_off_goes_on_where_it_stopped() {
    let server = Server::start().await;
    let at = server.begin("a").await;
    let content: Vec<u8> = (0..4 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    let (sent, rest) = content.split_at(3 << 20);

    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "PATCH {at} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n\r\n",
        server.address,
        content.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.shutdown().await.unwrap();
    // The server says that it noticed, or just closes.
    drop(stream.read_to_end(&mut Vec::new()).await);

    let status = server.send("GET", &at, &[], Body::empty()).await;
    let last: usize = status.check(204).header("range").strip_prefix("0-").unwrap().parse().unwrap();
    assert!(last < sent.len(), "nothing was made up");
    assert!(last + 1 >= sent.len() - (2 << 20), "most of what arrived is kept: {last}");

    // The same after a crash: what is on the disk counts.
    let server = server.restart().await;
    let status = server.send("GET", &at, &[], Body::empty()).await;
    let kept: usize =
        status.check(204).header("range").strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
    assert!(kept > last && kept <= sent.len());
    let digest = digest::of(&content);
    let range = format!("{kept}-{}", content.len() - 1);
    let missing = [&sent[kept..], rest].concat();
    let finish = format!("{at}?digest={digest}");
    server.send("PUT", &finish, &[("content-range", &range)], missing).await.check(201);
    check_blob(&server, "a", &digest, &content).await;
}

#[tokio::test]
async fn what_a_crash_leaves_is_resumed_or_expires() {
    let server = Server::start().await;
    let at = server.begin("a/b").await;
    server.send("PATCH", &at, &[], "01234").await.check(202);
    let other = server.begin("a").await;
    // Of the next piece only a part came to the disk; and a crash caught uploads as they were begun.
    let uploads = server.root().join("uploads");
    let home = uploads.join(at.rsplit_once('/').unwrap().1);
    std::fs::write(home.join("data"), "0123456").unwrap();
    std::fs::create_dir(uploads.join("0123456789abcdef0123456789abcdef")).unwrap();
    std::fs::create_dir(uploads.join("other")).unwrap();
    std::fs::write(server.root().join("staging/half"), "of a tag").unwrap();

    let server = server.restart().await;
    assert_eq!(files(&server.root().join("staging")), [""; 0]);
    assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 2);
    let status = server.send("GET", &at, &[], Body::empty()).await;
    assert_eq!(status.check(204).header("range"), "0-6");
    let digest = digest::of(b"0123456789");
    let finish = format!("{at}?digest={digest}");
    server.send("PUT", &finish, &[("content-range", "7-9")], "789").await.check(201);
    check_blob(&server, "a/b", &digest, b"0123456789").await;

    let written = std::fs::metadata(uploads.join(other.rsplit_once('/').unwrap().1).join("data")).unwrap();
    let written = written.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let day = std::time::Duration::from_hours(24);
    let at_rest = Moment(0).plus(written);
    assert_eq!(server.library.expire_uploads(at_rest.plus(day)).unwrap(), 0);
    assert_eq!(server.library.expire_uploads(at_rest.plus(day * 2)).unwrap(), 1);
    server.send("GET", &other, &[], Body::empty()).await.refused(404, "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(std::fs::read_dir(&uploads).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_an_end_to_silence_and_to_crowds() {
    let idle = std::time::Duration::from_millis(200);
    let server = Server::with(Limits { uploads: 2, idle, ..Limits::default() }, false).await;
    let (at, _) = (server.begin("a").await, server.begin("a").await);
    let crowded = server.send("POST", "/v2/a/blobs/uploads/", &[], Body::empty()).await;
    assert_eq!(crowded.refused(429, "TOOMANYREQUESTS").header("retry-after"), "5");
    for path in [at.as_str(), "/v2/a/manifests/v1"] {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let method = if path == at { "PATCH" } else { "PUT" };
        server.send(method, path, &[], silent).await.check(408);
    }

    let server = Server::with(Limits { receiving: 0, ..Limits::default() }, false).await;
    let at = server.begin("a").await;
    server.send("PATCH", &at, &[], "x").await.refused(429, "TOOMANYREQUESTS");
}

#[tokio::test]
async fn parts_of_a_blob() {
    let server = Server::start().await;
    let digest = server.push_blob("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    for (range, content, said) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
    ] {
        let part = server.send("GET", &path, &[("range", range)], Body::empty()).await;
        assert_eq!(part.check(206).bytes, content);
        assert_eq!(part.header("content-range"), said);
    }
    let outside = server.send("GET", &path, &[("range", "bytes=10-")], Body::empty()).await;
    assert_eq!(outside.check(416).header("content-range"), "bytes */10");
}

#[tokio::test]
async fn mounted_and_deleted() {
    let server = Server::start().await;
    let digest = server.push_blob("a", b"content").await;
    server
        .send("GET", &format!("/v2/b/blobs/{digest}"), &[], Body::empty())
        .await
        .refused(404, "BLOB_UNKNOWN");
    let from = |from: &str| format!("/v2/b/blobs/uploads/?mount={digest}&from={from}");
    server.send("POST", &from("c"), &[], Body::empty()).await.check(202);
    server.send("POST", &from("../a"), &[], Body::empty()).await.check(202);
    let mounted = server.send("POST", &from("a"), &[], Body::empty()).await;
    assert_eq!(mounted.check(201).header("location"), format!("/v2/b/blobs/{digest}"));
    let any = format!("/v2/c/blobs/uploads/?mount={digest}");
    server.send("POST", &any, &[], Body::empty()).await.check(201);

    let path = format!("/v2/a/blobs/{digest}");
    server.send("DELETE", &path, &[], Body::empty()).await.check(202);
    server.send("DELETE", &path, &[], Body::empty()).await.refused(404, "BLOB_UNKNOWN");
    server.send("HEAD", &path, &[], Body::empty()).await.check(404);
    check_blob(&server, "b", &digest, b"content").await;
    check_blob(&server, "c", &digest, b"content").await;
}

#[tokio::test]
async fn a_second_push_repairs_what_the_disk_has_changed() {
    let server = Server::start().await;
    let digest = server.push_blob("a", b"content").await;
    let blob = files(&server.root().join("blobs")).remove(0);
    std::fs::write(server.root().join("blobs").join(blob), "changed").unwrap();
    server.push_blob("a", b"content").await;
    check_blob(&server, "a", &digest, b"content").await;
}

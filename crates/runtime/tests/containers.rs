//! Real containers under a real keeper. Needs root and busybox-static.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "containers/ground.rs"]
mod ground;

use ground::Ground;
use minato_runtime::spec::Status;

#[test]
fn an_exit_status_is_told() {
    let ground = Ground::new();
    let (text, ended) = ground.run("echo hello; exit 7");
    assert_eq!(text, "hello\n");
    assert_eq!((ended.status, ended.oom), (Status::Exit(7), false));
}

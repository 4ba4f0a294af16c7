//! Root file systems that tests pack, and what runs in them.
#![expect(clippy::unwrap_used, reason = "a test without its image fails here")]

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A folder with Debian's static busybox, a shell and a page.
///
/// # Panics
/// When busybox-static isn't installed.
pub fn busybox(below: &Path) -> PathBuf {
    let root = below.join("busybox");
    for folder in ["bin", "www", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.is_file(), "/bin/busybox isn't there: apt-get install busybox-static");
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "httpd", "sleep", "cat", "id", "nc", "wget", "dd", "true"] {
        let link = root.join("bin").join(applet);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link).unwrap();
        }
    }
    std::fs::write(root.join("www/index.html"), "from busybox\n").unwrap();
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n").unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
    root
}

/// What runs busybox's server in such an image.
pub const HTTPD: &str = r#"["/bin/busybox","httpd","-f","-p","8080","-h","/www"]"#;

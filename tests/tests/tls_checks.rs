//! The door for TLS as a scanner looks at it: by OpenSSL's client, with each thing asked for that must not be had.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use minato_tests::{
    Said, Server,
    sample::{self, manifest},
};

const HOST: &str = "app.localhost";

struct Door {
    server: Server,
    roots: PathBuf,
}

impl Door {
    fn open() -> Self {
        let server = sample::server();
        server.apply(&manifest("1", "min = 1", ""));
        let roots = server.data().join("ca.pem");
        std::fs::write(&roots, server.minato(&["ca", "export"]).ok().stdout).unwrap();
        Self { server, roots }
    }

    /// What OpenSSL's client says with these arguments, when it is given this to say.
    fn asked(&self, arguments: &[&str], input: &str) -> Said {
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &self.server.https.to_string(), "-servername", HOST, "-CAfile"]);
        client.arg(&self.roots).args(["-verify_return_error", "-verify_hostname", HOST, "-ign_eof"]);
        let mut client = client
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who is refused doesn't read it.
        drop(client.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = client.wait_with_output().unwrap();
        Said {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn get(&self, arguments: &[&str]) -> Said {
        self.asked(arguments, &format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"))
    }
}

#[test]
fn what_is_good_is_had_and_what_is_not_is_refused() {
    let door = Door::open();
    for (arguments, says) in [
        (&["-tls1_3"][..], "TLSv1.3"),
        (&["-tls1_2"], "TLSv1.2"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], "ECDHE-ECDSA-AES128-GCM-SHA256"),
        (&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"], "ECDHE-ECDSA-CHACHA20-POLY1305"),
        (&["-tls1_3", "-groups", "X25519"], "X25519"),
        (&["-tls1_3", "-groups", "P-256"], "prime256v1"),
        (&["-alpn", "http/1.1"], "ALPN protocol: http/1.1"),
        (&["-tls1_2"], "Secure Renegotiation IS supported"),
        (&["-tls1_2"], "Extended master secret: yes"),
        (&["-tls1_2"], "Compression: NONE"),
        (&["-tls1_2", "-comp"], "Compression: NONE"),
        (&["-status"], "OCSP response: no response sent"),
        (&["-tls1_3"], "Max Early Data: 0"),
        (&["-tls1_3"], "Verification: OK"),
    ] {
        let said = door.get(arguments);
        assert!(said.stdout.contains("HTTP/1.1 200 OK"), "{arguments:?}: {said:?}");
        assert!(said.stdout.contains(says), "{arguments:?}: {says}: {}", said.stdout);
    }
    let weak = "@SECLEVEL=0";
    for arguments in [
        &["-tls1", "-cipher", weak][..],
        &["-tls1_1", "-cipher", weak],
        &["-tls1_2", "-cipher", &format!("kRSA:{weak}")],
        &["-tls1_2", "-cipher", &format!("aNULL:eNULL:{weak}")],
        &["-tls1_2", "-cipher", &format!("kDHE:{weak}")],
        &["-tls1_2", "-cipher", &format!("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:{weak}")],
        &["-tls1_2", "-cipher", &format!("ECDHE-ECDSA-AES128-CCM8:{weak}")],
        &["-tls1_2", "-sigalgs", "ECDSA+SHA1", "-cipher", weak],
        &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256"],
        &["-tls1_3", "-groups", "P-521"],
        &["-alpn", "spdy/3.1"],
        &["-servername", "other.localhost"],
    ] {
        let said = door.get(arguments);
        assert!(said.code() != 0 && !said.stdout.contains("HTTP/1.1 200"), "{arguments:?}: {said:?}");
    }
}

#[test]
fn nothing_is_agreed_upon_anew_and_nothing_is_sent_early() {
    let door = Door::open();
    // A line of `R` asks for another handshake on the same connection.
    let said = door.asked(&["-tls1_2", "-no_ign_eof"], "R\n");
    assert!(said.stderr.contains("RENEGOTIATING") && said.stderr.contains("no renegotiation"), "{said:?}");
    let session = door.server.data().join("session.pem");
    let session = session.to_str().unwrap();
    for version in ["-tls1_2", "-tls1_3"] {
        let first = door.get(&[version, "-sess_out", session]);
        assert!(first.stdout.contains("\nNew, "), "{first:?}");
        let again = door.get(&[version, "-sess_in", session]);
        assert!(again.stdout.contains("\nReused, ") && again.stdout.contains("200 OK"), "{again:?}");
    }
    let early = door.server.data().join("early");
    std::fs::write(&early, format!("GET /early HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).unwrap();
    let said = door.get(&["-tls1_3", "-sess_in", session, "-early_data", early.to_str().unwrap()]);
    assert!(!said.stdout.contains("Early data was accepted"), "{said:?}");
}

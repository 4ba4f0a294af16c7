//! The files that a manifest names for its services' doors.
//!
//! A path is relative to the manifest's folder, or absolute; it may lead anywhere, as the certificates of a
//! machine are often elsewhere, and whoever applies a manifest can read them anyway. What of a file leaves
//! the machine is bounded instead: certificates where certificates are meant, one private key where that is
//! meant, from a regular file of at most 64 KiB, and nothing else that is in it.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use minato_identity::files::{FILE_MAX, portion};
use minato_model::{
    code::{Code, Problem},
    ids::ServiceName,
    manifest::{Manifest, Source, line_of},
    tls::{Files, Secret},
};

/// Reads what each service names; what can't be read is added to the problems, with its place.
pub(super) fn read(
    manifest: &Manifest,
    folder: &Path,
    source: Source<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<ServiceName, Files> {
    let mut found = BTreeMap::new();
    for (service, declared) in &manifest.services {
        let mut files = Files::default();
        for (key, path) in declared.tls.files() {
            match file(key, &folder.join(path)) {
                Ok(text) => match key {
                    "certificate" => files.certificate = Some(text),
                    "key" => files.key = Some(Secret::new(text)),
                    _ => files.client_ca = Some(text),
                },
                Err((message, hint)) => {
                    let place = format!("services.{service}.tls.{key}");
                    let mut problem = Problem::new(Code::InvalidValue, message);
                    problem.file = Some(source.name.to_owned());
                    problem.line = line_of(source.text, &place);
                    problem.key = Some(place);
                    problem.hint = hint;
                    problems.push(problem);
                }
            }
        }
        if files != Files::default() {
            found.insert(service.clone(), files);
        }
    }
    found
}

/// What is to be sent of a file, or what is wrong with it and what to do.
fn file(key: &'static str, path: &Path) -> Result<String, (String, Option<String>)> {
    let shown = path.display();
    let unreadable = |error| (format!("`{key}`: can't read {shown}: {error}"), None);
    let known = std::fs::metadata(path).map_err(unreadable)?;
    if !known.is_file() {
        return Err((format!("`{key}`: {shown} is no regular file"), None));
    }
    let limit = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
    if known.len() > limit {
        let message = format!("`{key}`: {shown} has {} bytes; {limit} is the limit", known.len());
        let hint = "a chain of certificates has some KiB: is it the right file?";
        return Err((message, Some(hint.to_owned())));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    portion(key, &bytes).map_err(|refused| (format!("`{key}`: {shown}: {refused}"), refused.hint))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use crate::{cli::manifests::read, failure::Failure};

    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nBBBB\n-----END PRIVATE KEY-----\n";

    fn manifest(folder: &std::path::Path, tls: &str) -> [PathBuf; 1] {
        let path = folder.join("shop.toml");
        let text = format!(
            "app = \"shop\"\n[services.web]\nimage = \"a:1\"\nhosts = [\"h\"]\n[services.web.tls]\n{tls}"
        );
        fs::write(&path, text).unwrap();
        [path]
    }

    #[test]
    fn what_is_named_is_sent_and_nothing_else_of_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        fs::write(folder.path().join("files/both.pem"), format!("note\n{KEY}{CERTIFICATE}")).unwrap();
        let tls = "certificate = \"files/both.pem\"\nkey = \"files/../files/both.pem\"";
        let body = read(&manifest(folder.path(), tls)).unwrap().body();
        let expected = serde_json::json!({ "certificate": CERTIFICATE, "key": KEY, "client_ca": null });
        assert_eq!(body["files"][0]["tls"], serde_json::json!({ "web": expected }));
        let plain = read(&manifest(folder.path(), "redirect = true")).unwrap().body();
        assert_eq!(plain["files"][0].as_object().unwrap().len(), 2);
    }

    #[test]
    fn what_can_not_be_sent_is_told_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("big.pem"), "-".repeat(1 << 20)).unwrap();
        fs::write(folder.path().join("passwd"), "root:x:0:0").unwrap();
        fs::write(folder.path().join("crt"), CERTIFICATE).unwrap();
        for (key, says) in [
            ("missing", "missing: No such file"),
            ("big.pem", "big.pem has 1048576 bytes; 65536 is the limit"),
            ("passwd", "passwd: there is no private key in it"),
            ("/dev/zero", "/dev/zero is no regular file"),
            ("crt", "there is no private key in it"),
        ] {
            let tls = format!("certificate = \"crt\"\nkey = \"{key}\"");
            let Err(Failure::Manifest(problems, _)) = read(&manifest(folder.path(), &tls)) else {
                panic!("{key} is taken")
            };
            let [problem] = problems.as_slice() else { panic!("{problems:?}") };
            assert!(problem.message.contains(says), "{}", problem.message);
            assert_eq!((problem.line, problem.key.as_deref()), (Some(7), Some("services.web.tls.key")));
        }
    }
}

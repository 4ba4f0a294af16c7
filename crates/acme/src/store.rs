//! What is kept in the data directory: the account with its key, and each host's certificate with its own.
//! Files of the owner alone, there whole or not at all.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use minato_identity::files::{self, Material, portion};
use minato_model::{
    time::Moment,
    tls::{Files, Secret},
};

use crate::schedule::Failures;

/// More certificates than one node has hosts.
const CERTIFICATES_MAX: usize = 10_000;
/// More than any of the files has.
const READ_MAX: u64 = 16 << 20;
/// Where the failures of hosts are kept.
const FAILURES: &str = "failures.json";
/// How long a certificate that has ended is kept: nobody asked for another in this time.
const ENDED_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {} failed", path.display())]
pub struct StoreError {
    /// What was done to it.
    pub doing: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The folder.
#[derive(Debug)]
pub(crate) struct Store(PathBuf);

impl Store {
    pub(crate) fn open(folder: &Path) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("making", folder))?;
        Ok(Self(folder.to_owned()))
    }

    /// The account with a directory, as it was kept.
    pub(crate) fn account(&self, directory: &str) -> Result<Option<Secret>, StoreError> {
        let path = self.account_path(directory);
        match read(&path) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(|text| Some(Secret::new(text))),
        }
    }

    pub(crate) fn keep_account(&self, directory: &str, account: &Secret) -> Result<(), StoreError> {
        write(&self.account_path(directory), account.expose())
    }

    /// The authority doesn't know it any more.
    pub(crate) fn forget_account(&self, directory: &str) {
        drop(fs::remove_file(self.account_path(directory)));
    }

    fn account_path(&self, directory: &str) -> PathBuf {
        // Two directories never share an account.
        let hash = files::sha256(directory.as_bytes());
        self.0.join(format!("account-{}.json", hash.get(..16).unwrap_or_default()))
    }

    /// Keeps a host's certificate with its key.
    pub(crate) fn keep(&self, host: &str, files: &Files) -> Result<(), StoreError> {
        let key = files.key.as_ref().map(Secret::expose).unwrap_or_default();
        let certificate = files.certificate.as_deref().unwrap_or_default();
        let text = Secret::new(format!("{host}\n{key}{certificate}"));
        write(&self.certificate_path(host), text.expose())
    }

    fn certificate_path(&self, host: &str) -> PathBuf {
        // The longest name of a host isn't one of a file.
        let hash = files::sha256(host.as_bytes());
        let name: String = host.chars().take(100).collect();
        self.0.join(format!("{name}-{}.pem", hash.get(..16).unwrap_or_default()))
    }

    /// The failures of hosts, as they were kept; none, if they can't be read.
    pub(crate) fn failures(&self) -> BTreeMap<String, Failures> {
        let text = read(&self.0.join(FAILURES)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) fn keep_failures(&self, failures: &BTreeMap<String, Failures>) -> Result<(), StoreError> {
        let path = self.0.join(FAILURES);
        if failures.is_empty() {
            drop(fs::remove_file(path));
            return Ok(());
        }
        write(&path, &serde_json::to_string(failures).unwrap_or_default())
    }

    /// Every host's certificate that can be used, those that ended long ago excepted.
    pub(crate) fn load(&self, now: Moment) -> Vec<(String, Material)> {
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(&self.0) else { return found };
        for entry in entries.flatten().take(CERTIFICATES_MAX) {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            match material(&path) {
                Ok((_, material)) if ended(&material, now) => drop(fs::remove_file(&path)),
                Ok(one) => found.push(one),
                Err(why) => {
                    tracing::warn!(path = %path.display(), %why, "a certificate by ACME can't be read: another is asked for");
                }
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }
}

fn ended(material: &Material, now: Moment) -> bool {
    let leaf = material.presented.certificate.as_ref();
    leaf.is_none_or(|leaf| now.since(leaf.not_after) > ENDED_KEPT)
}

fn material(path: &Path) -> Result<(String, Material), String> {
    let text = read(path).map_err(|error| error.source.to_string())?;
    let host = text.lines().next().unwrap_or_default().to_owned();
    let part = |key| portion(key, text.as_bytes()).map_err(|refused| refused.to_string());
    let (certificate, key) = (Some(part("certificate")?), Some(Secret::new(part("key")?)));
    let material = files::read(&Files { certificate, key, client_ca: None });
    let material = material.and_then(|material| {
        material.covers(std::slice::from_ref(&host))?;
        Ok(material)
    });
    Ok((host, material.map_err(|refused| refused.to_string())?))
}

fn read(path: &Path) -> Result<String, StoreError> {
    let mut text = String::new();
    let limit = READ_MAX;
    let file = fs::File::open(path).map_err(failed("reading", path))?;
    file.take(limit).read_to_string(&mut text).map_err(failed("reading", path))?;
    Ok(text)
}

/// Written beside, synced, renamed.
fn write(path: &Path, text: &str) -> Result<(), StoreError> {
    let beside = path.with_extension("new");
    let written = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    written().map_err(failed("writing", path))
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError { doing, path, source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_was_kept_is_found_again_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("acme")).unwrap();
        let long = format!("{}.example", ["a"; 110].join("."));
        for host in ["shop.example", &long] {
            let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
            let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
            store
                .keep(
                    host,
                    &Files { certificate: Some(certificate), key: Some(Secret::new(key)), client_ca: None },
                )
                .unwrap();
        }
        store.keep_account("https://a/directory", &Secret::new("{}".to_owned())).unwrap();
        assert_eq!(store.account("https://a/directory").unwrap().unwrap().expose(), "{}");
        assert!(store.account("https://b/directory").unwrap().is_none());
        fs::write(folder.path().join("acme/torn.pem"), "torn").unwrap();
        let now = Moment(1_790_000_000_000);
        let hosts: Vec<String> = store.load(now).into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, [long.as_str(), "shop.example"]);
        for entry in fs::read_dir(folder.path().join("acme")).unwrap().flatten() {
            if entry.file_name() != "torn.pem" {
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        let after_all = Moment(i64::MAX / 2);
        assert!(store.load(after_all).is_empty() && store.load(now).is_empty(), "what ended long ago goes");
    }
}

//! The API's token: made once, kept for root in the data directory, and while the server runs for the
//! user who started it.

use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::data;

const FOLDER: &str = "/run/minato";

/// The token that was made at the first start.
pub(super) fn load(data: &Path) -> anyhow::Result<String> {
    let place = data.join("token");
    if let Some(text) = data::read(&place)? {
        let token = text.trim();
        anyhow::ensure!(
            token.len() >= 32,
            "{} holds no token; take it away, and a new one is made",
            place.display()
        );
        return Ok(token.to_owned());
    }
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes)
        .map_err(|error| anyhow::anyhow!("the kernel gives no random bytes: {error}"))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    data::write(&place, &format!("{token}\n"))?;
    Ok(token)
}

/// Takes away what a server of this data directory posted before it crashed, or before another took
/// over from it, on whatever port but `kept`.
pub(super) fn withdraw(data: &Path, kept: Option<SocketAddr>) -> anyhow::Result<()> {
    let kept = kept.map(place);
    let (Some(token), Ok(posted)) = (data::read(&data.join("token"))?, std::fs::read_dir(FOLDER)) else {
        return Ok(());
    };
    for place in posted.flatten().map(|entry| entry.path()).filter(|place| Some(place) != kept.as_ref()) {
        let token_of_it = data::read(&place).ok().flatten();
        if token_of_it.is_some_and(|posted| posted.trim() == token.trim()) {
            std::fs::remove_file(&place).with_context(|| format!("can't remove {}", place.display()))?;
        }
    }
    Ok(())
}

fn place(api: SocketAddr) -> PathBuf {
    Path::new(FOLDER).join(format!("{}.token", api.port()))
}

/// A token where the command line finds it, taken away with the server.
#[derive(Debug)]
pub(super) struct Posted {
    place: PathBuf,
}

impl Posted {
    /// Posts the token for the user who started the server (`SUDO_UID`, else root).
    pub(super) fn new(api: SocketAddr, token: &str) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(FOLDER)
            .with_context(|| format!("can't make {FOLDER}"))?;
        std::fs::set_permissions(FOLDER, std::fs::Permissions::from_mode(0o755))?;
        let place = place(api);
        let beside = Path::new(FOLDER).join(format!(".{}.{}", api.port(), std::process::id()));
        let attempt = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(&beside)?;
            writeln!(file, "{token}")?;
            let user = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).unwrap_or(0);
            std::os::unix::fs::chown(&beside, Some(user), None)?;
            std::fs::rename(&beside, &place)
        };
        attempt().with_context(|| format!("can't write {}", place.display()))?;
        Ok(Self { place })
    }

    /// Leaves it to the server that took over, which has posted it anew.
    pub(super) fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        // Left behind it is of no use to anybody: the next server on this port writes its own.
        drop(std::fs::remove_file(&self.place));
    }
}

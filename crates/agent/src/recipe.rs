//! What is executed in an instance, and as whom: an image's configuration with a release's over it.

use std::collections::BTreeMap;

use minato_image::{manifest::ImageConfig, users::Identity};
use minato_model::{
    ids::{InstanceId, ReleaseKey},
    release::ReleaseSpec,
};

/// Where programs are looked for when neither image nor release says it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As many supplementary groups as the runtime takes.
const GROUPS_MAX: usize = 64;
/// SIGTERM.
const TERMINATE: i32 = 15;

/// Everything about a release's process that every instance has in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) stop_signal: i32,
}

impl Recipe {
    pub(crate) fn new(spec: &ReleaseSpec, image: &ImageConfig, identity: &Identity) -> Self {
        let mut env: BTreeMap<String, String> =
            [("PATH".to_owned(), PATH.to_owned()), ("HOME".to_owned(), identity.home.clone())].into();
        env.extend(image.env.iter().cloned());
        env.extend(spec.env.clone());
        Self {
            argv: argv(spec, image),
            env,
            cwd: cwd(image),
            uid: identity.uid,
            gid: identity.gid,
            groups: identity.groups.iter().copied().take(GROUPS_MAX).collect(),
            stop_signal: image.stop_signal.as_deref().and_then(signal).unwrap_or(TERMINATE),
        }
    }

    /// The environment of one instance: what it finds by the contract is over all else.
    pub(crate) fn environment(&self, key: &ReleaseKey, port: u16, instance: &InstanceId) -> Vec<String> {
        let mut env = self.env.clone();
        env.insert("PORT".to_owned(), port.to_string());
        env.insert("MINATO_APP".to_owned(), key.service.app.to_string());
        env.insert("MINATO_SERVICE".to_owned(), key.service.service.to_string());
        env.insert("MINATO_RELEASE".to_owned(), key.number.to_string());
        env.insert("MINATO_INSTANCE".to_owned(), instance.to_string());
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

/// A release's command replaces the image's entrypoint and cmd together.
fn argv(spec: &ReleaseSpec, image: &ImageConfig) -> Vec<String> {
    if spec.command.is_empty() {
        image.entrypoint.iter().chain(&image.cmd).cloned().collect()
    } else {
        spec.command.clone()
    }
}

/// The image's working directory; one that isn't absolute is taken from the root, as others do.
pub(crate) fn cwd(image: &ImageConfig) -> String {
    match image.working_dir.as_str() {
        "" => "/".to_owned(),
        absolute if absolute.starts_with('/') => absolute.to_owned(),
        relative => format!("/{relative}"),
    }
}

/// A signal by its name, with or without `SIG`, or by its number, as images write it.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(number) = name.strip_prefix("RTMIN+").and_then(|above| above.parse::<i32>().ok()) {
        return (0..=30).contains(&number).then_some(34 + number);
    }
    Some(match name {
        "HUP" => 1,
        "INT" => 2,
        "QUIT" => 3,
        "ABRT" => 6,
        "KILL" => 9,
        "USR1" => 10,
        "USR2" => 12,
        "ALRM" => 14,
        "TERM" => TERMINATE,
        "CONT" => 18,
        "WINCH" => 28,
        "PWR" => 30,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("0", None),
            ("65", None),
            ("SIGNONE", None),
        ] {
            assert_eq!(signal(text), number, "{text}");
        }
    }
}

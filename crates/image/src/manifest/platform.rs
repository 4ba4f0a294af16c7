//! What an image runs on, and which of an index's images a machine takes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Descriptor, ImageIndex};

/// An operating system and a processor, named as Go names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …: which generation of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// No image of an index runs here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no image for {wanted}, only for {}", listed(offered))]
pub struct NoPlatform {
    /// What was looked for.
    pub wanted: Platform,
    /// What there is, in the index's order.
    pub offered: Vec<Platform>,
}

fn listed(offered: &[Platform]) -> String {
    // An index can list thousands; ten tell enough.
    let names: Vec<String> = offered.iter().take(10).map(Platform::to_string).collect();
    match offered.len() {
        0 => "no platform at all".to_owned(),
        1..=10 => names.join(", "),
        more => format!("{} and {} more", names.join(", "), more - 10),
    }
}

impl Platform {
    /// The platform of the machine that this runs on.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: generation() }
    }

    /// Whether what is built for `self` runs on `machine`, and how well: more is better.
    fn fits(&self, machine: &Self) -> Option<u32> {
        if self.os != machine.os || self.architecture != machine.architecture {
            return None;
        }
        let (needed, there) = (self.level()?, machine.level()?);
        (needed <= there).then_some(needed)
    }

    /// Generations are downward compatible within an architecture. `None`: a variant nobody knows.
    fn level(&self) -> Option<u32> {
        match self.variant.as_deref() {
            None | Some("") => Some(match self.architecture.as_str() {
                "arm64" => 8,
                "arm" => 7,
                _ => 1,
            }),
            Some(variant) => variant.strip_prefix('v')?.split('.').next()?.parse().ok(),
        }
    }

    /// Whether an image built for `self` runs on `machine`.
    #[must_use]
    pub fn runs_on(&self, machine: &Self) -> bool {
        self.fits(machine).is_some()
    }
}

/// Which generation of its architecture this machine is, where images are built for several.
#[cfg(target_arch = "x86_64")]
fn generation() -> Option<String> {
    // The levels of the x86-64 psABI, by the features that came last with each.
    let second = std::is_x86_feature_detected!("sse4.2") && std::is_x86_feature_detected!("popcnt");
    let third = second
        && std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("bmi2")
        && std::is_x86_feature_detected!("fma");
    Some(
        if third {
            "v3"
        } else if second {
            "v2"
        } else {
            "v1"
        }
        .to_owned(),
    )
}

#[cfg(not(target_arch = "x86_64"))]
fn generation() -> Option<String> {
    None
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl ImageIndex {
    /// The entry for `machine`: of those that run on it the one built for the newest generation, and
    /// of equals the first. What has no platform is taken only where nothing has one. The entry may be
    /// an index again.
    ///
    /// # Errors
    /// When none runs there; the error lists what there is.
    pub fn choose(&self, machine: &Platform) -> Result<&Descriptor, NoPlatform> {
        let mut best: Option<(u32, &Descriptor)> = None;
        for entry in &self.manifests {
            if let Some(level) = entry.platform.as_ref().and_then(|platform| platform.fits(machine))
                && best.is_none_or(|(most, _)| level > most)
            {
                best = Some((level, entry));
            }
        }
        let offered = || self.manifests.iter().filter_map(|entry| entry.platform.clone());
        let unnamed = || self.manifests.first().filter(|_| offered().next().is_none());
        best.map(|(_, entry)| entry)
            .or_else(unnamed)
            .ok_or_else(|| NoPlatform { wanted: machine.clone(), offered: offered().collect() })
    }
}

//! What control keeps in the cluster state of apps and services, and the planner decides by.

use std::collections::BTreeMap;

use minato_model::{
    code::Code,
    ids::{Generation, ReleaseNumber, ServiceName},
    manifest::Manifest,
    time::Moment,
    tls::Presented,
};
use serde::{Deserialize, Serialize};

/// What was declared of an app. Kept under `/apps/<app>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Rises with every change of the declaration, from 1.
    pub generation: Generation,
    /// The manifest as it was applied last.
    pub manifest: Manifest,
    /// Which release each service is meant to run.
    pub releases: BTreeMap<ServiceName, ReleaseNumber>,
    /// What the files are that services named for their doors, of each that named any.
    #[serde(default)]
    pub presented: BTreeMap<ServiceName, Presented>,
}

/// What a service keeps for life, a deletion included. Kept under `/services/<app>/<service>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its virtual address's offset in every node's network.
    pub virtual_offset: u16,
    /// The highest number that a release of it ever had.
    pub last_release: ReleaseNumber,
    /// Releases that were taken back, by their hash.
    pub taken_back: BTreeMap<String, TakenBack>,
}

/// How many releases taken back are remembered of one service; the oldest number goes first. A
/// record stays far below what a value may hold.
const TAKEN_BACK_MAX: usize = 128;

/// Why a release was taken back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakenBack {
    /// Its number.
    pub number: ReleaseNumber,
    /// Which kind of reason; absent: it wasn't stable within its deadline.
    pub code: Option<Code>,
    /// The reason, with its evidence.
    pub reason: String,
    /// When.
    pub at: Moment,
}

impl ServiceRecord {
    /// Remembers a release as taken back.
    pub fn take_back(&mut self, hash: &str, taken: TakenBack) {
        self.taken_back.insert(hash.to_owned(), taken);
        while self.taken_back.len() > TAKEN_BACK_MAX {
            let oldest = self.taken_back.iter().min_by_key(|(_, taken)| taken.number);
            let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) else { return };
            self.taken_back.remove(&oldest);
        }
    }
}

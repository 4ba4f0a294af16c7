//! A certificate for each start, by a key that was made ahead. Nothing of the cluster is asked for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use minato_identity::{Authority, Holder, IssueError, Issued, Key};
use minato_model::{
    code::Code,
    ids::{InstanceId, ReleaseKey},
    manifest::Recycle,
};
use minato_runtime::spec::Identity;
use tokio::time::Instant;

use super::Certified;
use crate::{life::Fault, node::Node, prepare::whole};

/// Keys that are made ahead: as many starts as a busy second has, some kilobytes.
const KEYS: usize = 64;
/// So many are made in one go, which takes less than a millisecond.
const AT_ONCE: usize = 16;

/// The node's issuer of certificates, and the keys that it has made ahead.
pub(crate) struct Issuer {
    authority: Arc<Authority>,
    keys: Mutex<Vec<Key>>,
}

impl Issuer {
    pub(crate) fn new(authority: Arc<Authority>) -> Self {
        Self { authority, keys: Mutex::default() }
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether keys are to be made.
    pub(crate) fn lacks(&self) -> bool {
        self.keys().len() < KEYS
    }

    /// Makes some keys; `false`: none can be made now.
    pub(crate) fn make_some(&self) -> bool {
        for _ in 0..AT_ONCE {
            match self.authority.key() {
                Ok(key) => self.keys().push(key),
                Err(error) => {
                    tracing::warn!(error = %whole(&error), "key not made ahead; trying again");
                    return false;
                }
            }
        }
        true
    }

    /// Takes a key that was made ahead, or makes one.
    fn issue(&self, holder: &Holder<'_>, greatest_age: Duration) -> Result<Issued, IssueError> {
        let ahead = self.keys().pop();
        let key = ahead.map_or_else(|| self.authority.key(), Ok)?;
        self.authority.instance(holder, greatest_age, key)
    }
}

/// Issues an instance's certificate, and notes it; `None`: the keeper is older, and can't give it any.
pub(crate) fn certify(node: &Node, id: &InstanceId, key: &ReleaseKey) -> Result<Option<Identity>, Fault> {
    let gone = |reason: &str| Fault::new(Code::NodeFault, reason);
    let keeper = node.keeper().ok_or_else(|| gone("the keeper is gone; it is being started again"))?;
    let (address, age) = {
        let mut table = node.table();
        let slice = table.slices.get(&key.service);
        let age = slice.map_or_else(|| Recycle::default().age, |slice| slice.recycle.age);
        let record = table.instances.get_mut(id).ok_or_else(|| gone("it isn't in the node's table"))?;
        if !keeper.client.identifies() {
            record.findings.push(
                "it has no certificate: the keeper is of an earlier version, until all instances were stopped"
                    .to_owned(),
            );
            return Ok(None);
        }
        (record.address, age)
    };
    let holder = Holder { service: &key.service, instance: id, address };
    let begun = Instant::now();
    let issued = node.issuer.issue(&holder, age).map_err(|error| {
        Fault::new(Code::NodeFault, format!("it can't be issued a certificate: {}", whole(&error)))
    })?;
    let Issued { serial, not_before, not_after, .. } = &issued;
    let certified = Certified { serial: serial.clone(), not_before: *not_before, not_after: *not_after };
    if let Some(record) = node.table().instances.get_mut(id) {
        record.identity = Some(certified);
        record.certificate_ms = Some(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    Ok(Some(Identity {
        certificate: issued.chain_pem().into_bytes(),
        key: issued.key_pem().as_bytes().to_vec(),
        roots: node.issuer.authority.bundle().pem.as_bytes().to_vec(),
    }))
}

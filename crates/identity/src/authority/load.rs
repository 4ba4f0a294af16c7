//! Opening the authority, and making what is due: all that touches its directory.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwap;
use minato_model::{ids::NodeName, time::Moment};
use rustls_pki_types::UnixTime;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::{Authority, Clock, Held, Made, OpenError, RotateError, Rotation, Signer};
use crate::{
    bundle::{Bundle, Trust},
    certificate::{self, Failed, Key, Subject},
    inspect::Validity,
    lifetimes::Lifetimes,
    rotation::{self, Kept, Schedule},
    spiffe::SpiffeId,
    store::{CURE_ROOT, Cluster, Kind, Pair, Store, StoreError},
};

/// What lies in the directory, read and checked.
struct Found {
    roots: Vec<Pair>,
    intermediates: Vec<Pair>,
    held: Held,
}

impl Authority {
    /// Opens the authority in a directory, making it where there is none, and does what is due.
    ///
    /// # Errors
    /// The directory can't be used, or holds something else than this authority.
    pub fn open(
        dir: &Path,
        node: &NodeName,
        lifetimes: Lifetimes,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let store = Store::open(dir)?;
        let lock = store.lock()?;
        let cluster = cluster(&store, lifetimes, clock())?;
        let schedule = Schedule {
            origin: cluster.origin,
            first: cluster.first,
            period: Duration::from_millis(cluster.period_ms),
            back: lifetimes.back(),
        };
        let nothing = Arc::new(Bundle::new(0, Vec::new()).map_err(|_| RotateError::from(Failed::Root))?);
        let authority = Self {
            store,
            cluster: cluster.cluster,
            node: node.clone(),
            lifetimes,
            schedule,
            clock,
            trust: Trust::from(nothing),
            held: ArcSwap::default(),
            rotating: Mutex::default(),
            said_behind: AtomicBool::new(false),
        };
        let made = authority.renew()?;
        drop(lock);
        authority.rotating.lock().unwrap_or_else(PoisonError::into_inner).add(made);
        Ok(Arc::new(authority))
    }

    /// Makes what is due by what lies in the directory, which must be locked, and holds the whole.
    pub(super) fn renew(&self) -> Result<Rotation, RotateError> {
        let mut found = self.find()?;
        let now = self.moment(&found.held);
        let due = rotation::due(&self.schedule, &found.held.roots, &found.held.intermediates, now);
        let mut rotation = Rotation::default();
        for number in due.ahead {
            tracing::warn!(
                number,
                "an intermediate is taken away that was made by a clock ahead of this one"
            );
            self.store.remove(Kind::Node, number)?;
            found.intermediates.retain(|pair| pair.kept.number != number);
        }
        for number in due.roots {
            let root = self.make_root(number)?;
            rotation.roots.push(made(&root.kept, number));
            found.roots.push(root);
        }
        if let Some(signing) = due.intermediate {
            let root = found.roots.iter().find(|root| root.kept.number == signing);
            let root = root.ok_or_else(|| RotateError::from(Failed::NoSigner))?;
            let intermediate = self.make_intermediate(root, now)?;
            rotation.intermediate = Some(made(&intermediate.kept, signing));
            found.intermediates.push(intermediate);
        }
        self.prune(&mut found, now)?;
        rotation.bundle = self.hold(found, now)?;
        Ok(rotation)
    }

    /// Puts in force what was found and made; the new number of the bundle, if it has changed.
    fn hold(&self, found: Found, now: Moment) -> Result<Option<u64>, RotateError> {
        let mut held = self.held(&found.roots, &found.intermediates, now)?;
        held.published = rotation::published(&self.schedule, &held.roots, now);
        let of = |number: &u64| found.roots.iter().find(|root| root.kept.number == *number);
        let roots = held.published.iter().filter_map(of).map(|root| root.certificate.clone()).collect();
        let (oldest, newest) = (held.published.first(), held.published.last());
        // Both only rise, and one of them does with each change.
        let serial = oldest.copied().unwrap_or(0).saturating_add(newest.copied().unwrap_or(0));
        let bundle = Bundle::new(serial, roots).map_err(|_| RotateError::from(Failed::Root))?;
        let changed = bundle.roots != self.trust.now().roots;
        if changed {
            self.trust.change(bundle);
        }
        self.held.store(Arc::new(held));
        Ok(changed.then_some(serial))
    }

    fn find(&self) -> Result<Found, RotateError> {
        let signing = self.schedule.number((self.clock)());
        let mut roots = Vec::new();
        for (number, root) in self.store.pairs(Kind::Root)? {
            match root.and_then(|root| self.checked(root, signing)) {
                Ok(root) => roots.push(root),
                // No bundle has it any more.
                Err(error) if number.saturating_add(1) < signing => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a root of the past is left out"
                    );
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut intermediates = Vec::new();
        for (_, intermediate) in self.store.pairs(Kind::Node)? {
            match intermediate {
                Ok(intermediate) => intermediates.push(intermediate),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an intermediate is left out");
                }
            }
        }
        let held = self.held(&roots, &intermediates, (self.clock)())?;
        Ok(Found { roots, intermediates, held })
    }

    /// Whether a root is of this cluster, and can sign if it has to.
    fn checked(&self, root: Pair, signing: u64) -> Result<Pair, StoreError> {
        let number = root.kept.number;
        let wrong = |end: &str, wrong: &str| StoreError::Unusable {
            path: self.store.path(Kind::Root, number, end),
            wrong: wrong.to_owned(),
            cure: CURE_ROOT,
        };
        let name = certificate::root_name(&self.cluster, number);
        let anchor = anchor_from_trusted_cert(&root.certificate);
        let anchor = anchor.map_err(|_| wrong("crt", "it is no X.509 certificate"))?;
        // The subject is one common name, and ends with its text.
        if !anchor.subject.as_ref().ends_with(name.as_bytes()) {
            return Err(wrong("crt", &format!("it isn't `{name}`, but of another cluster or number")));
        }
        if root.key.is_none() && number >= signing {
            return Err(wrong("key", "it is missing, though its certificate is there"));
        }
        Ok(root)
    }

    /// What of these can sign. An intermediate that doesn't come from one of the roots can't; what is over
    /// can, for a clock that was ahead.
    fn held(&self, roots: &[Pair], intermediates: &[Pair], now: Moment) -> Result<Held, RotateError> {
        let mut held = Held { roots: roots.iter().map(|root| root.kept).collect(), ..Held::default() };
        for pair in intermediates {
            let Some(key) = &pair.key else { continue };
            let kept = pair.kept;
            let name = certificate::intermediate_name(&self.cluster, self.node.as_str(), kept.number);
            let signer = Signer {
                issuer: certificate::issuer(&name, certificate::signing(key)?),
                certificate: pair.certificate.clone(),
                validity: kept.validity,
            };
            if self.proves(roots, &signer)? {
                held.intermediates.push(kept);
                held.signers.insert(kept.number, signer);
            } else if now < kept.validity.not_after {
                let path = self.store.path(Kind::Node, kept.number, "crt");
                tracing::warn!(path = %path.display(), "an intermediate that no root of this cluster signed is left out");
            }
        }
        Ok(held)
    }

    /// Whether what this signs is verified by one of the roots: tried with a certificate that nobody gets.
    fn proves(&self, roots: &[Pair], signer: &Signer) -> Result<bool, RotateError> {
        let id = SpiffeId::Edge { cluster: self.cluster.clone(), node: self.node.clone() };
        let subject = Subject::edge(&id, self.node.as_str())?;
        let (leaf, _) = certificate::leaf(&subject, &signer.validity, &Key::generate()?, &signer.issuer)?;
        let Ok(parsed) = EndEntityCert::try_from(&leaf) else { return Ok(false) };
        let anchors: Vec<_> =
            roots.iter().filter_map(|root| anchor_from_trusted_cert(&root.certificate).ok()).collect();
        let seconds = u64::try_from(signer.validity.not_before.0 / 1_000).unwrap_or(0);
        let verified = parsed.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchors,
            std::slice::from_ref(&signer.certificate),
            UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            KeyUsage::client_auth(),
            None,
            None,
        );
        Ok(verified.is_ok())
    }

    fn make_root(&self, number: u64) -> Result<Pair, RotateError> {
        let key = Key::generate()?;
        let validity = certificate::rounded(&self.schedule.root(number));
        let name = certificate::root_name(&self.cluster, number);
        let root = certificate::root(&name, &validity, &key.signing()?)?;
        Ok(self.store.put(Kind::Root, number, root, validity, key.pkcs8())?)
    }

    fn make_intermediate(&self, root: &Pair, now: Moment) -> Result<Pair, RotateError> {
        let number = self.store.highest(Kind::Node)?.map_or(0, |highest| highest.saturating_add(1));
        let root_name = certificate::root_name(&self.cluster, root.kept.number);
        let root_key = root.key.as_ref().ok_or(Failed::NoSigner)?;
        let issuer = certificate::issuer(&root_name, certificate::signing(root_key)?);
        let validity = certificate::rounded(&self.schedule.intermediate(now, &root.kept.validity));
        let validity =
            Validity { not_after: validity.not_after.min(root.kept.validity.not_after), ..validity };
        let name = certificate::intermediate_name(&self.cluster, self.node.as_str(), number);
        let key = Key::generate()?;
        let intermediate = certificate::intermediate(&name, &validity, &key, &issuer)?;
        Ok(self.store.put(Kind::Node, number, intermediate, validity, key.pkcs8())?)
    }

    /// Takes away what is over for good. The newest of what is over stay, for a clock that was ahead.
    fn prune(&self, found: &mut Found, now: Moment) -> Result<(), RotateError> {
        let roots: Vec<Kept> = found.roots.iter().map(|root| root.kept).collect();
        let below = rotation::published(&self.schedule, &roots, now).first().copied().unwrap_or(0);
        for number in rotation::over(&roots, below) {
            self.store.remove(Kind::Root, number)?;
            found.roots.retain(|root| root.kept.number != number);
        }
        let nodes: Vec<Kept> = found.intermediates.iter().map(|pair| pair.kept).collect();
        let live = nodes.iter().filter(|kept| now < kept.validity.not_after).map(|kept| kept.number).min();
        for number in rotation::over(&nodes, live.unwrap_or(0)) {
            self.store.remove(Kind::Node, number)?;
            found.intermediates.retain(|pair| pair.kept.number != number);
        }
        Ok(())
    }
}

fn made(kept: &Kept, root: u64) -> Made {
    let Validity { not_before, not_after } = kept.validity;
    Made { number: kept.number, root, not_before, not_after }
}

/// The file `cluster`: read, made at the first start, or begun anew when periods have another length now.
fn cluster(store: &Store, lifetimes: Lifetimes, now: Moment) -> Result<Cluster, OpenError> {
    let period_ms = u64::try_from(lifetimes.period().as_millis()).unwrap_or(u64::MAX);
    let highest = store.highest(Kind::Root)?;
    let cluster = match (store.cluster()?, highest) {
        (Some(cluster), _) if cluster.period_ms == period_ms => return Ok(cluster),
        (Some(former), _) => {
            let first = highest.map_or(0, |highest| highest.saturating_add(1));
            tracing::warn!(
                first,
                period_ms,
                "lifetimes have changed: roots begin anew, and those of before stay in bundles until they expire"
            );
            Cluster { origin: now, first, period_ms, ..former }
        }
        (None, Some(_)) => return Err(store.cluster_is_lost().into()),
        (None, None) => {
            let mut id = [0_u8; 4];
            getrandom::fill(&mut id).map_err(|_| RotateError::from(Failed::Random))?;
            let cluster = format!("minato-{:08x}", u32::from_be_bytes(id));
            Cluster { cluster, origin: now, first: 0, period_ms }
        }
    };
    store.put_cluster(&cluster)?;
    Ok(cluster)
}

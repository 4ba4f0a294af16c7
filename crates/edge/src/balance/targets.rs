//! The instances of a release that may be given requests, as balancing looks at them. Made when they
//! change, never changed.

use std::{ops::Deref, sync::Arc};

use crate::target::Target;

/// All of them: those near first.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    all: Vec<Arc<Target>>,
    /// So many are in the edge's own zone, or nobody knows where; all of them if none is.
    near: usize,
    /// What hashing places them by, in the same order.
    seeds: Vec<u64>,
}

impl Targets {
    /// As an edge in this zone sees them.
    pub(crate) fn new(mut all: Vec<Arc<Target>>, zone: Option<&str>) -> Self {
        let is_near = |target: &Arc<Target>| match (zone, target.endpoint.zone.as_deref()) {
            (Some(own), Some(other)) => own == other,
            (None, _) | (_, None) => true,
        };
        all.sort_by_key(|target| !is_near(target));
        let near = match all.iter().filter(|target| is_near(target)).count() {
            0 => all.len(),
            near => near,
        };
        let seeds = all.iter().map(|target| target.seed).collect();
        Self { all, near, seeds }
    }

    /// Those near, and the others.
    pub(super) fn by_distance(&self) -> (&[Arc<Target>], &[Arc<Target>]) {
        self.all.split_at_checked(self.near).unwrap_or((&self.all, &[]))
    }

    pub(super) fn seeds(&self) -> &[u64] {
        &self.seeds
    }
}

impl Deref for Targets {
    type Target = [Arc<Target>];

    fn deref(&self) -> &Self::Target {
        &self.all
    }
}

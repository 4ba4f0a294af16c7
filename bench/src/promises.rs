//! What was promised beside what was found.

use crate::figures::table;

/// Whether more or less is better.
#[derive(Debug, Clone, Copy)]
enum Sense {
    AtLeast,
    AtMost,
}

#[derive(Debug)]
struct Promise {
    what: String,
    found: f64,
    sense: Sense,
    must: f64,
    wanted: Option<f64>,
}

/// The promises of one run.
#[derive(Debug, Default)]
pub(crate) struct Promises(Vec<Promise>);

impl Promises {
    /// Found has to be this or more.
    pub(crate) fn at_least(&mut self, what: &str, found: f64, must: f64, wanted: impl Into<Option<f64>>) {
        self.add(what, found, Sense::AtLeast, must, wanted.into());
    }

    /// Found may be this and no more.
    pub(crate) fn at_most(&mut self, what: &str, found: f64, must: f64, wanted: impl Into<Option<f64>>) {
        self.add(what, found, Sense::AtMost, must, wanted.into());
    }

    fn add(&mut self, what: &str, found: f64, sense: Sense, must: f64, wanted: Option<f64>) {
        self.0.push(Promise { what: what.to_owned(), found, sense, must, wanted });
    }

    /// Adds those of another part.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The promises that weren't kept.
    pub(crate) fn missed(&self) -> Vec<&str> {
        self.0.iter().filter(|promise| !promise.holds(promise.must)).map(|promise| &*promise.what).collect()
    }

    /// All of them.
    pub(crate) fn table(&self) -> String {
        let rows: Vec<_> = self.0.iter().map(Promise::row).collect();
        table(&["promised", "found", "must", "wanted", ""], &rows)
    }
}

impl Promise {
    fn holds(&self, bound: f64) -> bool {
        match self.sense {
            Sense::AtLeast => self.found >= bound,
            Sense::AtMost => self.found <= bound,
        }
    }

    fn row(&self) -> Vec<String> {
        let sign = match self.sense {
            Sense::AtLeast => "≥",
            Sense::AtMost => "≤",
        };
        let word = match self.wanted {
            _ if !self.holds(self.must) => "MISSED",
            Some(wanted) if self.holds(wanted) => "as wanted",
            _ => "met",
        };
        let bound = |bound: f64| format!("{sign} {}", number(bound));
        vec![
            self.what.clone(),
            number(self.found),
            bound(self.must),
            self.wanted.map(bound).unwrap_or_default(),
            word.to_owned(),
        ]
    }
}

/// Whole numbers as such, others with two places.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::Promises;

    #[test]
    fn a_promise_is_kept_better_or_missed() {
        let mut promises = Promises::default();
        promises.at_least("ratio", 12.5, 10.0, 20.0);
        promises.at_least("rate", 210.0, 100.0, 200.0);
        promises.at_most("failed", 1.0, 0.0, None);
        assert_eq!(promises.missed(), ["failed"]);
        let table = promises.table();
        assert!(table.contains("| ratio | 12.50 | ≥ 10 | ≥ 20 | met |"), "{table}");
        assert!(table.contains("| rate | 210 | ≥ 100 | ≥ 200 | as wanted |"), "{table}");
        assert!(table.contains("| failed | 1 | ≤ 0 |  | MISSED |"), "{table}");
    }
}

//! What the node measures, as Prometheus text, and the starts of the last minute.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use minato_model::node::Phases;
use tokio::time::Instant;

use crate::recycle::Why;

/// Upper bounds in seconds: a start takes a millisecond in a prepared sandbox, a minute at most.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// The phases of a start as they are named outside, in order.
pub(crate) const PHASES: [&str; 4] = ["taken", "mounted", "executed", "listening"];
/// How far "lately" looks back.
pub(crate) const LATELY: Duration = Duration::from_secs(60);
/// Starts that are remembered: more than a node makes in a minute.
const LATELY_MAX: usize = 20_000;

/// The node's measurements.
#[derive(Debug)]
pub(crate) struct Metrics {
    phases: [Histogram; PHASES.len()],
    begun: Instant,
    lately: Mutex<VecDeque<Recent>>,
    /// Renewals, by [`Why::ALL`].
    renewals: [AtomicU64; Why::ALL.len()],
    /// From when a recycled one left routing until another was ready.
    gaps: Histogram,
}

/// A start that succeeded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    pub(crate) phases: Phases,
    /// How long it waited for a slot.
    pub(crate) slot_ms: Option<f64>,
    /// Whether its sandbox was made ahead.
    pub(crate) pooled: Option<bool>,
}

/// What the node has just now.
#[derive(Debug, Default)]
pub(crate) struct Now<'a> {
    /// Instances by state.
    pub(crate) instances: &'a [(&'a str, usize)],
    /// Sandboxes that are ready.
    pub(crate) sandboxes_ready: u32,
    /// Sandboxes that should be.
    pub(crate) sandboxes_target: u32,
    /// Sandboxes that were made ahead and taken.
    pub(crate) sandboxes_pooled: u64,
    /// Sandboxes that a start made for itself.
    pub(crate) sandboxes_cold: u64,
    /// Starts that may go on at once.
    pub(crate) slots: u32,
    /// Of these, how many do.
    pub(crate) slots_taken: u32,
    /// Starts that wait for a slot.
    pub(crate) slots_waiting: u32,
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not summed up: each bucket for itself, the last one for what is over all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// A start as it is remembered for a minute, in which there may be thousands.
#[derive(Debug, Clone, Copy)]
struct Recent {
    at_ms: u64,
    /// Microseconds; [`NEVER`]: there is none.
    phases: [u32; PHASES.len()],
    slot: u32,
    pooled: Option<bool>,
}

const NEVER: u32 = u32::MAX;

impl Recent {
    fn new(at_ms: u64, started: &Started) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is too large or small becomes the last or first number"
        )]
        let micros = |millis: Option<f64>| millis.map_or(NEVER, |millis| (millis * 1_000.0) as u32);
        let phases = started.milliseconds().map(micros);
        Self { at_ms, phases, slot: micros(started.slot_ms), pooled: started.pooled }
    }

    fn is_within(&self, last: Duration, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(self.at_ms)) < last.as_millis()
    }

    fn started(&self) -> Started {
        let millis = |micros: u32| (micros != NEVER).then(|| f64::from(micros) / 1_000.0);
        let [taken, mounted, executed, listening] = self.phases.map(millis);
        let phases = Phases { taken, mounted, executed, listening };
        Started { phases, slot_ms: millis(self.slot), pooled: self.pooled }
    }
}

impl Started {
    /// When each phase of it ended, in the order of [`PHASES`].
    pub(crate) fn milliseconds(&self) -> [Option<f64>; PHASES.len()] {
        let phases = &self.phases;
        [phases.taken, phases.mounted, phases.executed, phases.listening]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            phases: Default::default(),
            begun: Instant::now(),
            lately: Mutex::default(),
            renewals: Default::default(),
            gaps: Histogram::default(),
        }
    }
}

impl Metrics {
    /// Notes a start that succeeded.
    pub(crate) fn started(&self, started: Started) {
        for (histogram, milliseconds) in self.phases.iter().zip(started.milliseconds()) {
            if let Some(milliseconds) = milliseconds {
                histogram.observe(milliseconds / 1_000.0);
            }
        }
        let at = self.millis();
        // A panic elsewhere leaves the queue whole: every change is one call.
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        while lately.front().is_some_and(|recent| !recent.is_within(LATELY, at)) || lately.len() >= LATELY_MAX
        {
            lately.pop_front();
        }
        lately.push_back(Recent::new(at, &started));
    }

    /// Notes a renewal, and for how long nobody was ready.
    pub(crate) fn renewed(&self, why: Why, gap: Option<Duration>) {
        let index = Why::ALL.iter().position(|known| *known == why);
        if let Some(renewals) = index.and_then(|index| self.renewals.get(index)) {
            renewals.fetch_add(1, Relaxed);
        }
        if let Some(gap) = gap.filter(|_| why.is_routine()) {
            self.gaps.observe(gap.as_secs_f64());
        }
    }

    /// The renewals, and their gaps.
    fn write_renewals(&self, text: &mut String) {
        let counted: Vec<(Why, u64)> =
            Why::ALL.into_iter().zip(self.renewals.iter().map(|number| number.load(Relaxed))).collect();
        for (name, routine, what) in [
            ("minato_rehearsals_total", true, "Instances that were renewed by routine."),
            ("minato_replacements_total", false, "Instances that were replaced for a fault."),
        ] {
            head(text, name, "counter", what);
            for (why, number) in counted.iter().filter(|(why, _)| why.is_routine() == routine) {
                line(text, format_args!("{name}{{why=\"{}\"}} {number}", why.as_str()));
            }
        }
        let name = "minato_rehearsal_gap_seconds";
        head(text, name, "histogram", "How long nobody was ready when one was renewed by routine.");
        self.gaps.write(name, "", text);
    }

    /// The starts of the last minute.
    pub(crate) fn lately(&self) -> Vec<Started> {
        let now = self.millis();
        let lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        lately.iter().filter(|recent| recent.is_within(LATELY, now)).map(Recent::started).collect()
    }

    /// Since these measurements began.
    fn millis(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Everything as text.
    pub(crate) fn text(&self, now: &Now<'_>) -> String {
        let mut text = String::new();
        let name = "minato_instance_start_seconds";
        head(&mut text, name, "histogram", "From the beginning of a start to the end of each phase.");
        for (phase, histogram) in PHASES.iter().zip(&self.phases) {
            histogram.write(name, &format!("phase=\"{phase}\""), &mut text);
        }
        self.write_renewals(&mut text);
        head(&mut text, "minato_instances", "gauge", "Instances on this node.");
        for (state, number) in now.instances {
            line(&mut text, format_args!("minato_instances{{state=\"{state}\"}} {number}"));
        }
        let name = "minato_sandbox_pool";
        head(&mut text, name, "gauge", "Sandboxes made ahead: how many are ready, and how many should be.");
        for (state, number) in [("ready", now.sandboxes_ready), ("target", now.sandboxes_target)] {
            line(&mut text, format_args!("{name}{{state=\"{state}\"}} {number}"));
        }
        let name = "minato_sandboxes_total";
        head(&mut text, name, "counter", "Sandboxes that starts took: made ahead, or for that start.");
        for (how, number) in [("pooled", now.sandboxes_pooled), ("cold", now.sandboxes_cold)] {
            line(&mut text, format_args!("{name}{{how=\"{how}\"}} {number}"));
        }
        let name = "minato_start_slots";
        head(&mut text, name, "gauge", "Starts that may go on at once: all, those taken, and who waits.");
        for (state, number) in
            [("all", now.slots), ("taken", now.slots_taken), ("waiting", now.slots_waiting)]
        {
            line(&mut text, format_args!("{name}{{state=\"{state}\"}} {number}"));
        }
        text
    }
}

impl Histogram {
    fn observe(&self, seconds: f64) {
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(1, Relaxed);
        }
        let micros = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_micros();
        self.micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, name: &str, labels: &str, text: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut sum = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            sum += bucket.load(Relaxed);
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            line(text, format_args!("{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}"));
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        line(text, format_args!("{name}_sum{labels} {seconds}"));
        line(text, format_args!("{name}_count{labels} {sum}"));
    }
}

fn head(text: &mut String, name: &str, kind: &str, what: &str) {
    line(text, format_args!("# HELP {name} {what}\n# TYPE {name} {kind}"));
}

#[expect(clippy::expect_used, reason = "writing to a String never fails")]
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(taken: f64) -> Started {
        let phases = Phases { taken: Some(taken), ..Phases::default() };
        Started { phases, slot_ms: Some(0.1), pooled: Some(true) }
    }

    #[tokio::test]
    async fn buckets_are_summed_up() {
        let metrics = Metrics::default();
        for taken in [0.5, 3.0, 90_000.0] {
            metrics.started(started(taken));
        }
        let now = Now {
            instances: &[("ready", 2)],
            sandboxes_ready: 3,
            sandboxes_target: 4,
            sandboxes_pooled: 5,
            sandboxes_cold: 6,
            slots: 7,
            slots_taken: 2,
            slots_waiting: 1,
        };
        let text = metrics.text(&now);
        for line in [
            "minato_instance_start_seconds_bucket{phase=\"taken\",le=\"0.001\"} 1",
            "minato_instance_start_seconds_bucket{phase=\"taken\",le=\"0.0025\"} 1",
            "minato_instance_start_seconds_bucket{phase=\"taken\",le=\"0.005\"} 2",
            "minato_instance_start_seconds_bucket{phase=\"taken\",le=\"60\"} 2",
            "minato_instance_start_seconds_bucket{phase=\"taken\",le=\"+Inf\"} 3",
            "minato_instance_start_seconds_sum{phase=\"taken\"} 90.0035",
            "minato_instance_start_seconds_count{phase=\"taken\"} 3",
            "minato_instance_start_seconds_count{phase=\"listening\"} 0",
            "minato_instances{state=\"ready\"} 2",
            "# TYPE minato_sandbox_pool gauge",
            "minato_sandbox_pool{state=\"ready\"} 3",
            "minato_sandbox_pool{state=\"target\"} 4",
            "# TYPE minato_sandboxes_total counter",
            "minato_sandboxes_total{how=\"pooled\"} 5",
            "minato_sandboxes_total{how=\"cold\"} 6",
            "minato_start_slots{state=\"waiting\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_minute_is_remembered() {
        let metrics = Metrics::default();
        metrics.started(started(1.0));
        tokio::time::advance(Duration::from_secs(40)).await;
        metrics.started(started(2.0));
        assert_eq!(metrics.lately().len(), 2);
        tokio::time::advance(Duration::from_secs(30)).await;
        let taken: Vec<_> = metrics.lately().iter().map(|started| started.phases.taken).collect();
        assert_eq!(taken, [Some(2.0)]);
    }
}

//! What the node measures, as Prometheus text.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use minato_model::node::Phases;

/// Upper bounds in seconds: a start takes a millisecond in a prepared sandbox, a minute at most.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
const PHASES: [&str; 4] = ["taken", "mounted", "executed", "listening"];

/// The node's measurements.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    phases: [Histogram; PHASES.len()],
}

#[derive(Debug, Default)]
struct Histogram {
    /// Not summed up: each bucket for itself, the last one for what is over all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Metrics {
    /// Notes a start that succeeded.
    pub(crate) fn started(&self, phases: &Phases) {
        let milliseconds = [phases.taken, phases.mounted, phases.executed, phases.listening];
        for (histogram, milliseconds) in self.phases.iter().zip(milliseconds) {
            if let Some(milliseconds) = milliseconds {
                histogram.observe(milliseconds / 1_000.0);
            }
        }
    }

    /// Everything as text; `instances` is how many there are by state.
    pub(crate) fn text(&self, instances: &[(&str, usize)]) -> String {
        let mut text = String::from(
            "# HELP minato_instance_start_seconds From the beginning of a start to the end of each phase.\n\
             # TYPE minato_instance_start_seconds histogram\n",
        );
        for (phase, histogram) in PHASES.iter().zip(&self.phases) {
            histogram.write(phase, &mut text);
        }
        text.push_str("# HELP minato_instances Instances on this node.\n# TYPE minato_instances gauge\n");
        for (state, number) in instances {
            line(&mut text, format_args!("minato_instances{{state=\"{state}\"}} {number}"));
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
        let micros = std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default().as_micros();
        self.micros.fetch_add(u64::try_from(micros).unwrap_or(u64::MAX), Relaxed);
    }

    fn write(&self, phase: &str, text: &mut String) {
        let name = "minato_instance_start_seconds";
        let mut sum = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            sum += bucket.load(Relaxed);
            let bound = BOUNDS.get(index).map_or_else(|| "+Inf".to_owned(), ToString::to_string);
            line(text, format_args!("{name}_bucket{{phase=\"{phase}\",le=\"{bound}\"}} {sum}"));
        }
        let seconds = std::time::Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        line(text, format_args!("{name}_sum{{phase=\"{phase}\"}} {seconds}"));
        line(text, format_args!("{name}_count{{phase=\"{phase}\"}} {sum}"));
    }
}

#[expect(clippy::expect_used, reason = "writing to a String never fails")]
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_summed_up() {
        let metrics = Metrics::default();
        for taken in [0.5, 3.0, 90_000.0] {
            metrics.started(&Phases { taken: Some(taken), ..Phases::default() });
        }
        let text = metrics.text(&[("ready", 2)]);
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
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}

//! `minato top`: what nodes, their sandboxes, services and instances use and carry, now and on.

use std::{io::IsTerminal as _, time::Duration};

use clap::Args;
use minato_model::{
    ids::AppName,
    top::{InstanceTop, ServiceTop, Top, Used},
    units,
};
use serde::Deserialize;
use serde_json::Value;

use super::words;
use crate::{client::Client, failure::Failure, show};

/// The time between looks.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only services and instances of this APP
    app: Option<AppName>,
    /// One look, as with --json or without a terminal, unless -n or --every says otherwise
    #[arg(long, conflicts_with = "number")]
    once: bool,
    /// So many looks
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    number: Option<u64>,
    /// The time between looks [default: 1s]
    #[arg(long, value_parser = every)]
    every: Option<Duration>,
}

impl Arguments {
    /// How often to look; `None`: until nobody reads it any more.
    fn looks(&self, json: bool, terminal: bool) -> Option<u64> {
        let one = self.once || ((json || !terminal) && self.every.is_none());
        self.number.or_else(|| one.then_some(1))
    }
}

fn every(text: &str) -> Result<Duration, String> {
    let range = Duration::from_millis(200)..=Duration::from_secs(3_600);
    let duration = units::duration(text).ok().filter(|duration| range.contains(duration));
    duration.ok_or_else(|| format!("`{text}` is no time between 200ms and 1h; write it as 2s"))
}

#[derive(Debug, Deserialize)]
struct Answer {
    nodes: Vec<Top>,
}

pub(super) async fn run(arguments: Arguments, json: bool) -> Result<(), Failure> {
    let client = Client::find()?;
    let app = arguments.app.as_ref().map_or_else(String::new, |app| format!("?app={app}"));
    let path = format!("/api/v1/top{app}");
    let terminal = std::io::stdout().is_terminal();
    let mut left = arguments.looks(json, terminal);
    let full_screen = terminal && !json && left != Some(1);
    let mut shown = None;
    loop {
        match client.get(&path).await {
            Ok(answer) => shown = Some(show(&answer, json, full_screen)?),
            // It may be starting again: who watches wants to see it come back.
            Err(Failure::Unreachable(why)) if shown.is_some() => {
                if full_screen {
                    show::data(&screen(&[why], size()));
                } else {
                    show::progress(&why);
                }
            }
            Err(failure) => return Err(failure),
        }
        left = left.map(|left| left.saturating_sub(1));
        if left == Some(0) || show::closed() {
            return Ok(());
        }
        if !json && !full_screen {
            show::line("");
        }
        tokio::time::sleep(arguments.every.unwrap_or(EVERY)).await;
    }
}

/// Shows one look.
fn show(answer: &Value, json: bool, full_screen: bool) -> Result<(), Failure> {
    if json {
        super::json_line(answer);
        return Ok(());
    }
    let answer = Answer::deserialize(answer).map_err(anyhow::Error::from)?;
    let lines = page(&answer);
    if full_screen {
        show::data(&screen(&lines, size()));
    } else {
        lines.iter().for_each(|line| show::line(line));
    }
    Ok(())
}

/// The terminal's columns and rows.
fn size() -> (usize, usize) {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 1);
    size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)))
}

/// The lines over what was there before, cut where the terminal ends.
fn screen(lines: &[String], (columns, rows): (usize, usize)) -> Vec<u8> {
    // To the corner; each line to its end; and what is below.
    let mut text = String::from("\x1b[H");
    let room = rows - 1;
    let more = lines.len().saturating_sub(room);
    let shown = if more > 0 { room.saturating_sub(1) } else { lines.len() };
    for line in lines.iter().take(shown) {
        text.push_str(&format!("{}\x1b[K\r\n", show::cut(line, columns)));
    }
    if more > 0 {
        let hidden = format!("… and {} lines more; `minato top --once` shows all", lines.len() - shown);
        text.push_str(&format!("{}\x1b[K\r\n", show::cut(&hidden, columns)));
    }
    text.push_str("\x1b[J");
    text.into_bytes()
}

/// A page for people.
fn page(answer: &Answer) -> Vec<String> {
    answer.nodes.iter().flat_map(node).collect()
}

fn node(top: &Top) -> Vec<String> {
    let machine = &top.machine;
    let [one, five, fifteen] = machine.load;
    let mut lines = vec![format!(
        "node {}  {}  {} cores, load {one:.2} {five:.2} {fifteen:.2}, memory {} of {} free",
        top.node,
        top.at,
        machine.cores,
        bytes(machine.memory_available),
        bytes(machine.memory)
    )];
    for (name, process) in [("server", Some(&top.server)), ("keeper", top.keeper.as_ref())] {
        lines.push(process.map_or_else(
            || format!("{name}   none"),
            |process| {
                format!(
                    "{name}   pid {}, memory {} (PSS), cpu {}, {} descriptors",
                    process.pid,
                    bytes(process.pss),
                    share(process.cpu),
                    process.descriptors
                )
            },
        ));
    }
    lines.extend(pool(top));
    lines.extend(starts(top));
    lines.push(String::new());
    lines.extend(show::laid_out(&SERVICE, &services(&top.services)));
    lines.push(format!("services at rest: {}", top.at_rest));
    if !top.instances.is_empty() {
        lines.push(String::new());
        lines.extend(show::laid_out(&INSTANCE, &instances(&top.instances)));
    }
    lines
}

fn pool(top: &Top) -> [String; 2] {
    let (pool, kernel) = (&top.pool, &top.pool.kernel);
    let preparation = pool.preparation_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
    [
        format!(
            "pool     {} of {} ready; {} taken and {} missed in a minute ({} and {} in all); made in {preparation}",
            pool.ready, pool.target, pool.taken_lately, pool.missed_lately, pool.taken, pool.missed
        ),
        format!(
            "         {} each, {} in all; {} processes, {} namespaces, {} links, {} control groups, {} mounts, {} descriptors",
            bytes(pool.memory_each),
            bytes(pool.memory),
            kernel.processes,
            kernel.namespaces,
            kernel.links,
            kernel.cgroup_directories,
            kernel.mounts,
            kernel.descriptors
        ),
    ]
}

fn starts(top: &Top) -> Vec<String> {
    let starts = &top.starts;
    let mut lines = vec![format!(
        "starts   {} in a minute ({:.2}/s), {} from the pool; {} of {} slots taken, {} waiting; {} requests held",
        starts.ready, starts.rate, starts.pooled, starts.slots_taken, starts.slots, starts.waiting, top.held
    )];
    if !starts.phases.is_empty() {
        let phase = |phase: &minato_model::top::PhaseTop| {
            format!("{} {:.2}/{:.2}", phase.phase, phase.p50_ms, phase.p99_ms)
        };
        let phases: Vec<_> = starts.phases.iter().map(phase).collect();
        lines.push(format!("         p50/p99 in ms: {}", phases.join(", ")));
    }
    lines
}

const SERVICE: [&str; 14] = [
    "SERVICE",
    "RUNNING",
    "READY",
    "TRIPPED",
    "HELD",
    "REQ/S",
    "5XX",
    "P50",
    "P99",
    "RETRY/S",
    "IN FLIGHT",
    "STREAMS",
    "CPU",
    "MEMORY",
];
const INSTANCE: [&str; 11] = [
    "INSTANCE",
    "SERVICE",
    "STATE",
    "AGE",
    "CPU",
    "MEMORY",
    "PIDS",
    "REQ/S",
    "IN FLIGHT",
    "STREAMS",
    "ERRORS",
];

fn services(services: &[ServiceTop]) -> Vec<Vec<String>> {
    let mut services: Vec<_> = services.iter().collect();
    services.sort_by(|one, other| busiest(&one.used, &other.used));
    let row = |service: &ServiceTop| {
        let used = &service.used;
        let rate = |rate: Option<f64>| rate.map_or_else(none, |rate| format!("{rate:.1}"));
        vec![
            format!("{}/{}", service.app, service.service),
            service.instances.to_string(),
            service.ready.to_string(),
            service.tripped.to_string(),
            service.held.to_string(),
            rate(service.ended.or(used.rate)),
            share(service.error_share),
            time(service.p50_ms),
            time(service.p99_ms),
            rate(service.retries),
            used.in_flight.to_string(),
            used.streams.to_string(),
            share(used.cpu),
            used.memory.map_or_else(none, bytes),
        ]
    };
    services.into_iter().map(row).collect()
}

fn instances(instances: &[InstanceTop]) -> Vec<Vec<String>> {
    let mut instances: Vec<_> = instances.iter().collect();
    instances.sort_by(|one, other| busiest(&one.used, &other.used));
    let row = |instance: &InstanceTop| {
        let used = &instance.used;
        let of = |now: Option<String>, max: String| now.map_or_else(none, |now| format!("{now}/{max}"));
        let mut row = vec![
            instance.id.to_string(),
            format!("{}/{}@{}", instance.app, instance.service, instance.release),
            words::state(instance.state),
            age(instance.age_ms),
            share(used.cpu),
            of(used.memory.map(bytes), bytes(instance.memory_max)),
            of(used.pids.map(|pids| pids.to_string()), instance.pids_max.to_string()),
        ];
        row.extend(carried(used));
        row
    };
    instances.into_iter().map(row).collect()
}

fn carried(used: &Used) -> [String; 4] {
    [
        used.rate.map_or_else(none, |rate| format!("{rate:.1}")),
        used.in_flight.to_string(),
        used.streams.to_string(),
        used.errors.to_string(),
    ]
}

/// Who uses most of the processors comes first, then who is asked most.
fn busiest(one: &Used, other: &Used) -> std::cmp::Ordering {
    let cpu = other.cpu.unwrap_or(0.0).total_cmp(&one.cpu.unwrap_or(0.0));
    cpu.then(other.rate.unwrap_or(0.0).total_cmp(&one.rate.unwrap_or(0.0)))
}

fn none() -> String {
    "-".to_owned()
}

/// A share of one core.
fn share(cores: Option<f64>) -> String {
    cores.map_or_else(none, |cores| format!("{:.1}%", cores * 100.0))
}

/// A time of milliseconds to three digits.
fn time(millis: Option<f64>) -> String {
    millis.map_or_else(none, |millis| match millis {
        10_000.0.. => format!("{:.1}s", millis / 1e3),
        100.0.. => format!("{millis:.0}ms"),
        _ => format!("{millis:.2}ms"),
    })
}

/// A size to three digits.
#[expect(clippy::cast_precision_loss, reason = "shown to three digits")]
fn bytes(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1}{name}", bytes as f64 / unit as f64),
        None => format!("{bytes}B"),
    }
}

/// An age in its two largest units.
fn age(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_ages_and_shares_are_short() {
        let said = [0, 1_023, 2_048, 3 << 20, 5_368_709_120].map(bytes);
        assert_eq!(said, ["0B", "1023B", "2.0KiB", "3.0MiB", "5.0GiB"]);
        assert_eq!([900, 61_000, 7_260_000, 90_000_000].map(age), ["0s", "1m01s", "2h01m", "1d01h"]);
        let times = [None, Some(0.5), Some(250.4), Some(12_345.0)].map(time);
        assert_eq!(times, ["-", "0.50ms", "250ms", "12.3s"]);
        assert_eq!((share(None), share(Some(1.25))), ("-".to_owned(), "125.0%".to_owned()));
    }

    #[test]
    fn the_time_between_looks_is_bounded() {
        assert_eq!(every("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["0s", "100ms", "2h", "2", "often"] {
            assert!(every(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_watches_goes_on_looking_and_who_reads_gets_as_many_looks_as_asked_for() {
        let arguments = |number, every, once| Arguments { app: None, once, number, every };
        let (second, none) = (Some(EVERY), None);
        assert_eq!(arguments(none, None, false).looks(false, true), None);
        assert_eq!(arguments(none, None, false).looks(false, false), Some(1));
        assert_eq!(arguments(none, second, false).looks(false, false), None);
        assert_eq!(arguments(none, None, false).looks(true, true), Some(1));
        assert_eq!(arguments(none, None, true).looks(false, true), Some(1));
        assert_eq!(arguments(Some(3), None, false).looks(true, true), Some(3));
    }

    #[test]
    fn a_screen_holds_what_fits() {
        let lines: Vec<String> = (0..5).map(|n| format!("line {n} that is long")).collect();
        let text = String::from_utf8(screen(&lines, (8, 4))).unwrap();
        assert_eq!(text, "\x1b[Hline 0 t\x1b[K\r\nline 1 t\x1b[K\r\n… and 3 \x1b[K\r\n\x1b[J");
        let text = String::from_utf8(screen(&lines, (80, 24))).unwrap();
        assert_eq!(text.matches("\r\n").count(), 5);
    }
}

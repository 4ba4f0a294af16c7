//! What renewals and repairs have cost: each is an event with its gap, the start of the new instance
//! and the errors.

use std::collections::BTreeMap;

use minato_model::{event::Event, ids::InstanceId};
use serde_json::Value;

/// The kinds of these events, and what several of them are called.
const KINDS: [(&str, &str); 2] = [("rehearsal", "rehearsals"), ("instance_replaced", "repairs")];

/// The events of a service in a few lines: how many for which reasons, and what they cost.
pub(super) fn summary<'a>(events: impl Iterator<Item = &'a Event> + Clone) -> Vec<String> {
    let summed = |(kind, name): (&str, &str)| {
        let those: Vec<&Event> = events.clone().filter(|event| event.kind == kind).collect();
        let last = those.last()?;
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for event in &those {
            *reasons.entry(text(event, "why").unwrap_or("unknown")).or_default() += 1;
        }
        let reasons: Vec<_> = reasons.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
        let open = those.iter().filter(|event| number(event, "gap_ms").is_none()).count();
        let open = if open > 0 { format!(", {open} with nobody ready after it") } else { String::new() };
        let errors: u64 = those.iter().filter_map(|event| event.data.get("errors")?.as_u64()).sum();
        Some([
            format!("  {name} lately: {} ({})", those.len(), reasons.join(", ")),
            format!(
                "    without an instance {}{open}; the new one ready after {}; {errors} errors",
                spread(&those, "gap_ms"),
                spread(&those, "start_ms")
            ),
            format!("    the last one at {}: {}{}", last.at, last.reason, cost(last)),
        ])
    };
    KINDS.into_iter().filter_map(summed).flatten().collect()
}

/// What happened to an instance, and whose place it took.
pub(super) fn of_instance<'a>(events: impl Iterator<Item = &'a Event>, id: &InstanceId) -> Vec<String> {
    let told = |event: &Event| {
        if !KINDS.iter().any(|(kind, _)| event.kind == *kind) {
            return None;
        }
        if event.instance.as_ref() == Some(id) {
            return Some(format!("  it was given up at {}: {}{}", event.at, event.reason, cost(event)));
        }
        let old = event.instance.as_ref().filter(|_| text(event, "replacement") == Some(id.as_str()))?;
        Some(format!("  it took the place of {old}, of which is said: {}", event.reason))
    };
    events.filter_map(told).collect()
}

/// What one cost; nothing for other events.
pub(super) fn cost(event: &Event) -> String {
    if !KINDS.iter().any(|(kind, _)| event.kind == *kind) {
        return String::new();
    }
    let milliseconds =
        |name: &str| number(event, name).map_or_else(|| "unknown".to_owned(), |ms| format!("{ms:.1} ms"));
    let errors = event.data.get("errors").and_then(Value::as_u64).unwrap_or(0);
    format!(" (gap {}, start {}, {errors} errors)", milliseconds("gap_ms"), milliseconds("start_ms"))
}

/// The median and the greatest of a figure.
fn spread(events: &[&Event], name: &str) -> String {
    let mut all: Vec<f64> = events.iter().filter_map(|event| number(event, name)).collect();
    all.sort_by(f64::total_cmp);
    match (all.get(all.len().saturating_sub(1) / 2), all.last()) {
        (Some(median), Some(most)) => format!("p50 {median:.1} ms, at most {most:.1} ms"),
        _ => "unknown".to_owned(),
    }
}

fn number(event: &Event, name: &str) -> Option<f64> {
    event.data.get(name)?.as_f64()
}

fn text<'a>(event: &'a Event, name: &str) -> Option<&'a str> {
    event.data.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use minato_model::time::Moment;
    use serde_json::json;

    use super::*;

    fn event(kind: &str, instance: &str, data: Value) -> Event {
        let event = Event::new(Moment(0), kind, "it has reached its age and is renewed");
        event.with_instance(&instance.parse().unwrap()).with_data(data)
    }

    #[test]
    fn what_renewals_cost_is_summed_up() {
        let events = [
            event("instance_ready", "a", json!({ "gap_ms": 9 })),
            event("rehearsal", "a", json!({ "why": "age", "gap_ms": 0.0, "start_ms": 4.0, "errors": 0 })),
            event(
                "rehearsal",
                "b",
                json!({ "why": "requests", "gap_ms": 3.0, "start_ms": 6.0, "errors": 2 }),
            ),
            event("rehearsal", "c", json!({ "why": "age", "gap_ms": 0.0, "start_ms": null, "errors": 0 })),
            event("instance_replaced", "d", json!({ "why": "stuck", "replacement": "e", "gap_ms": null })),
        ];
        assert_eq!(
            summary(events.iter()),
            [
                "  rehearsals lately: 3 (age 2, requests 1)",
                "    without an instance p50 0.0 ms, at most 3.0 ms; the new one ready after p50 4.0 ms, at most 6.0 ms; 2 errors",
                "    the last one at 1970-01-01T00:00:00.000Z: it has reached its age and is renewed (gap 0.0 ms, start unknown, 0 errors)",
                "  repairs lately: 1 (stuck 1)",
                "    without an instance unknown, 1 with nobody ready after it; the new one ready after unknown; 0 errors",
                "    the last one at 1970-01-01T00:00:00.000Z: it has reached its age and is renewed (gap unknown, start unknown, 0 errors)",
            ]
        );
        assert_eq!(summary([].iter()), [""; 0]);
        let of = |id: &str| of_instance(events.iter(), &id.parse().unwrap()).join("\n");
        assert!(of("b").contains("given up at") && of("b").contains("2 errors"), "{}", of("b"));
        assert!(of("e").contains("took the place of d"), "{}", of("e"));
        assert_eq!(of("f"), "");
    }
}

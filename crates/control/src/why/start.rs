//! The start of an instance, phase by phase, whatever asked for it.

use minato_model::{event::Event, inventory::Identity, node::Life};

/// The phases as events name them.
const PHASES: [&str; 4] = ["taken", "mounted", "executed", "listening"];

/// A start in lines.
pub(super) fn lines(life: &Life) -> Vec<String> {
    let asked = because(&life.asked_by).map_or_else(String::new, |because| format!(": {because}"));
    let mut lines =
        vec![format!("  started at {}, asked by {}{asked}", life.instance.started_at, life.asked_by)];
    lines.extend(life.instance.identity.as_ref().map(|identity| {
        let Identity { serial, not_after } = identity;
        format!("  its certificate {serial} is valid until {not_after}; it is replaced before")
    }));
    lines.extend(life.slot_ms.map(|waited| format!("  waited {waited:.2} ms for a slot among other starts")));
    lines.extend(life.pooled.map(|pooled| {
        let how = if pooled { "taken from the pool" } else { "made for it: the pool had none" };
        format!("  its sandbox was {how}")
    }));
    let phases = life.phases;
    let mut before = 0.0;
    for (name, at) in
        PHASES.into_iter().zip([phases.taken, phases.mounted, phases.executed, phases.listening])
    {
        let Some(at) = at else {
            lines.push(format!("  {name:<10} not reached"));
            break;
        };
        lines.push(format!("  {name:<10} {at:>9.2} ms  (+{:.2})", at - before));
        before = at;
    }
    lines
}

/// What it means that something asked for a start.
fn because(asked_by: &str) -> Option<&'static str> {
    Some(match asked_by {
        "request" => "requests needed more instances than there were",
        "minimum" => "the service is never to have fewer than its `scale.min`",
        "rollout" => "a new release is started before requests go to it",
        "replacement" => "an instance ended or had to go, and this one takes its place",
        "recycle" => "an instance is renewed, and this one takes its place first",
        _ => return None,
    })
}

/// The figures of the start that an event tells of, where it tells of one.
pub(super) fn figures(event: &Event) -> String {
    let Some(phases) = event.data.get("phases") else { return String::new() };
    let reached = |name: &&str| Some(format!("{name} {:.1}", phases.get(name)?.as_f64()?));
    let slot = event.data.get("slot_ms").and_then(serde_json::Value::as_f64);
    let slot = slot.map(|slot| format!("slot {slot:.1}"));
    let reached: Vec<_> = slot.into_iter().chain(PHASES.iter().filter_map(reached)).collect();
    let how = match event.data.get("pooled").and_then(serde_json::Value::as_bool) {
        Some(true) => ", from the pool",
        Some(false) => ", without the pool",
        None => "",
    };
    let asked_by = event.data.get("asked_by").and_then(serde_json::Value::as_str);
    let asked_by = asked_by.map_or_else(String::new, |asked_by| format!(", asked by {asked_by}"));
    if reached.is_empty() { String::new() } else { format!(" ({} ms{how}{asked_by})", reached.join(", ")) }
}

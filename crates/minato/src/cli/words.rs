//! What several commands take: names of services, states for people.

use minato_model::{ids::ServiceKey, inventory::InstanceState};

use crate::show::{self, Tone};

/// An instance's state, in its tone.
pub(super) fn state(state: InstanceState) -> String {
    let (word, tone) = match state {
        InstanceState::Preparing => ("preparing", Tone::Plain),
        InstanceState::Starting => ("starting", Tone::Plain),
        InstanceState::Ready => ("ready", Tone::Good),
        InstanceState::Draining => ("draining", Tone::Warning),
        InstanceState::Stopped => ("stopped", Tone::Plain),
        InstanceState::Failed => ("failed", Tone::Bad),
        InstanceState::BackingOff => ("backing off", Tone::Bad),
    };
    show::toned(word, tone)
}

/// Reads `app/service`.
pub(super) fn service(text: &str) -> Result<ServiceKey, String> {
    text.parse().map_err(|_| format!("`{text}` is no service; write it as app/service"))
}

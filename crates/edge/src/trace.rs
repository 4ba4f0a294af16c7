//! The trace that a request belongs to (W3C Trace Context, level 1).
//!
//! The edge records no spans of its own, so it is no hop of a trace: what a client brings passes
//! unchanged. Where there is nothing valid it begins a trace, so that what the services record of a request
//! belongs together, and is found by the id in the access log. Its flags say "sampled": most
//! tracing libraries do as their caller does, and with the flag unset would record nothing at all of what
//! comes through the edge; who wants less says so in front of it, or in the services' own samplers.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::digits::hex;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// A later version may have more behind it, but not without end.
const LENGTH_MAX: usize = 256;
/// What of `tracestate` passes at least, by the standard; more doesn't.
const STATE_MAX: usize = 512;

/// A request's trace.
#[derive(Debug)]
pub(crate) struct Trace<'a> {
    parent: Parent<'a>,
    /// Where `tracestate` is, if it passes.
    states: Option<&'a HeaderMap>,
}

#[derive(Debug)]
enum Parent<'a> {
    Brought(&'a [u8]),
    Begun([u8; LENGTH]),
}

impl<'a> Trace<'a> {
    /// The trace that the request's headers name, or a new one; `draw` gives numbers that nobody else is given.
    pub(crate) fn of(headers: &'a HeaderMap, draw: impl FnMut() -> u64) -> Self {
        match brought(headers) {
            Some(parent) => Self { parent: Parent::Brought(parent), states: state_passes(headers) },
            None => Self { parent: Parent::Begun(begin(draw)), states: None },
        }
    }

    /// The `traceparent` that the instance gets.
    pub(crate) fn parent(&self) -> &[u8] {
        match &self.parent {
            Parent::Brought(parent) => parent,
            Parent::Begun(parent) => parent,
        }
    }

    /// The lines of `tracestate` that the instance gets.
    pub(crate) fn states(&self) -> impl Iterator<Item = &'a HeaderValue> {
        self.states.into_iter().flat_map(|headers| headers.get_all(&TRACESTATE))
    }

    /// The trace's id, in hexadecimal digits.
    pub(crate) fn id(&self) -> [u8; 32] {
        let id = self.parent().get(3..35).and_then(|id| id.try_into().ok());
        id.unwrap_or([b'0'; 32])
    }
}

/// The one valid `traceparent` of the headers.
fn brought(headers: &HeaderMap) -> Option<&[u8]> {
    let mut lines = headers.get_all(&TRACEPARENT).iter();
    let parent = lines.next()?.as_bytes();
    (lines.next().is_none() && is_valid(parent)).then_some(parent)
}

/// Whether it is `version "-" trace-id "-" parent-id "-" flags`.
fn is_valid(parent: &[u8]) -> bool {
    let Some((known, more)) = parent.split_at_checked(LENGTH) else { return false };
    let part = |from: usize, to: usize| known.get(from..to).unwrap_or_default();
    let (version, id, span) = (part(0, 2), part(3, 35), part(36, 52));
    let hexadecimal = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let something = |text: &[u8]| text.iter().any(|byte| *byte != b'0');
    let ends = if version == b"00" { more.is_empty() } else { more.is_empty() || more.starts_with(b"-") };
    let dashes = [2, 35, 52].into_iter().all(|at| known.get(at) == Some(&b'-'));
    dashes
        && ends
        && parent.len() <= LENGTH_MAX
        && version != b"ff"
        && [version, id, span, part(53, 55)].into_iter().all(hexadecimal)
        && something(id)
        && something(span)
}

/// `tracestate` passes whole or not at all: half of it may be wrong.
fn state_passes(headers: &HeaderMap) -> Option<&HeaderMap> {
    let mut length = 0;
    for line in headers.get_all(&TRACESTATE) {
        length += line.to_str().ok()?.len() + 1;
    }
    (length <= STATE_MAX + 1).then_some(headers)
}

fn begin(mut draw: impl FnMut() -> u64) -> [u8; LENGTH] {
    let mut parent = *b"00-00000000000000000000000000000000-0000000000000000-01";
    // Zero would be no id.
    let numbers = [draw(), draw().max(1), draw().max(1)];
    for (at, number) in [3, 19, 36].into_iter().zip(numbers) {
        if let Some(part) = parent.get_mut(at..at + 16) {
            part.copy_from_slice(&hex(number));
        }
    }
    parent
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// The parent that the instance gets, and how many lines of state.
    fn check(fields: &[(&'static str, &str)]) -> (String, usize) {
        let headers = headers(fields);
        let mut last = 0;
        let trace = Trace::of(&headers, || {
            last += 0xabc;
            last
        });
        let parent = String::from_utf8(trace.parent().to_vec()).unwrap();
        assert_eq!(parent.as_bytes()[3..35], trace.id());
        (parent, trace.states().count())
    }

    #[test]
    fn what_is_valid_passes_unchanged() {
        let later = format!("{}-more.of-it", VALID.replacen("00", "cc", 1));
        for parent in [VALID, &VALID.replacen("00", "01", 1), &later] {
            let state = [("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")];
            assert_eq!(check(&state), (parent.to_owned(), 2), "{parent}");
        }
    }

    #[test]
    fn what_is_not_valid_is_replaced_and_its_state_dropped() {
        let new = "00-0000000000000abc0000000000001578-0000000000002034-01".to_owned();
        assert_eq!(check(&[]), (new.clone(), 0));
        for parent in [
            "",
            "00",
            &VALID.replacen("00", "ff", 1),
            &VALID.replacen("00", "0g", 1),
            &VALID.replace('a', "A"),
            &VALID.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &VALID.replace("b7ad6b7169203331", &"0".repeat(16)),
            &VALID.replace('-', "_"),
            &format!("{VALID}-00"),
            &format!("{VALID}0"),
            &format!("{}0", VALID.replacen("00", "01", 1)),
            &format!("{}-{}", VALID.replacen("00", "01", 1), "x".repeat(300)),
            VALID.get(1..).unwrap(),
        ] {
            let fields = [("traceparent", parent), ("tracestate", "a=1")];
            assert_eq!(check(&fields), (new.clone(), 0), "{parent}");
        }
        assert_eq!(check(&[("traceparent", VALID), ("traceparent", VALID)]), (new.clone(), 0));
        assert_eq!(check(&[("tracestate", "a=1")]), (new, 0));
    }

    #[test]
    fn a_long_state_is_dropped_and_the_parent_passes() {
        let state = |length: usize| {
            let text = format!("a={}", "x".repeat(length - 2));
            check(&[("traceparent", VALID), ("tracestate", &text)])
        };
        assert_eq!(state(512), (VALID.to_owned(), 1));
        assert_eq!(state(513), (VALID.to_owned(), 0));
        let many: Vec<_> = (0..200).map(|_| ("tracestate", "a=1")).chain([("traceparent", VALID)]).collect();
        assert_eq!(check(&many), (VALID.to_owned(), 0));
    }

    #[test]
    fn a_new_trace_is_never_zero() {
        let headers = HeaderMap::new();
        assert!(is_valid(Trace::of(&headers, || 0).parent()));
        assert!(is_valid(Trace::of(&headers, || u64::MAX).parent()));
    }
}

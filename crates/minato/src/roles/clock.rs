//! The one place where the time of day is read.

use minato_model::time::Moment;

/// Now.
#[expect(clippy::disallowed_methods, reason = "every other part takes its clock from here")]
pub(super) fn now() -> Moment {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Moment(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

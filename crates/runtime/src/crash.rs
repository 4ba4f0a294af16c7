//! Places where a test has the process killed, as a power cut would: named points of the start, the
//! drain, the adoption and the keeper. Compiled to nothing in releases.
//!
//! `MINATO_CRASH_AT=start.taken` kills the server when it comes there the first time,
//! `MINATO_CRASH_AT=start.taken:3` the third. Points of the keeper begin with `keeper.` and obey
//! `MINATO_KEEPER_CRASH_AT`, which the server hands on with its environment.

/// The process is here. It goes no further if the environment says so.
#[inline]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    armed::reached(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    /// How a point's name begins that is the keeper's.
    const KEEPER: &str = "keeper.";

    /// Where this process ends, and how often it must have come there.
    #[derive(Debug, PartialEq, Eq)]
    struct End {
        name: String,
        time: u32,
    }

    pub(super) fn reached(name: &str) {
        static SERVER: OnceLock<Option<End>> = OnceLock::new();
        static OF_KEEPER: OnceLock<Option<End>> = OnceLock::new();
        // One point only is counted in a process: the one that it ends at.
        static REACHED: AtomicU32 = AtomicU32::new(0);
        let end = if name.starts_with(KEEPER) {
            OF_KEEPER.get_or_init(|| from("MINATO_KEEPER_CRASH_AT"))
        } else {
            SERVER.get_or_init(|| from("MINATO_CRASH_AT"))
        };
        let Some(end) = end.as_ref().filter(|end| end.name == name) else { return };
        if REACHED.fetch_add(1, Ordering::Relaxed) + 1 == end.time {
            crate::sys::kill(std::process::id().cast_signed(), libc::SIGKILL);
        }
    }

    fn from(variable: &str) -> Option<End> {
        parse(&std::env::var(variable).ok()?)
    }

    fn parse(text: &str) -> Option<End> {
        let (name, time) = text.split_once(':').unwrap_or((text, "1"));
        Some(End { name: name.to_owned(), time: time.parse().ok()? })
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_point_is_named_with_or_without_its_time() {
            let end = |name: &str, time| Some(End { name: name.to_owned(), time });
            assert_eq!(parse("start.taken"), end("start.taken", 1));
            assert_eq!(parse("start.taken:3"), end("start.taken", 3));
            assert_eq!(parse("start.taken:x"), None);
        }
    }
}

//! What is attempted, what stops it, and the list of what came of it.

use std::fmt;

use minato_runtime::protection::Protection;

/// Something that can be left out for one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Off {
    /// A part of the sandbox.
    Part(Protection),
    /// A rule of the node's filter, by its comment.
    Rule(&'static str),
    /// The route that ends what goes to addresses without an instance.
    UnreachableRoute,
    /// The check that an answer would go back the same way.
    ReversePathFilter,
    /// That links have no link-local address.
    NoLinkLocalAddress,
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part(part) => write!(f, "{part:?}"),
            Self::Rule(rule) => write!(f, "rule `{rule}`"),
            Self::UnreachableRoute | Self::ReversePathFilter | Self::NoLinkLocalAddress => {
                write!(f, "{self:?}")
            }
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Error(i32),
    Said(String),
}

impl Outcome {
    /// From the program's output.
    pub(crate) fn read(log: &str) -> Self {
        let Some(line) = log.lines().find_map(|line| line.strip_prefix("outcome ")) else {
            return Self::Said(format!("nothing: {log}"));
        };
        match line.split_once(' ') {
            None => Self::Done,
            Some(("errno", number)) => Self::Error(number.parse().unwrap()),
            Some((_, words)) => Self::Said(words.to_owned()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (libc::EPERM, "EPERM"),
            (libc::ENOENT, "ENOENT"),
            (libc::EIO, "EIO"),
            (libc::EPROTOTYPE, "EPROTOTYPE"),
            (libc::ESRCH, "ESRCH"),
            (libc::ENXIO, "ENXIO"),
            (libc::ENOEXEC, "ENOEXEC"),
            (libc::EBADF, "EBADF"),
            (libc::EACCES, "EACCES"),
            (libc::EFAULT, "EFAULT"),
            (libc::ENODEV, "ENODEV"),
            (libc::EINVAL, "EINVAL"),
            (libc::EROFS, "EROFS"),
            (libc::ENOSYS, "ENOSYS"),
            (libc::ENOKEY, "ENOKEY"),
            (libc::EAFNOSUPPORT, "EAFNOSUPPORT"),
            (libc::ECONNREFUSED, "ECONNREFUSED"),
            (libc::EHOSTUNREACH, "EHOSTUNREACH"),
            (libc::ENETUNREACH, "ENETUNREACH"),
            (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        ];
        match self {
            Self::Done => f.write_str("done"),
            Self::Said(words) => f.write_str(words),
            Self::Error(number) => match names.iter().find(|(known, _)| known == number) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "error {number}"),
            },
        }
    }
}

/// An attempt.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// In words.
    pub(crate) what: String,
    /// What the program is told.
    pub(crate) words: Vec<String>,
    /// What must be off for it to succeed.
    pub(crate) off: Vec<Off>,
    /// Those of them that are enough by themselves.
    pub(crate) alone: Vec<Off>,
    /// Errors that tell that the kernel agreed, and found only then that nothing sensible was asked.
    pub(crate) passed: &'static [i32],
    /// Outcomes of the control run that tell that this machine has no such thing.
    pub(crate) lacking: &'static [i32],
    /// Whose datagram must arrive.
    pub(crate) from: Option<std::net::Ipv4Addr>,
    pub(crate) uid: u32,
}

impl Attempt {
    /// Each of `off` is enough by itself to stop it.
    pub(crate) fn new<W: Into<String>>(what: &str, words: impl IntoIterator<Item = W>, off: &[Off]) -> Self {
        Self {
            what: what.to_owned(),
            words: words.into_iter().map(Into::into).collect(),
            off: off.to_vec(),
            alone: off.to_vec(),
            passed: &[],
            lacking: &[],
            from: None,
            uid: 0,
        }
    }

    /// Only these of what stops it are enough by themselves, whatever the host's settings are.
    pub(crate) fn alone(mut self, alone: &[Off]) -> Self {
        self.alone = alone.to_vec();
        self
    }

    /// It is as good as done if the kernel says this: it was let pass, and asked for nothing that is.
    pub(crate) fn passed(mut self, errors: &'static [i32]) -> Self {
        self.passed = errors;
        self
    }

    /// The control run says this where the kernel was built without it, or the host has turned it off.
    pub(crate) fn lacking(mut self, errors: &'static [i32]) -> Self {
        self.lacking = errors;
        self
    }

    pub(crate) fn by_user(mut self, uid: u32) -> Self {
        self.uid = uid;
        self
    }

    /// It succeeds when its datagram arrives, with this source.
    pub(crate) fn heard_from(mut self, source: std::net::Ipv4Addr) -> Self {
        self.from = Some(source);
        self
    }

    pub(crate) fn succeeds(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Done => true,
            Outcome::Error(number) => self.passed.contains(number),
            Outcome::Said(_) => false,
        }
    }

    pub(crate) fn lacks(&self, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Error(number) => self.lacking.contains(number),
            // Killed by the call itself: this kernel has no such architecture.
            Outcome::Said(words) => words.starts_with("signal ") && !self.lacking.is_empty(),
            Outcome::Done => false,
        }
    }
}

/// A line of the list.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) attempt: Attempt,
    pub(crate) control: Outcome,
    pub(crate) result: Outcome,
    pub(crate) alone: Vec<(Off, Outcome)>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let off: Vec<String> = self.attempt.off.iter().map(Off::to_string).collect();
        let control = if self.control == Outcome::Done {
            "done".to_owned()
        } else if self.attempt.succeeds(&self.control) {
            format!("let pass ({})", self.control)
        } else {
            format!("this machine has none ({})", self.control)
        };
        let alone: Vec<String> =
            self.alone.iter().map(|(off, outcome)| format!("{off}: {outcome}")).collect();
        let alone = if alone.len() > 1 { alone.join(", ") } else { "-".to_owned() };
        write!(f, "| {} | {} | {control} | {} | {alone} |", self.attempt.what, off.join(" + "), self.result)
    }
}

/// The list as a table.
#[expect(clippy::print_stdout, reason = "the list is what the test is for")]
pub(crate) fn print(title: &str, rows: &[Row]) {
    println!("\n{title}\n");
    println!("| attempt | off in the control run | control run | everything on | one of them on alone |");
    println!("|---|---|---|---|---|");
    rows.iter().for_each(|row| println!("{row}"));
}

//! How a command fails: what is said, and the exit status that scripts rely on.

use std::{fmt::Write as _, process::ExitCode};

use minato_model::code::{Code, Problem};

use crate::show;

/// Why a command didn't do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// 1: it was tried and failed.
    Failed(anyhow::Error),
    /// 1, or 4 where the release is refused: the API said no.
    Refused(Box<Problem>),
    /// 2: nothing was sent.
    Usage(String),
    /// 2: a command or flag of the design that this version doesn't have; nothing was sent.
    NotSupported(String),
    /// 2: the manifest is invalid; nothing was sent. With the files' texts, to show the lines.
    Manifest(Vec<Problem>, Vec<(String, String)>),
    /// 1, or 4 where the release is refused: the API said no to manifests. With the files' texts.
    RefusedManifest(Box<Problem>, Vec<(String, String)>),
    /// 3: `plan --check` found changes.
    Changes,
    /// 5: the API can't be reached.
    Unreachable(String),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl Failure {
    /// A refusal, with the files that were sent, to show the line.
    pub(crate) fn about(self, sources: Vec<(String, String)>) -> Self {
        if let Self::Refused(problem) = self { Self::RefusedManifest(problem, sources) } else { self }
    }

    fn status(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Refused(problem) | Self::RefusedManifest(problem, _)
                if problem.code == Code::ReleaseRefused =>
            {
                4
            }
            Self::Refused(_) | Self::RefusedManifest(..) => 1,
            Self::Usage(_) | Self::NotSupported(_) | Self::Manifest(..) => 2,
            Self::Changes => 3,
            Self::Unreachable(_) => 5,
        }
    }

    /// The problems, in the API's words.
    fn problems(&self) -> Vec<Problem> {
        match self {
            Self::Failed(error) => vec![Problem::new(Code::Internal, format!("{error:#}"))],
            Self::Refused(problem) | Self::RefusedManifest(problem, _) => vec![(**problem).clone()],
            Self::Usage(message) => vec![Problem::new(Code::InvalidRequest, message.as_str())],
            Self::NotSupported(what) => {
                vec![Problem::new(Code::NotSupported, format!("`{what}` is not supported yet"))]
            }
            Self::Manifest(problems, _) => problems.clone(),
            Self::Changes => Vec::new(),
            Self::Unreachable(message) => vec![Problem::new(Code::Unreachable, message.as_str())],
        }
    }

    /// Says what went wrong, and gives the exit status. JSON goes to stdout, as all data; text for
    /// people to stderr.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        let problems = self.problems();
        if json {
            if let Some(first) = problems.first() {
                show::line(&serde_json::json!({ "error": first }).to_string());
            }
        } else {
            let sources = if let Self::Manifest(_, sources) | Self::RefusedManifest(_, sources) = &self {
                sources.as_slice()
            } else {
                &[]
            };
            for problem in &problems {
                show::error(&text(problem, sources));
            }
        }
        ExitCode::from(self.status())
    }
}

/// A problem with the line that it is about, where there is one.
fn text(problem: &Problem, sources: &[(String, String)]) -> String {
    let mut text = format!("error: {}", problem.message);
    if let (Some(file), Some(line)) = (&problem.file, problem.line) {
        let source = sources.iter().find(|(name, _)| name == file).map(|(_, source)| source);
        let index = usize::try_from(line).unwrap_or(1).saturating_sub(1);
        let width = line.to_string().len();
        let _infallible = write!(text, "\n  {:width$}--> {file}:{line}", "");
        if let Some(written) = source.and_then(|source| source.lines().nth(index)) {
            let written: String = written.chars().take(160).collect();
            let _infallible = write!(text, "\n  {:width$} |\n  {line} | {written}\n  {:width$} |", "", "");
        }
    } else if let Some(file) = &problem.file {
        let _infallible = write!(text, "\n  --> {file}");
    } else if let Some(key) = &problem.key {
        let _infallible = write!(text, "\n  at {key}");
    }
    if let Some(hint) = &problem.hint {
        let _infallible = write!(text, "\n  help: {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem() -> Problem {
        let mut problem =
            Problem::new(Code::UnknownKey, "`hosst` is no key").with_hint("did you mean `hosts`?");
        problem.file = Some("shop.toml".to_owned());
        problem.line = Some(2);
        problem.key = Some("services.web.hosst".to_owned());
        problem
    }

    #[test]
    fn a_problem_shows_its_line() {
        let sources = [("shop.toml".to_owned(), "app = \"shop\"\nhosst = 1\n".to_owned())];
        assert_eq!(
            text(&problem(), &sources),
            "error: `hosst` is no key\n   --> shop.toml:2\n    |\n  2 | hosst = 1\n    |\n  help: did you mean `hosts`?"
        );
    }

    #[test]
    fn a_problem_without_its_text_still_says_where() {
        let mut problem = problem();
        assert_eq!(
            text(&problem, &[]),
            "error: `hosst` is no key\n   --> shop.toml:2\n  help: did you mean `hosts`?"
        );
        problem.line = None;
        assert!(text(&problem, &[]).contains("\n  --> shop.toml\n"));
        problem.file = None;
        assert!(text(&problem, &[]).contains("\n  at services.web.hosst\n"));
    }

    #[test]
    fn every_failure_has_its_status() {
        let refused = |code| Failure::Refused(Box::new(Problem::new(code, "no")));
        for (failure, status) in [
            (Failure::Failed(anyhow::anyhow!("x")), 1),
            (refused(Code::NotFound), 1),
            (refused(Code::ReleaseRefused), 4),
            (refused(Code::ReleaseRefused).about(Vec::new()), 4),
            (refused(Code::ImageMissing).about(Vec::new()), 1),
            (Failure::Usage(String::new()), 2),
            (Failure::NotSupported(String::new()), 2),
            (Failure::Manifest(Vec::new(), Vec::new()), 2),
            (Failure::Changes, 3),
            (Failure::Unreachable(String::new()), 5),
        ] {
            assert_eq!(failure.status(), status, "{failure:?}");
        }
    }
}

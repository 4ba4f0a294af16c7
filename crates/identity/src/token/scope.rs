//! What a token allows.

use std::{fmt, str::FromStr};

use minato_model::{ids::AppName, reference::is_repository};
use serde::{Deserialize, Serialize};

/// One thing that a token allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Scope {
    /// To read everything but tokens, and to pull every image: `read`.
    Read,
    /// To plan, apply and delete this app: `deploy:shop`.
    Deploy(AppName),
    /// To push and pull here: `push:shop/web`, or `push:shop/*` for everything below `shop/`, or `push:*`.
    Push(Repositories),
    /// Everything: `admin`.
    Admin,
}

/// Which repositories are meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repositories {
    /// Every one.
    All,
    /// This one.
    One(String),
    /// Those below this one.
    Below(String),
}

/// What is no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no scope: use read, deploy:APP, push:REPOSITORY (`shop/web`, `shop/*` for all below shop/) or admin"
)]
pub struct InvalidScope {
    /// What was given, shortened to 80 characters.
    pub text: String,
}

impl Repositories {
    /// Whether a repository is among them.
    #[must_use]
    pub fn have(&self, repository: &str) -> bool {
        match self {
            Self::All => true,
            Self::One(name) => name == repository,
            Self::Below(name) => {
                repository.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/'))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        let (name, below) = text.strip_suffix("/*").map_or((text, false), |name| (name, true));
        let name = Some(name).filter(|name| is_repository(name))?.to_owned();
        Some(if below { Self::Below(name) } else { Self::One(name) })
    }
}

impl fmt::Display for Repositories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::One(name) => f.write_str(name),
            Self::Below(name) => write!(f, "{name}/*"),
        }
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;
    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let read = || match text.split_once(':') {
            None if text == "read" => Some(Self::Read),
            None if text == "admin" => Some(Self::Admin),
            Some(("deploy", app)) => app.parse().ok().map(Self::Deploy),
            Some(("push", repositories)) => Repositories::parse(repositories).map(Self::Push),
            _ => None,
        };
        read().ok_or_else(|| InvalidScope { text: text.chars().take(80).collect() })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Deploy(app) => write!(f, "deploy:{app}"),
            Self::Push(repositories) => write!(f, "push:{repositories}"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;
    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_read_as_they_are_written() {
        for text in ["read", "admin", "deploy:shop", "push:shop/web", "push:shop/*", "push:*"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "Read",
            "read ",
            "read:",
            "admin:shop",
            "deploy",
            "deploy:",
            "deploy:*",
            "deploy:Shop",
            "push",
            "push:",
            "push:/",
            "push:/*",
            "push:**",
            "push:shop*",
            "push:shop/*/*",
            "push:../*",
            "push:a//b",
            "push:Shop",
            "write",
            ":",
            "deploy:shop,blog",
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
        assert_eq!("x".repeat(500).parse::<Scope>().unwrap_err().text.len(), 80);
    }

    #[test]
    fn a_prefix_ends_where_a_part_does() {
        let have = |written, repository| Repositories::parse(written).unwrap().have(repository);
        assert!(have("*", "anything") && have("shop/web", "shop/web") && have("shop/*", "shop/web/base"));
        assert!(!have("shop/web", "shop/web2") && !have("shop/web", "shop/web/base"));
        assert!(!have("shop/*", "shop") && !have("shop/*", "shopping/web") && !have("shop/*", "shop2/web"));
    }
}

//! How requests are treated on their way to an instance: which one gets them, what becomes of those
//! that fail, and how many a client may send.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// All of it, for one service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Which instance gets a request.
    pub balance: Balance,
    /// How long a new instance is given less than its part, rising evenly; zero: it isn't.
    pub slow_start: Duration,
    /// What is tried again.
    pub retries: Retries,
    /// How many requests one client may send.
    pub rate: Option<Rate>,
    /// When an instance is passed over.
    pub breaker: Breaker,
}

/// Which instance gets a request. Written as in a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Balance {
    /// The one of two drawn at random that has fewer requests in flight.
    #[default]
    LeastRequest,
    /// The one of two drawn at random whose answers, by a moving average that peaks count in at
    /// once, times its requests in flight, promise the earlier one.
    Ewma,
    /// Each in turn.
    RoundRobin,
    /// The same for the same key, as long as it's there.
    Hash(Key),
}

/// What tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Key {
    /// The client's address.
    Address,
    /// The value of a header; its name in lower case.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

/// What is tried again, on another instance, where that does nothing twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retries {
    /// Tries after the first.
    pub attempts: u32,
    /// The share of requests that may be tries after the first, in thousandths.
    pub budget_millis: u32,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 2, budget_millis: 200 }
    }
}

/// How many requests one client may send: `limit` in a burst, and `limit` in each `every` over time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Who is one client.
    pub per: RateKey,
    /// Requests.
    pub limit: u32,
    /// In this time.
    pub every: Duration,
}

/// Whose requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum RateKey {
    /// Those of one address.
    Address,
    /// Those with one value of a header, its name in lower case; those without it by their address.
    Header(String),
    /// All of the service.
    Route,
}

/// When an instance is passed over, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// After this many failures in a row: connections that fail, time-outs, 502 to 504.
    pub failures: u32,
    /// When this share or less of at least 5 requests in 10 s went well, and more of its siblings'
    /// did; in thousandths.
    pub success_millis: u32,
    /// For how long at first; doubled each time up to 60 s, with jitter.
    pub eject: Duration,
    /// How many requests may wait for an instance; over it 503 at once.
    pub pending: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { failures: 5, success_millis: 800, eject: Duration::from_secs(1), pending: 1_024 }
    }
}

/// A word that says none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is unknown: it takes {takes}")]
pub struct Unknown {
    /// What was written.
    pub text: String,
    /// What may be.
    pub takes: &'static str,
}

const BALANCES: &str =
    "\"least-request\", \"ewma\", \"round-robin\" or \"hash:\" with header:NAME, cookie:NAME or address";
const KEYS: &str = "\"address\", \"header:NAME\" or \"cookie:NAME\"";
const RATE_KEYS: &str = "\"address\", \"header:NAME\" or \"route\"";

/// A name of a header or cookie: a token (RFC 9110, 5.6.2), of at most 64 bytes.
fn token(name: &str) -> Option<&str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    Some(name).filter(|name| (1..=64).contains(&name.len()) && name.bytes().all(plain))
}

fn header(text: &str) -> Option<String> {
    text.strip_prefix("header:").and_then(token).map(str::to_ascii_lowercase)
}

fn unknown(text: &str, takes: &'static str) -> Unknown {
    Unknown { text: text.chars().take(80).collect(), takes }
}

impl FromStr for Balance {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text {
            "least-request" => Ok(Self::LeastRequest),
            "ewma" => Ok(Self::Ewma),
            "round-robin" => Ok(Self::RoundRobin),
            _ => {
                let key = text.strip_prefix("hash:").and_then(|key| key.parse().ok());
                key.map(Self::Hash).ok_or_else(|| unknown(text, BALANCES))
            }
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LeastRequest => f.write_str("least-request"),
            Self::Ewma => f.write_str("ewma"),
            Self::RoundRobin => f.write_str("round-robin"),
            Self::Hash(key) => write!(f, "hash:{key}"),
        }
    }
}

impl FromStr for Key {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let cookie =
            || text.strip_prefix("cookie:").and_then(token).map(|name| Self::Cookie(name.to_owned()));
        let named = || header(text).map(Self::Header).or_else(cookie);
        if text == "address" { Ok(Self::Address) } else { named().ok_or_else(|| unknown(text, KEYS)) }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
        }
    }
}

impl FromStr for RateKey {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        match text {
            "address" => Ok(Self::Address),
            "route" => Ok(Self::Route),
            _ => header(text).map(Self::Header).ok_or_else(|| unknown(text, RATE_KEYS)),
        }
    }
}

impl fmt::Display for RateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address => f.write_str("address"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Route => f.write_str("route"),
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {
        $(
            impl From<$name> for String {
                fn from(value: $name) -> Self {
                    value.to_string()
                }
            }

            impl TryFrom<String> for $name {
                type Error = Unknown;

                fn try_from(text: String) -> Result<Self, Unknown> {
                    text.parse()
                }
            }
        )*
    };
}

as_text!(Balance, Key, RateKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same_way() {
        for text in
            ["least-request", "ewma", "round-robin", "hash:address", "hash:header:x-user", "hash:cookie:Id"]
        {
            assert_eq!(text.parse::<Balance>().unwrap().to_string(), text);
        }
        for text in ["address", "route", "header:x-key"] {
            assert_eq!(text.parse::<RateKey>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-User".parse::<Key>(), Ok(Key::Header("x-user".to_owned())));
        for text in ["", "hash:", "hash:header:", "hash:header:a b", "random", "hash:route"] {
            assert!(text.parse::<Balance>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_written_before_there_was_a_policy_has_the_defaults() {
        let policy: Policy = serde_json::from_str("{}").unwrap();
        assert_eq!(policy, Policy::default());
        assert_eq!(policy.breaker.pending, 1_024);
    }
}

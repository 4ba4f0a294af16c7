//! Tokens: who may do what through the API and the registry.
//!
//! A token is written `mnt_<id>_<secret>`. The id is public: it stands in lists and events. Of the secret
//! only its SHA-256 is kept: it has 256 random bits, so that nothing slower is needed, and a copy of the
//! cluster state lets nobody in.

mod scope;
mod table;

use std::{fmt, str::FromStr};

use minato_model::time::Moment;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::{
    scope::{InvalidScope, Repositories, Scope},
    table::{Bearer, Refused, Tokens, Who},
};

/// What every token begins with, so that people and scanners of secrets know one.
const PREFIX: &str = "mnt_";
/// Characters of an id.
const ID: usize = 10;
/// Bytes of a secret; it is written with twice as many characters.
const SECRET: usize = 32;
/// Scopes of one token at most.
pub const SCOPES_MAX: usize = 32;
/// Characters of a token's name at most.
pub const NAME_MAX: usize = 80;

/// What a token is called in public: ten characters of a-z and 0-9.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

/// What no token is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token's id is ten characters of a-z and 0-9")]
pub struct InvalidTokenId;

impl TokenId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = InvalidTokenId;
    fn from_str(text: &str) -> Result<Self, InvalidTokenId> {
        let fits = text.len() == ID && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if fits { Ok(Self(text.to_owned())) } else { Err(InvalidTokenId) }
    }
}

impl TryFrom<String> for TokenId {
    type Error = InvalidTokenId;
    fn try_from(text: String) -> Result<Self, InvalidTokenId> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A token as everybody may see it who may see tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What it is called.
    pub id: TokenId,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: Moment,
    /// By whom.
    pub created_by: String,
    /// From when on it is worth nothing; `None`: never.
    pub expires_at: Option<Moment>,
    /// Since when it is worth nothing.
    pub revoked_at: Option<Moment>,
    /// By whom it was revoked.
    pub revoked_by: Option<String>,
}

impl Token {
    /// Since when it is worth nothing, if so.
    #[must_use]
    pub fn ended(&self, now: Moment) -> Option<Moment> {
        self.revoked_at.or_else(|| self.expires_at.filter(|expires| *expires <= now))
    }
}

/// A token as it is kept: with what its secret is known by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What may be seen.
    #[serde(flatten)]
    pub token: Token,
    secret_sha256: Hash,
}

/// SHA-256 of a secret, in JSON as hexadecimal digits.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hash([u8; 32]);

impl Hash {
    fn of(bytes: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
        let mut hash = [0; 32];
        hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Self(hash)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

impl TryFrom<String> for Hash {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, &'static str> {
        from_hex(&text).map(Self).ok_or("a SHA-256 has 64 hexadecimal digits")
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hex(&hash.0)
    }
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It would allow nothing.
    #[error("a token without a scope allows nothing")]
    NoScope,
    /// It would have too many scopes.
    #[error("a token has at most {SCOPES_MAX} scopes")]
    ManyScopes,
    /// Its name isn't one.
    #[error("a token's name has at most {NAME_MAX} characters, none of them a control character")]
    Name,
    /// There is no randomness.
    #[error("the system gives no random bytes")]
    Random(#[source] getrandom::Error),
}

/// What a new token is to be.
#[derive(Debug, Clone)]
pub struct Order {
    /// What it is for.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it expires; `None`: never.
    pub expires_at: Option<Moment>,
    /// Who makes it.
    pub by: String,
}

/// Makes a token: what is kept of it, and its text, which is nowhere else.
///
/// # Errors
/// An order that can't be carried out, or no randomness.
pub fn make(order: Order, now: Moment) -> Result<(Record, Zeroizing<String>), MakeError> {
    let Order { name, mut scopes, expires_at, by } = order;
    scopes.sort();
    scopes.dedup();
    match scopes.len() {
        0 => return Err(MakeError::NoScope),
        1..=SCOPES_MAX => {}
        _ => return Err(MakeError::ManyScopes),
    }
    if name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        return Err(MakeError::Name);
    }
    let mut secret = Zeroizing::new([0; SECRET]);
    getrandom::fill(&mut *secret).map_err(MakeError::Random)?;
    let secret = Zeroizing::new(hex(&*secret));
    let id = draw()?;
    let text = Zeroizing::new(format!("{PREFIX}{id}_{}", *secret));
    let token = Token {
        id,
        name,
        scopes,
        created_at: now,
        created_by: by,
        expires_at,
        revoked_at: None,
        revoked_by: None,
    };
    Ok((Record { token, secret_sha256: Hash::of(secret.as_bytes()) }, text))
}

/// An id that nobody has.
fn draw() -> Result<TokenId, MakeError> {
    let mut bytes = [0; ID];
    getrandom::fill(&mut bytes).map_err(MakeError::Random)?;
    let alphabet = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // 256 isn't a multiple of 36: some characters are a little likelier, which an id may bear.
    let of = |byte: &u8| alphabet.get(usize::from(*byte) % alphabet.len()).copied().unwrap_or(b'a');
    Ok(TokenId(bytes.iter().map(|byte| char::from(of(byte))).collect()))
}

/// A token's parts: what it is called, and its secret. Nothing but exactly the written form is taken.
fn parse(text: &[u8]) -> Option<(TokenId, &[u8])> {
    if text.len() != PREFIX.len() + ID + 1 + 2 * SECRET {
        return None;
    }
    let rest = text.strip_prefix(PREFIX.as_bytes())?;
    let (id, rest) = rest.split_at_checked(ID)?;
    let secret = rest.strip_prefix(b"_")?;
    let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let id = std::str::from_utf8(id).ok()?.parse().ok()?;
    secret.iter().all(is_hex).then_some((id, secret))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let [high, low] = <[u8; 2]>::try_from(pair).ok()?;
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;

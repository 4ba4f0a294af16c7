//! Names that clients choose. Once one of these exists it is safe as a part of a path: no `..`, no
//! leading `/`, no component that begins with `_` (those are the registry's own).

use std::{fmt, str::FromStr};

use minato_model::reference::{is_repository, is_tag};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidName {
    #[error(
        "no repository can have this name: use parts of a-z, 0-9 and single . _ - between them, joined by /"
    )]
    Repository,
    #[error("no tag can have this name: use at most 128 letters, digits, _ . -, beginning with no . or -")]
    Tag,
    #[error("no upload has such an id")]
    Upload,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $type(String);

        impl $type {
            pub(crate) fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                if $check(text) { Ok(Self(text.to_owned())) } else { Err(InvalidName::$type) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name! {
    /// A repository: `shop/storefront`.
    Repository, is_repository
}
name! {
    /// A tag within a repository.
    Tag, is_tag
}
name! {
    /// An upload under way: 32 hexadecimal digits, drawn by the registry.
    Upload, |text: &str| text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

//! By which name the API was called.

use std::{fmt, net::IpAddr};

use axum::http::{Request, header};

/// A host and, if it was written, a port; only characters that a header can quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Host {
    /// In lower case, an IPv6 address without its brackets.
    name: String,
    port: Option<u16>,
}

impl Host {
    /// From the request's target or its one `Host` header.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let mut headers = request.headers().get_all(header::HOST).iter();
        let header = headers.next();
        if headers.next().is_some() {
            return None;
        }
        match (request.uri().authority(), header) {
            (Some(authority), _) => Self::parse(authority.as_str()),
            (None, header) => Self::parse(header?.to_str().ok()?),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                (address, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let fits = (1..=253).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        let port = match port {
            Some(port) => Some(port.parse().ok()?),
            None => None,
        };
        fits.then(|| Self { name: name.to_ascii_lowercase(), port })
    }

    pub(super) fn is_loopback(&self) -> bool {
        self.name == "localhost" || self.name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.trim_matches(['[', ']']))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]", self.name)?;
        } else {
            f.write_str(&self.name)?;
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

//! SPIFFE ids: the one name by which an instance and a node's edge are known in certificates.
//!
//! Invariant: one id has one text, and only such a text is read.

use std::{fmt, str::FromStr};

use minato_model::ids::{InstanceId, NodeName, ServiceKey};

/// The longest that is read: more than an id of the longest names has.
const TEXT_MAX: usize = 256;

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpiffeId {
    /// `spiffe://<cluster>/app/<app>/service/<service>/instance/<id>`
    Instance {
        /// The trust domain.
        cluster: String,
        /// Whose instance it is.
        service: ServiceKey,
        /// Its id.
        instance: InstanceId,
    },
    /// `spiffe://<cluster>/node/<node>/edge`
    Edge {
        /// The trust domain.
        cluster: String,
        /// The node.
        node: NodeName,
    },
}

/// It is no SPIFFE id of a Minato cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no identity of an instance or a node: spiffe://CLUSTER/app/APP/service/SERVICE/instance/ID")]
pub struct InvalidId;

impl SpiffeId {
    /// The trust domain.
    #[must_use]
    pub fn cluster(&self) -> &str {
        match self {
            Self::Instance { cluster, .. } | Self::Edge { cluster, .. } => cluster,
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instance { cluster, service: ServiceKey { app, service }, instance } => {
                write!(f, "spiffe://{cluster}/app/{app}/service/{service}/instance/{instance}")
            }
            Self::Edge { cluster, node } => write!(f, "spiffe://{cluster}/node/{node}/edge"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() > TEXT_MAX {
            return Err(InvalidId);
        }
        let mut parts = text.strip_prefix("spiffe://").ok_or(InvalidId)?.split('/');
        let cluster = parts.next().filter(|name| is_cluster(name)).ok_or(InvalidId)?.to_owned();
        let mut rest = [""; 6];
        let mut count = 0;
        for part in parts {
            *rest.get_mut(count).ok_or(InvalidId)? = part;
            count += 1;
        }
        match rest {
            ["app", app, "service", service, "instance", instance] => Ok(Self::Instance {
                cluster,
                service: ServiceKey {
                    app: app.parse().map_err(|_| InvalidId)?,
                    service: service.parse().map_err(|_| InvalidId)?,
                },
                instance: instance.parse().map_err(|_| InvalidId)?,
            }),
            ["node", node, "edge", "", "", ""] if count == 3 => {
                Ok(Self::Edge { cluster, node: node.parse().map_err(|_| InvalidId)? })
            }
            _ => Err(InvalidId),
        }
    }
}

/// `minato-` and eight hexadecimal digits.
pub(crate) fn is_cluster(name: &str) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    name.strip_prefix("minato-").is_some_and(|id| id.len() == 8 && id.bytes().all(hex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        for text in [
            "spiffe://minato-0a1b2c3d/app/shop/service/cart/instance/abc0123456",
            "spiffe://minato-0a1b2c3d/node/node-1/edge",
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://minato-0a1b2c3d",
            "spiffe://minato-0A1B2C3D/node/node-1/edge",
            "spiffe://minato-0a1b2c3d/node/node-1/edge/",
            "spiffe://minato-0a1b2c3d/node/node-1/edge///",
            "spiffe://minato-0a1b2c3d/node/node-1/edge/more",
            "spiffe://minato-0a1b2c3d/node//edge",
            "spiffe://minato-0a1b2c3d/app/shop/service/cart/instance/",
            "spiffe://minato-0a1b2c3d/app/shop/service/cart/instance/abc/x",
            "spiffe://minato-0a1b2c3d/app/shop/service/CART/instance/abc",
            "spiffe://minato-0a1b2c3d/app/shop%2f/service/cart/instance/abc",
            "spiffe://minato-0a1b2c3d:80/node/node-1/edge",
            "SPIFFE://minato-0a1b2c3d/node/node-1/edge",
            "https://minato-0a1b2c3d/node/node-1/edge",
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(InvalidId), "{text}");
        }
        assert!(
            format!("spiffe://minato-0a1b2c3d/node/{}/edge", "a".repeat(300)).parse::<SpiffeId>().is_err()
        );
    }
}

//! Whether a request is let in, before anything is done for it: its client's rate.
//!
//! What a service carries already is looked at later, where a request would have to wait (`hold`, `shed`):
//! one that finds a free place at once is never too much.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use minato_model::{
    code::Code,
    ids::ServiceKey,
    traffic::{Rate, RateKey},
};

use crate::{
    answer::Answer,
    clock::{Clock, Micros},
    key::Client,
    rate::{Limiter, Nanos},
    snapshot::{Service, Snapshot},
};

/// What a service lets in. It outlives tables that leave the service's limit as it is.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    limiter: Option<Arc<Limiter>>,
    pub(crate) turned_away: Arc<TurnedAway>,
}

/// Requests of a service that were not let in.
#[derive(Debug, Default)]
pub(crate) struct TurnedAway {
    /// Because their client sent too many.
    pub(crate) limited: AtomicU64,
    /// Because too many waited, or for too long.
    pub(crate) shed: AtomicU64,
}

impl Gate {
    /// A service's; `before` is what it had until now.
    pub(crate) fn new(rate: Option<&Rate>, before: Option<&Self>) -> Self {
        let limiter = rate.map(|rate| {
            let kept = before.and_then(|before| before.limiter.as_ref());
            let kept = kept.filter(|limiter| limiter.rate() == rate).cloned();
            kept.unwrap_or_else(|| Arc::new(Limiter::new(rate.clone())))
        });
        let turned_away = before.map(|before| Arc::clone(&before.turned_away)).unwrap_or_default();
        Self { limiter, turned_away }
    }
}

/// Lets a request in; or answers why not, and when to come again. A service without a rate costs one branch.
pub(crate) fn admit(service: &Service, client: &Client<'_>, clock: Clock) -> Result<(), Answer> {
    let Some(limiter) = &service.gate.limiter else { return Ok(()) };
    count(limiter, client, clock.now()).map_err(|wait| {
        service.gate.turned_away.limited.fetch_add(1, Relaxed);
        refused(&service.key, limiter.rate(), wait)
    })
}

fn count(limiter: &Limiter, client: &Client<'_>, now: Micros) -> Result<(), Duration> {
    let now: Nanos = now * 1_000;
    match &limiter.rate().per {
        RateKey::Route => limiter.pass(now),
        RateKey::Address => limiter.pass_client((0_u8, network(client.address())), now),
        RateKey::Header(name) => {
            let mut values = client.headers.get_all(name).iter().peekable();
            if values.peek().is_none() {
                return limiter.pass_client((0_u8, network(client.address())), now);
            }
            // All of them: else one that was added would hide the one that the instance goes by.
            values.try_for_each(|value| limiter.pass_client((1_u8, value.as_bytes()), now))
        }
    }
}

/// Who is one client: an IPv4 address, or the /64 that one subscriber has of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

fn refused(key: &ServiceKey, rate: &Rate, wait: Duration) -> Answer {
    let of = match &rate.per {
        RateKey::Route => "all clients together".to_owned(),
        RateKey::Address => "one address".to_owned(),
        RateKey::Header(name) => format!("one value of the header {name}"),
    };
    let detail = format!("{key} takes {} requests in {:?} of {of}", rate.limit, rate.every);
    Answer::new(Code::RateLimited, detail).of(key).retry_after(wait)
}

/// Of too many requests that wait, or for too long.
pub(crate) fn shed(service: &Service, detail: &str, after: Duration) -> Answer {
    service.gate.turned_away.shed.fetch_add(1, Relaxed);
    Answer::new(Code::QueueFull, detail).of(&service.key).retry_after(after)
}

/// How many were not let in, as Prometheus reads it: of services that limit, and of those that ever had a
/// request.
pub(crate) fn write_figures(out: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let limits: Vec<_> = snapshot.services().filter(|service| service.gate.limiter.is_some()).collect();
    let used = |service: &Service| service.releases().any(|release| release.stats_if_any().is_some());
    let used: Vec<_> = snapshot.services().filter(|service| used(service)).collect();
    let mut each =
        |name: &str, help: &str, services: &[&Arc<Service>], value: &dyn Fn(&TurnedAway) -> u64| {
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter")?;
            services.iter().try_for_each(|service| {
                let ServiceKey { app, service: own } = &service.key;
                let value = value(&service.gate.turned_away);
                writeln!(out, "{name}{{app=\"{app}\",service=\"{own}\"}} {value}")
            })
        };
    let help = "Requests refused because their client sent more than the service's rate allows.";
    each("minato_rate_limited_total", help, &limits, &|counts| counts.limited.load(Relaxed))?;
    let help = "Requests turned away because too many waited for an instance, or for too long.";
    each("minato_shed_total", help, &used, &|counts| counts.shed.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn check(per: &str, limit: u32) -> impl Fn(&str, &[&'static str]) -> bool {
        let every = Duration::from_secs(60);
        let limiter = Limiter::new(Rate { per: per.parse().unwrap(), limit, every });
        move |peer, values| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-key", HeaderValue::from_static(value));
            }
            let peer = peer.parse().unwrap();
            let client = Client { headers: &headers, peer, trusted: false, proxies: &[] };
            count(&limiter, &client, 7).is_ok()
        }
    }

    #[test]
    fn an_address_is_one_client_and_so_is_a_subscribers_network() {
        let passes = check("address", 1);
        assert!(passes("192.0.2.1", &[]) && passes("192.0.2.2", &[]));
        assert!(!passes("::ffff:192.0.2.1", &[]));
        assert!(passes("2001:db8:0:1::1", &[]) && passes("2001:db8:0:2::1", &[]));
        assert!(!passes("2001:db8:0:1:ffff::9", &[]));
    }

    #[test]
    fn a_header_tells_clients_apart_and_others_go_by_address() {
        let passes = check("header:x-key", 1);
        assert!(passes("192.0.2.1", &["a"]) && passes("192.0.2.1", &["b"]) && passes("192.0.2.1", &[]));
        assert!(!passes("192.0.2.2", &["a"]) && !passes("192.0.2.1", &[]));
        assert!(passes("192.0.2.2", &[]));
    }

    #[test]
    fn a_second_value_hides_no_first_one() {
        let passes = check("header:x-key", 1);
        assert!(passes("192.0.2.1", &["a"]));
        assert!(!passes("192.0.2.1", &["invented", "a"]));
        assert!(!passes("192.0.2.1", &["a", "invented, too"]));
    }

    #[test]
    fn a_limit_that_stays_the_same_keeps_its_count() {
        let rate = |limit| Rate { per: RateKey::Route, limit, every: Duration::from_secs(60) };
        let first = Gate::new(Some(&rate(1)), None);
        assert_eq!(first.limiter.as_ref().unwrap().pass(7), Ok(()));
        first.turned_away.limited.fetch_add(3, Relaxed);
        let same = Gate::new(Some(&rate(1)), Some(&first));
        assert!(same.limiter.as_ref().unwrap().pass(7).is_err());
        let other = Gate::new(Some(&rate(2)), Some(&same));
        assert_eq!(other.limiter.as_ref().unwrap().pass(7), Ok(()));
        let none = Gate::new(None, Some(&other));
        assert!(none.limiter.is_none());
        assert_eq!(none.turned_away.limited.load(Relaxed), 3);
    }
}

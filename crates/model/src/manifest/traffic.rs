//! How a service's requests are treated: balance, breaker, retries, rate.

use std::time::Duration;

use super::{
    read::{Table, Value},
    service::{duration, narrow, set},
};
use crate::{
    code::Code,
    traffic::{Breaker, Policy, Rate, RateKey, Retries},
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn policy(table: &Table<'_>) -> Policy {
    Policy {
        balance: word(table.get("balance")).unwrap_or_default(),
        slow_start: duration(table, "slow_start", Duration::ZERO, Duration::ZERO..=3_600 * SECOND),
        retries: retries(table),
        rate: rate(table),
        breaker: breaker(table),
    }
}

/// A value that is one of some words.
fn word<T: std::str::FromStr<Err = crate::traffic::Unknown>>(value: Option<Value<'_>>) -> Option<T> {
    let value = value?;
    value
        .text()?
        .parse()
        .map_err(|error: crate::traffic::Unknown| {
            let message = format!("`{}` can't be \"{}\"", value.path(), error.text);
            value.refuse(Code::InvalidValue, message, Some(format!("it takes {}", error.takes)));
        })
        .ok()
}

fn retries(parent: &Table<'_>) -> Retries {
    let mut retries = Retries::default();
    let Some(table) = parent.get("retries").and_then(|value| value.table()) else { return retries };
    set(&mut retries.attempts, table.get("attempts").and_then(|value| value.integer(0..=10)).map(narrow));
    set(&mut retries.budget_millis, table.get("budget").and_then(|value| value.thousandths(1.0)));
    table.finish();
    retries
}

fn rate(parent: &Table<'_>) -> Option<Rate> {
    let value = parent.get("rate")?;
    let table = value.table()?;
    let per: Option<RateKey> = word(table.get("per"));
    let limit = table.get("limit").and_then(|value| value.integer(1..=1_000_000)).map(narrow);
    let every = duration(&table, "every", SECOND, SECOND / 1000..=86_400 * SECOND);
    table.finish();
    if limit.is_none() && table.get("limit").is_none() {
        let hint = "{ per = \"address\", limit = 100, every = \"1s\" }";
        value.refuse(Code::MissingKey, "`rate` needs a `limit`", Some(hint.to_owned()));
    }
    Some(Rate { per: per.unwrap_or(RateKey::Address), limit: limit?, every })
}

fn breaker(parent: &Table<'_>) -> Breaker {
    let mut breaker = Breaker::default();
    let Some(table) = parent.get("breaker").and_then(|value| value.table()) else { return breaker };
    set(&mut breaker.failures, table.get("failures").and_then(|value| value.integer(1..=1_000)).map(narrow));
    set(&mut breaker.success_millis, table.get("success").and_then(|value| value.thousandths(1.0)));
    breaker.eject = duration(&table, "eject", breaker.eject, SECOND / 100..=60 * SECOND);
    set(&mut breaker.pending, table.get("pending").and_then(|value| value.integer(1..=100_000)).map(narrow));
    table.finish();
    breaker
}

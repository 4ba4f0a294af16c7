//! `[services.X.tls]`: what the edge does for a service at its doors to the outside.

use std::time::Duration;

use super::{Protocol, Service, read::Table, service::duration};
use crate::{code::Code, tls::Tls};

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn tls(parent: &Table<'_>) -> Tls {
    let Some(table) = parent.get("tls").and_then(|value| value.table()) else { return Tls::default() };
    let tls = Tls {
        certificate: path(&table, "certificate"),
        key: path(&table, "key"),
        redirect: table.get("redirect").and_then(|value| value.bool()).unwrap_or(false),
        // 0 tells browsers to forget what they were told.
        hsts: table.get("hsts").map(|_| duration(&table, "hsts", Duration::ZERO, Duration::ZERO..=730 * DAY)),
        client_ca: path(&table, "client_ca"),
    };
    table.finish();
    for (one, other) in [("certificate", "key"), ("key", "certificate")] {
        if let Some(value) = table.get(one).filter(|_| table.get(other).is_none()) {
            let message = format!("`{one}` needs `{other}` beside it");
            value.refuse(Code::MissingKey, message, Some(format!("add `{other} = \"FILE\"`")));
        }
    }
    tls
}

/// What has no effect on a service that nobody reaches over HTTPS from outside.
pub(super) fn needs_hosts(table: &Table<'_>, service: &Service) {
    let Some(value) = table.get("tls") else { return };
    if service.protocol == Protocol::Tcp {
        let message = "`tls` is for HTTP: over plain TCP there are only bytes";
        value.refuse(Code::InvalidValue, message, None);
    } else if service.hosts.is_empty() && table.get("hosts").is_none() {
        let hint = "add `hosts`, or take it out: within the cluster every name has the cluster's certificate";
        value.refuse(
            Code::MissingKey,
            "`tls` is for public names, and the service has none",
            Some(hint.to_owned()),
        );
    }
}

fn path(table: &Table<'_>, key: &'static str) -> Option<String> {
    let value = table.get(key)?;
    let text = value.text()?;
    if text.is_empty() || text.len() > 1_024 || text.contains('\0') {
        let hint = "a path relative to the manifest's folder, or an absolute one: \"files/shop.pem\"";
        value.refuse(Code::InvalidValue, format!("`{key}` is no path"), Some(hint.to_owned()));
    }
    Some(text.to_owned())
}

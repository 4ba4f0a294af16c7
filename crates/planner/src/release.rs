//! What a release consists of, found from the manifest and the image, and how two releases differ.

use std::collections::BTreeSet;

use minato_model::{
    code::{Code, Problem},
    ids::ServiceName,
    images::ResolvedImage,
    manifest::Service,
    release::{Release, ReleaseSpec},
};

use crate::{
    hash::sha256_hex,
    keys::{self, Difference},
};

/// The port where neither the manifest nor the image names one.
const DEFAULT_PORT: u16 = 8080;

/// The specification that a service has with this image.
///
/// # Errors
/// `invalid_value` when nothing says which program to run, `missing_key` when the image exposes
/// several ports and the manifest names none.
pub fn spec(name: &ServiceName, service: &Service, image: &ResolvedImage) -> Result<ReleaseSpec, Problem> {
    if service.command.is_empty() && !image.has_command {
        return Err(Problem::new(
            Code::MissingKey,
            format!(
                "the image {} has neither entrypoint nor command, so nothing says what to run",
                service.image
            ),
        )
        .at_key(format!("services.{name}.command"))
        .with_hint("write `command = [\"/path/in/the/image\"]`, or build the image with an entrypoint"));
    }
    let writable: BTreeSet<&String> = service.writable.iter().chain(&image.volumes).collect();
    Ok(ReleaseSpec {
        digest: image.digest.clone(),
        command: service.command.clone(),
        env: service.env.clone(),
        user: image.user.clone(),
        port: port(name, service, image)?,
        protocol: service.protocol,
        writable: writable.into_iter().cloned().collect(),
        init: service.init,
        resources: service.resources.clone(),
    })
}

fn port(name: &ServiceName, service: &Service, image: &ResolvedImage) -> Result<u16, Problem> {
    match (service.port, image.ports.as_slice()) {
        (Some(port), _) => Ok(port),
        (None, []) => Ok(DEFAULT_PORT),
        (None, [port]) => Ok(*port),
        (None, several) => {
            let listed: Vec<String> = several.iter().map(u16::to_string).collect();
            Err(Problem::new(
                Code::MissingKey,
                format!(
                    "the image {} exposes several ports ({}), so the service must say which one is its own",
                    service.image,
                    listed.join(", ")
                ),
            )
            .at_key(format!("services.{name}.port"))
            .with_hint(format!("write `port = {}`, or another of them", several[0])))
        }
    }
}

/// SHA-256 over the specification's canonical form, as 64 hexadecimal digits.
#[must_use]
pub fn hash(spec: &ReleaseSpec) -> String {
    sha256_hex(&spec.canonical())
}

/// What differs between a release and a specification, each in a few words. Values of environment
/// variables are never among them: they may be secrets.
#[must_use]
pub fn differences(old: &Release, new: &ReleaseSpec, image: &str) -> Vec<String> {
    let mut found = Vec::new();
    if old.spec.digest != new.digest {
        let (from, to) = (old.spec.digest.short(), new.digest.short());
        found.push(if old.image.to_string() == image {
            format!("{image} moved from {from} to {to}")
        } else {
            format!("image {} ({from}) became {image} ({to})", old.image)
        });
    }
    found.extend(environment(&old.spec, new));
    let changed = keys::differences(&keys::of_release(&old.spec), &keys::of_release(new));
    found.extend(changed.into_iter().map(|Difference { key, from, to }| format!("{key} {from} became {to}")));
    found
}

fn environment(old: &ReleaseSpec, new: &ReleaseSpec) -> Option<String> {
    let names = |kept: &dyn Fn(&&String) -> bool, of: &ReleaseSpec| -> Vec<String> {
        of.env.keys().filter(kept).cloned().collect()
    };
    let added = names(&|key| !old.env.contains_key(*key), new);
    let removed = names(&|key| !new.env.contains_key(*key), old);
    let changed = names(&|key| old.env.get(*key).is_some_and(|value| new.env.get(*key) != Some(value)), new);
    let parts: Vec<String> = [("added", added), ("changed", changed), ("removed", removed)]
        .into_iter()
        .filter(|(_, names)| !names.is_empty())
        .map(|(what, names)| format!("{what} {}", names.join(", ")))
        .collect();
    (!parts.is_empty()).then(|| format!("env: {}", parts.join("; ")))
}

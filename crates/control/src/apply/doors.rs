//! The files that services name for their doors: sent along with a manifest, read and checked before it is
//! planned, and kept in items of their own, which nothing answers.

use std::collections::BTreeMap;

use minato_identity::files::{self, Material};
use minato_model::{
    code::{Code, Problem},
    ids::{AppName, ServiceKey, ServiceName},
    manifest::{Manifest, Service},
    time::Moment,
    tls::{Files, Presented},
};

use super::{File, locate};
use crate::{core::Core, world::World};

/// What was sent for each service that names files, read.
#[derive(Debug, Default)]
pub(crate) struct Doors(BTreeMap<ServiceKey, Door>);

/// One service's.
#[derive(Debug)]
struct Door {
    files: Files,
    material: Material,
}

impl Doors {
    /// What is known of the files of an app's services.
    pub(super) fn presented(&self, app: &AppName) -> BTreeMap<ServiceName, Presented> {
        let of_app = self.0.iter().filter(|(key, _)| key.app == *app);
        of_app.map(|(key, door)| (key.service.clone(), door.material.presented.clone())).collect()
    }

    /// The files of a service with this id, to be kept.
    pub(super) fn files(&self, key: &ServiceKey, id: &str) -> Option<&Files> {
        let door = self.0.get(key)?;
        (door.material.presented.id == id).then_some(&door.files)
    }
}

/// Reads what was sent: exactly what the manifests name, each file fitting the others and the hosts.
pub(super) async fn read(files: &[File], manifests: &[Manifest]) -> Result<Doors, Problem> {
    let mut wanted = Vec::new();
    for manifest in manifests {
        let sent = sent(files, &manifest.app);
        let known = |name: &str| manifest.services.keys().any(|service| service.as_str() == name);
        if let Some(name) = sent.keys().find(|name| !known(name)) {
            let name: String = name.chars().take(80).collect();
            let message =
                format!("files were sent along for `{name}`, which is no service of {}", manifest.app);
            return Err(Problem::new(Code::InvalidRequest, message));
        }
        for (name, service) in &manifest.services {
            let key = ServiceKey { app: manifest.app.clone(), service: name.clone() };
            let sent = sent.get(name.as_str()).map(|sent| (*sent).clone()).unwrap_or_default();
            complete(&key, service, &sent).map_err(|problem| locate::place(problem, files, &key.app))?;
            if sent != Files::default() {
                wanted.push((key, service.hosts.clone(), sent));
            }
        }
    }
    if wanted.is_empty() {
        return Ok(Doors::default());
    }
    // A key of RSA takes milliseconds to be looked at.
    let read = tokio::task::spawn_blocking(move || {
        let door = |(key, hosts, sent): (ServiceKey, Vec<String>, Files)| {
            let material = files::read(&sent).and_then(|material| {
                material.covers(&hosts)?;
                Ok(material)
            });
            match material {
                Ok(material) => Ok((key, Door { files: sent, material })),
                Err(refused) => Err((key, refused)),
            }
        };
        wanted.into_iter().map(door).collect::<Result<BTreeMap<_, _>, _>>()
    });
    match read.await {
        Ok(Ok(doors)) => Ok(Doors(doors)),
        Ok(Err((key, refused))) => Err(locate::place(problem(&key, refused), files, &key.app)),
        Err(_) => Err(Problem::new(Code::Internal, "reading the certificates broke off")),
    }
}

/// What was sent with the file that describes the app.
fn sent<'a>(files: &'a [File], app: &AppName) -> BTreeMap<&'a str, &'a Files> {
    let of_app = files.iter().filter(|file| locate::describes(file, app));
    of_app.flat_map(|file| &file.tls).map(|(name, files)| (name.as_str(), files)).collect()
}

/// Whether exactly those files were sent that the service names.
fn complete(key: &ServiceKey, service: &Service, sent: &Files) -> Result<(), Problem> {
    let (tls, service) = (&service.tls, &key.service);
    for (name, named, sent) in [
        ("certificate", tls.certificate.is_some(), sent.certificate.is_some()),
        ("key", tls.key.is_some(), sent.key.is_some()),
        ("client_ca", tls.client_ca.is_some(), sent.client_ca.is_some()),
    ] {
        let message = match (named, sent) {
            (true, false) => format!("the file of `{name}` wasn't sent along"),
            (false, true) => format!("a file of `{name}` was sent along that the manifest doesn't name"),
            (true, true) | (false, false) => continue,
        };
        let hint = "`minato apply` sends what the manifest names: `tls` of the request's file, by service";
        return Err(Problem::new(Code::InvalidRequest, message)
            .at_key(format!("services.{service}.tls.{name}"))
            .with_hint(hint));
    }
    Ok(())
}

fn problem(key: &ServiceKey, refused: files::Refused) -> Problem {
    let place = format!("services.{}.tls.{}", key.service, refused.key);
    let problem = Problem::new(Code::InvalidValue, format!("`{}`: {refused}", refused.key)).at_key(place);
    match refused.hint {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

/// Refuses what can't be put in force now, on this server and beside what other services have.
pub(super) fn check(
    core: &Core,
    world: &World,
    files: &[File],
    manifests: &[Manifest],
    doors: &Doors,
    staying: impl Fn(&AppName) -> bool,
) -> Result<(), Problem> {
    let mut hosts = Hosts::default();
    for (key, _, service) in world.declared().filter(|(key, ..)| staying(&key.app)) {
        // What stands stands, even if it was put there before this rule.
        drop(hosts.add(&key, service, world.presented(&key)));
    }
    for manifest in manifests {
        for (name, service) in &manifest.services {
            let key = ServiceKey { app: manifest.app.clone(), service: name.clone() };
            let material = doors.0.get(&key).map(|door| &door.material);
            let checked = https(core, &key, service)
                .and_then(|()| fresh(world, &key, material, core.now()))
                .and_then(|()| hosts.add(&key, service, material.map(|material| &material.presented)));
            checked.map_err(|problem| locate::place(problem, files, &key.app))?;
        }
    }
    Ok(())
}

/// Whether the server's own port for HTTPS lets it be done.
fn https(core: &Core, key: &ServiceKey, service: &Service) -> Result<(), Problem> {
    let port = core.https.map(|https| https.port());
    if service.tls.hsts.is_some() && port != Some(443) {
        let message = match port {
            Some(port) => format!("`hsts` needs HTTPS on port 443, and this server has it on {port}"),
            None => "`hsts` needs HTTPS on port 443, and this server has none".to_owned(),
        };
        return Err(Problem::new(Code::InvalidValue, message)
            .at_key(format!("services.{}.tls.hsts", key.service))
            .with_hint(
                "browsers would go to port 443 alone, for as long as it says; start the server with \
                 --https ADDRESS:443, or take it out",
            ));
    }
    Ok(())
}

/// New files must be valid now. Those that are in force already may expire: that is told elsewhere, and
/// keeps nobody from changing something else.
fn fresh(world: &World, key: &ServiceKey, material: Option<&Material>, now: Moment) -> Result<(), Problem> {
    let Some(material) = material else { return Ok(()) };
    let known = world.presented(key).is_some_and(|known| known.id == material.presented.id);
    if known { Ok(()) } else { material.fresh(now).map_err(|refused| problem(key, refused)) }
}

/// What each host presents, and whom it asks: services that share a host have to agree.
#[derive(Default)]
struct Hosts {
    certificates: BTreeMap<String, (ServiceKey, String)>,
    clients: BTreeMap<String, (ServiceKey, Option<String>)>,
}

impl Hosts {
    fn add(
        &mut self,
        key: &ServiceKey,
        service: &Service,
        presented: Option<&Presented>,
    ) -> Result<(), Problem> {
        let certificate = presented.and_then(|presented| presented.certificate.as_ref());
        let roots = presented.and_then(|presented| presented.client_roots.as_ref());
        let roots = roots.map(|(hash, _)| hash.clone());
        for host in &service.hosts {
            let clients = self.clients.entry(host.clone()).or_insert_with(|| (key.clone(), roots.clone()));
            if clients.1 != roots {
                let message = format!("{} asks the clients of `{host}` for another certificate", clients.0);
                return Err(disagree(key, "client_ca", message));
            }
            let Some(leaf) = certificate else { continue };
            let known = self.certificates.entry(host.clone());
            let known = known.or_insert_with(|| (key.clone(), leaf.sha256.clone()));
            if known.1 != leaf.sha256 {
                let message = format!("{} has another certificate for `{host}`", known.0);
                return Err(disagree(key, "certificate", message));
            }
        }
        Ok(())
    }
}

fn disagree(key: &ServiceKey, name: &str, message: String) -> Problem {
    Problem::new(Code::InvalidValue, message)
        .at_key(format!("services.{}.tls.{name}", key.service))
        .with_hint("a host has one door: give all its services the same files, or one of them another host")
}

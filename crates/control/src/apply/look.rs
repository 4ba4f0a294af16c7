//! Looking: what is there, what the images mean, and what follows.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};
use minato_model::{
    code::{Code, Problem},
    ids::{AppName, ReleaseNumber, ServiceKey, ServiceName},
    images::ResolvedImage,
    keys,
    manifest::{Manifest, Service},
    reference::ImageReference,
    release::Release,
};
use minato_planner::plan::{self, Inputs, Known, Planned};
use minato_state::list_all;

use super::{
    File,
    doors::{self, Doors},
    locate,
};
use crate::{
    core::{Core, Fault, decode},
    world::World,
};

/// How many images are looked up at once: enough to hide a disk's latency.
const LOOK_UPS: usize = 8;

/// What was seen, and what follows from it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) world: World,
    /// An app each: those of the files in their order, then those that go.
    pub(crate) planned: Vec<Planned>,
}

impl Look {
    /// Whether a later look shows that somebody else changed one of these apps, and not to what is
    /// asked for here.
    pub(crate) fn overtaken_by(&self, later: &Self) -> bool {
        let modified = |world: &World, app: &AppName| world.apps.get(app).map(|app| app.modified);
        later.planned.iter().any(|planned| {
            let app = &planned.plan.app;
            !planned.plan.changes.is_empty() && modified(&self.world, app) != modified(&later.world, app)
        })
    }
}

/// Looks at what applying these manifests would change; with `prune`, every other app goes.
pub(crate) async fn look(
    core: &Core,
    files: &[File],
    manifests: &[Manifest],
    doors: &Doors,
    prune: bool,
) -> Result<Look, Problem> {
    let world = World::read(&*core.state).await?;
    let staying = |app: &AppName| !prune && manifests.iter().all(|manifest| manifest.app != *app);
    check_routes(&world, files, manifests, staying)?;
    doors::check(core, &world, files, manifests, doors, staying)?;
    let images = resolve(core, files, manifests).await?;
    let mut planned = Vec::new();
    for manifest in manifests {
        let images_of: BTreeMap<ServiceName, ResolvedImage> = manifest
            .services
            .iter()
            .filter_map(|(name, service)| Some((name.clone(), images.get(&service.image)?.clone())))
            .collect();
        let known = known(core, &world, &manifest.app).await?;
        let inputs = Inputs {
            manifest,
            declared: world.apps.get(&manifest.app).map(|declared| &declared.value),
            images: &images_of,
            presented: &doors.presented(&manifest.app),
            known: &known,
            now: core.now(),
        };
        let one = plan::plan(&inputs).map_err(|problems| {
            let first = problems.into_iter().next();
            let first = first.unwrap_or_else(|| Problem::new(Code::Internal, "no plan, and no reason"));
            locate::place(first, files, &manifest.app)
        })?;
        planned.push(one);
    }
    let named: BTreeSet<&AppName> = manifests.iter().map(|manifest| &manifest.app).collect();
    let others = world.apps.iter().filter(|(app, _)| prune && !named.contains(app));
    planned
        .extend(others.map(|(_, declared)| plan::delete(&declared.value, "the app is in none of the files")));
    Ok(Look { world, planned })
}

/// Looks at what taking this app away would change.
pub(crate) async fn deletion(core: &Core, app: &AppName) -> Result<Look, Problem> {
    let world = World::read(&*core.state).await?;
    let Some(declared) = world.apps.get(app) else {
        return Err(Problem::new(Code::NotFound, format!("there is no app `{app}`"))
            .with_hint("`minato status` lists what there is"));
    };
    let planned = vec![plan::delete(&declared.value, "the app is deleted")];
    Ok(Look { world, planned })
}

/// Refuses a host and path that a service of an app has that stays.
fn check_routes(
    world: &World,
    files: &[File],
    manifests: &[Manifest],
    staying: impl Fn(&AppName) -> bool,
) -> Result<(), Problem> {
    let mut taken = BTreeMap::new();
    let mut ports = BTreeMap::new();
    for (key, _, service) in world.declared().filter(|(key, ..)| staying(&key.app)) {
        ports.extend(service.listen.map(|port| (port, key.clone())));
        for route in routes(service) {
            taken.insert(route, key.clone());
        }
    }
    for manifest in manifests {
        for (name, service) in &manifest.services {
            let own = ServiceKey { app: manifest.app.clone(), service: name.clone() };
            if let Some(port) = service.listen
                && let Some(other) = ports.insert(port, own)
            {
                let problem =
                    Problem::new(Code::RouteTaken, format!("port {port} belongs to {other} already"))
                        .at_key(format!("services.{name}.listen"))
                        .with_hint("give one of them another port");
                return Err(locate::place(problem, files, &manifest.app));
            }
            let Some(((host, path), other)) = routes(service).find_map(|route| taken.get_key_value(&route))
            else {
                continue;
            };
            let problem =
                Problem::new(Code::RouteTaken, format!("`{host}{path}` belongs to {other} already"))
                    .at_key(format!("services.{name}.hosts"))
                    .with_hint("give one of them another host or path");
            return Err(locate::place(problem, files, &manifest.app));
        }
    }
    Ok(())
}

fn routes(service: &Service) -> impl Iterator<Item = (String, String)> {
    let host_paths = |host: &String| {
        let host = host.clone();
        service.paths.iter().map(move |path| (host.clone(), path.clone()))
    };
    service.hosts.iter().flat_map(host_paths)
}

/// What every image means now, each looked up once.
async fn resolve(
    core: &Core,
    files: &[File],
    manifests: &[Manifest],
) -> Result<BTreeMap<ImageReference, ResolvedImage>, Problem> {
    let mut wanted = BTreeMap::new();
    for manifest in manifests {
        for (name, service) in &manifest.services {
            wanted.entry(service.image.clone()).or_insert((&manifest.app, name));
        }
    }
    let mut look_ups = Vec::new();
    for (image, (app, name)) in wanted {
        look_ups.push(resolve_one(core, files, image, app, name));
    }
    // In order, so that of several errors it is always the same one that is told.
    stream::iter(look_ups).buffered(LOOK_UPS).try_collect().await
}

async fn resolve_one(
    core: &Core,
    files: &[File],
    image: ImageReference,
    app: &AppName,
    name: &ServiceName,
) -> Result<(ImageReference, ResolvedImage), Problem> {
    match core.images.resolve(&image).await {
        Ok(resolved) => Ok((image, resolved)),
        Err(problem) => {
            let key = problem.key.clone().unwrap_or_else(|| format!("services.{name}.image"));
            Err(locate::place(problem.at_key(key), files, app))
        }
    }
}

/// What is known of each service that the app has or ever had.
async fn known(core: &Core, world: &World, app: &AppName) -> Result<BTreeMap<ServiceName, Known>, Fault> {
    let prefix = format!("{}{app}/", keys::RELEASES);
    let (items, _) = list_all(&*core.state, &prefix).await?;
    let mut known = BTreeMap::<ServiceName, Known>::new();
    for item in items {
        let name = item.key.strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
        let Some(name) = name.and_then(|(name, _)| name.parse().ok()) else { continue };
        let release: Release = decode(&item.key, &item.value)?;
        known.entry(name).or_default().releases.insert(release.number, release);
    }
    for (key, record) in world.services.iter().filter(|(key, _)| key.app == *app) {
        let of_service = known.entry(key.service.clone()).or_default();
        of_service.last_release = record.value.last_release;
        of_service.taken_back.clone_from(&record.value.taken_back);
    }
    // Read later than the record: a release that came between must not lend its number again.
    for of_service in known.values_mut() {
        let highest: ReleaseNumber = of_service.releases.keys().last().copied().unwrap_or(0);
        of_service.last_release = of_service.last_release.max(highest);
    }
    Ok(known)
}

/// A service of a planned app.
pub(crate) fn key(planned: &Planned, service: &ServiceName) -> ServiceKey {
    ServiceKey { app: planned.plan.app.clone(), service: service.clone() }
}

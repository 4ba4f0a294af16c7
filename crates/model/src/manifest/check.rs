//! What shows only between services and files: an app twice, a host and path claimed twice, a call
//! to a service that isn't there.

use std::collections::BTreeMap;

use super::Service;
use crate::{
    code::{Code, Problem},
    ids::{AppName, ServiceKey, ServiceName},
};

/// Where something was written.
#[derive(Debug, Clone)]
struct Place {
    file: String,
    line: u32,
    key: String,
}

/// What has been claimed so far, and by whom.
#[derive(Debug, Default)]
pub(super) struct Places {
    apps: BTreeMap<AppName, Place>,
    routes: BTreeMap<(String, String), (ServiceKey, Place)>,
    problems: Vec<Problem>,
}

impl Places {
    pub(super) fn app(&mut self, app: &AppName, file: &str, line: u32) {
        let place = Place { file: file.to_owned(), line, key: "app".to_owned() };
        if let Some(first) = self.apps.insert(app.clone(), place.clone()) {
            let message =
                format!("app `{app}` is described twice, first in {}, line {}", first.file, first.line);
            self.refuse(&place, Code::InvalidValue, message, "an app is one file");
        }
    }

    /// Notes a service's hosts and paths; `line` is where its hosts are written.
    pub(super) fn routes(&mut self, key: &ServiceKey, service: &Service, file: &str, line: u32) {
        for host in &service.hosts {
            for path in &service.paths {
                let place =
                    Place { file: file.to_owned(), line, key: format!("services.{}.hosts", key.service) };
                let claimed = self.routes.get(&(host.clone(), path.clone())).cloned();
                if let Some((first, at)) = claimed {
                    let message =
                        format!("`{host}{path}` belongs to {first} already ({}, line {})", at.file, at.line);
                    self.refuse(&place, Code::RouteTaken, message, "give one of them another host or path");
                } else {
                    self.routes.insert((host.clone(), path.clone()), (key.clone(), place));
                }
            }
        }
    }

    /// Calls within an app must lead to a service of it; other apps may come later.
    pub(super) fn calls(&mut self, app: &AppName, services: &BTreeMap<ServiceName, Service>, file: &str) {
        for (name, service) in services {
            let own = service.calls.iter().flatten().filter(|callee| callee.app == *app);
            for callee in own.filter(|callee| !services.contains_key(&callee.service)) {
                self.problems.push(Problem {
                    code: Code::InvalidValue,
                    message: format!("`{name}` calls `{}`, but {app} has no such service", callee.service),
                    file: Some(file.to_owned()),
                    line: None,
                    key: Some(format!("services.{name}.calls")),
                    hint: Some("a service of another app is written `app.service`".to_owned()),
                });
            }
        }
    }

    fn refuse(&mut self, place: &Place, code: Code, message: String, hint: &str) {
        self.problems.push(Problem {
            code,
            message,
            file: Some(place.file.clone()),
            line: Some(place.line),
            key: Some(place.key.clone()),
            hint: Some(hint.to_owned()),
        });
    }

    pub(super) fn problems(self) -> Vec<Problem> {
        self.problems
    }
}

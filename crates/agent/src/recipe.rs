//! What every instance of a release has in common: its program, environment and user.

use minato_image::{process::Process, users::Identity};
use minato_model::ids::{InstanceId, ReleaseKey};

/// As many supplementary groups as the runtime takes.
const GROUPS_MAX: usize = 64;

/// What is executed, as whom, and how it is ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recipe {
    pub(crate) process: Process,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

impl Recipe {
    /// `HOME` is the user's own unless image or release say another.
    pub(crate) fn new(mut process: Process, identity: &Identity) -> Self {
        if !process.env.iter().any(|(name, _)| name == "HOME") {
            process.env.push(("HOME".to_owned(), identity.home.clone()));
        }
        let groups = identity.groups.iter().copied().take(GROUPS_MAX).collect();
        Self { process, uid: identity.uid, gid: identity.gid, groups }
    }

    /// The environment of one instance: what it finds by the contract is over all else.
    pub(crate) fn environment(&self, key: &ReleaseKey, port: u16, instance: &InstanceId) -> Vec<String> {
        let own = [
            ("PORT", port.to_string()),
            ("MINATO_APP", key.service.app.to_string()),
            ("MINATO_SERVICE", key.service.service.to_string()),
            ("MINATO_RELEASE", key.number.to_string()),
            ("MINATO_INSTANCE", instance.to_string()),
        ];
        let given = self.process.env.iter().filter(|(name, _)| !own.iter().any(|(known, _)| known == name));
        let given = given.map(|(name, value)| format!("{name}={value}"));
        given.chain(own.iter().map(|(name, value)| format!("{name}={value}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_contract_promises_is_over_all_else() {
        let process = Process {
            argv: vec!["/bin/x".to_owned()],
            env: vec![("PORT".to_owned(), "1".to_owned()), ("LOG".to_owned(), "a=b".to_owned())],
            cwd: "/".to_owned(),
            user: String::new(),
            stop_signal: 15,
            volumes: Vec::new(),
        };
        let identity = Identity { uid: 5, gid: 6, groups: (0..100).collect(), home: "/home/x".to_owned() };
        let recipe = Recipe::new(process, &identity);
        assert_eq!(recipe.groups.len(), 64);
        let key = ReleaseKey { service: "shop/cart".parse().unwrap(), number: 3 };
        assert_eq!(
            recipe.environment(&key, 80, &"a1".parse().unwrap()),
            [
                "LOG=a=b",
                "HOME=/home/x",
                "PORT=80",
                "MINATO_APP=shop",
                "MINATO_SERVICE=cart",
                "MINATO_RELEASE=3",
                "MINATO_INSTANCE=a1"
            ]
        );
    }
}

//! The peer `runc run`: the same root file system, read-only, with all that a container of Minato has:
//! every namespace, no capabilities beyond Minato's set, a seccomp filter, limits. Its network namespace
//! is given and not timed, and its filter is a short one: both favour runc.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    image,
    network::{Given, first_answer},
    patience::{Patience, now},
    processes::{expect, read, remove_groups, run, run_at_the_end, start, stop},
};

/// The first id on the host of the container's 65,536.
const IDS: u32 = 1_879_048_192;

/// What a container may do, as Minato's may.
const CAPABILITIES: [&str; 6] =
    ["CAP_CHOWN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// Calls that are refused.
const REFUSED: [&str; 24] = [
    "add_key",
    "bpf",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_setup",
    "kexec_load",
    "keyctl",
    "mount",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "ptrace",
    "reboot",
    "request_key",
    "setns",
    "swapon",
    "umount2",
    "unshare",
    "userfaultfd",
];

/// A bundle that can be run.
#[derive(Debug)]
pub(crate) struct Runc {
    state: PathBuf,
    bundle: PathBuf,
    group: String,
    given: Given,
}

impl Runc {
    /// Writes the bundle for a container in a given network: what `runc spec` says, changed where
    /// Minato's containers differ.
    pub(crate) fn prepare(patience: &Patience, below: &Path, root: &Path, given: &Given) -> Result<Self> {
        expect("runc")?;
        let runc = Self {
            state: below.join("runc-state"),
            bundle: below.join(format!("bundle-{}", given.address)),
            group: format!("minato-bench-{}-runc-{}", std::process::id(), given.address.octets()[3]),
            given: given.clone(),
        };
        std::fs::create_dir(&runc.bundle)?;
        run(patience, Command::new("runc").arg("spec").arg("--bundle").arg(&runc.bundle))?;
        let path = runc.bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?).context("runc's own spec")?;
        runc.change(&mut spec, root);
        std::fs::write(&path, serde_json::to_vec(&spec)?)?;
        Ok(runc)
    }

    fn change(&self, spec: &mut Value, root: &Path) {
        spec["root"] = json!({ "path": root, "readonly": true });
        let process = &mut spec["process"];
        process["terminal"] = json!(false);
        process["args"] = json!([image::PROGRAM]);
        process["noNewPrivileges"] = json!(true);
        process["capabilities"] =
            json!({ "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES });
        if let Some(mounts) = spec["mounts"].as_array_mut() {
            // A given network namespace belongs to no user namespace that could mount sysfs.
            mounts.retain(|mount| !matches!(mount["type"].as_str(), Some("sysfs" | "cgroup")));
            mounts.push(json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "nodev", "mode=1777", "size=67108864"] }));
        }
        let ids = json!([{ "containerID": 0, "hostID": IDS, "size": 65536 }]);
        let linux = &mut spec["linux"];
        linux["uidMappings"] = ids.clone();
        linux["gidMappings"] = ids;
        linux["cgroupsPath"] = json!(format!("/{}", self.group));
        linux["namespaces"] = json!([
            { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" },
            { "type": "user" }, { "type": "network", "path": self.given.path() },
        ]);
        let resources = &mut linux["resources"];
        resources["memory"] = json!({ "limit": 134_217_728 });
        resources["pids"] = json!({ "limit": 256 });
        resources["cpu"] = json!({ "shares": 512 });
        linux["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": REFUSED, "action": "SCMP_ACT_ERRNO" }],
        });
    }

    fn command(&self) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(&self.state);
        command
    }

    /// One start, from the exec of `runc run` to the first byte of its answer, which is looked for
    /// `every` so often. To be called in the namespace that plays the host.
    pub(crate) fn round(&self, patience: &Patience, number: usize, every: Duration) -> Result<Duration> {
        let id = format!("{}-{number}", self.group);
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(&self.bundle).arg(&id);
        let mut output: File = tempfile::tempfile()?;
        let begun = now();
        let mut child = start(&mut command, &output)?;
        let took = first_answer(patience, begun, (self.given.address, image::PORT), every, &mut child);
        self.end(&id, &mut child);
        took.with_context(|| format!("runc run: {}", read(&mut output).unwrap_or_default().trim_end()))
    }

    fn end(&self, id: &str, child: &mut Child) {
        run_at_the_end(self.command().args(["kill", id, "KILL"]));
        // It ends with its container.
        let ended = Patience::for_the_end().until("runc", Duration::from_secs(10), || Ok(child.try_wait()?));
        run_at_the_end(self.command().args(["delete", "--force", id]));
        if ended.is_err() {
            stop(child, Duration::ZERO);
        }
    }
}

impl Drop for Runc {
    fn drop(&mut self) {
        remove_groups(&self.group);
    }
}

//! Every step of a start, a drain and an adoption at which the product lets itself be killed is one that a
//! test tries, with a few instances and with two hundred. (Those of a hand-over are another matter.)
//!
//! | who | a start | a drain | an adoption |
//! |---|---|---|---|
//! | server | `start.begun`, `.taken`, `.ordered`, `.executed`, `.ready` | `drain.withdrawn`, `.quiet`, `.noted`, `.signalled`, `.ended` | `adopt.held`, `.probed`, `.done` |
//! | keeper | `keeper.make.forked`, `.make.parked`, `.started` | `keeper.signalled`, `.exited`, `.ended` | `keeper.hello`, `.held`, `.greeted` |
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails here")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The points that the code names, but for those of a hand-over.
fn points() -> BTreeSet<String> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut files = Vec::new();
    sources(&crates, &mut files);
    let mut found = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for behind in text.split("crash::point(\"").skip(1) {
            let name = behind.split('"').next().filter(|name| !name.starts_with("handover."));
            found.extend(name.map(str::to_owned));
        }
    }
    found
}

/// Those that a test doesn't name, with or without how often they are come to.
fn untried(points: &BTreeSet<String>, test: &str) -> Vec<String> {
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(test)).unwrap();
    let tried =
        |point: &&String| text.contains(&format!("\"{point}\"")) || text.contains(&format!("\"{point}:"));
    points.iter().filter(|point| !tried(point)).cloned().collect()
}

#[test]
fn every_step_is_tried() {
    let points = points();
    assert!(points.len() > 20, "{points:?}");
    assert_eq!(untried(&points, "crash_steps.rs"), Vec::<String>::new(), "with a few instances");
    assert_eq!(untried(&points, "many_steps.rs"), Vec::<String>::new(), "with two hundred");
}

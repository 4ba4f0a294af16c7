use std::collections::BTreeMap;

use minato_model::manifest::{Protocol, Resources};

use super::*;
use crate::digest;

fn image(config: &str) -> ImageConfig {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{{config}}},"rootfs":{{"type":"layers"}}}}"#
    );
    ImageConfig::parse(text.as_bytes()).unwrap()
}

fn release() -> ReleaseSpec {
    ReleaseSpec {
        digest: digest::of(b""),
        command: Vec::new(),
        env: BTreeMap::new(),
        user: String::new(),
        port: 8080,
        protocol: Protocol::Http,
        writable: Vec::new(),
        init: false,
        resources: Resources {
            cpu_millis: 100,
            cpu_max_millis: 0,
            memory: 1 << 26,
            pids: 64,
            files: 1024,
            scratch: 1 << 20,
        },
    }
}

#[test]
fn the_release_goes_before_the_image() {
    let image = image(
        r#""Entrypoint":["/app"],"Cmd":["-v"],"Env":["A=1","B=2"],"User":"web","WorkingDir":"srv/../data/",
        "Volumes":{"/var//cache/":{}},"StopSignal":"SIGQUIT""#,
    );
    let own = resolve(&image, &release()).unwrap();
    assert_eq!(own.argv, ["/app", "-v"]);
    assert_eq!((own.cwd.as_str(), own.user.as_str(), own.stop_signal), ("/data", "web", 3));
    assert_eq!(own.volumes, ["/var/cache"]);

    let spec = ReleaseSpec {
        command: vec!["/other".to_owned()],
        env: [("B", "3"), ("C", "4")].map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        user: "7".to_owned(),
        writable: vec!["/var/cache".to_owned(), "/a".to_owned()],
        ..release()
    };
    let process = resolve(&image, &spec).unwrap();
    assert_eq!(process.argv, ["/other"]);
    let env: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(env, [&format!("PATH={PATH}"), "A=1", "B=3", "C=4"]);
    assert_eq!(process.user, "7");
    assert_eq!(process.volumes, ["/a", "/var/cache"]);
}

#[test]
fn signals_by_name_and_number() {
    let check = |text: &str, number: Option<i32>| assert_eq!(signal(text).ok(), number, "{text}");
    check("SIGTERM", Some(15));
    check("sigusr1", Some(10));
    check("HUP", Some(1));
    check("SYS", Some(31));
    check("9", Some(9));
    check("SIGRTMIN+3", Some(37));
    check("RTMAX-1", Some(63));
    check("RTMIN", Some(34));
    check("0", None);
    check("65", None);
    check("RTMIN+99", None);
    check("SIGNONE", None);
    check("", None);
}

#[test]
fn what_can_not_be_run_is_refused() {
    let check = |config: &str, error: &ProcessError| {
        assert_eq!(resolve(&image(config), &release()).unwrap_err(), *error);
    };
    check("", &ProcessError::NoCommand);
    check(r#""Cmd":[""]"#, &ProcessError::EmptyCommand);
    check(r#""Cmd":["a\u0000b"]"#, &ProcessError::ZeroByte("the command"));
    check(r#""Cmd":["a"],"Env":["=x"]"#, &ProcessError::VariableName(String::new()));
    check(r#""Cmd":["a"],"StopSignal":"SIGFOO""#, &ProcessError::StopSignal("SIGFOO".to_owned()));
    check(r#""Cmd":["a"],"Volumes":{"/a/../..":{}}"#, &ProcessError::Volume("/a/../..".to_owned()));
    check(r#""Cmd":["a"],"Volumes":{"/":{}}"#, &ProcessError::Volume("/".to_owned()));
}

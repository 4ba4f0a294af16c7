//! Wrong words and wrong manifests: said with the place and the cure, before anything is sent.
//!
//! Nothing listens where these commands would send to. So whoever ends with 2 hasn't tried.
#![expect(clippy::unwrap_used, reason = "a test that can't write its manifest fails here")]

use std::{path::Path, process::Command};

use minato_tests::{Said, program, run};
use serde_json::Value;
use tempfile::TempDir;

/// A port that no server has.
const NOWHERE: &str = "http://127.0.0.1:1";

fn minato(folder: &Path, words: &[&str]) -> Said {
    run(Command::new(program())
        .args(words)
        .current_dir(folder)
        .env("MINATO_API", NOWHERE)
        .env("MINATO_TOKEN", "none")
        .env("NO_COLOR", "1"))
}

/// What a command says, as text and as JSON; both times with this status.
#[track_caller]
fn fails(folder: &Path, words: &[&str], status: i32) -> (String, Value) {
    let text = minato(folder, words);
    assert_eq!((text.code(), text.stdout.as_str()), (status, ""), "{words:?}: {}", text.stderr);
    let json = minato(folder, &[words, &["--json"]].concat());
    assert_eq!((json.code(), json.stderr.as_str()), (status, ""), "{words:?}: {}", json.stdout);
    let error = json.json()["error"].clone();
    assert!(error["code"].is_string() && error["message"].is_string(), "{words:?}: {error}");
    (text.stderr, error)
}

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("good.toml"),
        "app = \"shop\"\n[services.web]\nimage = \"shop/web:1\"\n",
    )
    .unwrap();
    folder
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let folder = folder();
    for words in [
        &["plan", "good.toml"][..],
        &["plan", "."],
        &["apply", "good.toml"],
        &["apply", "--wait", "good.toml"],
        &["delete", "shop"],
        &["status"],
        &["ps"],
        &["why", "shop/web"],
        &["logs", "shop/web"],
        &["logs", "-f", "shop/web"],
        &["events"],
        &["top", "--once"],
        &["release", "list", "shop/web"],
        &["build", "/bin/busybox", "-t", "shop/web:1"],
    ] {
        let (text, error) = fails(folder.path(), words, 5);
        assert!(text.contains("127.0.0.1:1 can't be reached"), "{words:?}: {text}");
        assert!(text.contains("sudo minato server"), "{words:?}: {text}");
        assert_eq!(error["code"], "unreachable", "{words:?}: {error}");
    }
}

#[test]
fn what_isnt_there_yet_is_refused_by_name() {
    let folder = folder();
    for words in [
        &["dev", "shop/web:1"][..],
        &["sign", "shop/web:1"],
        &["verify", "shop/web:1"],
        &["key", "new"],
        &["open"],
        &["rollback", "shop"],
        &["store", "list"],
        &["secret", "set"],
        &["tx", "list"],
        &["incidents"],
        &["mttr"],
        &["cost"],
        &["drill"],
        &["node", "list"],
        &["release", "promote", "shop/web"],
        &["apply", "--supersede", "good.toml"],
        &["server", "--join", "10.0.0.1:7070"],
    ] {
        let (text, error) = fails(folder.path(), words, 2);
        assert!(text.contains("is not supported yet"), "{words:?}: {text}");
        let name = words.iter().find(|word| word.starts_with("--")).unwrap_or(&words[0]);
        assert!(text.contains(name), "{words:?}: {text}");
        assert_eq!(error["code"], "not_supported", "{words:?}: {error}");
    }
}

#[test]
fn what_isnt_understood_is_refused() {
    let folder = folder();
    for (words, says) in [
        (&["nonsense"][..], "`minato nonsense` is no command; `minato --help`"),
        (&["ps", "--nope"], "unexpected argument '--nope'"),
        (&["plan"], "<FILES>"),
        (&["logs", "shop"], "write it as app/service"),
        (&["ps", "shop/web/1"], "neither an app nor app/service"),
        (&["ps", "Shop!"], "neither an app nor app/service"),
        (&["delete", "Shop!"], "Shop!"),
        (&["build", "/bin/busybox", "-t", "Shop//web"], "no image reference"),
        (&["build", "/bin/busybox", "-t", "other.example/web:1"], "another registry"),
        (&["build", "/bin/busybox", "-t", "shop/web:1", "--port", "0"], "0"),
        (&["build", "/bin/busybox", "-t", "shop/web:1", "--entrypoint", "[\"/bin"], "JSON array"),
        (&["server", "--api", "somewhere"], "somewhere"),
        (&["server", "--https", "8443"], "8443"),
        (&["server", "--api", "0.0.0.0:7070"], "`api_names`"),
    ] {
        let (text, error) = fails(folder.path(), words, 2);
        assert!(text.contains(says), "{words:?}: {text}");
        assert_eq!(error["code"], "invalid_request", "{words:?}: {error}");
    }
    let help = minato(folder.path(), &["--help"]).ok();
    assert!(help.stdout.contains("apply"), "{}", help.stdout);
}

#[test]
fn files_that_cant_be_read_are_named() {
    let folder = folder();
    let below = |name: &str| folder.path().join(name);
    std::fs::write(below("latin.toml"), b"app = \"caf\xe9\"\n").unwrap();
    std::fs::create_dir(below("empty")).unwrap();
    std::fs::write(below("large.toml"), vec![b'#'; 8 << 20]).unwrap();
    std::os::unix::fs::symlink("loop.toml", below("loop.toml")).unwrap();
    for (name, says) in [
        ("missing.toml", "No such file"),
        ("latin.toml", "UTF-8"),
        ("empty", "holds no .toml file"),
        ("large.toml", "1 MiB"),
        ("loop.toml", "symbolic links"),
    ] {
        for command in ["plan", "apply"] {
            let (text, _) = fails(folder.path(), &[command, name], 2);
            assert!(text.contains(name) && text.contains(says), "{name}: {text}");
        }
    }
    let (text, _) = fails(folder.path(), &["init", "good.toml"], 2);
    assert!(text.contains("is there already"), "{text}");
    let kept = std::fs::read_to_string(below("good.toml")).unwrap();
    assert!(kept.starts_with("app = \"shop\""), "it was overwritten: {kept}");
}

/// What is wrong in a manifest: its lines after `app`, then what the error has.
const WRONG: &[(&str, &str, u32, &str, &str, &str)] = &[
    ("prot = 8080", "unknown_key", 4, "services.web.prot", "`prot`", "`port`"),
    ("port = \"8080\"", "wrong_type", 4, "services.web.port", "port", ""),
    ("port = 0", "invalid_value", 4, "services.web.port", "65535", ""),
    ("hosts = \"shop.localhost\"", "wrong_type", 4, "services.web.hosts", "hosts", ""),
    ("timeout = \"30 s\"", "invalid_value", 4, "services.web.timeout", "30 s", "30s"),
    ("timeout = \"30x\"", "invalid_value", 4, "services.web.timeout", "30x", "30s"),
    ("timeout = 30", "wrong_type", 4, "services.web.timeout", "takes a string", "write it as"),
    ("drain = \"-1s\"", "invalid_value", 4, "services.web.drain", "-1s", ""),
    ("body_max = \"64\"", "invalid_value", 4, "services.web.body_max", "64", "MiB"),
    ("[services.web.scale]\nidel = \"1s\"", "unknown_key", 5, "services.web.scale.idel", "`idel`", "`idle`"),
    ("[services.web.scale]\nmin = 3\nmax = 2", "invalid_value", 4, "services.web.scale", "`min` 3", ""),
    ("resources = { memory = \"1KiB\" }", "invalid_value", 4, "services.web.resources", "4MiB", ""),
    ("paths = [\"api\"]", "invalid_value", 4, "services.web.paths", "`api`", "/api"),
    ("hosts = [\"*.localhost\"]", "invalid_value", 4, "services.web.hosts", "*.localhost", "wildcard"),
    ("rate = { per = \"ip\" }", "invalid_value", 4, "services.web.rate.per", "\"ip\"", "address"),
    ("protocol = \"tls\"", "invalid_value", 4, "services.web.protocol", "\"tls\"", "https"),
    (
        "[services.web.breaker]\nfailures = 0",
        "invalid_value",
        5,
        "services.web.breaker.failures",
        "failures",
        "",
    ),
    (
        "[services.web.release]\nstrategy = \"canary\"",
        "not_supported",
        5,
        "services.web.release.strategy",
        "canary",
        "",
    ),
    ("[stores.db]\nkind = \"redis\"", "not_supported", 4, "stores", "stores", ""),
    ("[services.api]\nport = 1", "missing_key", 4, "services.api", "no `image`", "image ="),
    ("port = ", "manifest_syntax", 4, "", "", ""),
    (
        "[services.api]\nimage = \"shop/api@sha256:abc\"",
        "invalid_value",
        5,
        "services.api.image",
        "what follows @ is no digest",
        "",
    ),
    ("image = \"other/web:1\"", "manifest_syntax", 4, "", "duplicate", ""),
];

#[test]
fn a_wrong_manifest_is_shown_with_line_key_and_cure() {
    let folder = folder();
    for (lines, code, line, key, says, hint) in WRONG {
        let text = format!("app = \"shop\"\n[services.web]\nimage = \"shop/web:1\"\n{lines}\n");
        std::fs::write(folder.path().join("wrong.toml"), &text).unwrap();
        let (said, error) = fails(folder.path(), &["apply", "wrong.toml"], 2);
        assert_eq!(error["code"], *code, "{lines}: {error}");
        assert_eq!(
            (&error["file"], &error["line"]),
            (&"wrong.toml".into(), &(*line).into()),
            "{lines}: {error}"
        );
        let found = error["key"].as_str().unwrap_or_default();
        assert!(found.starts_with(key), "{lines}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{lines}: {error}");
        let cure = format!("{} {}", error["message"], error["hint"]);
        assert!(cure.contains(hint), "{lines}: {error}");
        let index = usize::try_from(*line).unwrap() - 1;
        let place = format!("--> wrong.toml:{line}");
        assert!(said.contains(&place) && said.contains(text.lines().nth(index).unwrap()), "{lines}: {said}");
    }
}

#[test]
fn every_mistake_is_said_at_once() {
    let folder = folder();
    let text = "app = \"shop\"\n[services.web]\nimage = \"shop/web:1\"\nprot = 1\ntimeout = \"x\"\n";
    std::fs::write(folder.path().join("wrong.toml"), text).unwrap();
    let (said, _) = fails(folder.path(), &["plan", "wrong.toml"], 2);
    assert!(said.contains("wrong.toml:4") && said.contains("wrong.toml:5"), "{said}");
}

#[test]
fn a_host_and_path_twice_in_what_is_applied_together_is_refused() {
    let folder = folder();
    let service = |name: &str| {
        format!(
            "[services.{name}]\nimage = \"shop/{name}:1\"\nhosts = [\"shop.localhost\"]\npaths = [\"/api/\"]\n"
        )
    };
    let one = format!("app = \"shop\"\n{}{}", service("web"), service("api"));
    std::fs::write(folder.path().join("twice.toml"), one).unwrap();
    let (text, error) = fails(folder.path(), &["apply", "twice.toml"], 2);
    assert_eq!((&error["code"], &error["file"]), (&"route_taken".into(), &"twice.toml".into()), "{error}");
    // Both places, whichever is called the second one.
    assert!(text.contains("shop.localhost/api"), "{text}");
    assert!(text.contains("twice.toml:4") && text.contains("line 8"), "{text}");

    std::fs::write(folder.path().join("a.toml"), format!("app = \"a\"\n{}", service("web"))).unwrap();
    std::fs::write(folder.path().join("b.toml"), format!("app = \"b\"\n{}", service("web"))).unwrap();
    let (text, error) = fails(folder.path(), &["plan", "a.toml", "b.toml"], 2);
    assert_eq!((&error["code"], &error["file"]), (&"route_taken".into(), &"b.toml".into()), "{error}");
    assert!(text.contains("a/web"), "{text}");
    std::fs::write(folder.path().join("b.toml"), "app = \"a\"\n").unwrap();
    let (text, _) = fails(folder.path(), &["plan", "a.toml", "b.toml"], 2);
    assert!(text.contains("a.toml") && text.contains("b.toml"), "{text}");
}

use std::fmt::Write as _;

use minato_model::{
    digest::Digest,
    manifest::{Source, parse},
    tls::Leaf,
};

use super::*;
use crate::record::ServiceRecord;

/// An app's life, command by command: a script in, what each command says out.
///
/// `image NAME N [ports=1,2] [bare]` gives a reference an image, `apply` and `plan` take the manifest
/// that follows up to `end`, `files` says what the files of a service are, `fail SERVICE N` takes a release back, `delete` takes the app away.
fn play(script: &str) -> String {
    let mut shop = Shop::default();
    let mut out = String::new();
    let mut lines = script.lines();
    while let Some(line) = lines.next() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((command, arguments)) = words.split_first() else { continue };
        writeln!(out, "> {}", line.trim()).unwrap();
        match *command {
            "image" => shop.image(arguments),
            "fail" => shop.fail(arguments[0], arguments[1].parse().unwrap()),
            "files" => shop.files(arguments),
            "delete" => shop.delete(&mut out),
            "apply" | "plan" => {
                let text: String = lines
                    .by_ref()
                    .take_while(|line| line.trim() != "end")
                    .map(|line| format!("{}\n", line.trim()))
                    .collect();
                shop.plan(&text, *command == "apply", &mut out);
            }
            other => panic!("no command {other}"),
        }
    }
    out
}

#[derive(Default)]
struct Shop {
    images: BTreeMap<String, ResolvedImage>,
    declared: Option<Declared>,
    presented: BTreeMap<ServiceName, Presented>,
    known: BTreeMap<ServiceName, Known>,
}

fn digest(n: &str) -> Digest {
    format!("sha256:{}", n.repeat(64)).parse().unwrap()
}

impl Shop {
    fn image(&mut self, arguments: &[&str]) {
        let option = |name: &str| arguments.iter().find_map(|word| word.strip_prefix(name));
        let list = |text: &str| text.split(',').map(str::to_owned).collect();
        let image = ResolvedImage {
            digest: digest(arguments[1]),
            user: String::new(),
            ports: option("ports=")
                .map(|ports| ports.split(',').map(|port| port.parse().unwrap()).collect())
                .unwrap_or_default(),
            volumes: option("volumes=").map(list).unwrap_or_default(),
            has_command: !arguments.contains(&"bare"),
        };
        self.images.insert(arguments[0].to_owned(), image);
    }

    /// `files SERVICE ID DAYS [ROOTS]`, or `files SERVICE` for none.
    fn files(&mut self, arguments: &[&str]) {
        let service: ServiceName = arguments[0].parse().unwrap();
        let Some(id) = arguments.get(1) else {
            self.presented.remove(&service);
            return;
        };
        let days: i64 = arguments[2].parse().unwrap();
        let certificate = Leaf {
            sha256: id.repeat(64),
            names: vec!["shop.example".to_owned()],
            not_before: Moment(0),
            not_after: Moment(days * 86_400_000),
        };
        let client_roots = arguments.get(3).map(|roots| (roots.repeat(64), 2));
        let id = format!("{id}{}", arguments.get(3).unwrap_or(&""));
        let presented = Presented { id, certificate: Some(certificate), client_roots };
        self.presented.insert(service, presented);
    }

    fn plan(&mut self, text: &str, apply: bool, out: &mut String) {
        let manifest = parse(&[Source { name: "shop.toml", text }]).unwrap().remove(0);
        let images = manifest.services.iter();
        let images =
            images.map(|(name, service)| (name.clone(), self.images[&service.image.to_string()].clone()));
        let images: BTreeMap<_, _> = images.collect();
        let inputs = Inputs {
            manifest: &manifest,
            declared: self.declared.as_ref(),
            images: &images,
            presented: &self.presented,
            known: &self.known,
            now: Moment(0),
        };
        match plan(&inputs) {
            Ok(planned) => {
                show(&planned, out);
                if apply {
                    self.carry_out(planned);
                }
            }
            Err(problems) => {
                for problem in problems {
                    writeln!(
                        out,
                        "{} at {}: {}",
                        problem.code,
                        problem.key.unwrap_or_default(),
                        problem.message
                    )
                    .unwrap();
                }
            }
        }
    }

    fn delete(&mut self, out: &mut String) {
        let planned = delete(self.declared.as_ref().unwrap(), "the app is deleted");
        show(&planned, out);
        self.carry_out(planned);
    }

    fn carry_out(&mut self, planned: Planned) {
        for step in planned.steps {
            let Step::Release { service, release, .. } = step else { continue };
            let known = self.known.entry(service).or_default();
            known.last_release = known.last_release.max(release.number);
            known.taken_back.remove(&release.hash);
            known.releases.insert(release.number, *release);
        }
        self.declared = planned.next;
    }

    fn fail(&mut self, service: &str, number: ReleaseNumber) {
        let known = self.known.get_mut(&service.parse::<ServiceName>().unwrap()).unwrap();
        let hash = known.releases[&number].hash.clone();
        let taken = TakenBack { number, code: None, reason: "it exited".to_owned(), at: Moment(0) };
        known.taken_back.insert(hash, taken);
    }
}

fn show(planned: &Planned, out: &mut String) {
    if planned.plan.changes.is_empty() {
        writeln!(out, "nothing to do").unwrap();
    }
    for change in &planned.plan.changes {
        let action = serde_json::to_value(change.action).unwrap();
        let (from, to) = (change.from.as_deref().unwrap_or("-"), change.to.as_deref().unwrap_or("-"));
        writeln!(out, "{} {}: {from} -> {to}: {}", action.as_str().unwrap(), change.what, change.reason)
            .unwrap();
    }
}

#[track_caller]
fn check(script: &str, expected: &str) {
    let clean = |text: &str| {
        text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
    };
    let said = play(script);
    assert_eq!(clean(&said), clean(expected), "said:\n{said}");
}

#[test]
fn an_app_comes_stays_moves_and_goes() {
    check(
        r#"
        image shop/web:1 1
        image shop/cart:1 2
        apply
            app = "shop"
            [services.web]
            image = "shop/web:1"
            [services.cart]
            image = "shop/cart:1"
        end
        plan
            app = "shop"
            [services.web]
            image = "shop/web:1"
            [services.cart]
            image = "shop/cart:1"
        end
        image shop/web:1 3
        apply
            app = "shop"
            [services.web]
            image = "shop/web:1"
        end
        delete
        "#,
        "
        > image shop/web:1 1
        > image shop/cart:1 2
        > apply
        create shop/cart: - -> release 1 (222222222222): it is new: shop/cart:1 is 222222222222
        create shop/web: - -> release 1 (111111111111): it is new: shop/web:1 is 111111111111
        > plan
        nothing to do
        > image shop/web:1 3
        > apply
        release shop/web: release 1 (111111111111) -> release 2 (333333333333): shop/web:1 moved from 111111111111 to 333333333333
        delete shop/cart: - -> -: it is no longer in the manifest
        > delete
        delete shop/web: - -> -: the app is deleted
        ",
    );
}

#[test]
fn how_instances_are_renewed_belongs_to_the_service() {
    check(
        r#"
        image a:1 1
        apply
            app = "shop"
            [services.web]
            image = "a:1"
        end
        plan
            app = "shop"
            [services.web]
            image = "a:1"
            drain_streams = "1h"
            recycle = { requests = 1_000_000, age = "2h", in_flight = 2.0, memory_growth = 0.5 }
        end
        apply
            app = "shop"
            [services.web]
            image = "a:1"
            drain_streams = "90s"
            recycle = { requests = 0, age = "1d", in_flight = 1.5, memory_growth = 0 }
        end
        "#,
        r#"
        > image a:1 1
        > apply
        create shop/web: - -> release 1 (111111111111): it is new: a:1 is 111111111111
        > plan
        nothing to do
        > apply
        update shop/web drain_streams: 1h -> 90s: it belongs to the service: nothing starts anew
        update shop/web recycle.requests: 1000000 -> 0: it belongs to the service: nothing starts anew
        update shop/web recycle.age: 2h -> 1d: it belongs to the service: nothing starts anew
        update shop/web recycle.in_flight: 2 -> 1.5: it belongs to the service: nothing starts anew
        update shop/web recycle.memory_growth: 0.5 -> 0: it belongs to the service: nothing starts anew
        "#,
    );
}

#[test]
fn a_release_says_what_differs_but_no_value_of_its_environment() {
    check(
        r#"
        image a:1 1
        image a:2 1
        apply
            app = "shop"
            [services.web]
            image = "a:1"
            env = { A = "one", B = "secret", C = "c" }
        end
        apply
            app = "shop"
            [services.web]
            image = "a:1"
            port = 9000
            command = ["/bin/web", "-v"]
            init = false
            env = { B = "other", C = "c", D = "d" }
            resources = { memory = "1GiB", cpu = 0.25 }
        end
        apply
            app = "shop"
            [services.web]
            image = "a:1"
            env = { A = "one", B = "secret", C = "c" }
        end
        plan
            app = "shop"
            [services.web]
            image = "a:2"
            env = { A = "one", B = "secret", C = "c" }
        end
        "#,
        r#"
        > image a:1 1
        > image a:2 1
        > apply
        create shop/web: - -> release 1 (111111111111): it is new: a:1 is 111111111111
        > apply
        release shop/web: release 1 (111111111111) -> release 2 (111111111111): env: added D; changed B; removed A; command [] became ["/bin/web", "-v"]; port 8080 became 9000; init true became false; resources.cpu 0.5 became 0.25; resources.memory 128MiB became 1GiB
        > apply
        release shop/web: release 2 (111111111111) -> release 1 (111111111111): env: added A; changed B; removed D; command ["/bin/web", "-v"] became []; port 9000 became 8080; init false became true; resources.cpu 0.25 became 0.5; resources.memory 1GiB became 128MiB
        > plan
        update shop/web image: "a:1" -> "a:2": another name of the same image: nothing starts anew
        "#,
    );
}

#[test]
fn what_belongs_to_the_service_starts_nothing_anew() {
    check(
        r#"
        image a:1 1
        apply
            app = "shop"
            [services.web]
            image = "a:1"
        end
        apply
            app = "shop"
            [services.web]
            image = "a:1"
            hosts = ["shop.localhost"]
            timeout = "90s"
            health = { path = "/healthz" }
            scale = { max = 4, idle = "2h" }
        end
        "#,
        r#"
        > image a:1 1
        > apply
        create shop/web: - -> release 1 (111111111111): it is new: a:1 is 111111111111
        > apply
        update shop/web hosts: [] -> ["shop.localhost"]: it belongs to the service: nothing starts anew
        update shop/web timeout: 30s -> 90s: it belongs to the service: nothing starts anew
        update shop/web health.path: none -> "/healthz": it belongs to the service: nothing starts anew
        update shop/web health.every: none -> 2s: it belongs to the service: nothing starts anew
        update shop/web scale.max: 20 -> 4: it belongs to the service: nothing starts anew
        update shop/web scale.idle: 1m -> 2h: it belongs to the service: nothing starts anew
        "#,
    );
}

#[test]
fn a_release_taken_back_is_shown_with_its_evidence_until_it_is_tried_again() {
    check(
        r#"
        image a:1 1
        apply
            app = "shop"
            [services.web]
            image = "a:1"
        end
        image a:1 2
        apply
            app = "shop"
            [services.web]
            image = "a:1"
        end
        fail web 2
        apply
            app = "shop"
            [services.web]
            image = "a:1"
        end
        plan
            app = "shop"
            [services.web]
            image = "a:1"
        end
        "#,
        "
        > image a:1 1
        > apply
        create shop/web: - -> release 1 (111111111111): it is new: a:1 is 111111111111
        > image a:1 2
        > apply
        release shop/web: release 1 (111111111111) -> release 2 (222222222222): a:1 moved from 111111111111 to 222222222222
        > fail web 2
        > apply
        release shop/web: release 2 (222222222222) -> release 2 (222222222222): it was taken back (refused: release 2 was taken back at 1970-01-01T00:00:00.000Z: it exited; --retry tries it again)
        > plan
        nothing to do
        ",
    );
}

#[test]
fn ports_and_commands_come_from_the_image_where_they_can() {
    check(
        r#"
        image one:1 1 ports=3000 volumes=/data,/cache
        image two:1 2 ports=80,443
        image bare:1 3 bare
        plan
            app = "shop"
            [services.bare]
            image = "bare:1"
            [services.two]
            image = "two:1"
        end
        apply
            app = "shop"
            [services.bare]
            image = "bare:1"
            command = ["/x"]
            [services.one]
            image = "one:1"
            writable = ["/var", "/cache"]
            [services.two]
            image = "two:1"
            port = 443
        end
        "#,
        "
        > image one:1 1 ports=3000 volumes=/data,/cache
        > image two:1 2 ports=80,443
        > image bare:1 3 bare
        > plan
        missing_key at services.bare.command: the image bare:1 has neither entrypoint nor command, so nothing says what to run
        missing_key at services.two.port: the image two:1 exposes several ports (80, 443), so the service must say which one is its own
        > apply
        create shop/bare: - -> release 1 (333333333333): it is new: bare:1 is 333333333333
        create shop/one: - -> release 1 (111111111111): it is new: one:1 is 111111111111
        create shop/two: - -> release 1 (222222222222): it is new: two:1 is 222222222222
        ",
    );
}

#[test]
fn an_id_stands_for_the_changes_and_the_declaration() {
    let mut shop = Shop::default();
    shop.image(&["a:1", "1"]);
    let manifest = |env: &str| {
        let text = format!(
            "app = \"shop\"\n[services.web]\nimage = \"a:1\"\nport = 80\nenv = {{ A = \"{env}\" }}\n"
        );
        parse(&[Source { name: "shop.toml", text: &text }]).unwrap().remove(0)
    };
    let id = |manifest: &Manifest, declared: Option<&Declared>, now: i64| {
        let images = BTreeMap::from([("web".parse().unwrap(), shop.images["a:1"].clone())]);
        let (known, presented) = (BTreeMap::new(), BTreeMap::new());
        let now = Moment(now);
        plan(&Inputs { manifest, declared, images: &images, presented: &presented, known: &known, now })
            .unwrap()
            .plan
            .id
    };
    let (one, other) = (manifest("1"), manifest("2"));
    assert_eq!(id(&one, None, 0), id(&one, None, 9));
    assert_ne!(id(&one, None, 0), id(&other, None, 0), "a value that the plan doesn't show still counts");
    let declared = Declared {
        generation: Generation(7),
        manifest: one.clone(),
        releases: BTreeMap::new(),
        presented: BTreeMap::new(),
    };
    assert_ne!(id(&one, None, 0), id(&one, Some(&declared), 0));
}

#[test]
fn the_memory_of_what_was_taken_back_is_bounded() {
    let mut record = ServiceRecord { virtual_offset: 2, last_release: 0, taken_back: BTreeMap::new() };
    for number in 1..=1000 {
        let taken = TakenBack { number, code: None, reason: String::new(), at: Moment(0) };
        record.take_back(&format!("{number:064}"), taken);
    }
    assert_eq!(record.taken_back.len(), 128);
    assert!(record.taken_back.values().all(|taken| taken.number > 1000 - 128));
}

#[test]
fn certificates_change_without_a_release() {
    let shop = |keys: &str| {
        format!("app = \"shop\"\n[services.web]\nimage = \"a:1\"\nhosts = [\"shop.example\"]\n{keys}\nend\n")
    };
    let (files, none) = (shop("tls = { certificate = \"a\", key = \"b\", redirect = true }"), shop(""));
    let script = format!(
        "image a:1 1\nfiles web 1 90\napply\n{files}plan\n{files}files web 2 180 c\napply\n{files}plan\n{files}files web\nplan\n{none}"
    );
    check(
        &script,
        r#"
        > image a:1 1
        > files web 1 90
        > apply
        create shop/web: - -> release 1 (111111111111): it is new: a:1 is 111111111111
        update shop/web tls: - -> certificate 1111111111111111 for shop.example, valid until 1970-04-01T00:00:00.000Z: files come: handshakes from now on
        > plan
        nothing to do
        > files web 2 180 c
        > apply
        update shop/web tls: certificate 1111111111111111 for shop.example, valid until 1970-04-01T00:00:00.000Z -> certificate 2222222222222222 for shop.example, valid until 1970-06-30T00:00:00.000Z; clients by 2 roots (cccccccccccccccc): files change: handshakes from now on, connections and instances stay
        > plan
        nothing to do
        > files web
        > plan
        update shop/web tls.certificate: "a" -> none: it belongs to the service: nothing starts anew
        update shop/web tls.key: "b" -> none: it belongs to the service: nothing starts anew
        update shop/web tls.redirect: true -> false: it belongs to the service: nothing starts anew
        update shop/web tls: certificate 2222222222222222 for shop.example, valid until 1970-06-30T00:00:00.000Z; clients by 2 roots (cccccccccccccccc) -> -: files go: its hosts have the cluster's certificate, or one by ACME
        "#,
    );
}

use super::*;

const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn image(more: &str, layers: &str) -> String {
    format!(
        r#"{{"schemaVersion":2,{more}"config":{{"mediaType":"{}","digest":"{DIGEST}","size":7}},"layers":[{layers}]}}"#,
        media::OCI_CONFIG
    )
}

fn layer(media_type: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{DIGEST}","size":32654}}"#)
}

fn index(platforms: &[&str]) -> ImageIndex {
    let manifests = platforms.iter().enumerate().map(|(at, text)| {
        let mut parts = text.split('/').map(str::to_owned);
        let mut entry = Descriptor::new(media::OCI_MANIFEST, DIGEST.parse().unwrap(), at as u64);
        entry.platform = parts.next().filter(|os| !os.is_empty()).map(|os| Platform {
            os,
            architecture: parts.next().unwrap(),
            variant: parts.next(),
        });
        entry
    });
    ImageIndex {
        schema_version: 2,
        media_type: None,
        artifact_type: None,
        manifests: manifests.collect(),
        subject: None,
        annotations: None,
    }
}

fn platform(os: &str, architecture: &str, variant: Option<&str>) -> Platform {
    Platform { os: os.to_owned(), architecture: architecture.to_owned(), variant: variant.map(str::to_owned) }
}

#[test]
fn reads_both_families_and_lists_what_they_refer_to() {
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let text = image(
        &format!(r#""mediaType":"{}","#, media::DOCKER_MANIFEST),
        &format!("{},{}", layer(media::DOCKER_LAYER_GZIP), layer(foreign)),
    );
    let document = parse(text.as_bytes(), Some(media::DOCKER_MANIFEST)).unwrap();
    let roles: Vec<Role> = document.descriptors().map(|(role, _)| role).collect();
    assert_eq!(roles, [Role::Config, Role::Layer, Role::ForeignLayer]);
    assert_eq!(document.media_type(), media::DOCKER_MANIFEST);

    let bare = parse(image("", "").as_bytes(), None).unwrap();
    assert_eq!(bare.media_type(), media::OCI_MANIFEST);

    let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, layer(media::OCI_MANIFEST));
    let document = parse(text.as_bytes(), Some("application/vnd.oci.image.index.v1+json; charset=utf-8"));
    assert!(matches!(document, Ok(Document::Index(index)) if index.manifests.len() == 1));
}

#[test]
fn refuses_what_is_no_manifest() {
    let check = |text: &str, sent: Option<&str>, message: &str| {
        let error = parse(text.as_bytes(), sent).unwrap_err().to_string();
        assert!(error.contains(message), "`{error}` does not say `{message}`");
    };
    check("{", None, "line 1");
    check("[]", None, "no image manifest");
    check(r#"{"schemaVersion":1,"layers":[]}"#, None, "schema version 1");
    check(r#"{"schemaVersion":2}"#, None, "neither");
    check(r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#, None, "both");
    check(&image("", ""), Some("text/html"), "text/html");
    check(&image("", ""), Some(media::OCI_INDEX), "an image");
    let written = format!(r#""mediaType":"{}","#, media::DOCKER_MANIFEST);
    check(&image(&written, ""), Some(media::OCI_MANIFEST), "calls itself");
    check(&image("", &vec![layer(media::OCI_LAYER_GZIP); 129].join(",")), None, "129 layers");
    check(&image("", &layer("x").replace("32654", "-1")), None, "-1");
    check(&image("", &layer("x").replace("sha256", "md5")), None, "no digest");
    check(&" ".repeat(MANIFEST_BYTES_MAX + 1), None, "at most");
    check(&"[".repeat(100_000), None, "no image manifest");
}

#[test]
fn chooses_by_platform_and_generation() {
    let check = |offered: &[&str], machine: &Platform, expected: Option<u64>| {
        assert_eq!(index(offered).choose(machine).ok().map(|entry| entry.size), expected, "{offered:?}");
    };
    let amd64 = platform("linux", "amd64", Some("v3"));
    check(&["linux/arm64/v8", "linux/amd64"], &amd64, Some(1));
    check(&["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], &amd64, Some(1));
    check(&["linux/amd64", "linux/amd64"], &amd64, Some(0));
    check(&["windows/amd64", "unknown/unknown"], &amd64, None);
    check(&["linux/amd64/strange"], &amd64, None);
    check(&[""], &amd64, Some(0));
    check(&["", "linux/arm64"], &amd64, None);
    check(&[], &amd64, None);
    let arm = platform("linux", "arm", Some("v6"));
    check(&["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"], &arm, Some(2));
    check(&["linux/arm64", "linux/arm64/v8"], &platform("linux", "arm64", None), Some(0));

    let error = index(&["linux/arm64/v8", "linux/s390x"]).choose(&amd64).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no image for linux/amd64/v3, only for linux/arm64/v8, linux/s390x"
    );
}

#[test]
fn reads_a_configuration_with_dockers_nulls() {
    let text = format!(
        r#"{{"architecture":"amd64","os":"linux","variant":"","config":{{"User":"web:www","ExposedPorts":{{
        "8080/tcp":{{}},"53/udp":{{}},"80":{{}},"x/tcp":{{}}}},"Env":["A=1=2","B"],"Cmd":null,"Entrypoint":["/app"],
        "Volumes":{{"/data":{{}}}},"WorkingDir":"/srv","StopSignal":"SIGQUIT","Labels":null,"OnBuild":null}},
        "rootfs":{{"type":"layers","diff_ids":["{DIGEST}"]}},"history":[]}}"#
    );
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.user, "web:www");
    assert_eq!(config.ports, [80, 8080]);
    assert_eq!(config.env, [("A".to_owned(), "1=2".to_owned()), ("B".to_owned(), String::new())]);
    assert_eq!(config.volumes, ["/data"]);
    assert_eq!(config.stop_signal.as_deref(), Some("SIGQUIT"));
    assert_eq!(config.platform, platform("linux", "amd64", None));
    assert!(config.has_command());

    let bare = ImageConfig::parse(br#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{}}"#);
    assert!(!bare.unwrap().has_command());
    assert!(ImageConfig::parse(b"{}").is_err());
}

#[test]
fn layers_are_known_by_media_type() {
    assert!(media::is_layer(media::OCI_LAYER_GZIP));
    assert!(media::is_layer(media::DOCKER_LAYER_GZIP));
    assert!(media::is_layer("application/vnd.oci.image.layer.v1.tar+zstd"));
    assert!(media::is_layer("application/vnd.oci.image.layer.v1.tar"));
    assert!(!media::is_layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"));
    assert!(!media::is_layer(media::OCI_CONFIG));
}

//! Acts 1 and 2: images and the manifest.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use http::Method;
use minato_image::pack::{PackRequest, pack};
use minato_model::reference::ImageReference;
use tokio::time::Instant;

use super::{
    cluster::{Cluster, HOST},
    say, version,
};
use crate::{failure::Failure, push};

const SERVICES: [&str; 3] = ["storefront", "product", "cart"];

pub(super) async fn pack_and_push(cluster: &Cluster) -> Result<(), Failure> {
    for service in SERVICES {
        image(cluster, service, 1).await?;
    }
    Ok(())
}

/// Packs this program as a service's image of a version, and pushes it.
pub(super) async fn image(cluster: &Cluster, service: &str, version: u32) -> Result<(), Failure> {
    let begun = Instant::now();
    let program = std::env::current_exe().context("can't find this program")?;
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or("minato").to_owned();
    let words = [format!("/usr/local/bin/{name}"), "market".to_owned(), service.to_owned()];
    let request = PackRequest {
        source: program,
        entrypoint: words.to_vec(),
        cmd: Vec::new(),
        env: vec![("MARKET_VERSION".to_owned(), version.to_string())],
        port: Some(8080),
        user: "65534:65534".to_owned(),
        workdir: String::new(),
        labels: BTreeMap::new(),
    };
    let packed = tokio::task::spawn_blocking(move || pack(&request)).await.context("packing ended")?;
    let packed = Arc::new(packed.map_err(|error| Failure::Failed(anyhow::Error::new(error)))?);
    let reference: ImageReference = format!("market/{service}:{version}")
        .parse()
        .map_err(|error| Failure::Failed(anyhow::Error::new(error)))?;
    let pushed = push::image(&cluster.client, &reference, &packed).await?;
    say(&format!(
        "   market/{service}:{version}  {:.1} MB, {:.1} MB of it new to the registry, in {} ms",
        megabytes(pushed.bytes),
        megabytes(pushed.sent),
        begun.elapsed().as_millis()
    ));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people, to a tenth")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The manifest, with the storefront at a version.
fn manifest(version: u32) -> String {
    format!(
        r#"app = "market"

[services.storefront]
image = "market/storefront:{version}"
hosts = ["{HOST}"]
scale = {{ concurrency = 8, max = 8, idle = "4s" }}

[services.product]
image = "market/product:1"
scale = {{ idle = "20s" }}

[services.cart]
image = "market/cart:1"
scale = {{ max = 1, idle = "10m" }}
"#
    )
}

/// Applies the first version.
pub(super) async fn apply(cluster: &Cluster) -> Result<(), Failure> {
    let begun = Instant::now();
    put(cluster, 1).await?;
    say(&format!(
        "   applied; the routes are in force after {} ms, and nothing runs",
        begun.elapsed().as_millis()
    ));
    for service in SERVICES {
        version::stable(cluster, service).await?;
    }
    say(&format!("   their root file systems are prepared after {} ms", begun.elapsed().as_millis()));
    let again = put(cluster, 1).await?;
    let changes =
        again.pointer("/plans/0/changes").and_then(|changes| changes.as_array()).map_or(0, Vec::len);
    say(&format!("   applied again: {changes} changes"));
    Ok(())
}

/// Makes a version the declared state; the API's answer.
pub(super) async fn put(cluster: &Cluster, version: u32) -> Result<serde_json::Value, Failure> {
    let body = serde_json::json!({ "files": [{ "name": "market.toml", "text": manifest(version) }] });
    cluster.client.call(Method::POST, "/api/v1/apply", Some(body)).await
}

//! Act 3: the first request, from nothing.

use super::{cluster::Cluster, load, say};
use crate::failure::Failure;

pub(super) async fn play(cluster: &Cluster) -> Result<(), Failure> {
    let answer = load::one(cluster.edge, "/ping").await?;
    let ms = answer.took.as_secs_f64() * 1e3;
    say(&format!(
        "   GET {}ping: {} after {ms:.1} ms, the start of its instance included",
        cluster.url(),
        answer.status
    ));
    for phase in answer.timing.iter().flat_map(|timing| timing.split(',')) {
        if let Some((name, ms)) = phase.trim().split_once(";dur=") {
            say(&format!("      {name:10} {ms:>7} ms"));
        }
    }
    let warm = load::one(cluster.edge, "/ping").await?;
    say(&format!("   the same again: {:.1} ms", warm.took.as_secs_f64() * 1e3));
    let through = load::one(cluster.edge, "/products").await?;
    let ms = through.took.as_secs_f64() * 1e3;
    say(&format!(
        "   GET /products, which the storefront asks of a service that wasn't running either: {ms:.1} ms"
    ));
    Ok(())
}

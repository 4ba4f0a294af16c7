//! Certificates from files on their way from the cluster state to the edge.

use std::sync::Arc;

use minato_identity::files;
use minato_model::{
    ids::Generation,
    keys,
    tls::{Files, Secret, Secured},
};
use minato_state::{State, Write};

use crate::ground::{Ground, run};

/// A certificate of its own, with its key, and what it is called.
fn made(host: &str) -> (Files, String) {
    let made = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
    let files = Files {
        certificate: Some(made.cert.pem()),
        key: Some(Secret::new(made.signing_key.serialize_pem())),
        client_ca: Some(made.cert.pem()),
    };
    let id = files::read(&files).unwrap().presented.id;
    (files, id)
}

async fn keep(ground: &Ground, id: &str, value: Vec<u8>) {
    let key = keys::door(&crate::ground::key(1).service, id);
    ground.state.commit(Vec::new(), vec![Write::Put { key, value }]).await.unwrap();
}

fn last(ground: &Ground) -> Option<Arc<Secured>> {
    ground.edge.seen().secured.last().cloned()
}

#[test]
fn files_are_handed_to_the_edge_before_the_routes_and_again_after_a_restart() {
    run(async |ground| {
        let agent = ground.agent().await;
        let (first, id) = made("cart.localhost");
        keep(&ground, &id, serde_json::to_vec(&first).unwrap()).await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.route.tls.files = Some(id);
        ground.apply(&slice).await;
        let secured = ground.until("secured", async || last(&ground)).await;
        assert_eq!(secured.certificates[0].hosts, ["cart.localhost"]);
        assert_eq!(secured.client_roots[0].roots, secured.certificates[0].chain);
        assert!(ground.edge.seen().secured.len() == 1, "once");

        let (second, id) = made("cart.localhost");
        keep(&ground, &id, serde_json::to_vec(&second).unwrap()).await;
        slice.generation = Generation(2);
        slice.route.tls.files = Some(id);
        ground.apply(&slice).await;
        let changed = async || last(&ground).filter(|now| now.certificates != secured.certificates);
        let changed = ground.until("changed", changed).await;

        agent.leave().await;
        drop(agent);
        *ground.edge.seen() = Default::default();
        let agent = ground.agent().await;
        assert_eq!(last(&ground).unwrap(), changed, "before the start is done");
        slice.generation = Generation(3);
        slice.route.tls.files = None;
        ground.apply(&slice).await;
        ground.until("gone", async || last(&ground).filter(|now| **now == Secured::default())).await;
        agent.stop(true).await;
    });
}

#[test]
fn files_that_can_not_be_read_leave_what_was() {
    run(async |ground| {
        let agent = ground.agent().await;
        let (files, id) = made("cart.localhost");
        keep(&ground, &id, serde_json::to_vec(&files).unwrap()).await;
        let mut slice = ground.slice(1, 1, &[]);
        slice.route.tls.files = Some(id);
        ground.apply(&slice).await;
        let before = ground.until("secured", async || last(&ground)).await;
        keep(&ground, "torn", b"{\"certificate\":\"-----BEGIN".to_vec()).await;
        for (generation, id) in [(2, "missing"), (3, "torn")] {
            slice.generation = Generation(generation);
            slice.route.tls.files = Some(id.to_owned());
            ground.apply(&slice).await;
            let told = async || {
                let told = ground.events().into_iter().filter(|event| event.kind == "certificate_unusable");
                (told.count() as u64 == generation - 1).then_some(())
            };
            ground.until("told", told).await;
        }
        assert_eq!(last(&ground).unwrap(), before);
        agent.stop(true).await;
    });
}

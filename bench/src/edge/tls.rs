//! The edge with TLS beside nginx and HAProxy with the same certificate: at the door, and to instances by
//! mutual TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    Arguments, Case, Client, Figures, Place, Side, addresses, compare,
    peers::{Mutual, Peer, Setup},
    ratio,
};
use crate::{
    image::Program,
    machine,
    minato::{self, Server},
    patience::Patience,
    processes::{expect, run},
    promises::Promises,
};

/// The name that every client asks for: one that resolves without a resolver, as TLS takes it from the
/// address.
const HOST: &str = "localhost";

const FRONT: [Case; 5] = [
    Case { name: "HTTP/1.1, 1 connection", client: Client::Http1("/small"), connections: 1 },
    Case { name: "HTTP/1.1, 64 connections", client: Client::Http1("/small"), connections: 64 },
    Case { name: "HTTP/1.1, 256 KiB, 64 connections", client: Client::Http1("/large"), connections: 64 },
    Case { name: "HTTP/2, 16 connections of 16 streams", client: Client::Http2("/small"), connections: 16 },
    Case { name: "full handshakes", client: Client::Handshakes("/small"), connections: 2000 },
];

const BACK: [Case; 1] = [Case {
    name: "mutual TLS to the instances, HTTP/1.1, 64 connections",
    client: Client::Http1("/small"),
    connections: 64,
}];

pub(crate) fn run_all(arguments: &Arguments, patience: &Patience) -> Result<Promises> {
    for program in ["nginx", "haproxy", "wrk", "h2load", "openssl"] {
        expect(program)?;
    }
    let (folder, server) = minato::served(patience, Program::Quick)?;
    println!("{} threads each; {} rounds of {} s\n", machine::cores(), arguments.rounds, arguments.seconds);
    let mut promises = at_the_door(arguments, patience, folder.path(), &server)?;
    server.push(patience, folder.path(), Program::Sealed)?;
    promises.extend(to_instances(arguments, patience, folder.path(), &server)?);
    Ok(promises)
}

/// TLS from clients; instances in plain.
fn at_the_door(
    arguments: &Arguments,
    patience: &Patience,
    folder: &Path,
    server: &Server,
) -> Result<Promises> {
    let certificate = self_signed(patience, &server.folder())?;
    let keys = "scale = { min = 2, max = 2, concurrency = 3000 }\nresources = { memory = \"64MiB\" }\n\
                recycle = { requests = 0 }\ntls = { certificate = \"front.crt\", key = \"front.key\" }";
    server.apply(patience, &manifest(Program::Quick, keys))?;
    let instances = addresses(server, patience, 2)?;
    let setup = Setup { certificate: Some(&certificate), ..Setup::default() };
    let peers = peers(patience, folder, &instances, setup)?;
    compare(arguments, patience, (&FRONT, &sides(server, server.https(), &peers, true)), promise_of_the_door)
}

/// TLS to instances, each of which proves which one it is; clients in plain.
fn to_instances(
    arguments: &Arguments,
    patience: &Patience,
    folder: &Path,
    server: &Server,
) -> Result<Promises> {
    let keys = "protocol = \"https\"\nscale = { min = 2, max = 2, concurrency = 3000 }\n\
                resources = { memory = \"64MiB\" }\nrecycle = { requests = 0 }";
    server.apply(patience, &manifest(Program::Sealed, keys))?;
    let instances = addresses(server, patience, 2)?;
    let (own, roots) = client_certificate(patience, server)?;
    let mutual = Mutual { own: &own, roots: &roots, name: "s0.bench.internal" };
    let peers = peers(patience, folder, &instances, Setup { mutual: Some(mutual), ..Setup::default() })?;
    let sides = sides(server, server.http(), &peers, false);
    compare(arguments, patience, (&BACK, &sides), |promises, _, rounds| {
        promises.at_most("mutual TLS: cpu a request, of nginx", cpu(rounds, 1), 0.9, 0.76);
    })
}

fn manifest(program: Program, keys: &str) -> String {
    let image = program.image();
    format!("app = \"bench\"\n[services.s0]\nimage = \"{image}\"\nhosts = [\"{HOST}\"]\n{keys}\n")
}

fn peers(
    patience: &Patience,
    folder: &Path,
    instances: &[SocketAddr],
    setup: Setup<'_>,
) -> Result<[Peer; 2]> {
    Ok([Peer::nginx(patience, folder, instances, setup)?, Peer::haproxy(patience, folder, instances, setup)?])
}

fn sides<'a>(
    server: &'a Server,
    own: SocketAddr,
    [nginx, haproxy]: &'a [Peer; 2],
    tls: bool,
) -> [Side<'a>; 3] {
    // One address for both protocols: the handshake tells.
    let at = |address| Place { address, http2: address, host: HOST, tls };
    [
        Side { name: "Minato", place: at(own), pids: Box::new(|| Ok(vec![server.pid()])) },
        Side { name: "nginx", place: at(nginx.address), pids: Box::new(|| nginx.pids()) },
        Side { name: "HAProxy", place: at(haproxy.address), pids: Box::new(|| haproxy.pids()) },
    ]
}

fn cpu(rounds: &[Vec<Figures>], peer: usize) -> f64 {
    ratio(rounds, peer, |figures| figures.cpu)
}

fn promise_of_the_door(promises: &mut Promises, case: &Case, rounds: &[Vec<Figures>]) {
    let rate = |peer| ratio(rounds, peer, |figures| figures.seen.rate);
    match case.name {
        "HTTP/1.1, 64 connections" => {
            promises.at_most("TLS, HTTP/1.1: cpu a request, of nginx", cpu(rounds, 1), 0.8, 0.66);
            promises.at_most("TLS, HTTP/1.1: cpu a request, of HAProxy", cpu(rounds, 2), 0.95, 0.8);
        }
        "HTTP/2, 16 connections of 16 streams" => {
            promises.at_least("TLS, HTTP/2: requests/s, of nginx", rate(1), 1.4, 1.7);
            promises.at_least("TLS, HTTP/2: requests/s, of HAProxy", rate(2), 1.0, 1.1);
        }
        "full handshakes" => promises.at_most("full handshake: cpu, of nginx", cpu(rounds, 1), 0.7, 0.58),
        _ => {}
    }
}

/// A certificate for [`HOST`] beside the manifest; returns the file that holds it with its key.
fn self_signed(patience: &Patience, folder: &Path) -> Result<PathBuf> {
    let (certificate, key) = (folder.join("front.crt"), folder.join("front.key"));
    let mut command = openssl(&["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", &format!("/CN={HOST}")]);
    command.args(["-addext", &format!("subjectAltName=DNS:{HOST}")]);
    run(patience, command.arg("-out").arg(&certificate).arg("-keyout").arg(&key))?;
    both(&folder.join("front.pem"), &[&certificate, &key])
}

/// What shows a peer to instances as the edge shows itself: a certificate by the node's own authority. And
/// the roots that instances' certificates go back to.
fn client_certificate(patience: &Patience, server: &Server) -> Result<(PathBuf, PathBuf)> {
    let folder = server.folder();
    let at = |name: &str| folder.join(name);
    std::fs::write(at("roots.pem"), server.roots(patience)?)?;
    let authority = newest_node_certificate(&server.data().join("identity"))?;
    let mut request = openssl(&["req", "-new", "-nodes", "-newkey", "ec", "-subj", "/CN=peer"]);
    request.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    run(patience, request.arg("-out").arg(at("peer.csr")).arg("-keyout").arg(at("peer.key")))?;
    let mut sign = openssl(&["x509", "-req", "-days", "1", "-set_serial", "7"]);
    sign.arg("-in").arg(at("peer.csr")).arg("-out").arg(at("peer.crt"));
    sign.arg("-CA").arg(&authority).arg("-CAkey").arg(authority.with_extension("key"));
    run(patience, &mut sign)?;
    let own = both(&at("peer.pem"), &[&at("peer.crt"), &authority, &at("peer.key")])?;
    Ok((own, at("roots.pem")))
}

fn newest_node_certificate(identity: &Path) -> Result<PathBuf> {
    let named = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("node-") && name.ends_with(".crt")
    };
    let files = std::fs::read_dir(identity)?.flatten().map(|entry| entry.path()).filter(named);
    files.max().context("the node has no certificate of its own")
}

fn openssl(words: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(words);
    command
}

fn both(into: &Path, parts: &[&Path]) -> Result<PathBuf> {
    let mut text = String::new();
    for part in parts {
        text.push_str(&std::fs::read_to_string(part)?);
    }
    std::fs::write(into, text)?;
    Ok(into.to_owned())
}

//! nginx and HAProxy, set up as somebody would who knows them: connections to the instances kept open,
//! buffers large enough, as many threads as Minato has.

use std::{
    fmt::Write as _,
    fs::File,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    machine,
    patience::{Patience, STEP},
    processes::{read, start, stop},
};

/// How a peer is set up beside.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Setup<'a> {
    /// It does what Minato does beside: an access log of JSON, ids, trace context, forwarded headers, weights over
    /// releases, the less loaded of two, failures known to all workers, further tries, a bound on connections and
    /// rates. nginx only.
    pub(super) full: bool,
    /// Its address speaks TLS with this certificate and key, in one file.
    pub(super) certificate: Option<&'a Path>,
    /// Instances are spoken to by mutual TLS.
    pub(super) mutual: Option<Mutual<'a>>,
    /// Who fails is passed over for a while, and what it failed is tried again elsewhere.
    pub(super) breaks: bool,
    /// Never more than this at an instance: others wait. HAProxy only, as nginx lets nobody wait.
    pub(super) most: Option<u32>,
}

/// How an instance is known, and the peer to it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mutual<'a> {
    /// Certificate and key, in one file.
    pub(super) own: &'a Path,
    pub(super) roots: &'a Path,
    /// The name that an instance's certificate has.
    pub(super) name: &'a str,
}

/// One that runs.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    child: Child,
}

impl Peer {
    /// nginx.
    pub(super) fn nginx(
        patience: &Patience,
        below: &Path,
        instances: &[SocketAddr],
        setup: Setup<'_>,
    ) -> Result<Self> {
        let address = free_port()?;
        let folder = tempfile::Builder::new().prefix("nginx-").tempdir_in(below)?.keep();
        let (config, at) = (folder.join("nginx.conf"), folder.display());
        let servers = lines(instances, |instance| format!("server {instance} max_fails=5 fail_timeout=1s;"));
        let (log, more) = if setup.full {
            (
                format!(
                    "log_format all escape=json '{{\"time\":\"$time_iso8601\",\"client\":\"$remote_addr\",\
                     \"method\":\"$request_method\",\"host\":\"$host\",\"path\":\"$uri\",\"status\":$status,\
                     \"bytes\":$body_bytes_sent,\"duration\":$request_time,\"instance\":\"$upstream_addr\",\
                     \"first\":\"$upstream_header_time\",\"id\":\"$request_id\",\"trace\":\"$http_traceparent\"}}';\n\
                     access_log {at}/access.log all buffer=64k flush=1s;\n\
                     split_clients $request_id $release {{ 5% canary; * instances; }}\n\
                     limit_req_zone $binary_remote_addr zone=rate:10m rate=1000000r/s;\n\
                     limit_conn_zone $server_name zone=connections:1m;\n\
                     upstream canary {{\nzone canary 256k;\nrandom two least_conn;\n{servers}keepalive 256;\n\
                     keepalive_requests 1000000000;\n}}"
                ),
                "proxy_set_header X-Request-Id $request_id;\nproxy_set_header traceparent 00-$request_id-0000000000000001-01;\n\
                 proxy_set_header X-Forwarded-Proto $scheme;\nproxy_set_header X-Forwarded-Host $host;\n\
                 add_header X-Request-Id $request_id;\nproxy_next_upstream error timeout http_502 http_503 http_504;\n\
                 proxy_next_upstream_tries 3;\nlimit_req zone=rate burst=100000 nodelay;\nlimit_conn connections 60000;",
            )
        } else {
            let again =
                "proxy_next_upstream error timeout http_502 http_503 http_504;\nproxy_next_upstream_tries 3;";
            ("access_log off;".to_owned(), if setup.breaks { again } else { "" })
        };
        let text = format!(
            "user root;\nworker_processes {threads};\nworker_rlimit_nofile 65536;\ndaemon off;\npid {at}/pid;\n\
             error_log {at}/error.log;\nevents {{ worker_connections 16384; }}\nhttp {{\n{log}\n\
             client_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\nfastcgi_temp_path {at}/f;\n\
             uwsgi_temp_path {at}/u;\nscgi_temp_path {at}/s;\nkeepalive_requests 1000000000;\n\
             upstream instances {{\n{balance}\n{servers}keepalive 256;\nkeepalive_requests 1000000000;\n}}\n\
             server {{\n{listen}\nserver_name s0.localhost;\n\
             client_body_buffer_size 64k;\nlocation / {{\n{upstream}\nproxy_http_version 1.1;\n\
             proxy_set_header Connection \"\";\nproxy_set_header Host $host;\n\
             proxy_set_header X-Forwarded-For $remote_addr;\nproxy_buffers 8 64k;\nproxy_buffer_size 64k;\n\
             proxy_busy_buffers_size 128k;\nproxy_max_temp_file_size 0;\n{more}\n}}\n}}\n}}\n",
            threads = machine::cores(),
            // Only shared memory lets workers know of one another's failures and load.
            balance = if setup.full { "zone instances 256k;\nrandom two least_conn;" } else { "least_conn;" },
            listen = nginx_listens(address, setup.certificate),
            upstream = nginx_passes(setup),
        );
        std::fs::write(&config, text)?;
        // Its temporary folders are made by it, below a folder that is there.
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&config).arg("-p").arg(&folder);
        Self::start(patience, &mut command, address)
    }

    pub(super) fn haproxy(
        patience: &Patience,
        below: &Path,
        instances: &[SocketAddr],
        setup: Setup<'_>,
    ) -> Result<Self> {
        let address = free_port()?;
        let folder = tempfile::Builder::new().prefix("haproxy-").tempdir_in(below)?.keep();
        let config = folder.join("haproxy.cfg");
        let mut number = 0;
        let mutual = setup.mutual.map_or_else(String::new, |Mutual { own, roots, name }| {
            let (own, roots) = (own.display(), roots.display());
            format!(" ssl crt {own} ca-file {roots} verify required verifyhost {name} sni str({name})")
        });
        // A port that listens is asked whether it is back.
        let breaks = match setup.breaks {
            true => " check inter 1s rise 1 observe layer7 error-limit 5 on-error mark-down",
            false => "",
        };
        let again = match setup.breaks {
            true => {
                "  retries 2\n  option redispatch 1\n  retry-on conn-failure empty-response 502 503 504\n"
            }
            false => "",
        };
        let most = setup.most.map_or_else(String::new, |most| format!(" maxconn {most}"));
        let bind = match setup.certificate {
            Some(file) => format!("  bind {address} ssl crt {} alpn h2,http/1.1", file.display()),
            None => format!("  bind {address}\n  bind {} proto h2", beside(address)),
        };
        let servers = lines(instances, |instance| {
            number += 1;
            format!("  server i{number} {instance} pool-max-conn 256{mutual}{breaks}{most}")
        });
        let text = format!(
            "global\n  nbthread {}\n  maxconn 8000\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 75s\n\
             \x20 timeout server 30s\n  http-reuse always\nfrontend f\n{bind}\n\
             \x20 default_backend b\nbackend b\n  balance leastconn\n  option forwardfor\n{again}{servers}",
            machine::cores(),
        );
        std::fs::write(&config, text)?;
        Self::start(patience, Command::new("haproxy").arg("-db").arg("-f").arg(&config), address)
    }

    fn start(patience: &Patience, command: &mut Command, address: SocketAddr) -> Result<Self> {
        let mut said: File = tempfile::tempfile()?;
        let mut peer = Self { address, child: start(command, &said)? };
        let ready = patience.until("a peer to listen", STEP, || {
            if let Some(status) = peer.child.try_wait()? {
                bail!("it ended: {status}");
            }
            Ok(TcpStream::connect(address).ok().map(drop))
        });
        ready.with_context(|| read(&mut said).unwrap_or_default())?;
        Ok(peer)
    }

    /// Where it speaks HTTP/2: it tells by the port what Minato tells by the first bytes.
    pub(super) fn http2(&self) -> SocketAddr {
        beside(self.address)
    }

    /// It and its workers.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        let own = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        Ok(std::iter::once(own)
            .chain(children.split_whitespace().filter_map(|pid| pid.parse().ok()))
            .collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        stop(&mut self.child, Duration::from_secs(5));
    }
}

fn nginx_listens(address: SocketAddr, certificate: Option<&Path>) -> String {
    match certificate.map(Path::display) {
        Some(file) => format!(
            "listen {address} ssl http2 backlog=4096;\nssl_certificate {file};\nssl_certificate_key {file};\n\
             ssl_protocols TLSv1.2 TLSv1.3;\nssl_session_cache shared:front:10m;"
        ),
        None => format!("listen {address} backlog=4096;\nlisten {} http2 backlog=4096;", beside(address)),
    }
}

fn nginx_passes(setup: Setup<'_>) -> String {
    match setup.mutual {
        Some(Mutual { own, roots, name }) => format!(
            "proxy_pass https://instances;\nproxy_ssl_certificate {own};\nproxy_ssl_certificate_key {own};\n\
             proxy_ssl_trusted_certificate {};\nproxy_ssl_verify on;\nproxy_ssl_verify_depth 3;\n\
             proxy_ssl_name {name};\nproxy_ssl_server_name on;\nproxy_ssl_protocols TLSv1.3;",
            roots.display(),
            own = own.display(),
        ),
        None if setup.full => "proxy_pass http://$release;".to_owned(),
        None => "proxy_pass http://instances;".to_owned(),
    }
}

/// The next port.
fn beside(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port() + 1)
}

/// A port of loopback that is free with the one after it.
fn free_port() -> Result<SocketAddr> {
    for _ in 0..100 {
        let held = TcpListener::bind(("127.0.0.1", 0))?;
        let address = held.local_addr()?;
        if address.port() < u16::MAX && TcpListener::bind(beside(address)).is_ok() {
            return Ok(address);
        }
    }
    bail!("no two ports beside each other are free")
}

fn lines(instances: &[SocketAddr], mut line: impl FnMut(&SocketAddr) -> String) -> String {
    let mut text = String::new();
    for instance in instances {
        // Writing to a String never fails.
        writeln!(text, "{}", line(instance)).unwrap_or_default();
    }
    text
}

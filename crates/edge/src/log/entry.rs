//! What a line says of a request.

use std::net::{IpAddr, Ipv4Addr};

use http::{Method, Version};

use crate::clock::Micros;

/// Longer paths are cut: a line has an end.
const PATH_MAX: usize = 2048;
/// The longest name that DNS has, and a port.
const HOST_MAX: usize = 261;
const METHOD_MAX: usize = 32;
const ID_MAX: usize = 64;

/// What is spoken with the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http(Version),
    /// A connection whose bytes are passed on as they are.
    Tcp,
}

/// One line's content. Used again and again, so that a line allocates nothing.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) client: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) began: Micros,
    pub(crate) ended: Micros,
    /// When the instance's answer began; 0: it didn't.
    pub(crate) answered: Micros,
    /// 0: there is none.
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// What the client sent in an upgraded or plain connection.
    pub(crate) received: u64,
    pub(crate) attempts: u32,
    pub(crate) release: u64,
    /// How long the request waited for a start, in microseconds; 0: it didn't.
    pub(crate) cold: u64,
    pub(crate) flag: Option<&'static str>,
    /// What a call of gRPC came to.
    pub(crate) grpc_status: Option<u8>,
    pub(crate) trace_id: Option<[u8; 32]>,
    method: Vec<u8>,
    host: Vec<u8>,
    path: Vec<u8>,
    app: Vec<u8>,
    service: Vec<u8>,
    instance: Vec<u8>,
    request_id: Vec<u8>,
}

impl Entry {
    pub(crate) fn new() -> Self {
        Self {
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            protocol: Protocol::Tcp,
            began: 0,
            ended: 0,
            answered: 0,
            status: 0,
            bytes: 0,
            received: 0,
            attempts: 0,
            release: 0,
            cold: 0,
            flag: None,
            grpc_status: None,
            trace_id: None,
            method: Vec::new(),
            host: Vec::new(),
            path: Vec::new(),
            app: Vec::new(),
            service: Vec::new(),
            instance: Vec::new(),
            request_id: Vec::new(),
        }
    }

    /// Forgets everything, and keeps the room.
    pub(crate) fn begin(&mut self, client: IpAddr, began: Micros) {
        let Self { method, host, path, app, service, instance, request_id, .. } = self;
        for text in [method, host, path, app, service, instance, request_id] {
            text.clear();
        }
        (self.client, self.protocol, self.began, self.ended) = (client, Protocol::Tcp, began, 0);
        (self.answered, self.cold) = (0, 0);
        (self.status, self.bytes, self.received) = (0, 0, 0);
        (self.attempts, self.release) = (0, 0);
        (self.flag, self.grpc_status, self.trace_id) = (None, None, None);
    }

    pub(crate) fn set_method(&mut self, method: &Method) {
        set(&mut self.method, method.as_str().as_bytes(), METHOD_MAX);
    }

    pub(crate) fn set_host(&mut self, host: &[u8]) {
        set(&mut self.host, host, HOST_MAX);
    }

    /// Only the path: what is behind its question mark may be secret.
    pub(crate) fn set_path(&mut self, path: &str) {
        let path = path.split(['?', '#']).next().unwrap_or_default();
        set(&mut self.path, path.as_bytes(), PATH_MAX);
    }

    pub(crate) fn set_service(&mut self, app: &str, service: &str) {
        set(&mut self.app, app.as_bytes(), ID_MAX);
        set(&mut self.service, service.as_bytes(), ID_MAX);
    }

    pub(crate) fn set_instance(&mut self, instance: &str) {
        set(&mut self.instance, instance.as_bytes(), ID_MAX);
    }

    pub(crate) fn set_request_id(&mut self, id: &str) {
        set(&mut self.request_id, id.as_bytes(), ID_MAX);
    }

    pub(crate) fn method(&self) -> &[u8] {
        &self.method
    }

    pub(crate) fn host(&self) -> &[u8] {
        &self.host
    }

    pub(crate) fn path(&self) -> &[u8] {
        &self.path
    }

    pub(crate) fn app(&self) -> &[u8] {
        &self.app
    }

    pub(crate) fn service(&self) -> &[u8] {
        &self.service
    }

    pub(crate) fn instance(&self) -> &[u8] {
        &self.instance
    }

    pub(crate) fn request_id(&self) -> &[u8] {
        &self.request_id
    }

    pub(crate) fn protocol(&self) -> &'static str {
        match self.protocol {
            Protocol::Http(Version::HTTP_09) => "HTTP/0.9",
            Protocol::Http(Version::HTTP_10) => "HTTP/1.0",
            Protocol::Http(Version::HTTP_2) => "HTTP/2",
            Protocol::Http(Version::HTTP_3) => "HTTP/3",
            Protocol::Http(_) => "HTTP/1.1",
            Protocol::Tcp => "tcp",
        }
    }

    /// Whether it is logged whatever share of the others is: it failed, or the answer was the edge's own.
    pub(crate) fn is_special(&self) -> bool {
        // Of gRPC: unknown, deadline exceeded, internal, unavailable, data loss.
        let failed = matches!(self.grpc_status, Some(2 | 4 | 13..=15));
        self.flag.is_some() || self.status >= 500 || failed
    }
}

fn set(text: &mut Vec<u8>, value: &[u8], max: usize) {
    text.clear();
    match value.get(..max) {
        Some(cut) if value.len() > max => {
            text.extend_from_slice(cut);
            text.extend_from_slice(b"...");
        }
        Some(_) | None => text.extend_from_slice(value),
    }
}

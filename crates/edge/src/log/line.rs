//! A request's own line, from its head to its end.

use std::{
    net::IpAddr,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use http::{HeaderValue, Request, header};
use minato_model::ids::ReleaseKey;

use super::entry::{Entry, Protocol};
use crate::{clock::Micros, headers, serve::Local};

/// Why something ended as it did, beside the codes of the edge's own answers.
pub(crate) mod flag {
    /// The client left before the end of the answer.
    pub(crate) const CLIENT_GONE: &str = "client_gone";
    /// The instance's answer broke off.
    pub(crate) const UPSTREAM_BROKE: &str = "upstream_broke";
    /// A stream was ended because its instance, or the edge, went away.
    pub(crate) const STREAM_ENDED: &str = "stream_ended";
}

/// What will be logged of a request; dropping it writes it.
pub(crate) struct Line {
    local: Rc<Local>,
    entry: Option<Box<Entry>>,
}

impl Line {
    /// A line, if there is a log.
    pub(crate) fn begin(local: &Rc<Local>, client: impl FnOnce() -> IpAddr, began: Micros) -> Option<Self> {
        let mut entry = local.pen.entry()?;
        entry.begin(client(), began);
        Some(Self { local: Rc::clone(local), entry: Some(entry) })
    }

    /// Notes the head that the client sent.
    pub(crate) fn head<B>(&mut self, request: &Request<B>) {
        let entry = &mut **self;
        entry.protocol = Protocol::Http(request.version());
        entry.set_method(request.method());
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let target = || request.uri().authority().map(|target| target.as_str().as_bytes());
        entry.set_host(host.or_else(target).unwrap_or_default());
        entry.set_path(request.uri().path());
        let request_id = headers::request_id(request.headers()).and_then(|id| id.to_str().ok());
        entry.set_request_id(request_id.unwrap_or_default());
    }

    /// Which release it counts for.
    pub(crate) fn set_release(&mut self, release: Option<&ReleaseKey>) {
        if let Some(ReleaseKey { service, number }) = release {
            self.set_service(service.app.as_str(), service.service.as_str());
            self.release = u64::from(*number);
        }
    }
}

impl Deref for Line {
    type Target = Entry;

    #[expect(clippy::expect_used, reason = "only dropping takes it")]
    fn deref(&self) -> &Entry {
        self.entry.as_deref().expect("a line has its entry until it is dropped")
    }
}

impl DerefMut for Line {
    #[expect(clippy::expect_used, reason = "only dropping takes it")]
    fn deref_mut(&mut self) -> &mut Entry {
        self.entry.as_deref_mut().expect("a line has its entry until it is dropped")
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            if entry.ended == 0 {
                entry.ended = self.local.shared.clock.now();
            }
            self.local.pen.write(entry);
        }
    }
}

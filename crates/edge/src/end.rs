//! What a request comes to: counted and logged when its answer's last byte was handed over, or when
//! the client went away.

use std::{io, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use minato_model::{code::Code, ids::ServiceKey};

use crate::{
    answer::Answer,
    clock::{Micros, micros},
    inbound::{Inbound, Phase},
    key::Client,
    log::{Line, flag},
    release::{Lease, Release},
    serve::{Life, Local},
    waits,
};

/// Of a client that left before there was an answer, as nginx has it.
const GONE: u16 = 499;

/// A request's end, known from its beginning on; dropping it counts and logs the request.
pub(crate) struct End {
    pub(crate) local: Rc<Local>,
    phase: Arc<Phase>,
    pub(crate) began: Micros,
    /// 0: there is no answer yet.
    pub(crate) status: u16,
    /// Which release it counts for.
    of: Of,
    /// Why it came to something else than an instance's whole answer.
    flag: Option<&'static str>,
    /// Of the answer's body.
    pub(crate) bytes: u64,
    /// What will be logged, if there is a log.
    line: Option<Line>,
}

/// What a request counts for.
enum Of {
    Nothing,
    /// It waits for an instance of it, or was refused there.
    Release(Arc<Release>),
    /// An instance of it has, or had, the request: the thread's own line, as a count that all threads share
    /// costs each of them.
    Line(Rc<waits::Line>),
}

impl Of {
    fn release(&self) -> Option<&Arc<Release>> {
        match self {
            Self::Nothing => None,
            Self::Release(release) => Some(release),
            Self::Line(line) => Some(&line.release),
        }
    }
}

impl End {
    pub(crate) fn begin<B>(
        local: &Rc<Local>,
        inbound: &Inbound,
        began: Micros,
        request: &Request<B>,
    ) -> Self {
        let client = || Client::of(inbound, request.headers(), &local.shared.trusted).address();
        let line = Line::begin(local, client, began).map(|mut line| {
            line.head(request);
            line
        });
        let phase = Arc::clone(&inbound.phase);
        Self { local: Rc::clone(local), phase, began, status: 0, of: Of::Nothing, flag: None, bytes: 0, line }
    }

    /// What was read was no request, or not all of one, and was answered all the same.
    pub(crate) fn unread(local: &Rc<Local>, inbound: &Inbound, code: Code) {
        let began = local.shared.clock.now();
        let line = Line::begin(local, || inbound.peer.to_canonical(), began);
        let (local, phase) = (Rc::clone(local), Arc::clone(&inbound.phase));
        let mut end = Self { local, phase, began, status: 0, of: Of::Nothing, flag: None, bytes: 0, line };
        end.refuse(&Answer::new(code, ""), None);
    }

    /// What will be logged, if there is a log.
    pub(crate) fn line(&mut self) -> Option<&mut Line> {
        self.line.as_mut()
    }

    /// Which service it is for.
    pub(crate) fn found(&mut self, service: &ServiceKey) {
        if let Some(line) = &mut self.line {
            line.set_service(service.app.as_str(), service.service.as_str());
        }
    }

    /// It waits for an instance of a release.
    pub(crate) fn held(&mut self, release: &Arc<Release>) {
        self.of = Of::Release(Arc::clone(release));
    }

    /// It goes to an instance.
    pub(crate) fn attempt(&mut self, lease: &Lease, line: &Rc<waits::Line>) {
        self.of = Of::Line(Rc::clone(line));
        if let Some(line) = &mut self.line {
            line.attempts += 1;
            line.set_instance(lease.target().endpoint.instance.as_str());
        }
    }

    /// It is tried on another connection or instance.
    pub(crate) fn retried(&self) {
        if let Some(release) = self.of.release() {
            release.stats(self.local.shared.threads()).retried();
        }
    }

    /// The instance began to answer.
    pub(crate) fn answered(&mut self) {
        if let Some(line) = &mut self.line {
            line.answered = self.local.shared.clock.recent();
        }
    }

    /// The answer's head, or what comes after its body.
    pub(crate) fn fields(&mut self, fields: &HeaderMap) {
        if let Some(line) = &mut self.line
            && let Some(status) = fields.get("grpc-status")
        {
            line.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }

    /// It waited for a start.
    pub(crate) fn cold(&mut self, waited: Option<Duration>) {
        if let (Some(waited), Some(line)) = (waited, &mut self.line) {
            line.cold = micros(waited);
        }
    }

    /// The answer is the edge's own.
    pub(crate) fn refuse(&mut self, answer: &Answer, release: Option<Arc<Release>>) {
        self.status = answer.status().as_u16();
        self.of = release.map_or(Of::Nothing, Of::Release);
        self.flag(answer.code.as_str());
    }

    /// Why it ended as it did; the first reason is the one.
    pub(crate) fn flag(&mut self, flag: &'static str) {
        self.flag.get_or_insert(flag);
    }

    /// The answer breaks off.
    pub(crate) fn broke(&mut self, error: &io::Error) {
        // The request's body, which the client still owed, is the only other reason.
        let client = error.kind() == io::ErrorKind::Other;
        self.flag(if client { flag::CLIENT_GONE } else { flag::UPSTREAM_BROKE });
    }

    /// The line of a connection that goes on as another protocol's.
    pub(crate) fn take_line(&mut self) -> Option<Line> {
        let mut line = self.line.take()?;
        (line.status, line.flag) = (self.status, self.flag);
        line.set_release(self.of.release().map(|release| &release.key));
        Some(line)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let now = self.local.shared.clock.now();
        self.phase.note(self.status == 0);
        if self.status == 0 {
            self.status = GONE;
            let ended = *self.local.life.borrow() == Life::Ended;
            self.flag(if ended { "draining" } else { flag::CLIENT_GONE });
        }
        let shared = &self.local.shared;
        let stats =
            self.of.release().map_or(&shared.totals.unrouted, |release| release.stats(shared.threads()));
        stats.count(self.local.index, self.status, now.saturating_sub(self.began));
        if let Some(flag) = self.flag {
            shared.totals.flag(self.local.index, flag);
        }
        self.phase.end(now);
        if let Some(mut line) = self.take_line() {
            line.ended = now;
            line.bytes = self.bytes;
        }
    }
}

//! A request's body as hyper takes it for a stream of HTTP/2.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::Reason;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use crate::{
    headers::{self, Length},
    upstream::upload::{Broken, Upload},
};

/// The body, or none.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    upload: Option<Rc<Upload>>,
    length: Option<u64>,
    /// What it may still hold.
    left: u64,
    /// Until when something has to arrive; set while nothing does.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Outgoing {
    pub(crate) fn new(body: Option<(&Rc<Upload>, Length)>) -> Self {
        let Some((upload, length)) = body else { return Self::default() };
        let exact = match length {
            Length::Exact(bytes) => Some(bytes),
            Length::None | Length::Chunked => None,
        };
        Self { upload: Some(Rc::clone(upload)), length: exact, left: upload.bytes_max(), pause: None }
    }

    /// It can't be sent to its end: the stream is reset, and whoever waits for the answer learns why
    /// from the upload.
    fn fail(&mut self, broken: Broken) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(upload) = self.upload.take() {
            upload.fail(broken);
        }
        Poll::Ready(Some(Err(Reason::CANCEL.into())))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = &mut *self;
        let Some(upload) = &this.upload else { return Poll::Ready(None) };
        match ready!(upload.poll_next(cx, &mut this.pause)) {
            Ok(Some(frame)) => {
                let size = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                match this.left.checked_sub(size) {
                    Some(left) => this.left = left,
                    None => return this.fail(Broken::TooLarge),
                }
                // The last part says so itself.
                this.upload.take_if(|upload| upload.is_over());
                Poll::Ready(Some(Ok(match frame.into_trailers() {
                    Ok(mut trailers) => {
                        headers::clean_request_trailers(&mut trailers);
                        Frame::trailers(trailers)
                    }
                    Err(frame) => frame,
                })))
            }
            Ok(None) => {
                this.upload = None;
                Poll::Ready(None)
            }
            Err(broken) => this.fail(broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upload.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.upload, self.length) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Some(length)) => SizeHint::with_exact(length),
            (Some(_), None) => SizeHint::default(),
        }
    }
}

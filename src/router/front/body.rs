//! Bodies on their way through: the client's to the application, bounded in size and in how long it may
//! pause, and the application's to the client, after whose end its connection is kept for the next
//! request. Nothing is held back.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use tokio::time::Sleep;

use super::access::Told;
use super::pick::Busy;

/// Longest pause of a client within its body.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why a client's body ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// It is larger than bodies may be.
    TooLarge,
    /// The client said nothing for too long.
    Paused,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request body is larger than allowed",
            Self::Paused => "the client paused within the request body",
        })
    }
}

impl Error for Cut {}

impl Cut {
    /// What cut a body, if that is what an error says.
    pub(super) fn in_error(error: &hyper::Error) -> Option<Self> {
        let mut source = error.source();
        while let Some(error) = source {
            if let Some(cut) = error.downcast_ref::<Self>() {
                return Some(*cut);
            }
            source = error.source();
        }
        None
    }
}

/// A client's body.
pub(super) struct Upload {
    body: Option<Incoming>,
    left: u64,
    pause: Option<Pin<Box<Sleep>>>,
    ended: Option<Uploading>,
}

/// Whether a body is still on its way.
#[derive(Clone)]
pub(super) struct Uploading(Arc<AtomicBool>);

impl Uploading {
    pub(super) fn goes_on(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(Uploading(ended)) = &self.ended {
            ended.store(true, Ordering::Release);
        }
    }
}

impl Upload {
    pub(super) fn new(body: Incoming, max: u64) -> Self {
        Self {
            body: Some(body),
            left: max,
            pause: None,
            ended: Some(Uploading(Arc::default())),
        }
    }

    pub(super) fn empty() -> Self {
        Self {
            body: None,
            left: 0,
            pause: None,
            ended: None,
        }
    }

    /// Tells whether it is still on its way, after it was given away; `None` of one that is empty.
    pub(super) fn uploading(&self) -> Option<Uploading> {
        self.ended.clone()
    }
}

pub(super) type BoxError = Box<dyn Error + Send + Sync>;

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let sleep = || Box::pin(tokio::time::sleep(PAUSE_MAX));
                let pause = this.pause.get_or_insert_with(sleep);
                ready!(pause.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Cut::Paused.into())));
            }
        };
        this.pause = None;
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            match this.left.checked_sub(data.len() as u64) {
                Some(left) => this.left = left,
                None => return Poll::Ready(Some(Err(Cut::TooLarge.into()))),
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let empty = || SizeHint::with_exact(0);
        self.body.as_ref().map_or_else(empty, Body::size_hint)
    }
}

/// The connection an answer comes over.
pub(super) struct Lease {
    pub(super) sender: SendRequest<Upload>,
    pub(super) thread: usize,
    /// The body that goes over it the other way.
    pub(super) uploading: Option<Uploading>,
}

/// An application's answer.
pub(super) struct Answer {
    body: Incoming,
    /// What came of it already.
    ahead: Option<Result<Frame<Bytes>, hyper::Error>>,
    busy: Busy,
    lease: Option<Lease>,
}

impl Answer {
    pub(super) fn new(body: Incoming, busy: Busy, lease: Lease) -> Self {
        let mut answer = Self {
            body,
            ahead: None,
            busy,
            lease: Some(lease),
        };
        if answer.body.is_end_stream() {
            answer.keep();
        }
        answer
    }

    /// Takes what came together with the head, if anything did, so that both go to the client in one
    /// write. Waits for nothing that is not here: only the task that reads the connection goes first, which
    /// passes a body on when it is asked for.
    pub(super) async fn look_ahead(&mut self) {
        if self.body.is_end_stream() {
            return;
        }
        let mut gone_first = false;
        let frame = std::future::poll_fn(|cx| match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending if !gone_first => {
                gone_first = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Ready(None),
            Poll::Ready(frame) => Poll::Ready(frame),
        });
        self.ahead = frame.await;
        if self.body.is_end_stream() {
            self.keep();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(frame) = self.ahead.take() {
            return Poll::Ready(Some(frame));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.keep();
        }
        Poll::Ready(frame)
    }

    fn has_ended(&self) -> bool {
        self.ahead.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = match &self.ahead {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            _ => 0,
        };
        let left = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower().saturating_add(ahead));
        if let Some(upper) = left.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }

    /// Everything has been read: the next request may have the connection, unless the application answered
    /// before it had all of this one. That would be waited for.
    fn keep(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        if !lease.uploading.is_some_and(|upload| upload.goes_on()) {
            self.busy.backend().keep(lease.thread, lease.sender);
        }
    }
}

/// What the client gets.
pub(super) struct Out {
    from: From,
    bytes: u64,
    /// Told of when it ends, however it does.
    told: Told,
}

enum From {
    Page(Full<Bytes>),
    Answer(Answer),
    Files(UnsyncBoxBody<Bytes, BoxError>),
}

impl Out {
    pub(super) fn page(bytes: Bytes) -> Self {
        Self {
            from: From::Page(Full::new(bytes)),
            bytes: 0,
            told: Told::default(),
        }
    }

    pub(super) fn answer(answer: Answer) -> Self {
        Self {
            from: From::Answer(answer),
            bytes: 0,
            told: Told::default(),
        }
    }

    pub(super) fn files(body: UnsyncBoxBody<Bytes, BoxError>) -> Self {
        Self {
            from: From::Files(body),
            bytes: 0,
            told: Told::default(),
        }
    }

    pub(super) fn telling(mut self, told: Told) -> Self {
        self.told = told;
        self
    }
}

impl Body for Out {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = match &mut this.from {
            From::Page(page) => {
                let frame = ready!(Pin::new(page).poll_frame(cx));
                frame.map(|frame| frame.map_err(|never| match never {}))
            }
            From::Answer(answer) => {
                let frame = ready!(answer.poll(cx));
                frame.map(|frame| frame.map_err(Into::into))
            }
            From::Files(body) => ready!(Pin::new(body).poll_frame(cx)),
        };
        if let Some(Ok(frame)) = &frame {
            let length = frame.data_ref().map_or(0, Bytes::len);
            this.bytes += length as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Page(page) => page.is_end_stream(),
            From::Answer(answer) => answer.has_ended(),
            From::Files(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Page(page) => page.size_hint(),
            From::Answer(answer) => answer.size_hint(),
            From::Files(body) => body.size_hint(),
        }
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        std::mem::take(&mut self.told).end(self.bytes);
    }
}

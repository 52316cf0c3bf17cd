//! The bodies of requests as they arrive: whole within a time, and few large ones at once.
//!
//! A service that decodes a request waits for its last byte, however long that takes, and keeps what has come. So a peer
//! that never ends its requests would hold 128 of them on each connection, each as large as a definition may be. What a
//! body means is not looked at here. Read first:
//! [`LargeBodies::bounded`].

use std::{
    future::Future as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_util::sync::PollSemaphore;
use tonic::{Status, body::Body};

use super::status::{Reason, status};

/// How long a request may take to arrive. A definition of 32 MiB needs 9 Mbit/s.
const ARRIVAL: Duration = Duration::from_secs(30);
/// A message says first whether it is compressed, in one byte, and how long it is, in four; room is made for all of it.
const HEAD_BYTES: usize = 5;
/// From here on a body is large, or when it says that its message will be.
const SMALL_BYTES: usize = 64 * 1_024;
/// Large bodies at once; others wait for one of them. Together they are no more than 64 MiB.
const LARGE_AT_ONCE: usize = 2;

/// The places for large bodies, of all connections.
#[derive(Clone)]
pub(super) struct LargeBodies(Arc<Semaphore>);

impl LargeBodies {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LARGE_AT_ONCE)))
    }

    /// Puts a request's body under its limits. A reflection is a conversation, which has no last byte to wait for.
    pub(super) fn bounded(&self, request: http::Request<Body>) -> http::Request<Body> {
        if request.uri().path().starts_with("/grpc.reflection.") {
            return request;
        }
        let places = PollSemaphore::new(Arc::clone(&self.0));
        request.map(|inner| {
            Body::new(Bounded { inner, arrival: None, bytes: 0, announced: 0, held: None, places, place: None })
        })
    }
}

struct Bounded {
    inner: Body,
    /// From when it was first asked for.
    arrival: Option<Pin<Box<Sleep>>>,
    bytes: usize,
    /// How long its first message says that it is.
    announced: usize,
    /// What has come and waits for a place.
    held: Option<Frame<Bytes>>,
    places: PollSemaphore,
    place: Option<OwnedSemaphorePermit>,
}

impl Bounded {
    fn count(&mut self, came: &[u8]) {
        let rest_of_head = HEAD_BYTES.saturating_sub(self.bytes).min(came.len());
        for (at, byte) in came[..rest_of_head].iter().enumerate().filter(|(at, _)| self.bytes + at > 0) {
            let place = HEAD_BYTES - 1 - (self.bytes + at);
            self.announced |= usize::from(*byte) << (8 * place);
        }
        self.bytes = self.bytes.saturating_add(came.len());
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let arrival = this.arrival.get_or_insert_with(|| Box::pin(tokio::time::sleep(ARRIVAL)));
        if arrival.as_mut().poll(cx).is_ready() {
            let words = format!("the request did not arrive within {} s", ARRIVAL.as_secs());
            return Poll::Ready(Some(Err(status(Reason::RequestTimedOut, words))));
        }
        if this.held.is_none() {
            match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    this.count(frame.data_ref().map_or(&[], |data| data));
                    this.held = Some(frame);
                }
                end => return Poll::Ready(end),
            }
        }
        if this.bytes.max(this.announced) > SMALL_BYTES && this.place.is_none() {
            this.place = ready!(this.places.poll_acquire(cx));
        }
        Poll::Ready(this.held.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_message_announces_is_read_however_it_is_cut() {
        let said = [0, 1, 2, 3, 4, 9, 9];
        for piece in 1..=said.len() {
            let inner = Body::empty();
            let places = PollSemaphore::new(Arc::new(Semaphore::new(1)));
            let mut body = Bounded { inner, arrival: None, bytes: 0, announced: 0, held: None, places, place: None };
            said.chunks(piece).for_each(|part| body.count(part));
            assert_eq!((body.announced, body.bytes), (0x0102_0304, 7), "in pieces of {piece}");
        }
    }
}

//! Bounds in time what is said and what is answered in a call.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::Frame;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

/// A body until its time is up; then one last frame or error, and nothing after it.
pub(super) struct Timed {
    body: Body,
    end: Pin<Box<Sleep>>,
    /// `None` once it was given.
    last: Option<Result<Frame<Bytes>, Status>>,
}

impl Timed {
    /// `body` for as long as `limit`, and `last` after it.
    pub fn body(body: Body, limit: Duration, last: Result<Frame<Bytes>, Status>) -> Body {
        Body::new(Self { body, end: Box::pin(sleep(limit)), last: Some(last) })
    }
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.last.is_none() || self.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(self.last.take());
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.last.is_none() || self.body.is_end_stream()
    }
}

/// A message that is to be sent to its end within `limit`.
pub(super) fn said_within(limit: Duration, body: Body) -> Body {
    let too_slow = format!("the call was not sent to its end within {} seconds", limit.as_secs());
    Timed::body(body, limit, Err(Status::deadline_exceeded(too_slow)))
}

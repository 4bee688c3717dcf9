//! Whether a connection is of use: which of its requests are not answered to their end, and for how long there was none.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio::time::timeout;

/// What became of a connection so far. Clones share it.
#[derive(Clone)]
pub(super) struct Activity {
    asked: Arc<AtomicBool>,
    /// Requests under way; `None` where nobody wants to know.
    open: Option<watch::Sender<usize>>,
}

/// A request that is under way for as long as this is held.
pub(super) struct Open(Option<watch::Sender<usize>>);

impl Activity {
    /// Of a connection that was not asked anything yet. Its requests are counted if that is of use.
    pub(super) fn new(counts: bool) -> Self {
        Self { asked: Arc::default(), open: counts.then(|| watch::Sender::new(0)) }
    }

    /// A request has come.
    pub(super) fn begin(&self) -> Open {
        self.asked.store(true, Ordering::Relaxed);
        if let Some(open) = &self.open {
            open.send_modify(|open| *open = open.saturating_add(1));
        }
        Open(self.open.clone())
    }

    /// Whether any request has come.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Resolves once there was no request for so long; never, where they are not counted.
    pub(super) async fn idle_for(self, limit: Duration) {
        let Some(open) = self.open else { return std::future::pending().await };
        let mut changes = open.subscribe();
        while changes.wait_for(|open| *open == 0).await.is_ok() {
            if timeout(limit, changes.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = &self.0 {
            open.send_modify(|open| *open = open.saturating_sub(1));
        }
    }
}

pin_project! {
    /// The body of an answer, which keeps its request under way.
    pub(super) struct Answering<B> {
        #[pin]
        body: B,
        open: Option<Open>,
    }
}

impl<B> Answering<B> {
    pub(super) fn new(body: B, open: Option<Open>) -> Self {
        Self { body, open }
    }
}

impl<B: Body> Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

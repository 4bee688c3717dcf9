//! What was dispatched is finished even when its client is gone: the provider charges for it all the same.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use keyforge_runtime::shutdown::Shutdown;

/// Whether the client that waits for an answer is still there.
#[derive(Clone, Default)]
pub struct ClientGone(Arc<AtomicBool>);

impl ClientGone {
    /// Whether it hung up.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// It hung up.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A future that is finished as a task of its own when whoever polls it loses interest. As long as it is polled there is no task and no hand-over.
pub struct CarryOn<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    gone: ClientGone,
    shutdown: Shutdown,
}

impl<T: Send + 'static> CarryOn<T> {
    /// Carries `work` on when dropped, and tells it by `gone`.
    pub fn new(shutdown: Shutdown, gone: ClientGone, work: impl Future<Output = T> + Send + 'static) -> Self {
        Self { work: Some(Box::pin(work)), gone, shutdown }
    }
}

impl<T: Send + 'static> Future for CarryOn<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let Some(work) = self.work.as_mut() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<T: Send + 'static> Drop for CarryOn<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.gone.set();
            drop(self.shutdown.spawn("carry_on", async move {
                work.await;
            }));
        }
    }
}

/// Starts `work` here and now, and finishes it as a task if it has to wait: what ends at once is done before the caller goes on.
pub fn now_or_spawn(shutdown: &Shutdown, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let mut work = Box::pin(work);
    let mut context = Context::from_waker(std::task::Waker::noop());
    if work.as_mut().poll(&mut context).is_pending() {
        drop(shutdown.spawn(name, work));
    }
}

//! What was dispatched goes on for a moment when its client is gone: an answer that is nearly there says what it cost.
//!
//! After that moment the provider is let go, so that it works for nobody, and what is unknown is charged at the bound.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use keyforge_runtime::shutdown::Shutdown;
use tokio::time::Instant;

/// How long a provider is still listened to after its client is gone. With what noticing and closing take, it is let go within a second.
const AFTER_HANG_UP: Duration = Duration::from_millis(900);

/// Whether the client that waits for an answer is still there, and since when not.
#[derive(Clone, Default)]
pub struct ClientGone(Arc<OnceLock<Instant>>);

impl ClientGone {
    /// Whether it hung up.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.get().is_some()
    }

    /// It hung up, now if not before. Returns when the provider is to be let go.
    pub fn set(&self) -> Instant {
        *self.0.get_or_init(Instant::now) + AFTER_HANG_UP
    }
}

/// A future that goes on as a task of its own, for a moment, when whoever polls it loses interest. As long as it is polled there is no task and no
/// hand-over. What is not finished by then is dropped, and settles itself.
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
            let let_go = self.gone.set();
            drop(self.shutdown.spawn("carry_on", async move { drop(tokio::time::timeout_at(let_go, work).await) }));
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

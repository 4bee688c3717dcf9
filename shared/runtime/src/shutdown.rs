//! The life and end of a process's tasks.
//!
//! Every task is spawned here, so that a drain knows what it waits for and a panic is never silent.
//! The end has two phases: the *drain* (stop accepting, finish what runs) and, at the deadline or on a second signal,
//! the *force* (give up on what still runs). This module never exits the process and never aborts a task by itself:
//! `main` returns after [`Shutdown::drained`], and dropping the runtime ends what is left.

use std::any::Any;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handle on the end of the process: spawns tasks, starts the drain and waits for it. Clones share one state.
#[derive(Clone, Default)]
pub struct Shutdown {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    draining: CancellationToken,
    forced: CancellationToken,
    tasks: TaskTracker,
    panics: AtomicU64,
    cause: OnceLock<ShutdownCause>,
}

/// Why the drain started. The first cause is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownCause {
    /// [`Shutdown::trigger`] was called.
    Requested,
    /// SIGTERM or SIGINT arrived.
    Signal,
    /// The critical task of this name ended or panicked; the process should report failure.
    CriticalTaskEnded(&'static str),
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Drained {
    /// Every task ended by itself.
    Clean,
    /// The deadline passed, or a second signal arrived, while this many tasks still ran.
    TimedOut {
        /// Tasks that had not ended.
        tasks: usize,
    },
}

impl Shutdown {
    /// A process that runs: no drain, no tasks.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Spawns a task that a drain waits for. A panic in it is logged under `name`, counted, and handed to the
    /// [`JoinHandle`]; it ends neither the process nor other tasks.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.tasks.spawn(self.clone().watch(name, future))
    }

    /// Spawns a task that the drain does not wait for, because it must outlive the drain: it ends with the runtime.
    pub fn spawn_background<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "the one home of spawned tasks")]
        tokio::spawn(self.clone().watch(name, future))
    }

    /// Spawns a task without which the process is useless: its end, by return, panic or abort, starts the drain.
    pub fn spawn_critical<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(name, self.guarded(name, future))
    }

    /// Spawns a task without which the process is useless and which must outlive the drain. The drain does not wait
    /// for it; its end, by return, panic or abort, starts the drain, and is normal once the drain has started.
    pub fn spawn_critical_background<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn_background(name, self.guarded(name, future))
    }

    /// Whether the drain has started: accept no new work.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.is_cancelled()
    }

    /// Resolves when the drain starts (at once if it has). Owned, so that it can move into a task.
    pub fn drain_started(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.draining.clone().cancelled_owned()
    }

    /// `work` until the drain starts, which drops it where it waits: for what has no end of its own.
    pub fn until_drain<F: Future<Output = ()>>(&self, work: F) -> impl Future<Output = ()> + use<F> {
        let drain = self.inner.draining.clone().cancelled_owned();
        async move {
            tokio::select! {
                () = work => {}
                () = drain => {}
            }
        }
    }

    /// Resolves when the second phase starts: give up on work that still runs.
    pub fn force_started(&self) -> impl Future<Output = ()> + Send + 'static {
        self.inner.forced.clone().cancelled_owned()
    }

    /// Starts the drain. Calling it again changes nothing.
    pub fn trigger(&self) {
        self.start_drain(ShutdownCause::Requested);
    }

    /// Starts the second phase (and the drain, if it had not started).
    pub fn force(&self) {
        self.trigger();
        self.inner.forced.cancel();
    }

    /// Why the drain started, once it has.
    #[must_use]
    pub fn cause(&self) -> Option<ShutdownCause> {
        self.inner.cause.get().copied()
    }

    /// Tasks that have not ended.
    #[must_use]
    pub fn running_tasks(&self) -> usize {
        self.inner.tasks.len()
    }

    /// Logs and counts a panic that was caught under `name`.
    pub fn note_panic(&self, name: &'static str, payload: &(dyn Any + Send)) {
        self.inner.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(task = name, panic = panic_message(payload), "a task panicked");
    }

    /// Caught panics since the process started.
    #[must_use]
    pub fn panics(&self) -> u64 {
        self.inner.panics.load(Ordering::Relaxed)
    }

    /// Waits for the drain to start, then for every task to end, at most `deadline` after the drain started to be
    /// waited for. At the deadline the second phase starts, so that tasks which listen to it can cut their work.
    pub async fn drained(&self, deadline: Duration) -> Drained {
        self.drain_started().await;
        self.inner.tasks.close();
        tokio::select! {
            biased;
            () = self.inner.tasks.wait() => return Drained::Clean,
            () = self.inner.forced.cancelled() => {}
            () = tokio::time::sleep(deadline) => self.inner.forced.cancel(),
        }
        Drained::TimedOut { tasks: self.running_tasks() }
    }

    /// From here on the first SIGTERM or SIGINT starts the drain and the second one forces the end.
    ///
    /// # Errors
    /// The operating system refused to install a handler.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let shutdown = self.clone();
        drop(self.spawn_background("signals", async move {
            let name = first_of(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "draining; send the signal again to stop at once");
            shutdown.start_drain(ShutdownCause::Signal);
            let name = first_of(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "stopping at once");
            shutdown.force();
        }));
        Ok(())
    }

    /// The future, at whose end the drain starts unless it has.
    fn guarded<F: Future>(&self, name: &'static str, future: F) -> impl Future<Output = F::Output> + use<F> {
        let guard = CriticalGuard { shutdown: self.clone(), name };
        async move {
            let _guard = guard;
            future.await
        }
    }

    async fn watch<F: Future>(self, name: &'static str, future: F) -> F::Output {
        match AssertUnwindSafe(future).catch_unwind().await {
            Ok(output) => output,
            Err(payload) => {
                self.note_panic(name, payload.as_ref());
                resume_unwind(payload)
            }
        }
    }

    fn start_drain(&self, cause: ShutdownCause) {
        // The cause is set first: whoever sees the drain sees why.
        let _first = self.inner.cause.get_or_init(|| cause);
        self.inner.draining.cancel();
    }
}

/// The text of a panic, or a stand-in when its payload is not text.
#[must_use]
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a payload that is not text"
    }
}

struct CriticalGuard {
    shutdown: Shutdown,
    name: &'static str,
}

impl Drop for CriticalGuard {
    fn drop(&mut self) {
        if !self.shutdown.is_draining() {
            tracing::error!(task = self.name, "a critical task ended; draining");
        }
        self.shutdown.start_drain(ShutdownCause::CriticalTaskEnded(self.name));
    }
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn drain_waits_for_a_running_task_and_then_is_clean() {
        let shutdown = Shutdown::new();
        let (finish, finished) = oneshot::channel::<()>();
        drop(shutdown.spawn("worker", finished));
        shutdown.trigger();
        let waiting = shutdown.drained(LONG);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        finish.send(()).unwrap();
        assert_eq!(waiting.await, Drained::Clean);
    }

    #[tokio::test]
    async fn drain_that_passes_its_deadline_counts_the_tasks_left_and_forces() {
        let shutdown = Shutdown::new();
        drop(shutdown.spawn("stuck", std::future::pending::<()>()));
        shutdown.trigger();
        assert_eq!(shutdown.drained(Duration::from_millis(1)).await, Drained::TimedOut { tasks: 1 });
        shutdown.force_started().await;
    }

    #[tokio::test]
    async fn force_ends_a_drain_before_its_deadline() {
        let shutdown = Shutdown::new();
        drop(shutdown.spawn("stuck", std::future::pending::<()>()));
        shutdown.force();
        assert_eq!(shutdown.drained(LONG).await, Drained::TimedOut { tasks: 1 });
    }

    #[tokio::test]
    async fn panic_is_counted_and_does_not_start_the_drain() {
        let shutdown = Shutdown::new();
        let task = shutdown.spawn("fragile", async { panic!("broken") });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!(shutdown.panics(), 1);
        assert!(!shutdown.is_draining());
    }

    #[tokio::test]
    async fn end_of_a_critical_task_starts_the_drain_and_is_the_cause() {
        for panics in [false, true] {
            let shutdown = Shutdown::new();
            drop(shutdown.spawn_critical("listener", async move { assert!(!panics, "broken") }));
            shutdown.drain_started().await;
            assert_eq!(shutdown.cause(), Some(ShutdownCause::CriticalTaskEnded("listener")));
        }
    }

    #[tokio::test]
    async fn end_of_a_critical_background_task_starts_the_drain_and_is_the_cause() {
        for panics in [false, true] {
            let shutdown = Shutdown::new();
            drop(shutdown.spawn_critical_background("ledger", async move { assert!(!panics, "broken") }));
            shutdown.drain_started().await;
            assert_eq!(shutdown.cause(), Some(ShutdownCause::CriticalTaskEnded("ledger")));
        }
    }

    #[tokio::test]
    async fn critical_background_task_outlives_the_drain_and_its_end_then_changes_nothing() {
        let shutdown = Shutdown::new();
        let (finish, finished) = oneshot::channel::<()>();
        let task = shutdown.spawn_critical_background("ledger", finished);
        shutdown.trigger();
        assert_eq!(shutdown.drained(LONG).await, Drained::Clean);
        finish.send(()).unwrap();
        task.await.unwrap().unwrap();
        assert_eq!(shutdown.cause(), Some(ShutdownCause::Requested));
        assert!(futures_util::poll!(std::pin::pin!(shutdown.force_started())).is_pending());
    }

    #[tokio::test]
    async fn first_cause_is_kept() {
        let shutdown = Shutdown::new();
        shutdown.trigger();
        let task = shutdown.spawn_critical("listener", async {});
        task.await.unwrap();
        assert_eq!(shutdown.cause(), Some(ShutdownCause::Requested));
    }
}

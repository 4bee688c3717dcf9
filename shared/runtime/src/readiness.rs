//! Whether the process may be sent work: every part that can be unready holds a [`ReadinessCheck`].
//!
//! A part is unready until it says otherwise, so that a forgotten part keeps the process out of service instead of
//! letting it fail requests. A process that drains is not ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::shutdown::Shutdown;

/// The readiness of the whole process. Clones share it.
#[derive(Clone, Default)]
pub struct Readiness {
    checks: Arc<Mutex<Vec<Check>>>,
    shutdown: Option<Shutdown>,
}

struct Check {
    name: &'static str,
    /// Why the part is not ready; `None` when it is.
    reason: Option<String>,
}

/// One part's say in the readiness of the process.
#[derive(Clone)]
pub struct ReadinessCheck {
    readiness: Readiness,
    index: usize,
}

impl Readiness {
    /// A process without checks, which is ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A process without checks, which is ready until it drains.
    #[must_use]
    pub fn until_drain(shutdown: &Shutdown) -> Self {
        Self { shutdown: Some(shutdown.clone()), ..Self::default() }
    }

    /// Adds a part, which is not ready until it says so.
    #[must_use]
    pub fn check(&self, name: &'static str) -> ReadinessCheck {
        let mut checks = self.lock();
        checks.push(Check { name, reason: Some(String::from("not started")) });
        ReadinessCheck { readiness: self.clone(), index: checks.len() - 1 }
    }

    /// Ready, or one line `name: reason` per part that is not.
    ///
    /// # Errors
    /// The lines, joined by newlines.
    pub fn report(&self) -> Result<(), String> {
        let draining = self.shutdown.as_ref().is_some_and(Shutdown::is_draining);
        let mut lines: Vec<String> = draining.then(|| String::from("shutdown: draining")).into_iter().collect();
        let failing = |check: &Check| check.reason.as_ref().map(|reason| format!("{}: {reason}", check.name));
        lines.extend(self.lock().iter().filter_map(failing));
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Check>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadinessCheck {
    /// The part works.
    pub fn set_ready(&self) {
        self.set(None);
    }

    /// The part does not work; the reason is shown to operators in one line.
    pub fn set_not_ready(&self, reason: impl Into<String>) {
        self.set(Some(reason.into().replace('\n', " ")));
    }

    fn set(&self, reason: Option<String>) {
        if let Some(check) = self.readiness.lock().get_mut(self.index) {
            check.reason = reason;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_is_not_ready_until_it_says_so() {
        let readiness = Readiness::new();
        assert_eq!(readiness.report(), Ok(()));
        let store = readiness.check("store");
        let stream = readiness.check("stream");
        assert_eq!(readiness.report(), Err("store: not started\nstream: not started".to_owned()));
        store.set_ready();
        stream.set_not_ready("no control plane\nfor 3 s");
        assert_eq!(readiness.report(), Err("stream: no control plane for 3 s".to_owned()));
        stream.set_ready();
        assert_eq!(readiness.report(), Ok(()));
    }

    #[test]
    fn draining_process_is_not_ready() {
        let shutdown = Shutdown::new();
        let readiness = Readiness::until_drain(&shutdown);
        assert_eq!(readiness.report(), Ok(()));
        shutdown.trigger();
        assert_eq!(readiness.report(), Err("shutdown: draining".to_owned()));
    }
}

//! The roll: which processes run under which ids. Whenever one comes or goes, the guard and the status file hear of it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::guard::Guard;
use super::layout::Layout;
use super::status::Description;
use crate::errors::Failure;

/// Process ids by the names of the processes.
pub(super) type Pids = BTreeMap<String, u32>;

/// The running processes of one cluster.
pub(super) struct Roll {
    layout: Layout,
    state: Mutex<State>,
}

struct State {
    pids: Pids,
    /// `None` once it was dismissed.
    guard: Option<Guard>,
    /// What the status file says beside the ids; it is written once this is known.
    description: Option<Description>,
}

impl Roll {
    pub(super) fn open(layout: Layout) -> Result<Self, Failure> {
        let guard = Guard::start().map_err(|error| Failure::refused(format!("cannot run /bin/sh: {error}")))?;
        // That of an earlier cluster names processes that are gone.
        drop(std::fs::remove_file(layout.status()));
        let state = State { pids: Pids::new(), guard: Some(guard), description: None };
        Ok(Self { layout, state: Mutex::new(state) })
    }

    /// A process runs.
    pub(super) fn came(&self, name: &str, pid: u32) {
        let mut state = self.state();
        state.pids.insert(name.to_owned(), pid);
        state.publish(&self.layout);
    }

    /// A process has ended.
    pub(super) fn went(&self, name: &str) {
        let mut state = self.state();
        state.pids.remove(name);
        state.publish(&self.layout);
    }

    /// From here on there is a status file.
    pub(super) fn describe(&self, description: Description) {
        let mut state = self.state();
        state.description = Some(description);
        state.publish(&self.layout);
    }

    pub(super) fn pids(&self) -> Pids {
        self.state().pids.clone()
    }

    /// All processes have ended: no status file, no guard.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.description = None;
        drop(std::fs::remove_file(self.layout.status()));
        state.guard.take().into_iter().for_each(Guard::dismiss);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, layout: &Layout) {
        if let Some(guard) = &mut self.guard
            && guard.tell(self.pids.values().copied()).is_err()
        {
            match Guard::start() {
                Ok(another) => {
                    std::mem::replace(guard, another).dismiss();
                    drop(guard.tell(self.pids.values().copied()));
                }
                Err(error) => tracing::warn!(%error, "nobody would end the cluster if this process were killed"),
            }
        }
        if let Some(description) = &self.description {
            let text = description.line(&self.pids, None);
            if let Err(error) = layout.write("cluster.json", &format!("{text}\n")) {
                tracing::warn!(%error, "the status file is out of date");
            }
        }
    }
}

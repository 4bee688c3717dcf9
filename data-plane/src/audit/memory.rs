//! A sink in memory that behaves as the control plane does, and fails when it is told to.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hashbrown::HashMap;
use keyforge_shared::id::{BootId, NodeId, RequestId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::audit::sink::{AuditSink, Begin, SinkError};

/// How one call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// Nothing is done, and an error is returned.
    Refused {
        /// As [`SinkError::retryable`].
        retryable: bool,
    },
    /// Everything is done, but the answer is lost.
    AnswerLost,
    /// Only the first record of a batch is taken.
    OneTaken,
}

/// Keeps what it is sent.
#[derive(Default)]
pub struct MemorySink {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    lives: HashMap<BootId, BTreeMap<u64, Bytes>>,
    batches: Vec<(u64, usize)>,
    lost: Vec<(BootId, u64, u64)>,
    gaps: Vec<(BootId, u64, Vec<RequestId>)>,
    closed: Vec<(BootId, u64)>,
    mishaps: VecDeque<Mishap>,
    calls_left: Option<u64>,
    calls: u64,
}

impl MemorySink {
    /// An empty sink that works.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The next calls go wrong like this, in this order.
    pub fn script(&self, mishaps: impl IntoIterator<Item = Mishap>) {
        self.state.lock().mishaps.extend(mishaps);
    }

    /// After so many further calls every call fails; `None` for never.
    pub fn set_reachable_for(&self, calls: Option<u64>) {
        self.state.lock().calls_left = calls;
    }

    /// The records of a life by their numbers.
    #[must_use]
    pub fn records(&self, boot: BootId) -> BTreeMap<u64, Bytes> {
        self.state.lock().lives.get(&boot).cloned().unwrap_or_default()
    }

    /// Forgets the records of a life after `last`, as a control plane does whose backup was restored.
    pub fn put_back(&self, boot: BootId, last: u64) {
        if let Some(life) = self.state.lock().lives.get_mut(&boot) {
            life.retain(|seq, _| *seq <= last);
        }
    }

    /// First number and length of every batch that arrived, also those that went wrong.
    #[must_use]
    pub fn batches(&self) -> Vec<(u64, usize)> {
        self.state.lock().batches.clone()
    }

    /// What was lost on both sides: life, first and last number.
    #[must_use]
    pub fn lost(&self) -> Vec<(BootId, u64, u64)> {
        self.state.lock().lost.clone()
    }

    /// The gaps reported: life, last number, requests.
    #[must_use]
    pub fn gaps(&self) -> Vec<(BootId, u64, Vec<RequestId>)> {
        self.state.lock().gaps.clone()
    }

    /// The lives closed, each with its last number.
    #[must_use]
    pub fn closed(&self) -> Vec<(BootId, u64)> {
        self.state.lock().closed.clone()
    }

    /// Calls made so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// Waits until `reached` holds; asked again after every call.
    pub async fn wait_until(&self, mut reached: impl FnMut(&Self) -> bool) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        while !reached(self) && changed.changed().await.is_ok() {}
    }

    fn call<T>(&self, act: impl FnOnce(&mut State, Option<Mishap>) -> T) -> Result<T, SinkError> {
        let mut state = self.state.lock();
        state.calls += 1;
        let mishap = match &mut state.calls_left {
            Some(0) => Some(Mishap::Refused { retryable: true }),
            left => {
                *left = left.map(|calls| calls - 1);
                state.mishaps.pop_front()
            }
        };
        let result = match mishap {
            Some(Mishap::Refused { retryable }) => Err(SinkError { retryable, message: "told to refuse".to_owned() }),
            Some(Mishap::AnswerLost) => {
                act(&mut state, mishap);
                Err(SinkError { retryable: true, message: "told to lose the answer".to_owned() })
            }
            Some(Mishap::OneTaken) | None => Ok(act(&mut state, mishap)),
        };
        drop(state);
        self.changed.send_modify(|version| *version += 1);
        result
    }
}

impl AuditSink for MemorySink {
    async fn ship(&self, _: NodeId, boot: BootId, begin: Begin, records: &[Bytes]) -> Result<u64, SinkError> {
        let first_seq = begin.seq;
        self.state.lock().batches.push((first_seq, records.len()));
        self.call(|state, mishap| {
            let taken = if mishap == Some(Mishap::OneTaken) { 1 } else { records.len() };
            let lost = state.lost.iter().filter(|(of, ..)| *of == boot).map(|(.., last)| *last).max().unwrap_or(0);
            let life = state.lives.entry(boot).or_default();
            let due = 1 + life.keys().next_back().copied().unwrap_or(0).max(lost);
            if first_seq > due && begin.earlier_gone {
                state.lost.push((boot, due, first_seq - 1));
            } else if first_seq > due && !records.is_empty() {
                let message = format!("record {first_seq} came, but record {due} is due");
                return Err(SinkError { retryable: false, message });
            }
            for (seq, record) in (first_seq..).zip(records.iter().take(taken)) {
                // The first to come is chained; a second with the same number is taken for the same record.
                life.entry(seq).or_insert_with(|| record.clone());
            }
            let passed = if begin.earlier_gone { first_seq - 1 } else { 0 };
            Ok(life.keys().next_back().copied().unwrap_or(0).max(lost).max(passed))
        })?
    }

    async fn report_gap(
        &self,
        _: NodeId,
        boot: BootId,
        last_seq: u64,
        requests: &[RequestId],
    ) -> Result<(), SinkError> {
        self.call(|state, _| state.gaps.push((boot, last_seq, requests.to_vec())))
    }

    async fn close_boot(&self, boot: BootId, last_seq: u64) -> Result<(), SinkError> {
        self.call(|state, _| state.closed.push((boot, last_seq)))
    }
}

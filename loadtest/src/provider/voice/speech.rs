//! A streamed answer in another language than chat completions: ready-made events, charged as they are handed out.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::Voice;
use crate::provider::bill::Account;
use crate::provider::body::Step;
use crate::provider::errors::ApiError;
use crate::provider::stream::{Breakage, Pace, StreamFault};

/// One event and what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// Its bytes.
    pub bytes: Bytes,
    /// Tokens made for it.
    pub tokens: u64,
    /// Those of them that were thought.
    pub reasoning: u64,
}

impl Piece {
    /// An event that costs nothing.
    pub(crate) fn free(bytes: Bytes) -> Self {
        Self { bytes, tokens: 0, reasoning: 0 }
    }
}

/// A stream under way.
pub(crate) struct Speech {
    voice: Voice,
    pieces: VecDeque<Piece>,
    account: Arc<Account>,
    fault: Option<StreamFault>,
    pace: Pace,
    clock: Instant,
    waited: bool,
    events: u64,
    over: bool,
}

impl Speech {
    /// Begins a stream now. Its prompt is charged already.
    pub(crate) fn begin(
        voice: Voice,
        pieces: Vec<Piece>,
        account: Arc<Account>,
        pace: Pace,
        fault: Option<StreamFault>,
    ) -> Self {
        let pieces = pieces.into();
        Self { voice, pieces, account, fault, pace, clock: Instant::now(), waited: false, events: 0, over: false }
    }

    /// The next step of the body.
    pub(crate) fn next_step(&mut self) -> Step {
        if self.over {
            return Step::End;
        }
        let wait = if self.events == 0 { self.pace.first() } else { self.pace.interval() };
        if !self.waited && !wait.is_zero() {
            self.waited = true;
            self.clock += wait;
            return Step::WaitUntil(self.clock);
        }
        self.waited = false;
        if let Some(fault) = self.fault.filter(|fault| fault.after_events == self.events) {
            return self.go_wrong(fault.breakage);
        }
        self.events += 1;
        let Some(piece) = self.pieces.pop_front() else {
            self.over = true;
            return Step::End;
        };
        self.account.made(piece.tokens, piece.reasoning);
        Step::Data(piece.bytes)
    }

    fn go_wrong(&mut self, breakage: Breakage) -> Step {
        self.over = breakage != Breakage::Stall;
        match breakage {
            Breakage::Stall => Step::Hang,
            Breakage::Cut => Step::FlushAndBreak,
            Breakage::Error => Step::Data(self.voice.error_event(&ApiError::of_status(500))),
        }
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        if !self.over && !self.pieces.is_empty() {
            self.account.aborted();
        }
    }
}

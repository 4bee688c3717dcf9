//! What came of an attempt: an answer, or a failure that nobody has seen yet and that can therefore still be tried again elsewhere.

use std::time::Duration;

use keyforge_providers::fault::{Billed, Fault, FaultKind};
use keyforge_shared::audit::request::Flags;
use keyforge_shared::money::NanoUsd;

use super::answer::Answer;
use super::authorize::Permit;
use super::settle::{Charge, Commitment, Ending};
use crate::pool::Served;
use crate::rejection::Rejection;

/// What came of an attempt.
pub enum Outcome {
    /// The client gets this. It is settled, or will be when its stream ends.
    Answered(Box<Answer>),
    /// The client has got nothing.
    Failed(Box<Failed>),
}

/// A failed attempt that is not settled yet. Dropped, it settles at its bound.
pub struct Failed {
    /// What it is charged to.
    pub commitment: Commitment,
    /// How it ended, and what is known of its cost.
    pub ending: Ending,
    /// What the client is told if this was the last attempt.
    pub rejection: Rejection,
    /// What the provider said, if it said that it failed.
    pub fault: Option<Box<Fault>>,
}

impl Failed {
    /// Settles it as one attempt of a request that another attempt will serve: the request is counted with that one. Waits until the counter store
    /// knows, as far as it can be reached, so that the next attempt does not stand behind this one. Returns what was charged.
    pub async fn make_way(self) -> NanoUsd {
        let Self { commitment, mut ending, fault, .. } = self;
        ending.status = fault.as_ref().and_then(|fault| fault.status).unwrap_or(ending.status);
        commitment.make_way(ending.with(Flags::NOT_COUNTED)).await
    }

    /// Settles it. Returns what was charged.
    pub fn settle(self) -> NanoUsd {
        self.commitment.settle(self.ending)
    }
}

/// What the client is told about a provider's failure.
#[must_use]
pub fn rejection_for(fault: &Fault, permit: &Permit) -> Rejection {
    match fault.kind {
        FaultKind::Throttled => {
            Rejection::PoolExhausted { retry_after: fault.retry_after.unwrap_or(Duration::from_secs(1)) }
        }
        FaultKind::Closed | FaultKind::Dead => Rejection::NoCredential(permit.model().provider.to_string()),
        FaultKind::ClientError | FaultKind::NoModel => Rejection::UpstreamRefused {
            status: fault.status.filter(|status| (400..500).contains(status)).unwrap_or(400),
            code: fault.code.clone(),
            param: fault.param.clone(),
            message: fault.message.clone(),
        },
        FaultKind::NoAnswer => Rejection::NoAnswer(fault.code.clone()),
        FaultKind::Overloaded | FaultKind::ServerError | FaultKind::Ambiguous => {
            Rejection::UpstreamFailed(fault.status.unwrap_or(200))
        }
    }
}

/// What the client of a stream is told that the provider ended before its end: `said` is of the credential, and the pool is shut by now for what it
/// is shut for. It was served until then, and what others can have is no limit of this moment.
#[must_use]
pub fn cut_short(said: Rejection, served: Option<&Served>) -> Rejection {
    let ready_in = served.and_then(Served::ready_in);
    match (said, ready_in) {
        (Rejection::PoolExhausted { retry_after }, ready_in) => {
            Rejection::CutShort { retry_after: ready_in.unwrap_or(retry_after).max(A_MOMENT) }
        }
        (Rejection::NoCredential(_), Some(_)) => Rejection::UpstreamFailed(200),
        (said, _) => said,
    }
}

/// When to come back to a pool that can serve something now.
pub const A_MOMENT: Duration = Duration::from_secs(1);

/// Whether the provider says that it did not begin: for another credential, or later, the same request may be served.
#[must_use]
pub const fn is_refusal(fault: &Fault) -> bool {
    match fault.kind {
        FaultKind::Throttled | FaultKind::Overloaded | FaultKind::Closed | FaultKind::Dead | FaultKind::NoModel => true,
        FaultKind::ClientError | FaultKind::ServerError | FaultKind::NoAnswer | FaultKind::Ambiguous => false,
    }
}

/// Where a provider's error stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stood {
    /// In a stream, in place of its first word: the provider had made nothing.
    BeforeAnything,
    /// Anywhere else.
    Elsewhere,
}

/// What is known of the cost of a provider's failure, whether or not another attempt is made. A refusal in place of a stream's first word cost nothing;
/// in any other answer with a status of success something may have been made before it. Some say what they took.
#[must_use]
pub fn charge_for(fault: &Fault, stood: Stood) -> Charge {
    if let Some(usage) = &fault.usage {
        return Charge::Known(**usage);
    }
    match (fault.billed(), stood) {
        (Billed::No, _) => Charge::NotBilled,
        (Billed::Unknown, Stood::BeforeAnything) if fault.in_answer && is_refusal(fault) => Charge::NotBilled,
        (Billed::Unknown, Stood::BeforeAnything | Stood::Elsewhere) => Charge::Unknown,
    }
}

//! The node's calls to the ledger, in the node's own words: acquire, give back, leave.
//!
//! A call without an answer may have been done. Whoever makes one is told so ([`LedgerError::Lost`]) and has to find out. A ledger that does not answer
//! at all is not asked again until it does ([`LedgerError::Away`]); `outage` remembers that.

mod outage;

use std::future::Future;
use std::time::Duration;

use keyforge_counters::{ClawBack, Grant, GrantSet};
use keyforge_proto::convert::{self, ConvertError};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_client::GrantServiceClient;
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{BootId, KeyId, LifeId};
use keyforge_shared::limit::CounterId;
use keyforge_shared::period::{Period, Window};
use tonic::{Code, Response, Status};

use self::outage::{NoAnswer, Outage};
use crate::control::ControlChannel;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(2);

/// Why the ledger did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LedgerError {
    /// The epoch of this life is closed: the life must end.
    #[error("the epoch is closed")]
    Over,
    /// The ledger knows of something newer, or does not have everything yet.
    #[error("not now: {0}")]
    NotYet(String),
    /// It refused.
    #[error("refused: {0}")]
    Refused(String),
    /// It could not be reached, or its answer was lost: it may have been done.
    #[error("no answer: {0}")]
    Lost(String),
    /// It did not answer a moment ago and was not asked: nothing was done.
    #[error("it does not answer, and was not asked")]
    Away,
}

/// What is wanted of one counter, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which counter.
    pub counter: CounterId,
    /// How much beyond what is free in the books.
    pub amount: u64,
    /// What the books must allow in all, what they have charged and hold included.
    pub ceiling: u64,
    /// The limit as whoever wants it knows it.
    pub limit: u64,
}

/// What the ledger said about a counter, in requests or nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which counter.
    pub counter: CounterId,
    /// What the books may charge and hold, cumulative.
    pub granted: u64,
    /// The limit.
    pub limit: u64,
    /// What could still be granted to anyone.
    pub available: u64,
    /// What counts against the limit and is not in the books.
    pub elsewhere: u64,
    /// The part of that which others were granted and have not settled: it may come back.
    pub unsettled: u64,
}

impl Said {
    /// Whether the books do not allow what was wanted, and there is no more to be had.
    #[must_use]
    pub fn leaves_short(&self, want: &Want) -> bool {
        let limit = self.limit.min(want.limit);
        self.available == 0 && self.granted.min(limit.saturating_sub(self.elsewhere)) < want.ceiling
    }
}

/// Another key of the workspace whose books hold something of a limit that could not cover a want.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Whose books.
    pub key: KeyId,
    /// Their life.
    pub life: LifeId,
}

/// The answer to an acquisition.
#[derive(Clone, Debug)]
pub struct Acquired {
    /// What the store may spend now.
    pub set: GrantSet,
    /// What the ledger said about each counter.
    pub said: Vec<Said>,
    /// Who else may have something to give back.
    pub holders: Vec<Holder>,
}

/// A membership that is over, in the ledger's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Whose epoch.
    pub key: KeyId,
    /// Which.
    pub epoch: u32,
    /// Of the newest answer that this node got for it.
    pub serial: u64,
}

/// The ledger, asked as one boot. Clones share one connection.
#[derive(Clone)]
pub struct Ledger {
    client: GrantServiceClient<ControlChannel>,
    boot: BootId,
    outage: Outage,
}

impl Ledger {
    /// The ledger behind `channel`; `shutdown` runs the task that asks again after an outage.
    #[must_use]
    pub fn new(channel: ControlChannel, boot: BootId, shutdown: Shutdown) -> Self {
        let client = GrantServiceClient::new(channel);
        Self { client: client.clone(), boot, outage: Outage::new(client, boot, shutdown) }
    }

    /// Joins the epoch of a life, opening it if there is none, and asks for more. Without wants it joins only.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub async fn acquire(&self, key: KeyId, life: LifeId, wants: &[Want]) -> Result<Acquired, LedgerError> {
        let want = |want: &Want| proto::Want { counter: Some(want.counter.into()), amount: want.amount };
        let request = proto::AcquireGrantsRequest {
            boot_id: self.boot.as_bytes().to_vec(),
            life_id: life.as_bytes().to_vec(),
            key_id: key.to_string(),
            wants: wants.iter().map(want).collect(),
        };
        let mut client = self.client.clone();
        let answer = self.call(client.acquire_grants(request)).await?;
        // It was done, whatever its answer means.
        acquired(key, life, &answer).map_err(|error| LedgerError::Lost(error.to_string()))
    }

    /// Gives back what a life no longer allows; its ceilings were lowered before.
    ///
    /// # Errors
    /// [`LedgerError::NotYet`] when the ledger made answers that the books have not seen.
    pub async fn give_back(&self, key: KeyId, lowered: &ClawBack) -> Result<(), LedgerError> {
        let holding = |(counter, granted): &(CounterId, u64)| proto::Holding {
            counter: Some((*counter).into()),
            granted: *granted,
        };
        let request = proto::ReturnGrantsRequest {
            boot_id: self.boot.as_bytes().to_vec(),
            life_id: lowered.life.as_bytes().to_vec(),
            key_id: key.to_string(),
            epoch: lowered.epoch,
            serial: lowered.serial,
            holdings: lowered.holdings.iter().map(holding).collect(),
        };
        let mut client = self.client.clone();
        self.call(client.return_grants(request)).await.map(drop)
    }

    /// Says that this boot no longer uses these epochs, and that none of its records after `last_seq` names them.
    ///
    /// # Errors
    /// [`LedgerError::NotYet`] until its records up to `last_seq` are chained.
    pub async fn leave(&self, last_seq: u64, left: &[Leave]) -> Result<(), LedgerError> {
        let membership = |leave: &Leave| proto::Membership {
            key_id: leave.key.to_string(),
            epoch: leave.epoch,
            serial: leave.serial,
        };
        let request = proto::LeaveEpochsRequest {
            boot_id: self.boot.as_bytes().to_vec(),
            last_seq,
            memberships: left.iter().map(membership).collect(),
        };
        let mut client = self.client.clone();
        self.call(client.leave_epochs(request)).await.map(drop)
    }

    async fn call<M>(&self, answer: impl Future<Output = Result<Response<M>, Status>>) -> Result<M, LedgerError> {
        match self.outage.unless_away(tokio::time::timeout(CALL, answer)).await {
            Ok(Ok(Ok(answer))) => Ok(answer.into_inner()),
            Ok(Ok(Err(status))) => Err(error(&status)),
            Ok(Err(_)) | Err(NoAnswer::Waited) => Err(LedgerError::Lost("none in time".to_owned())),
            Err(NoAnswer::NotAsked) => Err(LedgerError::Away),
        }
    }
}

fn error(status: &Status) -> LedgerError {
    let reason = status.message().to_owned();
    match status.code() {
        Code::Aborted => LedgerError::Over,
        Code::FailedPrecondition => LedgerError::NotYet(reason),
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::ResourceExhausted => LedgerError::Refused(reason),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => LedgerError::Lost(reason),
    }
}

fn acquired(key: KeyId, life: LifeId, answer: &proto::AcquireGrantsResponse) -> Result<Acquired, ConvertError> {
    let (mut grants, mut said) = (Vec::new(), Vec::new());
    for grant in &answer.grants {
        let counter = convert::counter_id(key, &convert::required(grant.counter, "grants.counter")?)?;
        grants.push(Grant {
            counter,
            period: period(grant, counter.window),
            granted: grant.granted,
            elsewhere: grant.elsewhere,
        });
        let proto::Grant { granted, limit, available, elsewhere, unsettled, .. } = *grant;
        said.push(Said { counter, granted, limit, available, elsewhere, unsettled });
    }
    let holder = |holder: &proto::Holder| {
        let key = convert::parsed(&holder.key_id, "holders.key_id")?;
        Ok(Holder { key, life: convert::id(&holder.life_id, "holders.life_id", LifeId::from_slice)? })
    };
    let holders = answer.holders.iter().map(holder).collect::<Result<_, ConvertError>>()?;
    Ok(Acquired { set: GrantSet { life, epoch: answer.epoch, serial: answer.serial, grants }, said, holders })
}

fn period(grant: &proto::Grant, window: Window) -> Period {
    let end = Timestamp::from_millis(grant.period_end_ms);
    let end = if window == Window::Total { Timestamp::MAX } else { end };
    Period { start: Timestamp::from_millis(grant.period_start_ms), end }
}

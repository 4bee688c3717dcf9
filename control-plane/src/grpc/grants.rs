//! `keyforge.fleet.v1.GrantService`.

use keyforge_proto::convert::{ConvertError, counter_id, id, parsed, required};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_server::GrantService;
use keyforge_shared::id::{BootId, KeyId, LifeId};
use keyforge_shared::limit::CounterId;
use tonic::{Code, Request, Response, Status};

use super::node_gate::NodeGate;
use super::status::told;
use crate::ledger::{Acquire, GiveBack, Grant, Granted, Holder, Ledger, LedgerError, Membership, Want};

/// Counters in one call: each scope, dimension and window in the present period, the one before and the next.
const MOST_COUNTERS: usize = 48;
/// Memberships that one call can end.
const MOST_MEMBERSHIPS: usize = 1_000;

/// Serves the ledger to nodes.
pub struct GrantApi {
    ledger: Ledger,
    gate: NodeGate,
}

impl GrantApi {
    /// Serves what `ledger` grants to those whom `gate` lets pass.
    #[must_use]
    pub const fn new(ledger: Ledger, gate: NodeGate) -> Self {
        Self { ledger, gate }
    }
}

#[tonic::async_trait]
impl GrantService for GrantApi {
    async fn acquire_grants(
        &self,
        request: Request<proto::AcquireGrantsRequest>,
    ) -> Result<Response<proto::AcquireGrantsResponse>, Status> {
        let ask = acquire(request.get_ref()).map_err(invalid)?;
        self.gate.check(&request, None, Some(ask.boot)).await?;
        let granted = self.ledger.acquire(&ask).await.map_err(refused)?;
        Ok(Response::new(answer(&granted)))
    }

    async fn return_grants(
        &self,
        request: Request<proto::ReturnGrantsRequest>,
    ) -> Result<Response<proto::ReturnGrantsResponse>, Status> {
        let given = give_back(request.get_ref()).map_err(invalid)?;
        self.gate.check(&request, None, Some(given.boot)).await?;
        self.ledger.give_back(&given).await.map_err(refused)?;
        Ok(Response::new(proto::ReturnGrantsResponse {}))
    }

    async fn leave_epochs(
        &self,
        request: Request<proto::LeaveEpochsRequest>,
    ) -> Result<Response<proto::LeaveEpochsResponse>, Status> {
        let boot = id(&request.get_ref().boot_id, "boot_id", BootId::from_slice).map_err(invalid)?;
        self.gate.check(&request, None, Some(boot)).await?;
        let request = request.into_inner();
        let memberships = memberships(&request.memberships).map_err(invalid)?;
        let epochs_closed = self.ledger.leave(boot, request.last_seq, &memberships).await.map_err(refused)?;
        Ok(Response::new(proto::LeaveEpochsResponse { epochs_closed }))
    }

    async fn close_boot(
        &self,
        request: Request<proto::CloseBootRequest>,
    ) -> Result<Response<proto::CloseBootResponse>, Status> {
        let boot = id(&request.get_ref().boot_id, "boot_id", BootId::from_slice).map_err(invalid)?;
        self.gate.check(&request, None, Some(boot)).await?;
        let request = request.into_inner();
        let epochs_closed = self.ledger.close_boot(boot, request.last_seq).await.map_err(refused)?;
        Ok(Response::new(proto::CloseBootResponse { epochs_closed }))
    }
}

fn acquire(request: &proto::AcquireGrantsRequest) -> Result<Acquire, ConvertError> {
    let key = parsed(&request.key_id, "key_id")?;
    few(request.wants.len(), MOST_COUNTERS, "wants")?;
    let want = |(index, want): (usize, &proto::Want)| {
        Ok(Want { counter: counter(key, want.counter.as_ref(), "wants", index)?, amount: want.amount })
    };
    Ok(Acquire {
        boot: id(&request.boot_id, "boot_id", BootId::from_slice)?,
        life: id(&request.life_id, "life_id", LifeId::from_slice)?,
        key,
        wants: request.wants.iter().enumerate().map(want).collect::<Result<_, ConvertError>>()?,
    })
}

fn give_back(request: &proto::ReturnGrantsRequest) -> Result<GiveBack, ConvertError> {
    let key = parsed(&request.key_id, "key_id")?;
    few(request.holdings.len(), MOST_COUNTERS, "holdings")?;
    let holding = |(index, holding): (usize, &proto::Holding)| {
        Ok((counter(key, holding.counter.as_ref(), "holdings", index)?, holding.granted))
    };
    Ok(GiveBack {
        boot: id(&request.boot_id, "boot_id", BootId::from_slice)?,
        life: id(&request.life_id, "life_id", LifeId::from_slice)?,
        key,
        epoch: request.epoch,
        serial: request.serial,
        holdings: request.holdings.iter().enumerate().map(holding).collect::<Result<_, ConvertError>>()?,
    })
}

fn memberships(given: &[proto::Membership]) -> Result<Vec<Membership>, ConvertError> {
    few(given.len(), MOST_MEMBERSHIPS, "memberships")?;
    let membership = |(index, given): (usize, &proto::Membership)| {
        let key = parsed(&given.key_id, "key_id").map_err(|error| error.within(format!("memberships[{index}]")))?;
        Ok(Membership { key, epoch: given.epoch, serial: given.serial })
    };
    given.iter().enumerate().map(membership).collect()
}

fn few(count: usize, most: usize, field: &str) -> Result<(), ConvertError> {
    if count <= most { Ok(()) } else { Err(ConvertError::new(field, format!("at most {most} in one call"))) }
}

fn counter(key: KeyId, counter: Option<&proto::Counter>, list: &str, index: usize) -> Result<CounterId, ConvertError> {
    let place = format!("{list}[{index}]");
    let counter = required(counter, "counter").map_err(|error| error.within(&place))?;
    counter_id(key, counter).map_err(|error| error.within("counter").within(place))
}

fn answer(granted: &Granted) -> proto::AcquireGrantsResponse {
    proto::AcquireGrantsResponse {
        epoch: granted.epoch,
        serial: granted.serial,
        grants: granted.grants.iter().map(grant).collect(),
        holders: granted.holders.iter().map(holder).collect(),
    }
}

fn grant(grant: &Grant) -> proto::Grant {
    proto::Grant {
        counter: Some(grant.counter.into()),
        period_start_ms: grant.period.start.millis(),
        period_end_ms: grant.period.end.millis(),
        granted: grant.granted,
        limit: grant.limit,
        available: grant.available,
        elsewhere: grant.elsewhere,
        unsettled: grant.unsettled,
    }
}

fn holder(holder: &Holder) -> proto::Holder {
    proto::Holder {
        key_id: holder.key.to_string(),
        life_id: holder.life.as_bytes().to_vec(),
        epoch: holder.epoch,
        unsettled: holder.unsettled,
    }
}

fn invalid(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: LedgerError) -> Status {
    let code = match &error {
        LedgerError::Store(error) if error.is_passing() => {
            tracing::warn!(%error, "the ledger failed: the database is away");
            Code::Unavailable
        }
        LedgerError::History(error) if error.is_passing() => Code::Unavailable,
        LedgerError::Store(_) | LedgerError::History(_) => {
            tracing::error!(%error, "the ledger failed");
            Code::Internal
        }
        // The node's picture is old: its replica will tell it, or it ships first.
        LedgerError::UnknownKey(_)
        | LedgerError::NotActive(_)
        | LedgerError::NoSuchLimit(_)
        | LedgerError::WrongPeriod(_)
        | LedgerError::Overtaken(_)
        | LedgerError::WrongEpoch { .. }
        | LedgerError::NotShipped { .. } => Code::FailedPrecondition,
        // The life's books are to be vacated. A boot that is over must not do that to a life that others may use.
        LedgerError::Over(_) => Code::Aborted,
        LedgerError::BootOver(_) => Code::PermissionDenied,
    };
    Status::new(
        code,
        match &error {
            LedgerError::Store(error) => told(error),
            LedgerError::History(error) => told(error),
            other => other.to_string(),
        },
    )
}

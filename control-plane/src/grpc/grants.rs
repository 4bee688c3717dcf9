//! `keyforge.fleet.v1.GrantService`.

use keyforge_proto::convert::{ConvertError, counter_id, id, parsed, required};
use keyforge_proto::fleet::v1 as proto;
use keyforge_proto::fleet::v1::grant_service_server::GrantService;
use keyforge_shared::id::{BootId, CounterStoreId, KeyId};
use keyforge_shared::limit::CounterId;
use tonic::{Code, Request, Response, Status};

use crate::ledger::{Acquire, GiveBack, Grant, Ledger, LedgerError, Want};

/// Counters in one call: each dimension and window in the present period, the one before and the next.
const MOST_COUNTERS: usize = 24;

/// Serves the ledger to nodes.
pub struct GrantApi {
    ledger: Ledger,
}

impl GrantApi {
    /// Serves what `ledger` grants.
    #[must_use]
    pub const fn new(ledger: Ledger) -> Self {
        Self { ledger }
    }
}

#[tonic::async_trait]
impl GrantService for GrantApi {
    async fn acquire_grants(
        &self,
        request: Request<proto::AcquireGrantsRequest>,
    ) -> Result<Response<proto::AcquireGrantsResponse>, Status> {
        let ask = acquire(&request.into_inner()).map_err(invalid)?;
        let granted = self.ledger.acquire(&ask).await.map_err(refused)?;
        let grants = granted.grants.iter().map(encode).collect();
        Ok(Response::new(proto::AcquireGrantsResponse { epoch: granted.epoch, grants, serial: granted.serial }))
    }

    async fn return_grants(
        &self,
        request: Request<proto::ReturnGrantsRequest>,
    ) -> Result<Response<proto::ReturnGrantsResponse>, Status> {
        let given = give_back(&request.into_inner()).map_err(invalid)?;
        self.ledger.give_back(&given).await.map_err(refused)?;
        Ok(Response::new(proto::ReturnGrantsResponse {}))
    }

    async fn close_store(
        &self,
        request: Request<proto::CloseStoreRequest>,
    ) -> Result<Response<proto::CloseStoreResponse>, Status> {
        let request = request.into_inner();
        let store = id(&request.store_id, "store_id", CounterStoreId::from_slice).map_err(invalid)?;
        let boot = id(&request.boot_id, "boot_id", BootId::from_slice).map_err(invalid)?;
        let epochs_closed = self.ledger.close_store(store, boot, request.last_seq).await.map_err(refused)?;
        Ok(Response::new(proto::CloseStoreResponse { epochs_closed }))
    }
}

fn acquire(request: &proto::AcquireGrantsRequest) -> Result<Acquire, ConvertError> {
    let key = parsed(&request.key_id, "key_id")?;
    few(request.wants.len(), "wants")?;
    let want = |(index, want): (usize, &proto::Want)| {
        Ok(Want { counter: counter(key, want.counter.as_ref(), "wants", index)?, amount: want.amount })
    };
    Ok(Acquire {
        boot: id(&request.boot_id, "boot_id", BootId::from_slice)?,
        store: id(&request.store_id, "store_id", CounterStoreId::from_slice)?,
        key,
        wants: request.wants.iter().enumerate().map(want).collect::<Result<_, ConvertError>>()?,
    })
}

fn give_back(request: &proto::ReturnGrantsRequest) -> Result<GiveBack, ConvertError> {
    let key = parsed(&request.key_id, "key_id")?;
    let holding = |(index, holding): (usize, &proto::Holding)| {
        Ok((counter(key, holding.counter.as_ref(), "holdings", index)?, holding.granted))
    };
    Ok(GiveBack {
        boot: id(&request.boot_id, "boot_id", BootId::from_slice)?,
        store: id(&request.store_id, "store_id", CounterStoreId::from_slice)?,
        key,
        epoch: request.epoch,
        serial: request.serial,
        holdings: request.holdings.iter().enumerate().map(holding).collect::<Result<_, ConvertError>>()?,
    })
}

fn few(count: usize, field: &str) -> Result<(), ConvertError> {
    match count {
        1..=MOST_COUNTERS => Ok(()),
        _ => Err(ConvertError::new(field, format!("from 1 to {MOST_COUNTERS} counters in one call"))),
    }
}

fn counter(key: KeyId, counter: Option<&proto::Counter>, list: &str, index: usize) -> Result<CounterId, ConvertError> {
    let place = format!("{list}[{index}]");
    let counter = required(counter, "counter").map_err(|error| error.within(&place))?;
    counter_id(key, counter).map_err(|error| error.within("counter").within(place))
}

fn encode(grant: &Grant) -> proto::Grant {
    proto::Grant {
        counter: Some(grant.counter.into()),
        period_end_ms: grant.period_end.millis(),
        granted: grant.granted,
        limit: grant.limit,
        available: grant.available,
        elsewhere: grant.elsewhere,
    }
}

fn invalid(error: ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn refused(error: LedgerError) -> Status {
    let code = match &error {
        LedgerError::Store(_) => {
            tracing::error!(%error, "the ledger failed");
            Code::Internal
        }
        // The node's picture is old: its replica will tell it, or it ships first.
        LedgerError::UnknownKey(_)
        | LedgerError::NotActive(_)
        | LedgerError::NoSuchLimit(_)
        | LedgerError::WrongPeriod(_)
        | LedgerError::Overtaken(_)
        | LedgerError::NotShipped { .. } => Code::FailedPrecondition,
        LedgerError::Over(_) => Code::Aborted,
        LedgerError::Foreign { .. } => Code::PermissionDenied,
    };
    Status::new(code, error.to_string())
}

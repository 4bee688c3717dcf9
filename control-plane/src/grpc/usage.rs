//! `keyforge.admin.v1.UsageService`.

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::usage_service_server::UsageService;
use keyforge_proto::convert::parsed;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, WorkspaceId};
use keyforge_shared::period::{CivilDay, Window};
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::recorded;
use crate::admin::page::{Page, PageRequest};
use crate::admin::{Admin, AdminError, Caller};
use crate::ledger::{Balance, Ledger};
use crate::store::Store;
use crate::store::usage::{self, Grouping, UsageQuery, UsageSums};

const QUERY: &str = "usage/Query";
const BALANCE: &str = "usage/GetBalance";
const WORKSPACE_BALANCE: &str = "usage/GetWorkspaceBalance";

/// Serves usage and balances to operators.
pub struct UsageApi {
    admin: Admin,
    store: Store,
    ledger: Ledger,
}

impl UsageApi {
    /// Serves the sums in `store` and the balances of `ledger`; `admin` says who may ask.
    #[must_use]
    pub const fn new(admin: Admin, store: Store, ledger: Ledger) -> Self {
        Self { admin, store, ledger }
    }

    async fn query(
        &self,
        caller: &Caller,
        request: proto::QueryUsageRequest,
    ) -> Result<proto::QueryUsageResponse, AdminError> {
        let page = PageRequest { size: request.page_size, token: request.page_token };
        let size = page.size()?;
        let after = page.after(|mark| String::from_utf8(mark.strip_prefix(MARK)?.to_vec()).ok())?;
        let query = UsageQuery {
            workspace: caller.workspace(),
            key: request.key_id.as_deref().map(|text| parsed::<KeyId>(text, "key_id")).transpose()?,
            grouping: grouping(request.group_by)?,
            from_day: day(request.from_day.as_deref(), "from_day")?,
            until_day: day(request.until_day.as_deref(), "until_day")?,
            after,
            limit: size + 1,
        };
        let rows = usage::query(&mut *self.store.read().await?, &query).await?;
        let page = Page::cut(rows, size, |(group, _)| [MARK, group.as_bytes()].concat());
        let (rows, next_page_token) = page.into_messages(row);
        Ok(proto::QueryUsageResponse { rows, next_page_token })
    }

    async fn balance(&self, caller: &Caller, key: &str) -> Result<proto::GetBalanceResponse, AdminError> {
        let key = parsed(key, "key_id")?;
        self.admin.unless_hidden(caller.workspace(), key)?;
        let balances = self.ledger.balance(key).await?;
        Ok(proto::GetBalanceResponse { balances: balances.iter().map(balance).collect() })
    }

    async fn workspace_balance(
        &self,
        workspace: Result<WorkspaceId, AdminError>,
    ) -> Result<proto::GetWorkspaceBalanceResponse, AdminError> {
        let balances = self.ledger.workspace_balance(workspace?).await?;
        Ok(proto::GetWorkspaceBalanceResponse { balances: balances.iter().map(balance).collect() })
    }
}

/// Begins every page token, because a group's name can be empty: requests that name no model.
const MARK: &[u8] = b"=";

#[tonic::async_trait]
impl UsageService for UsageApi {
    async fn query_usage(
        &self,
        request: Request<proto::QueryUsageRequest>,
    ) -> Result<Response<proto::QueryUsageResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let target = key_target(request.key_id.as_deref().unwrap_or_default());
        let answer = self.query(&caller, request).await;
        recorded(&self.admin, &caller, QUERY, &target, answer).await.map(Response::new)
    }

    async fn get_balance(
        &self,
        request: Request<proto::GetBalanceRequest>,
    ) -> Result<Response<proto::GetBalanceResponse>, Status> {
        let caller = operator(&request)?;
        let key = request.into_inner().key_id;
        let answer = self.balance(&caller, &key).await;
        recorded(&self.admin, &caller, BALANCE, &key_target(&key), answer).await.map(Response::new)
    }

    async fn get_workspace_balance(
        &self,
        request: Request<proto::GetWorkspaceBalanceRequest>,
    ) -> Result<Response<proto::GetWorkspaceBalanceResponse>, Status> {
        let caller = operator(&request)?;
        let workspace = self.admin.workspace_id(&caller, &request.into_inner().workspace);
        let target = workspace.as_ref().map(WorkspaceId::to_string).unwrap_or_default();
        let answer = self.workspace_balance(workspace).await;
        recorded(&self.admin, &caller, WORKSPACE_BALANCE, &target, answer).await.map(Response::new)
    }
}

/// Only what is an id is repeated in the entry: a caller may have pasted a secret.
fn key_target(text: &str) -> String {
    text.parse::<KeyId>().map(|key| key.to_string()).unwrap_or_default()
}

fn grouping(number: i32) -> Result<Grouping, AdminError> {
    match proto::UsageGrouping::try_from(number) {
        Ok(proto::UsageGrouping::Unspecified | proto::UsageGrouping::Key) => Ok(Grouping::Key),
        Ok(proto::UsageGrouping::Model) => Ok(Grouping::Model),
        Ok(proto::UsageGrouping::Day) => Ok(Grouping::Day),
        Err(_) => Err(AdminError::Invalid(format!("group_by: no grouping has the number {number}"))),
    }
}

fn day(text: Option<&str>, field: &str) -> Result<Option<CivilDay>, AdminError> {
    let parse = |text: &str| text.parse().map_err(|_| AdminError::Invalid(format!("{field}: not a day as YYYY-MM-DD")));
    text.map(parse).transpose()
}

fn row((group, sums): (String, UsageSums)) -> proto::UsageRow {
    proto::UsageRow {
        group,
        requests: sums.requests,
        refused: sums.refused,
        input_tokens: sums.input_tokens,
        cache_read_tokens: sums.cache_read_tokens,
        cache_write_tokens: sums.cache_write_tokens,
        output_tokens: sums.output_tokens,
        reasoning_tokens: sums.reasoning_tokens,
        cost_nano_usd: sums.cost,
    }
}

pub(super) fn balance(balance: &Balance) -> proto::Balance {
    proto::Balance {
        scope: balance.counter.scope.as_str().to_owned(),
        dimension: balance.counter.dimension.as_str().to_owned(),
        window: proto::Window::from(balance.counter.window).into(),
        limit: balance.limit,
        settled: balance.settled,
        granted: balance.outstanding,
        first_day: (balance.counter.window != Window::Total).then(|| balance.counter.first_day.to_string()),
        resets_at_ms: (balance.period_end != Timestamp::MAX).then(|| balance.period_end.millis()),
    }
}

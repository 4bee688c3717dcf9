//! `keyforge.admin.v1.KeyService`.

use std::net::IpAddr;
use std::time::Duration;

use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::key_service_server::KeyService;
use keyforge_proto::convert::{self, ConvertError, required, time};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::Endpoint;
use keyforge_shared::id::KeyId;
use keyforge_shared::policy::Policy;
use tonic::{Request, Response, Status};

use super::ids::key_id;
use super::operator_gate::operator;
use super::recorded::decoded;
use super::usage::balance;
use crate::admin::explain::{Check, Finding, Question};
use crate::admin::key_update::KeyMask;
use crate::admin::keys::{KeyQuery, KeyUpdate, NewKey};
use crate::admin::page::PageRequest;
use crate::admin::receipts::{Receipt, Receipts};
use crate::admin::{Admin, AdminError, Caller};
use crate::ledger::Ledger;
use crate::store::keys::StoredKey;

/// How long a call waits for nodes unless it says otherwise.
const WAIT: Duration = Duration::from_secs(2);
/// The longest that it can ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Serves virtual keys to operators.
pub struct KeyApi {
    admin: Admin,
    receipts: Receipts,
    ledger: Ledger,
}

/// A call that stops a key or lets it go on, and asks for a receipt.
struct Receipted {
    caller: Caller,
    key: KeyId,
    method: &'static str,
    wait: Duration,
    /// The monotonic clock when it came, in nanoseconds.
    began: u64,
}

impl KeyApi {
    /// Serves what `admin` does, with the balances of `ledger`.
    #[must_use]
    pub const fn new(admin: Admin, receipts: Receipts, ledger: Ledger) -> Self {
        Self { admin, receipts, ledger }
    }

    async fn receipted<T>(
        &self,
        request: Request<T>,
        method: &'static str,
        read: impl FnOnce(T) -> (String, Option<u32>),
    ) -> Result<Receipted, Status> {
        let began = self.receipts.now();
        let caller = operator(&request)?;
        let deadline = request.metadata().get("grpc-timeout").and_then(|value| timeout(value.to_str().ok()?));
        let (id, wait_ms) = read(request.into_inner());
        let key = decoded(&self.admin, &caller, method, "", key_id(&id)).await?;
        let asked = wait_ms.map_or(WAIT, |millis| Duration::from_millis(millis.into())).min(LONGEST_WAIT);
        // The answer needs some of the time that the caller gives us.
        let wait = deadline.map_or(asked, |deadline| asked.min(deadline * 4 / 5));
        Ok(Receipted { caller, key, method, wait, began })
    }

    async fn receipt(&self, call: Receipted, key: StoredKey) -> Result<Response<proto::KeyReceipt>, Status> {
        let Receipted { caller, method, wait, began, .. } = call;
        let sees_all = caller.workspace().is_none();
        let mut receipt = proto::Receipt::from(self.receipts.of(caller, method, &key, wait, began).await?);
        if !sees_all {
            // Their names are of hosts and directories, which are not for those who see one workspace.
            let planes = receipt.control_planes_pending.iter_mut().zip(1..);
            planes.for_each(|(name, number)| *name = format!("control plane {number}"));
        }
        Ok(Response::new(proto::KeyReceipt { key: Some(self.encode(&key)), receipt: Some(receipt) }))
    }

    fn encode(&self, key: &StoredKey) -> proto::Key {
        proto::Key {
            id: key.record.id.to_string(),
            name: key.record.name.clone(),
            status: proto::KeyStatus::from(key.record.status).into(),
            policy: Some((&*key.record.policy).into()),
            created_at_ms: key.created_at.millis(),
            revoked_at_ms: key.revoked_at.map(Timestamp::millis),
            revision: key.revision,
            workspace_id: key.record.workspace.to_string(),
            workspace_name: self.admin.workspace_name(key.record.workspace),
            labels: key.labels.clone().into_iter().collect(),
            former_token_until_ms: key.record.former.as_ref().and_then(|former| former.until).map(Timestamp::millis),
        }
    }
}

#[tonic::async_trait]
impl KeyService for KeyApi {
    async fn create_key(
        &self,
        request: Request<proto::CreateKeyRequest>,
    ) -> Result<Response<proto::CreateKeyResponse>, Status> {
        let caller = operator(&request)?;
        let proto::CreateKeyRequest { name, policy, workspace, labels } = request.into_inner();
        let labels = labels.into_iter().collect();
        let policy = decode_policy(policy.unwrap_or_default()).map_err(AdminError::from);
        let policy = decoded(&self.admin, &caller, "keys/Create", &name, policy).await?;
        let (key, token) = self.admin.create_key(&caller, NewKey { name, policy, workspace, labels }).await?;
        self.receipts.heard(key.revision).await;
        Ok(Response::new(proto::CreateKeyResponse { key: Some(self.encode(&key)), token: token.expose().to_owned() }))
    }

    async fn get_key(&self, request: Request<proto::GetKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&request)?;
        let id = request.into_inner().id;
        let key = key_id(&id);
        let key = decoded(&self.admin, &caller, "keys/Get", "", key).await?;
        Ok(Response::new(self.encode(&self.admin.get_key(&caller, key).await?)))
    }

    async fn list_keys(
        &self,
        request: Request<proto::ListKeysRequest>,
    ) -> Result<Response<proto::ListKeysResponse>, Status> {
        let caller = operator(&request)?;
        let proto::ListKeysRequest { page_size, page_token, labels, expires_before_ms } = request.into_inner();
        let until = expires_before_ms.map(|millis| time(millis, "expires_before_ms")).transpose();
        let expires_before = decoded(&self.admin, &caller, "keys/List", "", until.map_err(AdminError::from)).await?;
        let query = KeyQuery { labels: labels.into_iter().collect(), expires_before };
        let page = PageRequest { size: page_size, token: page_token };
        let page = self.admin.list_keys(&caller, query, &page).await?;
        let (keys, next_page_token) = page.into_messages(|key| self.encode(&key));
        Ok(Response::new(proto::ListKeysResponse { keys, next_page_token }))
    }

    async fn update_key(&self, request: Request<proto::UpdateKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let update = (|| {
            let mask = required(request.update_mask, "update_mask")?;
            let mask = KeyMask::parse(mask.paths.iter().map(String::as_str))?;
            let policy = request.policy.map(decode_policy).transpose()?;
            let update = KeyUpdate {
                mask,
                name: request.name,
                policy,
                paused: request.paused,
                workspace: request.workspace,
                labels: request.labels.into_iter().collect(),
            };
            Ok((key_id(&request.id)?, update))
        })();
        let (id, update) = decoded(&self.admin, &caller, "keys/Update", "", update).await?;
        let key = self.admin.update_key(&caller, id, update).await?;
        self.receipts.heard(key.revision).await;
        Ok(Response::new(self.encode(&key)))
    }

    async fn rotate_key(
        &self,
        request: Request<proto::RotateKeyRequest>,
    ) -> Result<Response<proto::RotateKeyResponse>, Status> {
        let caller = operator(&request)?;
        let proto::RotateKeyRequest { id, grace_ms } = request.into_inner();
        let key = decoded(&self.admin, &caller, "keys/Rotate", "", key_id(&id)).await?;
        let (key, token) = self.admin.rotate_key(&caller, key, Duration::from_millis(grace_ms)).await?;
        self.receipts.heard(key.revision).await;
        Ok(Response::new(proto::RotateKeyResponse { key: Some(self.encode(&key)), token: token.expose().to_owned() }))
    }

    async fn raise_key(&self, request: Request<proto::RaiseKeyRequest>) -> Result<Response<proto::Key>, Status> {
        let caller = operator(&request)?;
        let proto::RaiseKeyRequest { id, raises } = request.into_inner();
        let raise = (|| Ok((key_id(&id)?, convert::raises(raises)?)))();
        let (key, raises) = decoded(&self.admin, &caller, "keys/Raise", "", raise).await?;
        let key = self.admin.raise_key(&caller, key, raises).await?;
        self.receipts.heard(key.revision).await;
        Ok(Response::new(self.encode(&key)))
    }

    async fn explain_key(
        &self,
        request: Request<proto::ExplainKeyRequest>,
    ) -> Result<Response<proto::ExplainKeyResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let asked = (|| Ok((key_id(&request.id)?, question(&request)?)))();
        let (key, question) = decoded(&self.admin, &caller, "keys/Explain", "", asked).await?;
        let explained = self.admin.explain_key(&caller, &self.ledger, key, &question).await?;
        Ok(Response::new(proto::ExplainKeyResponse {
            key: Some(self.encode(&explained.key)),
            balances: explained.balances.iter().map(balance).collect(),
            checks: explained.checks.into_iter().map(check).collect(),
        }))
    }

    async fn revoke_key(
        &self,
        request: Request<proto::RevokeKeyRequest>,
    ) -> Result<Response<proto::KeyReceipt>, Status> {
        let call = self.receipted(request, "keys/Revoke", |asked| (asked.id, asked.wait_ms)).await?;
        let key = self.admin.revoke_key(&call.caller, call.key).await?;
        self.receipt(call, key).await
    }

    async fn pause_key(&self, request: Request<proto::PauseKeyRequest>) -> Result<Response<proto::KeyReceipt>, Status> {
        let call = self.receipted(request, "keys/Pause", |asked| (asked.id, asked.wait_ms)).await?;
        let key = self.admin.pause_key(&call.caller, call.key).await?;
        self.receipt(call, key).await
    }

    async fn resume_key(
        &self,
        request: Request<proto::ResumeKeyRequest>,
    ) -> Result<Response<proto::KeyReceipt>, Status> {
        let call = self.receipted(request, "keys/Resume", |asked| (asked.id, asked.wait_ms)).await?;
        let key = self.admin.resume_key(&call.caller, call.key).await?;
        self.receipt(call, key).await
    }

    async fn zero_key(&self, request: Request<proto::ZeroKeyRequest>) -> Result<Response<proto::KeyReceipt>, Status> {
        let call = self.receipted(request, "keys/Zero", |asked| (asked.id, asked.wait_ms)).await?;
        let key = self.admin.zero_key(&call.caller, call.key).await?;
        self.receipt(call, key).await
    }
}

impl From<Receipt> for proto::Receipt {
    fn from(receipt: Receipt) -> Self {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            revision: receipt.revision,
            nodes_acked: count(receipt.acked),
            nodes_total: count(receipt.total),
            took_us: u64::try_from(receipt.took.as_micros()).unwrap_or(u64::MAX),
            streams_cut: receipt.streams_cut,
            effective_by_ms: receipt.effective_by.millis(),
            is_bound: receipt.is_bound,
            nodes_pending: receipt.pending.iter().map(ToString::to_string).collect(),
            control_planes_pending: receipt.missing,
        }
    }
}

/// The time that a caller gives a call: up to eight digits and a unit, as gRPC's protocol over HTTP/2 defines `grpc-timeout`.
fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3_600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

fn question(request: &proto::ExplainKeyRequest) -> Result<Question, AdminError> {
    let unspecified = i32::from(proto::Endpoint::Unspecified);
    let endpoint = match request.endpoint {
        number if number == unspecified => Endpoint::Chat,
        number => convert::endpoint(number, "endpoint")?,
    };
    let from = Some(request.from_address.as_str()).filter(|text| !text.is_empty());
    let address =
        |text: &str| text.parse::<IpAddr>().map_err(|_| ConvertError::new("from_address", "not an IP address"));
    Ok(Question {
        model: request.model.clone(),
        endpoint,
        from: from.map(address).transpose()?,
        max_output_tokens: request.max_output_tokens,
    })
}

fn check(check: Check) -> proto::Check {
    let name = check.name;
    let (finding, message) = match check.finding {
        Finding::Refused(status, code, message) => {
            let (finding, code) = (proto::Finding::Refused.into(), code.to_owned());
            return proto::Check { name, finding, status: status.into(), code, message };
        }
        Finding::Passed(message) => (proto::Finding::Passed, message),
        Finding::NotAsked(message) => (proto::Finding::NotAsked, message),
        Finding::ByNodes(message) => (proto::Finding::ByNodes, message),
    };
    proto::Check { name, finding: finding.into(), message, ..proto::Check::default() }
}

fn decode_policy(policy: proto::Policy) -> Result<Policy, ConvertError> {
    policy.try_into().map_err(|error: ConvertError| error.within("policy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_time_is_read_in_every_unit_and_nonsense_is_none() {
        let cases = [("2H", 7_200_000), ("3M", 180_000), ("4S", 4_000), ("250m", 250), ("5000u", 5), ("1000000n", 1)];
        for (text, millis) in cases {
            assert_eq!(timeout(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "S", "5", "-1S", "123456789S", "5x", "5µ"] {
            assert_eq!(timeout(text), None, "{text}");
        }
    }
}

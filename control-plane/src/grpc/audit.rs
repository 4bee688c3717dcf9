//! `keyforge.admin.v1.AuditService`.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, stream};
use keyforge_proto::admin::v1 as proto;
use keyforge_proto::admin::v1::audit_service_server::AuditService;
use keyforge_proto::admin::v1::chain_selector::Chain;
use keyforge_proto::convert::{parsed, required};
use keyforge_shared::audit::record::Record;
use keyforge_shared::audit::request::{Flags, PrivateTag, RequestRecord};
use keyforge_shared::audit::unchained::UnchainedRecord;
use keyforge_shared::id::{ChainId, CredentialId, KeyId};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::operator_gate::operator;
use super::recorded::recorded;
use crate::admin::page::{Page, PageRequest};
use crate::admin::{Admin, AdminError, Caller};
use crate::audit::list::{self, Listed, Order};
use crate::audit::verify::{Selection, Verdict, Verification};
use crate::audit::{Audit, unchained};
use crate::store::{Store, chains};

const LIST: &str = "audit/ListEntries";
const VERIFY: &str = "audit/VerifyChains";
/// Chains walked at the same time, over all callers: each walk holds one of the store's few readers.
const WALKS: usize = 2;

/// Serves chains to operators.
pub struct AuditApi {
    admin: Admin,
    store: Store,
    audit: Arc<Audit>,
    walks: Arc<Semaphore>,
}

impl AuditApi {
    /// Serves the chains of `audit` in `store`; `admin` says who may ask.
    #[must_use]
    pub fn new(admin: Admin, store: Store, audit: Arc<Audit>) -> Self {
        Self { admin, store, audit, walks: Arc::new(Semaphore::new(WALKS)) }
    }

    async fn chain(&self, caller: &Caller, selector: Option<proto::ChainSelector>) -> Result<ChainId, AdminError> {
        match required(selector.and_then(|selector| selector.chain), "chain")? {
            Chain::Admin(_) if caller.workspace().is_some() => Err(AdminError::Denied(
                "the administrators' chain is the whole deployment's: you are bound to a workspace and see the chains of its keys".to_owned(),
            )),
            Chain::Admin(_) => Ok(self.audit.admin_chain()),
            Chain::KeyId(text) => {
                let key: KeyId = parsed(&text, "chain.key_id")?;
                self.admin.unless_hidden(caller.workspace(), key)?;
                let found = chains::chain_of_key(&mut *self.store.read().await?, key).await?;
                found.ok_or_else(|| AdminError::NotFound { noun: "virtual key", name: key.to_string() })
            }
        }
    }

    async fn list(
        &self,
        caller: &Caller,
        request: proto::ListEntriesRequest,
    ) -> Result<proto::ListEntriesResponse, AdminError> {
        let page = PageRequest { size: request.page_size, token: request.page_token };
        let size = page.size()?;
        let order = if request.newest_first { Order::NewestFirst } else { Order::OldestFirst };
        let from = page.after(|bytes| marked(order, bytes))?;
        let chain = self.chain(caller, request.chain).await?;
        let entries = list::entries(&self.store, chain, (order, from), size + 1).await?;
        let page = Page::cut(entries, size, |last| mark(order, last.seq));
        let (entries, next_page_token) = page.into_messages(encode);
        Ok(proto::ListEntriesResponse { entries, next_page_token })
    }
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    type VerifyChainsStream = Pin<Box<dyn Stream<Item = Result<proto::ChainVerdict, Status>> + Send>>;

    async fn list_entries(
        &self,
        request: Request<proto::ListEntriesRequest>,
    ) -> Result<Response<proto::ListEntriesResponse>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let target = target(request.chain.as_ref());
        let answer = self.list(&caller, request).await;
        recorded(&self.admin, &caller, LIST, &target, answer).await.map(Response::new)
    }

    async fn verify_chains(
        &self,
        request: Request<proto::VerifyChainsRequest>,
    ) -> Result<Response<Self::VerifyChainsStream>, Status> {
        let caller = operator(&request)?;
        let request = request.into_inner();
        let target = target(request.chain.as_ref());
        let selection = match request.chain {
            None => Ok(caller.workspace().map_or(Selection::All, Selection::Workspace)),
            Some(selector) => self.chain(&caller, Some(selector)).await.map(Selection::One),
        };
        let selection = recorded(&self.admin, &caller, VERIFY, &target, selection).await?;
        let verification = Verification::new(self.store.clone(), Arc::clone(&self.audit), selection);
        let walks = Arc::clone(&self.walks);
        // The next chain is walked when the caller has taken the verdict on the last one; a caller that goes away ends the walk.
        let verdicts = stream::try_unfold((verification, walks), async |(mut verification, walks)| {
            let turn = walks.acquire().await;
            let verdict = verification.next().await.map_err(AdminError::from)?;
            drop(turn);
            Ok(verdict.map(|verdict| (verdict_message(verdict), (verification, walks))))
        });
        Ok(Response::new(Box::pin(verdicts)))
    }
}

/// What follows the place of a page's last entry in the token of a list that goes back, so that no list takes a token of the other order.
const BACKWARDS: &[u8] = b"<";

fn mark(order: Order, seq: u64) -> Vec<u8> {
    match order {
        Order::OldestFirst => seq.to_be_bytes().to_vec(),
        Order::NewestFirst => [&seq.to_be_bytes(), BACKWARDS].concat(),
    }
}

fn marked(order: Order, bytes: &[u8]) -> Option<u64> {
    let place = match order {
        Order::OldestFirst => bytes,
        Order::NewestFirst => bytes.strip_suffix(BACKWARDS)?,
    };
    Some(u64::from_be_bytes(place.try_into().ok()?))
}

fn target(selector: Option<&proto::ChainSelector>) -> String {
    match selector.and_then(|selector| selector.chain.as_ref()) {
        // Only what is an id is repeated in the entry: a caller may have pasted a secret.
        Some(Chain::KeyId(text)) => text.parse::<KeyId>().map(|key| key.to_string()).unwrap_or_default(),
        Some(Chain::Admin(_)) => "admin".to_owned(),
        None => String::new(),
    }
}

fn verdict_message(verdict: Verdict) -> proto::ChainVerdict {
    proto::ChainVerdict {
        chain_id: verdict.chain,
        key_id: verdict.key,
        entries: verdict.entries,
        first_bad_seq: verdict.first_bad_seq,
        fault: verdict.fault,
    }
}

fn encode(entry: Listed) -> proto::Entry {
    let record = match entry.record {
        Record::Request(record) => proto::entry::Record::Request(request_entry(&record)),
        Record::Admin(record) => proto::entry::Record::Admin(proto::AdminEntry {
            operator_id: record.operator.to_string(),
            peer: record.peer,
            method: record.method,
            target: record.target,
            outcome: record.outcome.as_str().to_owned(),
            detail: record.detail,
        }),
        Record::Gap(record) => proto::entry::Record::Gap(proto::GapEntry {
            node_id: record.subject.node.to_string(),
            boot_id: record.subject.boot.to_string(),
            last_seq: record.last_seq,
            request_ids: record.requests.iter().map(ToString::to_string).collect(),
            charged_nano_usd: record.charged.nanos(),
        }),
        Record::Unchained(record) => proto::entry::Record::Unchained(unchained_entry(&record)),
    };
    proto::Entry { seq: entry.seq, t_cp_ms: entry.t_cp.millis(), hash: entry.hash, record: Some(record) }
}

fn unchained_entry(record: &UnchainedRecord) -> proto::UnchainedEntry {
    let chain = |(chain, (records, cost)): (ChainId, (u64, u64))| proto::UnknownChain {
        chain_id: chain.to_string(),
        records,
        cost_nano_usd: cost,
    };
    proto::UnchainedEntry {
        node_id: record.subject.node.to_string(),
        boot_id: record.subject.boot.to_string(),
        lost_from: record.lost_from,
        lost_through: record.lost_through,
        chains: unchained::by_chain(record).into_iter().map(chain).collect(),
        first_seq: record.records.first().map_or(0, |first| first.node_seq),
        last_seq: record.records.last().map_or(0, |last| last.node_seq),
    }
}

fn request_entry(record: &RequestRecord) -> proto::RequestEntry {
    let number = |tag| record.private_u64(tag).unwrap_or(0);
    let credential = (record.credential != CredentialId::from_bytes([0; 16])).then(|| record.credential.to_string());
    let rejection = record.private_value(PrivateTag::REJECTION).map(String::from_utf8_lossy);
    proto::RequestEntry {
        outcome: record.outcome.as_str().to_owned(),
        request_id: record.request.to_string(),
        attempt: record.attempt.into(),
        t_node_ms: record.t_node.millis(),
        node_id: record.node.to_string(),
        model: record.model.clone(),
        credential_id: credential.unwrap_or_default(),
        status: record.status.into(),
        input_tokens: record.input_tokens,
        output_tokens: record.output_tokens,
        cache_read_tokens: record.cache_read_tokens,
        cache_write_tokens: record.cache_write_tokens,
        reasoning_tokens: number(PrivateTag::REASONING_TOKENS),
        cost_nano_usd: record.cost.nanos(),
        bound_nano_usd: record.bound.nanos(),
        flags: flags(record.flags),
        rejection: rejection.unwrap_or_default().into_owned(),
        input_audio_tokens: number(PrivateTag::INPUT_AUDIO_TOKENS),
        output_audio_tokens: number(PrivateTag::OUTPUT_AUDIO_TOKENS),
    }
}

fn flags(flags: Flags) -> Vec<String> {
    const WORDS: [(Flags, &str); 10] = [
        (Flags::STREAMED, "streamed"),
        (Flags::USAGE_KNOWN, "usage_known"),
        (Flags::CLIENT_GONE, "client_gone"),
        (Flags::UPSTREAM_BROKEN, "upstream_broken"),
        (Flags::CLAMPED, "clamped"),
        (Flags::BOUND_EXCEEDED, "bound_exceeded"),
        (Flags::REVOKED, "revoked"),
        (Flags::DIGESTS, "digests"),
        (Flags::NOT_BILLED, "not_billed"),
        (Flags::NOT_COUNTED, "not_counted"),
    ];
    WORDS.iter().filter(|(flag, _)| flags.has(*flag)).map(|(_, word)| (*word).to_owned()).collect()
}

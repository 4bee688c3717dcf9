//! The books of a key, seen from outside: what the provider would bill, what the ledger and the chain say, and whether they agree.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyforge_proto::admin::v1 as admin;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::agents::{INPUT_NANO, OUTPUT_NANO, Outcome, ask, attempt, kinds};
use super::deployment::{Deployment, PATIENCE};

/// What a key may cost and how often it may ask, in a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub nano_usd: u64,
    pub requests: u64,
}

impl Limits {
    pub fn policy(self) -> admin::Policy {
        let window = admin::Window::Month.into();
        admin::Policy {
            request_limits: vec![admin::RequestLimit { requests: self.requests, window }],
            spend_limits: vec![admin::SpendLimit { nano_usd: self.nano_usd, window }],
            ..admin::Policy::default()
        }
    }
}

/// What the provider itself would charge, and for how many requests.
pub fn billed(deployment: &Deployment) -> Limits {
    let bill = deployment.provider.bill().total();
    Limits { nano_usd: bill.prompt_tokens * INPUT_NANO + bill.completion_tokens * OUTPUT_NANO, requests: bill.requests }
}

/// Reads the provider's bill again and again, and remembers the first time that it was too high.
pub struct Watch {
    over: Arc<AtomicBool>,
    task: JoinHandle<Option<Limits>>,
}

impl Watch {
    pub fn start(deployment: &Arc<Deployment>, limits: Limits) -> Self {
        let (over, deployment) = (Arc::new(AtomicBool::new(false)), Arc::clone(deployment));
        let stop = Arc::clone(&over);
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let bill = billed(&deployment);
                if bill.nano_usd > limits.nano_usd || bill.requests > limits.requests {
                    return Some(bill);
                }
                sleep(Duration::from_millis(10)).await;
            }
            None
        });
        Self { over, task }
    }

    /// The bill was never too high.
    pub async fn assert_never_over(self) {
        self.over.store(true, Ordering::Relaxed);
        let over = self.task.await.unwrap();
        assert!(over.is_none(), "I-1: the provider's bill was {over:?}");
    }
}

/// The ledger's balance of one limit.
pub async fn balance(deployment: &Deployment, id: &str, dimension: &str) -> admin::Balance {
    let mut usage = admin::usage_service_client::UsageServiceClient::new(deployment.admin().await);
    let request = admin::GetBalanceRequest { key_id: id.to_owned() };
    let balances = usage.get_balance(request).await.unwrap().into_inner().balances;
    balances.into_iter().find(|balance| balance.dimension == dimension).unwrap()
}

/// Everything in a key's chain, in its order.
pub async fn chain(deployment: &Deployment, id: &str) -> Result<Vec<admin::Entry>, Status> {
    let mut audit = admin::audit_service_client::AuditServiceClient::new(deployment.admin().await);
    let (mut found, mut page_token) = (Vec::new(), String::new());
    loop {
        let chain = Some(admin::ChainSelector { chain: Some(admin::chain_selector::Chain::KeyId(id.to_owned())) });
        let request = admin::ListEntriesRequest { chain, page_size: 500, page_token, ..Default::default() };
        let page = audit.list_entries(request).await?.into_inner();
        found.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(found);
        }
    }
}

/// The requests in a key's chain.
pub async fn entries(deployment: &Deployment, id: &str) -> Vec<admin::RequestEntry> {
    let chain = chain(deployment, id).await.unwrap().into_iter();
    chain
        .filter_map(|entry| match entry.record {
            Some(admin::entry::Record::Request(request)) => Some(request),
            _ => None,
        })
        .collect()
}

/// Whether an entry counts as a request of the quota.
pub fn counted(entry: &admin::RequestEntry) -> bool {
    entry.outcome != "refused" && !entry.flags.iter().any(|flag| flag == "not_counted")
}

/// What entries cost and how many requests they are.
pub fn charged(entries: &[admin::RequestEntry]) -> Limits {
    Limits {
        nano_usd: entries.iter().map(|entry| entry.cost_nano_usd).sum(),
        requests: entries.iter().filter(|entry| counted(entry)).count() as u64,
    }
}

/// How many entries there are of each outcome, and what they cost together.
pub fn outcomes(entries: &[admin::RequestEntry]) -> BTreeMap<&str, (u64, u64)> {
    let mut sums = BTreeMap::<&str, (u64, u64)>::new();
    for entry in entries {
        let sum = sums.entry(entry.outcome.as_str()).or_default();
        *sum = (sum.0 + 1, sum.1 + entry.cost_nano_usd);
    }
    sums
}

/// Keys whose limits are looked at together: one, or all of a workspace.
#[derive(Clone, Debug)]
pub struct Keys {
    pub tokens: Vec<String>,
    pub ids: Vec<String>,
    pub limits: Limits,
}

impl Keys {
    pub fn one((token, id): (String, String), limits: Limits) -> Self {
        Self { tokens: vec![token], ids: vec![id], limits }
    }
}

/// What the ledger has settled.
pub async fn settled(deployment: &Deployment, id: &str) -> Limits {
    Limits {
        nano_usd: balance(deployment, id, "spend").await.settled,
        requests: balance(deployment, id, "requests").await.settled,
    }
}

/// Waits until every request that an agent knows of and every one that the provider served is in the chain, and asserts I-1, I-3, I-17 and I-20.
pub async fn reconciled(deployment: &Deployment, keys: &Keys, seen: &[Outcome]) -> Vec<admin::RequestEntry> {
    let limits = keys.limits;
    let known: HashSet<&str> =
        seen.iter().filter(|seen| seen.status == Some(200)).filter_map(|seen| seen.request_id.as_deref()).collect();
    let deadline = Instant::now() + PATIENCE;
    let (mut missing, mut found, mut ledger) = (known.len(), Vec::new(), settled(deployment, &keys.ids[0]).await);
    while Instant::now() < deadline {
        found.clear();
        for id in &keys.ids {
            found.extend(entries(deployment, id).await);
        }
        // The balance of a workspace's limit is that of all its keys.
        ledger = settled(deployment, &keys.ids[0]).await;
        let recorded: HashSet<&str> = found.iter().map(|entry| entry.request_id.as_str()).collect();
        missing = known.difference(&recorded).count();
        let charge = charged(&found);
        if missing == 0 && charge.requests >= billed(deployment).requests && charge == ledger {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let (bill, charge) = (billed(deployment), charged(&found));
    assert_eq!(missing, 0, "I-17: requests of agents that are in no chain");
    assert!(
        charge.requests >= bill.requests && charge.nano_usd >= bill.nano_usd,
        "billed {bill:?}, charged {charge:?}"
    );
    assert!(charge.requests <= limits.requests && charge.nano_usd <= limits.nano_usd, "I-1: {charge:?} of {limits:?}");
    let ids: HashSet<_> = found.iter().map(|entry| (&entry.request_id, entry.attempt)).collect();
    assert_eq!(ids.len(), found.len(), "I-17: an attempt is recorded twice");
    let over = found.iter().find(|entry| entry.cost_nano_usd > entry.bound_nano_usd);
    assert!(over.is_none(), "I-3: {over:?}");
    assert_eq!(ledger, charge, "I-20: ledger and chain");
    let report = deployment.cli_json(&["usage"]);
    let rows = report["rows"].as_array().unwrap().iter();
    let rows: Vec<_> = rows.filter(|row| keys.ids.iter().any(|id| row["group"] == id.as_str())).collect();
    let total = |field: &str| rows.iter().map(|row| row[field].as_u64().unwrap()).sum::<u64>();
    assert_eq!((total("cost_nano_usd"), total("requests")), (charge.nano_usd, charge.requests), "I-20: {report}");
    let verified = deployment.cli(&["audit", "verify", "--all"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    found
}

/// Spends what is left, with all keys and over all nodes in turn, until every key is refused for good. Returns what became of the requests.
async fn spend_down(deployment: &Deployment, keys: &Keys, tokens: u64) -> Vec<Outcome> {
    let deadline = Instant::now() + PATIENCE;
    let (mut outcomes, mut refused) = (Vec::<Outcome>::new(), 0);
    while refused < keys.tokens.len() {
        let token = &keys.tokens[outcomes.len() % keys.tokens.len()];
        let outcome = attempt(deployment, outcomes.len() % deployment.nodes.len(), token, &ask(tokens, false)).await;
        let pause = outcome.retry_after.unwrap_or_default();
        let status = outcome.status;
        outcomes.push(outcome);
        refused = if status == Some(402) { refused + 1 } else { 0 };
        if !matches!(status, Some(200 | 402)) {
            sleep(pause.clamp(Duration::from_millis(20), Duration::from_millis(500))).await;
        }
        assert!(Instant::now() < deadline, "the rest was neither spent nor refused for good: {:?}", kinds(&outcomes));
    }
    outcomes
}

/// I-8, I-9: spends what is left of a key until the ledger has less left than the refused request needed, which must be so once everything has come to
/// rest. The books are reconciled again and again meanwhile. Returns the entries.
pub async fn nothing_is_locked_up(
    deployment: &Deployment,
    keys: &Keys,
    tokens: u64,
    mut seen: Vec<Outcome>,
) -> Vec<admin::RequestEntry> {
    let begin = Instant::now();
    loop {
        seen.extend(spend_down(deployment, keys, tokens).await);
        let found = reconciled(deployment, keys, &seen).await;
        let error = &seen[seen.len() - 1].error;
        let Some(locked) = locked_up(error, keys.limits, charged(&found)) else {
            eprintln!("all that was left could be spent after {:?}: {:?}", begin.elapsed(), charged(&found));
            return found;
        };
        let id = &keys.ids[0];
        let balances = [balance(deployment, id, "spend").await, balance(deployment, id, "requests").await];
        assert!(begin.elapsed() < PATIENCE, "{locked} are locked up: {error} {balances:?}");
        sleep(Duration::from_millis(500)).await;
    }
}

/// What a refusal for good leaves unspent although it would have been enough.
fn locked_up(error: &serde_json::Value, limits: Limits, settled: Limits) -> Option<u64> {
    let (needed, left) = match error["dimension"].as_str() {
        Some("requests") => (1, limits.requests - settled.requests),
        Some("spend") => {
            let needed: f64 = error["needed"].as_str().unwrap().parse().unwrap();
            ((1e9 * needed).round() as u64, limits.nano_usd - settled.nano_usd)
        }
        other => panic!("{other:?} in {error}"),
    };
    (left >= needed).then_some(left)
}

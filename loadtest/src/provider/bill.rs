//! What the provider would charge, by key and model: counted where tokens are made, from nothing the gateway says.
//!
//! A prompt is charged when its answer begins. A buffered answer is charged whole, waited for or not. A stream is
//! charged token by token as it is handed to the connection, so one that the client left costs the prompt and what had
//! been made by then. Refusals, faults before the first byte, raw and recorded replies cost nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The most accounts (key and model) that are told apart; later ones share [`OVERFLOW`].
const MAX_ACCOUNTS: usize = 65_536;

/// The key under which charges of accounts beyond the bound are summed.
pub const OVERFLOW: &str = "(more)";

/// What was served and made. All token figures are totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charges {
    /// Requests that began an answer.
    pub requests: u64,
    /// Prompt tokens read, cached ones included.
    pub prompt_tokens: u64,
    /// Prompt tokens read from the cache; part of `prompt_tokens`.
    pub cached_tokens: u64,
    /// Tokens made, reasoning included.
    pub completion_tokens: u64,
    /// Reasoning tokens made; part of `completion_tokens`.
    pub reasoning_tokens: u64,
    /// Streams that the client left before their end.
    pub aborted_streams: u64,
}

impl Charges {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.reasoning_tokens += other.reasoning_tokens;
        self.aborted_streams += other.aborted_streams;
    }
}

/// All charges so far, by key as it was seen and by model as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// Key, then model. A request without a key is under the empty string.
    pub by_credential: BTreeMap<String, BTreeMap<String, Charges>>,
}

impl Bill {
    /// The sum over everything.
    #[must_use]
    pub fn total(&self) -> Charges {
        self.sum(|_, _| true)
    }

    /// The sum over all models of one key; zero for a key never seen.
    #[must_use]
    pub fn of_credential(&self, credential: &str) -> Charges {
        self.sum(|seen, _| seen == credential)
    }

    /// The sum over all keys of one model; zero for a model never asked for.
    #[must_use]
    pub fn of_model(&self, model: &str) -> Charges {
        self.sum(|_, asked| asked == model)
    }

    fn sum(&self, wanted: impl Fn(&str, &str) -> bool) -> Charges {
        let mut sum = Charges::default();
        for (credential, models) in &self.by_credential {
            for (model, charges) in models {
                if wanted(credential, model) {
                    sum.add(charges);
                }
            }
        }
        sum
    }
}

/// One running account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    requests: AtomicU64,
    prompt: AtomicU64,
    cached: AtomicU64,
    completion: AtomicU64,
    reasoning: AtomicU64,
    aborted: AtomicU64,
}

impl Account {
    /// An answer begins: its prompt has been read.
    pub(crate) fn begin(&self, prompt_tokens: u64, cached_tokens: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.prompt.fetch_add(prompt_tokens, Ordering::Relaxed);
        self.cached.fetch_add(cached_tokens, Ordering::Relaxed);
    }

    /// So many tokens were made, of which so many to reason.
    pub(crate) fn made(&self, completion_tokens: u64, reasoning_tokens: u64) {
        self.completion.fetch_add(completion_tokens, Ordering::Relaxed);
        self.reasoning.fetch_add(reasoning_tokens, Ordering::Relaxed);
    }

    /// The client left a stream.
    pub(crate) fn aborted(&self) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
    }

    fn charges(&self) -> Charges {
        Charges {
            requests: self.requests.load(Ordering::Relaxed),
            prompt_tokens: self.prompt.load(Ordering::Relaxed),
            cached_tokens: self.cached.load(Ordering::Relaxed),
            completion_tokens: self.completion.load(Ordering::Relaxed),
            reasoning_tokens: self.reasoning.load(Ordering::Relaxed),
            aborted_streams: self.aborted.load(Ordering::Relaxed),
        }
    }
}

/// All running accounts of one provider.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accounts: Mutex<Accounts>,
}

#[derive(Debug, Default)]
struct Accounts {
    by_credential: HashMap<String, HashMap<String, Arc<Account>>>,
    count: usize,
}

impl Ledger {
    /// The account of this key and model, opened if new.
    pub(crate) fn account(&self, credential: &str, model: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.by_credential.get(credential).and_then(|models| models.get(model)) {
            return Arc::clone(account);
        }
        let full = accounts.count >= MAX_ACCOUNTS;
        let (credential, model) = if full { (OVERFLOW, OVERFLOW) } else { (credential, model) };
        accounts.count += 1;
        let models = accounts.by_credential.entry(credential.to_owned()).or_default();
        Arc::clone(models.entry(model.to_owned()).or_default())
    }

    /// The charges of this moment.
    pub(crate) fn bill(&self) -> Bill {
        let accounts = self.accounts.lock();
        let models = |models: &HashMap<String, Arc<Account>>| {
            models.iter().map(|(model, account)| (model.clone(), account.charges())).collect()
        };
        Bill { by_credential: accounts.by_credential.iter().map(|(key, value)| (key.clone(), models(value))).collect() }
    }
}

//! Why a request of a key would be refused: each check in the order in which a node makes it, by the functions that the node asks.
//!
//! What only nodes know is said to be theirs: rates, and how the pool of a provider stands. What is spent is what the ledger has proof of.

use std::net::IpAddr;

use keyforge_shared::admission::{self, Denial};
use keyforge_shared::catalog::Model;
use keyforge_shared::clock::Timestamp;
use keyforge_shared::endpoint::Endpoint;
use keyforge_shared::exhausted::Exhausted;
use keyforge_shared::id::KeyId;
use keyforge_shared::limit::{Dimension, Scope};
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::Policy;
use keyforge_shared::state::{KeyRecord, State};

use super::{Admin, AdminError, Call, Caller};
use crate::ledger::{Balance, Ledger};
use crate::store::keys::{self, StoredKey};

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// The model as a client writes it; empty when it is not asked about.
    pub model: String,
    /// Where the request goes.
    pub endpoint: Endpoint,
    /// Where it comes from, if that is asked about.
    pub from: Option<IpAddr>,
    /// The output limit that it has, in tokens of each choice.
    pub max_output_tokens: Option<u64>,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The request passes it; what there is to say about that.
    Passed(String),
    /// The request is refused, with this status, code and message.
    Refused(u16, &'static str, String),
    /// The question did not say enough; what is allowed.
    NotAsked(String),
    /// Nodes decide it when the request comes; what by.
    ByNodes(String),
}

/// A check of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is looked at.
    pub name: String,
    /// What came of it.
    pub finding: Finding,
}

/// A key, its balances, and the checks of a request in the order of a node. The first refusal is what the agent sees.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The key with the policy in effect.
    pub key: StoredKey,
    /// Its limits and its workspace's, in their current periods, raises included.
    pub balances: Vec<Balance>,
    /// Every check, also those behind a refusal.
    pub checks: Vec<Check>,
}

impl Admin {
    /// Explains what a key may do, and what would become of a request.
    ///
    /// # Errors
    /// [`AdminError::NotFound`].
    pub async fn explain_key(
        &self,
        caller: &Caller,
        ledger: &Ledger,
        id: KeyId,
        question: &Question,
    ) -> Result<Explanation, AdminError> {
        let call = Call::new(caller, "keys/Explain", id);
        self.look(&call, async {
            self.unless_hidden(call.workspace, id)?;
            let found = keys::get(&mut *self.inner.store.read().await?, id).await?;
            let key = found.ok_or_else(|| AdminError::not_found("virtual key", id))?;
            let balances = ledger.balance(id).await?;
            let now = self.inner.store.now();
            let checks = self.inner.hub.with_state(|state| checks(state, &key.record, &balances, question, now));
            Ok(Explanation { key, balances, checks })
        })
        .await
    }
}

fn checks(state: &State, key: &KeyRecord, balances: &[Balance], question: &Question, now: Timestamp) -> Vec<Check> {
    let policy = &key.policy;
    let mut checks = vec![check("key", standing(key, now))];
    checks.extend(policy.has_nothing_left().then(|| check("left", nothing_left())));
    checks.push(check("address", address(policy, question.from)));
    checks.push(check(
        "endpoint",
        denied(admission::endpoint(policy, question.endpoint), || question.endpoint.to_string()),
    ));
    if question.endpoint.operation().is_some() {
        let (finding, model) = model(state, policy, question);
        checks.push(check("model", finding));
        if let Some(model) = model {
            let capped = balances.iter().any(|balance| balance.counter.dimension == Dimension::Spend);
            checks.push(check("credential", credential(state, model)));
            checks
                .push(check("price", denied(price(capped, model), || "the request's cost can be bounded".to_owned())));
        }
        checks.push(check("output", output(policy, question.max_output_tokens)));
        checks.extend(rates(policy).map(|rates| check("rates", Finding::ByNodes(rates))));
        let plan = state.workspace(key.workspace).map(|workspace| workspace.plan).unwrap_or_default();
        checks.extend(balances.iter().map(|balance| limit(balance, plan)));
    }
    checks
}

fn check(name: &str, finding: Finding) -> Check {
    Check { name: name.to_owned(), finding }
}

fn denied<T>(outcome: Result<T, Denial>, passed: impl FnOnce() -> String) -> Finding {
    match outcome {
        Ok(_) => Finding::Passed(passed()),
        Err(denial) => Finding::Refused(denial.status(), denial.code(), denial.message().into_owned()),
    }
}

fn standing(key: &KeyRecord, now: Timestamp) -> Finding {
    denied(admission::standing(key, now), || {
        let end =
            key.policy.expires_at.map_or_else(|| "without an end".to_owned(), |at| format!("until {}", at.rfc3339()));
        match key.former.as_ref().and_then(|former| former.until).filter(|until| now < *until) {
            Some(until) => format!("active, {end}; its former token works until {}", until.rfc3339()),
            None => format!("active, {end}"),
        }
    })
}

fn nothing_left() -> Finding {
    Finding::Refused(402, "budget_exceeded", Exhausted::NOTHING_LEFT.message())
}

fn address(policy: &Policy, from: Option<IpAddr>) -> Finding {
    let networks: Vec<_> = policy.networks.as_slice().iter().map(ToString::to_string).collect();
    match from {
        _ if networks.is_empty() => Finding::Passed("every address is allowed".to_owned()),
        None => Finding::NotAsked(format!("allowed: {}", networks.join(", "))),
        from => denied(admission::address(policy, || from), || format!("allowed: {}", networks.join(", "))),
    }
}

fn model<'a>(state: &'a State, policy: &Policy, question: &Question) -> (Finding, Option<&'a Model>) {
    if question.model.is_empty() {
        let patterns: Vec<_> = policy.models.iter().map(|pattern| pattern.0.as_str()).collect();
        let allowed = if patterns.is_empty() { "every model".to_owned() } else { patterns.join(", ") };
        return (Finding::NotAsked(format!("allowed: {allowed}")), None);
    }
    let found = state.called(&question.model);
    let brief = |name: &str| name.chars().take(64).collect::<String>();
    match admission::model(policy, &question.model, found, question.endpoint, brief) {
        Ok(model) => (Finding::Passed(format!("{} of {}", model.name, model.provider.0)), Some(&**model)),
        Err(denial) => (denied(Err::<(), _>(denial), String::new), None),
    }
}

fn credential(state: &State, model: &Model) -> Finding {
    let usable = state.credentials().filter(|credential| credential.enabled && credential.provider == model.provider);
    match usable.count() {
        0 => denied(Err::<(), _>(Denial::NoCredential(model.provider.0.clone())), String::new),
        count => Finding::Passed(format!("{count} of {} enabled; nodes know how they stand", model.provider.0)),
    }
}

fn price(capped: bool, model: &Model) -> Result<(), Denial> {
    if capped { admission::prices(model).map(drop) } else { Ok(()) }
}

/// How nodes read the limit of a request that asks for several choices, which is not asked about.
const SHARED: &str =
    "which all choices of a request share: with `n` of them each has an n-th, and more choices than tokens are refused";

fn output(policy: &Policy, asked: Option<u64>) -> Finding {
    match (policy.max_output_tokens, asked) {
        (None, _) => Finding::Passed("the policy does not limit it".to_owned()),
        (Some(limit), None) => Finding::Passed(format!("limited to {limit} tokens, {SHARED}")),
        (Some(limit), Some(asked)) if asked > limit => {
            Finding::Passed(format!("{asked} tokens are lowered to {limit}, {SHARED}"))
        }
        (Some(limit), Some(_)) => Finding::Passed(format!("within {limit} tokens, {SHARED}")),
    }
}

fn rates(policy: &Policy) -> Option<String> {
    let rates = [
        (policy.requests_per_minute.map(u64::from), "requests per minute"),
        (policy.tokens_per_minute, "tokens per minute"),
        (policy.concurrent_requests.map(u64::from), "requests at the same time"),
    ];
    let rates: Vec<_> = rates.into_iter().filter_map(|(rate, what)| Some(format!("{} {what}", rate?))).collect();
    (!rates.is_empty()).then(|| rates.join(", "))
}

/// Whether a limit covers the least that a request can need.
fn limit(balance: &Balance, plan: Plan) -> Check {
    let Balance { counter, limit, settled, outstanding, period_end } = *balance;
    let whose = if counter.scope == Scope::Key { "key" } else { "workspace" };
    let name = format!("{whose} {} per {}", counter.dimension.as_str(), counter.window);
    let exhausted = Exhausted {
        plan: plan.behind(&counter, limit),
        scope: counter.scope,
        dimension: counter.dimension,
        window: counter.window,
        limit,
        spent: settled,
        held: outstanding,
        // No request was asked about of which it could be said.
        needed: 0,
        resets_at: (period_end != Timestamp::MAX).then_some(period_end),
    };
    let free = limit.saturating_sub(settled);
    let finding = if free == 0 {
        Finding::Refused(402, "budget_exceeded", exhausted.message())
    } else if free <= outstanding {
        Finding::ByNodes("what is left was granted to nodes; they know what requests that run hold of it".to_owned())
    } else {
        Finding::Passed(format!(
            "{} of {} left",
            exhausted.amount(free.saturating_sub(outstanding)),
            exhausted.amount(limit)
        ))
    };
    Check { name, finding }
}

#[cfg(test)]
mod tests {
    use keyforge_shared::limit::CounterId;
    use keyforge_shared::period::{CivilDay, Window};

    use super::*;

    fn found(dimension: Dimension, settled: u64, outstanding: u64) -> Finding {
        let key = "vk_abcdefghijkm".parse().unwrap();
        let (scope, window, first_day) = (Scope::Key, Window::Total, CivilDay::from_number(0));
        let counter = CounterId { key, scope, dimension, window, first_day };
        let limit = 2_000_000_000;
        let balance = Balance { counter, period_end: Timestamp::MAX, limit, settled, outstanding };
        super::limit(&balance, Plan::default()).finding
    }

    #[test]
    fn a_limit_that_is_used_up_is_said_to_be_so_without_an_amount_that_no_request_asked_for() {
        let Finding::Refused(402, "budget_exceeded", said) = found(Dimension::Spend, 2_000_000_000, 0) else {
            panic!()
        };
        let expected = "This virtual key's spend limit of $2.00 in total does not cover any request: $2.00 spent, $0.00 held, nothing left, and every \
                        request needs something of it.";
        assert_eq!(said, expected);
        let Finding::Refused(_, _, said) = found(Dimension::Requests, 2_000_000_000, 0) else { panic!() };
        assert!(said.contains("does not cover any request") && !said.contains("needed"), "{said}");
    }

    #[test]
    fn the_output_limit_is_said_to_be_that_of_all_choices_together() {
        let policy = Policy { max_output_tokens: Some(4), ..Policy::default() };
        for (asked, begin) in
            [(None, "limited to 4 tokens"), (Some(4), "within 4 tokens"), (Some(9), "9 tokens are lowered to 4")]
        {
            let Finding::Passed(said) = output(&policy, asked) else { panic!() };
            assert!(said.starts_with(begin) && said.contains("all choices of a request share"), "{said}");
        }
    }

    #[test]
    fn a_limit_of_which_something_is_left_says_how_much() {
        let left = |said: &str| Finding::Passed(said.to_owned());
        assert_eq!(found(Dimension::Spend, 500_000_000, 250_000_000), left("$1.25 of $2.00 left"));
        assert_eq!(found(Dimension::Requests, 1, 1), left("1999999998 of 2000000000 left"));
        assert!(matches!(found(Dimension::Spend, 1_500_000_000, 500_000_000), Finding::ByNodes(_)));
    }
}

//! A request's turn at a credential: from its choice until it is known what the provider made of it.
//!
//! Whatever becomes of it, its turn ends once: said, or when it is dropped, as one of which nothing is known.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use keyforge_counters::CooldownClass;
use keyforge_providers::fault::{Fault, FaultKind};
use keyforge_providers::{anthropic, openai};
use keyforge_shared::provider::{self, Api};

use super::Pools;
use super::gate::{Condition, Entry};
use super::headroom::Sent;
use super::members::{Candidate, Member, Pool};
use super::registry::{GateAt, LastRefusal, Registry};

/// What was learned about credentials from the attempts at one request. What a provider denies the request and not the credential would otherwise shut
/// one credential after another.
#[derive(Debug, Default)]
pub struct Blame {
    /// The right of a credential to a family of models was shut.
    has_denied_a_right: bool,
}

/// A request's turn at a credential.
pub struct Turn {
    pools: Pools,
    pool: Arc<Pool>,
    index: usize,
    entries: [Entry; Member::GATES],
    /// Gates that this request probes.
    probes: Vec<usize>,
    sent: Sent,
    is_answered: bool,
    is_over: bool,
}

impl Turn {
    /// Made by [`Pools`] alone, which has let it through all gates.
    pub(super) fn new(
        pools: &Pools,
        (pool, index): (&Arc<Pool>, usize),
        entries: [Entry; Member::GATES],
        probes: Vec<usize>,
        sent: Sent,
    ) -> Self {
        let (pools, pool) = (pools.clone(), Arc::clone(pool));
        Self { pools, pool, index, entries, probes, sent, is_answered: false, is_over: false }
    }

    /// Which of its pool's credentials it is.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The credential.
    #[must_use]
    pub fn candidate(&self) -> &Candidate {
        &self.member().candidate
    }

    /// What agents know the credential by.
    #[must_use]
    pub fn slot(&self) -> &str {
        &self.member().slot
    }

    fn member(&self) -> &Member {
        &self.pool.members[self.index]
    }

    /// Makes sure that no other node probes the same. `None` if one does: then this turn is over.
    pub(super) async fn claimed(mut self) -> Option<Self> {
        for at in self.probes.clone() {
            if !self.pools.may_probe(self.member().gates[at]).await {
                let pools = self.pools.clone();
                let now = pools.now();
                self.end(|entries, gates, registry| {
                    for (place, (gate, entry)) in gates.iter().zip(entries).enumerate() {
                        if place == at {
                            registry.gate(*gate).denied(*entry, now)
                        } else {
                            registry.gate(*gate).unknown(*entry, now)
                        }
                    }
                });
                return None;
            }
        }
        Some(self)
    }

    /// The head of an answer came, in which the provider may say what is left of its limits.
    pub fn answered(&mut self, headers: &HeaderMap) {
        let (now, wall) = (self.pools.now(), self.pools.wall());
        let stated = match provider::of(&self.pool.provider).api {
            Api::OpenAi => openai::headroom::read(headers, wall),
            Api::Anthropic => anthropic::headroom::read(headers, wall),
            // It says nothing.
            Api::Google => Vec::new(),
        };
        let (limit, sent) = (self.member().limit, self.sent);
        let mut registry = self.pools.registry();
        let limit = registry.limit(limit);
        limit.answered(sent);
        limit.told(sent, &stated, now, wall);
        self.is_answered = true;
    }

    /// The provider serves it.
    pub fn passed(mut self) {
        self.end(|entries, gates, registry| {
            for (gate, entry) in gates.iter().zip(entries) {
                registry.gate(*gate).passed(*entry);
            }
        });
        self.pools.passed_at(self.member());
    }

    /// The provider failed it. `blame` is what attempts at the same request have said before.
    pub fn failed(mut self, fault: &Fault, blame: &mut Blame) {
        match blamed(fault) {
            // What a second credential says in the same words may be said of the request.
            Some((Member::RIGHT, _)) if std::mem::replace(&mut blame.has_denied_a_right, true) => {}
            Some(gate) => self.refused(gate, fault.retry_after, code_of(fault)),
            None if matches!(fault.kind, FaultKind::ClientError | FaultKind::NoAnswer) => self.passed(),
            // Of anything else nobody knows whose fault it was.
            None => {}
        }
    }

    /// Its host cannot be reached: all who use it are spared the attempt for a moment.
    pub fn unreached(mut self) {
        self.refused((Member::HOST, CooldownClass::Overloaded), None, UNREACHABLE.into());
    }

    fn refused(&mut self, (place, class): (usize, CooldownClass), asked: Option<Duration>, code: Arc<str>) {
        let pools = self.pools.clone();
        let now = pools.now();
        let mut first = None;
        let limit = self.member().limit;
        let credential = self.member().candidate.credential.id;
        let refusal = LastRefusal { class, code, at: pools.wall() };
        self.end(|entries, gates, registry| {
            for (at, (gate, entry)) in gates.iter().zip(entries).enumerate() {
                if at == place {
                    let chance = registry.chance.draw();
                    let stands = registry.gate(*gate);
                    // One that was well in between is refused anew.
                    let is_well = stands.condition(now) == Condition::Healthy;
                    let before = if is_well { None } else { stands.shut_last_for() };
                    if stands.refused(*entry, (class, asked), now, chance) {
                        first = Some((*gate, before));
                    }
                    registry.mark_active(*gate);
                } else if class == CooldownClass::Throttled {
                    // Who counts knows the credential and has room for it.
                    registry.gate(*gate).passed(*entry);
                } else {
                    registry.gate(*gate).unknown(*entry, now);
                }
            }
            if class == CooldownClass::Throttled && first.is_some() {
                registry.limit(limit).refused(now);
            }
            registry.refusals.insert(credential, refusal);
        });
        if let Some((gate, before)) = first {
            pools.cooled(&self.pool, self.index, (gate, class), before);
        }
    }

    fn end(&mut self, say: impl FnOnce(&[Entry; Member::GATES], &[GateAt; Member::GATES], &mut Registry)) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let member = &self.pool.members[self.index];
        let mut registry = self.pools.registry();
        if !self.is_answered {
            registry.limit(member.limit).answered(self.sent);
        }
        say(&self.entries, &member.gates, &mut registry);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = self.pools.now();
        self.end(|entries, gates, registry| {
            for (gate, entry) in gates.iter().zip(entries) {
                registry.gate(*gate).unknown(*entry, now);
            }
        });
    }
}

/// Which gate a fault shuts, and why; `None` for a fault that no credential is to blame for.
fn blamed(fault: &Fault) -> Option<(usize, CooldownClass)> {
    match fault.kind {
        FaultKind::Throttled => Some((Member::LIMIT, CooldownClass::Throttled)),
        FaultKind::Overloaded => Some((Member::HOST, CooldownClass::Overloaded)),
        // A quota that comes back with the day is one model's; money is the whole account's.
        FaultKind::Closed if fault.retry_after.is_some_and(|wait| wait <= A_DAY) => {
            Some((Member::LIMIT, CooldownClass::Closed))
        }
        FaultKind::Closed => Some((Member::CREDENTIAL, CooldownClass::Closed)),
        // Without the right to one model a credential may have that to others.
        FaultKind::Dead if fault.status == Some(403) => Some((Member::RIGHT, CooldownClass::Dead)),
        FaultKind::Dead => Some((Member::CREDENTIAL, CooldownClass::Dead)),
        FaultKind::ClientError | FaultKind::ServerError | FaultKind::NoAnswer | FaultKind::Ambiguous => None,
    }
}

/// A day, and an hour for those on which clocks change.
const A_DAY: Duration = Duration::from_secs(25 * 3_600);

/// The word for a host without a connection, where a provider's code would stand.
const UNREACHABLE: &str = "unreachable";

fn code_of(fault: &Fault) -> Arc<str> {
    match (fault.code.as_ref().or(fault.error_type.as_ref()), fault.status) {
        (Some(code), _) => code.as_str().into(),
        (None, Some(status)) => status.to_string().into(),
        (None, None) => Arc::default(),
    }
}

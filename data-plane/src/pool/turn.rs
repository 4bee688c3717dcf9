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

use super::gate::{Condition, Entry};
use super::headroom::Sent;
use super::members::{Candidate, Member, Pool};
use super::moment::Moment;
use super::registry::{GateAt, LastRefusal, Registry};
use super::{Pools, Unserved};

/// What was learned about credentials from the attempts at one request. What a provider denies the request and not the credential would otherwise shut
/// one credential after another.
#[derive(Debug, Default)]
pub struct Blame {
    /// The right of a credential to a family of models was shut.
    has_denied_a_right: bool,
    /// How many credentials were said to have no such model.
    lacking: usize,
    /// The first of them.
    first_lacking: Option<Served>,
}

impl Blame {
    /// Whether two credentials were said to have no such model: then there is none.
    #[must_use]
    pub const fn is_no_model(&self) -> bool {
        self.lacking > 1
    }

    /// Another credential serves the model: who was said not to have it has not.
    pub fn is_served(&mut self) {
        if let Some(served) = self.first_lacking.take() {
            served.shut((Member::RIGHT, CooldownClass::Dead), None, NO_MODEL.into());
        }
    }
}

/// A credential whose turn is over because it was served, or not refused.
pub struct Served {
    pools: Pools,
    pool: Arc<Pool>,
    index: usize,
    entries: [Entry; Member::GATES],
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Served {
    /// The provider says in the midst of its answer that it failed: nothing that this request could still be spared, but others can.
    pub fn failed_later(&self, fault: &Fault) {
        if let Some(gate) = blamed(fault) {
            self.shut(gate, fault.retry_after, code_of(fault));
        }
    }

    /// How long it is until its pool can serve a request again; `None` if it is of no use until somebody does something.
    #[must_use]
    pub fn ready_in(&self) -> Option<Duration> {
        match self.pools.glance(&self.pool, Duration::ZERO) {
            Ok(()) => Some(Duration::ZERO),
            Err(Unserved::Later(wait)) => Some(wait),
            Err(Unserved::Hopeless) => None,
        }
    }

    fn shut(&self, (place, class): (usize, CooldownClass), asked: Option<Duration>, code: Arc<str>) {
        let (now, wall) = (self.pools.now(), self.pools.wall());
        let member = &self.pool.members[self.index];
        let gate = (member.gates[place], self.entries[place]);
        let mut registry = self.pools.registry();
        let shut = refuse(&mut registry, member, gate, (class, asked), now);
        let code = told_of(&self.pool, place, code);
        registry.refusals.insert(member.candidate.credential.id, LastRefusal { class, code, at: wall });
        drop(registry);
        if let Some(before) = shut {
            self.pools.cooled(&self.pool, self.index, (gate.0, class), before);
        }
    }
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

    /// The provider serves it. What it says later, within its answer, can still be told.
    pub fn passed(mut self) -> Served {
        self.end(|entries, gates, registry| {
            for (gate, entry) in gates.iter().zip(entries) {
                registry.gate(*gate).passed(*entry);
            }
        });
        self.pools.passed_at(self.member());
        Served { pools: self.pools.clone(), pool: Arc::clone(&self.pool), index: self.index, entries: self.entries }
    }

    /// The provider failed it. `blame` is what attempts at the same request have said before.
    pub fn failed(mut self, fault: &Fault, blame: &mut Blame) {
        match blamed(fault) {
            // What a second credential says in the same words may be said of the request.
            Some((Member::RIGHT, _)) if std::mem::replace(&mut blame.has_denied_a_right, true) => {}
            Some(gate) => self.refused(gate, fault.retry_after, code_of(fault)),
            None if matches!(fault.kind, FaultKind::ClientError | FaultKind::NoAnswer) => drop(self.passed()),
            // Only that another credential serves the model shows that it was said of this one, and not of the model.
            None if fault.kind == FaultKind::NoModel => {
                let served = self.passed();
                blame.lacking += 1;
                blame.first_lacking.get_or_insert(served);
            }
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
        let mut shut = None;
        let pool = Arc::clone(&self.pool);
        let member = &pool.members[self.index];
        let refusal = LastRefusal { class, code: told_of(&pool, place, code), at: pools.wall() };
        self.end(|entries, gates, registry| {
            for (at, (gate, entry)) in gates.iter().zip(entries).enumerate() {
                if at == place {
                    shut = refuse(registry, member, (*gate, *entry), (class, asked), now);
                } else if class == CooldownClass::Throttled {
                    // Who counts knows the credential and has room for it.
                    registry.gate(*gate).passed(*entry);
                } else {
                    registry.gate(*gate).unknown(*entry, now);
                }
            }
            registry.refusals.insert(member.candidate.credential.id, refusal);
        });
        if let Some(before) = shut {
            pools.cooled(&self.pool, self.index, (member.gates[place], class), before);
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
        if self.is_over {
            return;
        }
        let now = self.pools.now();
        self.end(|entries, gates, registry| {
            for (gate, entry) in gates.iter().zip(entries) {
                registry.gate(*gate).unknown(*entry, now);
            }
        });
    }
}

/// Why and for how long a gate was shut before.
type Before = Option<(CooldownClass, Duration)>;

/// Shuts a gate. Answers with what it was shut for before if this is a new cooldown, and not more of one that stands.
fn refuse(
    registry: &mut Registry,
    member: &Member,
    (gate, entry): (GateAt, Entry),
    (class, asked): (CooldownClass, Option<Duration>),
    now: Moment,
) -> Option<Before> {
    let chance = registry.chance.draw();
    let stands = registry.gate(gate);
    // One that was well in between is refused anew.
    let is_well = stands.condition(now) == Condition::Healthy;
    let before = if is_well { None } else { stands.shut_last_for() };
    let is_new = stands.refused(entry, (class, asked), now, chance);
    registry.mark_active(gate);
    if is_new && class == CooldownClass::Throttled {
        registry.limit(member.limit).refused(now);
    }
    is_new.then_some(before)
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
        FaultKind::ClientError
        | FaultKind::NoModel
        | FaultKind::ServerError
        | FaultKind::NoAnswer
        | FaultKind::Ambiguous => None,
    }
}

/// A day, and an hour for those on which clocks change.
const A_DAY: Duration = Duration::from_secs(25 * 3_600);

/// The word for a host without a connection, where a provider's code would stand.
const UNREACHABLE: &str = "unreachable";
/// The word for a model that other credentials have.
const NO_MODEL: &str = "model_not_found";

/// What operators read: of a right that is denied, to which models.
fn told_of(pool: &Pool, place: usize, code: Arc<str>) -> Arc<str> {
    if place == Member::RIGHT { format!("{code} ({})", pool.family).into() } else { code }
}

fn code_of(fault: &Fault) -> Arc<str> {
    match (fault.code.as_ref().or(fault.error_type.as_ref()), fault.status) {
        (Some(code), _) => code.as_str().into(),
        (None, Some(status)) => status.to_string().into(),
        (None, None) => Arc::default(),
    }
}

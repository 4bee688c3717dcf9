//! Pools: which credential of a provider serves a request, so that agents meet no refusal while there is capacity anywhere.
//!
//! * `members`: the credentials that can serve a model; `family`: which models share a limit
//! * `gate`: whether something that was refused can be used again; `wait`: how long not
//! * `headroom`: what is left of a provider's limits, by what it states or by what its refusals taught (`learned`)
//! * `outlook`: what a request finds at the gates of credentials; `selection`: which of those that can; `retry_budget`: how often again
//! * `registry`: all of that, once; `turn`: one request's use of it; `line`: where requests wait
//! * `sharing`: what nodes tell each other; `standing`: what operators are told
//!
//! What decides (`gate`, `wait`, `headroom`, `learned`, `selection`, `retry_budget`, `family`) is pure: `moment` and `chance` are given.

mod chance;
mod family;
mod gate;
mod headroom;
mod learned;
mod line;
mod members;
mod moment;
mod outlook;
mod registry;
mod retry_budget;
mod selection;
mod sharing;
mod standing;
mod turn;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use keyforge_counters::{CooldownClass, CooldownStore, Cooldowns};
use keyforge_runtime::shutdown::Shutdown;
use keyforge_shared::catalog::Model;
use keyforge_shared::clock::{Clock, Timestamp};
use keyforge_shared::id::KeyId;
use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::gate::Look;
pub use self::headroom::Need;
use self::line::{Granted, Line, Place, Wish};
use self::members::Member;
pub use self::members::{Candidate, Pool};
use self::moment::Moment;
use self::outlook::{later_of, look, probes, soonest};
use self::registry::{GateAt, Registry};
use self::selection::Eligible;
pub use self::turn::{Blame, Served, Turn};
use crate::metrics::Metrics;
use crate::replica::Replica;

/// The longest that a request waits for a pool.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// How often whoever is next in line looks whether there is room sooner than was thought.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// For how long one probes what was refused for a moment, before another may.
const PROBE: Duration = gate::SILENCE;
/// The same for what was closed or dead.
const SLOW_PROBE: Duration = Duration::from_secs(30);
/// What a limit group is believed to serve in a second when nothing tells: the way out of a cooldown begins with one, two, four at a time. How fast the
/// line moves shows soon whether it is so.
const MODEST: f64 = 4.0;

/// The pools of a node. Clones share them.
#[derive(Clone)]
pub struct Pools(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    replica: Arc<Replica>,
    registry: Mutex<Registry>,
    /// By the catalogue's name of the model.
    pools: RwLock<HashMap<String, Arc<Pool>>>,
    /// By provider and family.
    lines: Mutex<HashMap<(String, String), Arc<Line>>>,
    store: Cooldowns,
    /// What other nodes know this one's probes by.
    prober: String,
    /// Somebody has something to tell the other nodes.
    news: Notify,
    metrics: Metrics,
}

/// Who asks a pool for a credential.
#[derive(Clone, Copy, Debug)]
pub struct Asking<'a> {
    /// Whose request.
    pub key: KeyId,
    /// What it takes.
    pub need: Need,
    /// Credentials that have failed it, by their index in the pool.
    pub tried: &'a [usize],
    /// How long it may wait.
    pub patience: Duration,
}

/// Why a pool does not serve a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// It will, so long from now.
    Later(Duration),
    /// None of its credentials is of any use until somebody does something.
    Hopeless,
}

enum Choice {
    Turn(Turn),
    NotBefore(Moment),
    Hopeless,
}

impl Pools {
    /// The pools of a node, which shares its cooldowns through `store` until the process ends.
    #[must_use]
    pub fn start(
        store: Cooldowns,
        replica: Arc<Replica>,
        clock: Arc<dyn Clock>,
        metrics: Metrics,
        shutdown: &Shutdown,
    ) -> Self {
        let mut registry = Registry::default();
        let prober = format!("{:013x}", registry.chance.bits());
        let pools = Self(Arc::new(Inner {
            clock,
            replica,
            registry: Mutex::new(registry),
            pools: RwLock::default(),
            lines: Mutex::default(),
            store,
            prober,
            news: Notify::new(),
            metrics,
        }));
        let sharing = pools.clone();
        drop(shutdown.spawn_background("cooldowns", async move { sharing.share().await }));
        pools
    }

    /// The pool that serves a model.
    #[must_use]
    pub fn of(&self, model: &Model) -> Arc<Pool> {
        let replica = &*self.0.replica;
        let revision = replica.revision();
        if let Some(pool) = self.0.pools.read().get(&model.name)
            && pool.revision == revision
        {
            return Arc::clone(pool);
        }
        let line = self.line(&model.provider.0, &Pool::family_of(model));
        let pool = Arc::new(Pool::new(replica, model, line, &mut self.registry()));
        if pool.is_whole {
            let mut pools = self.0.pools.write();
            // What is not of this revision is made again when it is asked for.
            pools.retain(|_, other| other.revision >= revision);
            pools.insert(model.name.clone(), Arc::clone(&pool));
        }
        pool
    }

    /// Whether a request can be served by a pool within its patience, without taking anything.
    ///
    /// # Errors
    /// [`Unserved`] when it surely cannot.
    pub fn glance(&self, pool: &Pool, patience: Duration) -> Result<(), Unserved> {
        let now = self.now();
        let mut registry = self.registry();
        let looks: Vec<_> = pool.members.iter().map(|member| look(&mut registry, member, now)).collect();
        drop(registry);
        match soonest(&looks, now) {
            Some(Ok(until)) if until > now && until.since(now) > patience => Err(Unserved::Later(until.since(now))),
            Some(Ok(_)) => Ok(()),
            Some(Err(())) | None => Err(Unserved::Hopeless),
        }
    }

    /// Takes a turn at one of the pool's credentials, and waits for it if that is worth while.
    ///
    /// # Errors
    /// [`Unserved`].
    pub async fn turn(&self, pool: &Arc<Pool>, asking: Asking<'_>) -> Result<Turn, Unserved> {
        // A clock that is set, or stands still, must not keep anybody waiting.
        let (begun, deadline) = (Instant::now(), self.now().plus(asking.patience));
        let mut place: Option<Place> = None;
        loop {
            let mut ready = self.now();
            if place.as_ref().map_or_else(|| pool.line.is_empty(), Place::is_next) {
                match self.choose(pool, asking) {
                    Choice::Turn(turn) => match turn.claimed().await {
                        Some(turn) => {
                            if let Some(place) = place {
                                place.served(self.now());
                            }
                            return Ok(turn);
                        }
                        None => continue,
                    },
                    Choice::NotBefore(moment) => ready = moment,
                    Choice::Hopeless => return Err(Unserved::Hopeless),
                }
            }
            let now = self.now();
            let wish = || self.wish(pool, asking, now, ready, deadline);
            let held = match place {
                Some(held) => held,
                None => match pool.line.join(wish()) {
                    Granted::Place(new) => new,
                    Granted::Later(wait) => return Err(Unserved::Later(wait)),
                },
            };
            if now >= deadline || begun.elapsed() >= asking.patience {
                return Err(Unserved::Later(pool.line.later(held, wish())));
            }
            wait_for_turn(&held, ready.min(now.plus(LOOK_AGAIN)).since(now), deadline.since(now)).await;
            place = Some(held);
        }
    }

    /// Whether a further attempt at a request is within the provider's budget.
    #[must_use]
    pub fn may_try_again(&self, pool: &Pool) -> bool {
        self.registry().budget(pool.budget).spend()
    }

    /// A request made its first attempt.
    pub fn first_attempt(&self, pool: &Pool) {
        self.registry().budget(pool.budget).earn();
    }

    fn wish(&self, pool: &Pool, asking: Asking<'_>, now: Moment, ready: Moment, deadline: Moment) -> Wish {
        let mut registry = self.registry();
        let mut limits: Vec<_> = pool.members.iter().map(|member| member.limit).collect();
        limits.sort_unstable();
        limits.dedup();
        let rates =
            limits.into_iter().map(|limit| registry.limit(limit).per_second(asking.need, now).unwrap_or(MODEST));
        let per_second = rates.reduce(|one, other| one + other).unwrap_or(MODEST);
        Wish { key: asking.key, now, ready, per_second, patience: deadline.since(now) }
    }

    fn choose(&self, pool: &Arc<Pool>, asking: Asking<'_>) -> Choice {
        let now = self.now();
        let mut registry = self.registry();
        let mut looks = Vec::with_capacity(pool.members.len());
        let mut eligible = Vec::with_capacity(pool.members.len());
        for (index, member) in pool.members.iter().enumerate() {
            let mut look = look(&mut registry, member, now);
            let limit = registry.limit(member.limit);
            if let Err(moment) = limit.fits(asking.need, now) {
                look = later_of(look, moment);
            }
            if !matches!(look, Look::Shut { .. }) {
                let (left, in_flight) = (limit.ratio(now), limit.in_flight());
                let weight = member.candidate.credential.weight;
                eligible.push(Eligible { index, weight, left, in_flight });
            }
            looks.push(look);
        }
        if eligible.iter().any(|one| !asking.tried.contains(&one.index)) {
            eligible.retain(|one| !asking.tried.contains(&one.index));
        }
        let Registry { chance, .. } = &mut *registry;
        let Some(index) = selection::choose(&eligible, || chance.draw()) else {
            return match soonest(&looks, now) {
                Some(Ok(moment)) => Choice::NotBefore(moment),
                Some(Err(())) | None => Choice::Hopeless,
            };
        };
        let member = &pool.members[index];
        let probes = probes(&mut registry, member, now);
        for at in &probes {
            registry.mark_active(member.gates[*at]);
        }
        let entries = member.gates.map(|gate| registry.gate(gate).enter(now));
        let sent = registry.limit(member.limit).send(asking.need, now);
        drop(registry);
        Choice::Turn(Turn::new(self, (pool, index), entries, probes, sent))
    }

    fn line(&self, provider: &str, family: &str) -> Arc<Line> {
        Arc::clone(self.0.lines.lock().entry((provider.to_owned(), family.to_owned())).or_default())
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.0.registry.lock()
    }

    fn now(&self) -> Moment {
        Moment::now(&*self.0.clock)
    }

    fn wall(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Whether this node may probe a gate: one of all nodes probes the end of one cooldown. While nobody can be asked, or nobody else is there, it does.
    async fn may_probe(&self, at: GateAt) -> bool {
        if !self.0.store.is_shared() {
            return true;
        }
        let (name, lease) = {
            let mut registry = self.registry();
            let gate = registry.gate(at);
            let class = gate.shut_last_for().map(|(class, _)| class);
            let is_slow = matches!(class, Some(CooldownClass::Closed | CooldownClass::Dead));
            // Of a cooldown without a stamp no other node knows.
            let Some(stamp) = gate.stamp() else { return true };
            (format!("{}\t{stamp}", registry.name(at)), if is_slow { SLOW_PROBE } else { PROBE })
        };
        self.0.store.claim_probe(&name, &self.0.prober, lease).await.unwrap_or(true)
    }

    /// An attempt passed at a credential: there may be something to tell.
    fn passed_at(&self, member: &Member) {
        let has_news = {
            let mut registry = self.registry();
            member.gates.into_iter().any(|gate| registry.gate(gate).has_news())
        };
        if has_news {
            self.0.news.notify_one();
        }
    }

    /// A gate was shut by a refusal at one of a pool's credentials; `before` is how it was shut until then, if it was.
    fn cooled(
        &self,
        pool: &Pool,
        index: usize,
        (gate, class): (GateAt, CooldownClass),
        before: Option<(CooldownClass, Duration)>,
    ) {
        self.0.news.notify_one();
        self.0.metrics.cooled(class.as_str());
        let credential = pool.members[index].candidate.credential.id;
        let (provider, family) = (&pool.provider, &pool.family);
        let wait = {
            let mut registry = self.registry();
            registry.gate(gate).shut_last_for().map_or(0.0, |(_, wait)| wait.as_secs_f64())
        };
        let is_known = before.is_some_and(|(before, _)| before == class);
        match class {
            CooldownClass::Dead if !is_known => {
                tracing::error!(%credential, provider, family, probed_in = wait,
                    "the provider refuses a credential: rotate or remove it");
            }
            CooldownClass::Closed if !is_known => {
                tracing::warn!(%credential, provider, family, for_seconds = wait,
                    "the provider serves nothing more on a credential: its account or quota is used up");
            }
            CooldownClass::Dead | CooldownClass::Closed | CooldownClass::Throttled | CooldownClass::Overloaded => {
                tracing::debug!(%credential, provider, family, class = class.as_str(), for_seconds = wait, "cooling");
            }
        }
    }
}

async fn wait_for_turn(place: &Place, if_next: Duration, otherwise: Duration) {
    if place.is_next() {
        tokio::time::sleep(if_next.min(otherwise).max(Duration::from_millis(1))).await;
    } else {
        // Whoever is not next in time looks once more, and is told when to come back.
        drop(tokio::time::timeout(otherwise, place.next()).await);
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;

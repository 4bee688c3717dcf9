//! Everything that is known of what pools use: gates, limits and budgets, each once, however many pools use it.
//!
//! Pools hold places in here, so that a request looks nothing up by name. Nothing is forgotten while the process lives: there is one of each for a
//! credential, a limit group and a model family, which operators name.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use keyforge_counters::{Cooldown, CooldownChange, CooldownClass};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::CredentialId;
use keyforge_shared::state::CredentialRecord;

use super::chance::Chance;
use super::gate::{Gate, News};
use super::headroom::Headroom;
use super::members::Member;
use super::moment::Moment;
use super::retry_budget::RetryBudget;

/// What a gate is about. Its text is the gate's name wherever nodes meet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GateName {
    /// A credential, in this version of its secret: rotating it opens the gate.
    Credential(CredentialId, u32),
    /// A credential with the models of a family.
    Right(CredentialId, u32, String),
    /// The limit that the credentials of a group share, for a family: provider, group, family.
    Limit(String, String, String),
    /// A host, for a family: provider, base URL, family.
    Host(String, String, String),
}

impl std::fmt::Display for GateName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Credential(id, version) => write!(f, "credential\t{id}\t{version}"),
            Self::Right(id, version, family) => write!(f, "right\t{id}\t{version}\t{family}"),
            Self::Limit(provider, group, family) => write!(f, "limit\t{provider}\t{group}\t{family}"),
            Self::Host(provider, url, family) => write!(f, "host\t{provider}\t{url}\t{family}"),
        }
    }
}

/// A gate's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GateAt(usize);

/// A limit's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitAt(usize);

/// A budget's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BudgetAt(usize);

/// The last refusal that a credential met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastRefusal {
    /// What it was.
    pub class: CooldownClass,
    /// The provider's code or type, if it gave one.
    pub code: Arc<str>,
    /// When.
    pub at: Timestamp,
}

/// What a credential's requests use, over all families of models that it was asked for.
pub struct Uses {
    /// As it was then: with another secret, group or host it uses other gates.
    record: Arc<CredentialRecord>,
    /// The credential's own gate.
    pub own: GateAt,
    /// The gates that it shares with others, or with all families: each once, its own among them.
    pub gates: Vec<GateAt>,
    /// Those of its rights to families of models.
    pub rights: Vec<GateAt>,
    /// Its limits, each once.
    pub limits: Vec<LimitAt>,
}

impl Uses {
    fn are_of(&self, record: &CredentialRecord) -> bool {
        let known = &*self.record;
        known.secret_version == record.secret_version
            && known.provider == record.provider
            && known.limit_group == record.limit_group
            && known.base_url == record.base_url
    }
}

/// Everything that is known.
pub struct Registry {
    gates: Vec<(String, Gate)>,
    places: HashMap<String, GateAt>,
    /// Gates that are not simply open, or that others believe are not.
    active: HashSet<GateAt>,
    limits: Vec<Headroom>,
    limit_places: HashMap<(String, String, String), LimitAt>,
    budgets: Vec<RetryBudget>,
    budget_places: HashMap<String, BudgetAt>,
    /// By credential, whichever pools exist.
    uses: HashMap<CredentialId, Uses>,
    /// The last refusal of each credential.
    pub refusals: HashMap<CredentialId, LastRefusal>,
    /// For jitter and draws.
    pub chance: Chance,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            gates: Vec::new(),
            places: HashMap::new(),
            active: HashSet::new(),
            limits: Vec::new(),
            limit_places: HashMap::new(),
            budgets: Vec::new(),
            budget_places: HashMap::new(),
            uses: HashMap::new(),
            refusals: HashMap::new(),
            chance: Chance::new(),
        }
    }
}

impl Registry {
    /// The place of a gate; a new one is open.
    pub fn gate_at(&mut self, name: &GateName) -> GateAt {
        self.gate_named(name.to_string())
    }

    fn gate_named(&mut self, name: String) -> GateAt {
        if let Some(place) = self.places.get(&name) {
            return *place;
        }
        let place = GateAt(self.gates.len());
        self.places.insert(name.clone(), place);
        self.gates.push((name, Gate::default()));
        place
    }

    /// The place of a limit; of a new one nothing is known.
    pub fn limit_at(&mut self, provider: &str, group: &str, family: &str) -> LimitAt {
        let name = (provider.to_owned(), group.to_owned(), family.to_owned());
        let limits = &mut self.limits;
        *self.limit_places.entry(name).or_insert_with(|| {
            limits.push(Headroom::default());
            LimitAt(limits.len() - 1)
        })
    }

    /// The place of a provider's retry budget.
    pub fn budget_at(&mut self, provider: &str) -> BudgetAt {
        let budgets = &mut self.budgets;
        *self.budget_places.entry(provider.to_owned()).or_insert_with(|| {
            budgets.push(RetryBudget::default());
            BudgetAt(budgets.len() - 1)
        })
    }

    /// A gate.
    pub fn gate(&mut self, place: GateAt) -> &mut Gate {
        &mut self.gates[place.0].1
    }

    /// A credential's requests pass these gates, of which the first is its own, and take from this limit.
    pub fn used(&mut self, record: &Arc<CredentialRecord>, gates: &[GateAt; Member::GATES], limit: LimitAt) {
        let new = || Uses {
            record: Arc::clone(record),
            own: gates[0],
            gates: Vec::new(),
            rights: Vec::new(),
            limits: Vec::new(),
        };
        let uses = self.uses.entry(record.id).or_insert_with(new);
        if !uses.are_of(record) {
            *uses = new();
        }
        for (at, gate) in gates.iter().enumerate() {
            let known = if at == Member::RIGHT { &mut uses.rights } else { &mut uses.gates };
            if !known.contains(gate) {
                known.push(*gate);
            }
        }
        if !uses.limits.contains(&limit) {
            uses.limits.push(limit);
        }
    }

    /// What a credential's requests use; `None` of one that this node has no use for, or not as it is now.
    #[must_use]
    pub fn uses(&self, record: &CredentialRecord) -> Option<&Uses> {
        self.uses.get(&record.id).filter(|uses| uses.are_of(record))
    }

    /// A gate, to be looked at only.
    #[must_use]
    pub fn gate_seen(&self, place: GateAt) -> &Gate {
        &self.gates[place.0].1
    }

    /// A limit, to be looked at only.
    #[must_use]
    pub fn limit_seen(&self, place: LimitAt) -> &Headroom {
        &self.limits[place.0]
    }

    /// A gate's name.
    #[must_use]
    pub fn name(&self, place: GateAt) -> &str {
        &self.gates[place.0].0
    }

    /// A limit.
    pub fn limit(&mut self, place: LimitAt) -> &mut Headroom {
        &mut self.limits[place.0]
    }

    /// A budget.
    pub fn budget(&mut self, place: BudgetAt) -> &mut RetryBudget {
        &mut self.budgets[place.0]
    }

    /// A gate may have something to tell from here on.
    pub fn mark_active(&mut self, place: GateAt) {
        self.active.insert(place);
    }

    /// What the other nodes are to be told.
    pub fn news(&mut self, now: Moment) -> Vec<(GateAt, News)> {
        let mut all = Vec::new();
        for place in &self.active {
            let gate = &mut self.gates[place.0].1;
            // Also what only silence has said.
            let _found = gate.look(now);
            all.extend(gate.news(now).map(|news| (*place, news)));
        }
        all
    }

    /// What the news are to the store.
    #[must_use]
    pub fn changes(&self, news: &[(GateAt, News)]) -> Vec<CooldownChange> {
        let change = |(place, news): &(GateAt, News)| {
            let gate = self.name(*place).to_owned();
            match *news {
                News::Cool { class, left } => CooldownChange::Cool { gate, class, wait: left },
                News::Lift { stamp } => CooldownChange::Lift { gate, stamp },
            }
        };
        news.iter().map(change).collect()
    }

    /// Takes in what the store knows after it was told `news`.
    pub fn take_in(&mut self, news: &[(GateAt, News)], standing: &[Cooldown], now: Moment) {
        for (place, told) in news {
            self.gate(*place).told(told, now);
        }
        let mut known = HashSet::new();
        for cooldown in standing {
            let place = self.gate_named(cooldown.gate.clone());
            self.gate(place).learn(cooldown, now);
            self.active.insert(place);
            known.insert(place);
        }
        let gates = &mut self.gates;
        self.active.retain(|place| {
            let gate = &mut gates[place.0].1;
            if !known.contains(place) {
                gate.nothing_known(now);
            }
            gate.stamp().is_some() || gate.shut_for().is_some()
        });
    }
}

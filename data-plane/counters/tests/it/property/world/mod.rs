//! Everything: the store, the nodes and their network, the ledger, and the truth that is kept beside all of them.
//!
//! The truth is what each attempt that may have been dispatched cost, or can cost at most. Calls are made one after the other: what the network
//! does to one is that it never arrives, that its answer is lost, or that a copy of it arrives later.

mod arrivals;
mod checks;
mod events;
mod nodes;
mod requests;

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_counters::{ClawBack, Concurrency, GrantSet, Need, Rates, ReservationId, Settlement, TokenRate};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::period::Window;

use super::ledger::{Boot, Ledger, Limit, share};
use super::mirror::Mirror;
use super::subject::Subject;
use crate::conformance::START;
use crate::random::Random;

const LIMITS: [(Scope, Dimension, Window, u64); 5] = [
    (Scope::Key, Dimension::Requests, Window::Day, 30),
    (Scope::Key, Dimension::Spend, Window::Day, 2_500),
    (Scope::Key, Dimension::Spend, Window::Total, 7_000),
    (Scope::Workspace, Dimension::Requests, Window::Week, 80),
    (Scope::Workspace, Dimension::Spend, Window::Day, 3_500),
];
/// Limits are changed to between so many percent of these.
const CHANGES: (u64, u64) = (40, 120);
const RATES: Rates = Rates {
    requests_per_minute: Some(5),
    tokens: Some(TokenRate { per_minute: 200, amount: 0 }),
    concurrency: Some(Concurrency { limit: 4, lease: Duration::from_secs(90) }),
};
/// For how long a question may be under way.
const PATIENCE: i64 = 2_000;
/// How many messages the network remembers.
const WIRE: usize = 25;

/// What an attempt is, as far as its node and the provider know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asked, and not answered: it may be asked again.
    Asked,
    Dispatched {
        epoch: u32,
    },
    Ended {
        epoch: u32,
        cost: u64,
        counted: bool,
    },
    /// Refused or given up; never dispatched.
    Gone,
}

#[derive(Clone, Debug)]
pub struct Attempt {
    id: ReservationId,
    key: KeyId,
    node: usize,
    needs: Vec<Need>,
    rates: Rates,
    life: Duration,
    /// Most that the provider can bill.
    bound: u64,
    phase: Phase,
    /// The epoch that was named last.
    named: u32,
    /// Whether an answer was lost.
    in_doubt: bool,
    /// Whether nobody is left who would settle it.
    abandoned: bool,
}

impl Attempt {
    /// What it costs at most on a counter, if it may ever cost.
    fn truth(&self, counter: &CounterId) -> u64 {
        if !self.needs.iter().any(|need| share(&need.counter, counter)) {
            return 0;
        }
        match (self.phase, counter.dimension) {
            (Phase::Dispatched { .. }, Dimension::Requests) => 1,
            (Phase::Dispatched { .. }, Dimension::Spend) => self.bound,
            (Phase::Ended { counted, .. }, Dimension::Requests) => u64::from(counted),
            (Phase::Ended { cost, .. }, Dimension::Spend) => cost,
            (Phase::Asked | Phase::Gone, _) => 0,
        }
    }

    fn epoch(&self) -> Option<u32> {
        match self.phase {
            Phase::Dispatched { epoch } | Phase::Ended { epoch, .. } => Some(epoch),
            Phase::Asked | Phase::Gone => None,
        }
    }
}

/// What was sent to the store and can arrive again.
#[derive(Clone, Debug)]
enum Message {
    Reserve { attempt: usize, epoch: u32, not_after: Timestamp },
    Settle(usize, u32, Settlement),
    Shrink(usize, u32, u64, Option<u64>),
    Renew(KeyId, Vec<ReservationId>),
    Grant(KeyId, GrantSet),
    Vacate(KeyId, LifeId),
    ClawBack(KeyId),
}

/// What the network did to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Answered,
    AnswerLost,
    /// It did not arrive; a copy may, later.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    life: LifeId,
    epoch: u32,
    serial: u64,
}

#[derive(Debug, Default)]
struct Node {
    boot: Boot,
    memberships: BTreeMap<KeyId, Membership>,
    /// Memberships that were replaced or are not used any more.
    leaving: Vec<(KeyId, Membership)>,
    /// Settlements and cancellations that the store has not confirmed.
    outbox: Vec<(usize, u32, Settlement)>,
    /// What books gave up and the ledger was told, as it can be told again.
    returned: Vec<(KeyId, ClawBack)>,
}

/// How nodes behave; each of these is a rule that a mutant breaks.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whoever is refused after an answer was lost cancels.
    pub cancel_after_doubt: bool,
    /// The ledger counts what it granted to lives that are over.
    pub remember_outstanding: bool,
    /// The ledger takes back only if it has answered nothing since.
    pub compare_serials: bool,
    /// A node leaves an epoch only when nothing of its own is open there.
    pub leave_when_done: bool,
}

impl Rules {
    /// As it should be.
    pub const KEPT: Self =
        Self { cancel_after_doubt: true, remember_outstanding: true, compare_serials: true, leave_when_done: true };
}

pub struct World<S> {
    subject: S,
    random: Random,
    rules: Rules,
    clock: Timestamp,
    keys: Vec<KeyId>,
    limits: Vec<Limit>,
    /// The highest that each limit ever was, in the order of [`LIMITS`].
    highest: [u64; LIMITS.len()],
    ledger: Ledger,
    nodes: Vec<Node>,
    boots: Boot,
    pub attempts: Vec<Attempt>,
    mirrors: BTreeMap<KeyId, Mirror>,
    snapshot: BTreeMap<KeyId, Mirror>,
    wire: Vec<Message>,
}

pub fn keys() -> Vec<KeyId> {
    [b'p', b'q'].map(|name| KeyId::from_ascii(&[name; 12]).unwrap()).to_vec()
}

fn millis(time: Timestamp) -> i64 {
    time.millis()
}

impl<S: Subject> World<S> {
    pub fn new(mut subject: S, random: Random, rules: Rules) -> Self {
        subject.set_clock(START);
        subject.take_snapshot();
        let limits = LIMITS.map(|(scope, dimension, window, amount)| Limit { scope, dimension, window, amount });
        let mirrors: BTreeMap<_, _> = keys().into_iter().map(|key| (key, Mirror::new())).collect();
        Self {
            subject,
            random,
            rules,
            clock: START,
            keys: keys(),
            limits: limits.to_vec(),
            highest: limits.map(|limit| limit.amount),
            ledger: Ledger::default(),
            nodes: (1..=3).map(|boot| Node { boot, ..Node::default() }).collect(),
            boots: 3,
            attempts: Vec::new(),
            snapshot: mirrors.clone(),
            mirrors,
            wire: Vec::new(),
        }
    }

    fn mirror(&mut self, key: KeyId) -> &mut Mirror {
        self.mirrors.get_mut(&key).unwrap()
    }

    pub async fn step(&mut self) -> Result<(), String> {
        let node = self.random.index(self.nodes.len());
        let key = self.keys[usize::from(self.random.percent(40))];
        let op = self.random.weighted(&[32, 7, 15, 14, 14, 3, 2, 5, 2, 7, 1, 9, 2, 3, 2, 1, 2, 8]);
        match op {
            0 => self.request(node, key).await?,
            1 => self.ask_again(node).await?,
            2 => self.deliver_copy().await?,
            3 => self.end(node),
            4 => self.send_one(node).await?,
            5 => self.shrink(node).await?,
            6 => self.renew(node, key).await?,
            7 => self.claw_back(node, key).await?,
            8 => self.tell_again(node),
            9 => self.leave(node)?,
            10 => self.crash(node)?,
            11 => self.forward().await?,
            12 => self.backward(),
            13 => self.lose(key),
            14 => {
                self.subject.take_snapshot();
                self.snapshot.clone_from(&self.mirrors);
            }
            15 => self.change_limits(),
            16 => self.freeze(key).await?,
            _ => self.fetch(node, key).await?,
        }
        self.check().await
    }

    fn fate(&mut self) -> Fate {
        match self.random.weighted(&[80, 10, 10]) {
            0 => Fate::Answered,
            1 => Fate::AnswerLost,
            _ => Fate::Lost,
        }
    }

    /// Sends a message: it may be copied, and it may not arrive. Gives its fate.
    fn send(&mut self, message: &Message) -> Fate {
        let fate = self.fate();
        // A question that was answered is not asked again behind its asker's back: only a lost answer makes anybody repeat it.
        if fate != Fate::Answered || !matches!(message, Message::Reserve { .. }) {
            self.keep_copy(message.clone());
        }
        fate
    }

    fn keep_copy(&mut self, message: Message) {
        self.wire.push(message);
        if self.wire.len() > WIRE {
            self.wire.remove(0);
        }
    }

    fn pick(&mut self, suits: impl Fn(&Attempt) -> bool) -> Option<usize> {
        let suited: Vec<_> = (0..self.attempts.len()).filter(|index| suits(&self.attempts[*index])).collect();
        self.random.pick(&suited).copied()
    }
}

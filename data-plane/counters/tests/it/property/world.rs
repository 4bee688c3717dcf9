//! Everything: the store, the nodes and their network, the ledger, and the truth that is kept beside all of them.
//!
//! The truth is what each attempt that may have been dispatched cost, or can cost at most. Calls are made one after the other: what the network
//! does to one is that it never arrives, that its answer is lost, or that a copy of it arrives later.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_counters::{
    ClawBack, Concurrency, CounterError, CounterStore, GrantSet, Need, Rates, ReservationId, Reserve, Settled,
    Settlement, TokenRate, Verdict,
};
use keyforge_shared::clock::Timestamp;
use keyforge_shared::id::{KeyId, LifeId};
use keyforge_shared::limit::{CounterId, Dimension, Scope};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, Window};

use super::ledger::{Boot, Ledger, Limit, Over, share};
use super::mirror::{DAY, Entry, Mirror, hold};
use super::subject::{Kept, Loss, Subject};
use crate::conformance::{START, reservation};
use crate::random::Random;

const LIMITS: [(Scope, Dimension, Window, u64); 5] = [
    (Scope::Key, Dimension::Requests, Window::Day, 40),
    (Scope::Key, Dimension::Spend, Window::Day, 3_000),
    (Scope::Key, Dimension::Spend, Window::Total, 9_000),
    (Scope::Workspace, Dimension::Requests, Window::Week, 90),
    (Scope::Workspace, Dimension::Spend, Window::Day, 4_000),
];
/// Limits are changed to between so many percent of these.
const CHANGES: (u64, u64) = (40, 120);
const RATES: Rates = Rates {
    requests_per_minute: Some(9),
    tokens: Some(TokenRate { per_minute: 500, amount: 0 }),
    concurrency: Some(Concurrency { limit: 7, lease: Duration::from_secs(90) }),
};
/// For how long a question may be under way.
const PATIENCE: i64 = 2_000;
/// How many messages the network remembers.
const WIRE: usize = 40;

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
        let op = self.random.weighted(&[30, 4, 9, 16, 14, 3, 2, 4, 2, 5, 1, 9, 2, 3, 2, 1, 2, 5]);
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

    async fn deliver_copy(&mut self) -> Result<(), String> {
        if self.wire.is_empty() {
            return Ok(());
        }
        let index = self.random.index(self.wire.len());
        // A copy that is under way for long is delivered now or never.
        match self.wire[index].clone() {
            Message::Reserve { attempt, epoch, not_after } => {
                self.put_reserve(attempt, epoch, not_after).await.map(drop)
            }
            Message::Settle(attempt, epoch, settlement) => {
                self.put_settlement(attempt, epoch, settlement).await.map(drop)
            }
            Message::Shrink(attempt, epoch, bound, tokens) => self.put_shrink(attempt, epoch, bound, tokens).await,
            Message::Renew(key, ids) => self.put_renewal(key, &ids).await,
            Message::Grant(key, set) => self.put_grant(key, &set).await.map(drop),
            Message::Vacate(key, life) => self.put_vacation(key, life).await,
            Message::ClawBack(key) => self.put_claw_back(key).await.map(drop),
        }
    }

    // ---- What arrives at the store, and what the mirror hears of it ----

    async fn put_reserve(&mut self, index: usize, epoch: u32, not_after: Timestamp) -> Result<Verdict, String> {
        let attempt = self.attempts[index].clone();
        let ask = Reserve {
            id: attempt.id,
            key: attempt.key,
            epoch,
            needs: &attempt.needs,
            rates: attempt.rates,
            expires_after: attempt.life,
            not_after: Some(not_after),
        };
        let verdict = self.subject.store(ask.key).reserve(ask).await.map_err(|error| error.to_string())?;
        let clock = self.clock;
        self.mirror(ask.key).reserved(&ask, &verdict, clock)?;
        Ok(verdict)
    }

    async fn put_settlement(&mut self, index: usize, epoch: u32, settlement: Settlement) -> Result<(), String> {
        let (id, key, clock) = (self.attempts[index].id, self.attempts[index].key, self.clock);
        let answer = self.subject.store(key).settle(key, epoch, id, settlement).await;
        let mirror = self.mirror(key);
        mirror.ended(id);
        match answer {
            Ok(answer) => {
                hold!(epoch == 0 || epoch == mirror.epoch, "I-6: settled in epoch {epoch} of {}", mirror.epoch);
                let actual = (settlement.cost.nanos(), settlement.counted, settlement.tokens);
                hold!(!matches!(answer, Settled::Done { over_bound: true }), "I-3: {id:?} was over its bound");
                mirror.settled(id, actual, answer, clock)
            }
            Err(CounterError::Epoch { current, .. }) => {
                hold!(epoch != 0 && current == mirror.epoch && epoch != current, "epoch {epoch} in {}", mirror.epoch);
                Ok(())
            }
            Err(other) => Err(other.to_string()),
        }
    }

    async fn put_shrink(&mut self, index: usize, epoch: u32, bound: u64, tokens: Option<u64>) -> Result<(), String> {
        let (id, key, clock) = (self.attempts[index].id, self.attempts[index].key, self.clock);
        match self.subject.store(key).shrink(key, epoch, id, NanoUsd::new(bound), tokens).await {
            Ok(lowered) => self.mirror(key).shrunk(id, bound, tokens, lowered, clock),
            Err(CounterError::Epoch { .. }) => Ok(()),
            Err(other) => Err(other.to_string()),
        }
    }

    async fn put_renewal(&mut self, key: KeyId, ids: &[ReservationId]) -> Result<(), String> {
        let lease = Duration::from_secs(90);
        self.subject.store(key).renew(key, ids, lease).await.map_err(|error| error.to_string())?;
        let clock = self.clock;
        self.mirror(key).renewed(ids, 90_000, clock);
        Ok(())
    }

    /// Whether the grant was applied.
    async fn put_grant(&mut self, key: KeyId, set: &GrantSet) -> Result<bool, String> {
        match self.subject.store(key).grant(key, set).await {
            Ok(()) => self.mirror(key).granted(set).map(|()| true),
            Err(CounterError::Life { current, .. }) => {
                hold!(current != set.life, "I-6: {current} is its life");
                self.mirror(key).hear(current).map(|()| false)
            }
            Err(other) => Err(other.to_string()),
        }
    }

    async fn put_vacation(&mut self, key: KeyId, life: LifeId) -> Result<(), String> {
        let now = self.subject.store(key).vacate(key, life).await.map_err(|error| error.to_string())?;
        hold!(now != life, "I-6: {life} was given up and goes on");
        let mirror = self.mirror(key);
        if mirror.life.is_none() || mirror.life == Some(life) {
            mirror.begin();
        }
        mirror.hear(now)
    }

    async fn put_claw_back(&mut self, key: KeyId) -> Result<Option<ClawBack>, String> {
        let claw = self.subject.store(key).claw_back(key).await.map_err(|error| error.to_string())?;
        let mirror = self.mirror(key);
        match &claw {
            None => hold!(mirror.epoch == 0, "epoch {} holds nothing", mirror.epoch),
            Some(claw) => {
                mirror.hear(claw.life)?;
                mirror.clawed_back(claw.epoch, claw.serial, &claw.holdings)?;
            }
        }
        Ok(claw)
    }

    // ---- What nodes do ----

    /// What a request takes, as a node sees it whose clock may be wrong.
    fn needs(&mut self, key: KeyId, spend: u64) -> Vec<Need> {
        let calendar = Calendar::utc();
        let skew = [-2_000, 0, 0, 0, 0, 0, 0, 2_000][self.random.index(8)];
        let now = Timestamp::from_millis(self.mirrors[&key].now(self.clock) + skew);
        let today = calendar.day_at(now);
        let need = |limit: &Limit| {
            let Limit { scope, dimension, window, amount: most } = *limit;
            let counter = CounterId { key, scope, dimension, window, first_day: window.first_day(today) };
            let amount = if dimension == Dimension::Spend { spend } else { 1 };
            Need { counter, period: calendar.period(window, today), limit: most, amount }
        };
        self.limits.iter().map(need).collect()
    }

    async fn request(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let bound = self.random.within(1..=400);
        let limited = self.random.percent(93);
        let paced = key == self.keys[0] && self.random.percent(70);
        let rates = if paced {
            let amount = self.random.within(0..=120);
            Rates { tokens: RATES.tokens.map(|tokens| TokenRate { amount, ..tokens }), ..RATES }
        } else {
            Rates::default()
        };
        let needs = if limited { self.needs(key, bound) } else { Vec::new() };
        let life = match self.random.weighted(&[85, 15]) {
            0 => self.random.within(5_000..=200_000),
            // Over before a copy of its question is too late.
            _ => self.random.within(1..=1_500),
        };
        self.attempts.push(Attempt {
            id: reservation(u32::try_from(self.attempts.len()).unwrap()),
            key,
            node,
            needs,
            rates,
            life: Duration::from_millis(life),
            bound,
            phase: Phase::Asked,
            named: 0,
            in_doubt: false,
            abandoned: false,
        });
        self.ask(self.attempts.len() - 1).await
    }

    /// The caller of a lost answer asks again, or gives up.
    async fn ask_again(&mut self, node: usize) -> Result<(), String> {
        let Some(index) = self.pick(|attempt| attempt.node == node && attempt.phase == Phase::Asked) else {
            return Ok(());
        };
        if self.random.percent(50) { self.ask(index).await } else { self.refuse(index).await }
    }

    /// Asks, joins and asks again, until there is an answer or none comes.
    async fn ask(&mut self, index: usize) -> Result<(), String> {
        let (key, node) = (self.attempts[index].key, self.attempts[index].node);
        for _ in 0..5 {
            let epoch = self.nodes[node].memberships.get(&key).map_or(0, |membership| membership.epoch);
            self.attempts[index].named = epoch;
            let not_after = Timestamp::from_millis(self.mirrors[&key].now(self.clock) + PATIENCE);
            let fate = self.send(&Message::Reserve { attempt: index, epoch, not_after });
            if fate != Fate::Answered {
                self.attempts[index].in_doubt = true;
                if fate == Fate::AnswerLost {
                    self.put_reserve(index, epoch, not_after).await?;
                }
                return Ok(());
            }
            match self.put_reserve(index, epoch, not_after).await? {
                Verdict::Admitted(_) => {
                    let epoch = if self.attempts[index].needs.is_empty() { 0 } else { epoch };
                    self.attempts[index].phase = Phase::Dispatched { epoch };
                    self.keep_copy(Message::Reserve { attempt: index, epoch, not_after });
                    return Ok(());
                }
                Verdict::NotJoined(life) => {
                    let wants = self.attempts[index].needs.clone();
                    self.acquire(node, key, life, &wants).await?;
                }
                Verdict::NoBooks(needs) => {
                    let wants: Vec<_> = needs.iter().map(|need| self.attempts[index].needs[*need]).collect();
                    self.acquire_more(node, key, &wants).await?;
                }
                Verdict::Short(needs) => {
                    let wants: Vec<_> = needs.iter().map(|(need, _)| self.attempts[index].needs[*need]).collect();
                    let life = self.nodes[node].memberships.get(&key).map(|membership| membership.life);
                    let wants_more = wants.iter().all(|want| self.ledger.total(&want.counter) < want.limit);
                    if life.is_none() || !wants_more {
                        return self.refuse(index).await;
                    }
                    self.acquire_more(node, key, &wants).await?;
                }
                _ => return self.refuse(index).await,
            }
        }
        self.refuse(index).await
    }

    /// The attempt is not dispatched. What was admitted behind a lost answer must be cancelled.
    async fn refuse(&mut self, index: usize) -> Result<(), String> {
        self.attempts[index].phase = Phase::Gone;
        let attempt = &self.attempts[index];
        if attempt.in_doubt && self.rules.cancel_after_doubt {
            let epoch = if attempt.needs.is_empty() { 0 } else { attempt.named };
            self.nodes[attempt.node].outbox.push((index, epoch, Settlement::CANCELLED));
        }
        Ok(())
    }

    async fn acquire_more(&mut self, node: usize, key: KeyId, wants: &[Need]) -> Result<(), String> {
        match self.nodes[node].memberships.get(&key).map(|membership| membership.life) {
            Some(life) => self.acquire(node, key, life, wants).await,
            None => Ok(()),
        }
    }

    /// Asks for more of one counter ahead of time: answers about different counters overtake each other.
    async fn fetch(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let spend = self.random.within(1..=100);
        let needs = self.needs(key, spend);
        let want = needs[self.random.index(needs.len())];
        self.acquire_more(node, key, &[want]).await
    }

    /// Asks the ledger, and tells the store what it said.
    async fn acquire(&mut self, node: usize, key: KeyId, life: LifeId, wants: &[Need]) -> Result<(), String> {
        let boot = self.nodes[node].boot;
        let fate = self.fate();
        if fate == Fate::Lost {
            return Ok(());
        }
        if !self.rules.remember_outstanding {
            self.ledger.forget_all_but(key, life);
        }
        match self.ledger.acquire(boot, key, life, wants) {
            _ if fate == Fate::AnswerLost => Ok(()),
            Err(Over) => {
                self.replace(node, key, None);
                let fate = self.send(&Message::Vacate(key, life));
                if fate != Fate::Lost { self.put_vacation(key, life).await } else { Ok(()) }
            }
            Ok(set) => {
                let fate = self.send(&Message::Grant(key, set.clone()));
                let applied = fate != Fate::Lost && self.put_grant(key, &set).await?;
                if applied && fate == Fate::Answered {
                    self.replace(node, key, Some(Membership { life, epoch: set.epoch, serial: set.serial }));
                }
                Ok(())
            }
        }
    }

    fn replace(&mut self, node: usize, key: KeyId, membership: Option<Membership>) {
        let node = &mut self.nodes[node];
        let before = match membership {
            Some(membership) => node.memberships.insert(key, membership),
            None => node.memberships.remove(&key),
        };
        if let Some(before) = before
            && membership.is_none_or(|membership| membership.life != before.life)
        {
            node.leaving.push((key, before));
        }
    }

    /// A dispatched attempt ends; its settlement is on its way from now on.
    fn end(&mut self, node: usize) {
        let suits = |attempt: &Attempt| attempt.node == node && matches!(attempt.phase, Phase::Dispatched { .. });
        if let Some(index) = self.pick(|attempt| suits(attempt) && !attempt.abandoned) {
            self.end_one(index);
        }
    }

    fn end_one(&mut self, index: usize) {
        let percent = self.random.within(0..=100);
        let counted = self.random.percent(90);
        let share_of_tokens = self.random.percent(70).then(|| self.random.within(0..=100));
        let attempt = &mut self.attempts[index];
        let Phase::Dispatched { epoch } = attempt.phase else { return };
        let cost = attempt.bound * percent / 100;
        attempt.phase = Phase::Ended { epoch, cost, counted };
        let taken = attempt.rates.tokens.map_or(0, |tokens| tokens.amount);
        let tokens = share_of_tokens.map(|percent| taken * percent / 100);
        self.nodes[attempt.node].outbox.push((index, epoch, Settlement { cost: NanoUsd::new(cost), counted, tokens }));
    }

    async fn send_one(&mut self, node: usize) -> Result<(), String> {
        if self.nodes[node].outbox.is_empty() {
            return Ok(());
        }
        let place = self.random.index(self.nodes[node].outbox.len());
        let (index, epoch, settlement) = self.nodes[node].outbox[place];
        let fate = self.send(&Message::Settle(index, epoch, settlement));
        if fate != Fate::Lost {
            self.put_settlement(index, epoch, settlement).await?;
        }
        if fate == Fate::Answered {
            self.nodes[node].outbox.remove(place);
        }
        Ok(())
    }

    async fn shrink(&mut self, node: usize) -> Result<(), String> {
        let suits = |attempt: &Attempt| attempt.node == node && matches!(attempt.phase, Phase::Dispatched { .. });
        let Some(index) = self.pick(suits) else { return Ok(()) };
        let percent = self.random.within(50..=110);
        let attempt = &mut self.attempts[index];
        let bound = attempt.bound * percent / 100;
        attempt.bound = attempt.bound.min(bound);
        let tokens = attempt.rates.tokens.map(|tokens| tokens.amount * percent / 100);
        if let (Some(tokens), Some(taken)) = (&mut attempt.rates.tokens, tokens) {
            tokens.amount = tokens.amount.min(taken);
        }
        let epoch = attempt.epoch().unwrap_or(0);
        let fate = self.send(&Message::Shrink(index, epoch, bound, tokens));
        if fate != Fate::Lost { self.put_shrink(index, epoch, bound, tokens).await } else { Ok(()) }
    }

    async fn renew(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let running = |attempt: &&Attempt| {
            attempt.node == node
                && attempt.key == key
                && attempt.rates.concurrency.is_some()
                && matches!(attempt.phase, Phase::Dispatched { .. })
        };
        let ids: Vec<_> = self.attempts.iter().filter(running).map(|attempt| attempt.id).collect();
        let fate = self.send(&Message::Renew(key, ids.clone()));
        if fate != Fate::Lost { self.put_renewal(key, &ids).await } else { Ok(()) }
    }

    async fn claw_back(&mut self, node: usize, key: KeyId) -> Result<(), String> {
        let fate = self.send(&Message::ClawBack(key));
        if fate == Fate::Lost {
            return Ok(());
        }
        let claw = self.put_claw_back(key).await?;
        if let (Fate::Answered, Some(claw)) = (fate, claw) {
            self.nodes[node].returned.push((key, claw));
            if self.random.percent(60) {
                self.tell_again(node);
            }
        }
        Ok(())
    }

    /// The ledger is told what books gave up: for the first time, late, or again.
    fn tell_again(&mut self, node: usize) {
        let returned = &self.nodes[node].returned;
        if let Some((key, claw)) = self.random.pick(&returned[returned.len().saturating_sub(3)..]) {
            self.ledger.take_back(*key, claw, self.rules.compare_serials);
        }
    }

    /// A node leaves an epoch, once nothing of its own is open there.
    fn leave(&mut self, node: usize) -> Result<(), String> {
        if self.random.percent(30)
            && let Some(key) = self.random.pick(&self.keys).copied()
        {
            self.replace(node, key, None);
        }
        let attempts = &self.attempts;
        let open = |key: KeyId, epoch: u32| {
            let here = |attempt: &Attempt| attempt.node == node && attempt.key == key;
            attempts.iter().filter(|attempt| here(attempt)).any(|attempt| match attempt.phase {
                Phase::Asked => attempt.named == epoch,
                Phase::Dispatched { epoch: of } => of == epoch,
                Phase::Ended { .. } | Phase::Gone => false,
            })
        };
        let boot = self.nodes[node].boot;
        let done = |(key, membership): &(KeyId, Membership)| !open(*key, membership.epoch);
        let place = self.nodes[node].leaving.iter().position(|left| done(left) || !self.rules.leave_when_done);
        if let Some(place) = place {
            let (key, membership) = self.nodes[node].leaving.remove(place);
            // It may have come back meanwhile: then the ledger has a later serial.
            self.ledger.leave(boot, key, membership.epoch, membership.serial);
        }
        self.close_left()
    }

    fn close_left(&mut self) -> Result<(), String> {
        // What has not ended has no entry that the ledger could see.
        let attempts = &self.attempts;
        self.ledger.close_left(|key, epoch, counter| {
            let ended = |attempt: &&Attempt| matches!(attempt.phase, Phase::Ended { epoch: of, .. } if of == epoch);
            let here = attempts.iter().filter(|attempt| attempt.key == key).filter(ended);
            here.map(|attempt| attempt.truth(counter)).sum()
        })
    }

    /// A process ends. What it had not heard the end of is charged in full, if its spool is found, and never known otherwise.
    fn crash(&mut self, node: usize) -> Result<(), String> {
        let found = self.random.percent(70);
        for attempt in self.attempts.iter_mut().filter(|attempt| attempt.node == node && !attempt.abandoned) {
            attempt.abandoned = true;
            match attempt.phase {
                Phase::Asked => attempt.phase = Phase::Gone,
                Phase::Dispatched { epoch } if found => {
                    attempt.phase = Phase::Ended { epoch, cost: attempt.bound, counted: true };
                }
                Phase::Dispatched { .. } | Phase::Ended { .. } | Phase::Gone => {}
            }
        }
        self.boots += 1;
        let before = std::mem::replace(&mut self.nodes[node], Node { boot: self.boots, ..Node::default() });
        if found {
            self.ledger.close_boot(before.boot);
        }
        self.close_left()
    }

    // ---- What happens to all ----

    async fn forward(&mut self) -> Result<(), String> {
        let midnight = DAY - millis(self.clock).rem_euclid(DAY);
        let ahead = match self.random.weighted(&[45, 20, 10, 12, 7, 3, 3]) {
            0 => self.random.within(1..=3_000),
            1 => self.random.within(3_000..=30_000),
            2 => self.random.within(50_000..=70_000),
            // To where a minute ends, if something was admitted just now.
            3 => [59_999, 60_000, 60_999, 61_000][self.random.index(4)],
            4 => self.random.within(100_000..=4_000_000),
            5 => u64::try_from(midnight).unwrap() + self.random.within(0..=1),
            _ => u64::try_from(DAY).unwrap() - 2_000 + self.random.within(0..=4_000_000),
        };
        let then = self.clock.saturating_add(Duration::from_millis(ahead));
        self.report_before(millis(then)).await?;
        self.set_clock(then);
        Ok(())
    }

    /// Time never goes back by as much as an id is remembered: nobody could tell what is late then.
    fn backward(&mut self) {
        let back = i64::try_from(self.random.within(1..=45_000)).unwrap();
        self.set_clock(Timestamp::from_millis(millis(self.clock) - back));
    }

    fn set_clock(&mut self, now: Timestamp) {
        self.clock = now;
        self.subject.set_clock(now);
    }

    /// Nobody waits for a day with what the store would then have forgotten.
    async fn report_before(&mut self, moment: i64) -> Result<(), String> {
        for index in 0..self.attempts.len() {
            let attempt = &self.attempts[index];
            let entry = self.mirrors[&attempt.key].entries.get(&attempt.id);
            if !attempt.abandoned && entry.and_then(|entry| entry.expires).is_some_and(|at| at + DAY <= moment) {
                self.report(index).await?;
            }
        }
        Ok(())
    }

    /// The attempt ends, if it has not, and the store hears of it.
    async fn report(&mut self, index: usize) -> Result<(), String> {
        if self.attempts[index].phase == Phase::Asked {
            self.refuse(index).await?;
        }
        self.end_one(index);
        let node = self.attempts[index].node;
        let mine = |entry: &(usize, u32, Settlement)| entry.0 == index;
        while let Some(place) = self.nodes[node].outbox.iter().position(mine) {
            let (index, epoch, settlement) = self.nodes[node].outbox.remove(place);
            self.put_settlement(index, epoch, settlement).await?;
        }
        Ok(())
    }

    fn lose(&mut self, key: KeyId) {
        let loss = match self.random.weighted(&[20, 20, 10, 15, 15, 120]) {
            0 => Loss::Restart,
            1 => Loss::RollBack,
            2 => Loss::Flush,
            3 => Loss::Key(key),
            4 => Loss::Books(key),
            _ => return,
        };
        let kept = self.subject.lose(loss);
        for (name, mirror) in &mut self.mirrors {
            if matches!(loss, Loss::Key(lost) | Loss::Books(lost) if lost != *name) {
                continue;
            }
            mirror.begin();
            if kept != Kept::Everything {
                let before = if kept == Kept::Snapshot { self.snapshot[name].clone() } else { Mirror::new() };
                (mirror.frozen, mirror.latest) = (before.frozen, before.latest);
            }
            if matches!(kept, Kept::Snapshot | Kept::Nothing) {
                mirror.forget_pace(kept == Kept::Snapshot);
            }
        }
    }

    fn change_limits(&mut self) {
        for (index, (.., amount)) in LIMITS.iter().enumerate() {
            self.limits[index].amount = amount * self.random.within(CHANGES.0..=CHANGES.1) / 100;
            self.highest[index] = self.highest[index].max(self.limits[index].amount);
        }
    }

    async fn freeze(&mut self, key: KeyId) -> Result<(), String> {
        let frozen = self.random.percent(20);
        self.mirror(key).frozen = frozen;
        let store = self.subject.store(key);
        let done = if frozen { store.freeze(key).await } else { store.unfreeze(key).await };
        done.map_err(|error| error.to_string())
    }

    fn pick(&mut self, suits: impl Fn(&Attempt) -> bool) -> Option<usize> {
        let suited: Vec<_> = (0..self.attempts.len()).filter(|index| suits(&self.attempts[*index])).collect();
        self.random.pick(&suited).copied()
    }

    // ---- What must hold ----

    async fn check(&mut self) -> Result<(), String> {
        for counter in self.ledger.counters() {
            let name = (counter.scope, counter.dimension, counter.window);
            let index = LIMITS.iter().position(|limit| (limit.0, limit.1, limit.2) == name).unwrap();
            let highest = self.highest[index];
            let truth: u64 = self.attempts.iter().map(|attempt| attempt.truth(&counter)).sum();
            hold!(truth <= highest, "I-1: {truth} of {highest} on {counter:?}");
            let total = self.ledger.total(&counter);
            hold!(!self.rules.remember_outstanding || total <= highest, "I-4: {total} of {highest} on {counter:?}");
        }
        for key in self.keys.clone() {
            let books = self.subject.store(key).books(key).await.map_err(|error| error.to_string())?;
            let clock = self.clock;
            self.mirror(key).check(&books, clock)?;
            for books in books {
                let written_off = self.ledger.granted(key, self.mirrors[&key].epoch, &books.counter);
                let is_over = self.mirrors[&key].life.is_some_and(|life| !self.ledger.is_open(key, life));
                hold!(is_over || books.granted <= written_off, "I-4: {written_off} were written off: {books:?}");
            }
        }
        Ok(())
    }

    /// I-9: everybody reports, and then nothing is held or waits for its truth; what is used is what it cost, in one period each (I-11). Only what
    /// nobody can report any more stays charged in full.
    pub async fn drain(&mut self) -> Result<(), String> {
        for index in 0..self.attempts.len() {
            if !self.attempts[index].abandoned {
                self.report(index).await?;
            }
        }
        self.check().await?;
        self.set_clock(Timestamp::from_millis(millis(self.clock) + 400_000));
        for key in self.keys.clone() {
            self.mirror(key).frozen = false;
            self.subject.store(key).unfreeze(key).await.map_err(|error| error.to_string())?;
            self.sweep(key).await?;
            self.check_drained(key).await?;
        }
        Ok(())
    }

    /// Lets the store charge all that has expired.
    async fn sweep(&mut self, key: KeyId) -> Result<(), String> {
        let unsettled = self.mirrors[&key].entries.values().filter(|entry| entry.expires.is_some()).count();
        for _ in 0..=unsettled / 8 {
            self.attempts.push(Attempt {
                id: reservation(u32::try_from(self.attempts.len()).unwrap()),
                key,
                node: 0,
                needs: Vec::new(),
                rates: Rates::default(),
                life: Duration::from_secs(1_000),
                bound: 0,
                phase: Phase::Gone,
                named: 0,
                in_doubt: false,
                abandoned: true,
            });
            let not_after = Timestamp::from_millis(self.mirrors[&key].now(self.clock));
            self.put_reserve(self.attempts.len() - 1, 0, not_after).await?;
        }
        Ok(())
    }

    /// Reservations whose charge is not what their attempt cost.
    fn unexplained(&self, key: KeyId, counter: &CounterId) -> Vec<(&Attempt, &Entry)> {
        let entries = &self.mirrors[&key].entries;
        let attempts = self.attempts.iter().filter(|attempt| attempt.key == key && !attempt.abandoned);
        let charged = attempts.filter_map(|attempt| Some((attempt, entries.get(&attempt.id)?)));
        let charge = |entry: &Entry| entry.takes.iter().find(|(of, _)| of == counter).map_or(0, |(_, amount)| *amount);
        charged.filter(|(attempt, entry)| charge(entry) != attempt.truth(counter)).collect()
    }

    async fn check_drained(&mut self, key: KeyId) -> Result<(), String> {
        let epoch = self.mirrors[&key].epoch;
        let books = self.subject.store(key).books(key).await.map_err(|error| error.to_string())?;
        for books in books {
            let entries = &self.mirrors[&key].entries;
            let (mut used, mut orphaned) = (0, 0);
            for attempt in self.attempts.iter().filter(|attempt| attempt.key == key) {
                let taken = |(of, _): &&(CounterId, u64)| *of == books.counter;
                let entry = entries.get(&attempt.id);
                let charge = entry.and_then(|entry| entry.takes.iter().find(taken)).map_or(0, |(_, amount)| *amount);
                if attempt.abandoned {
                    used += charge;
                    orphaned += if entry.is_some_and(|entry| entry.expires.is_some()) { charge } else { 0 };
                } else if attempt.epoch() == Some(epoch) {
                    used += attempt.truth(&books.counter);
                }
            }
            hold!(books.held == 0, "I-9: still held: {books:?}");
            hold!(
                books.used == used,
                "I-9: {used} were spent: {books:?}\n{:#?}",
                self.unexplained(key, &books.counter)
            );
            hold!(books.orphaned <= orphaned, "I-9: {orphaned} have no truth: {books:?}");
        }
        Ok(())
    }
}

//! Nodes and stores around a real ledger: three keys of one workspace in two stores that four nodes share. It carries out what happens by the rules of
//! a store, and keeps the truth outside of what is tested: every request that a store admitted, at what it may still cost or did cost.

use std::collections::BTreeMap;
use std::time::Duration;

use keyforge_control_plane::ledger::{Acquire, GiveBack, Granted, Ledger, LedgerError, Membership, Reading, Want};
use keyforge_control_plane::store::boots;
use keyforge_shared::audit::request::RequestRecord;
use keyforge_shared::clock::Clock as _;
use keyforge_shared::id::{BootId, LifeId, WorkspaceId};
use keyforge_shared::limit::{CounterId, Dimension, touched};
use keyforge_shared::money::NanoUsd;
use keyforge_shared::period::{Calendar, Window, ZoneName};
use keyforge_shared::plan::Plan;
use keyforge_shared::policy::{Policy, RequestLimit, SpendLimit};
use keyforge_shared::state::{KeyRecord, WorkspaceRecord};

use crate::escrow_books::Books;
use crate::escrow_steps::{Fate, Step};
use crate::rig::{Key, NODE, Rig};

const TEAM: WorkspaceId = WorkspaceId::from_bytes([0x7e; 16]);
pub const KEYS: usize = 3;
pub const NODES: usize = 4;
pub const KEY_DAY: u64 = 3_000;
pub const KEY_REQUESTS: u64 = 25;
pub const TEAM_DAY: u64 = 5_000;
pub const TEAM_MONTH: u64 = 12_000;
pub const TEAM_REQUESTS: u64 = 60;
/// Comes in mid-life.
pub const TEAM_TOTAL: u64 = 9_000;

/// A request between its admission and its end.
struct Open {
    key: usize,
    life: LifeId,
    epoch: u32,
    counters: Vec<CounterId>,
    bound: u64,
    period: u32,
}

#[derive(Clone, Copy)]
struct Seat {
    life: LifeId,
    epoch: u32,
    serial: u64,
}

/// One life of a node.
struct Node {
    boot: BootId,
    store: usize,
    seats: BTreeMap<usize, Seat>,
    open: Vec<Open>,
    records: Vec<RequestRecord>,
}

#[derive(Clone)]
enum Message {
    Answer { store: usize, key: usize, life: LifeId, granted: Granted },
    Return(GiveBack),
    Leave { boot: BootId, last_seq: u64, membership: Membership },
}

pub struct World {
    pub rig: Rig,
    pub keys: Vec<(Key, KeyRecord)>,
    team: WorkspaceRecord,
    stores: Vec<Vec<Books>>,
    nodes: Vec<Node>,
    /// Nodes that crashed, and whether their records are lost.
    dead: Vec<(Node, bool)>,
    under_way: Vec<Message>,
    /// What was spent and may still be, per key's counter.
    pub truth: BTreeMap<CounterId, u64>,
    /// The part of it that was admitted before there was a limit over the whole life.
    pub unlimited: u64,
    born: u8,
}

fn team_limits(share: u64) -> Policy {
    let spend = |amount: u64, window| SpendLimit { amount: NanoUsd::new(amount * share / 100), window };
    Policy {
        request_limits: vec![RequestLimit { requests: TEAM_REQUESTS * share / 100, window: Window::Day }],
        spend_limits: vec![spend(TEAM_DAY, Window::Day), spend(TEAM_MONTH, Window::Month)],
        ..Policy::default()
    }
}

impl World {
    pub async fn new() -> Self {
        let mut rig = Rig::new().await;
        // So little that what was used before a limit is most often read before the transaction that settles it.
        rig.ledger = Ledger::with_reading(rig.store.clone(), rig.clock.clone(), Reading { page: 2, in_write: 3 });
        rig.workspace(TEAM, "team", &team_limits(100)).await;
        let limits = team_limits(100);
        let team = WorkspaceRecord {
            id: TEAM,
            name: "team".to_owned(),
            request_limits: limits.request_limits,
            spend_limits: limits.spend_limits,
            plan: Plan::Unlimited,
        };
        let mut world = Self {
            rig,
            keys: Vec::new(),
            team,
            stores: vec![Vec::new(), Vec::new()],
            nodes: Vec::new(),
            dead: Vec::new(),
            under_way: Vec::new(),
            truth: BTreeMap::new(),
            unlimited: 0,
            born: 0,
        };
        // The third has no limits of its own.
        for (n, zone) in (1u8..).zip([None, Some("Asia/Tokyo"), Some("America/Sao_Paulo")]) {
            let mut policy = Policy { time_zone: zone.map(|name| ZoneName::new(name).unwrap()), ..Policy::default() };
            if n < 3 {
                policy.request_limits = vec![RequestLimit { requests: KEY_REQUESTS, window: Window::Day }];
                policy.spend_limits = vec![SpendLimit { amount: NanoUsd::new(KEY_DAY), window: Window::Day }];
            }
            let key = world.rig.key_in(TEAM, n, policy).await;
            let mut tx = world.rig.store.read().await.unwrap();
            let record = keyforge_control_plane::store::keys::get(&mut tx, key.id).await.unwrap().unwrap().record;
            world.keys.push((key, record));
            for store in 0..2 {
                let books = world.vacancy();
                world.stores[store].push(books);
            }
        }
        for n in 0..NODES {
            let node = world.birth(n % 2);
            world.nodes.push(node);
        }
        world
    }

    fn name(&mut self) -> [u8; 16] {
        self.born += 1;
        [self.born; 16]
    }

    fn vacancy(&mut self) -> Books {
        let life = LifeId::from_bytes(self.name());
        Books { life, epoch: 0, floor: 0, serial: 0, shelves: BTreeMap::new() }
    }

    fn birth(&mut self, store: usize) -> Node {
        let boot = BootId::from_bytes(self.name());
        Node { boot, store, seats: BTreeMap::new(), open: Vec::new(), records: Vec::new() }
    }

    fn counters(&self, key: usize) -> Vec<CounterId> {
        touched(&self.keys[key].1, &self.team, self.rig.clock.now()).map(|touched| touched.counter).collect()
    }

    pub async fn step(&mut self, step: Step) {
        match step {
            Step::Acquire { node, key, amount, fate } => self.acquire(node, key, amount, fate).await,
            Step::Join { node, key } => self.acquire(node, key, 0, Fate::Now).await,
            Step::Reserve { node, key, bound } => self.reserve(node, key, bound),
            Step::Settle { node, at, share } => self.settle(node, at, share),
            Step::Ship { node, again } => ship(&self.rig, &self.nodes[node], again).await,
            Step::ClawBack { node, key, fate } => self.claw_back(node, key, fate).await,
            Step::Leave { node, key, fate } => self.leave(node, key, fate).await,
            Step::Deliver { at, again } => self.deliver(at, again).await,
            Step::LoseBooks { store, key } => self.stores[store][key] = self.vacancy(),
            Step::Crash { node, records_lost } => {
                let boot = self.nodes[node].boot;
                self.crash(node, records_lost);
                if records_lost {
                    self.rig.audit.report_gap(&self.rig.store, NODE, boot, &[]).await.unwrap();
                }
            }
            Step::TeamLimit { share } => self.limit(team_limits(share)).await,
            Step::TeamTotal if self.has_total() => {}
            Step::TeamTotal => {
                let mut limits = team_limits(100);
                limits.spend_limits.push(SpendLimit { amount: NanoUsd::new(TEAM_TOTAL), window: Window::Total });
                self.limit(limits).await;
            }
            Step::Wait { minutes } => self.rig.clock.advance(Duration::from_mins(minutes)),
        }
    }

    /// Asks for `amount`, or with nothing only for the membership.
    async fn acquire(&mut self, node: usize, key: usize, amount: u64, fate: Fate) {
        let store = self.nodes[node].store;
        let need = |counter: &CounterId| if counter.dimension == Dimension::Spend { amount } else { 1 };
        let wants: Vec<_> = match amount {
            0 => Vec::new(),
            _ => self.counters(key).iter().map(|counter| Want { counter: *counter, amount: need(counter) }).collect(),
        };
        let life = self.stores[store][key].life;
        let ask = Acquire { boot: self.nodes[node].boot, life, key: self.keys[key].0.id, wants };
        let asked = self.rig.ledger.acquire(&ask).await;
        if let Err(LedgerError::Over(over)) = asked {
            assert_eq!(over, life);
            let is_used = |node: &Node| node.open.iter().any(|open| open.key == key && open.life == life);
            assert!(!self.nodes.iter().any(is_used), "an epoch was closed under a member");
            self.stores[store][key] = self.vacancy();
            return;
        }
        let granted = asked.unwrap();
        let known = self.stores[store][key].epoch;
        assert!(known == 0 || known == granted.epoch, "one life is one epoch");
        assert!(granted.grants.iter().all(|grant| grant.unsettled <= grant.elsewhere), "{granted:?}");
        for holder in &granted.holders {
            let of_team = self.keys.iter().any(|(key, _)| key.id == holder.key && key.id != ask.key);
            assert!(of_team && holder.unsettled > 0, "{holder:?}");
        }
        match fate {
            Fate::Now => {
                let seat = Seat { life, epoch: granted.epoch, serial: granted.serial };
                self.nodes[node].seats.insert(key, seat);
                self.stores[store][key].apply(life, &granted);
            }
            // The node gave up waiting, and something else carries the answer to the store, if anything.
            Fate::Later => self.under_way.push(Message::Answer { store, key, life, granted }),
            Fate::Never => {}
        }
    }

    fn reserve(&mut self, node: usize, key: usize, bound: u64) {
        let counters = self.counters(key);
        let day = Calendar::of(self.keys[key].1.policy.time_zone.as_ref()).day_at(self.rig.clock.now());
        let node = &mut self.nodes[node];
        let books = &mut self.stores[node.store][key];
        let Some(seat) = node.seats.get(&key).copied() else { return };
        if seat.life != books.life || seat.epoch != books.epoch {
            return;
        }
        let amount = |counter: &CounterId| if counter.dimension == Dimension::Spend { bound } else { 1 };
        let fits = counters.iter().all(|counter| {
            let shelf = books.shelves.get(counter).copied().unwrap_or_default();
            shelf.used + shelf.held + amount(counter) <= shelf.ceiling.min(shelf.most)
        });
        if !fits {
            return;
        }
        for counter in &counters {
            books.shelves.entry(*counter).or_default().held += amount(counter);
            *self.truth.entry(*counter).or_default() += amount(counter);
        }
        if !counters.iter().any(|counter| counter.window == Window::Total) {
            self.unlimited += bound;
        }
        node.open.push(Open { key, life: seat.life, epoch: seat.epoch, counters, bound, period: day.number() });
    }

    fn settle(&mut self, node: usize, at: usize, share: u64) {
        if self.nodes[node].open.is_empty() {
            return;
        }
        let at = at % self.nodes[node].open.len();
        let open = self.nodes[node].open.swap_remove(at);
        let cost = open.bound * share / 100;
        let record = self.record(&self.nodes[node], &open, cost);
        if !open.counters.iter().any(|counter| counter.window == Window::Total) {
            self.unlimited -= open.bound - cost;
        }
        let node = &mut self.nodes[node];
        node.records.push(record);
        let books = &mut self.stores[node.store][open.key];
        for counter in &open.counters {
            let (held, used) = match counter.dimension {
                Dimension::Spend => (open.bound, cost),
                Dimension::Requests => (1, 1),
            };
            *self.truth.get_mut(counter).unwrap() -= held - used;
            if books.life == open.life {
                let shelf = books.shelves.get_mut(counter).unwrap();
                shelf.held -= held;
                shelf.used += used;
            }
        }
    }

    fn record(&self, node: &Node, open: &Open, cost: u64) -> RequestRecord {
        let seq = node.records.len() as u64 + 1;
        let record = self.rig.record(self.keys[open.key].0, node.boot, seq, open.epoch, cost);
        RequestRecord { period: open.period, ..record }
    }

    async fn claw_back(&mut self, node: usize, key: usize, fate: Fate) {
        let Node { boot, store, .. } = self.nodes[node];
        let books = &mut self.stores[store][key];
        if books.epoch == 0 {
            return;
        }
        let holdings = books.claw_back();
        let given = GiveBack {
            boot,
            life: books.life,
            key: self.keys[key].0.id,
            epoch: books.epoch,
            serial: books.floor,
            holdings,
        };
        self.send(Message::Return(given), fate).await;
    }

    async fn leave(&mut self, node: usize, key: usize, fate: Fate) {
        let node = &mut self.nodes[node];
        let Some(seat) = node.seats.get(&key).copied() else { return };
        if node.open.iter().any(|open| open.key == key && open.life == seat.life) {
            return;
        }
        node.seats.remove(&key);
        let membership = Membership { key: self.keys[key].0.id, epoch: seat.epoch, serial: seat.serial };
        let message = Message::Leave { boot: node.boot, last_seq: node.records.len() as u64, membership };
        self.send(message, fate).await;
    }

    async fn send(&mut self, message: Message, fate: Fate) {
        match fate {
            Fate::Now => self.arrive(message).await,
            Fate::Later => self.under_way.push(message),
            Fate::Never => {}
        }
    }

    async fn deliver(&mut self, at: usize, again: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let at = at % self.under_way.len();
        let message = self.under_way[at].clone();
        if !again {
            self.under_way.swap_remove(at);
        }
        self.arrive(message).await;
    }

    async fn arrive(&mut self, message: Message) {
        match message {
            Message::Answer { store, key, life, granted } => self.stores[store][key].apply(life, &granted),
            Message::Return(given) => {
                let answer = self.rig.ledger.give_back(&given).await;
                let is_late =
                    matches!(answer, Err(LedgerError::Overtaken(_) | LedgerError::Over(_) | LedgerError::BootOver(_)));
                assert!(answer.is_ok() || is_late, "{answer:?}");
            }
            Message::Leave { boot, last_seq, membership } => {
                let chained = watermark(&self.rig, boot).await;
                let left = self.rig.ledger.leave(boot, last_seq, &[membership]).await;
                if matches!(left, Err(LedgerError::NotShipped { .. })) {
                    assert!(chained < last_seq);
                    // An honest node tries again.
                    self.under_way.push(Message::Leave { boot, last_seq, membership });
                } else {
                    left.unwrap();
                    assert!(chained >= last_seq || self.is_lost(boot));
                }
            }
        }
    }

    fn is_lost(&self, boot: BootId) -> bool {
        self.dead.iter().any(|(node, lost)| *lost && node.boot == boot)
    }

    /// What was open is charged in full, in the store when it expires and in the records that the next life writes.
    fn crash(&mut self, node: usize, records_lost: bool) {
        let next = self.birth(self.nodes[node].store);
        let mut node = std::mem::replace(&mut self.nodes[node], next);
        for open in std::mem::take(&mut node.open) {
            let record = self.record(&node, &open, open.bound);
            node.records.push(record);
            let books = &mut self.stores[node.store][open.key];
            if books.life == open.life {
                for counter in &open.counters {
                    let amount = if counter.dimension == Dimension::Spend { open.bound } else { 1 };
                    let shelf = books.shelves.get_mut(counter).unwrap();
                    shelf.held -= amount;
                    shelf.used += amount;
                }
            }
        }
        self.dead.push((node, records_lost));
    }

    fn has_total(&self) -> bool {
        self.team.spend_limits.iter().any(|limit| limit.window == Window::Total)
    }

    async fn limit(&mut self, mut limits: Policy) {
        if let Some(total) = self.team.spend_limits.iter().find(|limit| limit.window == Window::Total) {
            limits.spend_limits.push(*total);
        }
        self.rig.change_workspace(TEAM, &limits).await;
        self.team.request_limits = limits.request_limits;
        self.team.spend_limits = limits.spend_limits;
    }

    /// What runs ends, every node is closed, and what is under way arrives. Says whether any records were lost.
    pub async fn end(&mut self) -> bool {
        for node in 0..NODES {
            while !self.nodes[node].open.is_empty() {
                self.settle(node, 0, 40);
            }
        }
        let ends: Vec<_> = self.nodes.drain(..).map(|node| (node, false)).chain(self.dead.drain(..)).collect();
        let any_lost = ends.iter().any(|(_, lost)| *lost);
        for (node, lost) in &ends {
            if !lost {
                ship(&self.rig, node, 0).await;
            }
            for _ in 0..2 {
                self.rig.ledger.close_boot(node.boot, node.records.len() as u64).await.unwrap();
            }
        }
        self.dead = ends;
        for message in std::mem::take(&mut self.under_way) {
            self.arrive(message).await;
        }
        any_lost
    }
}

async fn watermark(rig: &Rig, boot: BootId) -> u64 {
    let mut tx = rig.store.read().await.unwrap();
    boots::get(&mut tx, boot).await.unwrap().map_or(0, |known| known.watermark)
}

async fn ship(rig: &Rig, node: &Node, again: u64) {
    let from = usize::try_from(watermark(rig, node.boot).await.saturating_sub(again)).unwrap();
    let records = node.records[from..].iter().map(RequestRecord::encode).collect();
    rig.intake.ship(crate::rig::batch((NODE, node.boot), from as u64 + 1, records)).await.unwrap();
}

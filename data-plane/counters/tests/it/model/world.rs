//! Everything that can differ between two moments, and how moments that differ in names alone are made the same.

use super::bugs::{Bug, Rules};
use super::ledger::Ledger;
use super::messages::{Body, Message};
use super::store::{Data, Server};

/// Of the cap. Signed, so that books which fall below zero show it.
pub type Units = i8;
/// A life's id. Ids are given in order, so that none is given twice.
pub type Life = u8;
/// An epoch's number; 0: none.
pub type EpochNumber = u8;
/// Orders the changes of one epoch; 0: before all of them.
pub type Serial = u8;
/// One start of one node.
pub type Boot = u8;
/// A reservation's id.
pub type RequestId = u8;

/// The whole world at one moment.
#[derive(Clone, Debug, Hash)]
pub struct World {
    pub ledger: Ledger,
    /// The primary, and after a failover also its successor.
    pub servers: Vec<Server>,
    /// What the first server's disk or replica has of an earlier moment.
    pub copy: Option<Data>,
    pub nodes: Vec<Node>,
    /// Under way.
    pub net: Vec<Message>,
    /// Ground truth that no actor sees: bounds of what is dispatched and not settled, plus the cost of what is settled.
    pub spent: Units,
    /// A loss has raised what can be spent.
    pub has_gained: bool,
    pub left: Budget,
    /// Lives begun.
    pub lives: Life,
    /// Requests asked.
    pub requests: RequestId,
    /// Fences used.
    pub fences: u8,
}

/// What may still happen.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Budget {
    /// Losses of a store's data.
    pub losses: u8,
    /// Changes of the primary.
    pub failovers: u8,
    /// Turns of a node to another server.
    pub turns: u8,
    /// Crashes of nodes.
    pub crashes: u8,
    /// Nodes that never come back.
    pub lost_nodes: u8,
    /// Messages delivered twice.
    pub repeats: u8,
    /// Reservations that expire.
    pub expiries: u8,
    /// Answers that a node does not wait for.
    pub timeouts: u8,
    /// Claw-backs.
    pub give_backs: u8,
    /// Memberships given up.
    pub retirements: u8,
}

impl Budget {
    /// No fault, and nobody gives anything back.
    pub const NOTHING: Self = Self {
        losses: 0,
        failovers: 0,
        turns: 0,
        crashes: 0,
        lost_nodes: 0,
        repeats: 0,
        expiries: 0,
        timeouts: 0,
        give_backs: 0,
        retirements: 0,
    };
}

/// Whether a node runs.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Power {
    On,
    /// It has crashed and will start again, with its disk.
    Off,
    /// It is gone, disk and all.
    Gone,
}

/// A node.
#[derive(Clone, Debug, Hash)]
pub struct Node {
    pub power: Power,
    /// Its present start.
    pub boot: Boot,
    /// The store that it is connected to.
    pub server: u8,
    /// What it has joined; the last one is in use, those before are replaced.
    pub memberships: Vec<Membership>,
    /// Memberships that it has given up and the ledger does not know of yet.
    pub leaving: Vec<(EpochNumber, Serial)>,
    /// The one thing that it waits for.
    pub call: Call,
    /// Dispatched.
    pub running: Vec<Running>,
    /// Records of this boot.
    pub spool: Spool,
    /// Earlier boots that are not closed yet.
    pub past: Vec<(Boot, Spool)>,
}

/// A node's right to spend under an epoch.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Membership {
    pub life: Life,
    pub epoch: EpochNumber,
    pub serial: Serial,
}

/// What a node is about.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Call {
    Idle,
    /// A request wants to be dispatched.
    Ask {
        id: RequestId,
        amount: Units,
        /// The epoch that it holds open while its reserve is under way; 0: none.
        pass: EpochNumber,
        waits: bool,
    },
    /// A claw-back and the return that follows it.
    GiveBack,
}

/// A dispatched request.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Running {
    pub id: RequestId,
    pub epoch: EpochNumber,
    /// Its bound.
    pub amount: Units,
}

/// A boot's records: first the durable facts, then their way to the ledger.
#[derive(Clone, Debug, Default, Hash)]
pub struct Spool {
    /// How many were written.
    pub written: u8,
    /// Those that are not chained yet, oldest first.
    pub unchained: Vec<(EpochNumber, Units)>,
}

impl Spool {
    /// Records what a request cost.
    pub fn record(&mut self, epoch: EpochNumber, cost: Units) {
        self.written += 1;
        self.unchained.push((epoch, cost));
    }
}

impl World {
    /// How many messages are under way that nobody waits for.
    pub fn strays(&self) -> usize {
        self.net.iter().filter(|message| !message.heard).count()
    }

    /// Makes worlds equal that differ in nothing that anyone could notice: the order of the network, the distance between serials, and
    /// whatever can have no effect any more.
    pub fn normalise(&mut self, rules: Rules) {
        self.forget_the_void(rules);
        self.rank_serials();
        self.net.sort_unstable();
    }

    /// Drops what can have no effect any more.
    fn forget_the_void(&mut self, rules: Rules) {
        let ledger = &mut self.ledger;
        for epoch in ledger.epochs.iter_mut().filter(|epoch| !epoch.open) {
            (epoch.serial, epoch.granted) = (0, 0);
        }
        let is_open = |number: EpochNumber| ledger.epoch(number).is_some_and(|epoch| epoch.open);
        self.net.retain(|message| match message.body {
            Body::Return { epoch, .. } | Body::Leave { epoch, .. } => message.heard || is_open(epoch),
            Body::CloseBoot { .. } => !ledger.boots[usize::from(message.boot)].closed,
            Body::Acquire { .. } => message.heard || !ledger.boots[usize::from(message.boot)].closed,
            _ => true,
        });
        for node in &mut self.nodes {
            node.leaving.retain(|(epoch, _)| is_open(*epoch));
            node.past.retain(|(boot, _)| !ledger.boots[usize::from(*boot)].closed);
        }
        self.forget_unusable_data(rules);
        self.forget_old_names();
        self.count_records_anew();
    }

    /// Data of another fence is never looked at again, but for its markers; nor is a copy, which can come into use under a new fence only. What is
    /// left of a fence is that it is this server's.
    fn forget_unusable_data(&mut self, rules: Rules) {
        if rules.has(Bug::NoFence) || rules.has(Bug::FenceIsRunId) {
            return;
        }
        self.copy = None;
        for (server, number) in self.servers.iter_mut().zip(0_u8..) {
            if server.books(rules).is_none() {
                let over = std::mem::take(&mut server.data.over);
                server.data = Data { over, ..Data::default() };
            }
            (server.run, server.role) = (number, number);
            if let Some(books) = &mut server.data.books {
                books.fence = number;
            }
        }
        self.fences = 1;
    }

    /// A reservation's id matters while someone can name it, and its marker while a reserve of that id can still arrive or be sent.
    fn forget_old_names(&mut self) {
        let (mut asked, mut named) = (Vec::new(), Vec::new());
        for node in &self.nodes {
            named.extend(node.running.iter().map(|running| running.id));
            if let Call::Ask { id, .. } = node.call {
                asked.push(id);
            }
        }
        for message in &self.net {
            match message.body {
                Body::Reserve { id, .. } => asked.push(id),
                Body::Settle { id, .. } => named.push(id),
                _ => {}
            }
        }
        named.extend(&asked);
        for data in self.servers.iter_mut().map(|server| &mut server.data).chain(self.copy.as_mut()) {
            data.over.retain(|id| asked.contains(id));
            for hold in data.open.iter_mut().chain(&mut data.orphans).filter(|hold| !named.contains(&hold.id)) {
                hold.id = 0;
            }
            data.open.sort_unstable();
            data.orphans.sort_unstable();
        }
    }

    /// Of a boot's records only those that are not chained matter, unless a message counts the others too.
    fn count_records_anew(&mut self) {
        for node in &mut self.nodes {
            let past = node.past.iter_mut().map(|(boot, spool)| (*boot, spool));
            for (boot, spool) in past.chain([(node.boot, &mut node.spool)]) {
                let counts = |body: &Body| matches!(body, Body::Leave { .. } | Body::CloseBoot { .. });
                if !self.net.iter().any(|message| message.boot == boot && counts(&message.body)) {
                    let row = &mut self.ledger.boots[usize::from(boot)];
                    let chained = row.watermark.min(spool.written);
                    row.watermark -= chained;
                    spool.written -= chained;
                }
            }
        }
    }

    /// Serials are only ever compared, and new ones are higher than all: their ranks tell as much as they do.
    fn rank_serials(&mut self) {
        for at in 0..self.ledger.epochs.len() {
            let number = u8::try_from(at + 1).unwrap_or(u8::MAX);
            let mut known = [false; 256];
            self.serials(number, |serial| known[usize::from(*serial)] = true);
            let mut ranks = [0_u8; 256];
            let mut rank = 0;
            for serial in 1..256 {
                rank += u8::from(known[serial]);
                ranks[serial] = rank;
            }
            self.serials(number, |serial| *serial = ranks[usize::from(*serial)]);
        }
    }

    /// Shows every serial of an epoch to `look`.
    fn serials(&mut self, number: EpochNumber, mut look: impl FnMut(&mut Serial)) {
        let Some(epoch) = self.ledger.epochs.get_mut(usize::from(number) - 1) else { return };
        look(&mut epoch.serial);
        epoch.members.iter_mut().for_each(|(_, serial)| look(serial));
        let data = self.servers.iter_mut().map(|server| &mut server.data).chain(self.copy.as_mut());
        for books in data.filter_map(|data| data.books.as_mut()).filter(|books| books.epoch == number) {
            look(&mut books.serial);
            look(&mut books.floor);
            look(&mut books.counter_serial);
        }
        for node in &mut self.nodes {
            let held = node.memberships.iter_mut().filter(|held| held.epoch == number);
            held.for_each(|held| look(&mut held.serial));
            node.leaving.iter_mut().filter(|(epoch, _)| *epoch == number).for_each(|(_, serial)| look(serial));
        }
        for message in &mut self.net {
            match &mut message.body {
                Body::Grant { epoch, serial, .. }
                | Body::Return { epoch, serial, .. }
                | Body::Leave { epoch, serial, .. }
                | Body::Joined { epoch, serial, .. }
                    if *epoch == number =>
                {
                    look(serial);
                }
                _ => {}
            }
        }
    }
}

//! What a node does of its own accord.

use super::bugs::Bug;
use super::messages::{Body, Message};
use super::protocol::Protocol;
use super::world::{Boot, Call, Life, Membership, Node, Power, Running, Spool, Units, World};

/// Added to a request's id, this is a life's id that no store draws. Only the mutant that lets askers name lives uses it.
const NAMED_BY_ASKER: Life = 100;

/// How a request ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub cost: Units,
    /// The store hears of it later.
    pub later: bool,
}

impl Node {
    /// A node that has just started for the first time.
    pub fn new(boot: Boot) -> Self {
        Self {
            power: Power::On,
            boot,
            server: 0,
            memberships: Vec::new(),
            leaving: Vec::new(),
            call: Call::Idle,
            running: Vec::new(),
            spool: Spool::default(),
            past: Vec::new(),
        }
    }

    /// Whether something may still be dispatched or recorded under this membership.
    fn needs(&self, held: &Membership) -> bool {
        let asks = matches!(self.call, Call::Ask { pass, .. } if pass == held.epoch);
        asks || self.running.iter().any(|running| running.epoch == held.epoch)
    }

    /// It has joined, anew or again.
    pub fn join(&mut self, joined: Membership) {
        let known = self.memberships.iter().find(|held| held.epoch == joined.epoch).map_or(0, |held| held.serial);
        self.memberships.retain(|held| held.epoch != joined.epoch);
        self.memberships.push(Membership { serial: joined.serial.max(known), ..joined });
    }

    /// Forgets all that is not on its disk. What was dispatched is recorded in full: nobody knows better.
    fn stop(&mut self) {
        for running in std::mem::take(&mut self.running) {
            self.spool.record(running.epoch, running.amount);
        }
        (self.call, self.memberships, self.leaving) = (Call::Idle, Vec::new(), Vec::new());
    }
}

impl World {
    pub fn node(&mut self, number: u8) -> &mut Node {
        &mut self.nodes[usize::from(number)]
    }

    /// Puts a message on its way that the node waits for.
    pub fn send(&mut self, number: u8, body: Body) {
        let boot = self.node(number).boot;
        self.net.push(Message { node: number, boot, heard: true, body });
    }

    /// Puts a message on its way that nobody waits for, if the network has room.
    pub fn send_and_forget(&mut self, protocol: &Protocol, message: Message) -> Option<()> {
        (self.strays() < protocol.strays).then(|| self.net.push(Message { heard: false, ..message }))
    }

    pub fn ask(&mut self, protocol: &Protocol, number: u8, amount: Units, late: bool) -> Option<()> {
        self.requests += 1;
        let id = self.requests;
        self.node(number).call = Call::Ask { id, amount, pass: 0, waits: false };
        self.send_reserve(protocol, number, late)
    }

    /// Asks the store. The question arrives at once, is under way for a while, or is given up on as soon as it is sent.
    pub fn send_reserve(&mut self, protocol: &Protocol, number: u8, late: bool) -> Option<()> {
        let node = self.node(number);
        let server = node.server;
        let epoch = node.memberships.last().map_or(0, |held| held.epoch);
        let Call::Ask { id, amount, .. } = node.call else { return None };
        let pass = if protocol.rules.has(Bug::PassAfterAdmission) { 0 } else { epoch };
        let boot = node.boot;
        let fresh = if protocol.rules.has(Bug::LifeRepeated) { NAMED_BY_ASKER + id } else { 0 };
        let body = Body::Reserve { server, id, amount, epoch, fresh };
        if late {
            self.left.timeouts = self.left.timeouts.checked_sub(1)?;
            return self.send_and_forget(protocol, Message { node: number, boot, heard: false, body });
        }
        node.call = Call::Ask { id, amount, pass, waits: true };
        self.send(number, body);
        if protocol.slow_asks { Some(()) } else { self.arrive_last(protocol) }
    }

    pub fn refuse(&mut self, number: u8) -> Option<()> {
        self.node(number).call = Call::Idle;
        Some(())
    }

    /// First the record, then the store: what the ledger will learn does not depend on whether the store hears of it.
    pub fn finish(&mut self, protocol: &Protocol, number: u8, at: u8, ending: Ending) -> Option<()> {
        let Ending { cost, later } = ending;
        let node = self.node(number);
        let (server, boot) = (node.server, node.boot);
        let Running { id, epoch, amount } = node.running.remove(usize::from(at));
        node.spool.record(epoch, cost);
        self.spent -= amount - cost;
        if !protocol.ships_late {
            self.ship(number);
        }
        if later {
            let body = Body::Settle { server, id, epoch, cost };
            return self.send_and_forget(protocol, Message { node: number, boot, heard: false, body });
        }
        self.servers.get_mut(usize::from(server))?.settle(protocol.rules, id, epoch, cost);
        Some(())
    }

    /// The node stops waiting for the one thing that it waits for.
    pub fn give_up(&mut self, protocol: &Protocol, number: u8, later: bool) -> Option<()> {
        let at = self.net.iter().position(|message| message.node == number && message.heard)?;
        let message = self.net.remove(at);
        self.left.timeouts -= 1;
        if later {
            if matches!(message.body, Body::Joined { .. }) {
                return None;
            }
            self.send_and_forget(protocol, message)?;
        }
        let node = self.node(number);
        node.call = match node.call {
            Call::Ask { id, amount, .. } => Call::Ask { id, amount, pass: 0, waits: false },
            Call::Idle | Call::GiveBack => Call::Idle,
        };
        Some(())
    }

    pub fn begin_give_back(&mut self, protocol: &Protocol, number: u8) -> Option<()> {
        let server = self.node(number).server;
        self.servers[usize::from(server)].holding(protocol.rules)?;
        self.node(number).call = Call::GiveBack;
        self.left.give_backs -= 1;
        self.send(number, Body::ClawBack { server });
        self.arrive_last(protocol)
    }

    pub fn heal(&mut self, protocol: &Protocol, number: u8) -> Option<()> {
        let server = self.node(number).server;
        let server = &self.servers[usize::from(server)];
        let life = server.books(protocol.rules).filter(|_| !server.data.orphans.is_empty())?.life;
        let at = self.node(number).server;
        self.vacate(protocol, at, life)
    }

    /// Gives a membership up that nothing needs: a replaced one, or the one in use while nothing is asked.
    pub fn retire(&mut self, number: u8, at: u8) -> Option<()> {
        let node = self.node(number);
        let held = node.memberships[usize::from(at)];
        if node.needs(&held) {
            return None;
        }
        node.memberships.remove(usize::from(at));
        self.left.retirements -= 1;
        let node = self.node(number);
        node.leaving.retain(|(epoch, _)| *epoch != held.epoch);
        node.leaving.push((held.epoch, held.serial));
        node.leaving.sort_unstable();
        Some(())
    }

    pub fn leave(&mut self, protocol: &Protocol, number: u8, at: u8, later: bool) -> Option<()> {
        let node = self.node(number);
        let (boot, last) = (node.boot, node.spool.written);
        let (epoch, serial) = node.leaving[usize::from(at)];
        if later {
            let body = Body::Leave { last, epoch, serial };
            return self.send_and_forget(protocol, Message { node: number, boot, heard: false, body });
        }
        self.ledger.leave(protocol.rules, boot, last, epoch, serial).then(|| {
            self.node(number).leaving.remove(usize::from(at));
        })
    }

    /// Ships the oldest record; the ledger takes records of a boot in order and once, so delay and repetition change nothing.
    pub fn ship(&mut self, number: u8) -> Option<()> {
        let node = self.node(number);
        let past = node.past.iter_mut().find(|(_, spool)| !spool.unchained.is_empty());
        let (boot, spool) = match past {
            Some((boot, spool)) => (*boot, spool),
            None => (node.boot, &mut node.spool),
        };
        if spool.unchained.is_empty() {
            return None;
        }
        let (epoch, cost) = spool.unchained.remove(0);
        self.ledger.chain(boot, epoch, cost);
        Some(())
    }

    pub fn close_boot(&mut self, protocol: &Protocol, number: u8, later: bool) -> Option<()> {
        let (boot, last) = self.node(number).past.first().map(|(boot, spool)| (*boot, spool.written))?;
        if later {
            let body = Body::CloseBoot { last };
            return self.send_and_forget(protocol, Message { node: number, boot, heard: false, body });
        }
        self.ledger.close_boot(protocol.rules, boot, last).then(|| {
            self.node(number).past.remove(0);
        })
    }

    pub fn connect(&mut self, number: u8, server: u8) -> Option<()> {
        self.left.turns -= 1;
        self.node(number).server = server;
        Some(())
    }

    pub fn crash(&mut self, protocol: &Protocol, number: u8) -> Option<()> {
        self.left.crashes -= 1;
        self.nobody_hears(protocol, number);
        let node = self.node(number);
        node.stop();
        node.power = Power::Off;
        Some(())
    }

    pub fn start(&mut self, protocol: &Protocol, number: u8) -> Option<()> {
        let new = u8::try_from(self.ledger.boots.len()).ok()?;
        let is_reused = protocol.rules.has(Bug::BootReused);
        let node = self.node(number);
        node.power = Power::On;
        let spool = std::mem::take(&mut node.spool);
        if is_reused {
            node.past.push((node.boot, Spool::default()));
        } else {
            node.past.push((node.boot, spool));
            node.boot = new;
            self.ledger.boots.push(super::ledger::BootRow::default());
        }
        Some(())
    }

    pub fn vanish(&mut self, protocol: &Protocol, number: u8) -> Option<()> {
        self.left.lost_nodes -= 1;
        self.nobody_hears(protocol, number);
        let node = self.node(number);
        node.stop();
        node.power = Power::Gone;
        (node.spool, node.past) = (Spool::default(), Vec::new());
        Some(())
    }

    /// The node listens no more: questions travel on as far as the network has room, answers are lost.
    fn nobody_hears(&mut self, protocol: &Protocol, number: u8) {
        if let Some(at) = self.net.iter().position(|message| message.node == number && message.heard) {
            let message = self.net.remove(at);
            if !matches!(message.body, Body::Joined { .. }) {
                // Without room it is lost.
                let _sent = self.send_and_forget(protocol, message);
            }
        }
    }
}

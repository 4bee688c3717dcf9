//! What happens when a message arrives.

use super::bugs::Bug;
use super::messages::{Body, Message};
use super::protocol::Protocol;
use super::store::{Question, Verdict};
use super::world::{Call, Life, Membership, Running, Units, World};

impl World {
    /// A message arrives. With `again` a copy of it stays under way, whose answer nobody will hear.
    pub fn deliver(&mut self, protocol: &Protocol, at: u8, again: bool) -> Option<()> {
        let message = self.net.remove(usize::from(at));
        if again {
            if matches!(message.body, Body::Joined { .. }) {
                return None;
            }
            self.left.repeats -= 1;
            self.send_and_forget(protocol, message)?;
        }
        self.arrive(protocol, message)
    }

    /// What was sent last arrives before anything else happens.
    pub fn arrive_last(&mut self, protocol: &Protocol) -> Option<()> {
        let message = self.net.pop()?;
        self.arrive(protocol, message)
    }

    fn arrive(&mut self, protocol: &Protocol, message: Message) -> Option<()> {
        match message.body {
            Body::Reserve { server, id, amount, epoch, fresh } => {
                let question = Question { id, amount, epoch };
                self.reserve_arrives(protocol, message, server, question, fresh)
            }
            Body::Grant { server, life, epoch, serial, granted } => {
                let store = self.servers.get_mut(usize::from(server));
                store?.grant(protocol.rules, life, epoch, serial, granted);
                self.answered(message)
            }
            Body::ClawBack { server } => self.claw_back_arrives(protocol, message, server),
            Body::Lower { server } => {
                self.servers.get_mut(usize::from(server))?.claw_back(protocol.rules);
                Some(())
            }
            Body::Settle { server, id, epoch, cost } => {
                self.servers.get_mut(usize::from(server))?.settle(protocol.rules, id, epoch, cost);
                Some(())
            }
            Body::Vacate { server, life } => {
                self.vacate(protocol, server, life)?;
                self.answered(message)
            }
            Body::Acquire { life, want } => self.acquire_arrives(protocol, message, life, want),
            Body::Return { epoch, serial, ceiling } => {
                self.ledger.give_back(epoch, serial, ceiling);
                if protocol.rules.has(Bug::ReturnedBeforeLowered) {
                    let server = self.node(message.node).server;
                    self.net.push(Message { heard: false, body: Body::Lower { server }, ..message });
                }
                self.answered(message)
            }
            Body::Leave { last, epoch, serial } => {
                self.ledger.leave(protocol.rules, message.boot, last, epoch, serial);
                Some(())
            }
            Body::CloseBoot { last } => {
                self.ledger.close_boot(protocol.rules, message.boot, last);
                Some(())
            }
            Body::Joined { life, epoch, serial, granted } => {
                let node = self.node(message.node);
                node.join(Membership { life, epoch, serial });
                let server = node.server;
                self.send(message.node, Body::Grant { server, life, epoch, serial, granted });
                Some(())
            }
        }
    }

    /// What the node waited for is done: it may ask again, or rest.
    fn answered(&mut self, message: Message) -> Option<()> {
        if message.heard {
            let node = self.node(message.node);
            node.call = match node.call {
                Call::Ask { id, amount, .. } => Call::Ask { id, amount, pass: 0, waits: false },
                Call::Idle | Call::GiveBack => Call::Idle,
            };
        }
        Some(())
    }

    /// Begins a life in a store. Ids are drawn at that moment, so that none is used twice.
    fn begin_life(&mut self, protocol: &Protocol, server: u8, fresh: Life) -> Option<()> {
        let life = if protocol.rules.has(Bug::LifeRepeated) && fresh > 0 {
            fresh
        } else {
            self.lives = (self.lives < protocol.lives).then_some(self.lives + 1)?;
            self.lives
        };
        self.servers.get_mut(usize::from(server))?.begin(protocol.rules, life);
        Some(())
    }

    /// Ends a life, if the books are of that life.
    pub fn vacate(&mut self, protocol: &Protocol, server: u8, life: Life) -> Option<()> {
        let books = self.servers.get(usize::from(server))?.books(protocol.rules);
        if books.is_some_and(|books| books.life == life) {
            self.begin_life(protocol, server, 0)?;
        }
        Some(())
    }

    fn reserve_arrives(
        &mut self,
        protocol: &Protocol,
        message: Message,
        server: u8,
        question: Question,
        fresh: Life,
    ) -> Option<()> {
        if self.servers.get(usize::from(server))?.books(protocol.rules).is_none() {
            self.begin_life(protocol, server, fresh)?;
        }
        let verdict = self.servers.get_mut(usize::from(server))?.reserve(protocol.rules, question);
        if !message.heard {
            return Some(());
        }
        let node = self.node(message.node);
        let want = match verdict {
            Verdict::Admitted => {
                let Question { id, amount, epoch } = question;
                node.running.push(Running { id, epoch, amount });
                node.call = Call::Idle;
                self.spent += amount;
                return Some(());
            }
            Verdict::Duplicate => {
                node.call = Call::Idle;
                return Some(());
            }
            Verdict::NotJoined(life) => (life, if protocol.joins_first { 0 } else { question.amount }),
            Verdict::Short { life, missing } => (life, missing),
        };
        node.call = Call::Ask { id: question.id, amount: question.amount, pass: 0, waits: true };
        self.send(message.node, Body::Acquire { life: want.0, want: want.1 });
        Some(())
    }

    fn claw_back_arrives(&mut self, protocol: &Protocol, message: Message, server: u8) -> Option<()> {
        let store = self.servers.get_mut(usize::from(server))?;
        let is_only_read = message.heard && protocol.rules.has(Bug::ReturnedBeforeLowered);
        let left = if is_only_read { store.holding(protocol.rules) } else { store.claw_back(protocol.rules) };
        match left {
            Some(left) if message.heard => {
                let body = Body::Return { epoch: left.epoch, serial: left.serial, ceiling: left.ceiling };
                self.send(message.node, body);
                Some(())
            }
            _ => self.answered(message),
        }
    }

    fn acquire_arrives(&mut self, protocol: &Protocol, message: Message, life: Life, want: Units) -> Option<()> {
        let slice = if protocol.is_greedy && want > 0 { self.ledger.cap } else { want };
        let joined = self.ledger.acquire(protocol.rules, message.boot, life, slice);
        if message.heard {
            let server = self.node(message.node).server;
            let body = joined.map_or(Body::Vacate { server, life }, |joined| Body::Joined {
                life,
                epoch: joined.epoch,
                serial: joined.serial,
                granted: (want > 0).then_some(joined.granted),
            });
            self.send(message.node, body);
            if joined.is_none() {
                return self.arrive_last(protocol);
            }
        }
        Some(())
    }
}

//! How stores lose what they were told.

use super::protocol::Protocol;
use super::step::Action;
use super::store::{Data, Server};
use super::world::World;

impl World {
    /// What could be spent without anyone learning anything new: what the ledger can still grant, and what books allow whose epoch is open.
    pub fn spendable(&self, protocol: &Protocol) -> i8 {
        let is_open = |epoch| self.ledger.epoch(epoch).is_some_and(|epoch| epoch.open);
        let books = self.servers.iter().filter_map(|server| server.books(protocol.rules));
        self.ledger.ungranted() + books.filter(|books| is_open(books.epoch)).map(|books| books.free()).sum::<i8>()
    }

    pub fn expire(&mut self, protocol: &Protocol, server: u8, at: u8) -> Option<()> {
        self.left.expiries -= 1;
        self.servers[usize::from(server)].expire(protocol.rules, at.into()).then_some(())
    }

    /// Disk and replica have everything now. They have it once: a second copy would be a fresher one, which loses less.
    pub fn copy(&mut self) -> Option<()> {
        self.copy = Some(self.servers[0].data.clone());
        Some(())
    }

    /// A loss, and whether more can be spent after it than before.
    pub fn lose(&mut self, protocol: &Protocol, action: Action) -> Option<()> {
        let before = self.spendable(protocol);
        let budget = match action {
            Action::FailOver { .. } | Action::FailBack => &mut self.left.failovers,
            _ => &mut self.left.losses,
        };
        *budget -= 1;
        self.fences += 1;
        let (fence, copy) = (self.fences, self.copy.clone());
        match action {
            Action::Flush { server } => self.servers[usize::from(server)].data = Data::default(),
            Action::Delete { server } => self.servers[usize::from(server)].data.books = None,
            Action::Reboot { stale } => {
                let data = if stale { copy.unwrap_or_default() } else { self.servers[0].data.clone() };
                self.servers[0] = Server { run: fence, role: fence, data };
            }
            Action::FailOver { stale } => {
                let data = if stale { copy.unwrap_or_default() } else { self.servers[0].data.clone() };
                self.servers.push(Server { run: fence, role: fence, data });
            }
            Action::FailBack => {
                // The process is the one that it was; its role is a new one.
                self.servers[0] = Server { run: self.servers[0].run, role: fence, data: self.servers.pop()?.data };
                self.nodes.iter_mut().for_each(|node| node.server = 0);
            }
            _ => return None,
        }
        self.has_gained |= self.spendable(protocol) > before;
        if self.left.losses + self.left.failovers == 0 {
            self.copy = None;
        }
        Some(())
    }
}

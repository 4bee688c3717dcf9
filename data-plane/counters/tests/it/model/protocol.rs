//! The protocol as a model: its bounds, its first state, its steps and promises.

use super::bugs::{Bug, Rules};
use super::check::Model;
use super::ledger::{BootRow, Ledger};
use super::promises;
use super::step::{self, Action};
use super::store::{Data, Server};
use super::world::{Budget, Life, Node, RequestId, Units, World};

/// The protocol and the bounds within which it is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub rules: Rules,
    pub cap: Units,
    /// What a request may need.
    pub amounts: &'static [Units],
    /// Most requests.
    pub requests: RequestId,
    /// Most lives.
    pub lives: Life,
    /// Most messages under way that nobody waits for.
    pub strays: usize,
    pub budget: Budget,
    /// Questions to stores are under way for a while even when they are answered.
    pub slow_asks: bool,
    /// The ledger grants all that it has, not only what is needed.
    pub is_greedy: bool,
    /// A node joins a life before it asks for grants.
    pub joins_first: bool,
    /// When all is quiet, boots have ended as well.
    pub boots_end: bool,
    /// Records wait in the spool; otherwise they are chained as soon as they are written, which makes fewer states.
    pub ships_late: bool,
}

impl Protocol {
    /// The smallest bounds within which anything can happen: a cap of 3, two requests of 2, two lives and no fault.
    pub const SMALL: Self = Self {
        rules: Rules::ALL,
        cap: 3,
        amounts: &[2],
        requests: 2,
        lives: 2,
        strays: 1,
        budget: Budget::NOTHING,
        slow_asks: false,
        is_greedy: false,
        joins_first: false,
        boots_end: true,
        ships_late: false,
    };

    /// These bounds, with such faults.
    pub const fn with(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// This protocol, with one rule left out.
    pub const fn without(self, bug: Bug) -> Self {
        Self { rules: Rules::without(bug), ..self }
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn initial(&self) -> World {
        World {
            ledger: Ledger { cap: self.cap, epochs: Vec::new(), boots: vec![BootRow::default(), BootRow::default()] },
            servers: vec![Server { run: 0, role: 0, data: Data::default() }],
            copy: None,
            nodes: vec![Node::new(0), Node::new(1)],
            net: Vec::new(),
            spent: 0,
            has_gained: false,
            left: self.budget,
            lives: 0,
            requests: 0,
            fences: 0,
        }
    }

    fn actions(&self, state: &World, into: &mut Vec<Action>) {
        step::actions(self, state, into);
    }

    fn next(&self, state: &World, action: Action) -> Option<World> {
        step::next(self, state, action)
    }

    fn broken(&self, state: &World) -> Option<&'static str> {
        promises::broken(self, state)
    }

    fn sights(&self, state: &World) -> u32 {
        promises::sights(self, state)
    }
}

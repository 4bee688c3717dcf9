//! The steps: what an actor or the surroundings may do next, listed and done.

use super::node::Ending;
use super::protocol::Protocol;
use super::world::{Call, Power, Units, World};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A request of so many units arrives at a node, which asks its store.
    Ask { node: u8, amount: Units, late: bool },
    /// The node asks again, with the same reservation id.
    AskAgain { node: u8, late: bool },
    /// The node refuses the request.
    Refuse { node: u8 },
    /// A dispatched request ends; the store hears of it now, or later.
    Finish { node: u8, at: u8, cost: Units, later: bool },
    /// A message arrives; with `again` a copy of it stays under way.
    Deliver { at: u8, again: bool },
    /// The node stops waiting. What it waited for is lost, or arrives `later`.
    GiveUp { node: u8, later: bool },
    /// The node gives back what its store does not need.
    GiveBack { node: u8 },
    /// The node vacates a life that holds charges nobody proved.
    Heal { node: u8 },
    /// The node will not spend any more under one of its memberships.
    Retire { node: u8, at: u8 },
    /// The node tells the ledger so.
    Leave { node: u8, at: u8, later: bool },
    /// The node ships its oldest record, of an earlier boot if it has one.
    Ship { node: u8 },
    /// The node closes its oldest earlier boot.
    CloseBoot { node: u8, later: bool },
    /// The node turns to another store.
    Connect { node: u8, server: u8 },
    /// The node stops in the middle of everything.
    Crash { node: u8 },
    /// It starts again, under a new boot id.
    Start { node: u8 },
    /// It stops and never comes back.
    Vanish { node: u8 },
    /// An open reservation expires.
    Expire { server: u8, at: u8 },
    /// All data of a store is gone.
    Flush { server: u8 },
    /// The key's books are deleted, and nothing else.
    Delete { server: u8 },
    /// Disk and replica catch up with the first store.
    Copy,
    /// The first store starts again: with all its data, or with what the disk had.
    Reboot { stale: bool },
    /// A replica becomes the primary: with all the data, or with what it had. The old one lives on.
    FailOver { stale: bool },
    /// The old primary becomes a replica of the new one, takes its data, and is made the primary again.
    FailBack,
}

/// Lists what may happen in `world`; some of it may prove impossible.
pub fn actions(protocol: &Protocol, world: &World, into: &mut Vec<Action>) {
    for (node, number) in world.nodes.iter().zip(0_u8..) {
        match node.power {
            Power::On => of_node(protocol, world, number, into),
            Power::Off => into.push(Action::Start { node: number }),
            Power::Gone => {}
        }
    }
    for (at, _) in (0_u8..).zip(&world.net) {
        into.push(Action::Deliver { at, again: false });
        if world.left.repeats > 0 {
            into.push(Action::Deliver { at, again: true });
        }
    }
    of_servers(world, into);
}

fn of_node(protocol: &Protocol, world: &World, number: u8, into: &mut Vec<Action>) {
    let node = &world.nodes[usize::from(number)];
    match node.call {
        Call::Idle => {
            if world.requests < protocol.requests {
                let asks = protocol.amounts.iter().flat_map(|amount| [false, true].map(|late| (*amount, late)));
                into.extend(asks.map(|(amount, late)| Action::Ask { node: number, amount, late }));
            }
            into.push(Action::Heal { node: number });
            if world.left.give_backs > 0 {
                into.push(Action::GiveBack { node: number });
            }
        }
        Call::Ask { waits: false, .. } => {
            into.extend([false, true].map(|late| Action::AskAgain { node: number, late }));
            into.push(Action::Refuse { node: number });
        }
        Call::Ask { waits: true, .. } | Call::GiveBack if world.left.timeouts > 0 => {
            into.extend([false, true].map(|later| Action::GiveUp { node: number, later }));
        }
        Call::Ask { .. } | Call::GiveBack => {}
    }
    for (at, running) in (0_u8..).zip(&node.running) {
        for cost in [0, running.amount] {
            into.extend([false, true].map(|later| Action::Finish { node: number, at, cost, later }));
        }
    }
    if world.left.retirements > 0 {
        into.extend((0_u8..).zip(&node.memberships).map(|(at, _)| Action::Retire { node: number, at }));
    }
    for (at, _) in (0_u8..).zip(&node.leaving) {
        into.extend([false, true].map(|later| Action::Leave { node: number, at, later }));
    }
    if protocol.ships_late {
        into.push(Action::Ship { node: number });
    }
    if !node.past.is_empty() {
        into.extend([false, true].map(|later| Action::CloseBoot { node: number, later }));
    }
    if world.servers.len() > 1 && world.left.turns > 0 {
        into.push(Action::Connect { node: number, server: 1 - node.server });
    }
    if world.left.crashes > 0 {
        into.push(Action::Crash { node: number });
    }
    if world.left.lost_nodes > 0 {
        into.push(Action::Vanish { node: number });
    }
}

fn of_servers(world: &World, into: &mut Vec<Action>) {
    for (server, number) in world.servers.iter().zip(0_u8..) {
        if world.left.expiries > 0 {
            into.extend((0_u8..).zip(&server.data.open).map(|(at, _)| Action::Expire { server: number, at }));
        }
        if world.left.losses > 0 {
            into.extend([Action::Flush { server: number }, Action::Delete { server: number }]);
        }
    }
    if world.copy.is_none() && world.left.losses + world.left.failovers > 0 {
        into.push(Action::Copy);
    }
    if world.left.losses > 0 {
        into.extend([false, true].map(|stale| Action::Reboot { stale }));
    }
    if world.left.failovers > 0 {
        match world.servers.len() {
            1 => into.extend([false, true].map(|stale| Action::FailOver { stale })),
            _ => into.push(Action::FailBack),
        }
    }
}

/// Does a step; `None` when it is impossible or changes nothing.
pub fn next(protocol: &Protocol, world: &World, action: Action) -> Option<World> {
    let mut next = world.clone();
    let done = match action {
        Action::Ask { node, amount, late } => next.ask(protocol, node, amount, late),
        Action::AskAgain { node, late } => next.send_reserve(protocol, node, late),
        Action::Refuse { node } => next.refuse(node),
        Action::Finish { node, at, cost, later } => next.finish(protocol, node, at, Ending { cost, later }),
        Action::Deliver { at, again } => next.deliver(protocol, at, again),
        Action::GiveUp { node, later } => next.give_up(protocol, node, later),
        Action::GiveBack { node } => next.begin_give_back(protocol, node),
        Action::Heal { node } => next.heal(protocol, node),
        Action::Retire { node, at } => next.retire(node, at),
        Action::Leave { node, at, later } => next.leave(protocol, node, at, later),
        Action::Ship { node } => next.ship(node),
        Action::CloseBoot { node, later } => next.close_boot(protocol, node, later),
        Action::Connect { node, server } => next.connect(node, server),
        Action::Crash { node } => next.crash(protocol, node),
        Action::Start { node } => next.start(protocol, node),
        Action::Vanish { node } => next.vanish(protocol, node),
        Action::Expire { server, at } => next.expire(protocol, server, at),
        Action::Flush { .. }
        | Action::Delete { .. }
        | Action::Reboot { .. }
        | Action::FailOver { .. }
        | Action::FailBack => next.lose(protocol, action),
        Action::Copy => next.copy(),
    };
    done?;
    next.normalise(protocol.rules);
    Some(next)
}

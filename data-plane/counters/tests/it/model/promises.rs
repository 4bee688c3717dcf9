//! What must hold in every state. Amounts are compared with what really happened, which no actor of the model sees.

use super::protocol::Protocol;
use super::world::{Power, World};

/// Whether a promise holds in a world.
type Promise = fn(&Protocol, &World) -> bool;

/// The first promise that `world` breaks.
pub fn broken(protocol: &Protocol, world: &World) -> Option<&'static str> {
    let promises: [(&'static str, Promise); 7] = [
        ("I-1: what is dispatched and what is settled stay within the cap", i_1),
        ("I-2: books never fall below zero nor rise above their ceiling", i_2),
        ("I-4: settled in closed epochs and granted in open ones stay within the cap", i_4),
        ("I-6: a loss never raises what can be spent", i_6),
        ("I-6: what was spent and what can be spent stay within the cap", i_6_always),
        ("I-7: a node spends only under an open epoch that it is a member of", i_7),
        ("I-9: once all is quiet, everything unspent can be granted again", i_9),
    ];
    promises.into_iter().find(|(_, holds)| !holds(protocol, world)).map(|(promise, _)| promise)
}

fn i_1(_: &Protocol, world: &World) -> bool {
    world.spent <= world.ledger.cap
}

fn i_2(protocol: &Protocol, world: &World) -> bool {
    world.servers.iter().all(|server| {
        server.books(protocol.rules).is_none_or(|books| {
            let open: i8 = server.data.open.iter().map(|hold| hold.amount).sum();
            books.used >= 0 && books.held >= 0 && books.used + books.held <= books.ceiling && books.held == open
        })
    })
}

fn i_4(_: &Protocol, world: &World) -> bool {
    world.ledger.ungranted() >= 0
}

fn i_6(_: &Protocol, world: &World) -> bool {
    !world.has_gained
}

fn i_6_always(protocol: &Protocol, world: &World) -> bool {
    world.spent + world.spendable(protocol) <= world.ledger.cap
}

fn i_7(_: &Protocol, world: &World) -> bool {
    world.nodes.iter().all(|node| {
        node.running.iter().all(|running| {
            let epoch = world.ledger.epoch(running.epoch);
            epoch.is_some_and(|epoch| epoch.open && epoch.members.iter().any(|(boot, _)| *boot == node.boot))
        })
    })
}

/// Lets everything come to rest: what is under way is lost, requests end at no cost, records are shipped, memberships are left, boots end. Then the
/// ledger must know what was spent, to the unit, and be free to grant the rest; but for what it wrote off for nodes that never came back.
fn i_9(protocol: &Protocol, world: &World) -> bool {
    let mut world = world.clone();
    world.net.clear();
    for number in 0..2 {
        rest(protocol, &mut world, number);
    }
    let ungranted = world.ledger.ungranted();
    let settled: i8 = world.ledger.epochs.iter().map(|epoch| epoch.settled).sum();
    if world.nodes.iter().any(|node| node.power == Power::Gone) {
        return ungranted >= 0 && settled <= world.spent;
    }
    ungranted == world.ledger.cap - world.spent && settled == world.spent
}

fn rest(protocol: &Protocol, world: &mut World, number: u8) {
    let node = world.node(number);
    if node.power == Power::Gone {
        return;
    }
    let mut refunded = 0;
    for running in std::mem::take(&mut node.running) {
        node.spool.record(running.epoch, 0);
        refunded += running.amount;
    }
    world.spent -= refunded;
    while world.ship(number).is_some() {}
    let node = world.node(number).clone();
    let held = node.memberships.iter().map(|held| (held.epoch, held.serial)).chain(node.leaving);
    for (epoch, serial) in held {
        world.ledger.leave(protocol.rules, node.boot, node.spool.written, epoch, serial);
    }
    let ended = (protocol.boots_end || node.power == Power::Off).then_some((node.boot, node.spool));
    for (boot, spool) in node.past.into_iter().chain(ended) {
        world.ledger.close_boot(protocol.rules, boot, spool.written);
    }
}

/// What a model of this protocol must reach, or it proves nothing. One bit each.
pub mod sight {
    /// The whole cap is spent.
    pub const ALL_SPENT: u32 = 1;
    /// Two lives are spent under at once.
    pub const TWO_LIVES: u32 = 1 << 1;
    /// The whole cap is spent although a life has ended that had spent some of it.
    pub const REST_SPENT: u32 = 1 << 2;
    /// Two nodes are members of one epoch.
    pub const TWO_MEMBERS: u32 = 1 << 3;
    /// A grant of an earlier life is still under way.
    pub const OLD_GRANT: u32 = 1 << 4;
    /// A reservation has expired.
    pub const ORPHAN: u32 = 1 << 5;
    /// A node is gone that had dispatched something.
    pub const BURNT: u32 = 1 << 6;
    /// Two nodes spend from two servers.
    pub const TWO_SERVERS: u32 = 1 << 7;
    /// The ledger took back grants of a life that lives on.
    pub const TAKEN_BACK: u32 = 1 << 8;
}

/// Which of them are seen in `world`.
pub fn sights(protocol: &Protocol, world: &World) -> u32 {
    use super::messages::Body;
    let ledger = &world.ledger;
    let running = || world.nodes.iter().flat_map(|node| &node.running);
    let lives: Vec<_> =
        world.servers.iter().filter_map(|server| server.books(protocol.rules)).map(|books| books.life).collect();
    let is_full = world.spent == ledger.cap;
    let has_ended = ledger.epochs.iter().any(|epoch| !epoch.open && epoch.settled > 0);
    let servers: Vec<_> = world.nodes.iter().filter(|node| !node.running.is_empty()).map(|node| node.server).collect();
    let is_old = |life: &u8| !lives.contains(life);
    let seen = [
        (is_full, sight::ALL_SPENT),
        (running().any(|one| running().any(|other| one.epoch != other.epoch)), sight::TWO_LIVES),
        (is_full && has_ended, sight::REST_SPENT),
        (ledger.epochs.iter().any(|epoch| epoch.members.len() > 1), sight::TWO_MEMBERS),
        (
            world.net.iter().any(|message| matches!(&message.body, Body::Grant { life, .. } if is_old(life))),
            sight::OLD_GRANT,
        ),
        (world.servers.iter().any(|server| !server.data.orphans.is_empty()), sight::ORPHAN),
        (world.spent > 0 && world.nodes.iter().any(|node| node.power == Power::Gone), sight::BURNT),
        (servers.contains(&0) && servers.contains(&1), sight::TWO_SERVERS),
        (
            world.servers.iter().any(|server| {
                server.books(protocol.rules).is_some_and(|books| {
                    let epoch = ledger.epoch(books.epoch);
                    books.floor > 0
                        && epoch.is_some_and(|epoch| epoch.open && epoch.serial > books.floor && epoch.granted == 0)
                })
            }),
            sight::TAKEN_BACK,
        ),
    ];
    seen.into_iter().filter(|(is_seen, _)| *is_seen).fold(0, |all, (_, bit)| all | bit)
}

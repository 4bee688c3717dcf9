//! What can happen between nodes, stores and the ledger, and how often each of it does.

use proptest::prelude::*;

use crate::escrow_world::{KEYS, NODES};

#[derive(Clone, Debug)]
pub enum Step {
    /// What a node asks; the answer reaches the store at once, later (after up to that many others), or never.
    Acquire {
        node: usize,
        key: usize,
        amount: u64,
        fate: Fate,
    },
    Join {
        node: usize,
        key: usize,
    },
    Reserve {
        node: usize,
        key: usize,
        bound: u64,
    },
    Settle {
        node: usize,
        at: usize,
        share: u64,
    },
    Ship {
        node: usize,
        again: u64,
    },
    /// Asks the ledger for the newest that the store knows, and gives back the rest, in time or late.
    ClawBack {
        node: usize,
        key: usize,
        fate: Fate,
    },
    Leave {
        node: usize,
        key: usize,
        fate: Fate,
    },
    /// Something that was under way arrives, once or twice.
    Deliver {
        at: usize,
        again: bool,
    },
    LoseBooks {
        store: usize,
        key: usize,
    },
    Crash {
        node: usize,
        records_lost: bool,
    },
    TeamLimit {
        share: u64,
    },
    /// The workspace gets a limit over its whole life.
    TeamTotal,
    Wait {
        minutes: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Now,
    Later,
    Never,
}

pub fn step() -> impl Strategy<Value = Step> {
    let (node, key) = (0..NODES, 0..KEYS);
    let fate = prop_oneof![6 => Just(Fate::Now), 2 => Just(Fate::Later), 1 => Just(Fate::Never)];
    let late = prop_oneof![1 => Just(Fate::Now), 2 => Just(Fate::Later)];
    let one = (node.clone(), key.clone());
    prop_oneof![
        8 => (one.clone(), 1u64..900, fate.clone())
            .prop_map(|((node, key), amount, fate)| Step::Acquire { node, key, amount, fate }),
        2 => one.clone().prop_map(|(node, key)| Step::Join { node, key }),
        14 => (one.clone(), 0u64..700).prop_map(|((node, key), bound)| Step::Reserve { node, key, bound }),
        10 => (node.clone(), any::<usize>(), 0u64..=100).prop_map(|(node, at, share)| Step::Settle { node, at, share }),
        6 => (node.clone(), 0u64..5).prop_map(|(node, again)| Step::Ship { node, again }),
        4 => (one.clone(), fate.clone()).prop_map(|((node, key), fate)| Step::ClawBack { node, key, fate }),
        6 => (one, late).prop_map(|((node, key), fate)| Step::Leave { node, key, fate }),
        6 => (any::<usize>(), any::<bool>()).prop_map(|(at, again)| Step::Deliver { at, again }),
        1 => (0usize..2, key).prop_map(|(store, key)| Step::LoseBooks { store, key }),
        1 => (node, prop::bool::weighted(0.2)).prop_map(|(node, records_lost)| Step::Crash { node, records_lost }),
        1 => (30u64..=100).prop_map(|share| Step::TeamLimit { share }),
        1 => Just(Step::TeamTotal),
        1 => (1u64..900).prop_map(|minutes| Step::Wait { minutes }),
    ]
}

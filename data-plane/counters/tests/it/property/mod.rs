//! Random histories of nodes that share a store, judged from outside of it.
//!
//! Kept beside the store: the *truth* (what each attempt that may have been dispatched cost, or can cost at most, over all lives), a small *ledger*,
//! and a *mirror* that derives the books from the list of reservations each time. Answers get lost, calls come twice and late, nodes crash, clocks
//! jump, servers restart, forget, and come back with old data.
//!
//! `KEYFORGE_SEEDS=5000` looks at so many histories, `KEYFORGE_SEED=17` at that one alone.

mod ledger;
mod mirror;
mod subject;
mod world;

use self::subject::{MemorySubject, ScriptSubject, Subject};
pub use self::world::Rules;
use self::world::{World, keys};
use crate::random::{Random, seeds};
use crate::scripts::{Scripts, Sources};

/// How many steps each seed takes before everything is settled.
const STEPS: usize = 300;

async fn history<S: Subject>(subject: S, seed: u64, rules: Rules) -> Result<usize, String> {
    let mut world = World::new(subject, Random::seeded(seed), rules);
    for step in 0..STEPS {
        world.step().await.map_err(|violation| format!("seed {seed}, step {step}: {violation}"))?;
    }
    world.drain().await.map_err(|violation| format!("seed {seed}, at the end: {violation}"))?;
    Ok(world.attempts.len())
}

/// One history on the scripts; an error says which invariant was broken.
pub async fn run(scripts: &Scripts, seed: u64, rules: Rules) -> Result<usize, String> {
    history(ScriptSubject::new(scripts), seed, rules).await
}

#[tokio::test]
async fn i_1_i_2_i_5_i_6_i_8_i_9_i_10_i_11_hold_for_the_scripts() {
    let scripts = Scripts::start(&Sources::read());
    let mut attempts = 0;
    for seed in seeds(100) {
        attempts += run(&scripts, seed, Rules::KEPT).await.unwrap_or_else(|violation| panic!("{violation}"));
    }
    println!("{} steps, {attempts} attempts", seeds(100).count() * STEPS);
}

#[tokio::test]
async fn i_1_i_2_i_5_i_6_i_8_i_9_i_10_i_11_hold_for_the_in_process_store() {
    let mut attempts = 0;
    for seed in seeds(300) {
        let history = history(MemorySubject::new(&keys()), seed, Rules::KEPT).await;
        attempts += history.unwrap_or_else(|violation| panic!("{violation}"));
    }
    println!("{} steps, {attempts} attempts", seeds(300).count() * STEPS);
}

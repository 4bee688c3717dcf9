//! Whether anybody would notice: scripts and nodes with one mistake each, and the tests that must find it.
//!
//! A mistake is a change of a text in one script, or a rule that nodes and the ledger break. The differential test and the property test look for
//! each on their own; it is caught when one of them fails. `data-plane/counters/mutants` runs this and prints who caught what.

mod list;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::runtime::{Builder, Runtime};

use self::list::{BROKEN_RULES, MISTAKES, Mistake};
use crate::differential;
use crate::property::{self, Rules};
use crate::random::seeds;
use crate::scripts::{Scripts, Sources};

/// How many seeds each test gets to find a mistake.
const SEEDS: u64 = 60;

/// The first seed whose history shows a mistake, and how. An answer that cannot be read shows one too.
fn found_by(history: impl Fn(u64) -> Result<(), String>) -> Option<String> {
    for seed in seeds(SEEDS) {
        let told = match catch_unwind(AssertUnwindSafe(|| history(seed))) {
            Ok(Ok(())) => continue,
            Ok(Err(difference)) => difference,
            Err(_) => format!("seed {seed}: an answer that cannot be read"),
        };
        return Some(told.lines().next().unwrap_or_default().chars().take(150).collect());
    }
    None
}

fn by_histories(runtime: &Runtime, scripts: &Scripts, rules: Rules) -> Option<String> {
    found_by(|seed| runtime.block_on(property::run(scripts, seed, rules)).map(drop))
}

fn by_comparison(runtime: &Runtime, scripts: &Scripts) -> Option<String> {
    found_by(|seed| runtime.block_on(differential::run(scripts, seed)).map(drop))
}

fn with_mistake(mistake: &Mistake) -> Sources {
    let mut sources = Sources::read();
    sources.mutate(mistake.script, mistake.right, mistake.wrong);
    sources
}

/// Prints who found a mistake; answers whether anybody did.
fn tell(name: &str, found: &[(&str, Option<String>)]) -> bool {
    println!("{name}");
    for (test, found) in found {
        println!("  {test}: {}", found.as_deref().unwrap_or("not found"));
    }
    found.iter().any(|(_, found)| found.is_some())
}

/// What the names of the mutants to look at contain.
#[expect(clippy::disallowed_methods, reason = "how much to test is no configuration")]
fn words() -> String {
    std::env::var("KEYFORGE_MUTANT").unwrap_or_default()
}

/// How many were looked at, and the names of those that nobody found.
fn survivors() -> (usize, Vec<&'static str>) {
    let words = words();
    let mistakes: Vec<_> = MISTAKES.iter().filter(|mistake| mistake.name.contains(&words)).collect();
    let broken_rules: Vec<_> = BROKEN_RULES.iter().filter(|(name, _)| name.contains(&words)).collect();
    let all = mistakes.len() + broken_rules.len();
    let runtime = Builder::new_current_thread().build().unwrap();
    let mut survivors = Vec::new();
    for mistake in mistakes {
        let scripts = Scripts::start(&with_mistake(mistake));
        let history = by_histories(&runtime, &scripts, Rules::KEPT);
        let comparison = by_comparison(&runtime, &scripts);
        if !tell(mistake.name, &[("property", history), ("differential", comparison)]) {
            survivors.push(mistake.name);
        }
    }
    let scripts = Scripts::start(&Sources::read());
    for (name, rules) in broken_rules {
        if !tell(name, &[("property", by_histories(&runtime, &scripts, *rules))]) {
            survivors.push(name);
        }
    }
    (all, survivors)
}

#[test]
fn every_mistake_is_a_change_of_a_script() {
    let mut names = std::collections::BTreeSet::new();
    for mistake in MISTAKES {
        with_mistake(mistake);
        assert!(names.insert(mistake.name), "{} is named twice", mistake.name);
    }
}

#[test]
#[ignore = "takes minutes: run data-plane/counters/mutants"]
fn every_mistake_is_found() {
    let (all, survivors) = survivors();
    println!("{all} mutants, {} survive", survivors.len());
    assert!(all > 0, "no mutant has such a name");
    assert!(survivors.is_empty(), "nobody noticed: {survivors:#?}");
}

//! The checker: visits every state that a model can reach, breadth first, and stops at the first one that breaks a promise.
//!
//! Breadth first makes the trace that it prints the shortest one. Of a visited state it keeps 128 bits of SHA-256 and how it was reached, so that
//! millions fit into memory; two states that share those bits would be taken for one, which no one will live to see.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use sha2::{Digest, Sha256};

/// Something with states and steps between them.
pub trait Model {
    /// Everything that can differ between two moments.
    type State: Clone + Debug + Hash;
    /// One step.
    type Action: Copy + Debug;

    /// The first moment.
    fn initial(&self) -> Self::State;
    /// Every step that may be possible in `state`.
    fn actions(&self, state: &Self::State, into: &mut Vec<Self::Action>);
    /// The state after a step; `None` when it is impossible or changes nothing.
    fn next(&self, state: &Self::State, action: Self::Action) -> Option<Self::State>;
    /// The promise that `state` breaks.
    fn broken(&self, state: &Self::State) -> Option<&'static str>;
    /// What happens in `state` that a model worth its name must reach, as bits.
    fn sights(&self, state: &Self::State) -> u32;
}

/// What a search found.
#[derive(Debug)]
pub struct Search<M: Model> {
    /// How many different states were visited.
    pub states: usize,
    /// How many steps the farthest of them is from the first.
    pub depth: usize,
    /// The union of all [`Model::sights`].
    pub sights: u32,
    /// The first broken promise. Without one every reachable state was visited.
    pub violation: Option<Violation<M>>,
}

/// A broken promise and the shortest way to it.
#[derive(Debug)]
pub struct Violation<M: Model> {
    /// Which promise.
    pub promise: &'static str,
    /// The steps.
    pub trace: Vec<M::Action>,
    /// Where they lead.
    pub state: M::State,
}

/// A state as the checker remembers it.
struct Visit {
    before: u32,
    action: u16,
    depth: u16,
}

/// Visits every reachable state of `model`, at most `most` of them.
///
/// # Errors
/// The number of states visited when there are more than `most`: the search is then no proof.
pub fn search<M: Model>(model: &M, most: usize) -> Result<Search<M>, usize> {
    let mut seen: HashMap<u128, (), BuildHasherDefault<Folded>> = HashMap::default();
    let mut visits: Vec<Visit> = vec![Visit { before: 0, action: 0, depth: 0 }];
    let mut frontier = VecDeque::from([(0_u32, model.initial())]);
    let (mut bytes, mut actions, mut sights, mut depth) = (Bytes::default(), Vec::new(), 0, 0);
    seen.insert(bytes.fingerprint(&model.initial()), ());
    while let Some((at, state)) = frontier.pop_front() {
        sights |= model.sights(&state);
        depth = visits[at as usize].depth;
        if let Some(promise) = model.broken(&state) {
            let violation = Some(Violation { promise, trace: trace(model, &visits, at), state });
            return Ok(Search { states: visits.len(), depth: depth.into(), sights, violation });
        }
        actions.clear();
        model.actions(&state, &mut actions);
        for (number, action) in actions.iter().enumerate() {
            let Some(next) = model.next(&state, *action) else { continue };
            if seen.insert(bytes.fingerprint(&next), ()).is_none() {
                if visits.len() == most {
                    return Err(most);
                }
                let id = u32::try_from(visits.len()).map_err(|_| most)?;
                visits.push(Visit { before: at, action: u16::try_from(number).map_err(|_| most)?, depth: depth + 1 });
                frontier.push_back((id, next));
            }
        }
    }
    Ok(Search { states: visits.len(), depth: depth.into(), sights, violation: None })
}

/// The steps to a visited state, found by walking back and then doing them again.
fn trace<M: Model>(model: &M, visits: &[Visit], mut at: u32) -> Vec<M::Action> {
    let mut numbers = Vec::new();
    while at != 0 {
        let visit = &visits[at as usize];
        numbers.push(visit.action);
        at = visit.before;
    }
    let (mut state, mut steps, mut actions) = (model.initial(), Vec::new(), Vec::new());
    for number in numbers.into_iter().rev() {
        actions.clear();
        model.actions(&state, &mut actions);
        let action = actions[usize::from(number)];
        steps.push(action);
        state = model.next(&state, action).unwrap_or(state);
    }
    steps
}

/// Collects what a state says of itself.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn fingerprint(&mut self, state: &impl Hash) -> u128 {
        self.0.clear();
        state.hash(self);
        let digest = Sha256::digest(&self.0);
        digest.iter().take(16).fold(0, |sum, byte| (sum << 8) | u128::from(*byte))
    }
}

impl Hasher for Bytes {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_usize(&mut self, number: usize) {
        // Lengths and variants: all far below 255.
        self.0.push(number.to_le_bytes()[0]);
    }

    fn write_isize(&mut self, number: isize) {
        self.0.push(number.to_le_bytes()[0]);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// A fingerprint is its own hash.
#[derive(Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (at % 8));
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = (number >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

//! An exhaustive model of how limits hold across ledger, stores and nodes.
//!
//! One key with one limit (the *cap*). The **ledger** writes slices of it off for *lives* of the key's books; a life that it knows is an *epoch*. A
//! **store** keeps the books: it may lose them, come back with old ones, or be two servers at once. **Nodes** join an epoch, ask the store whether a
//! request may be dispatched, record what it cost, and leave. Between all of them is a network that loses, delays, reorders and repeats.
//!
//! The model does to tiny numbers (a cap of 3 or 4, two nodes, two or three requests, one or two faults) everything that can be done, in every order,
//! and looks after each step whether the promises hold. Nothing is sampled: a search that ends without a violation has seen every reachable state.
//! Ground truth, what was really dispatched, is kept outside of all actors.
//!
//! * the actors: `ledger`, `store`, `node`; what travels: `messages`, `deliver`; what goes wrong: `faults`
//! * `world` is one moment, `step` lists what may happen next, `protocol` sets the bounds, `check` visits everything
//! * `promises` says what must hold; `proofs` shows that it does; `mutants` leaves out one rule at a time (`bugs`) and shows that the checker notices
//!
//! What is simplified. A key has one counter (that a claw-back voids older answers about *other* counters is seen by way of joins, whose answers have
//! a serial and no grant). Records reach the ledger in order and once, as the courier and the watermark make sure. A server answers a question at the
//! moment it decides it; a lost answer is a question that nobody waits for. A crash charges what was under way in full. Where a server's data
//! cannot be used any more because its fence has changed, the model forgets it, unless the mutant at hand would use it.

mod bugs;
mod check;
mod deliver;
mod faults;
mod ledger;
mod messages;
mod mutants;
mod node;
mod promises;
mod proofs;
mod protocol;
mod step;
mod store;
mod world;

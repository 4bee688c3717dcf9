//! KeyForge's vocabulary: what both planes, the command line and the tests must agree on.
//!
//! Everything here is pure: no sockets, no database, no runtime. In reading order:
//!
//! * [`id`], [`identity`], [`name`], [`token`], [`secret`], [`clock`]: ids, names in certificates, names that people give, virtual key tokens, secrets, time
//! * [`money`], [`usage`], [`catalog`]: nano-dollars, token counts, what a model costs
//! * [`period`], [`network`], [`endpoint`], [`policy`], [`plan`], [`limit`]: what a key and a workspace may do, and the counters that a request touches
//! * [`admission`], [`exhausted`]: whether a key may make a request at all, and a limit that does not cover it
//! * [`role`]: what an operator may do
//! * [`state`]: the replicated machine that the control plane publishes and every node runs
//! * [`seal`], [`fleet_seal`]: authenticated encryption of secrets, at rest and on their way to a node
//! * [`state_seal`], [`row_seal`]: the seals of the replicated state, and of rows beside it, where they are stored
//! * [`audit`]: the entry encoding and the per-key HMAC chain

pub mod admission;
pub mod audit;
pub mod catalog;
pub mod clock;
pub mod endpoint;
pub mod exhausted;
pub mod fleet_seal;
pub mod id;
pub mod identity;
mod key_derivation;
pub mod limit;
pub mod money;
pub mod name;
pub mod network;
pub mod period;
pub mod plan;
pub mod policy;
pub mod provider;
pub mod random;
pub mod role;
pub mod row_seal;
pub mod seal;
pub mod secret;
pub mod state;
pub mod state_seal;
pub mod token;
pub mod usage;

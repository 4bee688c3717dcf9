//! The replicated state on its way to the nodes.
//!
//! * [`hub`]: the state itself, the last deltas, and a bounded queue per subscriber
//! * [`session`]: one node's stream, from its hello to its end
//! * [`secrets`]: credentials' secrets, sealed for one boot
//! * [`fleet`]: which nodes there are and how far they are; [`fleet_token`]: what they prove themselves with
//! * [`standings`]: how they find the credentials

pub mod fleet;
pub mod fleet_token;
pub mod hub;
pub mod secrets;
pub mod session;
pub mod standings;

//! The replicated state on its way to the nodes.
//!
//! * [`hub`]: the state itself and the last deltas; [`queues`]: a bounded one for each who gets them
//! * [`encoded`]: a snapshot on its way, encoded once for all
//! * [`session`]: one node's state stream, from its hello to its end; [`watch`]: its stream of orders, which nothing holds up
//! * [`progress`]: who has done what a revision says; [`responder`]: tells other control planes of it, by lives ([`told`])
//! * [`secrets`]: credentials' secrets, sealed for one boot
//! * [`fleet`]: which nodes there are and how far they are; [`lives`]: each of them by its starts; [`fleet_token`]: what they prove themselves with
//! * [`credential_reports`]: how the nodes find the credentials; [`horizon`]: how much of what others commit is known here

pub mod credential_reports;
pub mod encoded;
pub mod fleet;
pub mod fleet_token;
pub mod horizon;
pub mod hub;
pub mod lives;
pub mod progress;
pub mod queues;
pub mod responder;
pub mod secrets;
pub mod session;
pub mod told;
pub mod watch;

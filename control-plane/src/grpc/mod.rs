//! The gRPC services: each decodes, calls, and encodes; no rule of the product lives here.

pub mod audit;
pub mod brief;
pub mod credentials;
pub mod grants;
pub mod guarded;
mod head;
pub mod health;
mod ids;
mod in_flight;
pub mod intake;
pub mod keys;
pub mod models;
pub mod node_gate;
pub mod nodes;
pub mod operator_gate;
pub mod operators;
mod recorded;
pub mod state;
mod status;
mod timed;
pub mod usage;
pub mod vault;
pub mod workspaces;

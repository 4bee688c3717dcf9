//! The node's audit spool: every admitted attempt is written down before it is dispatched and again when it ended.
//!
//! - [`spool`]: what the request path calls. One `write(2)` per call under a short lock; never a wait for the disk.
//! - [`ship`]: sends the records on, in order and at least once, and lets the disk space go once they are chained.
//! - [`mod@recover`]: what earlier lives of the node left behind is settled, shipped and closed in the background, and what they held in a
//!   counter store outside of the process is let go there.
//! - [`sink`]: where records go; [`grpc`] is the control plane, [`memory`] a stand-in for tests.
//!
//! A file, once named, survives `kill -9` up to its last whole frame. No secret ever enters it: an [`Intent`] and a
//! request record have no field that could hold one.

mod courier;
mod frame;
pub mod grpc;
mod holds;
mod intent;
mod journal;
mod leftover;
pub mod memory;
mod node_id;
mod questions;
mod read;
mod recent;
pub mod recover;
mod scan;
mod settle;
pub mod ship;
pub mod sink;
pub mod spool;
mod upkeep;

#[cfg(test)]
mod fixture;

pub use grpc::GrpcSink;
pub use intent::Intent;
pub use leftover::Leftover;
pub use memory::MemorySink;
pub use node_id::NodeIdentity;
pub use questions::Asked;
pub use recover::{Told, recover, tell_ahead};
pub use ship::Shipper;
pub use sink::{AuditSink, Begin, SinkError};
pub use spool::{Closing, Health, Marks, Spool, SpoolError, SpoolLimits, SpoolStatus};

use keyforge_shared::id::{BootId, DeploymentId, NodeId};

/// Whose records these are: stamped on every record by the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The installation.
    pub deployment: DeploymentId,
    /// The node, the same over restarts; see [`NodeIdentity`].
    pub node: NodeId,
    /// This life of its process; never used twice.
    pub boot: BootId,
}

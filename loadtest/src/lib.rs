//! The bench beside the product: a provider that does exactly what a script says, and a load generator that measures
//! what stands in front of it. Both speak HTTP on loopback only and depend on no other KeyForge crate, so their
//! figures and their bill are independent of anything the gateway believes.
//!
//! In reading order:
//! * [`provider`]: the scripted provider, its faults, its bill and its replay of recorded exchanges;
//! * [`load`]: closed loop, fixed rate, streams; latency histogram; CPU and memory of processes;
//! * [`compare`]: interleaved rounds over direct, nginx and KeyForge, and the table they make;
//! * [`shared_counters`]: what it costs to count in Redis instead of in a node's memory;
//! * [`postgres`]: real PostgreSQL servers for tests and measurements;
//! * [`cli`]: the commands of the binary.

pub mod cli;
pub mod compare;
pub mod load;
pub mod postgres;
pub mod provider;
pub mod shared_counters;

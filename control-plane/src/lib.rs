//! KeyForge's control plane: the one writer of keys, policies, credentials, money and audit chains.
//!
//! In reading order:
//!
//! * [`config`], [`app`]: a checked configuration becomes a running control plane
//! * [`store`]: SQL; one file per noun, and the only place that speaks it
//! * [`vault`]: envelope encryption of what must not be readable at rest; [`custody`]: its keys, how its secrets stand, rotation
//! * [`catalog`]: the models that are known without anyone adding them
//! * [`admin`]: every mutation: authorize, validate, commit, publish
//! * [`ledger`], [`audit`]: what may be spent, what was, and the chained proof of it
//! * [`nodes`]: who is a node, by which certificate, and until when
//! * [`publish`]: the replicated state on its way to the nodes; [`registry`]: who else does so from the same database;
//!   [`instance`]: which of them this process is
//! * [`grpc`]: decode, call, encode; `listeners`: in the clear for this host, over TLS for others

pub mod admin;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod config;
pub mod custody;
mod expiry;
pub mod grpc;
pub mod instance;
pub mod ledger;
mod listeners;
pub mod metrics;
pub mod nodes;
pub mod publish;
pub mod registry;
pub mod store;
pub mod vault;

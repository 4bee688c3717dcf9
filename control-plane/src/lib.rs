//! KeyForge's control plane: the one writer of keys, policies, credentials, money and audit chains.
//!
//! In reading order:
//!
//! * [`config`], [`app`]: a checked configuration becomes a running control plane
//! * [`store`]: SQL; one file per noun, and the only place that speaks it
//! * [`vault`]: envelope encryption of what must not be readable at rest
//! * [`catalog`]: the models that are known without anyone adding them
//! * [`admin`]: every mutation: authorize, validate, commit, publish
//! * [`ledger`], [`audit`]: what may be spent, what was, and the chained proof of it
//! * [`publish`]: the replicated state on its way to the nodes
//! * [`grpc`]: decode, call, encode

pub mod admin;
pub mod app;
pub mod audit;
pub mod catalog;
pub mod config;
pub mod grpc;
pub mod ledger;
mod metrics;
pub mod publish;
pub mod store;
pub mod vault;

//! KeyForge's data plane: the proxy between agents and providers.
//!
//! A node holds no truth: keys, policies and prices are streamed to it, money is granted to it, and what it did is shipped back. In reading order:
//!
//! * [`app`]: builds a node and takes it down; [`config`] is what it is told, [`plane`] what its requests share
//! * [`front`]: the agents' port: path → operation
//! * [`request`]: the life of one request, step by step
//! * [`rejection`]: the one closed list of refusals
//! * [`replica`]: the node's copy of keys, models and credentials
//! * [`grants`]: brings what reservations may spend from the [`ledger`] to the counter store, for the [`memberships`] of this node
//! * [`settlements`], [`leases`]: what the counter store is told afterwards, and meanwhile; [`rate_headers`] is what agents are told
//! * [`pool`], [`upstream`]: which credential, and the way to its provider
//! * [`audit`]: what happened, on disk and then to the control plane
//! * [`control`]: the connection to the control plane; [`identity`]: the certificate that it is made with
//! * [`metrics`]: every metric by its one name

pub mod app;
pub mod audit;
pub mod config;
pub mod control;
pub mod front;
pub mod grants;
pub mod identity;
pub mod leases;
pub mod ledger;
pub mod memberships;
pub mod metrics;
pub mod plane;
pub mod pool;
pub mod rate_headers;
pub mod rejection;
pub mod replica;
pub mod request;
pub mod settlements;
pub mod upstream;

#[cfg(test)]
mod fixture;

//! KeyForge's data plane: the proxy between agents and providers.
//!
//! A node holds no truth: keys, policies and prices are streamed to it, money is granted to it, and what it did is shipped back. In reading order:
//!
//! * [`app`]: builds a node and takes it down; [`config`] is what it is told, [`plane`] what its requests share
//! * [`front`]: the agents' port: path → operation
//! * [`request`]: the life of one request, step by step
//! * [`rejection`]: the one closed list of refusals
//! * [`replica`]: the node's copy of keys, models and credentials
//! * [`counters`]: reservations; [`grants`] brings what they may spend
//! * [`pool`], [`upstream`]: which credential, and the way to its provider
//! * [`audit`]: what happened, on disk and then to the control plane
//! * [`control`]: the connection to the control plane
//! * [`metrics`]: every metric by its one name

pub mod app;
pub mod audit;
pub mod config;
pub mod control;
pub mod counters;
pub mod front;
pub mod grants;
pub mod metrics;
pub mod plane;
pub mod pool;
pub mod rejection;
pub mod replica;
pub mod request;
pub mod upstream;

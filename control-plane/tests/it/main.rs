//! The control plane over real sockets and real files.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper that cannot go on fails the test"
)]

mod audit;
mod auth;
mod books;
mod credentials;
mod escrow;
mod escrow_books;
mod escrow_steps;
mod escrow_world;
mod former;
mod history;
mod intake;
mod keys;
mod later_limits;
mod leaving;
mod ledger;
mod models;
mod node_certificates;
mod nodes;
mod operators;
mod plane;
mod plans;
mod receipts;
mod rig;
mod roles;
mod secure;
mod signs;
mod start;
mod stores;
mod stream;
mod tampering;
mod tenancy;
mod unchained;
mod vault;
mod workspace_limits;
mod workspaces;

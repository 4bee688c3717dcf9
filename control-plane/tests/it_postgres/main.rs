//! The tests of the control plane once more, on a real PostgreSQL server: the files are those of `tests/it`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test helper that cannot go on fails the test"
)]

mod assurance;
mod beside;
mod failure;
mod node_replicas;
mod operator_replicas;
mod receipt_replicas;
mod relocation;
mod replicas;
mod schema;
mod silence;
mod split_streams;
mod vault_replicas;

#[path = "../it/audit.rs"]
mod audit;
#[path = "../it/auth.rs"]
mod auth;
#[path = "../it/books.rs"]
mod books;
#[path = "../it/credentials.rs"]
mod credentials;
#[path = "../it/escrow.rs"]
mod escrow;
#[path = "../it/escrow_books.rs"]
mod escrow_books;
#[path = "../it/escrow_steps.rs"]
mod escrow_steps;
#[path = "../it/escrow_world.rs"]
mod escrow_world;
#[path = "../it/former.rs"]
mod former;
#[path = "../it/history.rs"]
mod history;
#[path = "../it/intake.rs"]
mod intake;
#[path = "../it/keys.rs"]
mod keys;
#[path = "../it/later_limits.rs"]
mod later_limits;
#[path = "../it/leaving.rs"]
mod leaving;
#[path = "../it/ledger.rs"]
mod ledger;
#[path = "../it/models.rs"]
mod models;
#[path = "../it/node_certificates.rs"]
mod node_certificates;
#[path = "../it/nodes.rs"]
mod nodes;
#[path = "../it/operators.rs"]
mod operators;
#[path = "../it/plane.rs"]
mod plane;
#[path = "../it/plans.rs"]
mod plans;
#[path = "../it/receipts.rs"]
mod receipts;
#[path = "../it/rig.rs"]
mod rig;
#[path = "../it/roles.rs"]
mod roles;
#[path = "../it/secure.rs"]
mod secure;
#[path = "../it/signs.rs"]
mod signs;
#[path = "../it/start.rs"]
mod start;
#[path = "../it/stores.rs"]
mod stores;
#[path = "../it/stream.rs"]
mod stream;
#[path = "../it/tampering.rs"]
mod tampering;
#[path = "../it/tenancy.rs"]
mod tenancy;
#[path = "../it/unchained.rs"]
mod unchained;
#[path = "../it/vault.rs"]
mod vault;
#[path = "../it/workspace_limits.rs"]
mod workspace_limits;
#[path = "../it/workspaces.rs"]
mod workspaces;

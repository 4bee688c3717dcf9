//! Compiles the .proto files with a compiler written in Rust, so that no machine needs protoc.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 14] = [
    "keyforge/admin/v1/policy.proto",
    "keyforge/admin/v1/keys.proto",
    "keyforge/admin/v1/workspaces.proto",
    "keyforge/admin/v1/operators.proto",
    "keyforge/admin/v1/credentials.proto",
    "keyforge/admin/v1/models.proto",
    "keyforge/admin/v1/nodes.proto",
    "keyforge/admin/v1/audit.proto",
    "keyforge/admin/v1/usage.proto",
    "keyforge/admin/v1/vault.proto",
    "keyforge/fleet/v1/state.proto",
    "keyforge/fleet/v1/grants.proto",
    "keyforge/fleet/v1/nodes.proto",
    "keyforge/fleet/v1/audit.proto",
];

#[expect(clippy::disallowed_methods, reason = "a build script is told where to write by its environment")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("keyforge.bin"), descriptors.encode_to_vec())?;
    // One encoded piece of a snapshot goes to many nodes: it is shared, not copied.
    let shared = ".keyforge.fleet.v1.ControlMessage.snapshot_chunk";
    tonic_prost_build::configure().bytes(shared).compile_fds(descriptors)?;
    Ok(())
}

//! KeyForge's gRPC interfaces: generated messages, clients and servers, and conversions to and from the domain types.
//!
//! * [`admin`]: what operators call (`keyforge.admin.v1`)
//! * [`fleet`]: what nodes call (`keyforge.fleet.v1`)
//! * [`convert`]: the trust boundary; decoding validates, once, and names the field that is wrong
//! * [`DESCRIPTORS`]: for gRPC reflection

pub mod convert;

/// What operators call.
pub mod admin {
    /// `keyforge.admin.v1`: keys, workspaces, operators, credentials, vault, models, nodes, audit, usage.
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::too_many_lines,
        reason = "generated; the .proto files are the documentation"
    )]
    pub mod v1 {
        tonic::include_proto!("keyforge.admin.v1");
    }
}

/// What nodes call.
pub mod fleet {
    /// `keyforge.fleet.v1`: enrollment, state stream, grants, audit intake.
    #[expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::large_enum_variant,
        clippy::too_many_lines,
        reason = "generated; the .proto files are the documentation"
    )]
    pub mod v1 {
        tonic::include_proto!("keyforge.fleet.v1");
    }
}

/// The encoded descriptors of all of the above.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/keyforge.bin"));

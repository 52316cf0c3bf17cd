//! The generated code of the API's protos, with canonical proto3 JSON for every message.
//!
//! Used only in `api` and `cli`: the engine and the machine never see it. The sources are in `proto/nox/v1`.

#![expect(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::uninlined_format_args,
    unused_qualifications,
    reason = "generated from proto/, where the comments are linted"
)]

/// Package `nox.v1`.
pub mod v1 {
    tonic::include_proto!("nox.v1");
    include!(concat!(env!("OUT_DIR"), "/nox.v1.serde.rs"));
}

/// Everything that the protos say, encoded: what reflection serves.
pub const API_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/api_descriptors.bin"));

//! The wire format, generated from `proto/`: for the gateway, which serves it, and for clients.

#![expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated code; its documentation is in the proto file"
)]

pub mod codec;
pub mod shape;

tonic::include_proto!("kyrodb.v1");

/// The compiled proto file, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("kyrodb");

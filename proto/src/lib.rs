//! The wire of Tagmill: protocol buffers and their generated code. No logic.
//!
//! The `.proto` files under `tagmill/v1` are the reference; their comments are the documentation of the generated items.
//! Nothing here needs `protoc`: the generated code is committed, and `tests/generated.rs` makes it again and compares
//! (`UPDATE_GENERATED=1` writes it).
//!
//! [`v1`] is what everyone uses. [`view`] is another form of the same bytes, for the server and the client crate.

pub use prost::Message;

/// The services as a `FileDescriptorSet`, encoded: for servers that tell clients what they are.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// Package `tagmill.v1`.
#[allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, reason = "generated")]
pub mod v1 {
    include!("generated/tagmill.v1.rs");
}

/// Package `tagmill.v1` once more, with the parts that may be many left as their bytes.
///
/// A message field and a `bytes` field look the same on the wire. Left as bytes, a batch is a slice of the frame it came
/// in: the server reads it in place, which costs neither a copy nor memory that a hostile sender could multiply, and the
/// client encodes it once however often it is sent.
#[allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, reason = "generated")]
pub mod view {
    include!("generated/view/tagmill.v1.rs");
}

//! The wire of Tagmill: protocol buffers and their generated code. No logic.
//!
//! The `.proto` files under `tagmill/v1` are the reference; their comments are the documentation of the generated items.
//! Nothing here needs `protoc`: the generated code is committed, and `tests/generated.rs` makes it again and compares
//! (`UPDATE_GENERATED=1` writes it).
//!
//! [`v1`] is what everyone uses. [`view`] is the server's private form of the same bytes.

/// Package `tagmill.v1`.
#[allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, reason = "generated")]
pub mod v1 {
    include!("generated/tagmill.v1.rs");
}

/// The server's view of package `tagmill.v1`: messages whose parts may be many arrive as their bytes.
///
/// A message field and a `bytes` field look the same on the wire. Left as bytes, a batch is a slice of the frame it came
/// in, and reading it in place costs neither a copy nor memory that a hostile sender could multiply.
#[allow(clippy::all, clippy::pedantic, clippy::restriction, missing_docs, reason = "generated")]
pub mod view {
    include!("generated/view/tagmill.v1.rs");
}

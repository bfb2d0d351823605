//! The server's reading of gateways' messages, from its own files: they need no more than protobuf and the engine's types.

#![allow(dead_code)]

#[path = "../../server/src/ingest/fields.rs"]
mod fields;

#[path = "../../server/src/ingest/parts.rs"]
mod parts;

#[path = "../../server/src/ingest/rejects.rs"]
mod rejects;

#[path = "../../server/src/ingest/convert.rs"]
mod convert;

#[path = "../../server/src/ingest/messages.rs"]
mod messages;

#[path = "../../server/src/ingest/fuzzing.rs"]
mod fuzzing;

/// Any message of a gateway is read or refused.
pub fn message(data: &[u8]) {
    fuzzing::message(data);
}

//! The server's reading of what PostgreSQL's clients send, from its own files: they need no more than the protocol.

#![allow(dead_code)]

#[path = "../../server/src/postgres/arrays.rs"]
mod arrays;

#[path = "../../server/src/postgres/cut.rs"]
mod cut;

#[path = "../../server/src/postgres/fuzzing.rs"]
mod fuzzing;

/// Any bytes of a client are messages or refused.
pub fn messages(data: &[u8]) {
    fuzzing::messages(data);
}

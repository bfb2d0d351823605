//! The server's reading of HTTP bodies, from its own files: they need no more than the engine's types.

#![allow(dead_code)]

#[path = "../../server/src/http/body.rs"]
mod body;

#[path = "../../server/src/http/lines.rs"]
mod lines;

#[path = "../../server/src/http/fuzzing.rs"]
mod fuzzing;

/// Any text is read as lines of line protocol or refused, line by line.
pub fn lines(data: &[u8]) {
    fuzzing::lines(data);
}

/// Any body is unpacked and read as a statement, or refused.
pub fn body(data: &[u8]) {
    fuzzing::body(data);
}

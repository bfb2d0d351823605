//! The `tagmill` program as a library: its command line, and the server behind it.
//!
//! Reading order: [`cli`] (what people type), [`lifecycle`] (the server's start and end), `ingest`, `admin`, `sql_service`
//! (the gRPC services), `status` (errors on the wire), [`demo`].

mod admin;
pub mod cli;
pub mod demo;
mod doors;
mod ingest;
pub mod lifecycle;
mod sql_service;
mod status;

use std::process::ExitCode;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    cli::main()
}

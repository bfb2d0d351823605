//! The `tagmill` program as a library: its command line, and the server behind it.
//!
//! Reading order: [`cli`] (what people type), [`lifecycle`] (the server's start and end), [`access`] and [`tls`] (who is let
//! in, and how), [`audit`], `ingest`, `admin`, `sql_service` (the gRPC services), `flight`, `postgres`, `http`, `queries` (how many statements run),
//! `own` (the server's figures), `status` (errors on the wire), [`demo`].

pub mod access;
mod admin;
pub mod audit;
mod authorization;
pub mod cli;
mod connections;
pub mod demo;
mod doors;
mod flight;
#[cfg(test)]
mod fuzzing;
mod globs;
mod http;
mod ingest;
pub mod lifecycle;
mod own;
pub mod postgres;
mod queries;
mod sql_service;
mod status;
pub mod tls;

use std::process::ExitCode;

/// Runs the program with the arguments of this process.
pub fn main() -> ExitCode {
    cli::main()
}

//! The `tagmill` program, built by this crate so that its tests know where it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    tagmill_server::main()
}

//! What the fuzz targets share: a limit on memory, and the server's reading of what comes in without the server.

use std::alloc::System;
use std::sync::Once;

use cap::Cap;

#[allow(dead_code)]
#[path = "../../server/src/fuzzing.rs"]
mod fuzzing;
pub mod http;
pub mod ingest;
pub mod postgres;

/// Counts what is allocated. An allocation beyond the limit fails, which ends the process: a finding.
#[global_allocator]
static MEMORY: Cap<System> = Cap::new(System, usize::MAX);

/// Runs a target that may take `fixed_bytes`, and `bytes_each` for each byte of input, and not a byte more at any moment.
pub fn within_memory(fixed_bytes: usize, bytes_each: usize, data: &[u8], body: fn(&[u8])) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = std::panic::take_hook();
        // To tell where a claim broke takes more memory than any target.
        std::panic::set_hook(Box::new(move |panic| {
            if fuzzing::is_awaited() {
                return;
            }
            lift();
            next(panic);
        }));
    });
    let allowed = MEMORY.allocated() + fixed_bytes + bytes_each * data.len();
    MEMORY.set_limit(allowed).expect("less is in use");
    body(data);
    lift();
}

fn lift() {
    MEMORY.set_limit(usize::MAX).expect("there is no limit");
}

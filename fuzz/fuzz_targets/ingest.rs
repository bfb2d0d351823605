//! Messages as gateways send them: `cargo fuzz run --sanitizer none ingest`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(64 << 20, 1 << 10, data, tagmill_fuzz::ingest::message);
});

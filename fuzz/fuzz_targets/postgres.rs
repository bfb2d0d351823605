//! Messages of PostgreSQL's clients: `cargo fuzz run --sanitizer none postgres`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(16 << 20, 1 << 10, data, tagmill_fuzz::postgres::messages);
});

//! Line protocol: `cargo fuzz run --sanitizer none lines`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(4 << 20, 1 << 10, data, tagmill_fuzz::http::lines);
});

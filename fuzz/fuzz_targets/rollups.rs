//! Blocks of rollups, of any bytes: `cargo fuzz run --sanitizer none rollups`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(256 << 20, 16 << 10, data, tagmill_engine_tests::fuzz::rollups::rollups);
});

//! Chunks of any columns, through the reader of segments: `cargo fuzz run --sanitizer none chunk`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(64 << 20, 16 << 10, data, tagmill_engine_tests::fuzz::segment::chunk);
});

//! Segment files, checksums renewed: `cargo fuzz run --sanitizer none segment`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(64 << 20, 32 << 10, data, tagmill_engine_tests::fuzz::segment::segment);
});

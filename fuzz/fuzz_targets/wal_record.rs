//! Records of the log: `cargo fuzz run --sanitizer none wal_record`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tagmill_fuzz::within_memory(512 << 20, 1 << 10, data, tagmill_engine_tests::fuzz::log::record);
});

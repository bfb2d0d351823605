//! Whole databases of which one file holds any bytes: `cargo fuzz run --sanitizer none database`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tagmill_engine_tests::fuzz::database::database(data));

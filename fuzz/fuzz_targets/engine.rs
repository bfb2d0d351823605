//! Steps of the engine against its model: `cargo fuzz run --sanitizer none engine`, see `docs/testing.md`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tagmill_engine_tests::fuzz::steps::engine(data));

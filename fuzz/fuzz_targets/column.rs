//! Columns: any bytes either decode or are refused. `cargo fuzz run column ../tests/engine/corpus/column` in this folder.

#![no_main]

#[path = "../../tests/engine/src/fuzz.rs"]
mod fuzz;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::column(data));

//! Damage at rest is found and named, or harmless: every byte, every length, every file in another's place.

use tagmill_engine_tests::mutation;
use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;

#[test]
fn every_byte_ten_ways() {
    let tally = Tally::new("every_byte_ten_ways");
    mutation::every_byte("mutation::every_byte_ten_ways", &seeds(1)[..1], 1, &tally);
    assert!(tally.figure("found_at_read") > 0 && tally.figure("found_at_open") > 0);
}

#[test]
fn every_length() {
    let tally = Tally::new("every_length");
    mutation::every_length("mutation::every_length", &seeds(1)[..1], 1, &tally);
}

#[test]
fn misplaced_files() {
    let tally = Tally::new("misplaced_files");
    mutation::misplaced_files("mutation::misplaced_files", &seeds(4), &tally);
}

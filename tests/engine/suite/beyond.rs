//! Rollups that outlive their samples.

use tagmill_engine_tests::beyond;
use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;

#[test]
fn what_outlives_samples_says_what_they_said() {
    let tally = Tally::new("what_outlives_samples_says_what_they_said");
    let test = "beyond::what_outlives_samples_says_what_they_said";
    beyond::equal_what_has_ended(test, &seeds(60), &tally);
    assert!(tally.figure("beyond_raw") > 0, "nothing was asked about samples that have ended");
}

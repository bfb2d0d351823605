//! Rollups and neighbours against the rule book, after any operations.

use tagmill_engine_tests::rollups;
use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;

#[test]
fn rollups_equal_the_rule_book() {
    let tally = Tally::new("rollups_equal_the_rule_book");
    rollups::equal_the_rule_book("rollups::rollups_equal_the_rule_book", &seeds(60), &tally);
}

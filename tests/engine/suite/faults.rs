//! Disks that fail: every call in every way, once and for ever, while working and while recovering.

use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;
use tagmill_engine_tests::{errors, expiry};

#[test]
fn errors_at_every_call_of_scripts() {
    let tally = Tally::new("errors_at_every_call_of_scripts");
    errors::at_every_call_of_scripts("faults::errors_at_every_call_of_scripts", &seeds(1), &tally);
}

#[test]
fn an_edit_in_doubt_costs_no_file() {
    let tally = Tally::new("an_edit_in_doubt_costs_no_file");
    errors::at_an_edit_in_doubt("faults::an_edit_in_doubt_costs_no_file", &seeds(40), &tally);
}

#[test]
fn errors_at_every_call_of_recovery() {
    let tally = Tally::new("errors_at_every_call_of_recovery");
    let test = "faults::errors_at_every_call_of_recovery";
    errors::at_every_call_of_recovery(test, &seeds(1), &tally);
}

#[test]
fn errors_at_random() {
    let tally = Tally::new("errors_at_random");
    errors::at_random("faults::errors_at_random", &seeds(3_000), &tally);
}

#[test]
fn rot_at_random() {
    let tally = Tally::new("rot_at_random");
    errors::rot_at_random("faults::rot_at_random", &seeds(200), &tally);
    assert!(tally.figure("found") > tally.cases() / 20, "damage is never found");
}

#[test]
fn samples_end_at_the_horizon() {
    let tally = Tally::new("samples_end_at_the_horizon");
    expiry::at_the_horizon("faults::samples_end_at_the_horizon", &seeds(40), &tally);
}

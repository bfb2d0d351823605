//! Power cuts at every moment: what was acknowledged or shown is there, whole batches only, and recovery survives its own.

use tagmill_engine_tests::cuts;
use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;

#[test]
fn power_cuts_at_random_moments() {
    let tally = Tally::new("power_cuts_at_random_moments");
    cuts::at_random_moments("crash::power_cuts_at_random_moments", &seeds(1_500), &tally);
}

#[test]
fn power_cuts_at_every_change_of_scripts() {
    let tally = Tally::new("power_cuts_at_every_change_of_scripts");
    let test = "crash::power_cuts_at_every_change_of_scripts";
    cuts::at_every_change_of_scripts(test, &seeds(4), &tally);
}

#[test]
fn power_cuts_at_every_change_of_small_workloads() {
    let tally = Tally::new("power_cuts_at_every_change_of_small_workloads");
    let test = "crash::power_cuts_at_every_change_of_small_workloads";
    cuts::at_every_change_of_small_workloads(test, &seeds(1), &tally);
}

#[test]
fn a_killed_process_loses_nothing_it_acknowledged() {
    let tally = Tally::new("killed_processes");
    let test = "crash::a_killed_process_loses_nothing_it_acknowledged";
    cuts::killed_processes(test, &seeds(100), &tally);
}

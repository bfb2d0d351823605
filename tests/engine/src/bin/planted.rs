//! Plants one bug after the other and lets the harnesses find it: they are tested by it, not the engine.
//!
//! ```text
//! cargo run --profile planted -p tagmill-engine-tests --features planted --bin planted             all bugs
//! cargo run --profile planted -p tagmill-engine-tests --features planted --bin planted SyncRetried this one, with all it prints
//! ```
//!
//! Each bug has a process of its own. It ends with an error if a bug is not found, or if something is found where none is planted.

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tagmill_engine_tests::seeds::seeds;
use tagmill_engine_tests::tally::Tally;
use tagmill_engine_tests::{beyond, cuts, errors, expiry, mutation, rollups};
use tagmill_storage::planted::{Bug, plant};

/// A process that takes longer hangs.
const PATIENCE: Duration = Duration::from_mins(4);
/// Names a bug to the process that hunts it.
const VARIABLE: &str = "TAGMILL_PLANTED";

fn main() -> ExitCode {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = std::env::var_os(VARIABLE) {
        let name = name.to_string_lossy();
        let bug = Bug::ALL.iter().find(|bug| format!("{bug:?}") == name).copied();
        plant(bug);
        hunt(bug.is_some());
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    let mut failures = 0;
    let mut found = 0;
    let names = Bug::ALL.iter().map(|bug| format!("{bug:?}"));
    let wanted = names.filter(|name| chosen.is_empty() || chosen.contains(name));
    for name in wanted {
        let begin = || run(&name, !chosen.is_empty());
        // A bug may well make an engine wait for ever before its harness sees anything: other seeds may find it.
        let hunted = match begin() {
            Hunt::Hung => {
                tell(&format!("{name}: the hunt hung, once more"));
                begin()
            }
            ended => ended,
        };
        match hunted {
            Hunt::Found { harness, cases, seconds } => {
                found += 1;
                tell(&format!("{name}: found by {harness} after {cases} cases, {seconds:.1} s"));
            }
            Hunt::NotFound { cases, seconds } => {
                failures += 1;
                tell(&format!("{name}: NOT FOUND in {cases} cases, {seconds:.1} s"));
            }
            Hunt::Hung => {
                failures += 1;
                tell(&format!("{name}: NOT FOUND, the hunt hung"));
            }
        }
    }
    if chosen.is_empty() {
        match run("none", true) {
            Hunt::Found { harness, .. } => {
                failures += 1;
                tell(&format!("{harness} found something where nothing was planted"));
            }
            Hunt::NotFound { cases, seconds } => {
                tell(&format!("nothing planted: nothing found in {cases} cases, {seconds:.1} s"));
            }
            Hunt::Hung => tell("nothing planted: nothing found until time was up"),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let cases = found + failures;
    tell(&format!(
        "harness=planted cases={cases} seeds=1 seconds={seconds:.1} failures={failures} found={found}"
    ));
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell(line: &str) {
    // Where nobody listens nothing is lost.
    writeln!(std::io::stdout(), "{line}").ok();
}

/// What the harnesses do in one round, the quick ones first. That the longest one finds nothing where nothing is planted
/// the tests show often enough.
fn hunt(is_planted: bool) {
    let round = |name: &'static str, work: &dyn Fn(&Tally)| work(&Tally::new(name));
    let test = "planted";
    round("samples_end_at_the_horizon", &|tally| expiry::at_the_horizon(test, &seeds(4), tally));
    round("random_operations", &|tally| cuts::random_operations(test, &seeds(12), tally));
    round("rollups_equal_the_rule_book", &|tally| {
        rollups::equal_the_rule_book(test, &seeds(30), tally);
    });
    round("errors_at_random", &|tally| errors::at_random(test, &seeds(60), tally));
    round("power_cuts_at_random_moments", &|tally| {
        cuts::at_random_moments(test, &seeds(20), tally);
    });
    round("what_outlives_samples_says_what_they_said", &|tally| {
        beyond::equal_what_has_ended(test, &seeds(30), tally);
    });
    // The records of a log file take few of its bytes: each database has few lengths that matter.
    round("every_length", &|tally| mutation::every_length(test, &seeds(20), 127, tally));
    round("every_byte_ten_ways", &|tally| mutation::every_byte(test, &seeds(1), 61, tally));
    round("an_edit_in_doubt_costs_no_file", &|tally| {
        errors::at_an_edit_in_doubt(test, &seeds(20), tally);
    });
    round("power_cuts_at_every_change_of_scripts", &|tally| {
        cuts::at_every_change_of_scripts(test, &seeds(1), tally);
    });
    round("misplaced_files", &|tally| mutation::misplaced_files(test, &seeds(1), tally));
    round("power_cuts_at_random_moments", &|tally| {
        cuts::at_random_moments(test, &seeds(300), tally);
    });
    round("errors_at_every_call_of_recovery", &|tally| {
        errors::at_every_call_of_recovery(test, &seeds(1), tally);
    });
    if is_planted {
        round("errors_at_every_call_of_scripts", &|tally| {
            errors::at_every_call_of_scripts(test, &seeds(1), tally);
        });
    }
}

/// How a hunt ended.
enum Hunt {
    Found { harness: String, cases: u64, seconds: f64 },
    NotFound { cases: u64, seconds: f64 },
    Hung,
}

/// Hunts one bug in a process of its own.
fn run(name: &str, is_shown: bool) -> Hunt {
    let started = Instant::now();
    let program = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(program)
        .env(VARIABLE, name)
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program runs again");
    let pipe = child.stderr.take().expect("it was asked for");
    let reader = std::thread::spawn(move || std::io::read_to_string(pipe).unwrap_or_default());
    let mut is_hung = false;
    while child.try_wait().expect("a child can be waited for").is_none() {
        if started.elapsed() > PATIENCE {
            child.kill().ok();
            is_hung = true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let told = reader.join().expect("reading does not panic");
    if is_shown {
        tell(&told);
    }
    if is_hung {
        return Hunt::Hung;
    }
    let seconds = started.elapsed().as_secs_f64();
    let (mut cases, mut culprit) = (0, None);
    for line in told.lines().filter(|line| line.starts_with("harness=")) {
        let field = |key: &str| {
            let fields = line.split(' ').filter_map(|field| field.split_once('='));
            fields.into_iter().find(|(name, _)| *name == key).map_or("", |(_, value)| value)
        };
        cases += field("cases").parse::<u64>().unwrap_or(0);
        if field("failures") == "1" {
            culprit = Some(field("harness").to_owned());
        }
    }
    match culprit {
        Some(harness) => Hunt::Found { harness, cases, seconds },
        None => Hunt::NotFound { cases, seconds },
    }
}

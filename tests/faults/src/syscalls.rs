//! Kills and errors at the N-th system call of a real victim, done by `strace`.
//!
//! # Contract
//! * A victim is run once untouched: its trace is the space of calls. Each point of the space is one call of one thread,
//!   and one thing that happens there; a run of the harness takes points by seed, the soak takes all of them.
//! * `strace` counts calls per thread, and per path where a path is named. Other threads meet the fault at their own N-th
//!   call. Files whose name is drawn at random (those of the log) are counted over all files of the thread. So a point may
//!   miss; how many hit is reported.
//!
//! # Reading order
//! [`space`] (which calls there are), [`faults`] (what can happen at each), this file (doing it).

mod faults;
mod space;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tagmill_storage::disk::sim::Random;

use crate::checker::{Checker, Counts};
use crate::ledger;
use crate::process::{self, End};
use crate::report::Report;
use crate::victim::Orders;
use faults::Fault;
use space::Site;

/// Steps of a victim's life.
const STEPS: usize = 36;
/// Points taken from one script.
const POINTS_PER_SCRIPT: usize = 60;

/// File of the ledger in the scratch folder.
const LEDGER: &str = "ledger";

/// What to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Decides the scripts and the points.
    pub(crate) seed: u64,
    /// How many points; `None` for the whole space of each script.
    pub(crate) points: Option<usize>,
    /// Only this one of them.
    pub(crate) only: Option<usize>,
    /// Scripts, where the whole space is taken.
    pub(crate) scripts: usize,
}

/// One fault at one call.
#[derive(Clone, Debug)]
struct Point {
    seed: u64,
    site: Site,
    fault: Fault,
}

/// Outcome of a point.
#[derive(Debug, Default)]
struct Outcome {
    hit: bool,
    counts: Counts,
}

/// Runs the harness.
pub(crate) fn run(plan: &Plan) -> Report {
    const NAME: &str = "strace";
    if !process::has("strace") {
        return Report::skipped(NAME, plan.seed, "there is no strace: install it");
    }
    let mut report = Report::new(NAME, plan.seed);
    let points = match points(plan) {
        Ok(points) => points,
        Err(why) => return Report::skipped(NAME, plan.seed, why),
    };
    let chosen: Vec<(usize, Point)> = points
        .into_iter()
        .enumerate()
        .filter(|(index, _)| plan.only.is_none_or(|only| only == *index))
        .collect();
    let next = AtomicUsize::new(0);
    let shared = Mutex::new(&mut report);
    let workers = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((index, point)) = chosen.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let outcome = strike(point);
                    let mut report = shared.lock().expect("no worker panics with the report");
                    note(&mut report, plan, *index, point, outcome);
                }
            });
        }
    });
    report
}

fn note(
    report: &mut Report,
    plan: &Plan,
    index: usize,
    point: &Point,
    outcome: Result<Outcome, String>,
) {
    report.cases += 1;
    report.add(if point.fault.is_kill() { "kills" } else { "errors" }, 1);
    match outcome {
        Ok(Outcome { hit, counts }) => {
            report.add("hit", u64::from(hit));
            report.add("durable", counts.durable);
            report.add("refused", counts.refused);
            report.add("unknown", counts.unknown);
            report.add("rows", counts.rows);
        }
        Err(why) => {
            let count = plan.points.map_or("--whole".to_owned(), |n| format!("--points {n}"));
            let what = format!("{point:?}: {why}");
            report.fail(&what, &format!("strace --seed {} {count} --only {index}", plan.seed));
        }
    }
}

/// The points of a plan: so many from each script, or all.
fn points(plan: &Plan) -> Result<Vec<Point>, String> {
    let mut random = Random::new(plan.seed);
    let mut points = Vec::new();
    let scripts = plan.points.map_or(plan.scripts, |points| points.div_ceil(POINTS_PER_SCRIPT));
    for _ in 0..scripts {
        let seed = random.bits() >> 32;
        let folder = scratch()?;
        let orders = orders(folder.path(), seed);
        let trace = folder.path().join("trace");
        let command = traced(&orders, &trace, &["-y", "-s", "0"], &space::expression())?;
        let end = process::run(command, ledger_in(folder.path())?);
        let end = end.map_err(|error| format!("strace does not start: {error}"))?;
        if end != End::Well {
            return Err(format!("a victim cannot be traced: {end:?}"));
        }
        let trace = std::fs::read_to_string(&trace).map_err(|e| format!("trace: {e}"))?;
        let mut all: Vec<Point> = Vec::new();
        for site in space::sites(&trace, &orders.data) {
            let faults = faults::of(&site.call);
            all.extend(faults.into_iter().map(|fault| Point { seed, site: site.clone(), fault }));
        }
        if all.is_empty() {
            return Err("the trace of a victim shows no call: strace sees nothing here".into());
        }
        let Some(wanted) = plan.points else {
            points.append(&mut all);
            continue;
        };
        // Half kills, half errors, whatever the shares of the space.
        let left = wanted - points.len();
        for number in 0..POINTS_PER_SCRIPT.min(left) {
            let fits = |point: &&Point| point.fault.is_kill() == (number % 2 == 0);
            let fitting: Vec<&Point> = all.iter().filter(fits).collect();
            points.push((*fitting[random.index(fitting.len())]).clone());
        }
    }
    Ok(points)
}

/// A folder where syncs cost nothing, if there is one: a kill does not need a disk.
pub(crate) fn scratch() -> Result<tempfile::TempDir, String> {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::Builder::new().prefix("tagmill-").tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.map_err(|error| format!("scratch folder: {error}"))
}

fn ledger_in(folder: &Path) -> Result<File, String> {
    let appending = File::options().append(true).create(true).open(folder.join(LEDGER));
    appending.map_err(|error| format!("ledger: {error}"))
}

fn orders(folder: &Path, seed: u64) -> Orders {
    Orders { data: folder.join("data"), seed, first: 0, steps: STEPS, is_careless: false }
}

fn traced(
    orders: &Orders,
    output: &Path,
    options: &[&str],
    expression: &str,
) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).arg(output).args(options).args(["-e", expression]);
    command.arg(program);
    process::arguments(&mut command, orders);
    Ok(command)
}

/// Does it, and checks what came of it.
fn strike(point: &Point) -> Result<Outcome, String> {
    let folder = scratch()?;
    let orders = orders(folder.path(), point.seed);
    let trace = folder.path().join("trace");
    let inject = format!("inject={}:{}", point.site.call, point.fault.rule(point.site.when));
    let paths: Vec<PathBuf> = match &point.site.path {
        Some(path) => vec![PathBuf::from(path), orders.data.join(path)],
        None => Vec::new(),
    };
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut options: Vec<&str> = paths.iter().flat_map(|path| ["-P", path]).collect();
    let only = format!("trace={}", point.site.call);
    options.extend(["-e", &only]);
    let ledger = ledger_in(folder.path())?;
    let end = process::run(traced(&orders, &trace, &options, &inject)?, ledger);
    let end = end.map_err(|error| format!("strace: {error}"))?;
    match &end {
        End::Well => {}
        End::Killed if point.fault.is_kill() => {}
        other => return Err(format!("the victim ended {other:?}")),
    }
    let injected = std::fs::read_to_string(&trace).unwrap_or_default().contains("INJECTED");
    let hit = end == End::Killed || injected;
    let bytes = std::fs::read(folder.path().join(LEDGER)).map_err(|e| format!("ledger: {e}"))?;
    let mut checker = Checker::new(point.seed, point.fault.leave());
    let said = ledger::parse(&bytes)?;
    let context = |why: String| format!("{why}\n    ledger: {}", tail(&bytes));
    checker.take(&said).map_err(context)?;
    checker.check(&orders.data).map_err(context)?;
    Ok(Outcome { hit, counts: checker.counts })
}

fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(90)..].join("; ")
}

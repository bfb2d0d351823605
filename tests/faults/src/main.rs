//! Faults done to a real process on real file systems: kills and errors at system calls, power cuts, full disks.
//!
//! ```text
//! cargo run -p tagmill-fault-tests --release -- ci            every harness, as many cases as a change needs
//! cargo run -p tagmill-fault-tests --release -- soak          the long figures
//! cargo run -p tagmill-fault-tests --release -- strace --seed 7 --points 60 --only 3
//! ```
//!
//! # Contract
//! * One line a harness: `harness=.. cases=.. seeds=.. seconds=.. skipped=.. failures=..`, and further figures. It fails with
//!   exit code 1; each failure names its seed and the one command that repeats it.
//! * A harness that cannot run on this machine says `SKIPPED` and why. It never passes in silence.
//! * Whatever was mounted or attached is gone at the end, however that comes: mounts live in a namespace of this process.
//!
//! # Reading order
//! [`script`] (what is done), [`victim`] (who does it), [`ledger`] (what it says), [`checker`] (whether that was right), then the
//! harnesses: [`syscalls`], [`power`], [`full`].

#![expect(clippy::print_stdout, reason = "the report is for a terminal and for scripts")]

mod careless;
mod checker;
mod full;
mod ledger;
mod mounts;
mod power;
mod process;
mod report;
mod rows;
mod script;
mod syscalls;
mod victim;

use std::process::ExitCode;

use report::Report;
use victim::Orders;

const USAGE: &str = "usage: tagmill-fault-tests ci|soak|strace|power|full [--seed N] [--points N | --whole] [--only N]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "victim") {
        let Some(orders) = orders(&arguments) else { return wrong("a victim needs its orders") };
        victim::run(&orders);
        return ExitCode::SUCCESS;
    }
    match Wish::parse(&arguments) {
        Ok(wish) => wish.fulfil(),
        Err(why) => wrong(&why),
    }
}

fn wrong(why: &str) -> ExitCode {
    eprintln!("{why}\n{USAGE}");
    ExitCode::from(2)
}

fn orders(arguments: &[String]) -> Option<Orders> {
    let [_, data, seed, first, steps, rest @ ..] = arguments else { return None };
    Some(Orders {
        data: data.into(),
        seed: seed.parse().ok()?,
        first: first.parse().ok()?,
        steps: steps.parse().ok()?,
        is_careless: rest.first().is_some_and(|word| word == "careless"),
    })
}

/// What the command line asks for.
#[derive(Debug)]
struct Wish {
    harness: String,
    seed: u64,
    points: Option<usize>,
    is_whole: bool,
    only: Option<usize>,
}

impl Wish {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut words = arguments.iter();
        let harness = words.next().ok_or("say which harness")?.clone();
        let fresh = tagmill_engine_tests::seeds::seeds(1)[0];
        let mut wish = Self { harness, seed: fresh, points: None, is_whole: false, only: None };
        while let Some(word) = words.next() {
            let mut number = || {
                let number = words.next().and_then(|text| text.parse::<u64>().ok());
                number.ok_or_else(|| format!("{word} needs a number"))
            };
            let size = |number: u64| usize::try_from(number).map_err(|e| e.to_string());
            match word.as_str() {
                "--seed" => wish.seed = number()?,
                "--points" => wish.points = Some(size(number()?)?),
                "--only" => wish.only = Some(size(number()?)?),
                "--whole" => wish.is_whole = true,
                other => return Err(format!("{other} is no option")),
            }
        }
        Ok(wish)
    }

    fn fulfil(&self) -> ExitCode {
        let is_long = self.harness == "soak";
        let all = is_long || self.harness == "ci";
        // First of all: it starts this program again.
        let namespace = mounts::enter_namespace();
        let mut reports: Vec<Report> = Vec::new();
        let mut done = |report: Report| {
            println!("{report}");
            reports.push(report);
        };
        if all || self.harness == "strace" {
            done(self.strace(is_long));
        }
        if all || self.harness == "power" {
            let cuts = self.points.unwrap_or(if is_long { 4_000 } else { 100 });
            let plan = power::Plan { seed: self.seed, cuts, is_long };
            power::run(&plan, &namespace).into_iter().for_each(&mut done);
        }
        if all || self.harness == "full" {
            let cases = self.points.unwrap_or(if is_long { 200 } else { 6 });
            done(full::run(self.seed, cases, &namespace));
        }
        if reports.is_empty() {
            return wrong(&format!("{} is no harness", self.harness));
        }
        ExitCode::from(u8::from(reports.iter().any(|report| !report.failures.is_empty())))
    }

    fn strace(&self, is_long: bool) -> Report {
        let is_whole = self.is_whole || (is_long && self.points.is_none());
        let points = (!is_whole).then(|| self.points.unwrap_or(360));
        let scripts = if is_long { 8 } else { 1 };
        syscalls::run(&syscalls::Plan { seed: self.seed, points, only: self.only, scripts })
    }
}

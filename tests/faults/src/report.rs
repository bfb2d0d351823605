//! What a harness has to say at its end: one line for machines, and for each failure how to repeat it.

use std::fmt;
use std::time::{Duration, Instant};

/// The figures of one harness.
#[derive(Debug)]
pub(crate) struct Report {
    harness: &'static str,
    seed: u64,
    started: Instant,
    took: Option<Duration>,
    /// Cases that were run.
    pub(crate) cases: u64,
    /// Why it was not run, if so.
    pub(crate) skipped: Option<String>,
    /// What went wrong, each with the command that repeats it.
    pub(crate) failures: Vec<String>,
    /// Further figures, by name.
    pub(crate) figures: Vec<(&'static str, u64)>,
}

impl Report {
    /// Begins the report of a harness.
    pub(crate) fn new(harness: &'static str, seed: u64) -> Self {
        let (cases, skipped, failures, figures) = (0, None, Vec::new(), Vec::new());
        let (started, took) = (Instant::now(), None);
        Self { harness, seed, started, took, cases, skipped, failures, figures }
    }

    /// Stops its clock.
    pub(crate) fn ended(mut self) -> Self {
        self.took = Some(self.started.elapsed());
        self
    }

    /// The report of a harness that cannot run here.
    pub(crate) fn skipped(harness: &'static str, seed: u64, why: impl Into<String>) -> Self {
        Self { skipped: Some(why.into()), ..Self::new(harness, seed) }
    }

    /// Adds to a figure.
    pub(crate) fn add(&mut self, name: &'static str, count: u64) {
        match self.figures.iter_mut().find(|(known, _)| *known == name) {
            Some((_, sum)) => *sum += count,
            None => self.figures.push((name, count)),
        }
    }

    /// Notes a failure. `arguments` make this program repeat it.
    pub(crate) fn fail(&mut self, what: &str, arguments: &str) {
        let failure = format!(
            "{}: {what}\n    repeat it with: cargo run -p tagmill-fault-tests --release -- {arguments}",
            self.harness
        );
        eprintln!("FAILED {failure}");
        self.failures.push(failure);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(why) = &self.skipped {
            writeln!(f, "SKIPPED {}: {why}", self.harness)?;
        }
        let seconds = self.took.unwrap_or_else(|| self.started.elapsed()).as_secs_f64();
        write!(
            f,
            "harness={} cases={} seeds={} seconds={seconds:.1} skipped={} failures={}",
            self.harness,
            self.cases,
            self.seed,
            u8::from(self.skipped.is_some()),
            self.failures.len(),
        )?;
        self.figures.iter().try_for_each(|(name, count)| write!(f, " {name}={count}"))
    }
}

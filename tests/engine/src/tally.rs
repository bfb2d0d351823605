//! How much a harness did, in one line that a machine can read: [`Tally`].
//!
//! # Contract
//! The line goes straight to standard error, past what captures the output of tests, when the tally ends: also of a run that
//! failed. `harness=<name> cases=<n> seeds=<n> seconds=<s> failures=<0 or 1> [<figure>=<n> ..]`

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Counts the cases of one harness.
#[derive(Debug)]
pub struct Tally {
    harness: &'static str,
    seeds: AtomicU64,
    cases: AtomicU64,
    figures: Mutex<BTreeMap<&'static str, u64>>,
    started: Instant,
}

impl Tally {
    /// Nothing yet.
    pub fn new(harness: &'static str) -> Self {
        let (seeds, cases) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { harness, seeds, cases, figures: Mutex::default(), started: Instant::now() }
    }

    /// Counts a seed that was tried.
    pub fn seed(&self) {
        self.seeds.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts cases.
    pub fn add(&self, cases: u64) {
        self.cases.fetch_add(cases, Ordering::Relaxed);
    }

    /// Adds to a figure that is told beside the cases.
    pub fn note(&self, figure: &'static str, count: u64) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        *figures.entry(figure).or_default() += count;
    }

    /// A figure so far.
    pub fn figure(&self, figure: &str) -> u64 {
        let figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.get(figure).copied().unwrap_or(0)
    }

    /// Cases so far.
    pub fn cases(&self) -> u64 {
        self.cases.load(Ordering::Relaxed)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let figures = self.figures.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut told = String::new();
        for (name, count) in figures.iter() {
            told.extend([" ", *name, "=", &count.to_string()]);
        }
        let line = format!(
            "harness={} cases={} seeds={} seconds={:.1} failures={}{told}\n",
            self.harness,
            self.cases(),
            self.seeds.load(Ordering::Relaxed),
            self.started.elapsed().as_secs_f64(),
            u8::from(std::thread::panicking()),
        );
        // Where standard error is closed there is nobody to tell.
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}

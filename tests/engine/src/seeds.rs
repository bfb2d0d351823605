//! Where the seeds of a run come from, and how a failure says which one it was.
//!
//! # Contract
//! Each run draws fresh seeds. `TAGMILL_SEED=n` repeats exactly one; `TAGMILL_CASES=n` multiplies how many are tried.
//! A test that fails prints its seed and the command that repeats it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// The seeds of one test: `count` fresh ones, or the one that the environment names.
pub fn seeds(count: u64) -> Vec<u64> {
    if let Some(seed) = number("TAGMILL_SEED") {
        return vec![seed];
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short numbers are easier to pass on; runs a second apart do not overlap.
    let first = now.as_secs() % 100_000_000 * 10_000;
    (first..first + count * number("TAGMILL_CASES").unwrap_or(1)).collect()
}

/// Does `body` for every seed or other item, on two threads. The first that panics stops the rest.
///
/// # Panics
/// If `body` does.
pub fn share<T: Clone + Send + Sync>(items: &[T], body: impl Fn(T) + Sync) {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.store(true, Ordering::SeqCst);
            }
        }
    }
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        let _stop = Stop(&stopped);
        while !stopped.load(Ordering::SeqCst)
            && let Some(item) = items.get(next.fetch_add(1, Ordering::SeqCst))
        {
            body(item.clone());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Says at a failure how to repeat it.
#[derive(Debug)]
pub struct Case {
    package: &'static str,
    test: &'static str,
    seed: u64,
}

impl Case {
    /// Begins a case of `test`, the path of the test within the engine's tests.
    pub const fn new(test: &'static str, seed: u64) -> Self {
        Self::of(env!("CARGO_PKG_NAME"), test, seed)
    }

    /// Begins a case of a test of another package.
    pub const fn of(package: &'static str, test: &'static str, seed: u64) -> Self {
        Self { package, test, seed }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { package, test, seed } = self;
            eprintln!(
                "seed {seed} failed; repeat it with\n    \
                 TAGMILL_SEED={seed} cargo test -p {package} -- --exact {test}"
            );
        }
    }
}

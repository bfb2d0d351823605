//! A wall clock that tests set, over a monotonic one that runs.

use std::sync::atomic::{AtomicI64, Ordering};

use tagmill_storage::{Clock, SystemClock};

/// A wall clock that stands still until it is moved.
#[derive(Debug)]
pub struct TestClock {
    wall_ns: AtomicI64,
    monotonic: SystemClock,
}

impl TestClock {
    /// A clock that shows `wall_ns`.
    pub fn new(wall_ns: i64) -> Self {
        Self { wall_ns: AtomicI64::new(wall_ns), monotonic: SystemClock::default() }
    }

    /// Moves the clock, forward or back.
    pub fn set(&self, wall_ns: i64) {
        self.wall_ns.store(wall_ns, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn wall_ns(&self) -> i64 {
        self.wall_ns.load(Ordering::SeqCst)
    }

    fn monotonic_ns(&self) -> u64 {
        self.monotonic.monotonic_ns()
    }
}

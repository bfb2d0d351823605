//! How many statements run at once, whichever door they come through.
//!
//! A few run, a few more wait for their turn, the rest are refused at once: a crowd must not take the memory of all.

use std::sync::Arc;
use std::time::Duration;

use tagmill::Settings;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Statements that run at once.
const RUNNING_MAX: usize = 4;
/// Statements that run or wait.
const ADMITTED_MAX: usize = 20;

/// What a session of a door begins with, other than a session of the library.
pub(crate) const SETTINGS: [(&str, &str); 1] = [("statement_timeout", "60s")];

/// A client that takes nothing of its answer for so long is cut off.
pub(crate) const STALL: Duration = Duration::from_mins(1);
/// Longest time that an answer may keep its place, whatever the session says.
const HELD_MAX: Duration = Duration::from_hours(1);

/// How long an answer may keep its place: its time, and what a client may take for the end of it.
pub(crate) fn held(settings: &Settings) -> Duration {
    settings.statement_timeout().map_or(HELD_MAX, |timeout| (timeout + STALL).min(HELD_MAX))
}

/// Places for statements.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
}

/// A statement that may wait for its turn.
#[derive(Debug)]
pub(crate) struct Admitted {
    running: Arc<Semaphore>,
    admitted: OwnedSemaphorePermit,
}

/// A statement's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _running: Option<OwnedSemaphorePermit>,
    _admitted: OwnedSemaphorePermit,
}

/// No place is free, nor one to wait in.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("too many statements run and wait: try again in a moment")]
pub(crate) struct Full;

impl Default for Admission {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { running: places(RUNNING_MAX), admitted: places(ADMITTED_MAX) }
    }
}

impl Admission {
    /// Takes a place in the queue.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn admit(&self) -> Result<Admitted, Full> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| Full)?;
        Ok(Admitted { running: Arc::clone(&self.running), admitted })
    }
}

impl Admitted {
    /// Waits until it may run.
    pub(crate) async fn turn(self) -> Place {
        // The semaphore is never closed.
        let running = self.running.acquire_owned().await.ok();
        Place { _running: running, _admitted: self.admitted }
    }
}

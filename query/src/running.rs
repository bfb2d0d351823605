//! Statements that run: who asked what, since when, how far it is, and how it is ended from outside.
//!
//! # Contract
//! A statement is here from the moment it begins until its answer is taken or dropped. Ending one makes it fail with
//! [`Error::Cancelled`](crate::Error::Cancelled) at its next pause.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::guard::interrupt::Interrupt;

/// Bytes of a statement's text that are kept.
const SQL_KEPT_BYTES: usize = 4 << 10;

/// On whose behalf a session asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who, in a form that does not change: the id of a token, say. Empty: nobody was asked.
    pub id: Arc<str>,
    /// Who, for people.
    pub name: Arc<str>,
    /// Which way: `postgres`, `grpc` ..
    pub door: &'static str,
    /// Whether it may see the statements of others, and what only operators may.
    pub is_operator: bool,
}

impl Default for Asker {
    fn default() -> Self {
        let none: Arc<str> = Arc::from("");
        Self { id: Arc::clone(&none), name: none, door: "embedded", is_operator: true }
    }
}

/// A statement that runs, as it was a moment ago.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its number, from 1, since the database was opened.
    pub id: u64,
    /// On whose behalf.
    pub asker: Asker,
    /// The first bytes of its text.
    pub sql: Arc<str>,
    /// When it began, nanoseconds since 1970.
    pub started_ns: i64,
    /// How long it has run, milliseconds.
    pub elapsed_ms: f64,
    /// Whether its rows are on their way; it is planned before.
    pub is_running: bool,
    /// Rows of the answer so far.
    pub rows: u64,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Running {
    last: AtomicU64,
    all: Mutex<BTreeMap<u64, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    asker: Asker,
    sql: Arc<str>,
    started_ns: i64,
    begun: Instant,
    /// Rows of the answer, one more than there are; 0 while it is planned.
    rows: AtomicU64,
    ended: watch::Sender<bool>,
    interrupt: Arc<Interrupt>,
}

/// One's own place among them; free when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    running: Arc<Running>,
    entry: Arc<Entry>,
    ended: watch::Receiver<bool>,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Entry>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a statement.
    pub(crate) fn enter(self: &Arc<Self>, asker: Asker, sql: &str) -> Place {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (ended, seen) = watch::channel(false);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let entry = Arc::new(Entry {
            id,
            asker,
            sql: Arc::from(&sql[..sql.floor_char_boundary(SQL_KEPT_BYTES)]),
            started_ns: i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            begun: Instant::now(),
            rows: AtomicU64::new(0),
            ended,
            interrupt: Arc::default(),
        });
        self.lock().insert(id, Arc::clone(&entry));
        Place { running: Arc::clone(self), entry, ended: seen }
    }

    /// Those an asker may see, oldest first.
    pub(crate) fn seen_by(&self, asker: &Asker) -> Vec<Statement> {
        let all = self.lock();
        all.values().filter(|entry| entry.is_for(asker)).map(|entry| entry.now()).collect()
    }

    /// Ends one that an asker may see. Whether there is such a one.
    pub(crate) fn end(&self, id: u64, asker: &Asker) -> bool {
        let all = self.lock();
        let found = all.get(&id).filter(|entry| entry.is_for(asker));
        found.is_some_and(|entry| {
            entry.interrupt.end();
            entry.ended.send_replace(true);
            true
        })
    }
}

impl Entry {
    fn is_for(&self, asker: &Asker) -> bool {
        asker.is_operator || self.asker.id == asker.id
    }

    fn now(&self) -> Statement {
        let rows = self.rows.load(Ordering::Relaxed);
        Statement {
            id: self.id,
            asker: self.asker.clone(),
            sql: Arc::clone(&self.sql),
            started_ns: self.started_ns,
            elapsed_ms: self.begun.elapsed().as_secs_f64() * 1e3,
            is_running: rows > 0,
            rows: rows.saturating_sub(1),
        }
    }
}

impl Place {
    /// The statement's number.
    pub(crate) fn id(&self) -> u64 {
        self.entry.id
    }

    /// Its rows are on their way: so many more.
    pub(crate) fn count(&self, rows: usize) {
        let now = self.entry.rows.load(Ordering::Relaxed).max(1);
        self.entry.rows.store(now + rows as u64, Ordering::Relaxed);
    }

    /// What tells its work that it is over: somebody has ended it, or wants no more of its answer.
    pub(crate) fn interrupt(&self) -> Arc<Interrupt> {
        Arc::clone(&self.entry.interrupt)
    }

    /// Waits until somebody ends it.
    pub(crate) async fn ended(&mut self) {
        // The entry holds the sender.
        drop(self.ended.wait_for(|ended| *ended).await);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.entry.interrupt.end();
        self.running.lock().remove(&self.entry.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asker(id: &str, is_operator: bool) -> Asker {
        Asker { id: Arc::from(id), is_operator, ..Asker::default() }
    }

    #[tokio::test]
    async fn everybody_sees_and_ends_their_own_and_operators_all() {
        let running = Arc::new(Running::default());
        let mut first = running.enter(asker("a", false), "SELECT 1");
        let second = running.enter(asker("b", false), &"ü".repeat(SQL_KEPT_BYTES));
        second.count(0);
        second.count(3);
        let ids = |asker: &Asker| -> Vec<u64> {
            running.seen_by(asker).iter().map(|statement| statement.id).collect()
        };
        assert_eq!(ids(&asker("a", false)), [1]);
        assert_eq!(ids(&asker("c", true)), [1, 2]);
        let seen = &running.seen_by(&asker("b", false))[0];
        assert_eq!((seen.rows, seen.is_running, seen.sql.len()), (3, true, SQL_KEPT_BYTES));
        assert!(!running.end(1, &asker("b", false)) && !running.end(3, &asker("c", true)));
        assert!(running.end(1, &asker("c", true)));
        first.ended().await;
        drop(first);
        assert_eq!(ids(&asker("c", true)), [2]);
    }
}

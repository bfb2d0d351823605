//! Statements of all doors: in whose name they run, and how many at once.
//!
//! # Contract
//! * A session of a door sees what its principal may, and begins with [`SETTINGS`].
//! * A statement is planned first. If it will read little it has a place of its own; if much, a few run, a few more wait
//!   for their turn, and the rest are refused at once: a crowd must not take the memory of all, nor keep a small question
//!   waiting.
//! * Where principals are told apart none has more than [`SHARE`] of the places: one that takes its answers slowly leaves
//!   some to the others.

mod streamed;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tagmill::arrow::datatypes::SchemaRef;
use tagmill::datafusion::common::ScalarValue;
use tagmill::{Answer, Asker, Database, Described, Prepared, Session, Settings};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(crate) use self::streamed::{Pieces, Serving, streamed};
use crate::access::{Principal, Role};

/// Long statements that run at once.
const RUNNING_MAX: usize = 4;
/// Long statements that run or wait.
const ADMITTED_MAX: usize = 20;
/// Small statements that run at once; more wait for their turn, which comes soon.
const SMALL_MAX: usize = 4;
/// Statements of all kinds that are planned, wait or run.
const STATEMENTS_MAX: usize = 256;
/// What one principal may have of each of these, in fourths.
const SHARE: usize = 3;

/// What a session of a door begins with, other than a session of the library.
const SETTINGS: [(&str, &str); 3] = [
    ("statement_timeout", "60s"),
    ("tagmill.max_rows", "1000000"),
    ("tagmill.max_bytes", "256 MiB"),
];

/// A client that takes nothing of its answer for so long is cut off.
pub(crate) const STALL: Duration = Duration::from_mins(1);
/// Longest time that an answer may keep its place, whatever the session says.
const HELD_MAX: Duration = Duration::from_hours(1);

/// How long an answer may keep its place: its time, and what a client may take for the end of it.
pub(crate) fn held(settings: &Settings) -> Duration {
    settings.statement_timeout().map_or(HELD_MAX, |timeout| (timeout + STALL).min(HELD_MAX))
}

/// As whom a principal asks.
pub(crate) fn asker(principal: &Principal, door: &'static str) -> Asker {
    let (id, name) = (Arc::clone(&principal.id), Arc::clone(&principal.name));
    let is_operator = principal.scope().is_none() && principal.may(Role::Operator);
    Asker { id, name, door, is_operator }
}

/// A session of a principal.
///
/// # Errors
/// None in practice: the settings of doors are known to the library.
pub(crate) fn session_of(
    database: &Database,
    principal: &Principal,
    door: &'static str,
) -> tagmill::Result<Session> {
    let mut session = database.session().on_behalf_of(asker(principal, door));
    if let Some(scope) = principal.scope() {
        session = session.within(Arc::clone(scope));
    }
    let settings = session.settings_mut();
    for (name, value) in SETTINGS {
        settings.set(name, value)?;
    }
    settings.make_defaults();
    Ok(session)
}

/// The threads that statements run on. No door lives there: a statement that never pauses keeps nobody else from being heard.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    /// As many long ones as there are processors may keep all threads here.
    pub(crate) long: Handle,
    /// Small ones run beside them all the same.
    pub(crate) small: Handle,
}

/// Places for statements, and the threads they run on.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    threads: Threads,
    places: Places,
    /// Those of each principal, by its id: as many as there are tokens.
    own: Arc<Mutex<HashMap<Arc<str>, Places>>>,
    /// Statements that rest between two parts of their answer, and see nothing meanwhile.
    resting: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    refused: Arc<AtomicU64>,
}

/// How many statements there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Statements {
    /// Of all kinds, that are planned, wait or run.
    pub(crate) all: usize,
    /// Long ones that run.
    pub(crate) running: usize,
    /// Long ones that wait for their turn.
    pub(crate) waiting: usize,
    /// Those that found no place, since the start.
    pub(crate) refused: u64,
}

/// Tells whether a statement that rests was ended. Nobody needs to know once this is dropped.
#[derive(Debug)]
pub(crate) struct Resting {
    statement: u64,
    ended: oneshot::Receiver<()>,
    all: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
}

impl Resting {
    /// Waits until somebody ends it.
    pub(crate) async fn ended(&mut self) {
        drop((&mut self.ended).await);
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.ended.close();
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // It may rest again by now: that one's sender is open.
        if all.get(&self.statement).is_some_and(oneshot::Sender::is_closed) {
            all.remove(&self.statement);
        }
    }
}

/// Places of all kinds.
#[derive(Clone, Debug)]
struct Places {
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    small: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Places {
    /// So many fourths of those there are.
    fn new(fourths: usize) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count * fourths / 4));
        Self {
            running: places(RUNNING_MAX),
            admitted: places(ADMITTED_MAX),
            small: places(SMALL_MAX),
            all: places(STATEMENTS_MAX),
        }
    }
}

/// A statement's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    held: Vec<OwnedSemaphorePermit>,
}

/// Why a statement does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No place is free, nor one to wait in.
    #[error("too many statements run and wait: try again in a moment")]
    Full,
    /// What it met.
    #[error(transparent)]
    Statement(#[from] tagmill::Error),
}

impl Admission {
    /// Places on threads that do nothing else.
    pub(crate) fn new(threads: Threads) -> Self {
        let (own, resting, refused) = Default::default();
        Self { threads, places: Places::new(4), own, resting, refused }
    }

    /// How many there are now.
    pub(crate) fn statements(&self) -> Statements {
        let taken = |places: &Semaphore, of: usize| of - places.available_permits();
        let running = taken(&self.places.running, RUNNING_MAX);
        Statements {
            all: taken(&self.places.all, STATEMENTS_MAX),
            running,
            // One that is admitted has its turn a moment later.
            waiting: taken(&self.places.admitted, ADMITTED_MAX).saturating_sub(running),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Ends a statement that an asker may see. Whether there is such a one.
    pub(crate) fn end(&self, database: &Database, statement: u64, asker: &Asker) -> bool {
        let is_there = database.end(statement, asker);
        if is_there {
            // The sender that is dropped tells it.
            self.resting.lock().unwrap_or_else(PoisonError::into_inner).remove(&statement);
        }
        is_there
    }

    /// Notes that nobody asks a statement for rows for now.
    pub(crate) fn rest(&self, statement: u64) -> Resting {
        let (sender, ended) = oneshot::channel();
        let all = Arc::clone(&self.resting);
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(statement, sender);
        Resting { statement, ended, all }
    }

    /// Plans a statement, waits for its turn and begins it.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn run(
        &self,
        principal: &Principal,
        session: &mut Session,
        sql: &str,
        values: Vec<ScalarValue>,
    ) -> Result<(Answer, Place), Failure> {
        let one = self.one_of_all(principal)?;
        let mut prepared = session.prepare(sql, values).await?;
        let mut place = self.place_for(principal, &mut prepared).await?;
        place.held.extend(one);
        let threads = if prepared.is_small() { &self.threads.small } else { &self.threads.long };
        let _there = threads.enter();
        Ok((prepared.run()?, place))
    }

    /// Says what a statement takes and gives.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn describe(
        &self,
        principal: &Principal,
        session: &Session,
        sql: &str,
    ) -> Result<Described, Failure> {
        let _one = self.one_of_all(principal)?;
        Ok(session.describe(sql).await?)
    }

    /// Says what a statement gives with its values, whose types may decide that.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn describe_with(
        &self,
        principal: &Principal,
        session: &mut Session,
        sql: &str,
        values: Vec<ScalarValue>,
    ) -> Result<SchemaRef, Failure> {
        let _one = self.one_of_all(principal)?;
        Ok(session.prepare(sql, values).await?.schema())
    }

    async fn place_for(
        &self,
        principal: &Principal,
        prepared: &mut Prepared,
    ) -> Result<Place, Failure> {
        if prepared.is_small() {
            let turn = turn_in(self.both(principal), |places| &places.small);
            return Ok(Place { held: prepared.wait_for(turn).await? });
        }
        prepared.wait_for(self.long_place(principal)).await?
    }

    /// Waits for the place of a long statement.
    ///
    /// # Errors
    /// [`Failure::Full`].
    pub(crate) async fn long_place(&self, principal: &Principal) -> Result<Place, Failure> {
        let both = self.both(principal);
        let mut held = self.one_in(&both, |places| &places.admitted)?;
        held.extend(turn_in(both, |places| &places.running).await);
        Ok(Place { held })
    }

    fn one_of_all(&self, principal: &Principal) -> Result<Vec<OwnedSemaphorePermit>, Failure> {
        self.one_in(&self.both(principal), |places| &places.all)
    }

    /// A place of a kind among one's own and among all, if both are free.
    fn one_in(
        &self,
        both: &[Places],
        kind: fn(&Places) -> &Arc<Semaphore>,
    ) -> Result<Vec<OwnedSemaphorePermit>, Failure> {
        let free = |places: &Places| Arc::clone(kind(places)).try_acquire_owned();
        both.iter().map(free).collect::<Result<Vec<_>, _>>().map_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            Failure::Full
        })
    }

    /// A principal's own places, if it is told apart from others, and those of all.
    fn both(&self, principal: &Principal) -> Vec<Places> {
        let mut both = Vec::with_capacity(2);
        if !principal.id.is_empty() {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            let own = own.entry(Arc::clone(&principal.id)).or_insert_with(|| Places::new(SHARE));
            both.push(own.clone());
        }
        both.push(self.places.clone());
        both
    }
}

/// Waits for a place of a kind. First for one's own: who waits for that keeps none from others.
async fn turn_in(
    both: Vec<Places>,
    kind: fn(&Places) -> &Arc<Semaphore>,
) -> Vec<OwnedSemaphorePermit> {
    let mut held = Vec::with_capacity(both.len());
    for places in both {
        // The semaphores are never closed.
        held.extend(Arc::clone(kind(&places)).acquire_owned().await.ok());
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str) -> Principal {
        let mut principal = Principal::anyone();
        principal.id = Arc::from(id);
        principal
    }

    fn here() -> Threads {
        Threads { long: Handle::current(), small: Handle::current() }
    }

    #[tokio::test]
    async fn a_statement_that_rests_again_is_not_ended_by_the_end_of_its_first_rest() {
        let admission = Admission::new(here());
        let first = admission.rest(7);
        let mut second = admission.rest(7);
        drop(first);
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, second.ended()).await.is_err());
        assert!(admission.resting.lock().unwrap().remove(&7).is_some());
        second.ended().await;
    }

    #[tokio::test]
    async fn no_principal_takes_all_places() {
        let admission = Admission::new(here());
        let (one, other) = (named("a"), named("b"));
        let mut held = Vec::new();
        for _ in 0..RUNNING_MAX * SHARE / 4 {
            held.push(admission.long_place(&one).await.unwrap());
        }
        let mut more = Box::pin(admission.long_place(&one));
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, &mut more).await.is_err(), "it has its share");
        let others = admission.long_place(&other).await.unwrap();
        held.pop();
        let more = more.await.unwrap();
        drop((held, others, more));
        // Of those that wait it has its share too.
        let admitted =
            |principal| admission.one_in(&admission.both(principal), |places| &places.admitted);
        let full: Vec<_> = (0..ADMITTED_MAX * SHARE / 4).map(|_| admitted(&one)).collect();
        assert!(full.iter().all(Result::is_ok) && admitted(&one).is_err());
        assert!(admitted(&other).is_ok());
    }

    #[tokio::test]
    async fn where_nobody_is_told_apart_all_places_are_everybodys() {
        let admission = Admission::new(here());
        let anyone = Principal::anyone();
        let mut held = Vec::new();
        for _ in 0..RUNNING_MAX {
            held.push(admission.long_place(&anyone).await.unwrap());
        }
        let soon = Duration::from_millis(5);
        assert!(tokio::time::timeout(soon, admission.long_place(&anyone)).await.is_err());
    }
}

//! Statements of all doors: in whose name they run, and how many at once.
//!
//! # Contract
//! * A session of a door sees what its principal may, and begins with [`SETTINGS`].
//! * A statement is planned first. If it will read little it has a place of its own; if much, a few run, a few more wait
//!   for their turn, and the rest are refused at once: a crowd must not take the memory of all, nor keep a small question
//!   waiting.

use std::sync::Arc;
use std::time::Duration;

use tagmill::datafusion::common::ScalarValue;
use tagmill::{Answer, Asker, Database, Prepared, Session, Settings};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::{Principal, Role};

/// Long statements that run at once.
const RUNNING_MAX: usize = 4;
/// Long statements that run or wait.
const ADMITTED_MAX: usize = 20;
/// Small statements that run at once; more wait for their turn, which comes soon.
const SMALL_MAX: usize = 4;
/// Statements of all kinds that are planned, wait or run.
const STATEMENTS_MAX: usize = 256;

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

/// Places for statements, and the threads they run on.
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    /// No door lives there: a statement that never pauses keeps nobody else from being heard.
    runtime: Handle,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    small: Arc<Semaphore>,
    all: Arc<Semaphore>,
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
    /// Places on a runtime that does nothing else.
    pub(crate) fn new(runtime: Handle) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            runtime,
            running: places(RUNNING_MAX),
            admitted: places(ADMITTED_MAX),
            small: places(SMALL_MAX),
            all: places(STATEMENTS_MAX),
        }
    }

    /// Plans a statement, waits for its turn and begins it.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn run(
        &self,
        session: &mut Session,
        sql: &str,
        values: Vec<ScalarValue>,
    ) -> Result<(Answer, Place), Failure> {
        let one = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Failure::Full)?;
        let mut prepared = session.prepare(sql, values).await?;
        let mut place = self.place_for(&mut prepared).await?;
        place.held.push(one);
        let _there = self.runtime.enter();
        Ok((prepared.run()?, place))
    }

    async fn place_for(&self, prepared: &mut Prepared) -> Result<Place, Failure> {
        if prepared.is_small() {
            let turn = Arc::clone(&self.small).acquire_owned();
            // The semaphores are never closed.
            let held = prepared.wait_for(turn).await?.into_iter().collect();
            return Ok(Place { held });
        }
        prepared.wait_for(self.long_place()).await?
    }

    /// Waits for the place of a long statement.
    ///
    /// # Errors
    /// [`Failure::Full`].
    pub(crate) async fn long_place(&self) -> Result<Place, Failure> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned();
        let admitted = admitted.map_err(|_| Failure::Full)?;
        let running = Arc::clone(&self.running).acquire_owned().await.ok();
        Ok(Place { held: [Some(admitted), running].into_iter().flatten().collect() })
    }
}

//! What is kept of a connection: who it is, its session, and how a running statement is cancelled.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use pgwire::api::ClientInfo;
use pgwire::error::PgWireResult;
use pgwire::messages::startup::SecretKey;
use tagmill::{Session, Settings};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::answer::Lost;
use super::errors::{error, fatal};
use super::variables::Variables;
use crate::access::Principal;

/// Prepared statements of one connection, and the bytes of their texts, types and names.
const PREPARED_MAX: usize = 1_000;
const PREPARED_BYTES_MAX: usize = 16 << 20;
/// Portals of one connection, and the bytes of the values bound to them and of their names.
const PORTALS_MAX: usize = 64;
const PORTAL_BYTES_MAX: usize = 16 << 20;
/// Portals of one connection that have given a part of their answer and hold the rest.
const SUSPENDED_MAX: usize = 4;
/// Bytes of the name of a prepared statement or portal.
const NAME_BYTES_MAX: usize = 255;

/// One connection, after its login.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) principal: Principal,
    pub(super) state: tokio::sync::Mutex<State>,
    /// Changes when the running statement is to end.
    cancel: watch::Sender<()>,
    /// Leaves the list of connections with this one.
    _listed: Listed,
}

/// What statements change.
#[derive(Debug)]
pub(super) struct State {
    pub(super) session: Session,
    pub(super) variables: Variables,
    /// What ROLLBACK goes back to.
    pub(super) at_begin: Option<Box<(Settings, Variables)>>,
    /// What COMMIT sets back: what was set with SET LOCAL, and its value before.
    pub(super) local: Vec<(String, String)>,
    pub(super) prepared: Names,
    pub(super) portals: Portals,
    /// What RESET goes back to: as it was after the login.
    initial: Box<(Settings, Variables)>,
}

/// Prepared statements that a connection holds, by their names.
#[derive(Debug, Default)]
pub(super) struct Names {
    each: HashMap<String, usize>,
    bytes: usize,
}

impl Names {
    /// Adds one of so many bytes; one of its name goes.
    pub(super) fn add(&mut self, name: &str, bytes: usize) -> PgWireResult<()> {
        check_name(name)?;
        let bytes = name.len() + bytes;
        let before = self.each.get(name).copied();
        let count = self.each.len() + usize::from(before.is_none());
        let sum = self.bytes - before.unwrap_or(0) + bytes;
        if count > PREPARED_MAX || sum > PREPARED_BYTES_MAX {
            let text = format!(
                "a connection has at most {PREPARED_MAX} prepared statements with 16 MiB of text"
            );
            return Err(error("53000", text));
        }
        self.bytes = sum;
        self.each.insert(name.to_owned(), bytes);
        Ok(())
    }

    /// Forgets one. Whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let bytes = self.each.remove(name);
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }

    /// Forgets all, and gives their names.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = String> {
        self.bytes = 0;
        self.each.drain().map(|(name, _)| name)
    }
}

/// Fails if a name is too long to be kept.
pub(super) fn check_name(name: &str) -> PgWireResult<()> {
    if name.len() > NAME_BYTES_MAX {
        let text = format!("a statement or portal has a name of at most {NAME_BYTES_MAX} bytes");
        return Err(error("42622", text));
    }
    Ok(())
}

/// Portals that a connection holds.
#[derive(Debug, Default)]
pub(super) struct Portals {
    each: HashMap<String, Held>,
    bytes: usize,
}

/// What is known of a portal.
#[derive(Debug, Default)]
struct Held {
    bytes: usize,
    begun: Option<Begun>,
    watched: Option<Watched>,
    /// Whether what it stands for has failed: nobody may take it for one whose rows have all been given.
    has_failed: bool,
}

/// What is known of an answer that has begun.
#[derive(Clone, Debug)]
pub(super) struct Begun {
    pub(super) lost: Lost,
    /// When it must have been taken.
    pub(super) ends: Instant,
    /// Its number, if it has one.
    pub(super) statement: Option<u64>,
}

/// Who ends an answer that is not asked for its next part in time. It goes when this is dropped.
#[derive(Debug)]
pub(super) struct Watched(pub(super) AbortHandle);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Portals {
    /// Adds one that holds so many bytes of values; one of its name goes.
    pub(super) fn add(&mut self, name: &str, bytes: usize) -> PgWireResult<()> {
        check_name(name)?;
        let bytes = name.len() + bytes;
        // One that is refused takes nobody's place: the one of its name is still there.
        let before = self.each.get(name).map(|held| held.bytes);
        let count = self.each.len() + usize::from(before.is_none());
        let sum = self.bytes - before.unwrap_or(0) + bytes;
        if count > PORTALS_MAX || sum > PORTAL_BYTES_MAX {
            let text =
                format!("a connection has at most {PORTALS_MAX} portals with 16 MiB of values");
            return Err(error("53000", text));
        }
        self.bytes = sum;
        self.each.insert(name.to_owned(), Held { bytes, ..Held::default() });
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(held) = self.each.remove(name) {
            self.bytes -= held.bytes;
        }
    }

    /// Forgets all, and gives their names.
    pub(super) fn clear(&mut self) -> Vec<String> {
        self.bytes = 0;
        self.each.drain().map(|(name, _)| name).collect()
    }

    /// Notes that an answer has begun.
    pub(super) fn begin(&mut self, name: &str, begun: Begun) {
        if let Some(portal) = self.each.get_mut(name) {
            portal.begun = Some(begun);
        }
    }

    /// Notes that one has failed. It holds nothing of an answer any more, and waits for its name to be taken again.
    pub(super) fn fail(&mut self, name: &str) {
        if let Some(portal) = self.each.get_mut(name) {
            (portal.begun, portal.watched, portal.has_failed) = (None, None, true);
        }
    }

    /// Fails if one has failed before.
    pub(super) fn check(&self, name: &str) -> PgWireResult<()> {
        if self.each.get(name).is_some_and(|portal| portal.has_failed) {
            let text = format!("portal {name:?} cannot be run: it has failed, bind it again");
            return Err(error("55000", text));
        }
        Ok(())
    }

    /// What is known of the answer of a portal. Nobody needs to watch it while it goes on.
    pub(super) fn go_on(&mut self, name: &str) -> Option<Begun> {
        let portal = self.each.get_mut(name)?;
        portal.watched = None;
        portal.begun.clone()
    }

    /// Notes that an answer rests, and who watches it, unless too many do.
    pub(super) fn suspend(&mut self, name: &str, watched: Watched) -> PgWireResult<()> {
        let suspended = self.each.values().filter(|portal| portal.watched.is_some()).count();
        if suspended >= SUSPENDED_MAX {
            let text = format!("a connection has at most {SUSPENDED_MAX} answers taken in parts");
            return Err(error("53000", text));
        }
        if let Some(portal) = self.each.get_mut(name) {
            portal.watched = Some(watched);
        }
        Ok(())
    }
}

impl State {
    /// Begins a transaction.
    pub(super) fn begin(&mut self) {
        let now = (self.session.settings().clone(), self.variables.clone());
        self.at_begin = Some(Box::new(now));
    }

    /// Ends it: what was set within stays, but what was set for it alone. Gives what the client is told of.
    pub(super) fn commit(&mut self) -> PgWireResult<Vec<&'static str>> {
        self.at_begin = None;
        let mut told = Vec::new();
        while let Some((name, value)) = self.local.pop() {
            told.extend(self.variables.set(&mut self.session, &name, &value)?);
        }
        Ok(told)
    }

    /// Ends it: nothing stays. Gives whether anything was set within.
    pub(super) fn roll_back(&mut self) -> bool {
        self.local.clear();
        let Some((settings, variables)) = self.at_begin.take().map(|before| *before) else {
            return false;
        };
        let has_changed = *self.session.settings() != settings || self.variables != variables;
        *self.session.settings_mut() = settings;
        self.variables = variables;
        has_changed
    }

    /// Sets a variable, for this transaction alone if it is local.
    pub(super) fn set(
        &mut self,
        name: &str,
        value: &str,
        is_local: bool,
    ) -> PgWireResult<Option<&'static str>> {
        let before = self.variables.get(self.session.settings(), name)?;
        let told = if value.eq_ignore_ascii_case("default") {
            self.reset(name)?
        } else {
            self.variables.set(&mut self.session, name, value)?
        };
        if is_local {
            self.local.push((name.to_owned(), before));
        }
        Ok(told)
    }

    /// Gives a variable, or with the name `all` every one, the value that it had after the login.
    pub(super) fn reset(&mut self, name: &str) -> PgWireResult<Option<&'static str>> {
        let (settings, variables) = self.initial.as_ref();
        if name.eq_ignore_ascii_case("all") {
            *self.session.settings_mut() = settings.clone();
            self.variables = variables.clone();
            return Ok(None);
        }
        let value = variables.get(settings, name)?;
        self.variables.set(&mut self.session, name, &value)
    }
}

impl Connection {
    pub(super) fn new(
        principal: Principal,
        session: Session,
        variables: Variables,
        cancels: &Arc<Cancels>,
        key: (i32, &SecretKey),
    ) -> Self {
        let (cancel, _) = watch::channel(());
        let listed = cancels.list(key, cancel.clone());
        let initial = Box::new((session.settings().clone(), variables.clone()));
        let (at_begin, local, prepared) = (None, Vec::new(), Names::default());
        let portals = Portals::default();
        let state = State { session, variables, at_begin, local, prepared, portals, initial };
        Self { principal, state: tokio::sync::Mutex::new(state), cancel, _listed: listed }
    }

    /// The value of a variable.
    pub(super) async fn shown(&self, name: &str) -> PgWireResult<String> {
        let state = self.state.lock().await;
        state.variables.get(state.session.settings(), name)
    }

    /// Changes when what begins now is to end.
    pub(super) fn cancelled(&self) -> watch::Receiver<()> {
        self.cancel.subscribe()
    }
}

/// What is kept of the connection that a message came by.
pub(super) fn connection_of<C: ClientInfo>(client: &C) -> PgWireResult<Arc<Connection>> {
    let known = client.session_extensions().get::<Connection>();
    known.ok_or_else(|| fatal("08P01", "log in first"))
}

type Key = (i32, bytes::Bytes);

/// Connections by what a cancel request names.
#[derive(Debug, Default)]
pub(super) struct Cancels(Mutex<HashMap<Key, watch::Sender<()>>>);

impl Cancels {
    fn list(self: &Arc<Self>, (pid, key): (i32, &SecretKey), cancel: watch::Sender<()>) -> Listed {
        let key = (pid, key.to_bytes());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(key.clone(), cancel);
        Listed { key, all: Arc::clone(self) }
    }

    /// Ends what a connection runs. One that is not known is nobody's business.
    pub(super) fn cancel(&self, pid: i32, key: &SecretKey) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cancel) = all.get(&(pid, key.to_bytes())) {
            cancel.send_replace(());
        }
    }
}

#[derive(Debug)]
struct Listed {
    key: Key,
    all: Arc<Cancels>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use pgwire::error::{ErrorInfo, PgWireError};

    use super::*;

    fn code(failure: PgWireError) -> String {
        ErrorInfo::from(failure).code
    }

    #[test]
    fn what_is_prepared_is_bounded_by_its_bytes() {
        let mut names = Names::default();
        names.add("", PREPARED_BYTES_MAX / 2).unwrap();
        names.add("", PREPARED_BYTES_MAX).unwrap();
        assert!(names.add("a", 0).is_err(), "the name alone is too much");
        names.add("", 0).unwrap();
        for number in 1..PREPARED_MAX {
            names.add(&number.to_string(), 10).unwrap();
        }
        assert!(names.add("one more", 0).is_err());
        assert!(names.remove("1") && !names.remove("1"));
        assert!(names.add(&"n".repeat(NAME_BYTES_MAX + 1), 0).is_err());
        names.add(&"n".repeat(NAME_BYTES_MAX), 0).unwrap();
        assert_eq!((names.drain().count(), names.bytes), (PREPARED_MAX, 0));
    }

    #[tokio::test]
    async fn portals_are_bounded_and_few_of_them_rest() {
        let mut portals = Portals::default();
        let watched = || Watched(tokio::spawn(std::future::pending::<()>()).abort_handle());
        for number in 0..PORTALS_MAX {
            portals.add(&number.to_string(), 0).unwrap();
        }
        assert!(portals.add("one more", 0).is_err() && portals.add("0", 0).is_ok());
        for name in ["0", "1", "2", "3"] {
            portals.suspend(name, watched()).unwrap();
        }
        assert!(portals.suspend("4", watched()).is_err());
        portals.go_on("0");
        portals.suspend("4", watched()).unwrap();
        portals.remove("1");
        portals.suspend("5", watched()).unwrap();
        assert_eq!((portals.clear().len(), portals.bytes), (PORTALS_MAX - 1, 0));
        portals.add("a", 0).unwrap();
        portals.suspend("a", watched()).unwrap();
        portals.fail("a");
        assert!(portals.check("a").is_err_and(|failure| code(failure) == "55000"));
        assert!(portals.each["a"].watched.is_none() && portals.go_on("a").is_none());
        portals.add("a", 0).unwrap();
        assert!(portals.check("a").is_ok() && portals.check("b").is_ok());
        assert!(portals.add("a", PORTAL_BYTES_MAX).is_err(), "the name counts");
        portals.add("a", PORTAL_BYTES_MAX - 1).unwrap();
        portals.add("a", PORTAL_BYTES_MAX - 2).unwrap();
        assert!(portals.add("a", PORTAL_BYTES_MAX).is_err() && portals.add("b", 1).is_err());
        assert_eq!(portals.bytes, PORTAL_BYTES_MAX - 1, "one that is refused leaves the old one");
        assert_eq!(portals.clear(), ["a"]);
        assert!(portals.add(&"n".repeat(NAME_BYTES_MAX + 1), 0).is_err());
    }
}

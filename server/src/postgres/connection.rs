//! What is kept of a connection: who it is, its session, and how a running statement is cancelled.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use pgwire::api::ClientInfo;
use pgwire::error::PgWireResult;
use pgwire::messages::startup::SecretKey;
use tagmill::{Session, Settings};
use tokio::sync::watch;

use super::answer::Lost;
use super::errors::{error, fatal};
use super::variables::Variables;
use crate::access::Principal;

/// Portals of one connection, and the bytes of the values bound to them.
const PORTALS_MAX: usize = 64;
const PORTAL_BYTES_MAX: usize = 16 << 20;

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
    /// Names of prepared statements.
    pub(super) prepared: HashSet<String>,
    pub(super) portals: Portals,
    /// What RESET goes back to: as it was after the login.
    initial: Box<(Settings, Variables)>,
}

/// Portals that a connection holds.
#[derive(Debug, Default)]
pub(super) struct Portals {
    each: HashMap<String, (usize, Lost)>,
    bytes: usize,
}

impl Portals {
    /// Adds one that holds so many bytes of values; one of its name goes.
    pub(super) fn add(&mut self, name: &str, bytes: usize) -> PgWireResult<()> {
        self.remove(name);
        if self.each.len() >= PORTALS_MAX || self.bytes + bytes > PORTAL_BYTES_MAX {
            let text =
                format!("a connection has at most {PORTALS_MAX} portals with 16 MiB of values");
            return Err(error("53000", text));
        }
        self.bytes += bytes;
        self.each.insert(name.to_owned(), (bytes, Lost::default()));
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some((bytes, _)) = self.each.remove(name) {
            self.bytes -= bytes;
        }
    }

    /// Forgets all, and gives their names.
    pub(super) fn clear(&mut self) -> Vec<String> {
        self.bytes = 0;
        self.each.drain().map(|(name, _)| name).collect()
    }

    /// Notes what an answer that began loses.
    pub(super) fn begun(&mut self, name: &str, lost: Lost) {
        if let Some(portal) = self.each.get_mut(name) {
            portal.1 = lost;
        }
    }

    pub(super) fn lost(&self, name: &str) -> Lost {
        self.each.get(name).map(|(_, lost)| lost.clone()).unwrap_or_default()
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
        let (at_begin, local, prepared) = (None, Vec::new(), HashSet::new());
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

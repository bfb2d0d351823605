//! What clients have asked to be kept: statements with their values, by a handle that nobody can guess.
//!
//! Contract: a handle is good for whoever got it, for [`KEPT`] after its last use, and at most until the server restarts.
//! So many are kept; beyond, the one that was not used for longest gives way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_flight::FlightInfo;
use arrow_flight::sql::{Any, Command, CommandPreparedStatementQuery, TicketStatementQuery};
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use super::Values;
use crate::access::{Principal, token};

/// How long a handle is good for without use.
const KEPT: Duration = Duration::from_hours(1);
/// Statements of all clients.
const STATEMENTS_MAX: usize = 10_000;
/// Bytes of a handle.
const HANDLE_BYTES: usize = 16;

/// One statement.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sql: Arc<str>,
    pub(super) values: Values,
    owner: Arc<str>,
    used: Instant,
    /// Its number while it runs.
    runs: Option<u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    kept: Mutex<HashMap<Bytes, Statement>>,
}

impl Statement {
    pub(super) fn new(principal: &Principal, sql: String) -> Self {
        let (owner, used) = (Arc::clone(&principal.id), Instant::now());
        Self { sql: sql.into(), values: Vec::new(), owner, used, runs: None }
    }
}

impl Statements {
    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Statement>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a statement and gives its handle.
    pub(super) fn keep(&self, statement: Statement) -> Result<Bytes, Status> {
        let handle = token::random::<HANDLE_BYTES>().map_err(Status::internal)?;
        let handle = Bytes::copy_from_slice(&handle);
        let mut kept = self.lock();
        if kept.len() >= STATEMENTS_MAX {
            kept.retain(|_, statement| statement.used.elapsed() < KEPT);
        }
        if kept.len() >= STATEMENTS_MAX {
            let oldest = kept.iter().min_by_key(|(_, statement)| statement.used);
            let oldest = oldest.map(|(handle, _)| handle.clone());
            oldest.and_then(|handle| kept.remove(&handle));
        }
        kept.insert(handle.clone(), statement);
        Ok(handle)
    }

    /// The statement of a handle.
    pub(super) fn get(&self, handle: &Bytes, principal: &Principal) -> Result<Statement, Status> {
        self.with(handle, principal, |statement| statement.clone())
    }

    /// Gives a statement its values.
    pub(super) fn bind(
        &self,
        handle: &Bytes,
        principal: &Principal,
        values: Values,
    ) -> Result<(), Status> {
        self.with(handle, principal, |statement| statement.values = values)
    }

    /// Notes under which number a statement runs.
    pub(super) fn runs(&self, handle: &Bytes, principal: &Principal, number: Option<u64>) {
        // It may be closed already.
        drop(self.with(handle, principal, |statement| statement.runs = number));
    }

    /// The number of the running statement that a flight info is of.
    pub(super) fn running(&self, info: &FlightInfo, principal: &Principal) -> Option<u64> {
        let ticket = info.endpoint.first()?.ticket.as_ref()?;
        let command = Command::try_from(Any::decode(ticket.ticket.clone()).ok()?).ok()?;
        let handle = match command {
            Command::TicketStatementQuery(TicketStatementQuery { statement_handle: handle }) => {
                handle
            }
            Command::CommandPreparedStatementQuery(CommandPreparedStatementQuery {
                prepared_statement_handle: handle,
            }) => handle,
            _ => return None,
        };
        self.with(&handle, principal, |statement| statement.runs).ok().flatten()
    }

    /// Forgets a statement.
    pub(super) fn close(&self, handle: &Bytes, principal: &Principal) {
        let mut kept = self.lock();
        if kept.get(handle).is_some_and(|statement| statement.owner == principal.id) {
            kept.remove(handle);
        }
    }

    fn with<T>(
        &self,
        handle: &Bytes,
        principal: &Principal,
        look: impl FnOnce(&mut Statement) -> T,
    ) -> Result<T, Status> {
        let mut kept = self.lock();
        let found = kept
            .get_mut(handle)
            .filter(|statement| statement.owner == principal.id && statement.used.elapsed() < KEPT);
        let found = found.ok_or_else(|| {
            Status::not_found("there is no such statement: it was closed, or not used for an hour")
        })?;
        found.used = Instant::now();
        Ok(look(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_is_its_owners_until_it_is_closed() {
        let statements = Statements::default();
        let owner = Principal::anyone();
        let mut other = Principal::anyone();
        other.id = Arc::from("b");
        let handle = statements.keep(Statement::new(&owner, "SELECT 1".to_owned())).unwrap();
        assert_eq!(statements.get(&handle, &owner).unwrap().sql.as_ref(), "SELECT 1");
        assert!(statements.get(&handle, &other).is_err());
        statements.close(&handle, &other);
        statements.runs(&handle, &owner, Some(7));
        assert_eq!(statements.get(&handle, &owner).unwrap().runs, Some(7));
        statements.close(&handle, &owner);
        assert!(statements.get(&handle, &owner).is_err());
        assert!(statements.get(&Bytes::from_static(b"guess"), &owner).is_err());
    }

    #[test]
    fn the_one_not_used_for_longest_gives_way() {
        let statements = Statements::default();
        let owner = Principal::anyone();
        let keep = || statements.keep(Statement::new(&owner, String::new())).unwrap();
        let (first, second) = (keep(), keep());
        statements.get(&first, &owner).unwrap();
        for _ in 2..=STATEMENTS_MAX {
            keep();
        }
        assert!(statements.get(&first, &owner).is_ok() && statements.get(&second, &owner).is_err());
        assert_eq!(statements.lock().len(), STATEMENTS_MAX);
    }
}

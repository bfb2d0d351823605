//! What clients have asked to be kept: statements with their values, by a handle that nobody can guess.
//!
//! # Contract
//! * A handle is good for whoever got it, for [`KEPT`] after its last use, and at most until the server restarts.
//! * So many are kept of each client, and so many bytes; beyond, its own one that was not used for longest gives way. Of all
//!   clients too, and there it is the oldest of all.
//! * Whoever holds the lock does little: values are shared, not copied, and the oldest are found by their order.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow_flight::FlightInfo;
use arrow_flight::sql::{Any, Command, CommandPreparedStatementQuery, TicketStatementQuery};
use bytes::Bytes;
use prost::Message as _;
use tagmill::datafusion::common::ScalarValue;
use tonic::Status;

use super::Values;
use crate::access::{Principal, token};

/// How long a handle is good for without use.
const KEPT: Duration = Duration::from_hours(1);
/// Statements of all clients, and of one.
const STATEMENTS_MAX: usize = 10_000;
const STATEMENTS_OF_ONE_MAX: usize = 256;
/// Bytes of the texts and values of all clients, and of one.
const BYTES_MAX: usize = 64 << 20;
const BYTES_OF_ONE_MAX: usize = 16 << 20;
/// Bytes of the values of one statement.
const VALUES_BYTES_MAX: usize = 1 << 20;
/// Statements that are forgotten at once because nobody has used them.
const FORGOTTEN_MAX: usize = 4;
/// Bytes of a handle.
const HANDLE_BYTES: usize = 16;

/// One statement.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sql: Arc<str>,
    pub(super) values: Values,
    owner: Arc<str>,
    /// Values that it takes.
    parameters: usize,
    /// Bytes of its values.
    bytes: usize,
    /// When it was used last, and the number of that use among all.
    used: Instant,
    turn: u64,
    /// Its number while it runs.
    runs: Option<u64>,
}

impl Statement {
    pub(super) fn new(principal: &Principal, sql: String, parameters: usize) -> Self {
        Self {
            sql: sql.into(),
            values: Arc::from([]),
            owner: Arc::clone(&principal.id),
            parameters,
            bytes: 0,
            used: Instant::now(),
            turn: 0,
            runs: None,
        }
    }

    fn bytes(&self) -> usize {
        self.sql.len() + self.bytes
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    each: HashMap<Bytes, Statement>,
    all: Order,
    of: HashMap<Arc<str>, Order>,
    last_turn: u64,
}

/// Some of them, by their last use.
#[derive(Debug, Default)]
struct Order {
    handles: BTreeMap<u64, Bytes>,
    bytes: usize,
}

impl Order {
    fn oldest(&self) -> Option<Bytes> {
        self.handles.first_key_value().map(|(_, handle)| handle.clone())
    }

    fn add(&mut self, handle: &Bytes, statement: &Statement) {
        self.handles.insert(statement.turn, handle.clone());
        self.bytes += statement.bytes();
    }

    fn remove(&mut self, statement: &Statement) {
        if self.handles.remove(&statement.turn).is_some() {
            self.bytes -= statement.bytes();
        }
    }

    fn is_beyond(&self, statements: usize, bytes: usize) -> bool {
        self.handles.len() > statements || self.bytes > bytes
    }
}

impl Kept {
    /// Takes one in, as the one that was used last.
    fn put(&mut self, handle: &Bytes, mut statement: Statement) {
        self.last_turn += 1;
        (statement.turn, statement.used) = (self.last_turn, Instant::now());
        self.all.add(handle, &statement);
        self.of.entry(Arc::clone(&statement.owner)).or_default().add(handle, &statement);
        self.each.insert(handle.clone(), statement);
    }

    fn take(&mut self, handle: &Bytes) -> Option<Statement> {
        let statement = self.each.remove(handle)?;
        self.all.remove(&statement);
        if let Some(own) = self.of.get_mut(&statement.owner) {
            own.remove(&statement);
            if own.handles.is_empty() {
                self.of.remove(&statement.owner);
            }
        }
        Some(statement)
    }

    /// Takes out those for which there is no room any more, and some that nobody has used for long.
    fn tidy(&mut self, owner: &str) -> Vec<Statement> {
        let mut gone = Vec::new();
        for _ in 0..FORGOTTEN_MAX {
            let Some(oldest) = self.all.oldest() else { break };
            if self.each.get(&oldest).is_some_and(|statement| statement.used.elapsed() < KEPT) {
                break;
            }
            gone.extend(self.take(&oldest));
        }
        while let Some(own) = self.of.get(owner)
            && own.is_beyond(STATEMENTS_OF_ONE_MAX, BYTES_OF_ONE_MAX)
            && let Some(oldest) = own.oldest()
        {
            gone.extend(self.take(&oldest));
        }
        while self.all.is_beyond(STATEMENTS_MAX, BYTES_MAX)
            && let Some(oldest) = self.all.oldest()
        {
            gone.extend(self.take(&oldest));
        }
        gone
    }
}

impl Statements {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a statement and gives its handle.
    pub(super) fn keep(&self, statement: Statement) -> Result<Bytes, Status> {
        let handle = token::random::<HANDLE_BYTES>().map_err(Status::internal)?;
        let handle = Bytes::copy_from_slice(&handle);
        self.put(&handle, statement);
        Ok(handle)
    }

    fn put(&self, handle: &Bytes, statement: Statement) {
        let owner = Arc::clone(&statement.owner);
        let mut kept = self.lock();
        kept.put(handle, statement);
        let gone = kept.tidy(&owner);
        drop(kept);
        // Not under the lock: their values are many.
        drop(gone);
    }

    /// The statement of a handle.
    pub(super) fn get(&self, handle: &Bytes, principal: &Principal) -> Result<Statement, Status> {
        let mut kept = self.lock();
        let found = kept.each.get(handle);
        found
            .filter(|statement| statement.owner == principal.id && statement.used.elapsed() < KEPT)
            .ok_or_else(|| {
                let text = "there is no such statement: it was closed, gave way to newer ones, or was not used for an hour";
                Status::not_found(text)
            })?;
        // It is the one that was used last now.
        let statement = kept.take(handle).ok_or_else(|| Status::internal("it was there"))?;
        kept.put(handle, statement.clone());
        Ok(statement)
    }

    /// Gives a statement its values.
    ///
    /// # Errors
    /// If they are more or fewer than it takes, or too long.
    pub(super) fn bind(
        &self,
        handle: &Bytes,
        principal: &Principal,
        values: Values,
    ) -> Result<(), Status> {
        let mut statement = self.get(handle, principal)?;
        if values.len() != statement.parameters {
            let (wanted, given) = (statement.parameters, values.len());
            let text = format!("the statement has {wanted} parameters, given are {given}");
            return Err(Status::invalid_argument(text));
        }
        let bytes = values.iter().map(ScalarValue::size).sum();
        if bytes > VALUES_BYTES_MAX {
            return Err(Status::resource_exhausted("the values of a statement have at most 1 MiB"));
        }
        (statement.values, statement.bytes) = (values, bytes);
        // It may be closed by now, or run.
        let before = self.lock().take(handle);
        if let Some(before) = before {
            statement.runs = before.runs;
            self.put(handle, statement);
        }
        Ok(())
    }

    /// Notes under which number a statement runs.
    pub(super) fn runs(&self, handle: &Bytes, principal: &Principal, number: Option<u64>) {
        let mut kept = self.lock();
        // It may be closed already.
        if let Some(statement) = kept.each.get_mut(handle).filter(|s| s.owner == principal.id) {
            statement.runs = number;
        }
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
        self.get(&handle, principal).ok()?.runs
    }

    /// Forgets a statement.
    pub(super) fn close(&self, handle: &Bytes, principal: &Principal) {
        let mut kept = self.lock();
        if kept.each.get(handle).is_some_and(|statement| statement.owner == principal.id) {
            let gone = kept.take(handle);
            drop(kept);
            drop(gone);
        }
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
        let handle = statements.keep(Statement::new(&owner, "SELECT 1".to_owned(), 0)).unwrap();
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
    fn ones_own_that_was_not_used_for_longest_gives_way() {
        let statements = Statements::default();
        let (owner, mut other) = (Principal::anyone(), Principal::anyone());
        other.id = Arc::from("b");
        let keep = |owner| statements.keep(Statement::new(owner, String::new(), 0)).unwrap();
        let others = keep(&other);
        let (first, second) = (keep(&owner), keep(&owner));
        statements.get(&first, &owner).unwrap();
        for _ in 2..=STATEMENTS_OF_ONE_MAX {
            keep(&owner);
        }
        assert!(statements.get(&first, &owner).is_ok() && statements.get(&second, &owner).is_err());
        assert!(statements.get(&others, &other).is_ok());
        assert_eq!(statements.lock().each.len(), STATEMENTS_OF_ONE_MAX + 1);
        check(&statements);
    }

    #[test]
    fn values_are_as_many_as_the_statement_takes_and_bounded() {
        let statements = Statements::default();
        let owner = Principal::anyone();
        let text = |bytes| -> Values { Arc::from([ScalarValue::Utf8(Some("x".repeat(bytes)))]) };
        let mut handles = Vec::new();
        for _ in 0..40 {
            let statement = Statement::new(&owner, "SELECT $1".to_owned(), 1);
            let handle = statements.keep(statement).unwrap();
            assert!(statements.bind(&handle, &owner, Arc::from([])).is_err());
            assert!(statements.bind(&handle, &owner, text(VALUES_BYTES_MAX)).is_err());
            statements.bind(&handle, &owner, text(VALUES_BYTES_MAX / 2)).unwrap();
            assert_eq!(statements.get(&handle, &owner).unwrap().values.len(), 1);
            handles.push(handle);
            check(&statements);
        }
        let kept = handles.iter().filter(|handle| statements.get(handle, &owner).is_ok()).count();
        assert!((28..=32).contains(&kept), "{kept} of half a MiB");
        for handle in handles {
            statements.close(&handle, &owner);
        }
        let kept = statements.lock();
        assert_eq!((kept.all.bytes, kept.of.len()), (0, 0));
    }

    /// The sums are those of the statements that are kept.
    fn check(statements: &Statements) {
        let kept = statements.lock();
        let bytes: usize = kept.each.values().map(Statement::bytes).sum();
        assert_eq!((kept.all.handles.len(), kept.all.bytes), (kept.each.len(), bytes));
        assert!(kept.all.bytes <= BYTES_MAX);
        let own = kept.of.values().map(|own| (own.handles.len(), own.bytes));
        let own = own.fold((0, 0), |sum, own| (sum.0 + own.0, sum.1 + own.1));
        assert_eq!(own, (kept.each.len(), bytes));
        assert!(kept.of.values().all(|own| own.bytes <= BYTES_OF_ONE_MAX));
    }
}

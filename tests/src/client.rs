//! One session of a database, for tests that ask one statement after the other: [`Client`].

use arrow::array::RecordBatch;
use tagmill::{Database, Session};
use tokio::runtime::Runtime;

/// A session and the runtime that its statements run on.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    session: Session,
}

impl Client {
    /// A session of a database.
    ///
    /// # Panics
    /// If there are no threads for it.
    pub fn of(database: &Database) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Self { runtime: runtime.expect("a runtime"), session: database.session() }
    }

    /// Changes a setting.
    ///
    /// # Panics
    /// If there is no such setting, or it does not take this.
    pub fn set(&mut self, name: &str, value: &str) {
        self.session.settings_mut().set(name, value).expect("a setting");
    }

    /// Runs a statement.
    ///
    /// # Errors
    /// What the statement ended with.
    pub fn try_rows(&mut self, sql: &str) -> Result<Vec<RecordBatch>, tagmill::Error> {
        let Self { runtime, session } = self;
        runtime.block_on(async { session.execute(sql).await?.collect().await })
    }

    /// Runs a statement that has an answer.
    ///
    /// # Panics
    /// If it has none.
    pub fn rows(&mut self, sql: &str) -> Vec<RecordBatch> {
        self.try_rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The plan of a statement, as text.
    ///
    /// # Panics
    /// If there is none.
    pub fn plan(&mut self, sql: &str) -> String {
        let rows = self.rows(&format!("EXPLAIN {sql}"));
        arrow::util::pretty::pretty_format_batches(&rows).expect("text").to_string()
    }
}

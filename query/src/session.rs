//! A session: settings, and statements run one after the other.
//!
//! Every statement takes one snapshot of the engine, and all its scans, functions and its `now()` see that and nothing
//! newer. Planning happens on a thread of its own with a large stack; running happens on the caller's runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{
    FunctionRegistry, SendableRecordBatchStream, SessionState, SessionStateBuilder,
};
use datafusion::logical_expr::ScalarUDF;
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::catalog::catalogs;
use crate::database::Database;
use crate::error::{Error, Result, into_datafusion};
use crate::functions::label::Label;
use crate::functions::value_at::ValueAt;
use crate::limits::{BATCHES_AHEAD, PLAN_STACK_BYTES};
use crate::relations::Scope;
use crate::relations::system::settings_batch;
use crate::selection::Notices;
use crate::settings::Settings;
use crate::statement::{Request, check_depth, check_reads, request_of};
use crate::table_functions;

/// Settings and the database they apply to. Cheap to make; one per connection.
#[derive(Clone, Debug)]
pub struct Session {
    database: Database,
    settings: Settings,
}

/// The answer to one statement.
pub struct Answer {
    /// Columns of the answer. None for SET and RESET.
    pub schema: SchemaRef,
    /// What the asker should know besides: mistyped tag names, mostly.
    pub notices: Vec<String>,
    /// The rows. Dropping the stream ends the statement. Its errors turn into [`Error`] by `from`.
    pub stream: SendableRecordBatchStream,
}

impl Answer {
    /// The next rows, or nothing at the end.
    ///
    /// # Errors
    /// What the statement met on its way; see [`Error`]. Nothing comes after an error.
    pub async fn next(&mut self) -> Result<Option<RecordBatch>> {
        Ok(self.stream.try_next().await?)
    }

    /// Runs the statement to its end.
    ///
    /// # Errors
    /// What the statement met on its way; see [`Error`].
    pub async fn collect(self) -> Result<Vec<RecordBatch>> {
        Ok(self.stream.try_collect().await?)
    }

    /// An answer that is there already.
    fn ready(batch: RecordBatch) -> Self {
        let schema = batch.schema();
        let rows = futures::stream::iter([Ok(batch)]);
        let stream = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), rows));
        Self { schema, notices: Vec::new(), stream }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("schema", &self.schema)
            .field("notices", &self.notices)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session with default settings.
    pub(crate) fn new(database: Database) -> Self {
        Self { database, settings: Settings::default() }
    }

    /// The settings as they are now.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes settings without SQL.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// Runs one statement: a query, EXPLAIN, SHOW, SET or RESET. [`crate::statements`] cuts a longer text.
    ///
    /// Returns when the statement is planned; rows come as the answer's stream is polled. Must be called within a
    /// Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Sql`] for a statement that is wrong, [`Error::ReadOnly`] for one that would change something,
    /// [`Error::Limit`] for one that is too large, [`Error::Setting`], [`Error::Timeout`].
    pub async fn execute(&mut self, sql: &str) -> Result<Answer> {
        match request_of(sql)? {
            Request::Set { name, value } => {
                self.settings.set(&name, &value)?;
                Ok(Answer::ready(RecordBatch::new_empty(Arc::new(Schema::empty()))))
            }
            Request::Reset(name) => {
                self.settings.reset(&name)?;
                Ok(Answer::ready(RecordBatch::new_empty(Arc::new(Schema::empty()))))
            }
            Request::Show(name) if name.eq_ignore_ascii_case("all") => {
                Ok(Answer::ready(settings_batch(&self.settings.all())?))
            }
            Request::Show(name) => {
                let value: ArrayRef =
                    Arc::new(StringViewArray::from_iter_values([self.settings.get(&name)?]));
                let batch = RecordBatch::try_from_iter([(name, value)]);
                Ok(Answer::ready(batch.map_err(|error| Error::Internal(error.to_string()))?))
            }
            Request::Query => self.query(sql).await,
        }
    }

    async fn query(&self, sql: &str) -> Result<Answer> {
        let started = Instant::now();
        let timeout = self.settings.statement_timeout();
        let notices = Notices::default();
        let scope = Scope {
            snapshot: self.database.engine().snapshot(),
            notices: notices.clone(),
            settings: self.settings.clone(),
        };
        let state = self.state(&scope)?;
        let tasks = state.task_ctx();
        let planned = plan_aside(state, sql.to_owned());
        let plan = match timeout {
            None => planned.await?,
            Some(timeout) => timeout_at(started + timeout, planned)
                .await
                .unwrap_or(Err(Error::Timeout(timeout)))?,
        };
        let schema = plan.schema();
        let mut stream = execute_stream(plan, tasks)?;
        if timeout.is_some() {
            stream = in_own_task(stream);
        }
        let stream = within_limits(
            stream,
            timeout.map(|timeout| (started + timeout, timeout)),
            self.settings.max_rows(),
        );
        Ok(Answer { schema, notices: notices.all(), stream })
    }

    /// What DataFusion knows while it plans and runs one statement.
    fn state(&self, scope: &Scope) -> Result<SessionState> {
        let base = self.database.base_state();
        let mut config = base.config().clone();
        let options = config.options_mut();
        options.execution.target_partitions = self.settings.partitions().get();
        options.execution.time_zone = Some(self.settings.time_zone().name().to_owned());
        let state = SessionStateBuilder::new_from_existing(base.clone())
            .with_config(config)
            .with_catalog_list(catalogs(scope));
        let mut state = table_functions::register(state, scope).build();
        state.mark_start_execution();
        let now = state.execution_props().query_execution_start_time;
        let now_ns = now.and_then(|now| now.timestamp_nanos_opt()).unwrap_or_default();
        state.register_udf(Arc::new(ScalarUDF::from(Label::new(scope.snapshot.clone()))))?;
        state.register_udf(Arc::new(ScalarUDF::from(ValueAt::new(scope.clone(), now_ns))))?;
        Ok(state)
    }
}

/// Plans on a thread with a stack that deep statements cannot exhaust.
async fn plan_aside(state: SessionState, sql: String) -> Result<Arc<dyn ExecutionPlan>> {
    let runtime = Handle::try_current()
        .map_err(|_| Error::Execution("SQL must run within a Tokio runtime".to_owned()))?;
    let (done, planned) = oneshot::channel();
    std::thread::Builder::new()
        .name("tagmill-plan".to_owned())
        .stack_size(PLAN_STACK_BYTES)
        .spawn(move || {
            // If nobody waits any more, the plan is dropped, here where the stack is large.
            let _abandoned = done.send(runtime.block_on(plan(&state, &sql)));
        })
        .map_err(|error| Error::Execution(format!("no thread to plan on: {error}")))?;
    planned
        .await
        .unwrap_or_else(|_| Err(Error::Internal("planning ended without a result".to_owned())))
}

async fn plan(state: &SessionState, sql: &str) -> Result<Arc<dyn ExecutionPlan>> {
    let dialect = state.config().options().sql_parser.dialect;
    let statement = state.sql_to_statement(sql, &dialect)?;
    check_reads(&statement)?;
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    check_depth(&plan)?;
    Ok(state.create_physical_plan(&plan).await?)
}

/// Runs a stream beside the task that reads it, which can then stop waiting although an operator does not pause.
fn in_own_task(mut stream: SendableRecordBatchStream) -> SendableRecordBatchStream {
    let mut builder = RecordBatchReceiverStreamBuilder::new(stream.schema(), BATCHES_AHEAD);
    let sender = builder.tx();
    builder.spawn(async move {
        while let Some(batch) = stream.next().await {
            if sender.send(batch).await.is_err() {
                break;
            }
        }
        Ok(())
    });
    builder.build()
}

/// Ends a stream at its deadline or after too many rows.
fn within_limits(
    stream: SendableRecordBatchStream,
    deadline: Option<(Instant, Duration)>,
    max_rows: Option<u64>,
) -> SendableRecordBatchStream {
    if deadline.is_none() && max_rows.is_none() {
        return stream;
    }
    let schema = stream.schema();
    let limited = futures::stream::unfold(Some((stream, 0_u64)), move |running| async move {
        let (mut stream, rows) = running?;
        let next = match deadline {
            None => stream.next().await,
            Some((at, timeout)) => match timeout_at(at, stream.next()).await {
                // What came late although it never paused is late all the same.
                Ok(next) if Instant::now() < at => next,
                _ => return Some((Err(into_datafusion(Error::Timeout(timeout))), None)),
            },
        };
        let batch = match next? {
            Ok(batch) => batch,
            Err(error) => return Some((Err(error), None)),
        };
        let rows = rows + batch.num_rows() as u64;
        if let Some(most) = max_rows.filter(|&most| rows > most) {
            let why =
                format!("the answer has more than {most} rows: add LIMIT, or SET tagmill.max_rows");
            return Some((Err(into_datafusion(Error::Limit(why))), None));
        }
        Some((Ok(batch), Some((stream, rows))))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, limited))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Options, Qualities, TagColumn, TagDefinition, ValueType, Values};
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::{Float64Type, Int64Type};
    use datafusion::common::ScalarValue;

    /// Plans a statement once, as a client that prepares does, and runs it with two sets of parameters.
    #[tokio::test]
    async fn table_functions_take_parameters_when_they_run() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Options::default()).unwrap();
        let tags = database.define(&[TagDefinition::new("T", ValueType::F64)]).unwrap();
        let column = TagColumn {
            tag: tags[0],
            times: vec![0, 10],
            values: Values::F64(vec![1.0, 2.0]),
            qualities: Qualities::GOOD,
        };
        let batch = Batch { columns: vec![column], ..Batch::default() };
        database.append(batch).unwrap();
        let session = database.session();
        let scope = Scope {
            snapshot: database.engine().snapshot(),
            notices: Notices::default(),
            settings: session.settings.clone(),
        };
        let state = session.state(&scope).unwrap();
        let sql = "SELECT count(*), sum(\"T\") FROM grid('T', $1, end => $2, step => $3) \
                   WHERE \"T\" IS NOT NULL AND value_at($4, ts) > 0";
        let plan = state.create_logical_plan(sql).await.unwrap();
        let types = plan.get_parameter_types().unwrap();
        assert_eq!(types["$1"].as_ref(), Some(&crate::relations::utc_time()));
        for (end_ns, count, sum) in [(10, 2, 2.5), (11, 3, 4.5)] {
            let time = |ns| ScalarValue::TimestampNanosecond(Some(ns), Some(Arc::from("UTC")));
            let values = vec![
                time(0),
                time(end_ns),
                ScalarValue::Utf8(Some("5 ns".to_owned())),
                ScalarValue::Utf8View(Some("T".to_owned())),
            ];
            let bound = plan.clone().with_param_values(values).unwrap();
            let physical = state.create_physical_plan(&bound).await.unwrap();
            let stream = execute_stream(physical, state.task_ctx()).unwrap();
            let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), count);
            let total = batches[0].column(1).as_primitive::<Float64Type>().value(0);
            assert!((total - sum).abs() < 1e-9, "{total} is not {sum}");
        }
        let missing = state.create_physical_plan(&plan).await;
        assert!(missing.unwrap_err().to_string().contains("grid: start: parameter $1"));
    }
}

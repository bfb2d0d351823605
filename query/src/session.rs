//! A session: settings, and statements run one after the other, with parameters or without.
//!
//! Every statement takes one snapshot of the engine, and all its scans, functions and its `now()` see that and nothing
//! newer. Planning happens on a thread of its own with a large stack; running happens on the caller's runtime.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{ArrayRef, RecordBatch, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::{
    FunctionRegistry, SendableRecordBatchStream, SessionState, SessionStateBuilder,
};
use datafusion::logical_expr::{LogicalPlan, ScalarUDF};
use datafusion::physical_plan::stream::{
    RecordBatchReceiverStreamBuilder, RecordBatchStreamAdapter,
};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{StreamExt, TryStreamExt};
use tagmill_storage::TagScope;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::catalog::catalogs;
use crate::database::Database;
use crate::dialect::Dialect;
use crate::error::{Error, Result, into_datafusion};
use crate::functions::label::Label;
use crate::functions::value_at::ValueAt;
use crate::limits::{BATCHES_AHEAD, PARAMETERS_MAX, PLAN_STACK_BYTES};
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
    dialect: Option<Arc<Dialect>>,
    within: Option<Arc<TagScope>>,
}

/// What is known of a statement before it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// Types of its parameters `$1`, `$2` ..; none where any type would do.
    pub parameters: Vec<Option<DataType>>,
    /// Columns of its answer. None for SET and RESET.
    pub schema: SchemaRef,
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
        Self { database, settings: Settings::default(), dialect: None, within: None }
    }

    /// The session of clients that write SQL in another way and look for other things.
    #[must_use]
    pub fn in_dialect(self, dialect: Arc<Dialect>) -> Self {
        Self { dialect: Some(dialect), ..self }
    }

    /// The session of a reader who may know of the tags of a scope only. To its statements there are no others, and of what
    /// the database says of itself there are its settings alone.
    #[must_use]
    pub fn within(self, scope: Arc<TagScope>) -> Self {
        Self { within: Some(scope), ..self }
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
        self.execute_with(sql, Vec::new()).await
    }

    /// As [`Self::execute`], with values for the parameters `$1`, `$2` ..
    ///
    /// # Errors
    /// As [`Self::execute`]; [`Error::Sql`] too if there are more or fewer values than parameters, or one does not fit.
    pub async fn execute_with(&mut self, sql: &str, values: Vec<ScalarValue>) -> Result<Answer> {
        let request = request_of(sql)?;
        if request != Request::Query && !values.is_empty() {
            return Err(Error::Sql("SET, RESET and SHOW take no parameters".to_owned()));
        }
        match request {
            Request::Set { name, value } => {
                self.settings.set(&name, &value)?;
                Ok(Answer::ready(RecordBatch::new_empty(Arc::new(Schema::empty()))))
            }
            Request::Reset(name) => {
                self.settings.reset(&name)?;
                Ok(Answer::ready(RecordBatch::new_empty(Arc::new(Schema::empty()))))
            }
            Request::Show(name) => Ok(Answer::ready(self.shown(name)?)),
            Request::Query => self.query(sql, values).await,
        }
    }

    /// What a statement would answer, and the parameters it takes, without running it.
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn describe(&self, sql: &str) -> Result<Described> {
        let schema = match request_of(sql)? {
            Request::Query => {
                let within = self.settings.statement_timeout();
                let (_, state) = self.begin()?;
                let dialect = self.dialect.clone();
                let text = sql.to_owned();
                let planning = aside(async move { described(&state, dialect, &text).await });
                return in_time(within, planning).await;
            }
            Request::Show(name) => self.shown(name)?.schema(),
            Request::Set { .. } | Request::Reset(_) => Arc::new(Schema::empty()),
        };
        Ok(Described { parameters: Vec::new(), schema })
    }

    /// The answer to SHOW.
    fn shown(&self, name: String) -> Result<RecordBatch> {
        if name.eq_ignore_ascii_case("all") {
            return Ok(settings_batch(&self.settings.all())?);
        }
        let value: ArrayRef =
            Arc::new(StringViewArray::from_iter_values([self.settings.get(&name)?]));
        RecordBatch::try_from_iter([(name, value)])
            .map_err(|error| Error::Internal(error.to_string()))
    }

    /// What one statement sees, and what DataFusion knows of that.
    fn begin(&self) -> Result<(Notices, SessionState)> {
        let notices = Notices::default();
        let snapshot = self.database.engine().snapshot();
        let snapshot = match &self.within {
            Some(scope) => snapshot.within(scope),
            None => snapshot,
        };
        let is_whole = self.within.is_none();
        let (notes, settings) = (notices.clone(), self.settings.clone());
        let scope = Scope { snapshot, notices: notes, settings, is_whole };
        let state = self.state(&scope)?;
        Ok((notices, state))
    }

    async fn query(&self, sql: &str, values: Vec<ScalarValue>) -> Result<Answer> {
        let started = Instant::now();
        let timeout = self.settings.statement_timeout();
        let (notices, state) = self.begin()?;
        let tasks = state.task_ctx();
        let dialect = self.dialect.clone();
        let text = sql.to_owned();
        let planned = aside(async move { plan(&state, dialect, &text, values).await });
        let plan = in_time(timeout, planned).await?;
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
        let base = self.dialect.as_ref().map_or(self.database.base_state(), |own| own.base());
        let mut config = base.config().clone();
        let options = config.options_mut();
        options.execution.target_partitions = self.settings.partitions().get();
        options.execution.time_zone = Some(self.settings.time_zone().name().to_owned());
        let state = SessionStateBuilder::new_from_existing(base.clone())
            .with_config(config)
            .with_catalog_list(catalogs(scope, self.dialect.as_deref()));
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
async fn aside<T: Send + 'static>(
    planning: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::try_current()
        .map_err(|_| Error::Execution("SQL must run within a Tokio runtime".to_owned()))?;
    let (done, planned) = oneshot::channel();
    std::thread::Builder::new()
        .name("tagmill-plan".to_owned())
        .stack_size(PLAN_STACK_BYTES)
        .spawn(move || {
            // If nobody waits any more, the plan is dropped, here where the stack is large.
            let _abandoned = done.send(runtime.block_on(planning));
        })
        .map_err(|error| Error::Execution(format!("no thread to plan on: {error}")))?;
    planned
        .await
        .unwrap_or_else(|_| Err(Error::Internal("planning ended without a result".to_owned())))
}

/// Does something with the text of a statement on a thread with a stack that deep ones cannot exhaust, if the text is within
/// the limits of a statement.
///
/// # Errors
/// [`Error::Limit`] if it is not.
pub async fn with_text<T: Send + 'static>(
    sql: &str,
    work: impl FnOnce(&str) -> T + Send + 'static,
) -> Result<T> {
    request_of(sql)?;
    let text = sql.to_owned();
    aside(async move { Ok(work(&text)) }).await
}

/// Waits for a plan no longer than a statement may take.
async fn in_time<T>(
    timeout: Option<Duration>,
    planning: impl Future<Output = Result<T>>,
) -> Result<T> {
    match timeout {
        None => planning.await,
        Some(timeout) => {
            tokio::time::timeout(timeout, planning).await.unwrap_or(Err(Error::Timeout(timeout)))
        }
    }
}

async fn logical_plan(
    state: &SessionState,
    dialect: Option<Arc<Dialect>>,
    sql: &str,
) -> Result<LogicalPlan> {
    let statement = match dialect {
        Some(own) => own.parse(sql)?,
        None => state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?,
    };
    check_reads(&statement)?;
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
    check_depth(&plan)?;
    Ok(plan)
}

async fn plan(
    state: &SessionState,
    dialect: Option<Arc<Dialect>>,
    sql: &str,
    values: Vec<ScalarValue>,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut plan = logical_plan(state, dialect, sql).await?;
    let wanted = parameters_of(&plan)?.len();
    if wanted != values.len() {
        let given = values.len();
        let text = format!("the statement has {wanted} parameters, and {given} values were given");
        return Err(Error::Sql(text));
    }
    if wanted > 0 {
        plan = plan.with_param_values(values)?;
    }
    Ok(state.create_physical_plan(&plan).await?)
}

async fn described(
    state: &SessionState,
    dialect: Option<Arc<Dialect>>,
    sql: &str,
) -> Result<Described> {
    let plan = logical_plan(state, dialect, sql).await?;
    let parameters = parameters_of(&plan)?;
    // Types of columns are final after the analyzer, which a parameter of no type may stop.
    let analyzed =
        state.analyzer().execute_and_check(plan.clone(), state.config_options(), |_, _| {});
    let plan = analyzed.unwrap_or(plan);
    Ok(Described { parameters, schema: Arc::clone(plan.schema().inner()) })
}

/// Types of `$1`, `$2` .. A number that is left out is a parameter that nothing reads.
fn parameters_of(plan: &LogicalPlan) -> Result<Vec<Option<DataType>>> {
    let mut all = Vec::new();
    for (name, of_type) in plan.get_parameter_types()? {
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let number = number.filter(|number| (1..=PARAMETERS_MAX).contains(number));
        let number = number.ok_or_else(|| {
            Error::Sql(format!("a parameter is $1 to ${PARAMETERS_MAX}, not {name}"))
        })?;
        if all.len() < number {
            all.resize(number, None);
        }
        all[number - 1] = of_type;
    }
    Ok(all)
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

    /// Describes a statement and runs it with two sets of parameters, as a client that prepares does.
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
        let mut session = database.session();
        let sql = "SELECT count(*), sum(\"T\") FROM grid('T', $1, end => $2, step => $3) \
                   WHERE \"T\" IS NOT NULL AND value_at($4, ts) > 0";
        let described = session.describe(sql).await.unwrap();
        assert_eq!(described.parameters.len(), 4);
        assert_eq!(described.parameters[0].as_ref(), Some(&crate::relations::utc_time()));
        assert_eq!(described.schema.fields().len(), 2);
        for (end_ns, count, sum) in [(10, 2, 2.5), (11, 3, 4.5)] {
            let time = |ns| ScalarValue::TimestampNanosecond(Some(ns), Some(Arc::from("UTC")));
            let values = vec![
                time(0),
                time(end_ns),
                ScalarValue::Utf8(Some("5 ns".to_owned())),
                ScalarValue::Utf8View(Some("T".to_owned())),
            ];
            let answer = session.execute_with(sql, values).await.unwrap();
            let batches = answer.collect().await.unwrap();
            assert_eq!(batches[0].column(0).as_primitive::<Int64Type>().value(0), count);
            let total = batches[0].column(1).as_primitive::<Float64Type>().value(0);
            assert!((total - sum).abs() < 1e-9, "{total} is not {sum}");
        }
        let missing = session.execute(sql).await.unwrap_err().to_string();
        assert_eq!(missing, "the statement has 4 parameters, and 0 values were given");
        for sql in ["SELECT $0", "SELECT $name", "SELECT $70000", "SHOW $1"] {
            assert!(session.describe(sql).await.is_err(), "{sql}");
        }
    }
}

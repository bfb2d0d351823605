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
    FunctionRegistry, SendableRecordBatchStream, SessionState, SessionStateBuilder, TaskContext,
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
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::catalog::catalogs;
use crate::database::Database;
use crate::dialect::Dialect;
use crate::error::{Error, Result, into_datafusion};
use crate::functions::label::Label;
use crate::functions::value_at::ValueAt;
use crate::guard;
use crate::guard::interrupt::{Limit, interruptible};
use crate::guard::sizes::bytes_of;
use crate::limits::{BATCHES_AHEAD, PARAMETERS_MAX, PLAN_STACK_BYTES};
use crate::planning::PlanPlace;
use crate::relations::Scope;
use crate::relations::system::settings_batch;
use crate::running::{Asker, Place};
use crate::selection::Notices;
use crate::settings::Settings;
use crate::small::is_small;
use crate::statement::{Request, check_reads, request_of};
use crate::table_functions;

/// Settings and the database they apply to. Cheap to make; one per connection.
#[derive(Clone, Debug)]
pub struct Session {
    database: Database,
    settings: Settings,
    dialect: Option<Arc<Dialect>>,
    within: Option<Arc<TagScope>>,
    asker: Asker,
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
    /// The statement's number among those that run; see [`Database::end`]. None for what was answered at once.
    pub statement: Option<u64>,
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
        Self { schema, notices: Vec::new(), stream, statement: None }
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

/// A statement that is planned and waits to be run. Dropping it ends it.
#[derive(Debug)]
pub struct Prepared(Stage);

#[derive(Debug)]
enum Stage {
    /// SET, SHOW and RESET are answered at once.
    Answered(RecordBatch),
    Planned(Box<Planned>),
}

#[derive(Debug)]
struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    tasks: Arc<TaskContext>,
    notices: Notices,
    place: Place,
    limits: Limits,
}

/// What one answer may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// When it must be over, and how long that is from its begin.
    deadline: Option<(Instant, Duration)>,
    max_rows: Option<u64>,
    max_bytes: Option<u64>,
}

impl Prepared {
    /// Columns of its answer.
    pub fn schema(&self) -> SchemaRef {
        match &self.0 {
            Stage::Answered(batch) => batch.schema(),
            Stage::Planned(planned) => planned.plan.schema(),
        }
    }

    /// Whether it will read little, as far as can be told before: it need not wait for those that read much.
    pub fn is_small(&self) -> bool {
        match &self.0 {
            Stage::Answered(_) => true,
            Stage::Planned(planned) => is_small(&planned.plan),
        }
    }

    /// Waits for something, such as a turn, no longer than the statement has time, and unless somebody ends it.
    ///
    /// # Errors
    /// [`Error::Timeout`], [`Error::Cancelled`].
    pub async fn wait_for<T>(&mut self, turn: impl Future<Output = T>) -> Result<T> {
        let Stage::Planned(planned) = &mut self.0 else { return Ok(turn.await) };
        let deadline = planned.limits.deadline;
        let late = async {
            match deadline {
                Some((at, timeout)) => {
                    sleep_until(at).await;
                    timeout
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            turn = turn => Ok(turn),
            timeout = late => Err(Error::Timeout(timeout)),
            () = planned.place.ended() => Err(Error::Cancelled),
        }
    }

    /// Runs it: rows come as the answer's stream is polled.
    ///
    /// # Errors
    /// What it meets before its first row.
    pub fn run(self) -> Result<Answer> {
        let planned = match self.0 {
            Stage::Answered(batch) => return Ok(Answer::ready(batch)),
            Stage::Planned(planned) => planned,
        };
        let Planned { plan, tasks, notices, place, limits } = *planned;
        let (statement, schema) = (place.id(), plan.schema());
        place.count(0);
        let stream = in_own_task(execute_stream(plan, tasks)?);
        let stream = within_limits(stream, place, limits);
        Ok(Answer { schema, notices: notices.all(), stream, statement: Some(statement) })
    }
}

impl Session {
    /// A session with default settings.
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            settings: Settings::default(),
            dialect: None,
            within: None,
            asker: Asker::default(),
        }
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

    /// The session of somebody: its statements are shown under this name, and it sees what this asker may.
    #[must_use]
    pub fn on_behalf_of(self, asker: Asker) -> Self {
        Self { asker, ..self }
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
        self.prepare(sql, values).await?.run()
    }

    /// Plans a statement, and leaves it to the caller when it runs; its time has begun.
    ///
    /// # Errors
    /// As [`Self::execute_with`].
    pub async fn prepare(&mut self, sql: &str, values: Vec<ScalarValue>) -> Result<Prepared> {
        let request = request_of(sql)?;
        if request != Request::Query && !values.is_empty() {
            return Err(Error::Sql("SET, RESET and SHOW take no parameters".to_owned()));
        }
        let ready = match request {
            Request::Set { name, value } => {
                self.settings.set(&name, &value)?;
                RecordBatch::new_empty(Arc::new(Schema::empty()))
            }
            Request::Reset(name) => {
                self.settings.reset(&name)?;
                RecordBatch::new_empty(Arc::new(Schema::empty()))
            }
            Request::Show(name) => self.shown(name)?,
            Request::Query => return self.planned_query(sql, values).await,
        };
        Ok(Prepared(Stage::Answered(ready)))
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
                let planning = self.planned(async move { described(&state, dialect, &text).await });
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
        let (settings, asker) = (self.settings.clone(), self.asker.clone());
        let scope = self.database.scope(notices.clone(), settings, asker, self.within.as_ref());
        let state = self.state(&scope)?;
        Ok((notices, state))
    }

    async fn planned_query(&self, sql: &str, values: Vec<ScalarValue>) -> Result<Prepared> {
        let started = Instant::now();
        let timeout = self.settings.statement_timeout();
        let mut place = self.database.enter(self.asker.clone(), sql);
        let (notices, state) = self.begin()?;
        let tasks = state.task_ctx();
        let dialect = self.dialect.clone();
        let text = sql.to_owned();
        let deadline = timeout.map(|timeout| (started + timeout, timeout));
        let limit = Limit { interrupt: place.interrupt(), deadline };
        let planned = self.planned(async move {
            let plan = plan(&state, dialect, &text, values).await?;
            Ok(interruptible(plan, &limit)?)
        });
        let plan = tokio::select! {
            plan = in_time(timeout, planned) => plan?,
            () = place.ended() => return Err(Error::Cancelled),
        };
        let limits = Limits {
            deadline,
            max_rows: self.settings.max_rows(),
            max_bytes: self.settings.max_bytes(),
        };
        Ok(Prepared(Stage::Planned(Box::new(Planned { plan, tasks, notices, place, limits }))))
    }

    /// Plans aside, when there is a place: so many statements at once, those that nobody waits for any more among them.
    async fn planned<T: Send + 'static>(
        &self,
        planning: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let place = self.database.planning().take(&self.asker.id).await;
        aside(place, planning).await
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
            .with_runtime_env(self.database.runtime_of_statement())
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

/// Plans on a thread with a stack that deep statements cannot exhaust. Its place is free again when it has ended,
/// not when nobody waits for it any more.
async fn aside<T: Send + 'static>(
    place: PlanPlace,
    planning: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let runtime = Handle::try_current()
        .map_err(|_| Error::Execution("SQL must run within a Tokio runtime".to_owned()))?;
    let (done, planned) = oneshot::channel();
    std::thread::Builder::new()
        .name("tagmill-plan".to_owned())
        .stack_size(PLAN_STACK_BYTES)
        .spawn(move || {
            let _place = place;
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
    aside(PlanPlace::new(), async move { Ok(work(&text)) }).await
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
    guard::syntax::check(&statement)?;
    let plan = state.statement_to_plan(statement).await?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)?;
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
    guard::plan::check(&plan)?;
    guard::expansion::check(&plan, state)?;
    let optimized = state.optimize(&plan)?;
    guard::plan::check_depth(&optimized)?;
    guard::plan::check_constants(&optimized)?;
    Ok(state.query_planner().create_physical_plan(&optimized, state).await?)
}

async fn described(
    state: &SessionState,
    dialect: Option<Arc<Dialect>>,
    sql: &str,
) -> Result<Described> {
    let plan = logical_plan(state, dialect, sql).await?;
    guard::plan::check_depth(&plan)?;
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

/// Ends a stream at its deadline, after too many rows or bytes, or when somebody ends it.
fn within_limits(
    stream: SendableRecordBatchStream,
    place: Place,
    limits: Limits,
) -> SendableRecordBatchStream {
    let Limits { deadline, max_rows, max_bytes } = limits;
    let schema = stream.schema();
    let start = Some((stream, place, 0_u64, 0_u64));
    let limited = futures::stream::unfold(start, move |running| async move {
        let (mut stream, mut place, rows, bytes) = running?;
        let next = async {
            match deadline {
                None => Ok(stream.next().await),
                Some((at, timeout)) => match timeout_at(at, stream.next()).await {
                    // What came late although it never paused is late all the same.
                    Ok(next) if Instant::now() < at => Ok(next),
                    _ => Err(Error::Timeout(timeout)),
                },
            }
        };
        let next = tokio::select! {
            next = next => next,
            () = place.ended() => Err(Error::Cancelled),
        };
        let next = match next {
            Ok(next) => next,
            Err(error) => return Some((Err(into_datafusion(error)), None)),
        };
        let batch = match next? {
            Ok(batch) => batch,
            Err(error) => return Some((Err(error), None)),
        };
        place.count(batch.num_rows());
        let rows = rows + batch.num_rows() as u64;
        if let Some(most) = max_rows.filter(|&most| rows > most) {
            let why =
                format!("the answer has more than {most} rows: add LIMIT, or SET tagmill.max_rows");
            return Some((Err(into_datafusion(Error::Limit(why))), None));
        }
        let bytes = bytes + if max_bytes.is_some() { bytes_of(&batch) } else { 0 };
        if let Some(most) = max_bytes.filter(|&most| bytes > most) {
            let why = format!(
                "the answer has more than {most} bytes: ask for less, or SET tagmill.max_bytes"
            );
            return Some((Err(into_datafusion(Error::Limit(why))), None));
        }
        Some((Ok(batch), Some((stream, place, rows, bytes))))
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

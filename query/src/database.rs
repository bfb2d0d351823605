//! A database: the storage engine with SQL on top.
//!
//! Writing goes straight to the engine and blocks; asking is async and needs a Tokio runtime. Handles are cheap clones
//! of one database.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use datafusion::execution::context::SessionConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::object_store::{
    DefaultObjectStoreRegistry, ObjectStoreRegistry, ObjectStoreUrl,
};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{FunctionRegistry, SessionState, SessionStateBuilder};
use datafusion::optimizer::{Analyzer, AnalyzerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use tagmill_storage::{Appended, Batch, Engine, Seq, TagDefinition, TagId, TagScope};

use crate::aggregate_pushdown::TierAggregates;
use crate::arrow::array::RecordBatch;
use crate::catalog::{CATALOG, PUBLIC};
use crate::cooperation::InterruptibleJoins;
use crate::durations::DurationsByLength;
use crate::error::{Error, Result};
use crate::functions;
use crate::guard;
use crate::guard::memory::StatementPool;
use crate::hosted::Hosted;
use crate::limits::{BATCH_ROWS, MEMORY_BYTES, MEMORY_SHARE, SORT_AHEAD_BYTES, SPILL_BYTES};
use crate::planner::Planner;
use crate::planning::PlanPlaces;
use crate::relations::Scope;
use crate::running::{Asker, Place, Running, Statement};
use crate::selection::Notices;
use crate::session::Session;
use crate::settings::Settings;
use crate::windowed::analyze::IntervalFunctions;

/// How a database is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Options of the storage engine.
    pub storage: tagmill_storage::Options,
    /// Memory that all running queries share; sorts, joins and aggregates beyond it spill or end with an error.
    pub memory_bytes: usize,
    /// The part of it that one statement may have; by default half.
    pub statement_memory_bytes: Option<usize>,
    /// Disk space that spilling queries share.
    pub spill_bytes: u64,
    /// Where queries spill; by default the system's folder for temporary files.
    pub spill_dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            storage: tagmill_storage::Options::default(),
            memory_bytes: MEMORY_BYTES,
            statement_memory_bytes: None,
            spill_bytes: SPILL_BYTES,
            spill_dir: None,
        }
    }
}

/// A handle of an open database.
///
/// ```
/// use tagmill::{Batch, Database, Options, Qualities, TagColumn, TagDefinition, ValueType, Values};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path();
/// let database = Database::open(path, Options::default())?;
/// let tags = database.define(&[TagDefinition::new("U1/TT-101.PV", ValueType::F64)])?;
/// database.append(Batch {
///     columns: vec![TagColumn {
///         tag: tags[0],
///         times: vec![1_772_323_200_000_000_000, 1_772_323_201_000_000_000],
///         values: Values::F64(vec![78.5, 79.5]),
///         qualities: Qualities::GOOD,
///     }],
///     ..Batch::default()
/// })?;
/// let batches = database.sql("SELECT avg(value) FROM samples WHERE tag = 'U1/TT-101.PV'").await?;
/// assert_eq!(batches[0].num_rows(), 1);
/// database.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<Engine>,
    base: SessionState,
    statement_memory_bytes: usize,
    /// Places for statements that are being planned.
    planning: PlanPlaces,
    running: Arc<Running>,
    hosted: RwLock<Arc<[Arc<dyn Hosted>]>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// Opens the database in a directory, by default making it if there is none.
    ///
    /// # Errors
    /// [`Error::Storage`]: in use by another process, damaged, or the system's answer.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let engine = Engine::open(path.as_ref(), options.storage.clone())?;
        Self::over_with(Arc::new(engine), options)
    }

    /// SQL over an engine that is open already.
    ///
    /// # Errors
    /// [`Error::Internal`] if DataFusion cannot be set up.
    pub fn over(engine: Arc<Engine>) -> Result<Self> {
        Self::over_with(engine, Options::default())
    }

    /// SQL over an engine that is open already; the storage options are not used.
    ///
    /// # Errors
    /// [`Error::Internal`] if DataFusion cannot be set up.
    pub fn over_with(engine: Arc<Engine>, options: Options) -> Result<Self> {
        let share = options.statement_memory_bytes.unwrap_or(options.memory_bytes / MEMORY_SHARE);
        let statement_memory_bytes = share.min(options.memory_bytes);
        let base = base_state(options)?;
        let (planning, running, hosted) = Default::default();
        let inner = Inner { engine, base, statement_memory_bytes, planning, running, hosted };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The storage engine: everything about writing that is not repeated here.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    /// Makes tags known, durably; see [`Engine::define`].
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn define(&self, tags: &[TagDefinition]) -> Result<Vec<TagId>> {
        Ok(self.inner.engine.define(tags)?)
    }

    /// Appends a batch and returns when it is on disk; see [`Engine::append`]. Blocks: from async code call it
    /// in `spawn_blocking`.
    ///
    /// # Errors
    /// [`Error::Storage`]; [`tagmill_storage::Error::outcome`] tells what is known of the batch.
    pub fn append(&self, batch: Batch) -> Result<Appended> {
        Ok(self.inner.engine.append(batch)?)
    }

    /// Returns when everything appended before is on disk.
    ///
    /// # Errors
    /// [`Error::Storage`].
    pub fn sync(&self) -> Result<Seq> {
        Ok(self.inner.engine.sync()?)
    }

    /// A session with default settings.
    pub fn session(&self) -> Session {
        Session::new(self.clone())
    }

    /// Runs one statement in a session of its own and gathers the answer.
    ///
    /// # Errors
    /// See [`Session::execute`].
    pub async fn sql(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        self.session().execute(sql).await?.collect().await
    }

    /// Statements that run and that an asker may see, oldest first.
    pub fn running(&self, asker: &Asker) -> Vec<Statement> {
        self.inner.running.seen_by(asker)
    }

    /// Ends a statement that an asker may see. Whether there is one of this number.
    pub fn end(&self, statement: u64, asker: &Asker) -> bool {
        self.inner.running.end(statement, asker)
    }

    /// Adds a relation to the schema `system`, or takes the place of one that was added under its name. Statements that
    /// begin from now on find it.
    pub fn host(&self, relation: Arc<dyn Hosted>) {
        let mut hosted = self.inner.hosted.write().unwrap_or_else(PoisonError::into_inner);
        let name = relation.name();
        let others = hosted.iter().filter(|other| other.name() != name).cloned();
        *hosted = others.chain([relation]).collect();
    }

    /// What one statement sees.
    pub(crate) fn scope(
        &self,
        notices: Notices,
        settings: Settings,
        asker: Asker,
        within: Option<&Arc<TagScope>>,
    ) -> Scope {
        let snapshot = self.engine().snapshot();
        let snapshot = match within {
            Some(scope) => snapshot.within(scope),
            None => snapshot,
        };
        let hosted = self.inner.hosted.read().unwrap_or_else(PoisonError::into_inner);
        let (running, hosted) = (Arc::clone(&self.inner.running), Arc::clone(&hosted));
        let is_whole = within.is_none();
        Scope { snapshot, notices, settings, is_whole, asker, running, hosted }
    }

    /// Begins a statement.
    pub(crate) fn enter(&self, asker: Asker, sql: &str) -> Place {
        self.inner.running.enter(asker, sql)
    }

    /// Closes the engine. A handle that is merely dropped does the same, without the error.
    ///
    /// # Errors
    /// [`Error::Execution`] if other handles, sessions or running answers still use the database: it is synced
    /// and stays open until the last of them is dropped. [`Error::Storage`] if closing fails.
    pub fn close(self) -> Result<()> {
        self.sync()?;
        let in_use =
            || Error::Execution("the database is in use: drop its other handles first".to_owned());
        let inner = Arc::try_unwrap(self.inner).map_err(|_| in_use())?;
        let engine = Arc::try_unwrap(inner.engine).map_err(|_| in_use())?;
        Ok(engine.close()?)
    }

    /// What every statement's planning starts from.
    pub(crate) fn base_state(&self) -> &SessionState {
        &self.inner.base
    }

    /// What one statement runs in: as all others, with a share of their memory.
    pub(crate) fn runtime_of_statement(&self) -> Arc<RuntimeEnv> {
        let common = self.inner.base.runtime_env().as_ref().clone();
        let pool =
            StatementPool::new(Arc::clone(&common.memory_pool), self.inner.statement_memory_bytes);
        Arc::new(RuntimeEnv { memory_pool: Arc::new(pool), ..common })
    }

    /// Places for statements that are being planned.
    pub(crate) fn planning(&self) -> &PlanPlaces {
        &self.inner.planning
    }
}

/// DataFusion as every statement uses it: our functions, bounded memory, no way to a file or a network.
fn base_state(options: Options) -> Result<SessionState> {
    let mut rules: Vec<Arc<dyn AnalyzerRule + Send + Sync>> = Analyzer::new().rules;
    rules.insert(0, Arc::new(DurationsByLength));
    rules.push(Arc::new(IntervalFunctions));
    let first: Arc<dyn PhysicalOptimizerRule + Send + Sync> = Arc::new(TierAggregates);
    let plans = std::iter::once(first).chain(PhysicalOptimizer::new().rules).collect();
    let mut state = SessionStateBuilder::new()
        .with_config(config())
        .with_runtime_env(Arc::new(runtime(options)?))
        .with_default_features()
        .with_analyzer_rules(rules)
        .with_query_planner(Arc::new(Planner))
        .with_physical_optimizer_rules(plans)
        .with_physical_optimizer_rule(Arc::new(InterruptibleJoins))
        .with_physical_optimizer_rule(Arc::new(guard::batches::BoundedBatches))
        .build();
    guard::functions::bound(&mut state)?;
    let mut state = guard::literals::bound(state);
    for function in functions::scalars() {
        state.register_udf(function)?;
    }
    for function in functions::aggregates() {
        state.register_udaf(function)?;
    }
    Ok(state)
}

fn config() -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_information_schema(true)
        .with_create_default_catalog_and_schema(false)
        .with_default_catalog_and_schema(CATALOG, PUBLIC);
    let options = config.options_mut();
    // Gives wrong extremes when one argument is an expression: apache/datafusion#24816.
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = false;
    // Scans are partitioned by tag, which already separates groups of (tag, anything).
    options.optimizer.subset_repartition_threshold = 1;
    // Joins with `tags` reach the scan as a list of tags.
    options.optimizer.hash_join_inlist_pushdown_max_distinct_values = 10_000;
    // A scan has as many parts as are worth having; dealing out the batches of one loses more than it gains.
    options.optimizer.enable_round_robin_repartition = false;
    options.execution.sort_pushdown_buffer_capacity = SORT_AHEAD_BYTES;
    config
}

fn runtime(options: Options) -> Result<RuntimeEnv> {
    let top = NonZeroUsize::new(5).unwrap_or(NonZeroUsize::MIN);
    let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), top);
    let spill = match options.spill_dir {
        Some(dir) => DiskManagerMode::Directories(vec![dir]),
        None => DiskManagerMode::OsTmpDirectory,
    };
    // The default registry knows the local file system and nothing else; without it there is no store at all.
    let stores = DefaultObjectStoreRegistry::new();
    stores.deregister_store(ObjectStoreUrl::local_filesystem().as_ref())?;
    let environment = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(
            DiskManagerBuilder::default()
                .with_mode(spill)
                .with_max_temp_directory_size(options.spill_bytes),
        )
        .with_object_store_registry(Arc::new(stores))
        .build()?;
    Ok(environment)
}

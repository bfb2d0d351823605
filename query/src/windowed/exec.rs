//! Runs a windowed aggregate: tags are grouped, read in parallel on blocking threads, and shown as rows.
//!
//! A group of one tag is shown cell by cell as it is read. A group of several tags is held until its last tag is read,
//! one share for each cell: that memory is taken from the query's pool. Tags of a group are added in the order of their
//! numbers, so that the same question has the same answer to the bit.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::mem::size_of;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::arrow::array::{ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{SchemaRef, UInt32Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{
    Boundedness, ChildrenPropertiesMode, EmissionType,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::TryStreamExt;
use tagmill_storage::TagId;

use super::fold::{Cell, Share};
use super::node::Argument;
use super::output::{Output, Rows};
use super::read::{Counts, Reading};
use crate::aside::{BatchSender, Work, stream_of_all};
use crate::limits::{BATCH_ROWS, SCAN_TAGS};
use crate::source::ShortRange;

/// See the module.
#[derive(Debug)]
pub(crate) struct WindowedAggregateExec {
    input: Arc<dyn ExecutionPlan>,
    reading: Reading,
    output: Arc<Output>,
    threads: usize,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WindowedAggregateExec {
    /// A plan that reads the tags of `input` with up to `threads` threads.
    pub(crate) fn new(
        input: Arc<dyn ExecutionPlan>,
        reading: Reading,
        output: Output,
        threads: usize,
    ) -> Self {
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&output.schema)),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        let metrics = ExecutionPlanMetricsSet::new();
        Self { input, reading, output: Arc::new(output), threads, properties, metrics }
    }
}

impl DisplayAs for WindowedAggregateExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let separator = match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => " ",
            DisplayFormatType::TreeRender => "\n",
        };
        let names: Vec<&str> =
            self.output.wanted.iter().map(|wanted| wanted.function.name()).collect();
        let range = ShortRange(self.reading.axis.range());
        write!(f, "WindowedAggregate: {}{separator}range={range}", names.join(","))?;
        write!(f, "{separator}tier={}", self.reading.tier())
    }
}

impl ExecutionPlan for WindowedAggregateExec {
    fn name(&self) -> &'static str {
        "WindowedAggregateExec"
    }

    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.output.schema)
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Ok([input]) = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) else {
            return internal_err!("WindowedAggregateExec has one input");
        };
        Ok(Arc::new(Self {
            input,
            reading: self.reading.clone(),
            output: Arc::clone(&self.output),
            threads: self.threads,
            properties: Arc::clone(&self.properties),
            metrics: ExecutionPlanMetricsSet::new(),
        }))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let (reading, output) = (self.reading.clone(), Arc::clone(&self.output));
        let threads = self.threads.max(1);
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let counts = Counts::new(&self.metrics, partition);
        let works = async move {
            let input_schema = input.schema();
            let batches: Vec<RecordBatch> = input.try_collect().await?;
            let tags = concat_batches(&input_schema, &batches)?;
            let job = Arc::new(Job::new(reading, output, &tags, counts, baseline)?);
            let threads = 0..threads.min(job.tasks.len());
            let work_of = |thread| {
                let job = Arc::clone(&job);
                let memory = MemoryConsumer::new(format!("WindowedAggregate[{thread}]"));
                let memory = memory.register(context.memory_pool());
                Box::new(move |sender: &BatchSender| job.run(sender, &memory)) as Work
            };
            Ok(threads.map(work_of).collect())
        };
        Ok(stream_of_all(&self.output.schema, works))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Tags that are read in one go, and the row of the input that shows their group.
enum Task {
    /// Groups of one tag each.
    Apart { tags: Vec<TagId>, rows: Vec<u32> },
    /// One group of any number of tags.
    Together { tags: Vec<TagId>, row: u32 },
}

/// One execution.
struct Job {
    reading: Reading,
    output: Arc<Output>,
    groups: Arc<[ArrayRef]>,
    tasks: Vec<Task>,
    next: AtomicUsize,
    counts: Counts,
    baseline: BaselineMetrics,
}

impl Job {
    fn new(
        reading: Reading,
        output: Arc<Output>,
        tags: &RecordBatch,
        counts: Counts,
        baseline: BaselineMetrics,
    ) -> Result<Self> {
        let tasks = tasks_of(tags, output.keys.is_empty())?;
        let groups = tags.columns().into();
        Ok(Self { reading, output, groups, tasks, next: AtomicUsize::new(0), counts, baseline })
    }

    /// Does what is left to do, until nothing is or nobody wants it.
    fn run(&self, sender: &BatchSender, memory: &MemoryReservation) -> Result<()> {
        let mut rows = Rows::new(Arc::clone(&self.output), Arc::clone(&self.groups));
        while let Some(task) = self.tasks.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let flow = match task {
                Task::Apart { tags, rows: group_rows } => {
                    self.apart(tags, group_rows, &mut rows, sender)?
                }
                Task::Together { tags, row } => {
                    self.together(tags, *row, &mut rows, sender, memory)?
                }
            };
            if flow.is_break() {
                return Ok(());
            }
        }
        if rows.len() > 0 && self.send(&mut rows, sender)?.is_break() {
            return Ok(());
        }
        Ok(())
    }

    fn apart(
        &self,
        tags: &[TagId],
        group_rows: &[u32],
        rows: &mut Rows,
        sender: &BatchSender,
    ) -> Result<ControlFlow<()>> {
        let registry = self.reading.snapshot.registry();
        let mut failed = Ok(());
        let flow = self.reading.read(tags, &self.counts, &mut |at, cell, share| {
            let value_type = registry.get(tags[at]).map(|tag| tag.value_type);
            let has = |lane: Argument| value_type.is_some_and(|value_type| lane.has(value_type));
            let pushed =
                rows.push(group_rows[at], cell.label_ns, |lane| has(lane).then_some(share));
            let sent = pushed.and_then(|()| self.send_full(rows, sender));
            sent.unwrap_or_else(|error| {
                failed = Err(error);
                ControlFlow::Break(())
            })
        })?;
        failed.map(|()| flow)
    }

    fn together(
        &self,
        tags: &[TagId],
        row: u32,
        rows: &mut Rows,
        sender: &BatchSender,
        memory: &MemoryReservation,
    ) -> Result<ControlFlow<()>> {
        if let Some(function) = self.output.of_one_tag().filter(|_| tags.len() > 1) {
            return plan_err!(
                "{} fills in the value of one tag, and a group here has {}: add tag to GROUP BY",
                function.name(),
                tags.len()
            );
        }
        let registry = self.reading.snapshot.registry();
        let lanes = &self.output.lanes;
        // A share for each lane, of every bucket that any of the tags has a part in.
        let mut cells: BTreeMap<i64, Vec<Share>> = BTreeMap::new();
        let states = self.reading.targets.len() * size_of::<i128>();
        let cell_bytes = 2 * size_of::<Cell>() + lanes.len() * (size_of::<Share>() + states);
        for part in tags.chunks(SCAN_TAGS) {
            let mut failed = Ok(());
            let flow = self.reading.read(part, &self.counts, &mut |at, cell, share| {
                let Some(tag) = registry.get(part[at]) else { return ControlFlow::Continue(()) };
                let pooled = cells.entry(cell.label_ns).or_insert_with(|| {
                    failed = memory.try_grow(cell_bytes);
                    vec![Share::default(); lanes.len()]
                });
                for (lane, pooled) in lanes.iter().zip(pooled) {
                    if lane.has(tag.value_type) {
                        pooled.pool(share);
                    }
                }
                let is_over = failed.is_err() || sender.is_closed();
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            failed?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        // Without any key there is a row even if there is nothing to say.
        if self.output.keys.is_empty() && cells.is_empty() {
            rows.push(row, 0, |_| None)?;
        }
        for (label_ns, shares) in &cells {
            let share =
                |lane| lanes.iter().position(|known| *known == lane).and_then(|at| shares.get(at));
            rows.push(row, *label_ns, share)?;
            if self.send_full(rows, sender)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        memory.free();
        Ok(ControlFlow::Continue(()))
    }

    fn send_full(&self, rows: &mut Rows, sender: &BatchSender) -> Result<ControlFlow<()>> {
        if rows.len() < BATCH_ROWS {
            return Ok(ControlFlow::Continue(()));
        }
        self.send(rows, sender)
    }

    fn send(&self, rows: &mut Rows, sender: &BatchSender) -> Result<ControlFlow<()>> {
        let batch = rows.finish()?;
        self.baseline.record_output(batch.num_rows());
        let sent = sender.blocking_send(Ok(batch));
        Ok(if sent.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }
}

/// Cuts tags into tasks: the input's first column is the tag's number, the others are keys.
fn tasks_of(tags: &RecordBatch, is_global: bool) -> Result<Vec<Task>> {
    let Some((numbers, keys)) = tags.columns().split_first() else {
        return internal_err!("a windowed aggregate knows its tags");
    };
    let numbers = numbers.as_primitive::<UInt32Type>();
    let mut groups: Vec<(u32, Vec<TagId>)> = Vec::new();
    if keys.is_empty() {
        let all: Vec<TagId> = numbers.values().iter().map(|&number| TagId(number)).collect();
        if is_global || !all.is_empty() {
            groups.push((0, all));
        }
    } else {
        let fields = keys.iter().map(|key| SortField::new(key.data_type().clone()));
        let encoded = RowConverter::new(fields.collect())?.convert_columns(keys)?;
        let mut known: HashMap<_, usize> = HashMap::new();
        for (row, (key, &number)) in (0..).zip(encoded.iter().zip(numbers.values())) {
            let at = *known.entry(key).or_insert_with(|| {
                groups.push((row, Vec::new()));
                groups.len() - 1
            });
            groups[at].1.push(TagId(number));
        }
    }
    let mut tasks = Vec::new();
    let mut single: Vec<(TagId, u32)> = Vec::new();
    for (row, mut tags) in groups {
        tags.sort_unstable();
        tags.dedup();
        match tags.as_slice() {
            [tag] if !is_global => single.push((*tag, row)),
            _ => tasks.push(Task::Together { tags, row }),
        }
    }
    single.sort_unstable();
    for part in single.chunks(SCAN_TAGS) {
        let (tags, rows) = part.iter().copied().unzip();
        tasks.push(Task::Apart { tags, rows });
    }
    Ok(tasks)
}

//! The scan of `samples` as DataFusion sees it: an ordered source that takes filters, limits and sorts into itself.
//!
//! Partitions are ascending ranges of tag ids and each is sorted by (`tag_id`, `ts`), times descending if asked; both are
//! declared, so that aggregates and merges above need neither sort nor shuffle. The engine's blocking reads run on the
//! runtime's blocking threads, start when the stream is first polled, stay a few batches ahead, and end when the
//! stream is dropped. Which tags and times are read was decided by [`crate::relations::samples`].

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::config::ConfigOptions;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::equivalence::AcrossPartitions;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    ConstExpr, DynamicFilterTracking, EquivalenceProperties, LexOrdering, Partitioning,
    PhysicalExpr, PhysicalSortExpr, RangePartitioning, SplitPoint,
};
use datafusion::physical_plan::filter_pushdown::{FilterPushdownPropagation, PushedDown};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use datafusion::physical_plan::{DisplayFormatType, SortOrderPushdownResult};
use tagmill_storage::{
    DamagedPlace, OnDamage, Rfc3339, Scan, ScanRequest, Snapshot, TagId, TagSelection, Tiers,
    TimeRange,
};

use crate::aside::{BatchSender, stream_of};
use crate::beyond_raw::Bounds;
use crate::hints::Hints;
use crate::limits::{BATCH_ROWS, SCAN_TAGS};
use crate::relations::rows::{RowBuilder, RowColumn, schema_of};
use crate::settings::TierUse;

/// A scan of `samples`.
#[derive(Clone, Debug)]
pub(crate) struct SampleSource {
    snapshot: Snapshot,
    columns: Vec<RowColumn>,
    schema: SchemaRef,
    /// Tags of each partition, ascending over all. At least one partition.
    parts: Vec<Arc<[TagId]>>,
    range: TimeRange,
    descending: bool,
    fetch: Option<usize>,
    hints: Vec<Arc<dyn PhysicalExpr>>,
    rows_estimate: u64,
    damage: OnDamage,
    tiers: TierUse,
    bounds: Bounds,
    metrics: ExecutionPlanMetricsSet,
}

/// What a scan reads that nothing but its tags and its range restrict.
#[derive(Clone, Debug)]
pub(crate) struct PlainScan {
    pub(crate) snapshot: Snapshot,
    pub(crate) columns: Vec<RowColumn>,
    /// Tags of each partition, ascending over all. At least one partition.
    pub(crate) parts: Vec<Arc<[TagId]>>,
    pub(crate) range: TimeRange,
    pub(crate) damage: OnDamage,
    /// What may answer.
    pub(crate) tiers: Tiers,
    /// What to do where samples have ended.
    pub(crate) bounds: Bounds,
}

impl SampleSource {
    /// A scan of the tags of `parts` within `range`, giving `columns`.
    pub(crate) fn new(
        snapshot: Snapshot,
        columns: Vec<RowColumn>,
        parts: Vec<Arc<[TagId]>>,
        range: TimeRange,
        rows_estimate: u64,
    ) -> Self {
        assert!(!parts.is_empty(), "a plan has a partition even if it has no row");
        let schema = schema_of(&columns);
        Self {
            snapshot,
            columns,
            schema,
            parts,
            range,
            descending: false,
            fetch: None,
            hints: Vec::new(),
            rows_estimate,
            damage: OnDamage::Fail,
            tiers: TierUse::Auto,
            bounds: Bounds::default(),
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    /// The same, that does this about samples that cannot be read.
    pub(crate) fn with_damage(self, damage: OnDamage) -> Self {
        Self { damage, ..self }
    }

    /// The same, whose aggregates over windows are answered by this.
    pub(crate) fn with_tiers(self, tiers: TierUse) -> Self {
        Self { tiers, ..self }
    }

    /// The same, that does this about bounds of windows where samples have ended.
    pub(crate) fn with_bounds(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// What is read, if aggregates of it may be answered from tiers.
    pub(crate) fn plain(&self) -> Option<PlainScan> {
        let plain = self.fetch.is_none() && self.hints.is_empty() && self.tiers != TierUse::Off;
        plain.then(|| PlainScan {
            snapshot: self.snapshot.clone(),
            columns: self.columns.clone(),
            parts: self.parts.clone(),
            range: self.range,
            damage: self.damage,
            tiers: self.tiers.of_rollups(),
            bounds: self.bounds.clone(),
        })
    }

    fn tag_count(&self) -> usize {
        self.parts.iter().map(|part| part.len()).sum()
    }

    /// The one tag that is read, if it is one.
    fn single_tag(&self) -> Option<TagId> {
        match self.parts.as_slice() {
            [part] => match part.as_ref() {
                [tag] => Some(*tag),
                _ => None,
            },
            _ => None,
        }
    }

    fn column(&self, wanted: RowColumn) -> Option<Arc<dyn PhysicalExpr>> {
        let at = self.columns.iter().position(|&column| column == wanted)?;
        Some(Arc::new(Column::new(self.schema.field(at).name(), at)))
    }

    /// What `expr` is a column of, if it is a plain column of this scan.
    fn column_of(&self, expr: &Arc<dyn PhysicalExpr>) -> Option<RowColumn> {
        let column = expr.downcast_ref::<Column>()?;
        self.columns.get(column.index()).copied()
    }

    /// Whether a scan with such times gives the rows in this order, and needs no sort. `None`: it does not.
    fn order_served(&self, order: &[PhysicalSortExpr]) -> Option<bool> {
        let mut tag_settled = self.single_tag().is_some();
        for key in order {
            match self.column_of(&key.expr)? {
                RowColumn::TagId | RowColumn::Tag if tag_settled => {}
                RowColumn::TagId if !key.options.descending => tag_settled = true,
                // Times of a tag differ, so no later key can matter.
                RowColumn::Ts if tag_settled => return Some(key.options.descending),
                _ => return None,
            }
        }
        Some(self.descending)
    }
}

impl DataSource for SampleSource {
    fn open(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let read = PartRead {
            snapshot: self.snapshot.clone(),
            columns: self.columns.clone(),
            tags: self.parts.get(partition).map(Arc::clone).unwrap_or_default(),
            range: self.range,
            descending: self.descending,
            left: self.fetch.map(|rows| rows as u64),
            damage: self.damage,
            hints: Hints::new(&self.hints, &self.schema),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            tags_read: MetricBuilder::new(&self.metrics).counter("tags_read", partition),
        };
        // A join fills the hints before it polls this stream, so nothing starts earlier.
        Ok(stream_of(&self.schema, move |sender| read.run(sender)))
    }

    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let separator = match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => " ",
            DisplayFormatType::TreeRender => "\n",
        };
        write!(f, "TagmillScan: tags={}", self.tag_count())?;
        write!(f, "{separator}range={}", ShortRange(self.range))?;
        if self.descending {
            write!(f, "{separator}order=newest")?;
        }
        if let Some(fetch) = self.fetch {
            write!(f, "{separator}limit={fetch}")?;
        }
        if !self.hints.is_empty() {
            write!(f, "{separator}hints={}", self.hints.len())?;
        }
        Ok(())
    }

    fn output_partitioning(&self) -> Partitioning {
        let count = self.parts.len();
        let Some(tag_id) = self.column(RowColumn::TagId).filter(|_| count > 1) else {
            return Partitioning::UnknownPartitioning(count);
        };
        let firsts = self.parts.iter().skip(1).filter_map(|part| part.first());
        let splits: Vec<SplitPoint> =
            firsts.map(|tag| SplitPoint::new(vec![ScalarValue::UInt32(Some(tag.0))])).collect();
        let key = PhysicalSortExpr::new(tag_id, SortOptions::new(false, false));
        LexOrdering::new([key])
            .filter(|_| splits.len() + 1 == count)
            .and_then(|ordering| RangePartitioning::try_new(ordering, splits).ok())
            .map_or(Partitioning::UnknownPartitioning(count), Partitioning::Range)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let by = |column, descending| {
            let options = SortOptions::new(descending, descending);
            self.column(column).map(|expr| PhysicalSortExpr::new(expr, options))
        };
        let time = by(RowColumn::Ts, self.descending);
        let Some(tag) = self.single_tag() else {
            // Half of the order is not worth declaring: it helps no plan and slows some.
            let order = by(RowColumn::TagId, false).zip(time).map(|(tag, time)| [tag, time]);
            return EquivalenceProperties::new_with_orderings(Arc::clone(&self.schema), order);
        };
        let order = time.map(|time| [time]);
        let mut properties =
            EquivalenceProperties::new_with_orderings(Arc::clone(&self.schema), order);
        let name = self.snapshot.registry().get(tag).map(|tag| tag.name.to_string());
        let constants = [
            (RowColumn::TagId, ScalarValue::UInt32(Some(tag.0))),
            (RowColumn::Tag, ScalarValue::Utf8View(name)),
        ];
        let constants = constants.into_iter().filter_map(|(column, value)| {
            let expr = self.column(column)?;
            Some(ConstExpr::new(expr, AcrossPartitions::Uniform(Some(value))))
        });
        // Without the constants a plan may sort once more than it must; it is right all the same.
        properties.add_constants(constants.collect::<Vec<_>>()).ok();
        properties
    }

    fn partition_statistics(&self, partition: Option<usize>) -> Result<Arc<Statistics>> {
        let mut rows = usize::try_from(self.rows_estimate).unwrap_or(usize::MAX);
        if partition.is_some() {
            rows = rows.div_ceil(self.parts.len());
        }
        let rows = rows.min(self.fetch.unwrap_or(usize::MAX));
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = Precision::Inexact(rows);
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn DataSource>> {
        Some(Arc::new(Self { fetch: limit, ..self.clone() }))
    }

    fn fetch(&self) -> Option<usize> {
        self.fetch
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        // Hints point at columns by position.
        if !self.hints.is_empty() {
            return Ok(None);
        }
        let mut columns = Vec::new();
        for output in projection.iter() {
            let Some(column) = self.column_of(&output.expr) else { return Ok(None) };
            let same_name = output.expr.downcast_ref::<Column>().map(Column::name);
            if same_name != Some(output.alias.as_str()) || columns.contains(&column) {
                return Ok(None);
            }
            columns.push(column);
        }
        let schema = schema_of(&columns);
        Ok(Some(Arc::new(Self { columns, schema, ..self.clone() })))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn DataSource>>> {
        let answer = FilterPushdownPropagation::with_parent_pushdown_result(vec![
            PushedDown::No;
            filters.len()
        ]);
        let moves = |filter: &Arc<dyn PhysicalExpr>| {
            DynamicFilterTracking::classify(filter).contains_dynamic_filter()
        };
        let hints: Vec<_> = filters.into_iter().filter(moves).collect();
        // Below a limit a hint would change which rows come first.
        if hints.is_empty() || self.fetch.is_some() {
            return Ok(answer);
        }
        let mut hinted = self.clone();
        hinted.hints.extend(hints);
        Ok(answer.with_updated_node(Arc::new(hinted) as Arc<dyn DataSource>))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
    ) -> Result<SortOrderPushdownResult<Arc<dyn DataSource>>> {
        // With a limit inside, another order would let other rows through.
        let free = |descending| self.fetch.is_none() || descending == self.descending;
        if let Some(descending) = self.order_served(order).filter(|&descending| free(descending)) {
            let inner = Arc::new(Self { descending, ..self.clone() });
            return Ok(SortOrderPushdownResult::Exact { inner });
        }
        let newest_first = order.first().is_some_and(|key| {
            key.options.descending && self.column_of(&key.expr) == Some(RowColumn::Ts)
        });
        if newest_first && free(true) {
            // Newest samples of the first tags let a top-n refuse all older ones of the rest.
            let inner = Arc::new(Self { descending: true, ..self.clone() });
            return Ok(SortOrderPushdownResult::Inexact { inner });
        }
        Ok(SortOrderPushdownResult::Unsupported)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for hint in &self.hints {
            if f(hint)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

/// A range with open ends left out.
pub(crate) struct ShortRange(pub(crate) TimeRange);

impl fmt::Display for ShortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TimeRange { start_ns, end_ns } = self.0;
        if self.0.is_empty() {
            return f.write_str("none");
        }
        if self.0 == TimeRange::ALL {
            return f.write_str("all");
        }
        if start_ns > TimeRange::ALL.start_ns {
            write!(f, "{}", Rfc3339(start_ns))?;
        }
        f.write_str("..")?;
        if end_ns < TimeRange::ALL.end_ns {
            write!(f, "{}", Rfc3339(end_ns))?;
        }
        Ok(())
    }
}

/// The read of one partition, on a blocking thread.
struct PartRead {
    snapshot: Snapshot,
    columns: Vec<RowColumn>,
    tags: Arc<[TagId]>,
    range: TimeRange,
    descending: bool,
    left: Option<u64>,
    damage: OnDamage,
    hints: Hints,
    baseline: BaselineMetrics,
    tags_read: Count,
}

/// Whether the reader wants more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Stop,
}

impl PartRead {
    fn run(mut self, sender: &BatchSender) -> Result<()> {
        let mut rows = RowBuilder::new(self.snapshot.clone(), &self.columns, 0);
        let (mut tags, mut range) = (self.tags.to_vec(), self.range);
        let mut next = 0;
        while self.left != Some(0) && !sender.is_closed() {
            if self.hints.changed() {
                let rest = tags.get(next..).unwrap_or_default();
                (tags, range) = self.hints.apply(self.snapshot.registry(), rest, self.range)?;
                next = 0;
            }
            // A tightened time bound is worth a look at every tag, others at every few hundred.
            let step = if self.hints.over_time { 1 } else { SCAN_TAGS };
            let end = tags.len().min(next + step);
            let Some(part) = tags.get(next..end).filter(|part| !part.is_empty()) else { break };
            self.tags_read.add(part.len());
            // With a limit, or with the newest first, older samples may not be missed.
            let may_do = self.left.is_some() || self.descending;
            if !may_do {
                self.require(part, range)?;
            }
            if self.read(part, range, &mut rows, sender)? == Flow::Stop {
                return Ok(());
            }
            if may_do && self.left != Some(0) && self.require(part, range).is_err() {
                // The reader may by now have no use for samples that are so old.
                let (part, range) = self.hints.apply(self.snapshot.registry(), part, self.range)?;
                self.require(&part, range)?;
            }
            next = end;
        }
        if rows.rows() > 0 {
            self.send(&mut rows, sender)?;
        }
        Ok(())
    }

    /// Refuses to answer without samples that have ended.
    fn require(&self, tags: &[TagId], range: TimeRange) -> Result<()> {
        let required = self.snapshot.require_samples(&TagSelection::Only(tags.into()), range);
        required.map_err(|error| crate::error::into_datafusion(error.into()))
    }

    fn read(
        &mut self,
        tags: &[TagId],
        range: TimeRange,
        rows: &mut RowBuilder,
        sender: &BatchSender,
    ) -> Result<Flow> {
        let mut scan = self.snapshot.scan(ScanRequest {
            tags: TagSelection::Only(tags.into()),
            range,
            descending: self.descending,
            limit: self.left,
            values: self.columns.iter().any(|column| column.needs_values()),
            qualities: self.columns.iter().any(|column| column.needs_qualities()),
            damage: self.damage,
        });
        loop {
            let timer = self.baseline.elapsed_compute().timer();
            let next = scan.next().transpose();
            let next = next.map_err(|error| crate::error::into_datafusion(error.into()))?;
            check_skipped(&self.snapshot, &scan)?;
            let Some(batch) = next else { return Ok(Flow::Continue) };
            timer.done();
            let count = batch.times.len();
            let last = batch.times.last().copied();
            if rows.rows() > 0
                && rows.rows() + count > BATCH_ROWS
                && self.send(rows, sender)? == Flow::Stop
            {
                return Ok(Flow::Stop);
            }
            if let Some(left) = &mut self.left {
                *left = left.saturating_sub(count as u64);
            }
            rows.push(batch);
            if rows.rows() >= BATCH_ROWS && self.send(rows, sender)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
            if let Some(last) = last.filter(|_| self.hints.over_time && self.hints.changed()) {
                // The scan goes on under its old range unless nothing of its tag is left.
                self.hints.look_again();
                let (tags, wanted) =
                    self.hints.apply(self.snapshot.registry(), tags, self.range)?;
                let rest = if self.descending {
                    TimeRange::new(range.start_ns, last)
                } else {
                    TimeRange::new(last.saturating_add(1), range.end_ns)
                };
                if tags.is_empty() || rest.intersect(&wanted).is_empty() {
                    return Ok(Flow::Continue);
                }
            }
        }
    }

    fn send(&mut self, rows: &mut RowBuilder, sender: &BatchSender) -> Result<Flow> {
        let batch = rows.finish()?;
        self.baseline.record_output(batch.num_rows());
        let sent = sender.blocking_send(Ok(batch));
        Ok(if sent.is_ok() { Flow::Continue } else { Flow::Stop })
    }
}

/// Nothing is left out that was not announced when the statement was planned.
pub(crate) fn check_skipped(snapshot: &Snapshot, scan: &Scan) -> Result<()> {
    if scan.has_skipped() { check_announced(snapshot, &scan.skipped()) } else { Ok(()) }
}

/// The same of a list of places.
pub(crate) fn check_announced(snapshot: &Snapshot, skipped: &[DamagedPlace]) -> Result<()> {
    let known = snapshot.damage();
    let Some(new) = skipped.iter().find(|place| !known.contains(place)) else {
        return Ok(());
    };
    let why = format!(
        "{} turned out to be damaged while it was read ({}): run the statement again, it then says what is left out",
        new.file, new.why
    );
    Err(crate::error::into_datafusion(crate::Error::Execution(why)))
}

//! The leaf that stands where an aggregate over a scan stood: partial states, or answers, of (tag, window), from rollups.
//!
//! Partitions are those of the scan, ascending ranges of tags, and within one the groups come tag by tag in the order of
//! time. Several partial states may have equal keys; answers have keys of their own. Keys that depend on the tag alone
//! are computed once for each tag. Reading runs on the runtime's blocking threads, a few batches ahead, and ends when the
//! stream is dropped.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, RecordBatch, RecordBatchOptions, TimestampNanosecondArray, UInt32Array,
};
use datafusion::arrow::compute::{SortOptions, take};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, ScalarValue, Statistics};
use datafusion::datasource::source::DataSource;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, Partitioning, PhysicalSortExpr, RangePartitioning,
    SplitPoint,
};
use datafusion::physical_plan::metrics::{
    BaselineMetrics, Count, ExecutionPlanMetricsSet, MetricBuilder,
};
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr};
use tagmill_storage::{
    Latest, Needs, Rollup, RollupRequest, ScanRequest, TagId, TagRollups, TagSelection, ValueType,
};

use super::beneath::Attributes;
use super::grain::Windows;
use super::states::{Form, State, StateBuilder};
use crate::aside::{BatchSender, stream_of};
use crate::error::into_datafusion;
use crate::limits::BATCH_ROWS;
use crate::relations::{UTC, utc_time};
use crate::served::ServedCounts;
use crate::source::{PlainScan, ShortRange, check_announced};

/// One group key.
#[derive(Debug)]
pub(super) enum Key {
    /// The same for all samples of a tag; over the columns of [`Attributes`].
    Tag(Arc<dyn PhysicalExpr>),
    /// `tag_id` itself.
    TagId,
    /// Start of the window's bucket.
    Start,
    /// The same for all instants of a bucket; over its start, the only column.
    Time(Arc<dyn PhysicalExpr>),
}

impl Key {
    /// Whether no two tags share it.
    pub(super) fn tells_tags_apart(&self) -> bool {
        match self {
            Self::TagId => true,
            Self::Tag(expr) => {
                expr.downcast_ref::<Column>().is_some_and(|column| column.index() == 1)
            }
            Self::Start | Self::Time(_) => false,
        }
    }
}

/// What is aggregated, and how it is grouped.
#[derive(Debug)]
pub(super) struct Grouping {
    pub(super) scan: PlainScan,
    pub(super) attributes: Attributes,
    pub(super) keys: Vec<Key>,
    pub(super) states: Vec<State>,
    pub(super) windows: Windows,
    /// Whether a tag's newest sample answers where it says enough.
    pub(super) from_newest: bool,
    pub(super) form: Form,
    /// For EXPLAIN: the coarsest tier that divides the windows, and what the states are of.
    pub(super) tier: &'static str,
    pub(super) shown: String,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct AggregateSource {
    grouping: Arc<Grouping>,
    schema: SchemaRef,
    metrics: ExecutionPlanMetricsSet,
}

impl AggregateSource {
    /// A source of such groups; `schema` is that of the partial aggregate.
    pub(super) fn new(grouping: Grouping, schema: SchemaRef) -> Self {
        let metrics = ExecutionPlanMetricsSet::new();
        Self { grouping: Arc::new(grouping), schema, metrics }
    }

    /// The column of the first key that is one of these.
    fn key(&self, is_wanted: impl Fn(&Key) -> bool) -> Option<PhysicalSortExpr> {
        let at = self.grouping.keys.iter().position(is_wanted)?;
        let column = Arc::new(Column::new(self.schema.field(at).name(), at));
        Some(PhysicalSortExpr::new(column, SortOptions::new(false, false)))
    }
}

impl DataSource for AggregateSource {
    fn open(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let read = PartRead {
            grouping: Arc::clone(&self.grouping),
            schema: Arc::clone(&self.schema),
            tags: self.grouping.scan.parts.get(partition).map(Arc::clone).unwrap_or_default(),
            baseline: BaselineMetrics::new(&self.metrics, partition),
            served: ServedCounts::new(&self.metrics, partition),
            newest: MetricBuilder::new(&self.metrics).counter("tags_from_latest", partition),
        };
        Ok(stream_of(&self.schema, move |sender| read.run(sender)))
    }

    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let separator = match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose => " ",
            DisplayFormatType::TreeRender => "\n",
        };
        let Grouping { scan, tier, form, shown, .. } = self.grouping.as_ref();
        let tags: usize = scan.parts.iter().map(|part| part.len()).sum();
        write!(f, "TagmillAggregate: tags={tags}{separator}range={}", ShortRange(scan.range))?;
        let form = if *form == Form::Final { "final" } else { "partial" };
        write!(f, "{separator}tier={tier}{separator}{form}{separator}{shown}")
    }

    fn output_partitioning(&self) -> Partitioning {
        let parts = &self.grouping.scan.parts;
        let unknown = Partitioning::UnknownPartitioning(parts.len());
        let Some(key) = self.key(|key| matches!(key, Key::TagId)).filter(|_| parts.len() > 1)
        else {
            return unknown;
        };
        let firsts = parts.iter().skip(1).filter_map(|part| part.first());
        let splits: Vec<SplitPoint> =
            firsts.map(|tag| SplitPoint::new(vec![ScalarValue::UInt32(Some(tag.0))])).collect();
        LexOrdering::new([key])
            .filter(|_| splits.len() + 1 == parts.len())
            .and_then(|ordering| RangePartitioning::try_new(ordering, splits).ok())
            .map_or(unknown, Partitioning::Range)
    }

    fn eq_properties(&self) -> EquivalenceProperties {
        let tag = self.key(|key| matches!(key, Key::TagId));
        let start = self.key(|key| matches!(key, Key::Start));
        let order = tag.zip(start).map(|(tag, start)| [tag, start]);
        EquivalenceProperties::new_with_orderings(Arc::clone(&self.schema), order)
    }

    fn partition_statistics(&self, _: Option<usize>) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let tags: usize = self.grouping.scan.parts.iter().map(|part| part.len()).sum();
        statistics.num_rows = Precision::Inexact(tags);
        Ok(Arc::new(statistics))
    }

    fn with_fetch(&self, _: Option<usize>) -> Option<Arc<dyn DataSource>> {
        None
    }

    fn fetch(&self) -> Option<usize> {
        None
    }

    fn metrics(&self) -> ExecutionPlanMetricsSet {
        self.metrics.clone()
    }

    fn try_swapping_with_projection(
        &self,
        _: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn DataSource>>> {
        Ok(None)
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }
}

/// The read of one partition, on a blocking thread.
struct PartRead {
    grouping: Arc<Grouping>,
    schema: SchemaRef,
    tags: Arc<[TagId]>,
    baseline: BaselineMetrics,
    served: ServedCounts,
    newest: Count,
}

/// Groups under construction.
struct Groups {
    /// Keys that depend on the tag, for each tag of the partition.
    of_tags: Vec<Option<ArrayRef>>,
    /// Which tag of the partition each group is of.
    tags: Vec<u32>,
    starts: Vec<i64>,
    states: Vec<StateBuilder>,
}

impl Groups {
    /// Adds a group of all samples of a tag.
    fn add_newest(&mut self, at: usize, newest: &Latest) {
        self.tags.push(u32::try_from(at).unwrap_or(u32::MAX));
        // Without a key of time nobody looks at it.
        self.starts.push(newest.time_ns);
        for builder in &mut self.states {
            builder.push_newest(newest.value.value_type(), newest);
        }
    }
}

impl PartRead {
    fn run(self, sender: &BatchSender) -> Result<()> {
        let grouping = Arc::clone(&self.grouping);
        let needs = grouping.states.iter().fold(Needs::Sql, |needs, state| {
            if state.needs() == Needs::SqlMoments { Needs::SqlMoments } else { needs }
        });
        let (newest, rest) = self.newest();
        self.newest.add(newest.len());
        let mut newest = newest.into_iter().peekable();
        let mut rollups = grouping.scan.snapshot.rollups(RollupRequest {
            tags: TagSelection::Only(rest),
            windows: grouping.windows.asked.clone(),
            needs,
            tiers: grouping.scan.tiers,
            damage: grouping.scan.damage,
        });
        let mut groups = Groups {
            of_tags: self.keys_of_tags()?,
            tags: Vec::new(),
            starts: Vec::new(),
            states: grouping.states.iter().map(|&state| StateBuilder::new(state)).collect(),
        };
        let mut at = 0;
        while !sender.is_closed() {
            let timer = self.baseline.elapsed_compute().timer();
            let part = rollups.next().transpose();
            let part = part.map_err(|error| into_datafusion(error.into()))?;
            timer.done();
            let comes_first = |at: usize| {
                part.as_ref()
                    .is_none_or(|part| self.tags.get(at).is_some_and(|tag| *tag < part.tag))
            };
            while let Some((at, newest)) = newest.next_if(|(at, _)| comes_first(*at)) {
                if groups.tags.len() >= BATCH_ROWS {
                    self.send(&mut groups, sender)?;
                }
                groups.add_newest(at, &newest);
            }
            let Some(part) = part else { break };
            while self.tags.get(at).is_some_and(|&tag| tag < part.tag) {
                at += 1;
            }
            if !groups.tags.is_empty() && groups.tags.len() + part.rollups.len() > BATCH_ROWS {
                self.send(&mut groups, sender)?;
            }
            self.add(&mut groups, at, &part)?;
        }
        self.served.add(rollups.served());
        check_announced(&grouping.scan.snapshot, &rollups.skipped())?;
        if !groups.tags.is_empty() {
            self.send(&mut groups, sender)?;
        }
        Ok(())
    }

    /// Positions of the tags whose newest sample says all that is asked for, with that sample; and the other tags.
    fn newest(&self) -> (Vec<(usize, Latest)>, Arc<[TagId]>) {
        let Grouping { scan, states, from_newest, .. } = self.grouping.as_ref();
        if !from_newest {
            return (Vec::new(), Arc::clone(&self.tags));
        }
        let (mut newest, mut rest) = (Vec::new(), Vec::new());
        for (at, tag) in self.tags.iter().enumerate() {
            let found = scan.snapshot.latest(*tag);
            let says_all = |found: &Latest| {
                scan.range.contains(found.time_ns)
                    && states.iter().all(|state| state.is_known_of(found))
            };
            match found.filter(says_all) {
                Some(found) => newest.push((at, found)),
                None => rest.push(*tag),
            }
        }
        (newest, rest.into())
    }

    fn keys_of_tags(&self) -> Result<Vec<Option<ArrayRef>>> {
        let Grouping { scan, attributes, keys, .. } = self.grouping.as_ref();
        let rows = attributes.rows(scan.snapshot.registry(), &self.tags)?;
        let each = keys.iter().map(|key| match key {
            Key::Tag(expr) => Ok(Some(expr.evaluate(&rows)?.into_array(rows.num_rows())?)),
            Key::TagId => Ok(rows.columns().first().map(Arc::clone)),
            Key::Start | Key::Time(_) => Ok(None),
        });
        each.collect()
    }

    fn add(&self, groups: &mut Groups, at: usize, part: &TagRollups) -> Result<()> {
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        groups.tags.resize(groups.tags.len() + part.rollups.len(), at);
        let windows = &self.grouping.windows;
        let starts = part.rollups.iter().map(|rollup| windows.bucket_of(rollup.start_ns));
        groups.starts.extend(starts);
        let mut by_float = None;
        for (builder, state) in groups.states.iter_mut().zip(&self.grouping.states) {
            if part.value_type == ValueType::I64 && state.shows_time_of_float() {
                let settled = match by_float.take() {
                    Some(settled) => settled,
                    None => self.extremes_by_float(part)?,
                };
                builder.push(part.value_type, &settled);
                by_float = Some(settled);
            } else {
                builder.push(part.value_type, &part.rollups);
            }
        }
        Ok(())
    }

    /// The same windows with extremes that are the earliest also among integers which differ and are equal as f64.
    fn extremes_by_float(&self, part: &TagRollups) -> Result<Vec<Rollup>> {
        const EXACT_MAX: u64 = 1 << 53;
        let mut rollups = part.rollups.clone();
        for rollup in &mut rollups {
            let start_ns = rollup.start_ns;
            for extreme in [&mut rollup.min, &mut rollup.max].into_iter().flatten() {
                if extreme.word.cast_signed().unsigned_abs() <= EXACT_MAX {
                    continue;
                }
                let wanted = extreme.value(part.value_type);
                if let Some(time_ns) = self.first_time_of(part.tag, start_ns, wanted)? {
                    extreme.time_ns = time_ns;
                }
            }
        }
        Ok(rollups)
    }

    /// When an i64 tag first shows this value as f64, in the window that starts here.
    #[expect(clippy::float_cmp, reason = "it is one of these values")]
    fn first_time_of(&self, tag: TagId, start_ns: i64, wanted: f64) -> Result<Option<i64>> {
        let Grouping { scan, windows, .. } = self.grouping.as_ref();
        let tags = TagSelection::Only(Arc::from([tag]));
        let request = ScanRequest::new(tags, windows.range_of(start_ns).intersect(&scan.range));
        for batch in scan.snapshot.scan(ScanRequest { damage: scan.damage, ..request }) {
            let batch = batch.map_err(|error| into_datafusion(error.into()))?;
            let tagmill_storage::Values::I64(values) = &batch.values else { continue };
            let mut rows = values.iter().enumerate();
            let found = rows
                .find(|&(row, &value)| value as f64 == wanted && !batch.qualities.at(row).is_bad());
            if let Some((row, _)) = found {
                return Ok(batch.times.get(row).copied());
            }
        }
        Ok(None)
    }

    fn send(&self, groups: &mut Groups, sender: &BatchSender) -> Result<()> {
        let count = groups.tags.len();
        let tags = UInt32Array::from(std::mem::take(&mut groups.tags));
        let starts = TimestampNanosecondArray::from(std::mem::take(&mut groups.starts));
        let starts: ArrayRef = Arc::new(starts.with_timezone(UTC));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (key, of_tags) in self.grouping.keys.iter().zip(&groups.of_tags) {
            columns.push(match (key, of_tags) {
                (_, Some(of_tags)) => take(of_tags, &tags, None)?,
                (Key::Time(expr), None) => {
                    let schema = Schema::new(vec![Field::new("ts", utc_time(), false)]);
                    let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&starts)])?;
                    expr.evaluate(&rows)?.into_array(count)?
                }
                (_, None) => Arc::clone(&starts),
            });
        }
        for state in &mut groups.states {
            state.finish(self.grouping.form, &mut columns);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let batch = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?;
        self.baseline.record_output(count);
        // A reader that is gone is noticed before the next part.
        sender.blocking_send(Ok(batch)).ok();
        Ok(())
    }
}

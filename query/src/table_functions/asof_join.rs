//! `asof_join(events, tags [, tolerance])`: to each event the last usable sample of each tag at or before it.
//!
//! The events are a subquery, VALUES or the name of a relation; their time is the column `ts`, or else the first one.
//! Each event comes once for each tag, in the order of the events, with nulls where the tag has no usable sample so
//! early, or none within the tolerance. Nothing is drawn here: that is what `value_at` is for.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, AsArray, DurationNanosecondArray, RecordBatch, StringViewArray, UInt32Array,
};
use datafusion::arrow::compute::{cast, take, take_record_batch};
use datafusion::arrow::datatypes::{
    DataType, Field, Schema, SchemaRef, TimeUnit, TimestampNanosecondType,
};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchemaRef, Result, internal_err, plan_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{CardinalityEffect, ReplaceChildrenOptions};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};
use futures::StreamExt;
use tagmill_storage::{Tag, TagId};

use super::instants::{Look, visit};
use super::known_tags;
use super::planner::Call;
use super::readings::{Reader, Reading, rule_of};
use crate::limits::{BATCH_ROWS, BATCHES_AHEAD};
use crate::relations::rows::{RowBuilder, RowColumn, schema_of};
use crate::relations::utc_time;

/// What is given of a sample.
const SAMPLE: [RowColumn; 5] = [
    RowColumn::Value,
    RowColumn::ValueInt,
    RowColumn::ValueText,
    RowColumn::Ts,
    RowColumn::Quality,
];

/// The columns of the events, then those of the samples.
pub(crate) fn schema(events: &DFSchemaRef) -> Result<SchemaRef> {
    time_column(events.as_arrow())?;
    let mut fields: Vec<Field> =
        events.fields().iter().map(|field| field.as_ref().clone()).collect();
    let own = [
        Field::new("tag_id", DataType::UInt32, false),
        Field::new("tag", DataType::Utf8View, false),
    ];
    let sample = schema_of(&SAMPLE);
    let sample = sample.fields().iter().map(|field| {
        let name = if field.name() == "ts" { "sample_ts" } else { field.name() };
        Field::new(name, field.data_type().clone(), true)
    });
    let age = Field::new("age", DataType::Duration(TimeUnit::Nanosecond), true);
    fields.extend(own.into_iter().chain(sample).chain([age]));
    for (at, field) in fields.iter().enumerate() {
        if fields.iter().take(at).any(|before| before.name() == field.name()) {
            let name = field.name();
            return plan_err!(
                "asof_join: events: the name of column {name} is taken by the result: rename it with AS"
            );
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// Position of the events' time.
fn time_column(events: &Schema) -> Result<usize> {
    let at = events.index_of("ts").unwrap_or(0);
    match events.fields().get(at) {
        None => plan_err!("asof_join: events: there is no column"),
        Some(field) => match field.data_type() {
            DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => Ok(at),
            text if text.is_string() => Ok(at),
            other => plan_err!(
                "asof_join: events: no column is named ts, and {}, the first one, is {other}, no time",
                field.name()
            ),
        },
    }
}

/// Plans a call over the events of `input`.
pub(crate) fn plan(call: &Call, input: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let registry = call.scope.snapshot.registry();
    let ids = known_tags(call)?;
    let tags = ids.iter().filter_map(|id| registry.get(*id)).map(Arc::clone).collect();
    Ok(Arc::new(AsofJoin::new(
        Samples {
            reader: call.reader(&ids),
            schema: Arc::clone(&call.schema),
            tags,
            time: time_column(&input.schema())?,
            tolerance_ns: call.arguments.length_ns("tolerance")?,
        },
        input,
    )))
}

/// What is looked up for each event.
#[derive(Clone, Debug)]
struct Samples {
    reader: Reader,
    schema: SchemaRef,
    tags: Arc<[Arc<Tag>]>,
    time: usize,
    tolerance_ns: Option<i64>,
}

/// See the module.
#[derive(Debug)]
struct AsofJoin {
    samples: Samples,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl AsofJoin {
    fn new(samples: Samples, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&samples.schema)),
            datafusion::physical_expr::Partitioning::UnknownPartitioning(
                input.output_partitioning().partition_count(),
            ),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { samples, input, properties: Arc::new(properties) }
    }
}

impl DisplayAs for AsofJoin {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "TagmillAsofJoinExec: tags={}", self.samples.tags.len())
    }
}

impl ExecutionPlan for AsofJoin {
    // Joins are kept interruptible by their name.
    fn name(&self) -> &'static str {
        "TagmillAsofJoinExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
        let Some(input) = children.into_iter().next() else {
            return internal_err!("asof_join lost its events");
        };
        Ok(Arc::new(Self::new(self.samples.clone(), input)))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = datafusion::physical_plan::execution_plan::ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let mut events = self.input.execute(partition, context)?;
        let samples = self.samples.clone();
        let mut builder =
            RecordBatchReceiverStreamBuilder::new(Arc::clone(&samples.schema), BATCHES_AHEAD);
        let sender = builder.tx();
        builder.spawn(async move {
            while let Some(batch) = events.next().await.transpose()? {
                let rows = BATCH_ROWS / samples.tags.len().max(1);
                let mut from = 0;
                while from < batch.num_rows() {
                    let part = batch.slice(from, rows.max(1).min(batch.num_rows() - from));
                    from += part.num_rows();
                    let samples = samples.clone();
                    let joined = tokio::task::spawn_blocking(move || samples.join(&part)).await;
                    let joined = match joined {
                        Ok(joined) => joined?,
                        Err(error) => return internal_err!("asof_join ended early: {error}"),
                    };
                    if sender.send(Ok(joined)).await.is_err() {
                        return Ok(());
                    }
                }
            }
            Ok(())
        });
        Ok(builder.build())
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Unknown
    }
}

impl Samples {
    /// The rows for some events.
    fn join(&self, events: &RecordBatch) -> Result<RecordBatch> {
        let times = cast(events.column(self.time), &utc_time())?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        // Walked in order of time; written in the order of the events.
        let mut order: Vec<(i64, usize)> =
            times.iter().enumerate().filter_map(|(row, time)| Some((time?, row))).collect();
        order.sort_unstable();
        let instants: Vec<i64> = order.iter().map(|event| event.0).collect();
        let count = events.num_rows() * self.tags.len();
        let mut found: Vec<Option<Reading>> = vec![None; count];
        for (column, tag) in self.tags.iter().enumerate() {
            let rule = rule_of(tag);
            visit(&self.reader, tag.id, &rule, &instants, Look::Back, |index, carry, _| {
                let Some(&(at_ns, event)) = order.get(index) else { return };
                let fresh = |usable: &&Reading| {
                    let age_ns = at_ns.saturating_sub(usable.time_ns);
                    self.tolerance_ns.is_none_or(|most| age_ns <= most)
                };
                if let Some(slot) = found.get_mut(event * self.tags.len() + column) {
                    *slot = carry.usable.as_ref().filter(fresh).cloned();
                }
            })?;
        }
        self.rows(events, times, &found)
    }

    fn rows(
        &self,
        events: &RecordBatch,
        times: &datafusion::arrow::array::TimestampNanosecondArray,
        found: &[Option<Reading>],
    ) -> Result<RecordBatch> {
        let tags = self.tags.len();
        let event_of = |row: usize| u32::try_from(row / tags.max(1)).ok();
        let each: UInt32Array = (0..found.len()).map(event_of).collect();
        let mut columns = take_record_batch(events, &each)?.columns().to_vec();
        let tag_of = |row: usize| self.tags.get(row % tags.max(1));
        let ids = (0..found.len()).map(|row| tag_of(row).map(|tag| tag.id.0));
        columns.push(Arc::new(ids.collect::<UInt32Array>()));
        let names = (0..found.len()).map(|row| tag_of(row).map(|tag| tag.name.as_ref()));
        columns.push(Arc::new(names.collect::<StringViewArray>()));
        columns.extend(self.sample_columns(found)?);
        let ages = found.iter().enumerate().map(|(row, reading)| {
            let event = usize::try_from(event_of(row)?).ok()?;
            Some(times.value(event).saturating_sub(reading.as_ref()?.time_ns))
        });
        columns.push(Arc::new(ages.collect::<DurationNanosecondArray>()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }

    /// The columns of [`SAMPLE`], null where nothing was found.
    fn sample_columns(&self, found: &[Option<Reading>]) -> Result<Vec<ArrayRef>> {
        let mut rows = RowBuilder::new(self.reader.snapshot.clone(), &SAMPLE, 0);
        let mut at: Vec<Option<u32>> = Vec::with_capacity(found.len());
        let mut count = 0;
        for (row, reading) in found.iter().enumerate() {
            let tag: Option<TagId> = self.tags.get(row % self.tags.len().max(1)).map(|tag| tag.id);
            let (Some(reading), Some(tag)) = (reading, tag) else {
                at.push(None);
                continue;
            };
            super::send_readings(&self.reader.snapshot, tag, vec![reading.clone()], &mut rows);
            at.push(Some(count));
            count += 1;
        }
        let (batch, at) = (rows.finish()?, UInt32Array::from(at));
        let taken = batch.columns().iter().map(|column| Ok(take(column, &at, None)?));
        taken.collect()
    }
}

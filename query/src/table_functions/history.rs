//! `history(tags, start, end [, bounds])`: what a trend shows of some tags, from one instant to another.
//!
//! The samples in `start <= ts < end`, and for each tag a row at `start` and one at `end` with what holds there, so that
//! a curve reaches both edges although samples are far apart: the held or drawn value, null where none is known. Nothing
//! is shown of the future: without later samples the last row stands at `now()`. A tag without a sample before an edge
//! has no row there.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use tagmill_storage::{
    Qualities, Quality, Rule, ScanBatch, TagId, TimeRange, Value, ValueType, Values,
};

use super::job::{Job, Sink};
use super::known_tags;
use super::planner::Call;
use super::readings::{Carry, Reader, Reading, readings, rule_of};
use crate::limits::BATCH_ROWS;
use crate::pieces::{Known, known_at};
use crate::relations::rows::{RowBuilder, RowColumn, schema_of};
use crate::source::Flow;

/// The columns of `samples`, and whether a row stands for an edge.
pub(crate) fn schema() -> SchemaRef {
    let mut fields: Vec<_> = schema_of(&RowColumn::SAMPLES).fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("bound", DataType::Boolean, false)));
    Arc::new(Schema::new(fields))
}

/// See the module.
#[derive(Debug)]
struct History {
    reader: Reader,
    schema: SchemaRef,
    tags: Vec<TagId>,
    range: TimeRange,
    bounds: bool,
    now_ns: i64,
}

/// Plans a call.
pub(crate) fn plan(call: &Call) -> Result<Arc<dyn Job>> {
    let arguments = &call.arguments;
    let start_ns = arguments.needed("start", arguments.time("start")?)?;
    let end_ns = arguments.time("end")?.unwrap_or(call.now_ns);
    let mut tags: Vec<TagId> = known_tags(call)?;
    tags.sort_unstable();
    Ok(Arc::new(History {
        reader: call.reader(&tags),
        schema: Arc::clone(&call.schema),
        tags,
        range: TimeRange::new(start_ns, end_ns),
        bounds: arguments.flag("bounds", true)?,
        now_ns: call.now_ns,
    }))
}

impl Job for History {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn order(&self) -> &'static [&'static str] {
        &["tag_id", "ts"]
    }

    fn explain(&self) -> String {
        format!("history tags={} range={}", self.tags.len(), self.range)
    }

    fn run(&self, sink: &mut Sink) -> Result<()> {
        let snapshot = self.reader.snapshot.clone();
        let rows = RowBuilder::new(snapshot, &RowColumn::SAMPLES, self.now_ns);
        let mut rows = Rows { samples: rows, bounds: Vec::new(), schema: Arc::clone(&self.schema) };
        if self.range.is_empty() {
            return Ok(());
        }
        for &tag in &self.tags {
            if self.run_tag(tag, &mut rows, sink)? == Flow::Stop {
                return Ok(());
            }
        }
        rows.flush(sink).map(|_| ())
    }
}

impl History {
    fn run_tag(&self, tag: TagId, rows: &mut Rows, sink: &mut Sink) -> Result<Flow> {
        let Some(known) = self.reader.snapshot.registry().get(tag) else {
            return Ok(Flow::Continue);
        };
        let (rule, value_type) = (rule_of(known), known.value_type);
        let TimeRange { start_ns, end_ns } = self.range;
        let mut carry =
            if self.bounds { self.reader.before(tag, start_ns, &rule)? } else { Carry::default() };
        let mut walk = self.reader.walk(&[tag], self.range)?;
        let mut next = walk.next_batch()?;
        if self.bounds {
            let first = next.as_ref().and_then(|batch| readings(batch).next());
            if first.as_ref().is_none_or(|first| first.time_ns > start_ns) {
                let first = match first {
                    None => self.reader.after(tag, end_ns, None)?,
                    first => first,
                };
                let edge = Edge { tag, at_ns: start_ns, value_type };
                self.push_edge(&edge, &rule, &carry, first.as_ref(), rows);
            }
        }
        while let Some(batch) = next {
            if self.bounds {
                // Only the newest usable one and the newest of all matter at the end.
                let mut newest: Vec<Reading> = Vec::new();
                for reading in readings_reversed(&batch) {
                    let usable = reading.is_usable(&rule);
                    newest.push(reading);
                    if usable {
                        break;
                    }
                }
                for reading in newest.into_iter().rev() {
                    carry.push(reading, &rule);
                }
            }
            if rows.push(batch, false, sink)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
            next = walk.next_batch()?;
        }
        if self.bounds {
            let mut after = self.reader.after(tag, end_ns, None)?;
            let at_ns = if after.is_some() { end_ns } else { end_ns.min(self.now_ns) };
            let last_ns = carry.last.as_ref().map_or(i64::MIN, |last| last.time_ns);
            if let Some(exact) = after.take_if(|after| after.time_ns == at_ns) {
                carry.push(exact, &rule);
            }
            if at_ns > start_ns.max(last_ns) {
                let edge = Edge { tag, at_ns, value_type };
                self.push_edge(&edge, &rule, &carry, after.as_ref(), rows);
            }
        }
        Ok(sink.flow())
    }

    fn push_edge(
        &self,
        edge: &Edge,
        rule: &Rule,
        carry: &Carry,
        after: Option<&Reading>,
        rows: &mut Rows,
    ) {
        let in_future = edge.at_ns > self.now_ns && after.is_none();
        if carry.last.is_none() || in_future {
            return;
        }
        let next = after.map(|after| after.next(rule));
        let (broken, now_ns) = (carry.is_broken(), self.now_ns);
        let known = known_at(rule, edge.at_ns, carry.point(), broken, next, now_ns);
        let unknown = (nothing(edge.value_type), Quality::BAD_NO_DATA);
        let (value, quality) = match (known, &carry.usable, after) {
            (Known::Held, Some(held), _) => (held.value.clone(), held.quality),
            (Known::Drawn(value), Some(from), Some(to)) => {
                let worse = to.quality.severity() > from.quality.severity();
                (Value::F64(value), if worse { to.quality } else { from.quality })
            }
            _ => unknown,
        };
        let mut values = Values::empty(value.value_type());
        values.push(value);
        let times = vec![edge.at_ns];
        let qualities = Qualities::Uniform(quality);
        rows.take(ScanBatch { tag: edge.tag, times, values, qualities }, true);
    }
}

/// Where a row without a sample stands.
struct Edge {
    tag: TagId,
    at_ns: i64,
    value_type: ValueType,
}

/// A value that a Bad row of this type may carry.
fn nothing(value_type: ValueType) -> Value {
    match value_type {
        ValueType::Text => Value::Text(Arc::from("")),
        _ => Value::F64(f64::NAN),
    }
}

/// The samples of a batch, newest first.
fn readings_reversed(batch: &ScanBatch) -> impl Iterator<Item = Reading> {
    (0..batch.times.len()).rev().filter_map(move |row| {
        let (time_ns, value) = (*batch.times.get(row)?, batch.values.get(row)?);
        Some(Reading { time_ns, value, quality: batch.qualities.at(row) })
    })
}

/// Rows on their way out.
struct Rows {
    samples: RowBuilder,
    bounds: Vec<bool>,
    schema: SchemaRef,
}

impl Rows {
    fn take(&mut self, batch: ScanBatch, bound: bool) {
        self.bounds.resize(self.bounds.len() + batch.times.len(), bound);
        self.samples.push(batch);
    }

    fn push(&mut self, batch: ScanBatch, bound: bool, sink: &mut Sink) -> Result<Flow> {
        let full = self.samples.rows() + batch.times.len() > BATCH_ROWS;
        if full && self.flush(sink)? == Flow::Stop {
            return Ok(Flow::Stop);
        }
        self.take(batch, bound);
        Ok(sink.flow())
    }

    fn flush(&mut self, sink: &mut Sink) -> Result<Flow> {
        if self.samples.rows() == 0 {
            return Ok(sink.flow());
        }
        let batch = self.samples.finish()?;
        let bounds: ArrayRef = Arc::new(BooleanArray::from(std::mem::take(&mut self.bounds)));
        let mut columns = batch.columns().to_vec();
        columns.push(bounds);
        Ok(sink.send(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

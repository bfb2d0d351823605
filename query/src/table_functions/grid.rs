//! `grid(tags, start, end, step [, zone, offset, mode, bridge])`: some tags side by side, one column each, one row per
//! instant of an even grid.
//!
//! A cell is what the tag shows at that instant, or, if averages are asked for, the time-weighted mean up to the next.
//! The grid is worked through in stripes of instants: one read of all tags fills a stripe, and only what came last of each
//! tag is kept from stripe to stripe, so memory does not grow with the range.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Builder, Int64Builder, StringViewBuilder, TimestampNanosecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use tagmill_storage::{Rule, Snapshot, Tag, TagId, TimeRange, Value, ValueType};

use super::arguments::Arguments;
use super::job::{Job, Sink};
use super::mean::Mean;
use super::planner::Call;
use super::readings::{Carry, Reader, Reading, number_of, readings, rule_of};
use super::selection::{Selected, select};
use crate::functions::bucket::Buckets;
use crate::functions::width::Width;
use crate::limits::{BATCH_ROWS, GRID_CELLS, GRID_TAGS_MAX, SCAN_TAGS};
use crate::pieces::{Known, known_at, piece_of};
use crate::relations::{Scope, UTC, utc_time};
use crate::source::Flow;

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// The value at the instant.
    Value,
    /// The time-weighted mean from it to the next.
    Average,
}

impl Mode {
    fn of(arguments: &Arguments) -> Result<Self> {
        let word = arguments.word("mode", &["value", "average"])?;
        Ok(if word == "average" { Self::Average } else { Self::Value })
    }
}

/// `ts` and a column for each tag.
pub(crate) fn schema(scope: &Scope, arguments: &Arguments) -> Result<SchemaRef> {
    let registry = scope.snapshot.registry();
    let selected = select(registry, &arguments.tags()?, &scope.notices);
    let selected = selected.map_err(|why| arguments.wrong("tags", why))?;
    if selected.len() > GRID_TAGS_MAX {
        let count = selected.len();
        return Err(arguments.wrong("tags", format!("{count} tags, at most {GRID_TAGS_MAX}")));
    }
    let mode = Mode::of(arguments)?;
    let mut fields = vec![Field::new("ts", utc_time(), false)];
    for Selected { name, id } in &selected {
        let tag = id.and_then(|id| registry.get(id));
        let data_type = tag.map_or(DataType::Float64, |tag| type_of(tag, mode));
        fields.push(Field::new(name.as_ref(), data_type, true));
    }
    let names = fields.iter().filter(|field| field.name() == "ts").count();
    if names > 1 {
        return Err(arguments.wrong("tags", "a tag is named ts, which is the time's column"));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The type of a tag's column.
fn type_of(tag: &Tag, mode: Mode) -> DataType {
    match tag.value_type {
        ValueType::Text | ValueType::State => DataType::Utf8View,
        ValueType::I64 | ValueType::Bool if mode == Mode::Value && tag.is_stepped() => {
            DataType::Int64
        }
        _ => DataType::Float64,
    }
}

/// See the module.
#[derive(Debug)]
struct Grid {
    reader: Reader,
    schema: SchemaRef,
    /// The tags of the columns after `ts`.
    columns: Vec<Option<(TagId, Rule)>>,
    range: TimeRange,
    buckets: Buckets,
    mode: Mode,
    bridge: bool,
    now_ns: i64,
}

/// Plans a call.
pub(crate) fn plan(call: &Call) -> Result<Arc<dyn Job>> {
    let arguments = &call.arguments;
    let start_ns = arguments.needed("start", arguments.time("start")?)?;
    let end_ns = arguments.needed("end", arguments.time("end")?)?;
    let step: Width = arguments.needed("step", arguments.width("step")?)?;
    let offset_ns = arguments.length_ns("offset")?;
    let buckets = match (arguments.zone("zone")?, offset_ns) {
        (None, None) => Buckets::utc(step, Some(start_ns)),
        (None, Some(_)) => return Err(arguments.wrong("offset", "it needs a zone")),
        (Some(zone), offset_ns) => Buckets::local(step, zone, offset_ns.unwrap_or(0))
            .map_err(|why| arguments.wrong("step", why))?,
    };
    let registry = call.scope.snapshot.registry();
    let mut columns = Vec::new();
    for field in call.schema.fields().iter().skip(1) {
        let tag = registry.find(field.name()).and_then(|id| registry.get(id));
        columns.push(tag.map(|tag| (tag.id, rule_of(tag))));
    }
    let mut tags: Vec<TagId> = columns.iter().flatten().map(|(tag, _)| *tag).collect();
    tags.sort_unstable();
    Ok(Arc::new(Grid {
        reader: call.reader(&tags),
        schema: Arc::clone(&call.schema),
        range: if tags.is_empty() {
            TimeRange::new(0, 0)
        } else {
            TimeRange::new(start_ns, end_ns)
        },
        columns,
        buckets,
        mode: Mode::of(arguments)?,
        bridge: arguments.flag("bridge", false)?,
        now_ns: call.now_ns,
    }))
}

impl Job for Grid {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn order(&self) -> &'static [&'static str] {
        &["ts"]
    }

    fn explain(&self) -> String {
        format!("grid tags={} range={}", self.columns.iter().flatten().count(), self.range)
    }

    fn run(&self, sink: &mut Sink) -> Result<()> {
        let TimeRange { start_ns, end_ns } = self.range;
        if self.range.is_empty() {
            return Ok(());
        }
        let mut tracks = Vec::new();
        for (column, known) in self.columns.iter().enumerate() {
            let Some((tag, rule)) = known.clone() else { continue };
            if sink.flow() == Flow::Stop {
                return Ok(());
            }
            let carry = self.reader.before(tag, start_ns, &rule)?;
            tracks.push(Track { tag, column, rule, carry, ahead: Ahead::NotAsked });
        }
        tracks.sort_unstable_by_key(|track| track.tag);
        let rows = (GRID_CELLS / tracks.len().max(1)).clamp(1, BATCH_ROWS);
        let mut at = self.first_instant(start_ns);
        let mut read_to_ns = start_ns;
        while let Some(first) = at.filter(|&at| at < end_ns) {
            let mut instants = vec![first];
            at = self.instant_after(first);
            while let Some(more) = at.filter(|&at| at < end_ns && instants.len() < rows) {
                instants.push(more);
                at = self.instant_after(more);
            }
            let stripe_end_ns = match self.mode {
                // The samples at the last instant itself count there.
                Mode::Value => instants.last().map_or(first, |last| last.saturating_add(1)),
                Mode::Average => at.unwrap_or(end_ns).min(end_ns),
            };
            let stripe = Stripe { instants, start_ns: read_to_ns, end_ns: stripe_end_ns };
            let Some(batch) = self.stripe(&stripe, &mut tracks, sink)? else { return Ok(()) };
            read_to_ns = stripe_end_ns;
            if sink.send(&batch) == Flow::Stop {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Some instants that are filled together, and which samples are read for them.
struct Stripe {
    instants: Vec<i64>,
    start_ns: i64,
    end_ns: i64,
}

/// One tag on its way through the grid.
struct Track {
    tag: TagId,
    column: usize,
    rule: Rule,
    carry: Carry,
    ahead: Ahead,
}

/// The sample after the last stripe. It is kept, so that sparse tags need no look-up per stripe.
enum Ahead {
    NotAsked,
    None,
    At(Reading),
}

impl Grid {
    fn first_instant(&self, start_ns: i64) -> Option<i64> {
        let (first, next) = self.buckets.range_of(start_ns)?;
        Some(if first < start_ns { next } else { first })
    }

    fn instant_after(&self, at_ns: i64) -> Option<i64> {
        self.buckets.range_of(at_ns).map(|range| range.1)
    }

    /// Fills a stripe; nothing if nobody listens any more.
    fn stripe(
        &self,
        stripe: &Stripe,
        tracks: &mut [Track],
        sink: &Sink,
    ) -> Result<Option<RecordBatch>> {
        let mut columns: Vec<Option<ArrayRef>> = vec![None; self.columns.len()];
        let range = TimeRange::new(stripe.start_ns, stripe.end_ns);
        for part in tracks.chunks_mut(SCAN_TAGS) {
            let tags: Vec<TagId> = part.iter().map(|track| track.tag).collect();
            let mut walk = self.reader.walk(&tags, range)?;
            let mut ahead = walk.next_batch()?;
            for track in part {
                if sink.flow() == Flow::Stop {
                    return Ok(None);
                }
                let mut cells = self.cells(stripe, track);
                while let Some(batch) = ahead.take_if(|batch| batch.tag == track.tag) {
                    for reading in readings(&batch) {
                        self.take(&mut cells, track, reading);
                    }
                    ahead = walk.next_batch()?;
                }
                self.finish(&mut cells, track, stripe)?;
                if let Some(slot) = columns.get_mut(track.column) {
                    *slot = Some(cells.column.finish());
                }
            }
        }
        let rows = stripe.instants.len();
        let times = TimestampNanosecondArray::from(stripe.instants.clone()).with_timezone(UTC);
        let mut all: Vec<ArrayRef> = vec![Arc::new(times)];
        for (column, field) in columns.into_iter().zip(self.schema.fields().iter().skip(1)) {
            all.push(column.unwrap_or_else(|| {
                datafusion::arrow::array::new_null_array(field.data_type(), rows)
            }));
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), all)?))
    }

    fn cells<'a>(&self, stripe: &'a Stripe, track: &Track) -> Cells<'a> {
        let data_type = self.schema.fields().get(track.column + 1).map(|field| field.data_type());
        let averages = self.mode == Mode::Average && data_type == Some(&DataType::Float64);
        Cells {
            instants: &stripe.instants,
            column: Column::new(data_type.unwrap_or(&DataType::Float64), &self.reader.snapshot),
            filled: 0,
            mean: averages.then(|| Mean::new(&stripe.instants, stripe.end_ns)),
        }
    }

    /// Takes the next sample of a tag: what lies before it is known now.
    fn take(&self, cells: &mut Cells, track: &mut Track, reading: Reading) {
        if self.bridge && !reading.is_usable(&track.rule) {
            return;
        }
        self.settle(cells, track, reading.time_ns, Some(&reading));
        track.carry.push(reading, &track.rule);
    }

    /// Fills the cells before `to_ns`.
    fn settle(&self, cells: &mut Cells, track: &Track, to_ns: i64, next: Option<&Reading>) {
        let next = next.map(|next| next.next(&track.rule));
        let broken = track.carry.is_broken() && !self.bridge;
        let before = track.carry.point();
        if let Some(mean) = &mut cells.mean {
            let from = before.filter(|_| !broken);
            let piece = from.and_then(|from| piece_of(&track.rule, from, next, self.now_ns));
            if let Some(piece) = piece {
                mean.add(&piece);
            }
            return;
        }
        while let Some(&at_ns) = cells.instants.get(cells.filled).filter(|&&at| at < to_ns) {
            let known = known_at(&track.rule, at_ns, before, broken, next, self.now_ns);
            match (known, &track.carry.usable) {
                (Known::Held, Some(held)) => cells.column.push(track.tag, &held.value),
                (Known::Drawn(value), _) => cells.column.push(track.tag, &Value::F64(value)),
                _ => cells.column.push_null(),
            }
            cells.filled += 1;
        }
    }

    /// Fills what no sample of the stripe has settled.
    fn finish(&self, cells: &mut Cells, track: &mut Track, stripe: &Stripe) -> Result<()> {
        let is_stale = match &track.ahead {
            Ahead::NotAsked => true,
            Ahead::None => false,
            Ahead::At(next) => next.time_ns < stripe.end_ns,
        };
        if is_stale {
            let usable_by = self.bridge.then_some(&track.rule);
            let next = self.reader.after(track.tag, stripe.end_ns, usable_by)?;
            track.ahead = next.map_or(Ahead::None, Ahead::At);
        }
        let next = match &track.ahead {
            Ahead::At(next) => Some(next.clone()),
            Ahead::NotAsked | Ahead::None => None,
        };
        self.settle(cells, track, i64::MAX, next.as_ref());
        if let Some(mean) = &cells.mean {
            for value in mean.values() {
                match value {
                    Some(value) => cells.column.push(track.tag, &Value::F64(value)),
                    None => cells.column.push_null(),
                }
            }
        }
        Ok(())
    }
}

/// The cells of one tag in one stripe.
struct Cells<'a> {
    instants: &'a [i64],
    column: Column,
    filled: usize,
    mean: Option<Mean>,
}

/// A column of cells under construction.
struct Column {
    snapshot: Snapshot,
    values: Builder,
}

enum Builder {
    Number(Float64Builder),
    Integer(Int64Builder),
    Text(StringViewBuilder),
}

impl Column {
    fn new(data_type: &DataType, snapshot: &Snapshot) -> Self {
        let values = match data_type {
            DataType::Int64 => Builder::Integer(Int64Builder::new()),
            DataType::Utf8View => Builder::Text(StringViewBuilder::new()),
            _ => Builder::Number(Float64Builder::new()),
        };
        Self { snapshot: snapshot.clone(), values }
    }

    fn push(&mut self, tag: TagId, value: &Value) {
        match (&mut self.values, value) {
            (Builder::Number(all), value) => all.append_value(number_of(value)),
            (Builder::Integer(all), Value::I64(value)) => all.append_value(*value),
            (Builder::Integer(all), Value::Bool(value)) => all.append_value(i64::from(*value)),
            (Builder::Integer(all), _) => all.append_null(),
            (Builder::Text(all), Value::Text(text)) => all.append_value(text),
            (Builder::Text(all), Value::State(code)) => {
                let registry = self.snapshot.registry();
                let label = registry.get(tag).and_then(|tag| registry.state_label(tag, *code));
                match label {
                    Some(label) => all.append_value(label),
                    None => all.append_value(code.to_string()),
                }
            }
            (Builder::Text(all), _) => all.append_null(),
        }
    }

    fn push_null(&mut self) {
        match &mut self.values {
            Builder::Number(all) => all.append_null(),
            Builder::Integer(all) => all.append_null(),
            Builder::Text(all) => all.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match &mut self.values {
            Builder::Number(all) => Arc::new(all.finish()),
            Builder::Integer(all) => Arc::new(all.finish()),
            Builder::Text(all) => Arc::new(all.finish()),
        }
    }
}

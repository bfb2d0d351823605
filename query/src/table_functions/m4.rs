//! `m4(tags, start, end, pixels)`: the samples that draw the same picture as all of them on a chart so many pixels wide.
//!
//! Of each pixel column the first, the last, the least and the greatest value (Jugel et al., "M4", VLDB 2014), each
//! sample with its quality. Samples without a value interrupt a line, so the first and last sample of any quality are
//! given too, and the first one without a value: a column gives at most seven rows. Text has no picture.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::Result;
use tagmill_storage::{TagId, TimeRange};

use super::job::{Job, Sink};
use super::planner::Call;
use super::readings::{Reader, Reading, readings};
use super::{chart_tags, send_readings};
use crate::limits::BATCH_ROWS;
use crate::relations::rows::{RowBuilder, RowColumn};
use crate::source::Flow;

/// See the module.
#[derive(Debug)]
struct M4 {
    reader: Reader,
    schema: SchemaRef,
    tags: Vec<TagId>,
    range: TimeRange,
    pixels: i64,
}

/// Plans a call.
pub(crate) fn plan(call: &Call) -> Result<Arc<dyn Job>> {
    let arguments = &call.arguments;
    let start_ns = arguments.needed("start", arguments.time("start")?)?;
    let end_ns = arguments.needed("end", arguments.time("end")?)?;
    let pixels = arguments.count("pixels", 1)?;
    let tags = chart_tags(call)?;
    Ok(Arc::new(M4 {
        reader: call.reader(&tags),
        schema: Arc::clone(&call.schema),
        tags,
        range: TimeRange::new(start_ns, end_ns),
        pixels,
    }))
}

impl Job for M4 {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn order(&self) -> &'static [&'static str] {
        &["tag_id", "ts"]
    }

    fn explain(&self) -> String {
        format!("m4 tags={} range={} pixels={}", self.tags.len(), self.range, self.pixels)
    }

    fn run(&self, sink: &mut Sink) -> Result<()> {
        let mut rows = RowBuilder::new(self.reader.snapshot.clone(), &RowColumn::SAMPLES, 0);
        let mut walk = self.reader.walk(&self.tags, self.range)?;
        let mut pixel = Pixel::default();
        let mut at: Option<(TagId, i64)> = None;
        while let Some(batch) = walk.next_batch()? {
            for reading in readings(&batch) {
                let column = column_of(reading.time_ns, self.range, self.pixels);
                if at.is_some_and(|at| at != (batch.tag, column)) {
                    self.flush(at, &mut pixel, &mut rows);
                }
                at = Some((batch.tag, column));
                pixel.push(reading);
            }
            if rows.rows() >= BATCH_ROWS && sink.send(&rows.finish()?) == Flow::Stop {
                return Ok(());
            }
            if sink.flow() == Flow::Stop {
                return Ok(());
            }
        }
        self.flush(at, &mut pixel, &mut rows);
        if rows.rows() > 0 {
            sink.send(&rows.finish()?);
        }
        Ok(())
    }
}

impl M4 {
    fn flush(&self, at: Option<(TagId, i64)>, pixel: &mut Pixel, rows: &mut RowBuilder) {
        let Some((tag, _)) = at else { return };
        send_readings(&self.reader.snapshot, tag, std::mem::take(pixel).into_readings(), rows);
    }
}

/// The pixel column of an instant.
fn column_of(time_ns: i64, range: TimeRange, pixels: i64) -> i64 {
    let since = i128::from(time_ns) - i128::from(range.start_ns);
    let length = (i128::from(range.end_ns) - i128::from(range.start_ns)).max(1);
    i64::try_from(since * i128::from(pixels) / length).unwrap_or(i64::MAX)
}

/// What is kept of one pixel column.
#[derive(Debug, Default)]
struct Pixel {
    first: Option<Reading>,
    last: Option<Reading>,
    first_value: Option<Reading>,
    last_value: Option<Reading>,
    least: Option<Reading>,
    greatest: Option<Reading>,
    first_none: Option<Reading>,
}

impl Pixel {
    /// Takes the next sample.
    fn push(&mut self, reading: Reading) {
        self.first.get_or_insert_with(|| reading.clone());
        match reading.shown() {
            None => {
                self.first_none.get_or_insert_with(|| reading.clone());
            }
            Some(value) => {
                let of = |kept: &Option<Reading>| kept.as_ref().and_then(Reading::shown);
                if of(&self.least).is_none_or(|least| value < least) {
                    self.least = Some(reading.clone());
                }
                if of(&self.greatest).is_none_or(|greatest| value > greatest) {
                    self.greatest = Some(reading.clone());
                }
                self.first_value.get_or_insert_with(|| reading.clone());
                self.last_value = Some(reading.clone());
            }
        }
        self.last = Some(reading);
    }

    /// What is kept, by time, each sample once.
    fn into_readings(self) -> Vec<Reading> {
        let kept = [
            self.first,
            self.last,
            self.first_value,
            self.last_value,
            self.least,
            self.greatest,
            self.first_none,
        ];
        let mut kept: Vec<Reading> = kept.into_iter().flatten().collect();
        kept.sort_unstable_by_key(|reading| reading.time_ns);
        kept.dedup_by_key(|reading| reading.time_ns);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;
    use tagmill_storage::{Quality, Value};

    /// A column keeps what a look at all of its samples finds, and no more.
    #[test]
    fn keeps_ends_extremes_and_the_first_hole() {
        let mut random = Random::new(6);
        for _ in 0..500 {
            let end = random.below(40).cast_signed();
            let mut draw = |time_ns| Reading {
                time_ns,
                value: Value::F64(random.below(10) as f64 - 5.0),
                quality: if random.once_in(2) { Quality::GOOD } else { Quality::BAD },
            };
            let all: Vec<Reading> = (0..=end).map(&mut draw).collect();
            let mut pixel = Pixel::default();
            for reading in &all {
                pixel.push(reading.clone());
            }
            let shown: Vec<&Reading> =
                all.iter().filter(|reading| reading.shown().is_some()).collect();
            let mut want: Vec<i64> = vec![0, end];
            let numbers = || shown.iter().map(|reading| reading.number());
            let (least, greatest) =
                (numbers().fold(f64::INFINITY, f64::min), numbers().fold(-f64::INFINITY, f64::max));
            let at = |value: f64| shown.iter().find(|r| r.number().to_bits() == value.to_bits());
            let kept = [shown.first(), shown.last(), at(least), at(greatest)];
            want.extend(kept.into_iter().flatten().map(|reading| reading.time_ns));
            let hole = all.iter().find(|reading| reading.shown().is_none());
            want.extend(hole.map(|reading| reading.time_ns));
            want.sort_unstable();
            want.dedup();
            let kept = pixel.into_readings();
            assert_eq!(kept.iter().map(|reading| reading.time_ns).collect::<Vec<_>>(), want);
        }
    }

    #[test]
    fn columns_share_the_range_evenly() {
        let range = TimeRange::new(100, 110);
        let columns: Vec<i64> = (100..110).map(|at| column_of(at, range, 3)).collect();
        assert_eq!(columns, [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]);
        assert_eq!(column_of(i64::MAX - 1, TimeRange::ALL, 1_000), 999);
    }
}

//! `lttb(tags, start, end, points)`: so many samples of each tag that look most like all of them.
//!
//! Largest triangle three buckets (Steinarsson, 2013): the samples are cut into buckets of equal count, and of each the
//! one is kept that spans the largest triangle with the one kept before and the mean of the next bucket. First and last
//! stay. Short spikes may be lost, which `m4` never does. Samples without a value are left out.

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
struct Lttb {
    reader: Reader,
    schema: SchemaRef,
    tags: Vec<TagId>,
    range: TimeRange,
    points: usize,
}

/// Plans a call.
pub(crate) fn plan(call: &Call) -> Result<Arc<dyn Job>> {
    let arguments = &call.arguments;
    let start_ns = arguments.needed("start", arguments.time("start")?)?;
    let end_ns = arguments.needed("end", arguments.time("end")?)?;
    let points = arguments.count("points", 2)?;
    let tags = chart_tags(call)?;
    Ok(Arc::new(Lttb {
        reader: call.reader(&tags),
        schema: Arc::clone(&call.schema),
        tags,
        range: TimeRange::new(start_ns, end_ns),
        points: usize::try_from(points).unwrap_or(usize::MAX),
    }))
}

impl Job for Lttb {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn order(&self) -> &'static [&'static str] {
        &["tag_id", "ts"]
    }

    fn explain(&self) -> String {
        format!("lttb tags={} range={} points={}", self.tags.len(), self.range, self.points)
    }

    fn run(&self, sink: &mut Sink) -> Result<()> {
        let mut rows = RowBuilder::new(self.reader.snapshot.clone(), &RowColumn::SAMPLES, 0);
        for &tag in &self.tags {
            let mut all: Vec<Reading> = Vec::new();
            let mut walk = self.reader.walk(&[tag], self.range)?;
            while let Some(batch) = walk.next_batch()? {
                if sink.flow() == Flow::Stop {
                    return Ok(());
                }
                all.extend(readings(&batch).filter(|reading| reading.shown().is_some()));
                // Buckets are cut by count, so all samples of a tag are needed at once.
                sink.holds(all.capacity() * size_of::<Reading>())?;
            }
            let points: Vec<(i64, f64)> =
                all.iter().map(|reading| (reading.time_ns, reading.number())).collect();
            let kept = choose(&points, self.points);
            let kept = kept.into_iter().filter_map(|index| all.get(index).cloned()).collect();
            send_readings(&self.reader.snapshot, tag, kept, &mut rows);
            drop(all);
            sink.holds(0)?;
            if rows.rows() >= BATCH_ROWS && sink.send(&rows.finish()?) == Flow::Stop {
                return Ok(());
            }
        }
        if rows.rows() > 0 {
            sink.send(&rows.finish()?);
        }
        Ok(())
    }
}

/// Positions of the points that are kept, ascending: all of them if there are no more than `count`.
fn choose(points: &[(i64, f64)], count: usize) -> Vec<usize> {
    let (Some(&first), Some(&last)) = (points.first(), points.last()) else { return Vec::new() };
    if points.len() <= count {
        return (0..points.len()).collect();
    }
    // Times from the first point on, so that nanoseconds of today keep their digits.
    let place = |point: &(i64, f64)| ((point.0.wrapping_sub(first.0)) as f64, point.1);
    let inner = points.len() - 2;
    let buckets = count.saturating_sub(2);
    let edge = |bucket: usize| 1 + inner * bucket / buckets.max(1);
    let mut kept = vec![0];
    let mut before = place(&first);
    for bucket in 0..buckets {
        let here = points.get(edge(bucket)..edge(bucket + 1)).unwrap_or_default();
        let ahead = match points.get(edge(bucket + 1)..edge(bucket + 2).min(1 + inner)) {
            Some(ahead) if bucket + 1 < buckets && !ahead.is_empty() => ahead,
            _ => std::slice::from_ref(&last),
        };
        let mean = mean_of(ahead.iter().map(place));
        let mut best: (usize, f64) = (0, -1.0);
        for (index, point) in here.iter().enumerate() {
            let area = triangle(before, place(point), mean);
            if area > best.1 {
                best = (index, area);
            }
        }
        if let Some(point) = here.get(best.0) {
            before = place(point);
            kept.push(edge(bucket) + best.0);
        }
    }
    kept.push(points.len() - 1);
    kept
}

fn mean_of(points: impl ExactSizeIterator<Item = (f64, f64)>) -> (f64, f64) {
    let count = points.len().max(1) as f64;
    points.fold((0.0, 0.0), |(x, y), (px, py)| (x + px / count, y + py / count))
}

/// Twice the area, which orders the same.
fn triangle(a: (f64, f64), b: (f64, f64), c: (f64, f64)) -> f64 {
    ((a.0 - c.0) * (b.1 - a.1) - (a.0 - b.0) * (c.1 - a.1)).abs()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;

    #[test]
    fn keeps_the_peak() {
        let mut points: Vec<(i64, f64)> = (0..12).map(|at| (at, 0.0)).collect();
        points[6].1 = 9.0;
        assert_eq!(choose(&points, 3), [0, 6, 11]);
        assert_eq!(choose(&points, 2), [0, 11]);
        assert_eq!(choose(&points, 12), (0..12).collect::<Vec<_>>());
        assert_eq!(choose(&[], 5), Vec::<usize>::new());
    }

    /// So many points as asked for, ascending, both ends among them.
    #[test]
    fn keeps_as_many_as_asked() {
        let mut random = Random::new(5);
        for _ in 0..500 {
            let length = 1 + random.below(200).cast_signed();
            let points: Vec<(i64, f64)> =
                (0..length).map(|at| (at, random.below(18) as f64)).collect();
            let count = 2 + random.index(40);
            let chosen = choose(&points, count);
            assert_eq!(chosen.len(), count.min(points.len()));
            assert!(chosen.is_sorted_by(|a, b| a < b));
            assert_eq!(chosen.first(), Some(&0));
            assert_eq!(chosen.last(), Some(&(points.len() - 1)));
        }
    }
}

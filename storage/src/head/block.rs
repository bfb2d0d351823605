//! A batch becomes a run: checked sample by sample, converted to words, sorted.
//!
//! Pure: the tag types and the clock come in, a run and the list of refusals go out. Nothing here can fail as a whole;
//! what is wrong is refused as ranges per tag and the rest is taken.

use std::sync::Arc;

use super::run::{Run, RunBuilder};
use crate::ids::Seq;
use crate::limits;
use crate::quality::Quality;
use crate::sample::{Batch, Qualities, Reject, RejectReason, ScanBlock, TagColumn, Values};
use crate::tag::{TagId, ValueType};

/// What became of a batch's samples.
#[derive(Debug)]
pub(crate) struct Block {
    /// The taken samples; seqs are set at commit.
    pub(crate) run: Run,
    /// Samples taken, repeated keys counted each.
    pub(crate) accepted: u64,
    pub(crate) rejects: Vec<Reject>,
}

/// Where a tag's samples stand in the batch.
#[derive(Clone, Copy, Debug)]
enum Part<'a> {
    Column(&'a TagColumn),
    /// A scan block and the tag's position in its cycles.
    Scan(&'a ScanBlock, usize),
}

/// What must be known of a tag whose samples come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) value_type: ValueType,
    /// Samples before this time have ended.
    pub(crate) horizon_ns: i64,
}

/// Checks and sorts a batch. `target_of` knows the live tags; times beyond `now_ns` plus five minutes are refused.
pub(crate) fn prepare(
    batch: &Batch,
    now_ns: i64,
    target_of: &dyn Fn(TagId) -> Option<Target>,
) -> Block {
    let mut parts: Vec<(TagId, usize, Part<'_>)> = Vec::new();
    for (number, column) in batch.columns.iter().enumerate() {
        parts.push((column.tag, number, Part::Column(column)));
    }
    for (number, scan) in (batch.columns.len()..).zip(&batch.scans) {
        let tags = scan.tags.iter().enumerate();
        parts.extend(tags.map(|(at, tag)| (*tag, number, Part::Scan(scan, at))));
    }
    parts.sort_by_key(|(tag, number, _)| (*tag, *number));
    let mut work = Work {
        builder: RunBuilder::with_capacity(batch.len()),
        accepted: 0,
        rejects: Vec::new(),
        horizon_ns: 0,
        latest_ns: now_ns.saturating_add(limits::FUTURE_NS),
    };
    for same_tag in parts.chunk_by(|a, b| a.0 == b.0) {
        let tag = same_tag[0].0;
        let target = target_of(tag);
        work.horizon_ns = target.map_or(0, |target| target.horizon_ns);
        let value_type = target.map(|target| target.value_type);
        for (_, number, part) in same_tag {
            match value_type {
                None => work.reject(tag, *number, 0, part.len(), RejectReason::UnknownTag),
                Some(value_type) => work.take(tag, value_type, *number, *part),
            }
        }
        if let Some(value_type) = value_type {
            work.builder.end_tag(tag, value_type);
        }
    }
    let run = work.builder.finish(Seq(0), Seq(0));
    Block { run, accepted: work.accepted, rejects: work.rejects }
}

impl Part<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Column(column) => column.times.len(),
            Self::Scan(scan, _) => scan.times.len(),
        }
    }
}

#[derive(Debug)]
struct Work {
    builder: RunBuilder,
    accepted: u64,
    rejects: Vec<Reject>,
    /// Of the tag in hand.
    horizon_ns: i64,
    latest_ns: i64,
}

impl Work {
    fn reject(&mut self, tag: TagId, part: usize, first: usize, count: usize, why: RejectReason) {
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(last) = self.rejects.last_mut()
            && (last.tag, last.part, last.reason) == (tag, part, why)
            && last.first + last.count == narrow(first)
        {
            last.count += narrow(count);
            return;
        }
        let (first, count) = (narrow(first), narrow(count));
        self.rejects.push(Reject { tag, part, first, count, reason: why });
    }

    fn check_time(&self, time_ns: i64) -> Result<(), RejectReason> {
        if !(limits::TIME_MIN_NS..limits::TIME_MAX_NS).contains(&time_ns) {
            Err(RejectReason::OutOfRange)
        } else if time_ns < self.horizon_ns {
            Err(RejectReason::TooLate)
        } else if time_ns > self.latest_ns {
            Err(RejectReason::Future)
        } else {
            Ok(())
        }
    }

    fn take(&mut self, tag: TagId, value_type: ValueType, number: usize, part: Part<'_>) {
        match part {
            Part::Column(column) => self.take_column(value_type, number, column),
            Part::Scan(scan, at) => self.take_scan(tag, value_type, number, scan, at),
        }
    }

    fn take_column(&mut self, value_type: ValueType, number: usize, column: &TagColumn) {
        let TagColumn { tag, times, values, qualities } = column;
        let refuse = if values.value_type() != value_type {
            Some(RejectReason::TypeMismatch)
        } else if values.len() != times.len() || !qualities.fits(times.len()) {
            Some(RejectReason::LengthMismatch)
        } else {
            None
        };
        if let Some(why) = refuse {
            return self.reject(*tag, number, 0, times.len(), why);
        }
        let all_in_time = times.iter().all(|time| self.check_time(*time).is_ok());
        if let (true, Qualities::Uniform(quality)) = (all_in_time, qualities)
            && self.take_whole(times, values, *quality)
        {
            self.accepted += times.len() as u64;
            return;
        }
        for (row, time) in times.iter().enumerate() {
            let too_long = match values {
                Values::Text(texts) => texts[row].len() > limits::TEXT_VALUE_BYTES_MAX,
                _ => false,
            };
            let time_ok = self.check_time(*time);
            if let Err(why) = if too_long { Err(RejectReason::TooLong) } else { time_ok } {
                self.reject(*tag, number, row, 1, why);
                continue;
            }
            let word = match values {
                Values::Text(texts) => self.builder.push_text(Arc::clone(&texts[row])),
                _ => values.get(row).map_or(0, |value| value.to_word()),
            };
            self.builder.push(*time, word, qualities.at(row).0);
            self.accepted += 1;
        }
    }

    /// The common case in one go: every time is fine and all share a quality. False for text, which is checked singly.
    fn take_whole(&mut self, times: &[i64], values: &Values, quality: Quality) -> bool {
        let (to, quality) = (&mut self.builder, quality.0);
        match values {
            Values::F64(v) => to.extend(times, v.iter().map(|x| x.to_bits()), quality),
            Values::F32(v) => to.extend(times, v.iter().map(|x| u64::from(x.to_bits())), quality),
            Values::I64(v) => to.extend(times, v.iter().map(|x| x.cast_unsigned()), quality),
            Values::Bool(v) => to.extend(times, v.iter().map(|x| u64::from(*x)), quality),
            Values::State(v) => to.extend(times, v.iter().map(|x| u64::from(*x)), quality),
            Values::Text(_) => return false,
        }
        true
    }

    fn take_scan(
        &mut self,
        tag: TagId,
        value_type: ValueType,
        number: usize,
        scan: &ScanBlock,
        at: usize,
    ) {
        let (cycles, width) = (scan.times.len(), scan.tags.len());
        let cells = cycles * width;
        let fits = scan.values.len() == cells
            && (scan.missing.is_empty() || scan.missing.len() == cells)
            && scan.qualities.fits(cells);
        if !fits {
            return self.reject(tag, number, 0, cycles, RejectReason::LengthMismatch);
        }
        for (cycle, time) in scan.times.iter().enumerate() {
            let cell = cycle * width + at;
            if scan.missing.get(cell).is_some_and(|missing| *missing) {
                continue;
            }
            let quality = scan.qualities.at(cell);
            let word = word_of(value_type, scan.values[cell], quality);
            let word = word.ok_or(RejectReason::TypeMismatch);
            match self.check_time(*time).and(word) {
                Ok(word) => {
                    self.builder.push(*time, word, quality.0);
                    self.accepted += 1;
                }
                Err(why) => self.reject(tag, number, cycle, 1, why),
            }
        }
    }
}

/// The word of a scanned f64 in a tag of type `value_type`, if it is exact there. A Bad sample without a value (NaN)
/// fits every numeric type.
#[expect(clippy::cast_possible_truncation, reason = "exactness is checked by converting back")]
#[expect(clippy::cast_sign_loss, reason = "the sign is checked before")]
fn word_of(value_type: ValueType, value: f64, quality: Quality) -> Option<u64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0; // 2^53
    if value.is_nan() && quality.is_bad() && !matches!(value_type, ValueType::F64 | ValueType::F32)
    {
        return (value_type != ValueType::Text).then_some(0);
    }
    let is_whole = value.fract() == 0.0 && value.abs() <= EXACT_MAX;
    match value_type {
        ValueType::F64 => Some(value.to_bits()),
        ValueType::F32 => {
            let narrow = value as f32;
            let is_exact = value.is_nan() || f64::from(narrow).to_bits() == value.to_bits();
            is_exact.then(|| u64::from(narrow.to_bits()))
        }
        ValueType::I64 => is_whole.then_some((value as i64).cast_unsigned()),
        ValueType::Bool => (is_whole && (0.0..=1.0).contains(&value)).then_some(value as u64),
        ValueType::State => {
            (is_whole && (0.0..=f64::from(u16::MAX)).contains(&value)).then_some(value as u64)
        }
        ValueType::Text => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000 * crate::time::SECOND_NS;

    fn types(tag: TagId) -> Option<Target> {
        let types =
            [ValueType::F64, ValueType::F32, ValueType::I64, ValueType::Bool, ValueType::State];
        let value_type = *types.get(tag.index())?;
        Some(Target { value_type, horizon_ns: 0 })
    }

    fn column(tag: u32, times: &[i64], values: Values) -> TagColumn {
        TagColumn { tag: TagId(tag), times: times.to_vec(), values, qualities: Qualities::GOOD }
    }

    #[test]
    fn one_bad_column_does_not_cost_the_others() {
        let far = NOW + limits::FUTURE_NS + 1;
        let batch = Batch {
            columns: vec![
                column(2, &[1, 2], Values::I64(vec![i64::MIN, 5])),
                column(0, &[1, -1, 2, far, far], Values::F64(vec![1.0, 2.0, -0.0, 4.0, 5.0])),
                column(9, &[1], Values::F64(vec![1.0])),
                column(1, &[1], Values::F64(vec![1.0])),
                column(3, &[1, 2], Values::Bool(vec![true])),
            ],
            ..Batch::default()
        };
        let block = prepare(&batch, NOW, &types);
        assert_eq!(block.accepted, 4);
        let tags: Vec<u32> = block.run.spans.iter().map(|span| span.tag.0).collect();
        assert_eq!(tags, [0, 2]);
        assert_eq!(block.run.words[1], (-0.0f64).to_bits());
        let rejects: Vec<_> =
            block.rejects.iter().map(|r| (r.tag.0, r.part, r.first, r.count, r.reason)).collect();
        let want = [
            (0, 1, 1, 1, RejectReason::OutOfRange),
            (0, 1, 3, 2, RejectReason::Future),
            (1, 3, 0, 1, RejectReason::TypeMismatch),
            (3, 4, 0, 2, RejectReason::LengthMismatch),
            (9, 2, 0, 1, RejectReason::UnknownTag),
        ];
        assert_eq!(rejects, want);
    }

    #[test]
    fn scan_cells_must_be_exact_in_the_tags_type() {
        let cases = [
            (0, 0.1, true),
            (1, 0.1, false),
            (1, 0.5, true),
            (1, f64::INFINITY, true),
            (2, 3.0, true),
            (2, 3.5, false),
            (2, 9_007_199_254_740_994.0, false),
            (3, 1.0, true),
            (3, 2.0, false),
            (4, 65_535.0, true),
            (4, 65_536.0, false),
            (4, -1.0, false),
        ];
        for (tag, value, taken) in cases {
            let scan = ScanBlock {
                tags: Arc::from([TagId(tag)]),
                times: vec![5],
                values: vec![value],
                missing: vec![],
                qualities: Qualities::GOOD,
            };
            let batch = Batch { scans: vec![scan], ..Batch::default() };
            let block = prepare(&batch, NOW, &types);
            assert_eq!(block.accepted == 1, taken, "{value} in tag {tag}");
            assert_eq!(block.rejects.is_empty(), taken);
        }
    }

    #[test]
    fn the_last_position_of_an_instant_wins_across_parts() {
        let scan = ScanBlock {
            tags: Arc::from([TagId(0), TagId(2)]),
            times: vec![5, 6],
            values: vec![10.0, 1.0, 11.0, 2.0],
            missing: vec![false, false, false, true],
            qualities: Qualities::GOOD,
        };
        let columns = vec![column(0, &[6, 5, 6], Values::F64(vec![1.0, 2.0, 3.0]))];
        let batch = Batch { columns, scans: vec![scan], ..Batch::default() };
        let block = prepare(&batch, NOW, &types);
        let words: Vec<f64> = block.run.words[..2].iter().map(|w| f64::from_bits(*w)).collect();
        assert_eq!(words, [10.0, 11.0]);
        assert_eq!(block.run.spans.len(), 2);
        assert_eq!(block.accepted, 6);
    }
}

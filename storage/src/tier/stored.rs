//! Rollups as they are stored: those of some tags at one width as a block of columns, and back.
//!
//! # Contract
//! * Nothing of a tag's attributes is stored: rows are folded by [`neutral`], [`can_serve`] says whether a row can
//!   answer by a tag's rule, and [`serve`] how.
//! * What follows from other columns is not written: times and integrals of windows whose samples lie on a grid.
//! * Decoding is total: any bytes give rows or [`Malformed`]. Columns that a question does not need are not decoded.
//!
//! # What it does not know
//! Which tags the rows are of, where a block lies, and its checksum. Bytes: `docs/format/tier.md`.

use crate::bytes::{Malformed, Reader, put_u32};
use crate::encoding::{self, Effort};
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::tier::rollup::{Needs, Point, Rollup};
use crate::tier::rule::{Amount, Rule, is_float};
use crate::tier::usable::{Lead, MaybeUsable, Usable};

/// The rule by which stored rows are folded.
pub(crate) const fn neutral() -> Rule {
    let (stepped, uncertain_usable, max_gap_ns, rollover) = (false, false, None, None);
    Rule { stepped, uncertain_usable, max_gap_ns, rollover, jitter: 0.0, reset_value: 0.0 }
}

/// Whether rows of a tier hold `m2`: of a minute it would cost as much as all the rest of the sums.
pub(crate) fn has_moments(tier: Tier) -> bool {
    tier > Tier::Minute
}

/// Whether a stored row can say what is needed by a tag's rule. If not, only finer ones or samples can.
pub(crate) fn can_serve(
    row: &Rollup,
    rule: &Rule,
    needs: Needs,
    tier: Tier,
    value_type: ValueType,
) -> bool {
    let is_usable =
        || value_type != ValueType::Text && row.uncertain == 0 && rule.bridges(row.usable.gap_ns);
    match needs {
        Needs::Sql => true,
        Needs::SqlMoments => has_moments(tier),
        Needs::Weighted | Needs::Changes => is_usable(),
        // One that rose all the way: no rollover, no jitter and no reset comes in. Or that fell once, if it is known from
        // where to where. With a largest gap, a chain could be broken by samples that are not usable, and by how far apart
        // the others are.
        Needs::Interval => {
            let is_chained = rule.max_gap_ns.is_none() || row.bad + row.non_finite == 0;
            let is_known = row.usable.falls == 0 || rule.jitter <= 0.0 && only_fall(row).is_some();
            is_usable() && is_known && is_chained
        }
    }
}

/// From where to where the values fell, if they fell once: between the greatest and the least, if that comes later. Before
/// and after it they rise, so no other greatest one comes first, and no other least one follows.
fn only_fall(row: &Rollup) -> Option<(u64, u64)> {
    let (max, min) = row.max.zip(row.min)?;
    let is_only = row.usable.falls == 1 && max.time_ns < min.time_ns;
    is_only.then_some((max.word, min.word))
}

/// What a stored row says, if it [`can_serve`].
pub(crate) fn serve(row: &Rollup, rule: &Rule, needs: Needs, value_type: ValueType) -> Rollup {
    let m2 = if needs == Needs::SqlMoments { row.m2 } else { 0.0 };
    if needs < Needs::Weighted {
        return Rollup { m2, usable: MaybeUsable::NONE, ..*row };
    }
    let mut served = Rollup { m2, usable: row.usable.clone(), ..*row };
    let usable = &mut served.usable;
    usable.integral = if rule.stepped { usable.held } else { usable.integral };
    if needs < Needs::Changes {
        usable.transitions = 0;
    }
    if needs < Needs::Interval {
        (usable.increase, usable.increase_int) = (0.0, 0);
    } else if let (Some(first), Some(last)) = (usable.first, usable.last)
        && let Some(by) = rise(row, rule, value_type, (first.word, last.word))
    {
        let float = if is_float(value_type) { by.float } else { by.int as f64 };
        (usable.increase, usable.increase_int) = (float, by.int);
        let words = vec![first.word, last.word];
        usable.lead = (rule.jitter > 0.0).then(|| Box::new(Lead { words, is_closed: false }));
    }
    served
}

/// What a counter rose by from the first to the last value.
fn rise(
    row: &Rollup,
    rule: &Rule,
    value_type: ValueType,
    (first, last): (u64, u64),
) -> Option<Amount> {
    let Some((from, to)) = only_fall(row) else { return rule.step(value_type, first, last) };
    let steps = [(first, from), (from, to), (to, last)];
    steps.into_iter().try_fold(Amount::default(), |all, (before, after)| {
        Some(all.plus(rule.step(value_type, before, after)?))
    })
}

/// The sum at the fewest decimals that are within a rounding or two of it: such numbers take few bytes.
fn shortened(sum: f64) -> f64 {
    let scales = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5];
    let short = scales.map(|scale| (sum * scale).round() / scale);
    let is_near = |short: &&f64| (**short - sum).abs() <= 2.0 * f64::EPSILON * sum.abs();
    short.iter().find(is_near).copied().unwrap_or(sum)
}

/// Integrals that follow from the sum, held and drawn: all samples are usable and lie on a grid.
fn derived(row: &Rollup, value_type: ValueType) -> Option<[f64; 2]> {
    let rows = i64::try_from(row.rows()).ok()?;
    let span_ns = row.last_ns - row.first_ns;
    let is_even = row.usable.gap_ns.checked_mul(rows - 1) == Some(span_ns);
    if !is_even || row.count != row.rows() || row.uncertain > 0 {
        return None;
    }
    let step_ns = row.usable.gap_ns as f64;
    let (first, last) = (row.first?.value(value_type), row.last?.value(value_type));
    let both = [row.sum - last, row.sum - (first / 2.0 + last / 2.0)].map(|sum| sum * step_ns);
    both.iter().all(|integral| integral.is_finite()).then_some(both)
}

/// A row's figures that are nanoseconds, each written as multiples of what all rows have in common.
const TIMES: usize = 10;
/// How many of them every question needs; the others are of [`Usable`].
const PLAIN_TIMES: usize = 6;

fn times_of(row: &Rollup, width_ns: i64) -> [i64; TIMES] {
    let at = |point: Option<Point>| point.map_or(0, |point| point.time_ns - row.first_ns);
    let usable = &row.usable;
    [
        row.first_ns - row.start_ns,
        row.start_ns + width_ns - row.last_ns,
        at(row.min),
        at(row.max),
        at(row.first),
        row.last.map_or(0, |point| row.last_ns - point.time_ns),
        usable.gap_ns,
        usable.break_ns.map_or(0, |time_ns| time_ns - row.first_ns + 1),
        row.last_ns - row.first_ns - usable.covered_ns,
        usable.covered_ns - usable.nonzero_ns,
    ]
}

/// A column of a block: what it holds of a row.
type Cell = fn(&Rollup) -> u64;

const COUNTS: [Cell; 4] = [Rollup::rows, |row| row.uncertain, |row| row.bad, |row| row.non_finite];

const POINTS: [fn(&Rollup) -> Option<Point>; 4] =
    [|row| row.min, |row| row.max, |row| row.first, |row| row.last];

/// Appends a column behind its length.
fn put_column(kind: ValueType, words: &[u64], effort: Effort, out: &mut Vec<u8>) {
    let at = out.len();
    put_u32(out, 0);
    encoding::encode_words(kind, words, effort, out);
    let bytes = u32::try_from(out.len() - at - 4).expect("a block is below 4 GiB");
    out[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
}

/// The bytes of the next column.
fn take_column<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let bytes = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
    reader.take(bytes)
}

/// Appends whose rows follow, tags ascending, and how many of each.
pub(crate) fn encode_runs(runs: &[(TagId, usize)], effort: Effort, out: &mut Vec<u8>) {
    let tags: Vec<u64> = runs.iter().map(|(tag, _)| u64::from(tag.0)).collect();
    let rows: Vec<u64> = runs.iter().map(|(_, rows)| *rows as u64).collect();
    put_column(ValueType::I64, &tags, effort, out);
    put_column(ValueType::I64, &rows, effort, out);
}

/// Reads what [`encode_runs`] wrote of so many runs with so many rows in all: each tag and where its rows end.
pub(crate) fn decode_runs(
    reader: &mut Reader<'_>,
    runs: usize,
    rows: usize,
) -> Result<Vec<(TagId, usize)>, Malformed> {
    let mut column = || {
        let mut words = Vec::new();
        let bytes = take_column(reader)?;
        encoding::decode_words(ValueType::I64, bytes, runs, 0..runs, &mut words)?;
        Ok::<_, Malformed>(words)
    };
    let (tags, counts) = (column()?, column()?);
    let mut found = Vec::with_capacity(runs);
    let mut end = 0_usize;
    for (tag, count) in tags.iter().zip(&counts) {
        let tag = u32::try_from(*tag).map_err(|_| Malformed("a run is of no tag"))?;
        let count = usize::try_from(*count).unwrap_or(usize::MAX);
        end = end
            .checked_add(count)
            .filter(|end| count > 0 && *end <= rows)
            .ok_or(Malformed("the runs of a block do not add up"))?;
        if found.last().is_some_and(|(last, _): &(TagId, usize)| tag <= last.0) {
            return Err(Malformed("the runs of a block are out of order"));
        }
        found.push((TagId(tag), end));
    }
    if end == rows { Ok(found) } else { Err(Malformed("a block has rows of no run")) }
}

/// Appends rows of windows of one tier, of tags of one type.
pub(crate) fn encode(
    rows: &[Rollup],
    tier: Tier,
    value_type: ValueType,
    effort: Effort,
    out: &mut Vec<u8>,
) {
    let width_ns = tier.width_ns();
    let times: Vec<[i64; TIMES]> = rows.iter().map(|row| times_of(row, width_ns)).collect();
    let mut units = [0_u64; TIMES];
    for row in &times {
        for (unit, time) in units.iter_mut().zip(row) {
            *unit = gcd(*unit, time.unsigned_abs());
        }
    }
    let mut words = Vec::with_capacity(rows.len());
    let mut column = |kind: ValueType, each: &mut dyn Iterator<Item = u64>| {
        words.clear();
        words.extend(each);
        put_column(kind, &words, effort, out);
    };
    let int = ValueType::I64;
    let number = |row: &Rollup| row.start_ns.div_euclid(width_ns).cast_unsigned();
    column(int, &mut rows.iter().map(number));
    for count in COUNTS {
        column(int, &mut rows.iter().map(count));
    }
    column(int, &mut units.iter().copied());
    for (number, unit) in units.iter().enumerate() {
        let unit = (*unit).max(1);
        column(int, &mut times.iter().map(|row| row[number].unsigned_abs() / unit));
    }
    if value_type == ValueType::Text {
        return;
    }
    for point in POINTS {
        let word = |row: &Rollup| point(row).map_or(0, |point| point.word);
        column(value_type, &mut rows.iter().map(word));
    }
    if is_float(value_type) {
        column(ValueType::F64, &mut rows.iter().map(|row| shortened(row.sum).to_bits()));
    } else {
        let half = |row: &Rollup, high: bool| {
            let bits = if high { row.sum_int >> 64 } else { row.sum_int };
            u64::try_from(bits & i128::from(u64::MAX)).unwrap_or(0)
        };
        column(int, &mut rows.iter().map(|row| half(row, false)));
        column(int, &mut rows.iter().map(|row| half(row, true)));
    }
    if has_moments(tier) {
        column(ValueType::F64, &mut rows.iter().map(|row| row.m2.to_bits()));
    }
    for kind in 0..2 {
        let word = |row: &Rollup| match derived(row, value_type) {
            Some(_) => 0,
            None => [row.usable.held, row.usable.integral][kind].to_bits(),
        };
        column(ValueType::F64, &mut rows.iter().map(word));
    }
    column(int, &mut rows.iter().map(|row| row.usable.transitions));
    column(int, &mut rows.iter().map(|row| row.usable.falls));
}

/// Decoded columns of a block; those that were not asked for are empty.
#[derive(Debug, Default)]
struct Columns {
    numbers: Vec<u64>,
    counts: [Vec<u64>; COUNTS.len()],
    units: Vec<u64>,
    times: [Vec<u64>; TIMES],
    points: [Vec<u64>; POINTS.len()],
    /// Low and high half of integers; of floats the first alone.
    sums: [Vec<u64>; 2],
    m2: Vec<u64>,
    integrals: [Vec<u64>; 2],
    transitions: Vec<u64>,
    falls: Vec<u64>,
}

impl Columns {
    fn read(
        bytes: &[u8],
        count: usize,
        tier: Tier,
        value_type: ValueType,
        usable: bool,
    ) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut column = |kind: ValueType, count: usize, is_wanted: bool| {
            let bytes = take_column(&mut reader)?;
            let mut words = Vec::new();
            if is_wanted {
                encoding::decode_words(kind, bytes, count, 0..count, &mut words)?;
            }
            Ok::<_, Malformed>(words)
        };
        let int = ValueType::I64;
        let mut read = Self { numbers: column(int, count, true)?, ..Self::default() };
        for counts in &mut read.counts {
            *counts = column(int, count, true)?;
        }
        read.units = column(int, TIMES, true)?;
        for (number, times) in read.times.iter_mut().enumerate() {
            *times = column(int, count, usable || number < PLAIN_TIMES)?;
        }
        if value_type != ValueType::Text {
            for words in &mut read.points {
                *words = column(value_type, count, true)?;
            }
            if is_float(value_type) {
                read.sums[0] = column(ValueType::F64, count, true)?;
            } else {
                read.sums = [column(int, count, true)?, column(int, count, true)?];
            }
            if has_moments(tier) {
                read.m2 = column(ValueType::F64, count, true)?;
            }
            for integrals in &mut read.integrals {
                *integrals = column(ValueType::F64, count, usable)?;
            }
            read.transitions = column(int, count, usable)?;
            read.falls = column(int, count, usable)?;
        }
        reader.finish()?;
        Ok(read)
    }

    fn time(&self, number: usize, row: usize) -> Result<i64, Malformed> {
        let ns = self.times[number][row].checked_mul(self.units[number].max(1));
        ns.and_then(|ns| i64::try_from(ns).ok()).ok_or(Malformed("a time is too great"))
    }

    /// Fills an empty rollup where it is: moving it about costs more than reading it.
    fn fill(
        &self,
        at: usize,
        (tier, value_type, usable): (Tier, ValueType, bool),
        row: &mut Rollup,
    ) -> Result<(), Malformed> {
        let width_ns = tier.width_ns();
        let start_ns = self.numbers[at].cast_signed().checked_mul(width_ns);
        let start_ns = start_ns.ok_or(Malformed("a window lies beyond all time"))?;
        let end_ns = start_ns.checked_add(width_ns).ok_or(Malformed("a window has no end"))?;
        let after = |from_ns: i64, number: usize| {
            let time_ns = from_ns.checked_add(self.time(number, at)?);
            time_ns.ok_or(Malformed("a time lies beyond all time"))
        };
        row.start_ns = start_ns;
        row.first_ns = after(start_ns, 0)?;
        row.last_ns = end_ns.saturating_sub(self.time(1, at)?);
        if row.first_ns < start_ns || row.last_ns < row.first_ns || row.last_ns >= end_ns {
            return Err(Malformed("the samples of a rollup lie outside its window"));
        }
        let [all, uncertain, bad, non_finite] = &self.counts;
        let (all, uncertain, bad) = (all[at], uncertain[at], bad[at]);
        let non_finite = non_finite[at];
        let good = all.checked_sub(uncertain).and_then(|rest| rest.checked_sub(bad));
        let known = all.checked_sub(bad).and_then(|rest| rest.checked_sub(non_finite));
        let (Some(good), Some(known), 1..=ROWS_MAX) = (good, known, all) else {
            return Err(Malformed("the counts of a rollup do not add up"));
        };
        (row.good, row.uncertain, row.bad, row.non_finite) = (good, uncertain, bad, non_finite);
        if value_type == ValueType::Text {
            return Ok(());
        }
        row.count = known;
        if known > 0 {
            let last_ns = row.last_ns.checked_sub(self.time(5, at)?);
            let last_ns = last_ns.ok_or(Malformed("a time is too great"))?;
            let first = row.first_ns;
            let times = [after(first, 2)?, after(first, 3)?, after(first, 4)?, last_ns];
            if times.iter().any(|time_ns| !(row.first_ns..=row.last_ns).contains(time_ns)) {
                return Err(Malformed("a value of a rollup lies outside its samples"));
            }
            let point = |number: usize| {
                Some(Point { time_ns: times[number], word: self.points[number][at] })
            };
            (row.min, row.max, row.first, row.last) = (point(0), point(1), point(2), point(3));
            if is_float(value_type) {
                row.sum = f64::from_bits(self.sums[0][at]);
            } else {
                let (low, high) = (self.sums[0][at], self.sums[1][at]);
                row.sum_int = i128::from(high.cast_signed()) << 64 | i128::from(low);
                if row.sum_int.unsigned_abs() > u128::from(known) << 63 {
                    return Err(Malformed("the sum of a rollup is too great for its values"));
                }
                row.sum = row.sum_int as f64;
            }
            row.m2 = self.m2.get(at).map_or(0.0, |bits| f64::from_bits(*bits));
        }
        if usable {
            self.add_usable(at, row, value_type)?;
        }
        Ok(())
    }

    fn add_usable(
        &self,
        at: usize,
        row: &mut Rollup,
        value_type: ValueType,
    ) -> Result<(), Malformed> {
        let span_ns = row.last_ns - row.first_ns;
        let within = |ns: i64| {
            (0..=span_ns).contains(&ns).then_some(ns).ok_or(Malformed("a stretch is too long"))
        };
        let (transitions, falls) = (self.transitions[at], self.falls[at]);
        if transitions > row.count || falls > transitions {
            return Err(Malformed("a rollup has more changes than values"));
        }
        let break_ns = self.time(7, at)?;
        let covered_ns = within(span_ns.wrapping_sub(self.time(8, at)?))?;
        let known = Usable {
            count: row.count,
            first: row.first,
            last: row.last,
            breaks_before: row.first.is_none_or(|first| first.time_ns != row.first_ns),
            break_ns: match break_ns {
                0 => None,
                ns => Some(row.first_ns + within(ns - 1)?),
            },
            covered_ns,
            gap_ns: within(self.time(6, at)?)?,
            transitions,
            nonzero_ns: within(covered_ns.wrapping_sub(self.time(9, at)?))?,
            falls,
            reference: row.last.map(|last| last.word),
            ..Usable::EMPTY
        };
        row.usable = known.into();
        let stored = [0, 1].map(|kind: usize| f64::from_bits(self.integrals[kind][at]));
        let [held, drawn] = derived(row, value_type).unwrap_or(stored);
        (row.usable.held, row.usable.integral) = (held, drawn);
        Ok(())
    }
}

/// Samples of one window, far beyond what a segment holds: sums of counts do not overflow.
const ROWS_MAX: u64 = 1 << 48;

/// Reads what [`encode`] wrote of `count` rows. Without `usable` that part of them stays empty.
pub(crate) fn decode(
    bytes: &[u8],
    count: usize,
    tier: Tier,
    value_type: ValueType,
    usable: bool,
) -> Result<Vec<Rollup>, Malformed> {
    let usable = usable && value_type != ValueType::Text;
    let columns = Columns::read(bytes, count, tier, value_type, usable)?;
    let mut rows = Vec::new();
    rows.resize_with(count, || Rollup::empty(0));
    for (at, row) in rows.iter_mut().enumerate() {
        columns.fill(at, (tier, value_type, usable), row)?;
    }
    Ok(rows)
}

/// Whether two rollups of the same samples say the same: sums up to what their order makes of them.
pub(crate) fn agree(a: &Rollup, b: &Rollup, tier: Tier, value_type: ValueType) -> bool {
    let value = |point: Option<Point>| point.map_or(0.0, |point| point.value(value_type).abs());
    let scale = value(a.min).max(value(a.max));
    let n = a.rows() as f64;
    let near = |x: f64, y: f64, of: f64| {
        let is_beyond = !x.is_finite() || !y.is_finite() || !of.is_finite();
        is_beyond || (x - y).abs() <= 16.0 * n * f64::EPSILON * of
    };
    let span = (a.last_ns - a.first_ns) as f64;
    // What a rule has to say of Uncertain samples is not stored, and never asked for.
    let has_usable = value_type != ValueType::Text && a.uncertain == 0;
    let is_near = near(a.sum, b.sum, n * scale)
        && (!has_moments(tier) || near(a.m2, b.m2, n * scale * scale))
        && (!has_usable || near(a.usable.held, b.usable.held, span * scale))
        && (!has_usable || near(a.usable.integral, b.usable.integral, span * scale));
    // The rest is exact, but for what is not stored since it follows from a rule.
    let exact = |row: &Rollup| {
        let zeros = (0.0, 0.0, 0.0, 0);
        let mut row = row.clone();
        (row.sum, row.m2) = (0.0, 0.0);
        let usable = &mut row.usable;
        (usable.held, usable.integral, usable.increase, usable.increase_int) = zeros;
        (usable.reference, usable.lead) = (None, None);
        if !has_usable {
            row.usable = MaybeUsable::NONE;
        }
        row
    };
    is_near && exact(a) == exact(b)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tier::tests::{any_rows_in, any_rule, check, fold_windows};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(600))]

        #[test]
        fn stored_rows_answer_by_any_rule_or_not_at_all(
            (tier, (value_type, rows)) in prop::sample::select(Tier::ALL.to_vec())
                // Samples so far apart that some of them share a window.
                .prop_flat_map(|tier| (Just(tier), any_rows_in(tier.width_ns() / 50))),
            rule in any_rule(),
        ) {
            let width_ns = tier.width_ns();
            let max_gap_ns = rule.max_gap_ns.map(|gap_ns| gap_ns * (width_ns / 50));
            let rule = Rule { max_gap_ns, ..rule };
            let folded = fold_windows(&rows, tier, value_type);
            let mut bytes = Vec::new();
            encode(&folded, tier, value_type, Effort::Light, &mut bytes);
            let stored = decode(&bytes, folded.len(), tier, value_type, true).unwrap();
            let plain = decode(&bytes, folded.len(), tier, value_type, false).unwrap();
            prop_assert_eq!(stored.len(), folded.len());
            for (row, plain) in stored.iter().zip(&plain) {
                let without = Rollup { usable: MaybeUsable::NONE, ..row.clone() };
                prop_assert_eq!(&without, plain);
                let inside = |time_ns: i64| time_ns.div_euclid(width_ns) * width_ns == row.start_ns;
                let samples: Vec<_> = rows.iter().copied().filter(|r| inside(r.time_ns)).collect();
                let all = [Needs::Sql, Needs::SqlMoments, Needs::Weighted, Needs::Changes];
                for needs in all.into_iter().chain([Needs::Interval]) {
                    if can_serve(row, &rule, needs, tier, value_type) {
                        let served = serve(row, &rule, needs, value_type);
                        check(&served, needs, value_type, &rule, &samples);
                    }
                }
            }
            for length in 0..bytes.len() {
                let cut = decode(&bytes[..length], folded.len(), tier, value_type, true);
                prop_assert!(cut.is_err());
            }
        }

        #[test]
        fn no_bytes_panic(
            (value_type, rows) in any_rows_in(1_000_000_000),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let tier = Tier::Minute;
            let folded = fold_windows(&rows, tier, value_type);
            let mut bytes = Vec::new();
            encode(&folded, tier, value_type, Effort::Light, &mut bytes);
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let _any = decode(&bytes, folded.len(), tier, value_type, true);
        }
    }
}

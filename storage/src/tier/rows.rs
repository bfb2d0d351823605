//! Rows of one tag on their way into rollups: what is the same for all rows is not written out.

use std::ops::Range;

use crate::chunk::Series;
use crate::tag::ValueType;

/// Times of rows, as cheap as they can be had.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Times<'a> {
    /// On a grid: the first, and the distance of neighbours.
    Step(i64, i64),
    /// One for each row, ascending.
    Each(&'a [i64]),
}

impl<'a> Times<'a> {
    /// Time of a row.
    pub(crate) fn at(&self, row: usize) -> i64 {
        match self {
            Self::Step(first_ns, step_ns) => {
                first_ns.wrapping_add(step_ns.wrapping_mul(row as i64))
            }
            Self::Each(times) => times[row],
        }
    }

    /// The first row from `from` on whose time is not before `end_ns`; `guess` rows are likely.
    pub(crate) fn end(&self, from: usize, count: usize, end_ns: i64, guess: usize) -> usize {
        match self {
            Self::Step(first_ns, step_ns) => {
                // A window has as many rows as the one before, most often: told without a division.
                let near = (from + guess).min(count);
                let is_before = |row: usize| self.at(row) < end_ns;
                if near > from && is_before(near - 1) && (near == count || !is_before(near)) {
                    return near;
                }
                let ahead_ns = i128::from(end_ns) - i128::from(*first_ns);
                let rows = (ahead_ns + i128::from(*step_ns) - 1) / i128::from(*step_ns);
                usize::try_from(rows).map_or(count, |rows| rows.clamp(from, count))
            }
            Self::Each(times) => {
                let near = (from + guess).min(count);
                let is_before = |row: usize| times.get(row).is_none_or(|time| *time < end_ns);
                // Most sources are regular: the window before tells how long this one is.
                let (low, high) = if near > from && !is_before(near - 1) {
                    (from, near)
                } else if near == count || !is_before(near) {
                    return near;
                } else {
                    let mut reach = 8;
                    while near + reach < count && is_before(near + reach) {
                        reach *= 2;
                    }
                    (near, (near + reach).min(count))
                };
                low + times[low..high].partition_point(|time| *time < end_ns)
            }
        }
    }

    fn slice(&self, rows: &Range<usize>) -> Times<'a> {
        match self {
            Self::Step(_, step_ns) => Self::Step(self.at(rows.start), *step_ns),
            Self::Each(times) => Self::Each(&times[rows.clone()]),
        }
    }
}

/// Qualities of rows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RowQualities<'a> {
    /// All the same.
    Uniform(u32),
    /// One for each row.
    Each(&'a [u32]),
}

impl<'a> RowQualities<'a> {
    /// Quality of a row.
    pub(crate) fn at(&self, row: usize) -> u32 {
        match self {
            Self::Uniform(quality) => *quality,
            Self::Each(qualities) => qualities[row],
        }
    }

    fn slice(&self, rows: &Range<usize>) -> RowQualities<'a> {
        match self {
            Self::Uniform(quality) => Self::Uniform(*quality),
            Self::Each(qualities) => Self::Each(&qualities[rows.clone()]),
        }
    }
}

/// Rows of one tag, in time order, after all rows that came before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) value_type: ValueType,
    pub(crate) count: usize,
    pub(crate) times: Times<'a>,
    /// Empty for text.
    pub(crate) words: &'a [u64],
    pub(crate) qualities: RowQualities<'a>,
}

impl<'a> Rows<'a> {
    /// All of a series; what is the same for all of its rows is looked for.
    pub(crate) fn of(series: Series<'a>) -> Self {
        let Series { times, qualities, .. } = series;
        let step_ns = match times {
            [first, second, ..] => second.saturating_sub(*first).max(1),
            _ => 1,
        };
        let is_grid = times.array_windows().all(|[a, b]| b.wrapping_sub(*a) == step_ns);
        let quality = qualities.first().copied().unwrap_or_default();
        let is_uniform = qualities.iter().all(|each| *each == quality);
        Self {
            value_type: series.value_type,
            count: times.len(),
            times: match times.first() {
                Some(first_ns) if is_grid => Times::Step(*first_ns, step_ns),
                _ => Times::Each(times),
            },
            words: series.words,
            qualities: if is_uniform {
                RowQualities::Uniform(quality)
            } else {
                RowQualities::Each(qualities)
            },
        }
    }

    /// Some of them.
    pub(crate) fn slice(&self, rows: Range<usize>) -> Rows<'a> {
        let words = if self.words.is_empty() { self.words } else { &self.words[rows.clone()] };
        Self {
            value_type: self.value_type,
            count: rows.len(),
            times: self.times.slice(&rows),
            words,
            qualities: self.qualities.slice(&rows),
        }
    }

    /// Value of a row as a word; 0 for text.
    pub(crate) fn word(&self, row: usize) -> u64 {
        self.words.get(row).copied().unwrap_or(0)
    }
}

//! A run: samples of many tags as flat columns, sorted by (tag, time), each key once.
//!
//! One batch is a run, and so are many batches folded together. Text values stand in `texts`; their words are
//! positions in it.

use std::sync::Arc;

use super::tombstone::Tombstones;
use crate::ids::Seq;
use crate::planted::{self, Bug};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// Rows `start..end` of a run belong to `tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) tag: TagId,
    pub(crate) value_type: ValueType,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// One quality for all rows, or one each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowQualities {
    Uniform(u32),
    Each(Vec<u32>),
}

impl RowQualities {
    pub(crate) fn at(&self, row: usize) -> u32 {
        match self {
            Self::Uniform(quality) => *quality,
            Self::Each(each) => each[row],
        }
    }

    /// Appends `count` rows of `quality` to the `len` there are.
    fn extend_uniform(&mut self, len: usize, count: usize, quality: u32) {
        match self {
            Self::Uniform(known) if *known == quality => {}
            Self::Uniform(known) if len == 0 => *known = quality,
            Self::Uniform(known) => {
                let mut each = vec![*known; len];
                each.resize(len + count, quality);
                *self = Self::Each(each);
            }
            Self::Each(each) => each.resize(len + count, quality),
        }
    }
}

/// Samples sorted by (tag, time).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) min_seq: Seq,
    pub(crate) max_seq: Seq,
    pub(crate) spans: Vec<Span>,
    pub(crate) times: Vec<i64>,
    pub(crate) words: Vec<u64>,
    pub(crate) qualities: RowQualities,
    pub(crate) texts: Vec<Arc<str>>,
}

impl Run {
    /// Memory held, about.
    pub(crate) fn bytes(&self) -> u64 {
        let qualities = if matches!(self.qualities, RowQualities::Each(_)) { 4 } else { 0 };
        let texts: usize = self.texts.iter().map(|text| text.len() + 32).sum();
        let spans = self.spans.len() * size_of::<Span>();
        (self.times.len() * (16 + qualities) + spans + texts + 128) as u64
    }

    /// The rows of `tag`, if it has any.
    pub(crate) fn span(&self, tag: TagId) -> Option<&Span> {
        let at = self.spans.binary_search_by_key(&tag, |span| span.tag).ok()?;
        self.spans.get(at)
    }

    /// The rows of `span` whose times lie in `range`.
    pub(crate) fn rows_in(&self, span: &Span, range: TimeRange) -> std::ops::Range<usize> {
        let times = &self.times[span.start..span.end];
        let from = times.partition_point(|time| *time < range.start_ns);
        let to = from + times[from..].partition_point(|time| *time < range.end_ns);
        span.start + from..span.start + to
    }

    /// One run with the rows of all `runs`, which must be in seq order: of rows with one key the newest stays.
    /// Rows that a tombstone hides go; what remains is hidden only by tombstones newer than the whole.
    pub(crate) fn fold(runs: &[Arc<Self>], tombstones: &Tombstones) -> Self {
        let min_seq = runs.first().map_or(Seq(0), |run| run.min_seq);
        let max_seq = runs.last().map_or(Seq(0), |run| run.max_seq);
        let rows = runs.iter().map(|run| run.times.len()).sum();
        let mut builder = RunBuilder::with_capacity(rows);
        let mut next = vec![0; runs.len()];
        let smallest = |next: &[usize]| {
            let heads = runs.iter().zip(next).filter_map(|(run, at)| run.spans.get(*at));
            heads.map(|span| (span.tag, span.value_type)).min()
        };
        while let Some((tag, value_type)) = smallest(&next) {
            for (run, at) in runs.iter().zip(&mut next) {
                let Some(span) = run.spans.get(*at).filter(|span| span.tag == tag) else {
                    continue;
                };
                *at += 1;
                let hidden = if tombstones.any_after(run.max_seq) {
                    tombstones.hiding(tag, run.max_seq)
                } else {
                    Vec::new()
                };
                builder.push_rows(run, span, &hidden);
            }
            builder.end_tag(tag, value_type);
        }
        builder.finish(min_seq, max_seq)
    }
}

/// Collects rows tag by tag, ascending, and puts each tag's rows in order.
#[derive(Debug)]
pub(crate) struct RunBuilder {
    run: Run,
    tag_start: usize,
}

impl RunBuilder {
    pub(crate) fn with_capacity(rows: usize) -> Self {
        let run = Run {
            min_seq: Seq(0),
            max_seq: Seq(0),
            spans: Vec::new(),
            times: Vec::with_capacity(rows),
            words: Vec::with_capacity(rows),
            qualities: RowQualities::Uniform(0),
            texts: Vec::new(),
        };
        Self { run, tag_start: 0 }
    }

    /// Appends one row of the current tag. `word` is the value's; for text see [`Self::push_text`].
    pub(crate) fn push(&mut self, time: i64, word: u64, quality: u32) {
        self.run.qualities.extend_uniform(self.run.times.len(), 1, quality);
        self.run.times.push(time);
        self.run.words.push(word);
    }

    /// Remembers a text and gives the word that stands for it.
    pub(crate) fn push_text(&mut self, text: Arc<str>) -> u64 {
        self.run.texts.push(text);
        (self.run.texts.len() - 1) as u64
    }

    /// Appends many rows of the current tag that share a quality.
    pub(crate) fn extend(&mut self, times: &[i64], words: impl Iterator<Item = u64>, quality: u32) {
        self.run.qualities.extend_uniform(self.run.times.len(), times.len(), quality);
        self.run.times.extend_from_slice(times);
        self.run.words.extend(words);
        assert_eq!(self.run.times.len(), self.run.words.len(), "as many words as times");
    }

    fn push_rows(&mut self, run: &Run, span: &Span, hidden: &[TimeRange]) {
        let is_text = span.value_type == ValueType::Text;
        if let (false, true, RowQualities::Uniform(quality)) =
            (is_text, hidden.is_empty(), &run.qualities)
        {
            let words = run.words[span.start..span.end].iter().copied();
            return self.extend(&run.times[span.start..span.end], words, *quality);
        }
        for row in span.start..span.end {
            let time = run.times[row];
            if hidden.iter().any(|range| range.contains(time)) {
                continue;
            }
            let mut word = run.words[row];
            if is_text {
                word = self.push_text(Arc::clone(&run.texts[index(word)]));
            }
            self.push(time, word, run.qualities.at(row));
        }
    }

    /// Ends the current tag: puts its rows in time order, the last of equal times stays.
    pub(crate) fn end_tag(&mut self, tag: TagId, value_type: ValueType) {
        let start = self.tag_start;
        if start == self.run.times.len() {
            return;
        }
        assert!(self.run.spans.last().is_none_or(|span| span.tag < tag), "tags out of order");
        if !self.run.times[start..].is_sorted_by(|a, b| a < b) {
            self.order_tail(start);
        }
        let end = self.run.times.len();
        self.run.spans.push(Span { tag, value_type, start, end });
        self.tag_start = end;
    }

    fn order_tail(&mut self, start: usize) {
        let run = &mut self.run;
        let mut rows: Vec<(i64, usize)> = run.times[start..].iter().copied().zip(start..).collect();
        if planted::is(Bug::OlderOfEqualTimesKept) {
            rows.reverse();
        }
        rows.sort_by_key(|(time, _)| *time); // stable: of equal times the last written is last
        let last_of_its_time = |i: usize| rows.get(i + 1).is_none_or(|next| next.0 != rows[i].0);
        let keep: Vec<usize> =
            (0..rows.len()).filter(|i| last_of_its_time(*i)).map(|i| rows[i].1).collect();
        let times: Vec<i64> = keep.iter().map(|row| run.times[*row]).collect();
        let words: Vec<u64> = keep.iter().map(|row| run.words[*row]).collect();
        if let RowQualities::Each(each) = &mut run.qualities {
            let kept: Vec<u32> = keep.iter().map(|row| each[*row]).collect();
            each.truncate(start);
            each.extend(kept);
        }
        run.times.truncate(start);
        run.times.extend(times);
        run.words.truncate(start);
        run.words.extend(words);
    }

    pub(crate) fn finish(self, min_seq: Seq, max_seq: Seq) -> Run {
        assert_eq!(self.tag_start, self.run.times.len(), "the last tag was not ended");
        let mut run = Run { min_seq, max_seq, ..self.run };
        run.texts.shrink_to_fit();
        run
    }
}

/// A word as a position.
pub(crate) fn index(word: u64) -> usize {
    usize::try_from(word).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::tombstone::Tombstone;

    fn run(seq: u64, rows: &[(u32, i64, u64, u32)]) -> Arc<Run> {
        let mut builder = RunBuilder::with_capacity(rows.len());
        let mut tags: Vec<u32> = rows.iter().map(|row| row.0).collect();
        tags.dedup();
        for tag in tags {
            for row in rows.iter().filter(|row| row.0 == tag) {
                builder.push(row.1, row.2, row.3);
            }
            builder.end_tag(TagId(tag), ValueType::I64);
        }
        Arc::new(builder.finish(Seq(seq), Seq(seq)))
    }

    fn rows(run: &Run) -> Vec<(u32, i64, u64, u32)> {
        let of = |span: &Span| {
            let tag = span.tag.0;
            (span.start..span.end)
                .map(move |row| (tag, run.times[row], run.words[row], run.qualities.at(row)))
        };
        run.spans.iter().flat_map(of).collect()
    }

    #[test]
    fn of_equal_keys_the_newest_stays() {
        let first = run(1, &[(1, 10, 1, 0), (1, 5, 2, 0), (1, 10, 3, 7), (2, 1, 4, 0)]);
        assert_eq!(rows(&first), [(1, 5, 2, 0), (1, 10, 3, 7), (2, 1, 4, 0)]);
        let second = run(2, &[(0, 9, 5, 0), (1, 5, 6, 0), (1, 7, 7, 0)]);
        let folded = Run::fold(&[first, second], &Tombstones::default());
        let want = [(0, 9, 5, 0), (1, 5, 6, 0), (1, 7, 7, 0), (1, 10, 3, 7), (2, 1, 4, 0)];
        assert_eq!(rows(&folded), want);
        assert_eq!((folded.min_seq, folded.max_seq), (Seq(1), Seq(2)));
    }

    #[test]
    fn a_fold_applies_tombstones_between_its_inputs_only_to_older_rows() {
        let tombstone = Tombstone {
            seq: Seq(2),
            tags: Arc::from([TagId(1)]),
            range: TimeRange::new(0, 8),
            who: Arc::from("test"),
        };
        let before = run(1, &[(1, 5, 1, 0), (1, 9, 2, 0), (2, 5, 3, 0)]);
        let after = run(3, &[(1, 6, 4, 0)]);
        let folded = Run::fold(&[before, after], &Tombstones::default().with(tombstone));
        assert_eq!(rows(&folded), [(1, 6, 4, 0), (1, 9, 2, 0), (2, 5, 3, 0)]);
    }
}

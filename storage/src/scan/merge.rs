//! The pieces of one tag, from segments and head, and how they unite.
//!
//! A piece is one chunk, or the tag's rows of one run. Pieces whose time spans are disjoint are read one after the other;
//! pieces that overlap form a cluster, which is read whole and merged: of equal times the piece with the greater seq wins.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::ScanRequest;
use super::snapshot::Snapshot;
use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::head::run::{Run, index};
use crate::ids::Seq;
use crate::segment::directory::ChunkIndex;
use crate::segment::{Segment, SegmentCursor};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// One cursor for each segment of the snapshot's version.
#[derive(Debug)]
pub(super) struct Cursors(Vec<SegmentCursor>);

impl Cursors {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self(snapshot.view.version.segments().iter().map(Segment::cursor).collect())
    }
}

#[derive(Clone, Debug)]
enum Source {
    Chunk(usize, ChunkIndex),
    Rows(Arc<Run>, Range<usize>),
}

#[derive(Clone, Debug)]
struct Piece {
    first_ns: i64,
    last_ns: i64,
    /// Greatest seq of what it comes from: decides precedence and which tombstones hide its rows.
    max_seq: Seq,
    source: Source,
}

/// Reads one tag's rows, cluster by cluster.
#[derive(Debug)]
pub(super) struct TagReader {
    tag: TagId,
    value_type: ValueType,
    clusters: VecDeque<Vec<Piece>>,
}

impl TagReader {
    pub(super) fn open(
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        tag: TagId,
        value_type: ValueType,
        request: &ScanRequest,
    ) -> Result<Self> {
        let mut pieces = Vec::new();
        let segments = snapshot.view.version.segments();
        for (number, (segment, cursor)) in segments.iter().zip(&mut cursors.0).enumerate() {
            let meta = segment.meta();
            if !request.range.overlaps_span(meta.first_ns, meta.last_ns) {
                continue;
            }
            let directory = segment.directory()?;
            for chunk in directory.find(tag, request.range) {
                let Some((first_ns, last_ns, _)) = cursor.span(chunk, tag)? else { continue };
                if request.range.overlaps_span(first_ns, last_ns) {
                    let source = Source::Chunk(number, chunk);
                    pieces.push(Piece { first_ns, last_ns, max_seq: meta.max_seq, source });
                }
            }
        }
        for run in &snapshot.view.head.runs {
            let Some(span) = run.span(tag) else { continue };
            let rows = run.rows_in(span, request.range);
            if !rows.is_empty() {
                let (first_ns, last_ns) = (run.times[rows.start], run.times[rows.end - 1]);
                let source = Source::Rows(Arc::clone(run), rows);
                pieces.push(Piece { first_ns, last_ns, max_seq: run.max_seq, source });
            }
        }
        let clusters = cluster(pieces, request.descending);
        Ok(Self { tag, value_type, clusters })
    }

    pub(super) fn has_rows(&self) -> bool {
        !self.clusters.is_empty()
    }

    /// The next cluster's rows, ascending; possibly none, if tombstones hide them all. `None` at the end.
    pub(super) fn next(
        &mut self,
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        request: &ScanRequest,
    ) -> Result<Option<SeriesBuf>> {
        let Some(cluster) = self.clusters.pop_front() else { return Ok(None) };
        let mut rows = SeriesBuf::new(self.tag, self.value_type);
        for piece in &cluster {
            let from = rows.times.len();
            match &piece.source {
                Source::Chunk(segment, chunk) => cursors.0[*segment].read(
                    *chunk,
                    self.tag,
                    request.range,
                    request.values,
                    request.qualities,
                    &mut rows,
                )?,
                Source::Rows(run, range) => {
                    copy_rows(run, range.clone(), request.values, request.qualities, &mut rows);
                }
            }
            if snapshot.view.tombstones.any_after(piece.max_seq) {
                let hidden = snapshot.view.tombstones.hiding(self.tag, piece.max_seq);
                hide(&mut rows, from, &hidden);
            }
        }
        if cluster.len() > 1 {
            order(&mut rows);
        }
        Ok(Some(rows))
    }
}

/// Groups pieces whose spans touch, in the order of reading; within a group the newest piece is last.
fn cluster(mut pieces: Vec<Piece>, descending: bool) -> VecDeque<Vec<Piece>> {
    pieces.sort_by_key(|piece| (piece.first_ns, piece.max_seq));
    let mut clusters: VecDeque<Vec<Piece>> = VecDeque::new();
    let mut end_ns = i64::MIN;
    for piece in pieces {
        let touches = piece.first_ns <= end_ns;
        end_ns = end_ns.max(piece.last_ns);
        match clusters.back_mut() {
            Some(cluster) if touches => cluster.push(piece),
            _ => clusters.push_back(vec![piece]),
        }
    }
    for cluster in &mut clusters {
        cluster.sort_by_key(|piece| piece.max_seq);
    }
    if descending {
        clusters.make_contiguous().reverse();
    }
    clusters
}

/// Appends rows of a run; columns that are not wanted stay empty.
pub(crate) fn copy_rows(
    run: &Run,
    range: Range<usize>,
    values: bool,
    qualities: bool,
    out: &mut SeriesBuf,
) {
    out.times.extend_from_slice(&run.times[range.clone()]);
    if values {
        if out.value_type == ValueType::Text {
            let texts = run.words[range.clone()].iter().map(|word| &run.texts[index(*word)]);
            out.texts.extend(texts.cloned());
        } else {
            out.words.extend_from_slice(&run.words[range.clone()]);
        }
    }
    if qualities {
        out.qualities.extend(range.map(|row| run.qualities.at(row)));
    }
}

/// Removes rows from position `from` on whose times lie in any of the ranges.
pub(crate) fn hide(rows: &mut SeriesBuf, from: usize, hidden: &[TimeRange]) {
    if hidden.is_empty() {
        return;
    }
    let keep: Vec<usize> = (0..rows.times.len())
        .filter(|row| *row < from || !hidden.iter().any(|range| range.contains(rows.times[*row])))
        .collect();
    if keep.len() < rows.times.len() {
        select(rows, &keep);
    }
}

/// Sorts rows by time; of equal times the last stays.
pub(crate) fn order(rows: &mut SeriesBuf) {
    if rows.times.is_sorted_by(|a, b| a < b) {
        return;
    }
    let mut by_time: Vec<usize> = (0..rows.times.len()).collect();
    by_time.sort_by_key(|row| rows.times[*row]); // stable: the newest of equal times is last
    let is_last = |at: usize| {
        by_time.get(at + 1).is_none_or(|next| rows.times[*next] != rows.times[by_time[at]])
    };
    let keep: Vec<usize> =
        (0..by_time.len()).filter(|at| is_last(*at)).map(|at| by_time[at]).collect();
    select(rows, &keep);
}

fn select(rows: &mut SeriesBuf, keep: &[usize]) {
    fn pick<T: Clone>(column: &mut Vec<T>, keep: &[usize]) {
        if !column.is_empty() {
            *column = keep.iter().map(|row| column[*row].clone()).collect();
        }
    }
    pick(&mut rows.times, keep);
    pick(&mut rows.words, keep);
    pick(&mut rows.texts, keep);
    pick(&mut rows.qualities, keep);
}

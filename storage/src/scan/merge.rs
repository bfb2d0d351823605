//! The pieces of one tag, from segments and head, and how they unite.
//!
//! A piece is one chunk, or the tag's rows of one run. Pieces whose time spans are disjoint are read one after the other;
//! pieces that overlap form a cluster, which is read whole and merged: of equal times the piece with the greater rank wins.
//! Rank: the head over late segments, those by their seqs, late over base.
//! A piece that cannot be read fails the scan when its cluster is reached, or takes the rows of older pieces in its span
//! with it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::outlived::Unread;
use super::snapshot::Snapshot;
use super::unite::{hide, order};
use super::{OnDamage, ScanRequest};
use crate::chunk::series::SeriesBuf;
use crate::error::{Error, Result};
use crate::head::run::{Run, index};
use crate::ids::Seq;
use crate::planted::{self, Bug};
use crate::segment::cursor::{PlainBuf, PlainRows};
use crate::segment::damage::{Damage, Quarantine, damage_in};
use crate::segment::directory::{ChunkIndex, Directory};
use crate::segment::{Segment, SegmentCursor};
use crate::tag::{TagId, ValueType};
use crate::time::TimeRange;

/// What a scan keeps from tag to tag.
#[derive(Debug)]
pub(super) struct Cursors {
    /// One for each segment of the snapshot's version.
    pub(super) each: Vec<SegmentCursor>,
    /// Places left out so far.
    pub(super) skipped: Vec<Arc<Damage>>,
}

impl Cursors {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        let each = snapshot.view.version.segments().iter().map(Segment::cursor).collect();
        Self { each, skipped: Vec::new() }
    }

    /// Rollups that are left of a tag cannot be read: fails, or leaves them out.
    pub(super) fn miss(
        &mut self,
        snapshot: &Snapshot,
        tag: TagId,
        unread: Unread,
        on_damage: OnDamage,
    ) -> Result<()> {
        let Unread { damage, error } = unread;
        if let Some(damage) = &damage {
            snapshot.view.reports.leave(Damage::clone(damage));
        }
        let Some(damage) = damage.filter(|_| on_damage == OnDamage::Skip) else {
            return Err(name_tag(error, snapshot, tag));
        };
        self.skip(&Arc::from(damage));
        Ok(())
    }

    fn skip(&mut self, damage: &Arc<Damage>) {
        if !self.skipped.contains(damage) {
            self.skipped.push(Arc::clone(damage));
        }
    }
}

#[derive(Clone, Debug)]
enum Source {
    Chunk(usize, ChunkIndex),
    Rows(Arc<Run>, Range<usize>),
    /// What cannot be read, and how a scan that needs it fails.
    Damaged(Arc<Damage>, Error),
}

#[derive(Clone, Debug)]
pub(super) struct Piece {
    first_ns: i64,
    last_ns: i64,
    /// Greatest seq of what it comes from: decides which tombstones hide its rows.
    max_seq: Seq,
    /// Place in the order of precedence: position in the version, then in the head.
    rank: usize,
    source: Source,
}

impl Piece {
    fn is_of_segment(&self, number: usize) -> bool {
        matches!(self.source, Source::Chunk(segment, _) if segment == number)
    }

    /// First and last instant.
    pub(super) fn span(&self) -> (i64, i64) {
        (self.first_ns, self.last_ns)
    }
}

/// Neighbouring chunks of one tag in one segment, in which nothing else has a say.
#[derive(Debug)]
pub(super) struct Stretch {
    /// Number of the segment in the version.
    pub(super) segment: usize,
    /// First instant, within the asked range.
    pub(super) first_ns: i64,
    /// Last instant, within the asked range.
    pub(super) last_ns: i64,
    /// The chunks, ascending.
    pub(super) pieces: Vec<Piece>,
}

impl Stretch {
    /// Samples of its chunks in a nanosecond, about.
    pub(super) fn density(&self, directory: &Directory) -> f64 {
        let rows_of = |piece: &Piece| match piece.source {
            Source::Chunk(_, chunk) => {
                let entry = directory.entry(chunk);
                // A packed chunk is shared by the tags it spans.
                u64::from(entry.rows / (entry.last_tag.0 - entry.first_tag.0 + 1))
            }
            _ => 0,
        };
        let rows: u64 = self.pieces.iter().map(rows_of).sum();
        let ends = self.pieces.first().zip(self.pieces.last());
        let span_ns = ends.map_or(0, |(first, last)| last.last_ns.saturating_sub(first.first_ns));
        rows as f64 / span_ns.max(1) as f64
    }
}

/// Reads one tag's rows, cluster by cluster.
#[derive(Debug)]
pub(super) struct TagReader {
    tag: TagId,
    value_type: ValueType,
    /// The range that is read.
    range: TimeRange,
    clusters: VecDeque<Vec<Piece>>,
}

impl TagReader {
    /// Samples that are asked for and have not ended.
    pub(super) fn open(
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        tag: TagId,
        value_type: ValueType,
        request: &ScanRequest,
    ) -> Result<Self> {
        let range = snapshot.view.clip(tag, request.range);
        Self::open_in(snapshot, cursors, (tag, value_type), range, request.descending)
    }

    /// Samples of a range, whether they have ended or not.
    pub(super) fn open_in(
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        (tag, value_type): (TagId, ValueType),
        range: TimeRange,
        descending: bool,
    ) -> Result<Self> {
        let mut pieces = Vec::new();
        for number in 0..cursors.each.len() {
            let wanted = Wanted { tag, value_type, range };
            pieces_of_segment(snapshot, cursors, number, &wanted, &mut pieces)?;
        }
        for (number, run) in snapshot.view.head.runs.iter().enumerate() {
            let Some(span) = run.span(tag) else { continue };
            let rows = run.rows_in(span, range);
            if !rows.is_empty() {
                let (first_ns, last_ns) = (run.times[rows.start], run.times[rows.end - 1]);
                let source = Source::Rows(Arc::clone(run), rows);
                let (max_seq, rank) = (run.max_seq, cursors.each.len() + number);
                pieces.push(Piece { first_ns, last_ns, max_seq, rank, source });
            }
        }
        let clusters = cluster(pieces, descending);
        Ok(Self { tag, value_type, range, clusters })
    }

    pub(super) fn has_rows(&self) -> bool {
        !self.clusters.is_empty()
    }

    /// Spans of what is to be read, in the order of reading; some may overlap.
    pub(super) fn spans(&self) -> impl Iterator<Item = (i64, i64)> {
        self.clusters.iter().flatten().map(Piece::span)
    }

    /// Leaves out clusters ahead whose spans nobody wants.
    pub(super) fn skip_outside(&mut self, is_wanted: &mut dyn FnMut(i64, i64) -> bool) {
        while let Some(cluster) = self.clusters.front() {
            let first_ns = cluster.iter().map(|piece| piece.first_ns).min();
            let last_ns = cluster.iter().map(|piece| piece.last_ns).max();
            if first_ns.zip(last_ns).is_none_or(|(first_ns, last_ns)| is_wanted(first_ns, last_ns))
            {
                break;
            }
            self.clusters.pop_front();
        }
    }

    /// Takes the chunks of one segment that come next and in which nothing else has a say: nothing overlaps them, no delete
    /// may hide one of their samples. `None` if the next is not of this kind.
    pub(super) fn take_stretch(&mut self, snapshot: &Snapshot) -> Option<Stretch> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut hidden = Vec::new();
        while let Some([piece]) = self.clusters.front().map(Vec::as_slice) {
            let Source::Chunk(segment, _) = piece.source else { break };
            if pieces.is_empty() {
                hidden = snapshot.view.tombstones.hiding(self.tag, piece.max_seq);
            } else if !pieces[0].is_of_segment(segment) {
                break;
            }
            let is_hit = hidden.iter().any(|r| r.overlaps_span(piece.first_ns, piece.last_ns));
            if is_hit && !planted::is(Bug::RollupsForgetTombstones) {
                break;
            }
            pieces.extend(self.clusters.pop_front().into_iter().flatten());
        }
        let (first, last) = pieces.first().zip(pieces.last())?;
        let Source::Chunk(segment, _) = first.source else { return None };
        let first_ns = first.first_ns.max(self.range.start_ns);
        let last_ns = last.last_ns.min(self.range.end_ns - 1);
        Some(Stretch { segment, first_ns, last_ns, pieces })
    }

    /// Decodes samples of a plain chunk of a stretch into `buffer`. `None` if it is packed or cannot be read: then
    /// [`Self::read_piece`] reads it, and knows what to say of damage.
    pub(super) fn read_plain(
        &self,
        cursors: &mut Cursors,
        piece: &Piece,
        range: TimeRange,
        buffer: &mut PlainBuf,
    ) -> Option<PlainRows> {
        let Source::Chunk(segment, chunk) = piece.source else { return None };
        let cursor = &mut cursors.each[segment];
        cursor.read_plain_rows(chunk, self.value_type, range, buffer).ok()?
    }

    /// Samples of a piece of a stretch.
    pub(super) fn read_piece(
        &self,
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        request: &ScanRequest,
        piece: &Piece,
        range: TimeRange,
    ) -> Result<SeriesBuf> {
        self.read_cluster(snapshot, cursors, request, std::slice::from_ref(piece), range)
    }

    /// The next cluster's rows, ascending; possibly none, if tombstones hide them all. `None` at the end.
    pub(super) fn next(
        &mut self,
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        request: &ScanRequest,
    ) -> Result<Option<SeriesBuf>> {
        let Some(cluster) = self.clusters.pop_front() else { return Ok(None) };
        self.read_cluster(snapshot, cursors, request, &cluster, self.range).map(Some)
    }

    fn read_cluster(
        &self,
        snapshot: &Snapshot,
        cursors: &mut Cursors,
        request: &ScanRequest,
        cluster: &[Piece],
        range: TimeRange,
    ) -> Result<SeriesBuf> {
        let mut rows = SeriesBuf::new(self.tag, self.value_type);
        for piece in cluster {
            let from = rows.times.len();
            let read = self.read(piece, cursors, request, range, &mut rows);
            if let Err((damage, error)) = read {
                if let (Some(damage), Source::Chunk(..)) = (&damage, &piece.source) {
                    snapshot.view.reports.leave(Damage::clone(damage));
                }
                let skips = request.damage == OnDamage::Skip;
                let Some(damage) = damage.filter(|_| skips) else {
                    return Err(name_tag(error, snapshot, self.tag));
                };
                cursors.skip(&damage);
                hide(&mut rows, 0, &[damage.range()]);
                continue;
            }
            if snapshot.view.tombstones.any_after(piece.max_seq) {
                let hidden = snapshot.view.tombstones.hiding(self.tag, piece.max_seq);
                hide(&mut rows, from, &hidden);
            }
        }
        if cluster.len() > 1 {
            order(&mut rows);
        }
        Ok(rows)
    }

    /// Appends a piece's rows. An error comes with the place that is damaged, if that is the reason.
    fn read(
        &self,
        piece: &Piece,
        cursors: &mut Cursors,
        request: &ScanRequest,
        range: TimeRange,
        rows: &mut SeriesBuf,
    ) -> Result<(), (Option<Arc<Damage>>, Error)> {
        match &piece.source {
            Source::Chunk(segment, chunk) => {
                let cursor = &mut cursors.each[*segment];
                let (values, qualities) = (request.values, request.qualities);
                let read = cursor.read(*chunk, self.tag, range, values, qualities, rows);
                read.map_err(|error| (cursor.damage(*chunk, &error).map(Arc::new), error))
            }
            Source::Rows(run, found) => {
                copy_rows(run, found.clone(), request.values, request.qualities, rows);
                Ok(())
            }
            Source::Damaged(damage, error) => Err((Some(Arc::clone(damage)), error.clone())),
        }
    }
}

/// What is looked for in a segment.
struct Wanted {
    tag: TagId,
    value_type: ValueType,
    range: TimeRange,
}

/// Finds the pieces of one tag in one segment.
fn pieces_of_segment(
    snapshot: &Snapshot,
    cursors: &mut Cursors,
    number: usize,
    wanted: &Wanted,
    pieces: &mut Vec<Piece>,
) -> Result<()> {
    let view = &snapshot.view;
    let (segment, cursor) = (&view.version.segments()[number], &mut cursors.each[number]);
    let (meta, &Wanted { tag, value_type, range }) = (segment.meta(), wanted);
    let max_seq = meta.max_seq;
    if !range.overlaps_span(meta.first_ns, meta.last_ns) {
        return Ok(());
    }
    let known = view.quarantine.of(meta.id);
    let whole = known.first().filter(|damage| damage.is_whole());
    if whole.is_none() && segment.is_without(tag) {
        return Ok(());
    }
    // What was deleted as a whole is missed by nobody, and not even its damage matters.
    let hidden = view.tombstones.hiding(tag, max_seq);
    let is_deleted = |first_ns: i64, last_ns: i64| {
        let (from, to) = (first_ns.max(range.start_ns), last_ns.min(range.end_ns - 1));
        hidden.iter().any(|h| h.covers_span(from, to))
    };
    let mut put_damaged = |damage: Arc<Damage>, error: Error| {
        let (first_ns, last_ns) = (damage.first_ns, damage.last_ns);
        if range.overlaps_span(first_ns, last_ns) && !is_deleted(first_ns, last_ns) {
            let source = Source::Damaged(damage, error);
            pieces.push(Piece { first_ns, last_ns, max_seq, rank: number, source });
        }
    };
    if let Some(whole) = whole {
        put_damaged(Arc::clone(whole), segment.damaged(whole));
        return Ok(());
    }
    let directory = match segment.directory() {
        Ok(directory) => directory,
        Err(error) => {
            let why = damage_in(&error).ok_or_else(|| error.clone())?;
            let damage = Damage::whole(meta, why);
            view.reports.leave(damage.clone());
            put_damaged(Arc::new(damage), error);
            return Ok(());
        }
    };
    let mut found = Vec::new();
    for chunk in directory.find(tag, range) {
        let entry = directory.entry(chunk);
        if entry.packed && entry.value_type != value_type {
            continue;
        }
        if let Some(damage) = Quarantine::covering(known, &entry) {
            put_damaged(Arc::clone(damage), segment.damaged(damage));
            continue;
        }
        match cursor.span(chunk, tag) {
            Ok(Some((first_ns, last_ns, _)))
                if range.overlaps_span(first_ns, last_ns) && !is_deleted(first_ns, last_ns) =>
            {
                let source = Source::Chunk(number, chunk);
                found.push(Piece { first_ns, last_ns, max_seq, rank: number, source });
            }
            Ok(_) => {}
            Err(error) => {
                let damage = cursor.damage(chunk, &error).ok_or_else(|| error.clone())?;
                view.reports.leave(damage.clone());
                put_damaged(Arc::new(damage), error);
            }
        }
    }
    pieces.append(&mut found);
    Ok(())
}

/// Says whose samples an error keeps back.
fn name_tag(error: Error, snapshot: &Snapshot, tag: TagId) -> Error {
    match (error, snapshot.registry().get(tag)) {
        (Error::Corrupt { what, path, offset, why }, Some(tag)) => {
            let what = format!("samples of tag {:?} ({what})", tag.name);
            Error::Corrupt { what, path, offset, why }
        }
        (error, _) => error,
    }
}

/// Groups pieces whose spans touch, in the order of reading; within a group the piece that wins is last.
fn cluster(mut pieces: Vec<Piece>, descending: bool) -> VecDeque<Vec<Piece>> {
    pieces.sort_by_key(|piece| (piece.first_ns, piece.rank));
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
        cluster.sort_by_key(|piece| piece.rank);
        if planted::is(Bug::PrecedenceInverted) {
            cluster.reverse();
        }
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

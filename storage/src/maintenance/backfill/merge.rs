//! The rows of a backfill in the order of segments: by (day, tag, time), of equal keys the one pushed last.

use super::spill::{Spill, SpillCursor};
use crate::chunk::series::SeriesBuf;
use crate::error::Result;
use crate::head::run::Run;
use crate::scan::merge::copy_rows;
use crate::scan::unite::order;
use crate::tag::{TagId, ValueType};
use crate::time::DAY_NS;

/// The rows of one tag and day in one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) day: i64,
    pub(super) tag: TagId,
    pub(super) value_type: ValueType,
    pub(super) first_ns: i64,
    run: usize,
    start: usize,
    end: usize,
}

impl Piece {
    /// Memory of one, for the limit.
    pub(super) const BYTES: u64 = size_of::<Self>() as u64;

    /// All pieces of these runs, by (day, tag, run).
    pub(super) fn all_of(runs: &[Run]) -> Vec<Self> {
        let mut pieces = Vec::new();
        for (number, run) in runs.iter().enumerate() {
            for span in &run.spans {
                let mut start = span.start;
                while start < span.end {
                    let first_ns = run.times[start];
                    let day = first_ns.div_euclid(DAY_NS);
                    let is_of_day = |time: &i64| time.div_euclid(DAY_NS) == day;
                    let end = start + run.times[start..span.end].partition_point(is_of_day);
                    let (tag, value_type) = (span.tag, span.value_type);
                    pieces.push(Self { day, tag, value_type, first_ns, run: number, start, end });
                    start = end;
                }
            }
        }
        pieces.sort_unstable_by_key(|piece| (piece.day, piece.tag, piece.run));
        pieces
    }

    pub(super) fn rows(&self) -> usize {
        self.end - self.start
    }
}

/// Appends the rows of pieces of one tag and day, ascending, each key once.
pub(super) fn gather(runs: &[Run], pieces: &[Piece], out: &mut SeriesBuf) {
    for piece in pieces {
        copy_rows(&runs[piece.run], piece.start..piece.end, true, true, out);
    }
    order(out);
}

/// Where the rows of a backfill lie when it is finished: all in memory, or all in spills.
#[derive(Debug)]
pub(super) enum Rows {
    Memory(Vec<Run>, Vec<Piece>),
    Spilled(Vec<Spill>),
}

/// Some rows and where they stand: a piece, or a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) day: i64,
    pub(super) first_tag: TagId,
    pub(super) first_ns: i64,
    pub(super) rows: usize,
}

impl Rows {
    /// Where all rows stand, by (day, first tag).
    pub(super) fn extents(&self) -> Vec<Extent> {
        match self {
            Self::Memory(_, pieces) => {
                let extent = |piece: &Piece| Extent {
                    day: piece.day,
                    first_tag: piece.tag,
                    first_ns: piece.first_ns,
                    rows: piece.rows(),
                };
                pieces.iter().map(extent).collect()
            }
            Self::Spilled(spills) => {
                let frames = spills.iter().flat_map(|spill| &spill.frames);
                let mut extents: Vec<Extent> = frames.map(|frame| frame.extent).collect();
                extents.sort_by_key(|extent| (extent.day, extent.first_tag));
                extents
            }
        }
    }

    /// Hands over the rows of tags `tags.0..=tags.1` on `day`, tag by tag.
    pub(super) fn for_each(
        &self,
        day: i64,
        tags: (TagId, TagId),
        take: &mut dyn FnMut(SeriesBuf) -> Result<()>,
    ) -> Result<()> {
        match self {
            Self::Memory(runs, pieces) => {
                let from = pieces.partition_point(|p| (p.day, p.tag) < (day, tags.0));
                let to = pieces.partition_point(|p| (p.day, p.tag) <= (day, tags.1));
                for same in pieces[from..to].chunk_by(|a, b| a.tag == b.tag) {
                    let mut rows = SeriesBuf::new(same[0].tag, same[0].value_type);
                    gather(runs, same, &mut rows);
                    take(rows)?;
                }
                Ok(())
            }
            Self::Spilled(spills) => for_each_spilled(spills, day, tags, take),
        }
    }
}

/// Hands over the rows of tags `tags.0..=tags.1` on `day` from all of these spills, tag by tag, each key once.
pub(super) fn for_each_spilled(
    spills: &[Spill],
    day: i64,
    tags: (TagId, TagId),
    take: &mut dyn FnMut(SeriesBuf) -> Result<()>,
) -> Result<()> {
    let open = |spill| SpillCursor::open(spill, day, tags);
    let mut cursors: Vec<_> = spills.iter().map(open).collect::<Result<_>>()?;
    while let Some((tag, value_type)) =
        cursors.iter().filter_map(SpillCursor::peek).min_by_key(|next| next.0)
    {
        let mut rows = SeriesBuf::new(tag, value_type);
        for cursor in &mut cursors {
            while cursor.peek().is_some_and(|next| next.0 == tag) {
                cursor.take(&mut rows)?;
            }
        }
        order(&mut rows);
        take(rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::{Random, SimDisk};
    use crate::head::run::RunBuilder;
    use crate::ids::Seq;
    use crate::maintenance::backfill::spills::{FAN_IN, Spills};

    /// A run of random rows over some days; every value is new.
    fn run(random: &mut Random, number: &mut u64) -> Run {
        let mut builder = RunBuilder::with_capacity(0);
        for tag in 0..5 {
            let value_type = ValueType::ALL[tag as usize + 1];
            for _ in 0..random.below(60) {
                *number += 1;
                let time = random.below(4).cast_signed() * DAY_NS + random.below(20).cast_signed();
                let word = match value_type {
                    ValueType::Text => builder.push_text(Arc::from(number.to_string())),
                    ValueType::Bool => *number % 2,
                    _ => *number % 60_000,
                };
                builder.push(time, word, u32::try_from(random.below(3) / 2).unwrap());
            }
            builder.end_tag(TagId(tag), value_type);
        }
        builder.finish(Seq(0), Seq(0))
    }

    fn read(rows: &Rows) -> Vec<SeriesBuf> {
        let mut found = Vec::new();
        for day in 0..4 {
            for tags in [(TagId(0), TagId(1)), (TagId(2), TagId(u32::MAX))] {
                let mut take = |rows: SeriesBuf| {
                    rows.as_series().check();
                    assert!(rows.times.iter().all(|time| time.div_euclid(DAY_NS) == day));
                    found.push(rows);
                    Ok(())
                };
                rows.for_each(day, tags, &mut take).unwrap();
            }
        }
        found
    }

    /// However many spills there were, few are left, and of a key the last push counts.
    #[test]
    fn many_spills_become_few() {
        let mut random = Random::new(8);
        let mut number = 0;
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
        let (mut runs, mut spills, mut most) = (Vec::new(), Spills::default(), 0);
        // One fewer than would go up twice: the end must merge, too.
        for _ in 0..FAN_IN * 4 - 1 {
            runs.push(run(&mut random, &mut number));
            spills.push(&disk, &runs[runs.len() - 1..]).unwrap();
            most = most.max(disk.list("scratch").unwrap().len());
        }
        let spills = spills.finish(&disk).unwrap();
        assert!(spills.len() <= FAN_IN && most < 2 * FAN_IN, "{} of {most}", spills.len());
        assert_eq!(disk.list("scratch").unwrap().len(), spills.len());
        let pieces = Piece::all_of(&runs);
        assert_eq!(read(&Rows::Spilled(spills)), read(&Rows::Memory(runs, pieces)));
        assert!(disk.list("scratch").unwrap().is_empty());
    }

    /// Rows from spills are those from memory, however the pushes were cut into spills, and the last push wins.
    #[test]
    fn spills_give_what_memory_gives() {
        let mut random = Random::new(7);
        for _ in 0..50 {
            let mut number = 0;
            let runs: Vec<Run> =
                (0..=random.index(6)).map(|_| run(&mut random, &mut number)).collect();
            let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
            let parts = runs.chunks(1 + random.index(3));
            let spills: Vec<Spill> = parts.map(|p| Spill::write(&disk, p).unwrap()).collect();
            let rows: usize = Rows::Spilled(Vec::new()).extents().len();
            assert_eq!(rows, 0);
            let pieces = Piece::all_of(&runs);
            let (memory, spilled) = (Rows::Memory(runs, pieces), Rows::Spilled(spills));
            let expected = read(&memory);
            assert_eq!(read(&spilled), expected);
            let total = |rows: &Rows| rows.extents().iter().map(|e| e.rows).sum::<usize>();
            let distinct: usize = expected.iter().map(|rows| rows.times.len()).sum();
            assert!(total(&spilled) >= distinct && total(&memory) >= total(&spilled));
            drop(spilled);
            assert!(disk.list("scratch").unwrap().is_empty(), "spills go with their backfill");
        }
    }
}

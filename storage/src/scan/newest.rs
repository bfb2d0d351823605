//! The newest samples of some tags, found in one pass.
//!
//! # Contract
//! * Looks into the newest segments first, and then into twice as many with each step, so that a tag that is still
//!   written is found without opening a file of last year.
//! * Tag by tag, ascending, through the same cursors: what tags share is read and decoded once.
//! * A tag whose newest rows cannot be read is told so: no older sample passes for its newest.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::merge::{Cursors, TagReader};
use super::snapshot::Snapshot;
use super::{ScanRequest, TagSelection};
use crate::error::Result;
use crate::head::latest::Entry;
use crate::manifest::version::Version;
use crate::tag::TagId;
use crate::time::TimeRange;

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Newest {
    /// For each tag its newest sample, `None` if it has no sample, or none that can be read.
    pub(crate) entries: Vec<(TagId, Option<Entry>)>,
    /// Tags of which that is not known.
    pub(crate) unread: BTreeSet<TagId>,
}

/// Finds the newest samples of these tags.
pub(crate) fn find(snapshot: &Snapshot, tags: &BTreeSet<TagId>) -> Newest {
    let mut newest = Newest::default();
    if tags.is_empty() {
        return newest;
    }
    let mut cursors = Cursors::new(snapshot);
    let steps = steps(&snapshot.view.version);
    for tag in tags {
        let entry = newest_of(snapshot, &mut cursors, *tag, &steps).unwrap_or_else(|_unreadable| {
            newest.unread.insert(*tag);
            None
        });
        newest.entries.push((*tag, entry));
    }
    newest
}

/// All of time, cut where segments begin, newest first.
fn steps(version: &Version) -> Vec<TimeRange> {
    let metas = version.segments().iter().map(|segment| segment.meta());
    let mut firsts: Vec<i64> = metas.map(|meta| meta.first_ns).collect();
    firsts.sort_unstable_by(|a, b| b.cmp(a));
    let (mut steps, mut end_ns, mut at) = (Vec::new(), i64::MAX, 0);
    while let Some(first_ns) = firsts.get(at) {
        if *first_ns < end_ns {
            steps.push(TimeRange::new(*first_ns, end_ns));
            end_ns = *first_ns;
        }
        at = 2 * at + 1;
    }
    steps.push(TimeRange::new(i64::MIN, end_ns));
    steps
}

fn newest_of(
    snapshot: &Snapshot,
    cursors: &mut Cursors,
    tag: TagId,
    steps: &[TimeRange],
) -> Result<Option<Entry>> {
    let known = snapshot.registry().get(tag).filter(|known| !known.is_deleted());
    let Some(value_type) = known.map(|known| known.value_type) else { return Ok(None) };
    for range in steps {
        let mut request = ScanRequest::new(TagSelection::All, *range);
        request.descending = true;
        let mut reader = TagReader::open(snapshot, cursors, tag, value_type, &request)?;
        while let Some(rows) = reader.next(snapshot, cursors, &request)? {
            let Some(last) = rows.times.len().checked_sub(1) else { continue };
            let (time_ns, quality) = (rows.times[last], rows.qualities[last]);
            let (word, text) = match rows.texts.get(last) {
                Some(text) => (0, Some(Arc::clone(text))),
                None => (rows.words[last], None),
            };
            return Ok(Some(Entry { time_ns, word, quality, text }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::segment::Segment;
    use crate::segment::meta::tests::example;

    #[test]
    fn steps_cover_all_of_time_once_and_grow() {
        let segment = |first_ns: i64| {
            let mut meta = example();
            meta.id.0 = u64::try_from(first_ns).unwrap();
            meta.first_ns = first_ns;
            Arc::new(Segment::new(Arc::new(SimDisk::new(0)), meta))
        };
        for count in [0, 1, 2, 30] {
            let version = Version::new((1..=count).map(segment).collect());
            let steps = steps(&version);
            assert_eq!(steps.first().unwrap().end_ns, i64::MAX);
            assert_eq!(steps.last().unwrap().start_ns, i64::MIN);
            assert!(steps.windows(2).all(|pair| pair[0].start_ns == pair[1].end_ns));
            assert!(steps.len() <= 6, "{steps:?}");
        }
    }
}

//! Reads every byte of a segment again and says what is wrong with it.
//!
//! Beyond checksums it decodes each chunk, computes its statistics anew and compares: a fault of an encoder is found
//! here, not by a query.

use std::collections::HashMap;
use std::sync::Arc;

use crate::chunk::{ChunkEntry, SeriesBuf, Statistics, reader};
use crate::error::{Error, Result};
use crate::segment::damage::{Damage, damage_in};
use crate::segment::{ChunkIndex, Directory, Segment};
use crate::time::TimeRange;

/// How many bytes of a chunk were read; false ends the reading.
pub(crate) type Pace<'a> = dyn FnMut(u64) -> bool + 'a;

/// First and last time of the shared regions that verified, by their place and number of rows.
type Shared = HashMap<(u64, u32), (i64, i64)>;

impl Segment {
    /// Verifies every byte and reports each thing that is wrong: each bad chunk with its tags and times. Without a
    /// valid header, footer and directory it cannot go on. With each error comes the place that is damaged, if one is.
    pub(crate) fn verify_places(
        &self,
        report: &mut dyn FnMut(Error, Option<Damage>),
        pace: &mut Pace<'_>,
    ) {
        // Anew, and not through a file opened long ago: what counts is what the name leads to now.
        let fresh = self.reopened();
        let directory = match fresh.directory() {
            Ok(directory) => directory,
            Err(error) => {
                let damage = damage_in(&error).map(|why| Damage::whole(self.meta(), why));
                return report(error, damage);
            }
        };
        let mut bad_chunks = 0;
        let mut shared = Shared::new();
        for index in directory.indices() {
            let entry = directory.entry(index);
            if let Err(error) = fresh.verify_chunk(&directory, index, &mut shared) {
                bad_chunks += 1;
                let why = damage_in(&error);
                let damage = why.map(|why| Damage::chunk(self.meta().id, &entry, why));
                report(error, damage);
            }
            if !pace(u64::from(entry.times.bytes) + u64::from(entry.body.bytes)) {
                return;
            }
        }
        if bad_chunks == 0
            && let Err(error) = fresh.verify_tags()
        {
            report(error, None);
        }
    }

    /// Verifies again, through one file opened anew, places that were found damaged: of the segment as a whole, all of it.
    ///
    /// Gives for each the damage, if it is still there; [`Error::Io`] if that cannot be found out now.
    pub(crate) fn verify_again(&self, places: &[Arc<Damage>]) -> Vec<Result<()>> {
        let fresh = self.reopened();
        let directory = match fresh.directory() {
            Ok(directory) => directory,
            Err(error) => return places.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut shared = Shared::new();
        let mut verify = |index| fresh.verify_chunk(&directory, index, &mut shared);
        let again = |damage: &Arc<Damage>| {
            if damage.is_whole() {
                return directory.indices().try_for_each(&mut verify);
            }
            let near = directory.find(damage.first_tag, damage.range());
            near.filter(|index| damage.covers(&directory.entry(*index))).try_for_each(&mut verify)
        };
        places.iter().map(again).collect()
    }

    /// A region that chunks share is read and decoded for the first of them.
    fn verify_chunk(
        &self,
        directory: &Directory,
        index: ChunkIndex,
        shared: &mut Shared,
    ) -> Result<()> {
        let entry = directory.entry(index);
        let mut buffer = Vec::new();
        let mut rows = SeriesBuf::new(entry.first_tag, entry.value_type);
        if entry.packed {
            let mut packed = self.read_packed(&entry, &mut buffer)?;
            let bytes = self.read(&entry, entry.body, &mut buffer)?;
            packed
                .decode_body(&entry, bytes)
                .map_err(|why| self.malformed(&entry, entry.body, why))?;
            packed.copy(0..entry.len(), (true, true), &mut rows);
        } else {
            let key = (entry.times.offset, entry.rows);
            if shared.get(&key) != Some(&(entry.first_ns, entry.last_ns)) {
                let bytes = self.read(&entry, entry.times, &mut buffer)?;
                reader::decode_times(&entry, bytes, TimeRange::ALL, &mut rows.times)
                    .map_err(|why| self.malformed(&entry, entry.times, why))?;
                if directory.shares_times(index) {
                    shared.insert(key, (entry.first_ns, entry.last_ns));
                }
            }
            let decoded = 0..entry.len();
            let bytes = self.read(&entry, entry.body, &mut buffer)?;
            reader::decode_body(&entry, bytes, decoded, (true, true), &mut rows)
                .map_err(|why| self.malformed(&entry, entry.body, why))?;
        }
        self.verify_rows(&entry, &rows)
    }

    fn verify_rows(&self, entry: &ChunkEntry, rows: &SeriesBuf) -> Result<()> {
        let wrong = |why: &str| Err(self.corrupt(entry.to_string(), entry.times.offset, why));
        // Without times if they are shared and were looked at before.
        let times = if rows.times.is_empty() { entry.len() } else { rows.len() };
        if times != entry.len() || rows.qualities.len() != entry.len() {
            return wrong("it decodes to another number of rows than the directory says");
        }
        if Statistics::of(entry.value_type, &rows.words, &rows.qualities) != entry.statistics {
            return wrong("its statistics differ from those the directory says");
        }
        Ok(())
    }

    /// No tag in two places, and as many tags as the manifest says.
    fn verify_tags(&self) -> Result<()> {
        let (mut tags, mut last, mut repeated) = (0_u64, None, None);
        self.for_each_tag(&mut |tag, _, _, _| {
            if last.is_some_and(|last| tag <= last) {
                repeated = Some(tag);
            }
            last = Some(tag);
            tags += 1;
        })?;
        let offset = self.meta().directory_offset;
        if let Some(tag) = repeated {
            let why = format!("tag {tag} has chunks in two places");
            return Err(self.corrupt("segment directory", offset, why));
        }
        if tags != u64::from(self.meta().tags) {
            let why = format!("{tags} tags, the manifest says {}", self.meta().tags);
            return Err(self.corrupt("segment directory", offset, why));
        }
        Ok(())
    }
}

//! One edit of the manifest, and its bytes: `docs/format/manifest.md`.

use std::sync::Arc;

use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};
use crate::head::tombstone::Tombstone;
use crate::ids::{SegmentId, Seq};
use crate::limits::NUMBER_MAX;
use crate::registry::change::{count, number, put_text, text};
use crate::retention::Ends;
use crate::segment::damage::Damage;
use crate::segment::meta::SegmentMeta;
use crate::tag::TagId;
use crate::tier::Tier;
use crate::wal::record::{Delete, delete, put_delete};

/// What must survive when the log up to the floor is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct State {
    /// Every sample of records up to here is in segments, and every change in the registry file and below: replay takes
    /// only later records.
    pub(crate) floor: Seq,
    /// The next segment's id.
    pub(crate) next_segment: SegmentId,
    /// Length of the valid part of `registry.log`.
    pub(crate) registry_bytes: u64,
    /// Number of the file with latest samples and newest sealed times; 0 if there is none yet.
    pub(crate) latest_file: u64,
    /// Gateways and their durable marks: name, epoch, seq.
    pub(crate) marks: Vec<(Arc<str>, u64, u64)>,
    /// Deletes that may still hide rows of segments.
    pub(crate) tombstones: Vec<Arc<Tombstone>>,
    /// Retention classes, and before which times their samples and rollups have ended. Ascending by name.
    pub(crate) horizons: Vec<(Arc<str>, Ends)>,
    /// Backfills that are done, by the id the caller gave, and the seq of their samples. Ascending by id.
    pub(crate) imports: Vec<(Arc<str>, Seq)>,
    /// Places known to be unreadable. Ascending by segment and tag.
    pub(crate) quarantine: Vec<Arc<Damage>>,
}

/// One atomic change of the live segments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edit {
    pub(crate) remove: Vec<SegmentId>,
    pub(crate) add: Vec<SegmentMeta>,
    pub(crate) state: State,
}

impl Edit {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.remove.len() as u64);
        for id in &self.remove {
            put_varint(out, id.0);
        }
        put_varint(out, self.add.len() as u64);
        for meta in &self.add {
            meta.encode(out);
        }
        let state = &self.state;
        put_varint(out, state.floor.0);
        put_varint(out, state.next_segment.0);
        put_varint(out, state.registry_bytes);
        put_varint(out, state.latest_file);
        put_varint(out, state.marks.len() as u64);
        for (gateway, epoch, seq) in &state.marks {
            put_text(out, gateway);
            put_varint(out, *epoch);
            put_varint(out, *seq);
        }
        put_varint(out, state.tombstones.len() as u64);
        for tombstone in &state.tombstones {
            put_varint(out, tombstone.seq.0);
            let Tombstone { tags, range, who, .. } = tombstone.as_ref();
            let (tags, who) = (Arc::clone(tags), Arc::clone(who));
            put_delete(out, &Delete { tags, range: *range, who });
        }
        put_varint(out, state.horizons.len() as u64);
        for (class, ends) in &state.horizons {
            put_text(out, class);
            put_zigzag(out, ends.raw_ns);
            ends.tiers_ns.iter().for_each(|end_ns| put_zigzag(out, *end_ns));
        }
        put_varint(out, state.imports.len() as u64);
        for (import, seq) in &state.imports {
            put_text(out, import);
            put_varint(out, seq.0);
        }
        put_varint(out, state.quarantine.len() as u64);
        for damage in &state.quarantine {
            put_varint(out, damage.segment.0);
            put_varint(out, u64::from(damage.first_tag.0));
            put_varint(out, u64::from(damage.last_tag.0));
            put_zigzag(out, damage.first_ns);
            put_zigzag(out, damage.last_ns);
            put_text(out, &damage.why);
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let removed = count(reader, 1)?;
        let remove: Result<Vec<_>, _> = (0..removed).map(|_| counter(reader)).collect();
        let remove = remove?.into_iter().map(SegmentId).collect();
        let added = count(reader, 8)?;
        let add = (0..added).map(|_| SegmentMeta::decode(reader)).collect::<Result<_, _>>()?;
        let mut state = State {
            floor: Seq(counter(reader)?),
            next_segment: SegmentId(counter(reader)?),
            registry_bytes: counter(reader)?,
            latest_file: counter(reader)?,
            ..State::default()
        };
        for _ in 0..count(reader, 3)? {
            state.marks.push((text(reader)?, reader.varint()?, reader.varint()?));
        }
        for _ in 0..count(reader, 5)? {
            let seq = Seq(counter(reader)?);
            if state.tombstones.last().is_some_and(|last| last.seq >= seq) {
                return Err(Malformed("tombstones are out of order"));
            }
            let Delete { tags, range, who } = delete(reader)?;
            state.tombstones.push(Arc::new(Tombstone { seq, tags, range, who }));
        }
        for _ in 0..count(reader, 2 + Tier::ALL.len())? {
            let (class, mut ends) = (text(reader)?, Ends::at(reader.zigzag()?));
            for end_ns in &mut ends.tiers_ns {
                *end_ns = reader.zigzag()?;
            }
            state.horizons.push((class, ends));
        }
        for _ in 0..count(reader, 2)? {
            state.imports.push((text(reader)?, Seq(counter(reader)?)));
        }
        for _ in 0..count(reader, 6)? {
            let segment = SegmentId(counter(reader)?);
            let (first_tag, last_tag) = (TagId(number(reader)?), TagId(number(reader)?));
            let (first_ns, last_ns) = (reader.zigzag()?, reader.zigzag()?);
            let why = text(reader)?;
            state.quarantine.push(Arc::new(Damage {
                segment,
                first_tag,
                last_tag,
                first_ns,
                last_ns,
                why,
            }));
        }
        if reader.remaining() > 0 {
            return Err(Malformed("the edit is longer than its content"));
        }
        Ok(Self { remove, add, state })
    }
}

/// A number that others follow.
fn counter(reader: &mut Reader<'_>) -> Result<u64, Malformed> {
    let number = reader.varint()?;
    if number > NUMBER_MAX { Err(Malformed("number out of range")) } else { Ok(number) }
}

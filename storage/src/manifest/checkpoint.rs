//! The checkpoint a seal names: each tag's latest sample and newest sealed time. Bytes: `docs/format/manifest.md`.
//!
//! It saves an open from reading every segment's directory. It is written whole, never changed, and replaced by the next.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};
use crate::checksum::crc32;
use crate::disk::{Disk, read_all};
use crate::error::{Error, Result};
use crate::fields::{Field, field, fill, is_clean};
use crate::head::latest::{Entry, LatestTable};
use crate::planted::{self, Bug};
use crate::registry::change::{number, put_text, text};
use crate::tag::TagId;

const MAGIC: [u8; 8] = *b"TMLAT\r\n\x1a";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;

/// The header, row for row as in the format page.
const HEADER: [Field; 5] = [
    field("magic", 0, 8),
    field("version", 8, 2),
    field("reserved", 10, 6),
    field("bytes", 16, 8),
    field("reserved", 24, 4),
];
const HEADER_CRC: Field = field("crc32", 28, 4);

const _: () = assert!(fill(&HEADER, HEADER_CRC.offset), "checkpoint header has a gap");
const _: () = assert!(HEADER_CRC.offset + HEADER_CRC.size == HEADER_BYTES);

/// Newest sealed time of each tag by its id; `i64::MIN` where nothing is sealed.
pub(crate) type SealedUntil = Vec<i64>;

/// What a checkpoint says.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) latest: LatestTable,
    /// Tags whose latest sample was not known when it was written.
    pub(crate) stale: BTreeSet<TagId>,
    pub(crate) sealed_until: SealedUntil,
}

/// Name of checkpoint `number`.
pub(crate) fn path(number: u64) -> String {
    format!("latest-{number:016x}.ckpt")
}

/// The number in a checkpoint's file name.
pub(crate) fn parse_name(name: &str) -> Option<u64> {
    let number = name.strip_prefix("latest-")?.strip_suffix(".ckpt")?;
    if number.len() == 16 { u64::from_str_radix(number, 16).ok() } else { None }
}

/// Writes and syncs checkpoint `number`. Its name is durable when the folder is synced next.
pub(crate) fn write(
    disk: &Arc<dyn Disk>,
    checkpoint: u64,
    latest: &LatestTable,
    stale: &BTreeSet<TagId>,
    sealed_until: &SealedUntil,
) -> Result<()> {
    let mut body = Vec::new();
    for tag in stale {
        put_varint(&mut body, u64::from(tag.0) + 1);
    }
    put_varint(&mut body, 0);
    for (tag, entry) in latest.iter() {
        put_varint(&mut body, u64::from(tag.0) + 1);
        put_zigzag(&mut body, entry.time_ns);
        put_varint(&mut body, u64::from(entry.quality));
        match &entry.text {
            None => {
                body.push(0);
                body.extend_from_slice(&entry.word.to_le_bytes());
            }
            Some(text) => {
                body.push(1);
                put_text(&mut body, text);
            }
        }
    }
    put_varint(&mut body, 0);
    for (tag, until) in sealed_until.iter().enumerate().filter(|(_, until)| **until != i64::MIN) {
        put_varint(&mut body, tag as u64 + 1);
        put_zigzag(&mut body, *until);
    }
    put_varint(&mut body, 0);
    let mut bytes = vec![0; HEADER_BYTES];
    let [magic, version, _, length, _] = HEADER;
    magic.put_bytes(&mut bytes, &MAGIC);
    version.put(&mut bytes, VERSION.into());
    length.put(&mut bytes, body.len() as u64);
    bytes.extend_from_slice(&body);
    let crc = crc32(checkpoint, &bytes);
    HEADER_CRC.put(&mut bytes, crc.into());
    let path = path(checkpoint);
    let io = |e| Error::io("write checkpoint", &path, e);
    let file = disk.create(&path, 0).map_err(io)?;
    file.write_at(0, &bytes).and_then(|()| file.sync()).map_err(io)
}

/// Reads checkpoint `number` of a database that knows `tags` tags. It names no others, which bounds what reading it takes.
pub(crate) fn read(disk: &Arc<dyn Disk>, checkpoint: u64, tags: usize) -> Result<Checkpoint> {
    let path = path(checkpoint);
    let mut bytes = read_all(disk.as_ref(), &path).map_err(|error| match error.kind() {
        // As good as damaged: it is computed anew.
        std::io::ErrorKind::NotFound => {
            Error::corrupt("checkpoint", &path, 0, "the file is missing")
        }
        _ => Error::io("read checkpoint", &path, error),
    })?;
    decode(&mut bytes, checkpoint, tags)
        .map_err(|why| Error::corrupt("checkpoint", &path, 0, why.0))
}

fn decode(bytes: &mut [u8], checkpoint: u64, tags: usize) -> Result<Checkpoint, Malformed> {
    let header = bytes.get_mut(..HEADER_BYTES).ok_or(Malformed("too short"))?;
    let crc = HEADER_CRC.get_u32(header);
    HEADER_CRC.put(header, 0);
    let matches = crc32(checkpoint, bytes) == crc;
    if !matches && !planted::is(Bug::CheckpointChecksumIgnored) {
        return Err(Malformed("checksum does not match"));
    }
    let (header, body) = bytes.split_at(HEADER_BYTES);
    let [magic, version, _, length, _] = HEADER;
    if magic.of(header) != MAGIC || version.get(header) != u64::from(VERSION) {
        return Err(Malformed("magic or version does not match"));
    }
    if !is_clean(&HEADER, header) || length.get(header) != body.len() as u64 {
        return Err(Malformed("the header contradicts the file"));
    }
    let mut reader = Reader::new(body);
    let mut stale = BTreeSet::new();
    while let Some(tag) = next_tag(&mut reader, tags)? {
        stale.insert(tag);
    }
    let mut latest = LatestTable::default();
    while let Some(tag) = next_tag(&mut reader, tags)? {
        let time_ns = reader.zigzag()?;
        let quality = number(&mut reader)?;
        let (word, text) = match reader.u8()? {
            0 => (reader.u64()?, None),
            1 => (0, Some(text(&mut reader)?)),
            _ => return Err(Malformed("neither a word nor a text")),
        };
        latest.set(tag, Some(Entry { time_ns, word, quality, text }));
    }
    let mut sealed_until = SealedUntil::new();
    while let Some(tag) = next_tag(&mut reader, tags)? {
        raise(&mut sealed_until, tag, reader.zigzag()?);
    }
    if reader.remaining() > 0 {
        return Err(Malformed("longer than its content"));
    }
    Ok(Checkpoint { latest, stale, sealed_until })
}

/// Notes that samples of `tag` up to `time_ns` are sealed.
pub(crate) fn raise(sealed_until: &mut SealedUntil, tag: TagId, time_ns: i64) {
    if sealed_until.len() <= tag.index() {
        sealed_until.resize(tag.index() + 1, i64::MIN);
    }
    let until = &mut sealed_until[tag.index()];
    *until = (*until).max(time_ns);
}

/// Ids are stored plus one; 0 ends a list.
fn next_tag(reader: &mut Reader<'_>, tags: usize) -> Result<Option<TagId>, Malformed> {
    let stored = reader.varint()?;
    let Some(id) = stored.checked_sub(1) else { return Ok(None) };
    let id = u32::try_from(id).ok().filter(|id| (*id as usize) < tags);
    id.map(|id| Some(TagId(id))).ok_or(Malformed("no such tag"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::fields::tests::{check_page, golden};

    const TAGS: usize = 2_000;

    fn example() -> Checkpoint {
        let mut latest = LatestTable::default();
        let entry = |time_ns, word, quality, text: Option<&str>| {
            Some(Entry { time_ns, word, quality, text: text.map(Arc::from) })
        };
        latest.set(TagId(0), entry(1_767_225_600_000_000_000, 1.5_f64.to_bits(), 0, None));
        latest.set(TagId(7), entry(5, u64::MAX, 0x8031_0000, None));
        latest.set(TagId(1_999), entry(6, 0, 0x4000_0000, Some("Füllen")));
        let mut sealed_until = SealedUntil::new();
        raise(&mut sealed_until, TagId(0), 1_767_225_600_000_000_000);
        raise(&mut sealed_until, TagId(9), 0);
        Checkpoint { latest, stale: BTreeSet::from([TagId(3), TagId(1_024)]), sealed_until }
    }

    fn written(number: u64) -> Vec<u8> {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let Checkpoint { latest, stale, sealed_until } = example();
        write(&shared, number, &latest, &stale, &sealed_until).unwrap();
        disk.bytes(&path(number)).unwrap()
    }

    fn read_bytes(bytes: &[u8], number: u64, tags: usize) -> Result<Checkpoint> {
        let disk = SimDisk::new(1);
        disk.replace(&path(number), bytes);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        read(&disk, number, tags)
    }

    fn assert_example(checkpoint: &Checkpoint) {
        let expected = example();
        assert!(checkpoint.latest.iter().eq(expected.latest.iter()));
        assert_eq!(checkpoint.stale, expected.stale);
        assert_eq!(checkpoint.sealed_until, expected.sealed_until);
    }

    #[test]
    fn the_format_page_agrees() {
        check_page("manifest", "Checkpoint", &[&HEADER[..], &[HEADER_CRC]].concat());
    }

    #[test]
    fn the_golden_checkpoint_is_written_and_read_the_same() {
        let golden = golden("checkpoint/v1.ckpt", &written(3));
        assert_example(&read_bytes(&golden, 3, TAGS).unwrap());
    }

    #[test]
    fn no_byte_may_change_and_none_may_be_missing() {
        let bytes = written(3);
        let is_corrupt = |read: Result<Checkpoint>| matches!(read, Err(Error::Corrupt { .. }));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(is_corrupt(read_bytes(&changed, 3, TAGS)), "byte {at}");
            assert!(is_corrupt(read_bytes(&bytes[..at], 3, TAGS)), "cut at {at}");
        }
        assert!(is_corrupt(read_bytes(&bytes, 4, TAGS)), "another's number");
    }

    #[test]
    fn tags_that_nobody_knows_are_refused() {
        let bytes = written(3);
        assert!(read_bytes(&bytes, 3, TAGS - 1).is_err(), "it could ask for any memory");
        assert_example(&read_bytes(&bytes, 3, TAGS).unwrap());
    }
}

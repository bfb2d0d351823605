//! The checkpoint a seal names: each tag's latest sample and newest sealed time. Bytes: `docs/format/manifest.md`.
//!
//! It saves an open from reading every segment's directory. It is written whole, never changed, and replaced by the next.

use std::sync::Arc;

use crate::bytes::{Malformed, Reader, put_varint, put_zigzag};
use crate::checksum::crc32;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::head::latest::{Entry, LatestTable};
use crate::limits;
use crate::registry::change::{number, put_text, text};
use crate::tag::TagId;

const MAGIC: [u8; 8] = *b"TMLAT\r\n\x1a";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 32;

/// Newest sealed time of each tag by its id; `i64::MIN` where nothing is sealed.
pub(crate) type SealedUntil = Vec<i64>;

/// What a checkpoint says.
#[derive(Debug, Default)]
pub(crate) struct Checkpoint {
    pub(crate) latest: LatestTable,
    /// Tags whose latest sample was not known when it was written.
    pub(crate) stale: Vec<TagId>,
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
    stale: &[TagId],
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
    let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&body);
    let crc = crc32(checkpoint, &bytes);
    bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    let path = path(checkpoint);
    let io = |e| Error::io("write checkpoint", &path, e);
    let file = disk.create(&path, 0).map_err(io)?;
    file.write_at(0, &bytes).and_then(|()| file.sync()).map_err(io)
}

/// Reads checkpoint `number`.
pub(crate) fn read(disk: &Arc<dyn Disk>, checkpoint: u64) -> Result<Checkpoint> {
    let path = path(checkpoint);
    let io = |e| Error::io("read checkpoint", &path, e);
    let file = disk.open(&path).map_err(|error| match error.kind() {
        // As good as damaged: it is computed anew.
        std::io::ErrorKind::NotFound => {
            Error::corrupt("checkpoint", &path, 0, "the file is missing")
        }
        _ => io(error),
    })?;
    let length = usize::try_from(file.len().map_err(io)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; length];
    file.read_at(0, &mut bytes).map_err(io)?;
    decode(&mut bytes, checkpoint).map_err(|why| Error::corrupt("checkpoint", &path, 0, why.0))
}

fn decode(bytes: &mut [u8], checkpoint: u64) -> Result<Checkpoint, Malformed> {
    let crc_field = bytes.get_mut(HEADER_BYTES - 4..HEADER_BYTES).ok_or(Malformed("too short"))?;
    let mut crc = [0; 4];
    crc.copy_from_slice(crc_field);
    crc_field.fill(0);
    if crc32(checkpoint, bytes) != u32::from_le_bytes(crc) {
        return Err(Malformed("checksum does not match"));
    }
    let mut reader = Reader::new(bytes);
    if reader.array::<8>()? != MAGIC || reader.u16()? != VERSION {
        return Err(Malformed("magic or version does not match"));
    }
    reader.take(HEADER_BYTES - 10)?;
    let mut stale = Vec::new();
    while let Some(tag) = next_tag(&mut reader)? {
        stale.push(tag);
    }
    let mut latest = LatestTable::default();
    while let Some(tag) = next_tag(&mut reader)? {
        let time_ns = reader.zigzag()?;
        let quality = number(&mut reader)?;
        let (word, text) = match reader.u8()? {
            0 => (reader.u64()?, None),
            _ => (0, Some(text(&mut reader)?)),
        };
        latest.set(tag, Some(Entry { time_ns, word, quality, text }));
    }
    let mut sealed_until = SealedUntil::new();
    while let Some(tag) = next_tag(&mut reader)? {
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
fn next_tag(reader: &mut Reader<'_>) -> Result<Option<TagId>, Malformed> {
    let stored = reader.varint()?;
    let Some(id) = stored.checked_sub(1) else { return Ok(None) };
    let id = u32::try_from(id).ok().filter(|id| (*id as usize) < limits::TAGS_MAX);
    id.map(|id| Some(TagId(id))).ok_or(Malformed("tag id out of range"))
}

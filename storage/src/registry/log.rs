//! `registry.log`: every registry change whose record may be trimmed from the WAL. Bytes: `docs/format/registry.md`.
//!
//! # Contract
//! * The manifest names how many bytes of the file are valid; what lies beyond is the rest of a crashed append and is
//!   overwritten by the next one.
//! * An append is durable when it returns; only then may the manifest name the new length.

use std::sync::Arc;

use super::Change;
use crate::bytes::Reader;
use crate::checksum::crc32;
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::fields::{Field, field, fill, is_clean};
use crate::planted::{self, Bug};

/// The file, relative to the database directory.
pub(crate) const PATH: &str = "registry.log";
const MAGIC: [u8; 8] = *b"TMREG\r\n\x1a";
const VERSION: u16 = 1;
const HEADER_LENGTH: usize = 64;
pub(crate) const HEADER_BYTES: u64 = HEADER_LENGTH as u64;
const FRAME_HEADER_BYTES: usize = 16;

/// The file header, row for row as in the format page.
const HEADER: [Field; 5] = [
    field("magic", 0, 8),
    field("version", 8, 2),
    field("reserved", 10, 6),
    field("identity", 16, 8),
    field("reserved", 24, 36),
];
const HEADER_CRC: Field = field("crc32", 60, 4);
/// The header of a frame, row for row as in the format page.
const FRAME: [Field; 4] =
    [field("crc32", 0, 4), field("bytes", 4, 4), field("changes", 8, 4), field("reserved", 12, 4)];

const _: () = assert!(fill(&HEADER, HEADER_CRC.offset), "registry header has a gap");
const _: () = assert!(HEADER_CRC.offset + HEADER_CRC.size == HEADER_LENGTH);
const _: () = assert!(fill(&FRAME, FRAME_HEADER_BYTES), "frame header has a gap");

/// Changes of one frame; more are split.
const FRAME_CHANGES: usize = 4_096;

/// The registry file of an open database.
#[derive(Debug)]
pub(crate) struct RegistryLog {
    disk: Arc<dyn Disk>,
    identity: u64,
}

impl RegistryLog {
    /// Makes the file, holding nothing. Its name is durable when the folder is synced next.
    pub(crate) fn create(disk: &Arc<dyn Disk>, identity: u64) -> Result<Self> {
        let io = |e| Error::io("create registry", PATH, e);
        let names = disk.list("").map_err(io)?;
        if names.iter().any(|(name, _)| name == PATH) {
            disk.remove(PATH).map_err(io)?; // of a creation that crashed before its manifest
        }
        let file = disk.create(PATH, 0).map_err(io)?;
        let mut header = [0; HEADER_LENGTH];
        let [magic, version, _, its_identity, _] = HEADER;
        magic.put_bytes(&mut header, &MAGIC);
        version.put(&mut header, VERSION.into());
        its_identity.put(&mut header, identity);
        let crc = crc32(0, &header[..HEADER_CRC.offset]);
        HEADER_CRC.put(&mut header, crc.into());
        file.write_at(0, &header).and_then(|()| file.sync()).map_err(io)?;
        Ok(Self { disk: Arc::clone(disk), identity })
    }

    /// Reads the first `valid` bytes and hands over every change, oldest first.
    pub(crate) fn load(
        disk: &Arc<dyn Disk>,
        valid: u64,
        mut take: impl FnMut(Change),
    ) -> Result<Self> {
        let io = |e| Error::io("read registry", PATH, e);
        let file = disk.open(PATH).map_err(io)?;
        let is_ignored = planted::is(Bug::RegistryLengthIgnored);
        let valid = if is_ignored { file.len().map_err(io)? } else { valid };
        if file.len().map_err(io)? < valid || valid < HEADER_BYTES {
            let why = format!("the manifest names {valid} bytes, the file is shorter");
            return Err(Error::corrupt("registry", PATH, 0, why));
        }
        let mut bytes = vec![0; usize::try_from(valid).unwrap_or(usize::MAX)];
        file.read_at(0, &mut bytes).map_err(io)?;
        let bad = |at: usize, why: &str| Error::corrupt("registry", PATH, at as u64, why);
        let (header, _) = bytes.split_at(HEADER_LENGTH);
        let [magic, version, _, identity, _] = HEADER;
        if magic.of(header) != MAGIC {
            return Err(bad(0, "magic does not match"));
        }
        if HEADER_CRC.get_u32(header) != crc32(0, &header[..HEADER_CRC.offset]) {
            return Err(bad(0, "checksum of the header does not match"));
        }
        let version = u16::try_from(version.get(header)).unwrap_or(u16::MAX);
        if version > VERSION {
            return Err(Error::TooNew { path: PATH.into(), found: version, supported: VERSION });
        }
        if !is_clean(&HEADER, header) {
            return Err(bad(0, "reserved bytes are not zero"));
        }
        let identity = identity.get(header);
        let mut reader = Reader::new(&bytes);
        reader.take(header.len()).map_err(|why| bad(0, why.0))?;
        while reader.remaining() > 0 {
            let at = reader.offset();
            let (payload, count) =
                frame(&mut reader, &bytes, identity).ok_or_else(|| bad(at, "does not verify"))?;
            let mut changes = Reader::new(payload);
            for _ in 0..count {
                take(Change::decode(&mut changes).map_err(|why| bad(at, why.0))?);
            }
            changes.finish().map_err(|why| bad(at, why.0))?;
        }
        Ok(Self { disk: Arc::clone(disk), identity })
    }

    /// Appends changes after the `valid` bytes and makes them durable. Gives the new number of valid bytes.
    pub(crate) fn append(&self, valid: u64, changes: &[Change]) -> Result<u64> {
        if changes.is_empty() {
            return Ok(valid);
        }
        let mut bytes = Vec::new();
        for group in changes.chunks(FRAME_CHANGES) {
            let start = bytes.len();
            let at = valid + start as u64;
            let mut payload = Vec::new();
            for change in group {
                change.encode(&mut payload);
            }
            let narrow = |n: usize| u32::try_from(n).map_err(|_| too_large());
            let [crc32_of_frame, length, changes, _] = FRAME;
            let mut header = [0; FRAME_HEADER_BYTES];
            length.put(&mut header, narrow(payload.len())?.into());
            changes.put(&mut header, narrow(group.len())?.into());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(&payload);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            let crc = crc32(self.identity ^ at, &bytes[start + crc32_of_frame.size..]);
            crc32_of_frame.put(&mut bytes[start..], crc.into());
        }
        let io = |e| Error::io("append to registry", PATH, e);
        let file = self.disk.open_writable(PATH).map_err(io)?;
        let sync = || if planted::is(Bug::RegistryNotSynced) { Ok(()) } else { file.sync() };
        file.write_at(valid, &bytes).and_then(|()| sync()).map_err(io)?;
        Ok(valid + bytes.len() as u64)
    }
}

/// The next frame's payload and number of changes. The checksum covers header, payload and padding, and is seeded with
/// the frame's place.
fn frame<'a>(reader: &mut Reader<'a>, all: &[u8], identity: u64) -> Option<(&'a [u8], u32)> {
    let start = reader.offset();
    let header = reader.take(FRAME_HEADER_BYTES).ok()?;
    let [crc, length, count, _] = FRAME;
    let (crc, count) = (crc.get_u32(header), count.get_u32(header));
    let payload = reader.take(length.get_u32(header) as usize).ok()?;
    let end = reader.offset();
    reader.take(end.next_multiple_of(8) - end).ok()?;
    let covered = all.get(start + FRAME[0].size..end.next_multiple_of(8))?;
    let matches = crc32(identity ^ start as u64, covered) == crc && is_clean(&FRAME, header);
    (matches || planted::is(Bug::RegistryChecksumIgnored)).then_some((payload, count))
}

fn too_large() -> Error {
    Error::Invalid("a registry change is larger than 4 GiB".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::fields::tests::{check_page, golden};
    use crate::registry::change::tests::examples;

    fn read(bytes: &[u8], valid: u64) -> Result<Vec<Change>> {
        let disk = SimDisk::new(1);
        disk.replace(PATH, bytes);
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let mut changes = Vec::new();
        RegistryLog::load(&disk, valid, |change| changes.push(change))?;
        Ok(changes)
    }

    /// A registry of two appends.
    fn written() -> (Vec<u8>, u64) {
        let disk = SimDisk::new(1);
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let log = RegistryLog::create(&shared, 0x0123_4567_89AB_CDEF).unwrap();
        let changes = examples();
        let (first, second) = changes.split_at(5);
        let valid = log.append(HEADER_BYTES, first).unwrap();
        let valid = log.append(valid, second).unwrap();
        (disk.bytes(PATH).unwrap(), valid)
    }

    #[test]
    fn the_format_page_agrees() {
        check_page("registry", "File header", &[&HEADER[..], &[HEADER_CRC]].concat());
        check_page("registry", "Frame", &FRAME);
    }

    #[test]
    fn the_golden_registry_is_written_and_read_the_same() {
        let (bytes, valid) = written();
        assert_eq!(bytes.len() as u64, valid);
        let golden = golden("registry/v1.log", &bytes);
        assert_eq!(read(&golden, valid).unwrap(), examples());
    }

    #[test]
    fn no_byte_may_change_and_none_may_be_missing() {
        let (bytes, valid) = written();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert!(matches!(read(&changed, valid), Err(Error::Corrupt { .. })), "byte {at}");
            let cut = read(&bytes[..at], valid);
            assert!(matches!(cut, Err(Error::Corrupt { .. })), "cut at {at}");
        }
        // What lies beyond the valid part is what a crashed append left.
        let longer = [&bytes[..], &[7; 30]].concat();
        assert_eq!(read(&longer, valid).unwrap(), examples());
        // Nothing is asked of memory that the file does not hold.
        assert!(matches!(read(&bytes, crate::limits::NUMBER_MAX), Err(Error::Corrupt { .. })));
    }
}

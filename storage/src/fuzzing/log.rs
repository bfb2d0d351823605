//! Records and files of the write-ahead log.

use std::sync::Arc;

use super::{put, u32_at, u64_at};
use crate::bytes::Malformed;
use crate::checksum::crc32;
use crate::disk::Disk;
use crate::error::Result;
use crate::ids::Seq;
use crate::wal::file::{FRAME_HEADER_BYTES, FileHeader, HEADER_BYTES, Kind};
use crate::wal::record::{Content, Payload};
use crate::wal::replay::Listing;
use crate::wal::writer::WalWriter;

/// What one record says.
#[derive(Debug)]
pub struct Record(Content);

impl Record {
    /// Reads a payload of `raw_bytes` before compression.
    pub fn decode(seq: u64, stored: &[u8], raw_bytes: usize) -> Result<Self, Malformed> {
        Content::decode(Seq(seq), stored, raw_bytes).map(Self)
    }

    /// The payload, and its length before compression.
    pub fn encode(&self) -> (Vec<u8>, usize) {
        let Payload { bytes, raw_bytes, .. } = self.0.encode();
        (bytes, raw_bytes)
    }

    /// Samples in it.
    pub fn rows(&self) -> usize {
        self.0.run.as_ref().map_or(0, |run| run.times.len())
    }
}

/// Renews the checksums of a log file and gives the path that its header claims. With `fit` the file also claims to be as
/// long as it is.
pub fn seal_log(bytes: &mut [u8], fit: bool) -> Option<String> {
    let (identity, first_seq) = (u64_at(bytes, 16)?, u64_at(bytes, 24)?);
    let length = bytes.len() as u64;
    if fit {
        put(bytes, 48, &length.to_le_bytes());
    }
    let crc = crc32(identity, bytes.get(..HEADER_BYTES - 4)?);
    put(bytes, HEADER_BYTES - 4, &crc.to_le_bytes());
    let mut at = HEADER_BYTES;
    while let Some(next) = seal_frame(bytes, at, identity) {
        at = next;
    }
    let (synced_seq, incarnation) = (Seq(0), 0);
    let first_seq = Seq(first_seq);
    Some(FileHeader { identity, first_seq, synced_seq, incarnation, length }.path())
}

/// Renews the checksums of the frame at `at`, if one can be there, and gives the place of the next.
fn seal_frame(bytes: &mut [u8], at: usize, identity: u64) -> Option<usize> {
    let kinds = [Kind::Record, Kind::Close, Kind::Continue].map(|kind| kind as u8);
    if !kinds.contains(bytes.get(at.checked_add(32)?)?) {
        return None;
    }
    let payload_start = at.checked_add(FRAME_HEADER_BYTES)?;
    let end = payload_start.checked_add(u32_at(bytes, at + 4)? as usize)?;
    let payload_crc = crc32(0, bytes.get(payload_start..end)?);
    put(bytes, at + 24, &payload_crc.to_le_bytes());
    let crc = crc32(identity, bytes.get(at + 4..payload_start)?);
    put(bytes, at, &crc.to_le_bytes());
    end.checked_next_multiple_of(8)
}

/// Replays the log of `disk` above `floor`: the seqs and what each record says.
pub fn replay_log(disk: &Arc<dyn Disk>, floor: u64) -> Result<Vec<(u64, Record)>> {
    let mut records = Vec::new();
    Listing::read(disk)?.replay(disk, Seq(floor), |file| {
        for (offset, frame, payload) in file.frames() {
            records.push((frame.seq.0, Record(file.content(offset, &frame, payload)?)));
        }
        Ok(())
    })?;
    Ok(records)
}

/// Writes and closes a log that begins with record `first`, in files of at least `file_bytes`.
pub fn write_log(
    disk: &Arc<dyn Disk>,
    file_bytes: u64,
    first: u64,
    records: &[(u64, Record)],
) -> Result<()> {
    let before = Seq(first.saturating_sub(1));
    let mut writer = WalWriter::new(Arc::clone(disk), 1, file_bytes, before, Vec::new());
    for (_, record) in records {
        writer.write(std::iter::once(&record.0.encode()))?;
        writer.sync()?;
    }
    writer.close()
}

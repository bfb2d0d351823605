//! Log files and the frames in them: `docs/format/wal.md`.
//!
//! A frame is a 40-byte header, the stored payload, and zeros up to a multiple of 8. Its header checksum is seeded with the
//! file's identity, which also stands in the file's name: bytes of another file never pass, nor do zeros.

use crate::checksum::crc32;
use crate::ids::Seq;

pub(crate) const DIR: &str = "wal";
pub(crate) const MAGIC: [u8; 8] = *b"TMWAL\r\n\x1a";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;

/// What a log file says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) identity: u64,
    /// Seq of the first record the file may hold.
    pub(crate) first_seq: Seq,
    /// Greatest seq that was durable when the file was made.
    pub(crate) synced_seq: Seq,
    /// The database's incarnation.
    pub(crate) incarnation: u64,
    /// Bytes the file was made with. It is never shorter: a shorter one was cut.
    pub(crate) length: u64,
}

/// Why a header was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadHeader {
    /// Valid, but of this newer version.
    TooNew(u16),
    Corrupt(&'static str),
}

impl FileHeader {
    /// Name of the file below the database directory.
    pub(crate) fn path(&self) -> String {
        format!("{DIR}/{:016x}-{:016x}.wal", self.first_seq.0, self.identity)
    }

    /// First seq and identity from a file name without its folder.
    pub(crate) fn parse_name(name: &str) -> Option<(Seq, u64)> {
        let (first, identity) = name.strip_suffix(".wal")?.split_once('-')?;
        if first.len() != 16 || identity.len() != 16 {
            return None;
        }
        let number = |text| u64::from_str_radix(text, 16).ok();
        Some((Seq(number(first)?), number(identity)?))
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&VERSION.to_le_bytes());
        out[16..24].copy_from_slice(&self.identity.to_le_bytes());
        out[24..32].copy_from_slice(&self.first_seq.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.synced_seq.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.incarnation.to_le_bytes());
        out[48..56].copy_from_slice(&self.length.to_le_bytes());
        let crc = crc32(self.identity, &out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the header of a file whose name says `identity`.
    pub(crate) fn decode(bytes: &[u8], identity: u64) -> Result<Self, BadHeader> {
        let header = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Corrupt("file is too short"))?;
        if header[0..8] != MAGIC {
            return Err(BadHeader::Corrupt("magic does not match"));
        }
        if u32_at(header, 60) != crc32(identity, &header[..60]) {
            return Err(BadHeader::Corrupt("checksum of the header does not match"));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version > VERSION {
            return Err(BadHeader::TooNew(version));
        }
        if header[10..16].iter().chain(&header[56..60]).any(|byte| *byte != 0) {
            return Err(BadHeader::Corrupt("reserved bytes are not zero"));
        }
        Ok(Self {
            identity: u64_at(header, 16),
            first_seq: Seq(u64_at(header, 24)),
            synced_seq: Seq(u64_at(header, 32)),
            incarnation: u64_at(header, 40),
            length: u64_at(header, 48),
        })
    }
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One record.
    Record = 1,
    /// The log was closed after the record of the same seq. Nothing follows.
    Close = 2,
    /// The record after the one of the same seq begins the next file, which exists and is durable. Nothing follows.
    Continue = 3,
}

/// Header of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) seq: Seq,
    /// Greatest seq that was durable when this frame was written.
    pub(crate) synced_seq: Seq,
    pub(crate) stored_bytes: u32,
    pub(crate) raw_bytes: u32,
    pub(crate) payload_crc: u32,
}

impl Frame {
    /// Bytes of the whole frame in the file.
    pub(crate) const fn bytes(&self) -> usize {
        frame_bytes(self.stored_bytes as usize)
    }

    /// Appends header, payload and padding.
    pub(crate) fn put(&self, identity: u64, payload: &[u8], out: &mut Vec<u8>) {
        assert_eq!(payload.len(), self.stored_bytes as usize, "frame of another payload");
        let mut header = [0; FRAME_HEADER_BYTES];
        header[4..8].copy_from_slice(&self.stored_bytes.to_le_bytes());
        header[8..16].copy_from_slice(&self.seq.0.to_le_bytes());
        header[16..24].copy_from_slice(&self.synced_seq.0.to_le_bytes());
        header[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        header[28..32].copy_from_slice(&self.raw_bytes.to_le_bytes());
        header[32] = self.kind as u8;
        let crc = crc32(identity, &header[4..]);
        header[0..4].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// The frame that begins `bytes`, and its payload, if every checksum holds.
    pub(crate) fn read(bytes: &[u8], identity: u64) -> Option<(Self, &[u8])> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let kind = match header[32] {
            1 => Kind::Record,
            2 => Kind::Close,
            3 => Kind::Continue,
            _ => return None,
        };
        let is_clean = header[33..40].iter().all(|byte| *byte == 0);
        if !is_clean || u32_at(header, 0) != crc32(identity, &header[4..]) {
            return None;
        }
        let frame = Self {
            kind,
            stored_bytes: u32_at(header, 4),
            seq: Seq(u64_at(header, 8)),
            synced_seq: Seq(u64_at(header, 16)),
            payload_crc: u32_at(header, 24),
            raw_bytes: u32_at(header, 28),
        };
        let end = FRAME_HEADER_BYTES.checked_add(frame.stored_bytes as usize)?;
        let payload = bytes.get(FRAME_HEADER_BYTES..end)?;
        let padding = bytes.get(end..end.next_multiple_of(8))?;
        let holds = crc32(0, payload) == frame.payload_crc && padding.iter().all(|b| *b == 0);
        holds.then_some((frame, payload))
    }
}

/// Bytes of a frame with a payload of this length.
pub(crate) const fn frame_bytes(stored_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + stored_bytes).next_multiple_of(8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(8) && FRAME_HEADER_BYTES.is_multiple_of(8));

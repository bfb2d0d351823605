//! Log files and the frames in them: `docs/format/wal.md`.
//!
//! A frame is a 40-byte header, the stored payload, and zeros up to a multiple of 8. Its header checksum is seeded with the
//! file's identity, which also stands in the file's name: bytes of another file never pass, nor do zeros.

use crate::checksum::crc32;
use crate::fields::{Field, field, fill, is_clean};
use crate::ids::Seq;
use crate::limits::NUMBER_MAX;
use crate::planted::{self, Bug};

pub(crate) const DIR: &str = "wal";
pub(crate) const MAGIC: [u8; 8] = *b"TMWAL\r\n\x1a";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const FRAME_HEADER_BYTES: usize = 40;

/// The file header, row for row as in the format page.
pub(super) const HEADER: [Field; 9] = [
    field("magic", 0, 8),
    field("version", 8, 2),
    field("reserved", 10, 6),
    field("identity", 16, 8),
    field("first_seq", 24, 8),
    field("synced_seq", 32, 8),
    field("incarnation", 40, 8),
    field("length", 48, 8),
    field("reserved", 56, 4),
];
pub(super) const HEADER_CRC: Field = field("crc32", 60, 4);

/// The header of a frame, row for row as in the format page.
pub(super) const FRAME_CRC: Field = field("crc32", 0, 4);
pub(super) const FRAME: [Field; 7] = [
    field("stored_bytes", 4, 4),
    field("seq", 8, 8),
    field("synced_seq", 16, 8),
    field("payload_crc32", 24, 4),
    field("raw_bytes", 28, 4),
    field("kind", 32, 1),
    field("reserved", 33, 7),
];

const _: () = assert!(fill(&HEADER, HEADER_CRC.offset), "file header has a gap");
const _: () = assert!(HEADER_CRC.offset + HEADER_CRC.size == HEADER_BYTES);
const _: () = assert!(FRAME[0].offset == FRAME_CRC.offset + FRAME_CRC.size);
const _: () = assert!(FRAME[6].offset + FRAME[6].size == FRAME_HEADER_BYTES);

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
        let first = number(first).filter(|first| (1..=NUMBER_MAX).contains(first))?;
        Some((Seq(first), number(identity)?))
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let [magic, version, _, identity, first_seq, synced_seq, incarnation, length, _] = HEADER;
        magic.put_bytes(&mut out, &MAGIC);
        version.put(&mut out, VERSION.into());
        identity.put(&mut out, self.identity);
        first_seq.put(&mut out, self.first_seq.0);
        synced_seq.put(&mut out, self.synced_seq.0);
        incarnation.put(&mut out, self.incarnation);
        length.put(&mut out, self.length);
        let crc = crc32(self.identity, &out[..HEADER_CRC.offset]);
        HEADER_CRC.put(&mut out, crc.into());
        out
    }

    /// Reads the header of a file whose name says `identity`.
    pub(crate) fn decode(bytes: &[u8], identity: u64) -> Result<Self, BadHeader> {
        let header = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Corrupt("file is too short"))?;
        let [magic, version, _, said, first_seq, synced_seq, incarnation, length, _] = HEADER;
        if magic.of(header) != MAGIC {
            return Err(BadHeader::Corrupt("magic does not match"));
        }
        if HEADER_CRC.get_u32(header) != crc32(identity, &header[..HEADER_CRC.offset]) {
            return Err(BadHeader::Corrupt("checksum of the header does not match"));
        }
        let version = u16::try_from(version.get(header)).unwrap_or(u16::MAX);
        if version > VERSION {
            return Err(BadHeader::TooNew(version));
        }
        if !is_clean(&HEADER, header) {
            return Err(BadHeader::Corrupt("reserved bytes are not zero"));
        }
        Ok(Self {
            identity: said.get(header),
            first_seq: Seq(first_seq.get(header)),
            synced_seq: Seq(synced_seq.get(header)),
            incarnation: incarnation.get(header),
            length: length.get(header),
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
        let [stored_bytes, seq, synced_seq, payload_crc, raw_bytes, kind, _] = FRAME;
        stored_bytes.put(&mut header, self.stored_bytes.into());
        seq.put(&mut header, self.seq.0);
        synced_seq.put(&mut header, self.synced_seq.0);
        payload_crc.put(&mut header, self.payload_crc.into());
        raw_bytes.put(&mut header, self.raw_bytes.into());
        kind.put(&mut header, self.kind as u64);
        let crc = crc32(identity, &header[FRAME_CRC.size..]);
        FRAME_CRC.put(&mut header, crc.into());
        out.extend_from_slice(&header);
        out.extend_from_slice(payload);
        out.resize(out.len().next_multiple_of(8), 0);
    }

    /// Whether a frame may begin these bytes: a quick look at its kind.
    #[inline]
    pub(crate) fn may_begin(bytes: &[u8]) -> bool {
        let [_, _, _, _, _, kind, _] = FRAME;
        bytes.get(kind.offset).is_some_and(|byte| (1..=3).contains(byte))
    }

    /// The frame that begins `bytes`, and its payload, if every checksum holds.
    pub(crate) fn read(bytes: &[u8], identity: u64) -> Option<(Self, &[u8])> {
        let header = bytes.get(..FRAME_HEADER_BYTES)?;
        let [stored_bytes, seq, synced_seq, payload_crc, raw_bytes, kind, _] = FRAME;
        let kind = match kind.get(header) {
            1 => Kind::Record,
            2 => Kind::Close,
            3 => Kind::Continue,
            _ => return None,
        };
        let crc = crc32(identity, &header[FRAME_CRC.size..]);
        if !is_clean(&FRAME, header) || FRAME_CRC.get_u32(header) != crc {
            return None;
        }
        let frame = Self {
            kind,
            stored_bytes: stored_bytes.get_u32(header),
            seq: Seq(seq.get(header)),
            synced_seq: Seq(synced_seq.get(header)),
            payload_crc: payload_crc.get_u32(header),
            raw_bytes: raw_bytes.get_u32(header),
        };
        let end = FRAME_HEADER_BYTES.checked_add(frame.stored_bytes as usize)?;
        let payload = bytes.get(FRAME_HEADER_BYTES..end)?;
        let padding = bytes.get(end..end.next_multiple_of(8))?;
        let holds = (crc32(0, payload) == frame.payload_crc
            || planted::is(Bug::LogChecksumIgnored))
            && padding.iter().all(|b| *b == 0);
        holds.then_some((frame, payload))
    }
}

/// Bytes of a frame with a payload of this length.
pub(crate) const fn frame_bytes(stored_bytes: usize) -> usize {
    (FRAME_HEADER_BYTES + stored_bytes).next_multiple_of(8)
}

const _: () = assert!(HEADER_BYTES.is_multiple_of(8) && FRAME_HEADER_BYTES.is_multiple_of(8));

//! Header and footer of a segment file, and the columns of its directory.
//!
//! Both blocks follow from [`SegmentMeta`], so reading them means comparing them with what the manifest expects, field
//! by field. The tables here and in `docs/format/segment.md` are compared by a test.

use crate::bytes::{put_i64, put_u16, put_u32, put_u64};
use crate::checksum::crc32;
pub(crate) use crate::fields::Field;
use crate::fields::{field, fill};
use crate::ids::Seq;
use crate::segment::{SegmentKind, SegmentMeta};

/// First bytes of a segment file. CR LF and EOF catch transfers that treat the file as text.
pub(crate) const MAGIC: [u8; 8] = *b"TMSEG\r\n\x1A";
/// First bytes of the footer.
pub(crate) const FOOTER_MAGIC: [u8; 8] = *b"TMSEGEND";
/// Newest version of the format this build writes and reads.
pub(crate) const VERSION: u16 = 2;

/// Length of the header. Together with the place of version and checksum it stays the same in all versions.
pub(crate) const HEADER_BYTES: usize = 64;
/// Length of the footer.
pub(crate) const FOOTER_BYTES: usize = 64;
/// The directory begins at a multiple of this, after zero bytes.
pub(crate) const DIRECTORY_ALIGN: u64 = 8;

/// The header, row for row as in the format page.
pub(crate) const HEADER: [Field; 12] = [
    field("magic", 0, 8),
    field("version", 8, 2),
    field("flags", 10, 2),
    field("kind", 12, 1),
    field("tier", 13, 1),
    field("reserved", 14, 2),
    field("identity", 16, 8),
    field("id", 24, 8),
    field("min_seq", 32, 8),
    field("max_seq", 40, 8),
    field("first_ns", 48, 8),
    field("reserved", 56, 4),
];
const HEADER_CRC: Field = field("crc32", 60, 4);

/// The footer, row for row as in the format page.
pub(crate) const FOOTER: [Field; 10] = [
    field("magic", 0, 8),
    field("directory_offset", 8, 8),
    field("directory_bytes", 16, 8),
    field("rows", 24, 8),
    field("last_ns", 32, 8),
    field("chunks", 40, 4),
    field("tags", 44, 4),
    field("directory_crc", 48, 4),
    field("tier_blocks", 52, 4),
    field("reserved", 56, 4),
];
const FOOTER_CRC: Field = field("crc32", 60, 4);

/// Columns of the directory, widest first so that each stays aligned.
pub(crate) mod column {
    use super::{Field, field};

    pub(crate) const FIRST_NS: Field = field("first_ns", 0, 8);
    pub(crate) const LAST_NS: Field = field("last_ns", 8, 8);
    pub(crate) const TIMES_OFFSET: Field = field("times_offset", 16, 8);
    pub(crate) const BODY_OFFSET: Field = field("body_offset", 24, 8);
    pub(crate) const MIN: Field = field("min", 32, 8);
    pub(crate) const MAX: Field = field("max", 40, 8);
    pub(crate) const SUM: Field = field("sum", 48, 8);
    pub(crate) const FIRST: Field = field("first", 56, 8);
    pub(crate) const LAST: Field = field("last", 64, 8);
    pub(crate) const FIRST_TAG: Field = field("first_tag", 72, 4);
    pub(crate) const LAST_TAG: Field = field("last_tag", 76, 4);
    pub(crate) const ROWS: Field = field("rows", 80, 4);
    pub(crate) const TIMES_BYTES: Field = field("times_bytes", 84, 4);
    pub(crate) const TIMES_CRC: Field = field("times_crc", 88, 4);
    pub(crate) const BODY_BYTES: Field = field("body_bytes", 92, 4);
    pub(crate) const BODY_CRC: Field = field("body_crc", 96, 4);
    pub(crate) const VALUES_BYTES: Field = field("values_bytes", 100, 4);
    pub(crate) const GOOD: Field = field("good", 104, 4);
    pub(crate) const UNCERTAIN: Field = field("uncertain", 108, 4);
    pub(crate) const BAD: Field = field("bad", 112, 4);
    pub(crate) const NON_FINITE: Field = field("non_finite", 116, 4);
    pub(crate) const VALUE_TYPE: Field = field("value_type", 120, 1);
    pub(crate) const FLAGS: Field = field("flags", 121, 1);
}

/// The directory's columns in file order.
pub(crate) const DIRECTORY: [Field; 23] = [
    column::FIRST_NS,
    column::LAST_NS,
    column::TIMES_OFFSET,
    column::BODY_OFFSET,
    column::MIN,
    column::MAX,
    column::SUM,
    column::FIRST,
    column::LAST,
    column::FIRST_TAG,
    column::LAST_TAG,
    column::ROWS,
    column::TIMES_BYTES,
    column::TIMES_CRC,
    column::BODY_BYTES,
    column::BODY_CRC,
    column::VALUES_BYTES,
    column::GOOD,
    column::UNCERTAIN,
    column::BAD,
    column::NON_FINITE,
    column::VALUE_TYPE,
    column::FLAGS,
];
/// Bytes of one directory entry, over all columns.
pub(crate) const ENTRY_BYTES: usize = 122;
/// Chunks of one segment: its directory stays below 4 GiB.
pub(crate) const CHUNKS_MAX: usize = u32::MAX as usize / ENTRY_BYTES;

/// An entry of a block of rollups, which follow the chunks' entries row by row.
pub(crate) const TIER_ENTRY: [Field; 10] = [
    field("first_ns", 0, 8),
    field("last_ns", 8, 8),
    field("offset", 16, 8),
    field("first_tag", 24, 4),
    field("last_tag", 28, 4),
    field("runs", 32, 4),
    field("rows", 36, 4),
    field("bytes", 40, 4),
    field("tier", 44, 1),
    field("value_type", 45, 1),
];
/// The last field of such an entry.
pub(crate) const TIER_CRC: Field = field("crc", 46, 4);
/// Bytes of such an entry.
pub(crate) const TIER_ENTRY_BYTES: usize = 50;
/// Blocks of one segment.
pub(crate) const TIER_BLOCKS_MAX: usize = 1 << 24;

/// Kind and seqs in the header of a segment that was written before its place in the order was known: that of a bulk
/// load. The manifest has the place, and the identity ties the file to it.
pub(crate) const UNPLACED: (SegmentKind, Seq) = (SegmentKind::Late, Seq(0));

const _: () = assert!(fill(&HEADER, HEADER_CRC.offset), "header has a gap");
const _: () = assert!(HEADER_CRC.offset + HEADER_CRC.size == HEADER_BYTES);
const _: () = assert!(fill(&FOOTER, FOOTER_CRC.offset), "footer has a gap");
const _: () = assert!(FOOTER_CRC.offset + FOOTER_CRC.size == FOOTER_BYTES);
const _: () = assert!(fill(&DIRECTORY, ENTRY_BYTES), "directory has a gap");
const _: () = assert!(fill(&TIER_ENTRY, TIER_CRC.offset), "tier entry has a gap");
const _: () = assert!(TIER_CRC.offset + TIER_CRC.size == TIER_ENTRY_BYTES);

/// Why a header or footer is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Damaged, or of another file.
    Corrupt {
        /// From the start of the block.
        offset: usize,
        /// What is wrong.
        why: String,
    },
    /// Valid, but of this newer version.
    TooNew(u16),
}

impl Refusal {
    fn at(field: Field, why: impl Into<String>) -> Self {
        Self::Corrupt { offset: field.offset, why: why.into() }
    }
}

/// The header of this segment's file.
pub(crate) fn encode_header(meta: &SegmentMeta) -> [u8; HEADER_BYTES] {
    let mut out = MAGIC.to_vec();
    put_u16(&mut out, VERSION);
    put_u16(&mut out, 0);
    out.extend_from_slice(&[meta.kind.code(), meta.tier, 0, 0]);
    put_u64(&mut out, meta.identity);
    put_u64(&mut out, meta.id.0);
    put_u64(&mut out, meta.min_seq.0);
    put_u64(&mut out, meta.max_seq.0);
    put_i64(&mut out, meta.first_ns);
    put_u32(&mut out, 0);
    seal(meta.identity, &mut out)
}

/// The footer of this segment's file.
pub(crate) fn encode_footer(meta: &SegmentMeta) -> [u8; FOOTER_BYTES] {
    let mut out = FOOTER_MAGIC.to_vec();
    put_u64(&mut out, meta.directory_offset);
    put_u64(&mut out, meta.directory_bytes());
    put_u64(&mut out, meta.rows);
    put_i64(&mut out, meta.last_ns);
    put_u32(&mut out, meta.chunks);
    put_u32(&mut out, meta.tags);
    put_u32(&mut out, meta.directory_crc);
    put_u32(&mut out, meta.tier_blocks);
    put_u32(&mut out, 0);
    seal(meta.identity, &mut out)
}

/// Ends a block with its checksum.
fn seal<const N: usize>(identity: u64, out: &mut Vec<u8>) -> [u8; N] {
    put_u32(out, crc32(identity, out));
    out.as_slice().try_into().expect("the const asserts above add up")
}

/// Compares a header with the one the manifest expects.
pub(crate) fn check_header(meta: &SegmentMeta, found: &[u8; HEADER_BYTES]) -> Result<(), Refusal> {
    let [magic, version, .., identity, id, _, max_seq, _, _] = HEADER;
    if part(found, magic) != MAGIC {
        return Err(Refusal::at(magic, "this is not a segment file"));
    }
    // The checksum comes first, under the identity found: a valid header of another file is worth saying so.
    check_crc(number(found, identity), found, HEADER_CRC)?;
    if number(found, version) > u64::from(VERSION) {
        return Err(Refusal::TooNew(u16::try_from(number(found, version)).unwrap_or(u16::MAX)));
    }
    if number(found, identity) != meta.identity {
        let why = format!(
            "the file is of segment {} with identity {:016x}, \
             the manifest expects segment {} with identity {:016x}",
            number(found, id),
            number(found, identity),
            meta.id.0,
            meta.identity
        );
        return Err(Refusal::at(identity, why));
    }
    let (kind, seq) = UNPLACED;
    if number(found, max_seq) == seq.0 {
        let unplaced = SegmentMeta { kind, min_seq: seq, max_seq: seq, ..meta.clone() };
        return check_fields(&HEADER, &encode_header(&unplaced), found);
    }
    check_fields(&HEADER, &encode_header(meta), found)
}

/// Compares a footer with the one the manifest expects.
pub(crate) fn check_footer(meta: &SegmentMeta, found: &[u8; FOOTER_BYTES]) -> Result<(), Refusal> {
    if part(found, FOOTER[0]) != FOOTER_MAGIC {
        return Err(Refusal::at(FOOTER[0], "the file does not end with a segment footer"));
    }
    check_crc(meta.identity, found, FOOTER_CRC)?;
    check_fields(&FOOTER, &encode_footer(meta), found)
}

fn check_crc(identity: u64, found: &[u8], crc: Field) -> Result<(), Refusal> {
    if number(found, crc) == u64::from(crc32(identity, &found[..crc.offset])) {
        return Ok(());
    }
    Err(Refusal::at(crc, "its checksum differs"))
}

fn check_fields(fields: &[Field], want: &[u8], found: &[u8]) -> Result<(), Refusal> {
    for &field in fields {
        if part(want, field) != part(found, field) {
            let why = format!("{} differs from what the manifest says", field.name);
            return Err(Refusal::at(field, why));
        }
    }
    Ok(())
}

fn part(block: &[u8], field: Field) -> &[u8] {
    field.of(block)
}

/// An unsigned field of at most 8 bytes.
fn number(block: &[u8], field: Field) -> u64 {
    field.get(block)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::tests::check_page;
    use crate::segment::meta::tests::example;

    #[test]
    fn blocks_check_against_their_own_meta_only() {
        let meta = example();
        assert_eq!(check_header(&meta, &encode_header(&meta)), Ok(()));
        assert_eq!(check_footer(&meta, &encode_footer(&meta)), Ok(()));
        let mut other = example();
        other.identity += 1;
        other.rows += 1;
        assert!(check_header(&meta, &encode_header(&other)).is_err());
        assert!(check_footer(&meta, &encode_footer(&other)).is_err());
        other.identity = meta.identity;
        other.max_seq.0 += 1;
        let Err(Refusal::Corrupt { offset: 40, why }) = check_header(&meta, &encode_header(&other))
        else {
            panic!("another seq range was taken");
        };
        assert!(why.contains("max_seq"), "{why}");
    }

    #[test]
    fn a_file_without_a_place_is_still_of_one_segment_only() {
        let (kind, seq) = UNPLACED;
        let written = SegmentMeta { kind, min_seq: seq, max_seq: seq, ..example() };
        let header = encode_header(&written);
        let placed = SegmentMeta { kind: SegmentKind::Base, ..example() };
        assert_eq!(check_header(&placed, &header), Ok(()));
        let mut other = placed.clone();
        other.first_ns += 1;
        assert!(check_header(&other, &header).is_err(), "another first time");
        other = placed.clone();
        other.id.0 += 1;
        assert!(check_header(&other, &header).is_err(), "another id");
        other = placed.clone();
        other.identity += 1;
        assert!(check_header(&other, &header).is_err(), "another identity");
        let half = encode_header(&SegmentMeta { kind: SegmentKind::Base, ..written });
        assert!(check_header(&placed, &half).is_err(), "a kind without a place");
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let meta = example();
        let mut header = encode_header(&meta);
        header[8] = 3;
        assert!(matches!(check_header(&meta, &header), Err(Refusal::Corrupt { .. })));
        let crc = crc32(meta.identity, &header[..60]);
        header[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(check_header(&meta, &header), Err(Refusal::TooNew(3)));
    }

    #[test]
    fn unknown_flags_and_reserved_bytes_are_refused() {
        let meta = example();
        for position in [10, 14, 56] {
            let mut header = encode_header(&meta);
            header[position] = 1;
            let crc = crc32(meta.identity, &header[..60]);
            header[60..].copy_from_slice(&crc.to_le_bytes());
            assert!(check_header(&meta, &header).is_err(), "byte {position}");
        }
    }

    #[test]
    fn the_format_page_agrees() {
        check_page("segment", "Header", &[&HEADER[..], &[HEADER_CRC]].concat());
        check_page("segment", "Footer", &[&FOOTER[..], &[FOOTER_CRC]].concat());
        check_page("segment", "Directory", &DIRECTORY);
        check_page("segment", "Blocks of rollups", &[&TIER_ENTRY[..], &[TIER_CRC]].concat());
    }
}

//! Segments as a whole: what is written comes back, and nothing else ever does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::bytes::Reader;
use crate::checksum::crc32;
use crate::chunk::{Series, SeriesBuf, Statistics};
use crate::disk::Disk;
use crate::disk::sim::{Call, Failure, Fault, Random, SimDisk};
use crate::encoding::Effort;
use crate::error::{Error, Result};
use crate::segment::layout::{FOOTER_BYTES, encode_footer};
use crate::segment::name::SEGMENTS_DIR;
use crate::segment::tiers::TierRows;
use crate::segment::writer::{SegmentPlan, SegmentWriter};
use crate::tag::{TagId, ValueType};
use crate::tier::Tier;
use crate::tier::build::TierBuilder;
use crate::tier::rows::Rows;
use crate::time::TimeRange;
use crate::{SegmentId, Seq};

mod sharing;

const START_NS: i64 = 1_767_225_600_000_000_000;
const SECOND_NS: i64 = 1_000_000_000;

/// A value of the type, often an awkward one.
fn word(value_type: ValueType, random: &mut Random) -> u64 {
    let specials = [f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, f64::MIN, 5e-324];
    let float = match random.below(10) {
        0 => specials[random.index(7)],
        1 => f64::from_bits(random.bits()),
        _ => f64::from(u32::try_from(random.below(100_000)).unwrap()) / 100.0,
    };
    match value_type {
        ValueType::F64 => float.to_bits(),
        #[expect(clippy::cast_possible_truncation, reason = "any f32 will do")]
        ValueType::F32 => u64::from((float as f32).to_bits()),
        ValueType::I64 => match random.below(10) {
            0 => i64::MIN.cast_unsigned(),
            1 => i64::MAX.cast_unsigned(),
            _ => random.below(1_000),
        },
        ValueType::Bool => random.below(2),
        ValueType::State => random.below(5) * 16_000,
        ValueType::Text => 0,
    }
}

fn series(tag: u32, value_type: ValueType, rows: usize, seed: u64) -> SeriesBuf {
    let mut random = Random::new(seed);
    let mut buf = SeriesBuf::new(TagId(tag), value_type);
    let jitter = [1, 1, 1_000_000, SECOND_NS.unsigned_abs()][usize::try_from(seed % 4).unwrap()];
    let mut time = START_NS + random.below(3_600).cast_signed() * SECOND_NS;
    for _ in 0..rows {
        buf.times.push(time);
        time += SECOND_NS + random.below(jitter).cast_signed();
        if value_type == ValueType::Text {
            buf.texts.push(Arc::from(format!("Zustand {} ü", random.below(9))));
        } else {
            buf.words.push(word(value_type, &mut random));
        }
        let quality = [0, 0, 0, 0, 0x4000_0000, 0x809B_0000, 0xFFFF_FFFF][random.index(7)];
        buf.qualities.push(if seed.is_multiple_of(3) { quality } else { 0 });
    }
    buf
}

fn write(disk: &SimDisk, id: u64, identity: u64, all: &[SeriesBuf]) -> Result<SegmentMeta> {
    let plan = SegmentPlan {
        id: SegmentId(id),
        kind: SegmentKind::Base,
        tier: 0,
        stage: SegmentStage::Sealed,
        identity,
        seqs: (Seq(3), Seq(9)),
        first_ns: START_NS,
        effort: Effort::Light,
    };
    let mut writer = SegmentWriter::create(disk, plan)?;
    for series in all {
        writer.push(series.as_series())?;
    }
    writer.finish()
}

fn empty_disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.create_dir(SEGMENTS_DIR).unwrap();
    disk
}

fn written(all: &[SeriesBuf]) -> (SimDisk, SegmentMeta) {
    let disk = empty_disk();
    let meta = write(&disk, 7, 0xFEED_F00D, all).unwrap();
    (disk, meta)
}

/// The first thing that is wrong with a segment.
fn verify(segment: &Segment) -> Result<()> {
    let mut first = None;
    segment.verify_places(&mut |error, _| first = first.take().or(Some(error)), &mut |_| true);
    first.map_or(Ok(()), Err)
}

fn open(disk: &SimDisk, meta: &SegmentMeta) -> Arc<Segment> {
    Arc::new(Segment::new(Arc::new(disk.clone()), meta.clone()))
}

fn read(
    cursor: &mut SegmentCursor,
    (tag, value_type): (TagId, ValueType),
    range: TimeRange,
    (values, qualities): (bool, bool),
) -> Result<SeriesBuf> {
    let mut out = SeriesBuf::new(tag, value_type);
    let directory = cursor.segment().directory()?;
    for chunk in directory.find(tag, range) {
        if directory.entry(chunk).value_type == value_type {
            cursor.read(chunk, tag, range, values, qualities, &mut out)?;
        }
    }
    Ok(out)
}

fn read_all(segment: &Arc<Segment>, like: &[SeriesBuf]) -> Result<Vec<SeriesBuf>> {
    let mut cursor = segment.cursor();
    let each = like.iter();
    each.map(|s| read(&mut cursor, (s.tag, s.value_type), TimeRange::ALL, (true, true))).collect()
}

/// The samples of `all` within `range`, with the asked columns.
fn filtered(all: &SeriesBuf, range: TimeRange, (values, qualities): (bool, bool)) -> SeriesBuf {
    let from = all.times.partition_point(|t| *t < range.start_ns);
    let to = all.times.partition_point(|t| *t < range.end_ns).max(from);
    let Series { times, words, texts, qualities: codes, .. } = all.as_series().slice(from..to);
    SeriesBuf {
        tag: all.tag,
        value_type: all.value_type,
        times: times.to_vec(),
        words: if values { words.to_vec() } else { vec![] },
        texts: if values { texts.to_vec() } else { vec![] },
        qualities: if qualities { codes.to_vec() } else { vec![] },
    }
}

/// Everything that reading must answer, compared with the samples written.
fn check(segment: &Arc<Segment>, all: &[SeriesBuf], seed: u64) {
    verify(segment).unwrap();
    assert_eq!(read_all(segment, all).unwrap(), all);
    let mut spans = Vec::new();
    segment
        .for_each_tag(&mut |tag, first, last, rows| spans.push((tag, first, last, rows)))
        .unwrap();
    let span = |s: &SeriesBuf| (s.tag, s.times[0], s.times[s.len() - 1], s.len() as u64);
    assert_eq!(spans, all.iter().map(span).collect::<Vec<_>>());
    let mut random = Random::new(seed);
    let mut cursor = segment.cursor();
    for series in all {
        check_statistics(&mut cursor, series);
        for _ in 0..6 {
            let mut pick = || {
                let row = random.index(series.len());
                series.times[row] + random.below(3).cast_signed() - 1
            };
            let range = TimeRange::new(pick(), pick());
            let wanted = (random.below(2) == 0, random.below(2) == 0);
            let got = read(&mut cursor, (series.tag, series.value_type), range, wanted).unwrap();
            assert_eq!(got, filtered(series, range, wanted), "{} in {range}", series.tag);
        }
        let tag = (TagId(series.tag.0 + 1), series.value_type);
        if all.binary_search_by_key(&tag.0, |s| s.tag).is_err() {
            let none = read(&mut cursor, tag, TimeRange::ALL, (true, true)).unwrap();
            assert!(none.times.is_empty(), "{} has samples", tag.0);
        }
    }
}

fn check_statistics(cursor: &mut SegmentCursor, series: &SeriesBuf) {
    let directory = cursor.segment().directory().unwrap();
    let mut from = 0;
    for chunk in directory.find(series.tag, TimeRange::ALL) {
        let entry = directory.entry(chunk);
        let Some((first, last, rows)) = cursor.span(chunk, series.tag).unwrap() else {
            assert!(entry.packed);
            continue;
        };
        let part = series.as_series().slice(from..from + rows);
        assert_eq!((part.times[0], part.times[rows - 1]), (first, last));
        let want = Statistics::of(part.value_type, part.words, part.qualities);
        assert!(entry.packed || entry.statistics == want, "{entry}");
        from += rows;
    }
    assert_eq!(from, series.len());
}

proptest! {
    #[test]
    fn what_was_written_comes_back(
        tags in prop::collection::vec(
            (1_u32..4, 0_usize..6, prop::sample::select(&[1, 2, 30, 255, 256, 257, 1_025, 5_000])),
            1..24,
        ),
        seed: u64,
    ) {
        let mut tag = 0;
        let mut all = Vec::new();
        for (gap, value_type, rows) in tags {
            tag += gap;
            all.push(series(tag, ValueType::ALL[value_type], rows, seed ^ u64::from(tag)));
        }
        let (disk, meta) = written(&all);
        check(&open(&disk, &meta), &all, seed);
    }

    /// A file made to harm: right checksums over wrong bytes. Any answer will do, but no panic.
    #[test]
    fn forged_bytes_never_panic(seed: u64, changes in 1_usize..4) {
        let (disk, mut meta) = written(&reference());
        let mut bytes = disk.bytes(&meta.path()).unwrap();
        let mut random = Random::new(seed);
        let end = if random.below(2) == 0 { meta.directory_offset } else { meta.file_bytes };
        for _ in 0..changes {
            let at = 64 + usize::try_from(random.below(end - 64 - FOOTER_BYTES as u64)).unwrap();
            bytes[at] = random.bits().to_le_bytes()[0];
        }
        forge(&mut meta, &mut bytes);
        disk.replace(&meta.path(), &bytes);
        let segment = open(&disk, &meta);
        if segment.directory().is_ok() {
            segment.verify_places(&mut |_, _| (), &mut |_| true);
            drop(segment.for_each_tag(&mut |_, _, _, _| ()));
            let mut cursor = segment.cursor();
            for series in reference() {
                let range = TimeRange::new(START_NS, START_NS + 90 * SECOND_NS);
                for range in [range, TimeRange::ALL] {
                    let tag = (series.tag, series.value_type);
                    drop(read(&mut cursor, tag, range, (true, true)));
                }
            }
            for position in 0..segment.directory().unwrap().tiers().len() {
                drop(cursor.tier_rows(position, true));
            }
        }
    }
}

/// Makes every checksum right again.
fn forge(meta: &mut SegmentMeta, bytes: &mut [u8]) {
    use crate::segment::layout::{
        ENTRY_BYTES, Field, TIER_CRC, TIER_ENTRY, TIER_ENTRY_BYTES, column,
    };
    let directory = usize::try_from(meta.directory_offset).unwrap();
    let chunks = meta.chunks as usize;
    let at = |column: Field, i: usize| directory + chunks * column.offset + i * column.size;
    for i in 0..chunks {
        let regions = [
            (column::TIMES_OFFSET, column::TIMES_BYTES, column::TIMES_CRC),
            (column::BODY_OFFSET, column::BODY_BYTES, column::BODY_CRC),
        ];
        for (offset, length, crc) in regions {
            let number = |column: Field| {
                let mut wide = [0; 8];
                let start = at(column, i);
                wide[..column.size].copy_from_slice(&bytes[start..start + column.size]);
                usize::try_from(u64::from_le_bytes(wide)).unwrap()
            };
            let (start, length) = (number(offset), number(length));
            let Some(end) = start.checked_add(length) else { continue };
            let Some(region) = bytes.get(start..end) else { continue };
            let sum = crc32(meta.identity, region).to_le_bytes();
            bytes[at(crc, i)..at(crc, i) + 4].copy_from_slice(&sum);
        }
    }
    let footer = bytes.len() - FOOTER_BYTES;
    let [_, _, place, .., size, _, _] = TIER_ENTRY;
    for entry in (directory + chunks * ENTRY_BYTES..footer).step_by(TIER_ENTRY_BYTES) {
        let number = |field: Field| usize::try_from(field.get(&bytes[entry..])).unwrap();
        let (start, length) = (number(place), number(size));
        let Some(end) = start.checked_add(length) else { continue };
        let Some(block) = bytes.get(start..end) else { continue };
        let sum = crc32(meta.identity, block);
        TIER_CRC.put(&mut bytes[entry..], u64::from(sum));
    }
    meta.directory_crc = crc32(meta.identity, &bytes[directory..footer]);
    bytes[footer..].copy_from_slice(&encode_footer(meta));
}

/// A small plant with every type, plain and packed: the golden file.
fn reference() -> Vec<SeriesBuf> {
    let plant = [
        (1, ValueType::F64, 300),
        (2, ValueType::Bool, 20),
        (4, ValueType::F64, 5),
        (5, ValueType::Text, 3),
        (6, ValueType::State, 10),
        (7, ValueType::I64, 260),
        (8, ValueType::F64, 12),
        (9, ValueType::F32, 5),
        (10, ValueType::Text, 256),
        (12, ValueType::I64, 1),
        (13, ValueType::I64, 7),
    ];
    let each = plant.into_iter();
    each.map(|(tag, value_type, rows)| series(tag, value_type, rows, u64::from(tag))).collect()
}

#[test]
fn every_length_comes_back() {
    let lengths = [1, 255, 256, 257, 8_191, 8_192, 8_193, 8_447, 8_448, 20_000];
    let types = [ValueType::F64, ValueType::I64, ValueType::Text];
    let all: Vec<SeriesBuf> = (1..)
        .zip(lengths.into_iter().flat_map(|rows| types.map(|t| (rows, t))))
        .map(|(tag, (rows, value_type))| series(tag, value_type, rows, u64::from(tag)))
        .collect();
    let (disk, meta) = written(&all);
    assert_eq!(meta.tags as usize, all.len());
    assert_eq!(meta.rows, all.iter().map(|s| s.len() as u64).sum::<u64>());
    let segment = open(&disk, &meta);
    check(&segment, &all, 1);
    let directory = segment.directory().unwrap();
    let packed = directory.indices().filter(|i| directory.entry(*i).packed).count();
    assert_eq!(packed, types.len(), "the short tags of a type share a chunk");
}

#[test]
fn slow_tags_share_chunks_whatever_lies_between() {
    let types = [ValueType::F64, ValueType::Bool, ValueType::F64, ValueType::Text];
    let mut all: Vec<SeriesBuf> = Vec::new();
    for tag in 0..4_000 {
        let seed = u64::from(tag);
        let rows = if tag % 500 == 250 { 400 } else { 1 + (tag as usize * 7) % 24 };
        all.push(series(tag * 3, types[tag as usize % 4], rows, seed));
    }
    let (disk, meta) = written(&all);
    assert!(meta.chunks < 20, "{} chunks", meta.chunks);
    check(&open(&disk, &meta), &all, 2);
}

#[test]
fn texts_too_long_for_a_chunk_are_split() {
    let mut long = SeriesBuf::new(TagId(1), ValueType::Text);
    for row in 0..9_u8 {
        long.times.push(START_NS + i64::from(row));
        long.texts.push(Arc::from(String::from(char::from(b'a' + row)).repeat(1 << 20)));
        long.qualities.push(0);
    }
    let (disk, meta) = written(&[long.clone()]);
    assert_eq!(meta.chunks, 3);
    check(&open(&disk, &meta), &[long], 3);
}

#[test]
fn a_segment_without_samples_is_refused() {
    let disk = empty_disk();
    let empty = SeriesBuf::new(TagId(1), ValueType::F64);
    assert!(matches!(write(&disk, 1, 1, &[empty]), Err(Error::Invalid(_))));
}

/// The error names the file and is one of damage.
fn assert_corrupt(result: &Result<()>, file: &str, what: &str) {
    match result {
        Err(Error::Corrupt { path, .. }) => {
            assert_eq!(path, &Path::new("sim:").join(file), "{what}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn every_changed_byte_is_found() {
    let (disk, meta) = written(&reference());
    let path = meta.path();
    let good = disk.bytes(&path).unwrap();
    for at in 0..good.len() {
        for changed in [good[at] ^ 1, good[at] ^ 0x80, 0, 0xFF] {
            if changed == good[at] {
                continue;
            }
            let mut bytes = good.clone();
            bytes[at] = changed;
            disk.replace(&path, &bytes);
            let segment = open(&disk, &meta);
            assert_corrupt(&verify(&segment), &path, &format!("byte {at} = {changed}"));
        }
    }
}

/// What the cursor answers beside damage is right, or an error.
#[test]
fn damage_is_never_an_answer() {
    let all = reference();
    let (disk, meta) = written(&all);
    let good = disk.bytes(&meta.path()).unwrap();
    for at in (0..good.len()).step_by(7) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        disk.replace(&meta.path(), &bytes);
        let segment = open(&disk, &meta);
        let mut cursor = segment.cursor();
        for want in &all {
            let tag = (want.tag, want.value_type);
            match read(&mut cursor, tag, TimeRange::ALL, (true, true)) {
                Ok(got) => assert_eq!(&got, want, "byte {at}"),
                error => assert_corrupt(&error.map(drop), &meta.path(), &format!("byte {at}")),
            }
        }
    }
}

#[test]
fn every_truncation_and_extension_is_found() {
    let (disk, meta) = written(&reference());
    let path = meta.path();
    let good = disk.bytes(&path).unwrap();
    for length in 0..good.len() {
        disk.replace(&path, &good[..length]);
        assert_corrupt(
            &open(&disk, &meta).directory().map(drop),
            &path,
            &format!("{length} bytes"),
        );
    }
    disk.replace(&path, &[&good[..], &[0]].concat());
    assert_corrupt(&open(&disk, &meta).directory().map(drop), &path, "one byte more");
    disk.replace(&path, &vec![0; good.len()]);
    assert_corrupt(&open(&disk, &meta).directory().map(drop), &path, "zeros");
    disk.lose(&path);
    assert_corrupt(&open(&disk, &meta).directory().map(drop), &path, "missing");
}

#[test]
fn swapped_and_stale_files_are_found() {
    let disk = empty_disk();
    let one = write(&disk, 1, 11, &reference()).unwrap();
    let two = write(&disk, 2, 22, &reference()).unwrap();
    let (first, second) = (disk.bytes(&one.path()).unwrap(), disk.bytes(&two.path()).unwrap());
    assert_eq!(first.len(), second.len());
    disk.replace(&one.path(), &second);
    disk.replace(&two.path(), &first);
    for meta in [&one, &two] {
        let result = open(&disk, meta).directory().map(drop);
        assert_corrupt(&result, &meta.path(), "swapped");
        let message = result.unwrap_err().to_string();
        assert!(message.contains("manifest expects segment"), "{message}");
    }
    // The same place of another file, between a header and a footer that are right.
    let mut mixed = first.clone();
    mixed[64..200].copy_from_slice(&second[64..200]);
    assert_eq!(first[64..200], second[64..200], "only the checksums know the file");
    mixed[first.len() - 500..first.len() - 64].copy_from_slice(&second[first.len() - 500..][..436]);
    disk.replace(&one.path(), &mixed);
    assert_corrupt(
        &open(&disk, &one).directory().map(drop),
        &one.path(),
        "a directory of another file",
    );
}

#[test]
fn each_bad_chunk_is_named() {
    let all = reference();
    let (disk, meta) = written(&all);
    let segment = open(&disk, &meta);
    let directory = segment.directory().unwrap();
    let mut bytes = disk.bytes(&meta.path()).unwrap();
    let bad = [ChunkIndex(0), ChunkIndex(meta.chunks - 1)];
    for index in bad {
        bytes[usize::try_from(directory.entry(index).body.offset).unwrap()] ^= 4;
    }
    disk.replace(&meta.path(), &bytes);
    let segment = open(&disk, &meta);
    let mut errors = Vec::new();
    segment.verify_places(&mut |error, _| errors.push(error.to_string()), &mut |_| true);
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (error, index) in errors.iter().zip(bad) {
        let name = directory.entry(index).to_string();
        assert!(error.contains(&name) && error.contains(&meta.path()), "{error} lacks {name}");
    }
    assert!(errors[0].contains("chunk of tag #1, 2026-01-01T00:"), "{}", errors[0]);
    assert!(errors[1].contains("packed chunk of tags #5 to #5"), "{}", errors[1]);
}

/// Lets the disk fail once at `after` calls of one kind.
fn fault(call: Call, after: u64, failure: Failure) -> Fault {
    Fault { call, path: String::new(), after, times: 1, failure }
}

#[test]
fn a_bit_that_flips_on_the_way_is_read_again() {
    let all = reference();
    let (disk, meta) = written(&all);
    let reads = {
        let before = disk.calls(Call::Read);
        verify(&open(&disk, &meta)).unwrap();
        disk.calls(Call::Read) - before
    };
    let mut found_right = 0;
    for after in 0..reads {
        disk.add_fault(fault(Call::Read, after, Failure::FlippedBit));
        let result = verify(&open(&disk, &meta));
        disk.clear_faults();
        if result.is_err() {
            assert_corrupt(&result, &meta.path(), "a flipped bit");
        } else {
            found_right += 1;
        }
    }
    assert!(found_right > reads * 3 / 4, "{found_right} of {reads}: chunks are read again");
}

#[test]
fn a_refusing_disk_is_an_error_and_not_damage() {
    for call in [Call::Create, Call::Write, Call::Sync] {
        let disk = empty_disk();
        disk.add_fault(fault(call, 0, Failure::NoSpace));
        let refused = write(&disk, 1, 1, &reference());
        assert!(matches!(refused, Err(Error::DiskFull { .. })), "{call:?}: {refused:?}");
    }
    let (disk, meta) = written(&reference());
    for call in [Call::Open, Call::Len, Call::Read] {
        disk.add_fault(fault(call, 0, Failure::Io));
        let segment = open(&disk, &meta);
        let refused = segment.directory().map(drop);
        assert!(matches!(refused, Err(Error::Io { .. })), "{call:?}: {refused:?}");
        segment.directory().unwrap();
    }
}

/// A segment of rollups by the hour, and of nothing else.
fn written_of_tier() -> (SimDisk, SegmentMeta) {
    let disk = empty_disk();
    let plan = SegmentPlan {
        id: SegmentId(8),
        kind: SegmentKind::Base,
        tier: Tier::Hour.code(),
        stage: SegmentStage::Final,
        identity: 0xFEED_F00D,
        seqs: (Seq(3), Seq(9)),
        first_ns: START_NS,
        effort: Effort::Light,
    };
    let mut builder = TierBuilder::new();
    let mut all = reference();
    all.sort_by_key(|series| series.tag);
    for series in &all {
        builder.outlive(Tier::ALL.map(|tier| tier == Tier::Hour));
        builder.add(series.tag, &Rows::of(series.as_series()));
    }
    builder.finish();
    let mut writer = SegmentWriter::create(&disk, plan).unwrap();
    while let Some(block) = builder.next_block() {
        writer.put_block(&block).unwrap();
    }
    (disk, writer.finish().unwrap())
}

#[test]
fn a_segment_of_rollups_alone_has_every_tag_and_is_verified() {
    let (disk, meta) = written_of_tier();
    let samples: usize = reference().iter().map(SeriesBuf::len).sum();
    let tags: BTreeSet<TagId> = reference().iter().map(|series| series.tag).collect();
    assert_eq!((meta.rows, meta.tags as usize), (samples as u64, tags.len()));
    let segment = open(&disk, &meta);
    let directory = segment.directory().unwrap();
    assert_eq!(directory.indices().count(), 0);
    let mut found = BTreeSet::new();
    let mut rows = 0;
    for entry in directory.tiers() {
        assert_eq!(entry.head.tier, Tier::Hour);
        let block = segment.read_block(entry).unwrap();
        rows += block.samples;
        let decoded = TierRows::decode(entry, true, &block.bytes).unwrap();
        found.extend(decoded.runs().map(|(tag, _)| tag));
    }
    assert_eq!((rows, found), (samples as u64, tags));
    assert!(verify(&segment).is_ok());
    let extent = directory.tiers()[0].extent;
    disk.flip_bit(&meta.path(), 8 * (extent.offset + u64::from(extent.bytes) / 2));
    let mut places = Vec::new();
    segment.verify_places(&mut |_, place| places.extend(place), &mut |_| true);
    let [place] = places.as_slice() else { panic!("one block is damaged: {places:?}") };
    assert!(place.covers_block(&directory.tiers()[0].head));
    assert!(segment.verify_again(&[Arc::new(place.clone())])[0].is_err());
    disk.flip_bit(&meta.path(), 8 * (extent.offset + u64::from(extent.bytes) / 2));
    assert!(segment.verify_again(&[Arc::new(place.clone())])[0].is_ok());
}

/// Files of every version open for ever, and today's writer still gives today's bytes. `UPDATE_GOLDEN=1` writes files
/// that are missing and nothing else: a released file never changes.
#[test]
fn the_golden_segment_is_written_and_read_the_same() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/segment"));
    let (disk, meta) = written(&reference());
    let mut manifest = Vec::new();
    meta.encode(&mut manifest);
    let segment = disk.bytes(&meta.path()).unwrap();
    let (disk_of_tier, tier) = written_of_tier();
    let tier = disk_of_tier.bytes(&tier.path()).unwrap();
    for (name, bytes) in [("v2.meta", &manifest), ("v2.seg", &segment), ("v2-tier.seg", &tier)] {
        let path = folder.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
            std::fs::write(&path, bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert!(golden == *bytes, "{name} differs: the format changed, so it needs a new version");
    }
    let golden = std::fs::read(folder.join("v2.meta")).unwrap();
    let meta = SegmentMeta::decode(&mut Reader::new(&golden)).unwrap();
    disk.replace(&meta.path(), &std::fs::read(folder.join("v2.seg")).unwrap());
    assert_eq!(read_all(&open(&disk, &meta), &reference()).unwrap(), reference());
}

//! Chunks of one scan share their times, and damage of what is shared is damage of all.

use std::collections::BTreeSet;

use super::*;
use crate::chunk::ChunkEntry;
use crate::segment::directory;

/// Tags that one gateway scans, `rows` times with jitter; every other tag beside them has times of its own.
fn scanned(tags: u32, rows: usize) -> Vec<SeriesBuf> {
    let types = [ValueType::F64, ValueType::F32, ValueType::I64, ValueType::State];
    let times = series(1, ValueType::I64, rows, 2).times;
    (1..=tags)
        .map(|tag| {
            let value_type = types[tag as usize % types.len()];
            let own = series(tag, value_type, rows, u64::from(tag) * 4 + 2);
            if tag % 2 == 0 { own } else { SeriesBuf { times: times.clone(), ..own } }
        })
        .collect()
}

fn entries(segment: &Arc<Segment>) -> Vec<ChunkEntry> {
    let directory = segment.directory().unwrap();
    directory.indices().map(|index| directory.entry(index)).collect()
}

#[test]
fn chunks_with_equal_times_point_at_one_region() {
    let all = scanned(24, 9_000);
    let (disk, meta) = written(&all);
    let segment = open(&disk, &meta);
    let entries = entries(&segment);
    let regions: BTreeSet<u64> = entries.iter().map(|entry| entry.times.offset).collect();
    // Two chunks a tag; twelve tags share, twelve do not.
    assert_eq!((entries.len(), regions.len()), (48, 2 + 24));
    let directory = segment.directory().unwrap();
    for index in directory.indices() {
        let entry = directory.entry(index);
        assert_eq!(directory.shares_times(index), entry.first_tag.0 % 2 == 1, "{entry}");
    }
    check(&segment, &all, 5);
    let before = disk.calls(Call::Read);
    verify(&segment).unwrap();
    let reads = usize::try_from(disk.calls(Call::Read) - before).unwrap();
    let data = entries.len() + regions.len();
    let blocks = 4 + 2 * segment.directory().unwrap().tiers().len();
    // Once for themselves, and once to compare the rollups with.
    assert!(
        (data..=2 * data + blocks).contains(&reads),
        "{reads} reads of {data} regions, {blocks}"
    );
}

#[test]
fn a_scan_of_many_tags_reads_shared_times_once() {
    let all = scanned(24, 3_000);
    let (disk, meta) = written(&all);
    let segment = open(&disk, &meta);
    segment.directory().unwrap();
    let before = disk.calls(Call::Read);
    assert_eq!(read_all(&segment, &all).unwrap(), all);
    assert_eq!(disk.calls(Call::Read) - before, 24 + 12 + 1, "bodies, own times, shared times");
}

#[test]
fn damage_of_shared_times_is_damage_of_every_chunk() {
    let all = scanned(6, 300);
    let (disk, meta) = written(&all);
    let shared = entries(&open(&disk, &meta))[0].times;
    let mut bytes = disk.bytes(&meta.path()).unwrap();
    bytes[usize::try_from(shared.offset).unwrap() + 3] ^= 0x20;
    disk.replace(&meta.path(), &bytes);
    let segment = open(&disk, &meta);
    let mut errors = Vec::new();
    segment.verify_places(&mut |error, _| errors.push(error.to_string()), &mut |_| true);
    assert_eq!(errors.len(), 3, "{errors:?}");
    for (error, tag) in errors.iter().zip([1, 3, 5]) {
        assert!(error.contains(&format!("chunk of tag #{tag}")), "{error}");
    }
    let mut cursor = segment.cursor();
    for series in &all {
        let tag = (series.tag, series.value_type);
        let got = read(&mut cursor, tag, TimeRange::ALL, (true, true));
        assert_eq!(got.is_ok(), series.tag.0 % 2 == 0, "tag {}", series.tag);
    }
}

/// What is done to a directory before it is read.
type Change<'a> = &'a dyn Fn(&mut [ChunkEntry]);

/// Only regions that are the same to the byte may lie in one place.
#[test]
fn partly_shared_regions_are_refused() {
    let (disk, meta) = written(&scanned(6, 300));
    let good = entries(&open(&disk, &meta));
    let tiers = open(&disk, &meta).directory().unwrap().tiers().to_vec();
    let decode = |change: Change<'_>| {
        let mut entries = good.clone();
        change(&mut entries);
        let mut bytes = Vec::new();
        directory::encode(&entries, &tiers, &mut bytes);
        Directory::decode(&meta, bytes).map(drop).map_err(|(_, why)| why.0)
    };
    assert_eq!(decode(&|_| ()), Ok(()));
    let refused: [Change<'_>; 7] = [
        &|entries| entries[2].times.crc ^= 1,
        &|entries| entries[2].times.bytes -= 1,
        &|entries| {
            entries[2].times.offset += 1;
            entries[2].times.bytes -= 1;
        },
        &|entries| entries[2].times = entries[2].body,
        &|entries| entries[2].body = entries[4].body,
        &|entries| entries[2].times = entries[1].body,
        // The region of the second tag is then nobody's.
        &|entries| entries[1].times = entries[0].times,
    ];
    for (number, change) in refused.into_iter().enumerate() {
        assert_eq!(decode(change), Err("the chunks leave a gap or overlap"), "change {number}");
    }
}

proptest! {
    /// As for files without shared regions: any answer will do, but no panic.
    #[test]
    fn forged_bytes_never_panic(seed: u64, changes in 1_usize..4) {
        let all = scanned(6, 300);
        let (disk, mut meta) = written(&all);
        let mut bytes = disk.bytes(&meta.path()).unwrap();
        let mut random = Random::new(seed);
        for _ in 0..changes {
            let at = 64 + usize::try_from(random.below(meta.file_bytes - 128)).unwrap();
            bytes[at] = random.bits().to_le_bytes()[0];
        }
        forge(&mut meta, &mut bytes);
        disk.replace(&meta.path(), &bytes);
        let segment = open(&disk, &meta);
        if segment.directory().is_ok() {
            segment.verify_places(&mut |_, _| (), &mut |_| true);
            drop(read_all(&segment, &all));
        }
    }
}

/// As the golden segment, with shared times in it.
#[test]
fn the_golden_segment_with_shared_times_is_written_and_read_the_same() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/segment/v2-shared.seg");
    let all = scanned(5, 260);
    let (disk, meta) = written(&all);
    let bytes = disk.bytes(&meta.path()).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !Path::new(path).exists() {
        std::fs::write(path, &bytes).unwrap();
    }
    let golden = std::fs::read(path).unwrap();
    assert!(golden == bytes, "the format changed, so it needs a new version");
    disk.replace(&meta.path(), &golden);
    assert_eq!(read_all(&open(&disk, &meta), &all).unwrap(), all);
}

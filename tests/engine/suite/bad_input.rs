//! What the engine must refuse or survive: wrong samples, wrong bytes, full disks, second owners. Each is a clear error,
//! nothing is lost, and the rest is served.

use std::path::Path;
use std::sync::Arc;

use tagmill_engine_tests::clock::TestClock;
use tagmill_engine_tests::model::{Rows, difference, pairs};
use tagmill_engine_tests::observe;
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{
    Batch, Engine, Error, Options, Point, Qualities, RejectReason, Result, RollupRequest,
    SECOND_NS, ScanRequest, Snapshot, TagColumn, TagDefinition, TagEdit, TagId, TagSelection,
    Tiers, TimeRange, Value, ValueType, Values, limits,
};

const NOW_NS: i64 = 1_767_225_600 * SECOND_NS;

fn options() -> Options {
    Options { wal_bytes: 128 << 10, ..Options::default() }
}

fn open(disk: &SimDisk) -> Result<Engine> {
    Engine::open_on(Arc::new(disk.clone()), Arc::new(TestClock::new(NOW_NS)), options())
}

fn floats(tag: TagId, times: &[i64]) -> TagColumn {
    let values = Values::F64(times.iter().map(|time| *time as f64 / 4.0).collect());
    TagColumn { tag, times: times.to_vec(), values, qualities: Qualities::GOOD }
}

fn batch(columns: Vec<TagColumn>) -> Batch {
    Batch { columns, ..Batch::default() }
}

/// A small database with a sealed and an unsealed part, closed, and its rows.
fn sample_database() -> (SimDisk, Rows) {
    let disk = SimDisk::new(7);
    let engine = open(&disk).unwrap();
    let define = |n: usize| TagDefinition::new(format!("tag {n}"), ValueType::ALL[n % 6]);
    let tags = engine.define(&(0..8).map(define).collect::<Vec<_>>()).unwrap();
    for part in 0..3i64 {
        let column = |(n, tag): (usize, &TagId)| {
            let times: Vec<i64> = (0..40).map(|i| (part * 30 + i) * SECOND_NS).collect();
            let mut values = Values::empty(ValueType::ALL[n % 6]);
            for i in 0..40u16 {
                let text = format!("value {}", i % 5);
                values.push(match ValueType::ALL[n % 6] {
                    ValueType::F64 => Value::F64(f64::from(i) * 0.25),
                    ValueType::F32 => Value::F32(f32::from(i)),
                    ValueType::I64 => Value::I64(i64::from(i) << 40),
                    ValueType::Bool => Value::Bool(i % 3 == 0),
                    ValueType::State => Value::State(i / 10),
                    ValueType::Text => Value::Text(text.into()),
                });
            }
            TagColumn { tag: *tag, times, values, qualities: Qualities::GOOD }
        };
        engine.append(batch(tags.iter().enumerate().map(column).collect())).unwrap();
        if part == 0 {
            let big = (0..600).map(|i| i * 7 * SECOND_NS).collect::<Vec<_>>();
            engine.append(batch(vec![floats(tags[0], &big)])).unwrap();
        }
        if part < 2 {
            engine.seal().unwrap();
        }
    }
    engine.grow_states("tag 4", &["STOP".into(), "RUN".into()]).unwrap();
    engine.delete(&tags[1..2], TimeRange::new(0, 3 * SECOND_NS), "a test").unwrap();
    let rows = observe::rows(&engine.snapshot()).unwrap();
    engine.close().unwrap();
    (disk.restart(), rows)
}

/// What became of a damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Everything is there.
    Whole,
    /// It opens; reading some tags, or a verification, gives an error that names the damage, all else is right.
    Partly,
    /// It does not open, and says why.
    Refused,
}

/// Opens a damaged database: any clear error will do, a wrong row or a panic will not.
fn judge(disk: &SimDisk, rows: &Rows, what: &str) -> Verdict {
    let engine = match open(disk) {
        Ok(engine) => engine,
        Err(
            error @ (Error::Corrupt { .. }
            | Error::TooNew { .. }
            | Error::Invalid(_)
            | Error::Io { .. }),
        ) => {
            assert!(error.to_string().len() > 20, "{what}: {error}");
            return Verdict::Refused;
        }
        Err(error) => panic!("{what}: not a clear error: {error}"),
    };
    let snapshot = engine.snapshot();
    let mut verdict = Verdict::Whole;
    for id in 0..8 {
        let only = TagSelection::Only(Arc::from([TagId(id)]));
        match observe::read(&snapshot, &ScanRequest::new(only, TimeRange::ALL)) {
            Ok(found) => {
                let expected = rows.range((TagId(id), i64::MIN)..=(TagId(id), i64::MAX));
                assert_eq!(difference(expected, pairs(&found)), None, "{what}: tag {id}");
                // What tiers say is right, or is not asked.
                let stored = counts_and_ends(&snapshot, TagId(id), Tiers::Always);
                let folded = counts_and_ends(&snapshot, TagId(id), Tiers::Off);
                assert_eq!(stored, folded, "{what}: rollups of tag {id}");
            }
            Err(Error::Corrupt { path, .. }) => {
                assert!(path.to_string_lossy().contains("segments/"), "{what}: {}", path.display());
                verdict = Verdict::Partly;
            }
            Err(Error::Io { .. } | Error::TooNew { .. }) => verdict = Verdict::Partly,
            Err(error) => panic!("{what}: not a clear error: {error}"),
        }
    }
    let mut is_found = false;
    engine.verify(&mut |_| is_found = true);
    if is_found {
        verdict = verdict.max(Verdict::Partly);
    }
    let tag = engine.define(&[TagDefinition::new("new", ValueType::F64)]).unwrap()[0];
    engine.append(batch(vec![floats(tag, &[1, 2, 3])])).unwrap();
    verdict
}

/// Start, samples, least and greatest value of each minute and of each hour of a tag.
fn counts_and_ends(
    snapshot: &Snapshot,
    tag: TagId,
    tiers: Tiers,
) -> Vec<(i64, u64, Option<Point>, Option<Point>)> {
    let mut found = Vec::new();
    for width_s in [60, 3_600] {
        let only = TagSelection::Only(Arc::from([tag]));
        let request = RollupRequest::new(only, TimeRange::ALL, width_s * SECOND_NS);
        for part in snapshot.rollups(RollupRequest { tiers, ..request }) {
            let rollups = part.unwrap().rollups;
            found.extend(rollups.iter().map(|r| (r.start_ns, r.rows(), r.min, r.max)));
        }
    }
    found
}

/// Damages one file in many ways; gives how often each verdict was reached.
fn damage(folder: &str, each_byte: impl Fn(&SimDisk, &str, u64) -> bool) -> [usize; 3] {
    let (disk, rows) = sample_database();
    let mut counts = [0; 3];
    let mut seed = 0;
    for (path, length) in disk.files() {
        if !path.starts_with(folder) || path == "LOCK" {
            continue;
        }
        let bytes = disk.bytes(&path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        for at in 0..length.min(used + 16) {
            seed += 1;
            let damaged = disk.fork(seed);
            if each_byte(&damaged, &path, at) {
                let what = format!("{path} at {at} of {length}");
                let verdict = judge(&damaged, &rows, &what);
                counts[verdict as usize] += 1;
                if verdict == Verdict::Refused {
                    damaged.replace(&path, &bytes);
                    let after = judge(&damaged.restart(), &rows, &format!("{what}, mended"));
                    assert_eq!(after, Verdict::Whole, "{what}: a refusal has changed something");
                }
            }
        }
    }
    assert_eq!(judge(&disk, &rows, "undamaged"), Verdict::Whole, "the damage was to forks");
    counts
}

fn flip(disk: &SimDisk, path: &str, at: u64) -> bool {
    disk.flip_bit(path, at * 8 + at % 8);
    true
}

fn cut(disk: &SimDisk, path: &str, at: u64) -> bool {
    let bytes = disk.bytes(path).unwrap();
    disk.replace(path, &bytes[..usize::try_from(at).unwrap()]);
    at.is_multiple_of(7)
}

#[test]
fn a_flipped_bit_in_the_log_is_found_or_harmless() {
    let [whole, partly, refused] = damage("wal/", flip);
    println!("log: {whole} harmless, {refused} refused");
    assert_eq!(partly, 0);
    assert!(refused > whole, "{refused} of {} flips were found", refused + whole);
}

#[test]
fn a_flipped_bit_in_a_segment_is_found_or_harmless() {
    let [whole, partly, refused] = damage("segments/", flip);
    println!("segments: {whole} harmless, {partly} named when read, {refused} refused at open");
    assert!(partly > 0, "a damaged chunk must not keep the database from opening");
    assert!(partly + refused > whole * 10, "{whole} flips went unseen");
}

#[test]
fn a_flipped_bit_anywhere_else_is_found_or_harmless() {
    for folder in ["manifest", "registry"] {
        let [whole, partly, refused] = damage(folder, flip);
        println!("{folder}: {whole} harmless, {partly} named when read, {refused} refused");
        assert!(refused > 0, "no flip in {folder} was found");
    }
}

#[test]
fn a_cut_file_is_found_or_harmless() {
    let counts = damage("", cut);
    println!("cuts: {counts:?} harmless, named, refused");
    assert!(counts[2] > 0);
}

#[test]
fn a_missing_file_is_named() {
    let (disk, rows) = sample_database();
    for (seed, (path, _)) in (0..).zip(disk.files()) {
        let damaged = disk.fork(seed);
        damaged.lose(&path);
        let verdict = judge(&damaged, &rows, &format!("{path} lost"));
        // A checkpoint only repeats what the segments say, and is computed from them when it is not there.
        let is_needless = path == "LOCK" || path.starts_with("latest-");
        assert!(verdict != Verdict::Whole || is_needless, "nobody missed {path}");
    }
}

#[test]
fn strange_files_are_left_alone() {
    let (disk, rows) = sample_database();
    for path in ["wal/notes.txt", "segments/x.tmp", "readme", "wal/zz-1.wal.bak"] {
        disk.replace(path, b"not ours");
    }
    assert_eq!(judge(&disk, &rows, "strange files"), Verdict::Whole);
    let kept = disk.files().into_iter().filter(|(_, length)| *length == 8).count();
    assert_eq!(kept, 4, "a file that is not ours was removed: {:?}", disk.files());
}

#[test]
fn samples_that_cannot_be_taken_are_named_and_the_rest_is_taken() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let define = |name: &str, value_type| TagDefinition::new(name, value_type);
    let tags = engine.define(&[define("a", ValueType::F64), define("b", ValueType::I64)]).unwrap();
    let future = NOW_NS + limits::FUTURE_NS;
    let columns = vec![
        floats(tags[0], &[1, future, future + 1, 2, -1]),
        floats(tags[1], &[1, 2]),
        floats(TagId(77), &[1]),
        TagColumn { times: vec![5], ..floats(tags[0], &[5, 6]) },
    ];
    let appended = engine.append(batch(columns)).unwrap();
    assert_eq!(appended.accepted, 3);
    let told: Vec<_> =
        appended.rejects.iter().map(|r| (r.part, r.tag.0, r.first, r.count, r.reason)).collect();
    for expected in [
        (0, 0, 4, 1, RejectReason::OutOfRange),
        (1, 1, 0, 2, RejectReason::TypeMismatch),
        (2, 77, 0, 1, RejectReason::UnknownTag),
        (3, 0, 0, 1, RejectReason::LengthMismatch),
    ] {
        assert!(told.contains(&expected), "{expected:?} is missing in {told:?}");
    }
    assert!(told.iter().any(|t| t.0 == 0 && t.2 == 2 && t.4 == RejectReason::Future), "{told:?}");
    assert_eq!(observe::rows(&engine.snapshot()).unwrap().len(), 3);
}

#[test]
fn an_empty_batch_is_refused() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let refused = engine.append(Batch::default()).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    let tag = engine.define(&[TagDefinition::new("a", ValueType::F64)]).unwrap()[0];
    engine.append(batch(vec![floats(tag, &[1])])).unwrap();
}

#[test]
fn names_that_mislead_are_refused() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    for name in ["", "a\u{7}b", "a\nb", "a\0", "x\u{202E}y", "../up", "/a", &"x".repeat(600)] {
        let definition = TagDefinition::new(name, ValueType::F64);
        let refused = engine.define(std::slice::from_ref(&definition)).unwrap_err();
        assert!(matches!(refused, Error::Invalid(_)), "{name:?}: {refused}");
        assert!(!refused.to_string().contains('\u{7}'), "the message repeats a control character");
        let reserved = engine.reserve(&[definition, TagDefinition::new("ok", ValueType::F64)]);
        assert!(reserved[0].is_err() && reserved[1].is_ok());
    }
    let tag = engine.define(&[TagDefinition::new("good", ValueType::F64)]).unwrap()[0];
    let edit = TagEdit { name: Some("bad\u{1}".into()), ..TagEdit::default() };
    assert!(matches!(engine.edit_tag(tag, edit), Err(Error::Invalid(_))));
    assert_eq!(engine.snapshot().registry().find("good"), Some(tag));
}

#[test]
fn a_tag_keeps_its_type_and_a_name_its_tag() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    let tags = engine
        .define(&[
            TagDefinition::new("a", ValueType::F64),
            TagDefinition::new("b", ValueType::Text),
        ])
        .unwrap();
    let refused = engine.define(&[TagDefinition::new("a", ValueType::I64)]).unwrap_err();
    assert!(matches!(refused, Error::Invalid(_)), "{refused}");
    let refused = refused.to_string();
    assert!(refused.contains("f64") && refused.contains("i64"), "{refused}");
    let taken = TagEdit { name: Some("b".into()), ..TagEdit::default() };
    assert!(matches!(engine.edit_tag(tags[0], taken), Err(Error::Invalid(_))));
    assert!(matches!(engine.edit_tag(TagId(99), TagEdit::default()), Err(Error::Invalid(_))));
    assert!(matches!(engine.delete_tag(TagId(99), "a test"), Err(Error::Invalid(_))));
    let range = TimeRange::new(5, 5);
    assert!(matches!(engine.delete(&tags, range, "a test"), Err(Error::Invalid(_))));
    assert!(engine.delete(&[TagId(99)], TimeRange::ALL, "a test").is_err());
    assert!(engine.reserve(&[TagDefinition::new("a", ValueType::Bool)])[0].is_err());
}

#[test]
fn a_full_disk_refuses_writes_and_resumes() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let engine = open(&disk).unwrap();
        let tags = engine.define(&[TagDefinition::new("a", ValueType::F64)]).unwrap();
        engine.append(batch(vec![floats(tags[0], &[0])])).unwrap();
        disk.set_capacity(Some(disk.used_bytes() + seed * 10_000));
        let mut acked = vec![0];
        let mut refused = 0;
        for part in 1..200i64 {
            let times: Vec<i64> = (part * 1_000..part * 1_000 + 500).map(|t| t * t).collect();
            match engine.append(batch(vec![floats(tags[0], &times)])) {
                Ok(_) => acked.extend(times),
                Err(Error::DiskFull { .. }) => refused += 1,
                Err(error) => panic!("seed {seed}: {error}"),
            }
            if refused > 3 {
                break;
            }
        }
        assert!(refused > 3, "seed {seed}: the disk was never full");
        acked.sort_unstable();
        let times = |engine: &Engine| -> Vec<i64> {
            observe::rows(&engine.snapshot()).unwrap().keys().map(|key| key.1).collect()
        };
        assert_eq!(times(&engine), acked, "seed {seed}: reads go on");
        disk.set_capacity(None);
        engine.append(batch(vec![floats(tags[0], &[7])])).expect("writes resume");
        acked.push(7);
        acked.sort_unstable();
        assert_eq!(times(&engine), acked);
        drop(engine);
        disk.crash();
        let engine = open(&disk.restart()).unwrap();
        assert_eq!(times(&engine), acked, "seed {seed}: after a crash");
    }
}

#[test]
fn a_full_disk_while_sealing_loses_nothing() {
    for extra in (0..60_000).step_by(1_500) {
        let disk = SimDisk::new(extra);
        let engine = open(&disk).unwrap();
        let tags = engine.define(&[TagDefinition::new("a", ValueType::F64)]).unwrap();
        let times: Vec<i64> = (0..4_000).map(|t| t * t).collect();
        engine.append(batch(vec![floats(tags[0], &times)])).unwrap();
        disk.set_capacity(Some(disk.used_bytes() + extra));
        if let Err(error) = engine.seal() {
            assert!(matches!(error, Error::DiskFull { .. }), "{error}");
        }
        assert_eq!(observe::rows(&engine.snapshot()).unwrap().len(), 4_000);
        disk.set_capacity(None);
        engine.seal().expect("sealing resumes");
        assert_eq!(observe::rows(&engine.snapshot()).unwrap().len(), 4_000);
        drop(engine);
        disk.crash();
        let engine = open(&disk.restart()).unwrap();
        assert_eq!(observe::rows(&engine.snapshot()).unwrap().len(), 4_000);
    }
}

#[test]
fn a_directory_has_one_owner() {
    let disk = SimDisk::new(1);
    let engine = open(&disk).unwrap();
    assert!(matches!(open(&disk), Err(Error::Locked { .. })));
    drop(engine);
    open(&disk).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let engine = Engine::open(&path, options()).unwrap();
    let refused = Engine::open(&path, options()).unwrap_err();
    assert!(refused.to_string().contains("open in another process"), "{refused}");
    let tag = engine.define(&[TagDefinition::new("a", ValueType::F64)]).unwrap()[0];
    engine.append(batch(vec![floats(tag, &[1])])).unwrap();
    drop(engine);
    assert_eq!(Engine::open(&path, options()).unwrap().snapshot().registry().find("a"), Some(tag));
}

#[test]
fn a_database_is_not_made_where_none_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let keep = Options { create: false, ..options() };
    for path in [folder.path().join("none"), folder.path().to_owned()] {
        assert!(Engine::open(&path, keep.clone()).is_err());
    }
    assert!(!folder.path().join("none").exists());
    assert!(Engine::open(Path::new("/dev/null"), options()).is_err());
}

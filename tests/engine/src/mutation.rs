//! Damage at rest: every byte of a small database, every length of its files, files swapped, stale, strange.
//!
//! # Contract
//! * After any damage to one file the database shows exactly what it held, or gives an error that names the file: at open, or when
//!   a tag is read that the damage concerns. Every other tag is right. Never a wrong row, never a panic.
//! * A manifest may also say what it names and cannot find. The end of the log, and of the manifest, may be lost with all proof
//!   that it ever was: a stale copy may then show the database as it once was, whole.
//!
//! # How it stays quick
//! For each byte of a segment it is known which tags' scans read it. Nine of ten mutations of such a byte are judged by scans of
//! these tags alone, in an engine that stays open; the tenth, and every mutation of any other byte, by an open, a verify and a
//! read of everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::{Error, ScanRequest, Snapshot, TagId, TagSelection, TimeRange};

use crate::golden::Golden;
use crate::harness::Harness;
use crate::model::{Model, difference, pairs};
use crate::observe;
use crate::seeds::{Case, share};
use crate::tally::Tally;

/// What became of a damaged database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Everything is there.
    Harmless,
    /// It opens; reading some tags gives an error that names the damage, the others are right.
    AtRead,
    /// It does not open, and says why.
    AtOpen,
}

impl Verdict {
    const fn figure(self) -> &'static str {
        match self {
            Self::Harmless => "harmless",
            Self::AtRead => "found_at_read",
            Self::AtOpen => "found_at_open",
        }
    }
}

/// What may be told of a damage.
struct Damage<'a> {
    what: &'a str,
    /// Files that an error may name.
    paths: &'a [&'a str],
    /// What the database may show instead, whole, if the damage took all proof of what came after.
    instead: &'a [Model],
}

impl Damage<'_> {
    fn check(&self, error: &Error) {
        let what = self.what;
        let is_clear = matches!(
            error,
            Error::Corrupt { .. } | Error::TooNew { .. } | Error::Invalid(_) | Error::Io { .. }
        );
        assert!(is_clear, "{what}: not a clear error: {error}");
        let text = error.to_string();
        let is_named = self.paths.iter().any(|path| text.contains(path));
        // Without its last edits a manifest is one that a crash may leave: what is told is what it misses. A log file that is no
        // log file any more is told as missing from the log.
        let is_manifest = self.paths.iter().any(|path| path.starts_with("manifest"));
        let is_log = self.paths.iter().any(|path| path.starts_with("wal")) && text.contains("wal");
        assert!(is_named || is_manifest || is_log, "{what}: not named: {text}");
    }
}

fn only(tag: TagId) -> ScanRequest {
    ScanRequest::new(TagSelection::Only(Arc::from([tag])), TimeRange::ALL)
}

/// Whether a tag's rows can be read; if so they are right.
fn read_tag(snapshot: &Snapshot, tag: TagId, model: &Model, damage: &Damage<'_>) -> bool {
    match observe::read(snapshot, &only(tag)) {
        Ok(found) => {
            let expected = model.rows.range((tag, i64::MIN)..=(tag, i64::MAX));
            let wrong = difference(expected, pairs(&found));
            assert_eq!(wrong, None, "{}: tag {tag}", damage.what);
            true
        }
        Err(error) => {
            damage.check(&error);
            false
        }
    }
}

/// Opens, verifies and reads everything.
fn judge(harness: &mut Harness, damage: &Damage<'_>) -> Verdict {
    if let Err(error) = harness.try_open() {
        damage.check(&error);
        return Verdict::AtOpen;
    }
    let engine = Arc::clone(harness.engine());
    let mut told = 0;
    engine.verify(&mut |error| {
        damage.check(&error);
        told += 1;
    });
    let snapshot = engine.snapshot();
    let mut verdict = Verdict::Harmless;
    match observe::rows(&snapshot) {
        Ok(rows) => {
            let compare = |model: &Model| {
                observe::compare(model, &snapshot, &rows)
                    .or_else(|| observe::compare_gateways(model, &engine))
            };
            let wrong = compare(&harness.settled);
            let is_right = wrong.is_none() || damage.instead.iter().any(|m| compare(m).is_none());
            assert!(is_right, "{}: {wrong:?}", damage.what);
        }
        Err(error) => {
            damage.check(&error);
            verdict = Verdict::AtRead;
            let model = &harness.settled;
            let tags = model.tags.keys();
            let readable = tags.filter(|tag| read_tag(&snapshot, **tag, model, damage)).count();
            assert!(readable < model.tags.len(), "{}: only a scan of all failed", damage.what);
            for wrong in
                [observe::compare_tags(model, &snapshot), observe::compare_states(model, &snapshot)]
            {
                assert_eq!(wrong, None, "{}", damage.what);
            }
            assert!(told > 0, "{}: verify did not see it", damage.what);
        }
    }
    verdict
}

/// The ten other values of a byte: each bit flipped, all zero, all one.
fn mutations(byte: u8) -> impl Iterator<Item = u8> {
    let masks = (0..8).map(|bit| 1 << bit).chain([byte, !byte]);
    masks.filter(|mask| *mask != 0)
}

/// Which tags' scans read which bytes of segments: path, byte, tags.
type Readers = BTreeMap<String, Vec<Vec<TagId>>>;

fn readers(golden: &Golden) -> Readers {
    let mut harness = golden.copy(0);
    harness.open();
    let mut readers = Readers::new();
    for (path, length) in golden.files() {
        if path.starts_with("segments/") {
            readers.insert(path, vec![Vec::new(); usize::try_from(length).expect("small")]);
        }
    }
    for tag in harness.settled.tags.keys() {
        let snapshot = harness.engine().snapshot();
        let scan = || drop(observe::read(&snapshot, &only(*tag)).expect("a healthy disk"));
        scan(); // directories are read at the first use, and kept
        for (path, bytes) in harness.disk().reads_of(scan) {
            let bytes = usize::try_from(bytes.start).expect("small")
                ..usize::try_from(bytes.end).expect("small");
            for tags in readers.get_mut(&path).map(|file| &mut file[bytes]).into_iter().flatten() {
                if tags.last() != Some(tag) {
                    tags.push(*tag);
                }
            }
        }
    }
    readers
}

/// Every byte of every file, ten ways. `stride` 1 is every byte; a larger one takes every so many.
pub fn every_byte(test: &'static str, seeds: &[u64], stride: usize, tally: &Tally) {
    const PART: usize = 512;
    for seed in seeds {
        tally.seed();
        let golden = Golden::make(*seed);
        let readers = readers(&golden);
        let mut parts = Vec::new();
        for (path, length) in golden.files() {
            let length = usize::try_from(length).expect("small");
            tally.note("bytes", length as u64);
            parts.extend((0..length).step_by(PART).map(|from| (path.clone(), from, length)));
        }
        share(&parts, |(path, from, length)| {
            let _case = Case::new(test, *seed);
            let bytes = golden.harness.disk().bytes(&path).expect("it is listed");
            let mut open = golden.copy(1);
            open.open();
            observe::rows(&open.engine().snapshot()).expect("a healthy disk");
            for at in (from..length.min(from + PART)).step_by(stride) {
                let tags = readers.get(&path).map_or(&[][..], |file| file[at].as_slice());
                for (way, mask) in mutations(bytes[at]).enumerate() {
                    let what = format!("{path} byte {at} of {length}, bits {mask:#04x}");
                    let damage = Damage { what: &what, paths: &[&path], instead: &[] };
                    let verdict = if tags.is_empty() || way == at % 9 {
                        let mut damaged = golden.copy(at as u64);
                        damaged.disk().flip_bits(&path, at as u64, mask);
                        judge(&mut damaged, &damage)
                    } else {
                        judge_tags(&open, (&path, at as u64, mask), tags, &damage)
                    };
                    tally.note(verdict.figure(), 1);
                    tally.add(1);
                }
            }
        });
    }
}

/// Damages a file under an engine that has it open, and reads what the damage concerns.
fn judge_tags(
    open: &Harness,
    (path, at, mask): (&str, u64, u8),
    tags: &[TagId],
    damage: &Damage<'_>,
) -> Verdict {
    open.disk().flip_bits(path, at, mask);
    let snapshot = open.engine().snapshot();
    let all = tags.iter().all(|tag| read_tag(&snapshot, *tag, &open.settled, damage));
    open.disk().flip_bits(path, at, mask);
    if all { Verdict::Harmless } else { Verdict::AtRead }
}

/// Every file cut to every shorter length, `stride` apart.
pub fn every_length(test: &'static str, seeds: &[u64], stride: usize, tally: &Tally) {
    for seed in seeds {
        tally.seed();
        let golden = Golden::make(*seed);
        let lengths = |(path, length): (String, u64)| {
            let length = usize::try_from(length).expect("small");
            (0..length).step_by(stride).map(move |cut| (path.clone(), cut))
        };
        let cuts: Vec<(String, usize)> = golden.files().into_iter().flat_map(lengths).collect();
        share(&cuts, |(path, length)| {
            let _case = Case::new(test, *seed);
            let what = format!("{path} cut to {length}");
            let bytes = golden.harness.disk().bytes(&path).expect("it is listed");
            let mut damaged = golden.copy(length as u64);
            damaged.disk().replace(&path, &bytes[..length]);
            let verdict =
                judge(&mut damaged, &Damage { what: &what, paths: &[&path], instead: &[] });
            tally.note(verdict.figure(), 1);
            tally.add(1);
            if verdict == Verdict::AtOpen && length % 16 == 0 {
                damaged.kill();
                damaged.disk().replace(&path, &bytes);
                let mended = judge(&mut damaged, &Damage { what: &what, paths: &[], instead: &[] });
                assert_eq!(mended, Verdict::Harmless, "{what}: the refusal changed something");
            }
        });
    }
}

/// Files that belong elsewhere or nowhere: swapped in pairs, stale, missing, folders in their place, strange ones beside them.
pub fn misplaced_files(test: &'static str, seeds: &[u64], tally: &Tally) {
    for seed in seeds {
        let _case = Case::new(test, *seed);
        tally.seed();
        let golden = Golden::make(*seed);
        let files: Vec<String> = golden.files().into_iter().map(|(path, _)| path).collect();
        let bytes = |path: &str| golden.harness.disk().bytes(path).expect("it is listed");
        let run = |what: &str, paths: &[&str], instead: &[Model], act: &dyn Fn(&SimDisk)| {
            let mut damaged = golden.copy(7);
            act(damaged.disk());
            let verdict = judge(&mut damaged, &Damage { what, paths, instead });
            tally.note(verdict.figure(), 1);
            tally.add(1);
            verdict
        };
        let places: Vec<usize> = (0..files.len()).collect();
        share(&places, |index| {
            let _case = Case::new(test, *seed);
            let first = &files[index];
            for second in &files[index + 1..] {
                let what = format!("{first} and {second} swapped");
                let swap = |disk: &SimDisk| {
                    disk.replace(first, &bytes(second));
                    disk.replace(second, &bytes(first));
                };
                let verdict = run(&what, &[first, second], &[], &swap);
                assert!(verdict != Verdict::Harmless || !is_missed(first), "{what}: not seen");
            }
            let lose = |disk: &SimDisk| disk.lose(first);
            let verdict = run(&format!("{first} missing"), &[first], &[], &lose);
            assert!(verdict != Verdict::Harmless || !is_missed(first), "nobody missed {first}");
            let folder = |disk: &SimDisk| disk.replace_with_folder(first);
            run(&format!("{first} is a folder"), &[first], &[], &folder);
        });
        for (path, old) in &golden.stale {
            let what = format!("{path} as it was with {} bytes", old.len());
            run(&what, &[path], &golden.earlier, &|disk| disk.replace(path, old));
        }
        strange_files(&golden, &run);
        let pieces = foreign_pieces(&golden);
        share(&pieces, |(path, what, spliced)| {
            let _case = Case::new(test, *seed);
            let verdict = run(&what, &[&path], &[], &|disk| disk.replace(&path, &spliced));
            assert_eq!(verdict, Verdict::Harmless, "{what}");
        });
    }
}

/// Damages a copy of the database and judges it: what is done, the files that may be named for it, what it may hold instead,
/// and the deed itself.
type Run<'a> = dyn Fn(&str, &[&str], &[Model], &dyn Fn(&SimDisk)) -> Verdict + 'a;

/// Files with pieces of others, which are gone, behind their end: what a disk shows where a new file got the blocks of an old
/// one and was not written yet. Each with its path, what is told of it, and its bytes.
fn foreign_pieces(golden: &Golden) -> Vec<(String, String, Vec<u8>)> {
    let mut pieces = Vec::new();
    for (path, _) in golden.files() {
        let kind = if path.starts_with("wal/") { "wal/" } else { "manifest" };
        if !path.starts_with(kind) {
            continue;
        }
        let bytes = golden.harness.disk().bytes(&path).expect("it is listed");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        // A log file is longer than its records, which may end in zeros only where a mark says so.
        let end = if kind == "wal/" { used.next_multiple_of(8) } else { bytes.len() };
        for (old_path, old) in golden.gone.iter().filter(|(old, _)| old.starts_with(kind)) {
            let old_used = old.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            for from in (0..old_used.min(2_400)).step_by(8) {
                let mut spliced = bytes[..end.min(bytes.len())].to_vec();
                spliced.extend_from_slice(&old[from..]);
                spliced.truncate(bytes.len().max(end + old_used - from));
                spliced.resize(spliced.len().max(bytes.len()), 0);
                let what = format!("{path} with {old_path} from byte {from} behind its end");
                pieces.push((path.clone(), what, spliced));
            }
        }
    }
    pieces
}

/// Whether the database cannot do without this file: a checkpoint is computed anew, and of the log only what no segment holds is
/// needed.
fn is_missed(path: &str) -> bool {
    !path.starts_with("latest") && !path.starts_with("wal")
}

fn strange_files(golden: &Golden, run: &Run<'_>) {
    const UNKNOWN: [&str; 7] = [
        "readme",
        "wal/notes.txt",
        "wal/zz-1.wal.bak",
        "segments/x.tmp",
        "trash/x",
        "manifest-1.log",
        "latest-1.ckpt",
    ];
    for path in UNKNOWN {
        for content in [&b"not ours"[..], b""] {
            let act = |disk: &SimDisk| disk.replace(path, content);
            let verdict = run(&format!("{path} is strange"), &[], &[], &act);
            assert_eq!(verdict, Verdict::Harmless, "{path}");
        }
    }
    let far = "ffffffffffffff00";
    let empty = [
        format!("manifest-{far}.log"),
        format!("latest-{far}.ckpt"),
        format!("segments/raw-20300101-{far}.seg"),
    ];
    for path in &empty {
        let verdict = run(&format!("{path} is empty"), &[], &[], &|disk| disk.replace(path, b""));
        assert_eq!(verdict, Verdict::Harmless, "{path}");
    }
    // A copy of each file under a name of its kind that nothing leads to.
    for (path, _) in golden.files() {
        let bytes = golden.harness.disk().bytes(&path).expect("it is listed");
        let copy = if path.starts_with("segments/") {
            format!("segments/raw-20300101-{far}.seg")
        } else if path.starts_with("manifest") {
            format!("manifest-{far}.log")
        } else if path.starts_with("latest") {
            format!("latest-{far}.ckpt")
        } else {
            format!("{path}.copy")
        };
        let act = |disk: &SimDisk| disk.replace(&copy, &bytes);
        let verdict = run(&format!("{path} copied to {copy}"), &[&copy], &[], &act);
        assert_eq!(verdict, Verdict::Harmless, "{copy}");
    }
}

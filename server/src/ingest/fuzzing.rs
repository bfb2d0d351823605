//! Body of the fuzz target `ingest`: messages of a gateway, as hostile as they come. `fuzz/` runs it under libFuzzer, the
//! test below replays its corpus.
//!
//! # Contract
//! * Panics when a claim breaks: what is taken from a batch agrees with itself, is no more than a batch may hold, and is
//!   what the generated decoder finds in the same bytes, which shares no code with ours.
//! * Needs nothing but the bytes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tagmill_proto::{Message as _, v1, view};
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::limits::BATCH_SAMPLES_MAX;
use tagmill_storage::{
    Aliases, Engine, Options, Registry, SystemClock, TagColumn, TagDefinition, TagId, TagSets,
    ValueType, Values,
};

use super::convert::{Converted, Known, convert, outline};

/// What the gateway has defined: a tag of each type as alias 0 to 5, the first three as set 1.
struct Defined {
    registry: Registry,
    aliases: Aliases,
    sets: TagSets,
}

fn defined() -> &'static Defined {
    static DEFINED: OnceLock<Defined> = OnceLock::new();
    DEFINED.get_or_init(|| {
        let (disk, clock) = (Arc::new(SimDisk::new(1)), Arc::new(SystemClock::default()));
        let options = Options { wal_bytes: 128 << 10, ..Options::default() };
        let engine = Engine::open_on(disk, clock, options).expect("an empty disk");
        let mut tags = ValueType::ALL.map(|kind| TagDefinition::new(kind.to_string(), kind));
        tags[4].attributes.state_set = Some("motor".into());
        let ids = engine.define(&tags).expect("a healthy disk");
        let labels = ["STOP".to_owned(), "RUN".to_owned()];
        engine.grow_states("motor", &labels).expect("a healthy disk");
        let registry = engine.snapshot().registry().clone();
        let aliases: Aliases = Arc::new((0..).zip(ids.iter().copied()).collect());
        let scanned: Arc<[TagId]> = ids.iter().take(3).copied().collect();
        Defined { registry, aliases, sets: HashMap::from([(1, (1, scanned))]) }
    })
}

/// Any message is read or refused.
pub(super) fn message(data: &[u8]) {
    let Ok(view::ClientMessage { message: Some(message) }) = view::ClientMessage::decode(data)
    else {
        return;
    };
    if let view::client_message::Message::Batch(bytes) = message {
        batch(&bytes);
    }
}

fn batch(bytes: &[u8]) {
    let Ok(outline) = outline(bytes) else { return };
    if outline.announced > BATCH_SAMPLES_MAX as u64 {
        return; // answered without being read
    }
    let Defined { registry, aliases, sets } = defined();
    let Ok(converted) = convert(bytes, &Known { registry, aliases, sets }) else { return };
    check_form(&converted);
    if let Ok(oracle) = v1::Batch::decode(bytes) {
        assert_eq!(outline.seq, oracle.seq);
        check_against(&converted, &oracle);
    }
}

fn check_form(converted: &Converted) {
    let mut samples = 0;
    for column in &converted.columns {
        let count = column.times.len();
        assert_eq!(column.values.len(), count, "as many values as times");
        assert!(column.qualities.fits(count), "qualities do not fit");
        samples += count;
    }
    for scan in &converted.scans {
        let cells = scan.times.len() * scan.tags.len();
        assert_eq!(scan.values.len(), cells, "as many values as cells");
        assert!(scan.missing.is_empty() || scan.missing.len() == cells);
        assert!(scan.qualities.fits(cells), "qualities do not fit");
        samples += cells;
    }
    assert!(samples <= BATCH_SAMPLES_MAX, "{samples} samples");
}

/// Every part is there once: taken or left out.
fn check_against(converted: &Converted, oracle: &v1::Batch) {
    let parts = oracle.columns.len() + oracle.scans.len();
    let mut left_out: Vec<u32> = converted.rejects.iter().map(|reject| reject.part).collect();
    left_out.sort_unstable();
    left_out.dedup();
    assert_eq!(left_out.len(), converted.rejects.len(), "a part is left out twice");
    let taken = converted.columns.len() + converted.scans.len();
    assert_eq!(taken + left_out.len(), parts, "taken and left out");
    let is_left_out = |part: usize| left_out.iter().any(|left| *left as usize == part);
    let columns = oracle.columns.iter().enumerate();
    let expected = columns.filter(|(part, _)| !is_left_out(*part)).map(|(_, column)| column);
    for (column, expected) in converted.columns.iter().zip(expected) {
        check_column(column, expected);
    }
    let scans = (oracle.columns.len()..).zip(&oracle.scans);
    let expected = scans.filter(|(part, _)| !is_left_out(*part)).map(|(_, scan)| scan);
    for (scan, expected) in converted.scans.iter().zip(expected) {
        assert_eq!(scan.times, expected.times_ns);
        let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&scan.values), bits(&expected.values));
    }
}

fn check_column(column: &TagColumn, expected: &v1::TagColumn) {
    assert_eq!(defined().aliases.get(&expected.alias), Some(&column.tag));
    assert_eq!(column.times, times_of(expected));
    let same = match &column.values {
        Values::F64(found) => {
            same_or_absent(found, &expected.f64, |v| v.to_bits(), |v| v.to_bits())
        }
        Values::F32(found) => {
            same_or_absent(found, &expected.f32, |v| v.to_bits(), |v| v.to_bits())
        }
        Values::I64(found) => same_or_absent(found, &expected.i64, |v| *v, |v| *v),
        Values::Bool(found) => same_or_absent(found, &expected.bools, |v| *v, |v| *v),
        Values::State(found) => {
            same_or_absent(found, &expected.states, |v| u32::from(*v), |v| *v)
                || expected.texts.len() == found.len()
        }
        Values::Text(found) => {
            same_or_absent(found, &expected.texts, ToString::to_string, Clone::clone)
        }
    };
    assert!(same, "{:?} is not {expected:?}", column.values);
}

/// Whether the values are those expected, or none were sent because all samples are Bad.
fn same_or_absent<F, E, K: PartialEq>(
    found: &[F],
    expected: &[E],
    key: impl Fn(&F) -> K,
    expected_key: impl Fn(&E) -> K,
) -> bool {
    expected.is_empty() || found.iter().map(key).eq(expected.iter().map(expected_key))
}

/// The times of a column in the words of its documentation.
fn times_of(column: &v1::TagColumn) -> Vec<i64> {
    if !column.times_ns.is_empty() {
        return column.times_ns.clone();
    }
    let mut time = column.base_ns;
    let mut times = Vec::new();
    for index in 0..column.count as usize {
        times.push(time);
        let step = if column.time_deltas_ns.is_empty() {
            column.step_ns
        } else {
            column.time_deltas_ns.get(index).copied().unwrap_or_default()
        };
        time = time.wrapping_add(step);
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_messages_breaks_no_claim() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/engine/corpus/ingest");
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            message(&bytes);
            for at in 0..bytes.len() {
                message(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                message(&changed);
            }
            files += 1;
        }
        assert!(files >= 3, "there is a corpus");
    }
}

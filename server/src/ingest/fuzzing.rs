//! Body of the fuzz target `ingest`: messages of a gateway, as hostile as they come, on its stream and off it. `fuzz/`
//! runs it under libFuzzer, the test below replays its corpus.
//!
//! # Contract
//! * Panics when a claim breaks: what is taken from a batch agrees with itself, is no more than a batch may hold, and is
//!   what the generated decoder finds in the same bytes, which shares no code with ours. Definitions likewise: each is
//!   taken or refused for a reason that it has.
//! * Needs nothing but the bytes.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use tagmill_proto::{Message as _, v1, view};
use tagmill_storage::disk::sim::SimDisk;
use tagmill_storage::limits::BATCH_SAMPLES_MAX;
use tagmill_storage::{
    Aliases, Engine, Options, Registry, SystemClock, TagColumn, TagDefinition, TagId, TagSets,
    ValueType, Values, check_name,
};

use super::convert::{Converted, Known, Target, announced, convert, outline};
use super::messages::{
    Definitions, NamedColumn, TAGS_MAX, check_key, columns, definition, tags_of_set, value_type,
};
use super::parts::RawColumn;

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

/// Any message is read or refused, to whichever call it is sent.
pub(super) fn message(data: &[u8]) {
    if let Ok(view::ClientMessage { message: Some(message) }) = view::ClientMessage::decode(data) {
        of_stream(message, data);
    }
    if let Ok(request) = view::WriteRequest::decode(data) {
        let is_key = check_key(&request.key).is_ok();
        assert!(!is_key || !request.key.chars().any(char::is_control), "{:?}", request.key);
        named_batch(&request.batch);
    }
    if let Ok(request) = view::DefineTagsRequest::decode(data) {
        definitions(&request.define, !request.gateway.is_empty());
    }
}

fn of_stream(message: view::client_message::Message, data: &[u8]) {
    use view::client_message::Message;
    match message {
        Message::Batch(bytes) => batch(&bytes),
        Message::DefineTags(bytes) => definitions(&bytes, true),
        Message::DefineTagSet(bytes) => tag_set(&bytes),
        Message::Hello(hello) => {
            if let Ok(oracle) = v1::ClientMessage::decode(data) {
                assert_eq!(oracle.message, Some(v1::client_message::Message::Hello(hello)));
            }
        }
        Message::Flush(flush) => {
            if let Ok(oracle) = v1::ClientMessage::decode(data) {
                assert_eq!(oracle.message, Some(v1::client_message::Message::Flush(flush)));
            }
        }
    }
}

fn definitions(bytes: &[u8], needs_alias: bool) {
    let Ok(read) = Definitions::read(bytes) else { return };
    assert!(read.tags.len() <= TAGS_MAX, "{} tags", read.tags.len());
    if let Ok(oracle) = v1::DefineTags::decode(bytes) {
        assert_eq!((read.id, read.tags.len()), (oracle.id, oracle.tags.len()));
        for (found, expected) in read.tags.iter().zip(&oracle.tags) {
            assert_eq!(without_nan(found.clone()), without_nan(expected.clone()));
        }
    }
    for tag in read.tags {
        let wanted = tag.clone();
        let (kind, has_alias) = (value_type(wanted.r#type()), wanted.alias != 0 || !needs_alias);
        match definition(tag, needs_alias) {
            Ok(found) => {
                assert!(has_alias && check_name(&found.name).is_ok(), "{wanted:?} was taken");
                assert_eq!((&found.name, Some(found.value_type)), (&wanted.name, kind));
                let labels = wanted.attributes.unwrap_or_default().labels;
                assert_eq!(found.attributes.labels, labels.into_iter().collect());
            }
            Err(why) => {
                let is_fine = has_alias && kind.is_some() && check_name(&wanted.name).is_ok();
                assert!(!is_fine, "{wanted:?}: {why}");
            }
        }
    }
}

/// The same, of which a copy equals it.
fn without_nan(mut tag: v1::TagDefinition) -> v1::TagDefinition {
    if let Some(attributes) = &mut tag.attributes {
        for number in [
            &mut attributes.range_low,
            &mut attributes.range_high,
            &mut attributes.rollover,
            &mut attributes.jitter,
            &mut attributes.reset_value,
        ] {
            *number = number.filter(|number| !number.is_nan());
        }
    }
    tag
}

/// A set holds the tags of its aliases, or is refused for one that it has.
fn tag_set(bytes: &[u8]) {
    let Ok(set) = v1::DefineTagSet::decode(bytes) else { return };
    let Defined { registry, aliases, .. } = defined();
    let type_of = |alias: &u32| Some(registry.get(*aliases.get(alias)?)?.value_type);
    match tags_of_set(&set, registry, aliases) {
        Ok(tags) => {
            assert!(set.set != 0 && tags.len() == set.aliases.len(), "{set:?}");
            for (tag, alias) in tags.iter().zip(&set.aliases) {
                assert_eq!(Some(tag), aliases.get(alias));
                assert_ne!(type_of(alias), Some(ValueType::Text));
            }
        }
        Err(reject) if set.set == 0 => assert_eq!(reject.alias, 0),
        Err(reject) => {
            assert!(set.aliases.contains(&reject.alias), "{reject:?}");
            assert!(type_of(&reject.alias).is_none_or(|kind| kind == ValueType::Text));
        }
    }
}

fn named_batch(batch: &[u8]) {
    let Ok(named) = columns(batch).collect::<Result<Vec<_>, _>>() else { return };
    if let Ok(oracle) = v1::NamedBatch::decode(batch) {
        assert_eq!(named.len(), oracle.columns.len());
        for (found, expected) in named.iter().zip(&oracle.columns) {
            assert_eq!(found.name, expected.name);
            assert_eq!(found.value_type, value_type(expected.r#type()));
        }
    }
    if named.iter().map(|named| announced(named.column)).sum::<u64>() > BATCH_SAMPLES_MAX as u64 {
        return; // answered without being read
    }
    let mut converted = Converted::default();
    for (part, named) in (0..).zip(&named) {
        named_column(part, named, &mut converted);
    }
    check_form(&converted);
}

fn named_column(part: u32, named: &NamedColumn<'_>, converted: &mut Converted) {
    let registry = &defined().registry;
    let Ok(raw) = RawColumn::read(named.column) else { return };
    let Some(tag) = registry.find(named.name).and_then(|id| registry.get(id)) else { return };
    let target = Target { tag: tag.id, value_type: tag.value_type, state_set: tag.state_set() };
    let taken = converted.columns.len();
    converted.take_raw(part, &raw, target, registry);
    if let (Some(column), Ok(expected)) =
        (converted.columns.get(taken), v1::TagColumn::decode(named.column))
    {
        assert_eq!(column.tag, tag.id);
        check_column(column, &expected);
    }
}

fn batch(bytes: &[u8]) {
    let Ok(outline) = outline(bytes) else { return };
    if outline.too_long().is_some() {
        return; // answered without being read
    }
    let Defined { registry, aliases, sets } = defined();
    let known = Known { registry, aliases, sets, is_scoped: false };
    let Ok(converted) = convert(bytes, &known) else { return };
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
    let rejects = &converted.rejects;
    if rejects.left_out > 0 {
        return; // which, is not told
    }
    let mut left_out: Vec<u32> = rejects.list.iter().map(|reject| reject.part).collect();
    left_out.sort_unstable();
    left_out.dedup();
    assert_eq!(left_out.len(), rejects.list.len(), "a part is left out twice");
    let taken = converted.columns.len() + converted.scans.len();
    assert_eq!(taken + left_out.len(), parts, "taken and left out");
    let is_left_out = |part: usize| left_out.iter().any(|left| *left as usize == part);
    let columns = oracle.columns.iter().enumerate();
    let expected = columns.filter(|(part, _)| !is_left_out(*part)).map(|(_, column)| column);
    for (column, expected) in converted.columns.iter().zip(expected) {
        assert_eq!(defined().aliases.get(&expected.alias), Some(&column.tag));
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
    #[test]
    fn the_corpus_of_messages_breaks_no_claim() {
        crate::fuzzing::replay("ingest", 2_000, super::message);
    }
}

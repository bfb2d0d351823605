//! From bytes on the wire to samples for the engine: pure, total, and the last place that knows the wire.
//!
//! One bad column or scan block never spoils the others: it becomes a reject. Only bytes in which not even the parts can
//! be told apart are [`Malformed`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tagmill_proto::v1::{Reject, RejectReason};
use tagmill_storage::limits::{BATCH_SAMPLES_MAX, FUTURE_NS};
use tagmill_storage::{
    Aliases, Appended, Qualities, Quality, Registry, ScanBlock, TagColumn, TagId, TagSets,
    ValueType, Values,
};

use super::fields::{Malformed, fields};
use super::parts::{RawColumn, RawScan};
use super::rejects::Rejects;

/// Columns and scan blocks of a batch.
pub(super) const PARTS_MAX: u64 = 100_000;

/// What a batch says before its parts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    /// Its number; 0 if none was sent.
    pub(super) seq: u64,
    /// Samples that its columns announce. Cells of scan blocks are not counted: they take the bytes they say.
    pub(super) announced: u64,
    /// Its columns and scan blocks.
    pub(super) parts: u64,
}

impl Outline {
    /// Why the batch is not read, if it has more than may be.
    pub(super) fn too_long(&self) -> Option<String> {
        let Self { announced, parts, .. } = self;
        if *announced > BATCH_SAMPLES_MAX as u64 {
            let why = "the batch has";
            return Some(format!(
                "{why} {announced} samples, at most {BATCH_SAMPLES_MAX} are taken"
            ));
        }
        let is_long = *parts > PARTS_MAX;
        is_long.then(|| format!("the batch has {parts} parts, at most {PARTS_MAX} are taken"))
    }
}

/// Reads a batch's number and size, so that memory can be asked for before it is taken.
pub(super) fn outline(batch: &[u8]) -> Result<Outline, Malformed> {
    let mut outline = Outline { seq: 0, announced: 0, parts: 0 };
    for field in fields(batch) {
        match field? {
            (1, field) => outline.seq = field.u64("seq")?,
            (2, field) => {
                outline.announced += announced(field.bytes("a column")?);
                outline.parts += 1;
            }
            (3, _) => outline.parts += 1,
            _ => {}
        }
    }
    Ok(outline)
}

/// Samples that a column announces, or 0 if it cannot be read (then it will be rejected).
pub(super) fn announced(column: &[u8]) -> u64 {
    let counts = fields(column).map_while(Result::ok).filter(|(number, _)| *number == 2);
    counts.filter_map(|(_, field)| field.u32("count").ok()).map(u64::from).sum()
}

/// Whose samples a column holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) tag: TagId,
    pub(super) value_type: ValueType,
    /// Where the labels of its states are.
    pub(super) state_set: &'a str,
}

/// State labels that their sets lack, by set.
pub(super) type MissingLabels = BTreeMap<String, BTreeSet<String>>;

/// What a batch becomes.
#[derive(Debug, Default)]
pub(super) struct Converted {
    pub(super) columns: Vec<TagColumn>,
    pub(super) scans: Vec<ScanBlock>,
    /// For each column, then for each scan: where it stood in the batch, and its alias (0 for scans).
    pub(super) places: Places,
    pub(super) rejects: Rejects,
    pub(super) missing_labels: MissingLabels,
}

/// Where the parts that were taken stood in their batch.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    columns: Vec<(u32, u32)>,
    scans: Vec<u32>,
}

impl Places {
    /// The memory they take.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(self.columns.as_slice()) + size_of_val(self.scans.as_slice())
    }
}

/// What a gateway's numbers stand for.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    pub(super) registry: &'a Registry,
    pub(super) aliases: &'a Aliases,
    pub(super) sets: &'a TagSets,
    /// Whether the registry knows but the tags of a scope: sets may name others.
    pub(super) is_scoped: bool,
}

/// No tag's id: the engine refuses what comes for it.
const NOBODY: TagId = TagId(u32::MAX);

impl Known<'_> {
    /// A set, without the tags that are not known here.
    fn seen(&self, tags: &Arc<[TagId]>) -> Arc<[TagId]> {
        let is_seen = |tag: &TagId| self.registry.get(*tag).is_some();
        if !self.is_scoped || tags.iter().all(is_seen) {
            return Arc::clone(tags);
        }
        tags.iter().map(|tag| if is_seen(tag) { *tag } else { NOBODY }).collect()
    }
}

/// Reads a batch.
pub(super) fn convert(batch: &[u8], known: &Known<'_>) -> Result<Converted, Malformed> {
    let mut converted = Converted::default();
    let mut part = 0;
    for field in fields(batch) {
        if let (2, field) = field? {
            converted.take_column(part, field.bytes("a column")?, known);
            part += 1;
        }
    }
    for field in fields(batch) {
        if let (3, field) = field? {
            converted.take_scan(part, field.bytes("a scan block")?, known);
            part += 1;
        }
    }
    converted.check_size();
    Ok(converted)
}

impl Converted {
    fn take_column(&mut self, part: u32, bytes: &[u8], known: &Known<'_>) {
        let raw = match RawColumn::read(bytes) {
            Ok(raw) => raw,
            Err(why) => return self.reject(part, 0, 0, malformed(why)),
        };
        let Some(tag) = known.aliases.get(&raw.alias) else {
            let why = format!("alias {} is not defined", raw.alias);
            return self.reject(part, raw.alias, raw.count, (RejectReason::UnknownAlias, why));
        };
        let Some(tag) = known.registry.get(*tag).filter(|tag| !tag.is_deleted()) else {
            let why = (RejectReason::UnknownTag, "the tag was deleted".into());
            return self.reject(part, raw.alias, raw.count, why);
        };
        let state_set = tag.state_set();
        let target = Target { tag: tag.id, value_type: tag.value_type, state_set };
        self.take_raw(part, &raw, target, known.registry);
    }

    /// Takes a column whose tag is known.
    pub(super) fn take_raw(
        &mut self,
        part: u32,
        raw: &RawColumn<'_>,
        target: Target<'_>,
        registry: &Registry,
    ) {
        match column(raw, target, registry, &mut self.missing_labels) {
            Ok(column) => {
                self.columns.push(column);
                self.places.columns.push((part, raw.alias));
            }
            Err(why) => self.reject(part, raw.alias, raw.count, why),
        }
    }

    fn take_scan(&mut self, part: u32, bytes: &[u8], known: &Known<'_>) {
        let raw = match RawScan::read(bytes) {
            Ok(raw) => raw,
            Err(why) => return self.reject(part, 0, 0, malformed(why)),
        };
        let tags = match known.sets.get(&raw.set) {
            Some((version, tags)) if *version == raw.version => tags,
            Some((version, _)) => {
                let RawScan { set, version: found, .. } = raw;
                let why = format!("tag set {set} has version {version} here, not {found}");
                return self.reject(part, 0, raw.cycles, (RejectReason::UnknownTagSet, why));
            }
            None => {
                let why = format!("tag set {} is not defined", raw.set);
                return self.reject(part, 0, raw.cycles, (RejectReason::UnknownTagSet, why));
            }
        };
        match scan(&raw, &known.seen(tags)) {
            Ok(block) => {
                self.scans.push(block);
                self.places.scans.push(part);
            }
            Err(why) => self.reject(part, 0, raw.cycles, malformed(why)),
        }
    }

    pub(super) fn reject(&mut self, part: u32, alias: u32, count: u32, why: Why) {
        let (reason, detail) = why;
        let reason = reason.into();
        self.rejects.push(Reject { seq: 0, part, alias, first: 0, count, reason, detail });
    }

    /// What becomes of a batch that is too long to be read.
    pub(super) fn too_long(announced: u64, why: String) -> Self {
        let mut converted = Self::default();
        let count = u32::try_from(announced).unwrap_or(u32::MAX);
        converted.reject(0, 0, count, (RejectReason::TooLong, why));
        converted
    }

    fn samples(&self) -> usize {
        let columns: usize = self.columns.iter().map(|column| column.times.len()).sum();
        columns + self.scans.iter().map(|scan| scan.values.len()).sum::<usize>()
    }

    /// A batch of too many samples is left out as a whole: the engine takes one or none.
    pub(super) fn check_size(&mut self) {
        let samples = self.samples();
        if samples <= BATCH_SAMPLES_MAX {
            return;
        }
        let why = format!("the batch has {samples} samples, at most {BATCH_SAMPLES_MAX} are taken");
        let places = std::mem::take(&mut self.places);
        let columns = places
            .columns
            .iter()
            .zip(&self.columns)
            .map(|((part, alias), column)| (*part, *alias, column.times.len()));
        let scans =
            places.scans.iter().zip(&self.scans).map(|(part, scan)| (*part, 0, scan.times.len()));
        let parts: Vec<_> = columns.chain(scans).collect();
        self.columns.clear();
        self.scans.clear();
        for (part, alias, count) in parts {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            self.reject(part, alias, count, (RejectReason::TooLong, why.clone()));
        }
    }

    /// Whether more than half of the samples are too far ahead of the clock.
    pub(super) fn is_mostly_future(&self, now_ns: i64) -> bool {
        let limit = now_ns.saturating_add(FUTURE_NS);
        let ahead = |times: &[i64]| times.iter().filter(|time| **time > limit).count();
        let columns: usize = self.columns.iter().map(|column| ahead(&column.times)).sum();
        let scans: usize = self.scans.iter().map(|scan| ahead(&scan.times) * scan.tags.len()).sum();
        (columns + scans) * 2 > self.samples()
    }
}

/// Why a part is left out.
pub(super) type Why = (RejectReason, String);

fn malformed(why: Malformed) -> Why {
    (RejectReason::Malformed, why.0)
}

fn column(
    raw: &RawColumn<'_>,
    target: Target<'_>,
    registry: &Registry,
    missing: &mut MissingLabels,
) -> Result<TagColumn, Why> {
    let times = raw.times().map_err(malformed)?;
    let qualities = qualities(&raw.quality, times.len()).map_err(malformed)?;
    let found = raw.value_field().map_err(malformed)?;
    let values = match (target.value_type, found) {
        (value_type, None) => absent(value_type, &qualities, times.len())?,
        (ValueType::F64, Some("f64")) => Values::F64(raw.f64().map_err(malformed)?),
        (ValueType::F32, Some("f32")) => Values::F32(raw.f32().map_err(malformed)?),
        (ValueType::I64, Some("i64")) => Values::I64(raw.i64().map_err(malformed)?),
        (ValueType::Bool, Some("bools")) => Values::Bool(raw.bools().map_err(malformed)?),
        (ValueType::State, Some("states")) => Values::State(raw.states().map_err(malformed)?),
        (ValueType::Text, Some("texts")) => Values::Text(raw.texts().map_err(malformed)?),
        (ValueType::State, Some("texts")) => {
            let labels = raw.checked_texts().map_err(malformed)?;
            Values::State(codes(labels, target.state_set, registry, missing)?)
        }
        (value_type, Some(field)) => {
            let why = format!("the values stand in field {field}, the tag is {value_type}");
            return Err((RejectReason::WrongType, why));
        }
    };
    Ok(TagColumn { tag: target.tag, times, values, qualities })
}

/// Values of samples whose source had none.
fn absent(value_type: ValueType, qualities: &Qualities, count: usize) -> Result<Values, Why> {
    let all_bad = match qualities {
        Qualities::Uniform(quality) => quality.is_bad() || count == 0,
        Qualities::Each(each) => each.iter().all(|quality| quality.is_bad()),
    };
    if !all_bad {
        let why = "there are no values, though not all samples are Bad";
        return Err((RejectReason::Malformed, why.into()));
    }
    Ok(match value_type {
        ValueType::F64 => Values::F64(vec![f64::NAN; count]),
        ValueType::F32 => Values::F32(vec![f32::NAN; count]),
        ValueType::I64 => Values::I64(vec![0; count]),
        ValueType::Bool => Values::Bool(vec![false; count]),
        ValueType::State => Values::State(vec![0; count]),
        ValueType::Text => Values::Text(vec![Arc::from(""); count]),
    })
}

fn codes(
    labels: &[&str],
    set: &str,
    registry: &Registry,
    missing: &mut MissingLabels,
) -> Result<Vec<u16>, Why> {
    let known = registry.states(set);
    let mut codes = Vec::with_capacity(labels.len());
    let mut last = None;
    for label in labels {
        let code = match last {
            Some((before, code)) if before == *label => Some(code),
            _ => known.and_then(|known| known.code(label)),
        };
        match code {
            Some(code) => {
                last = Some((*label, code));
                codes.push(code);
            }
            None => {
                missing.entry(set.to_owned()).or_default().insert((*label).to_owned());
            }
        }
    }
    if codes.len() == labels.len() {
        return Ok(codes);
    }
    let why = format!("a label is not in state set {set} and cannot be added to it");
    Err((RejectReason::WrongType, why))
}

fn scan(raw: &RawScan<'_>, tags: &Arc<[TagId]>) -> Result<ScanBlock, Malformed> {
    let cycles = raw.cycles as usize;
    let cells = cycles.checked_mul(tags.len()).filter(|cells| *cells <= raw.values.bytes().len());
    let cells =
        cells.ok_or_else(|| Malformed("there are less values than cycles x tags".into()))?;
    let times = raw.times_ns.fixed(cycles, "times_ns")?;
    let values = raw.values.fixed(cells, "values")?;
    let missing = raw.missing;
    if !missing.is_empty() && missing.len() != cells.div_ceil(8) {
        let (found, expected) = (missing.len(), cells.div_ceil(8));
        return Err(Malformed(format!("missing has {found} bytes, expected {expected}")));
    }
    let flag = |cell: usize| missing[cell / 8] >> (cell % 8) & 1 == 1;
    Ok(ScanBlock {
        tags: Arc::clone(tags),
        times: times.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        values: values.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        missing: if missing.is_empty() { Vec::new() } else { (0..cells).map(flag).collect() },
        qualities: qualities(&raw.quality, cells)?,
    })
}

fn qualities(raw: &super::parts::RawQuality<'_>, count: usize) -> Result<Qualities, Malformed> {
    let runs = raw.runs(count)?;
    match runs.as_slice() {
        [] => Ok(Qualities::GOOD),
        [(code, _)] => Ok(Qualities::Uniform(Quality(*code))),
        runs => {
            let mut each = Vec::with_capacity(count);
            for (code, run) in runs {
                each.extend(std::iter::repeat_n(Quality(*code), *run as usize));
            }
            Ok(Qualities::Each(each))
        }
    }
}

impl Places {
    /// Adds what the engine refused, in the words of the wire.
    pub(super) fn reject(&self, appended: &Appended, aliases: &Aliases, rejects: &mut Rejects) {
        let mut alias_of: HashMap<TagId, u32> = HashMap::new();
        for reject in &appended.rejects {
            let (part, alias) = if let Some(place) = self.columns.get(reject.part) {
                *place
            } else {
                if alias_of.is_empty() {
                    alias_of = aliases.iter().map(|(alias, tag)| (*tag, *alias)).collect();
                }
                let scan = self.scans.get(reject.part - self.columns.len());
                let alias = alias_of.get(&reject.tag).copied().unwrap_or_default();
                (scan.copied().unwrap_or_default(), alias)
            };
            rejects.push(Reject {
                seq: 0,
                part,
                alias,
                first: reject.first,
                count: reject.count,
                reason: reason(reject.reason).into(),
                detail: reject.reason.to_string(),
            });
        }
    }
}

fn reason(reason: tagmill_storage::RejectReason) -> RejectReason {
    use tagmill_storage::RejectReason as Engine;
    match reason {
        Engine::UnknownTag => RejectReason::UnknownTag,
        Engine::TypeMismatch => RejectReason::WrongType,
        Engine::Future => RejectReason::Future,
        Engine::OutOfRange => RejectReason::OutOfRange,
        Engine::LengthMismatch => RejectReason::Malformed,
        Engine::TooLong => RejectReason::TooLong,
        Engine::TooLate => RejectReason::TooLate,
    }
}

#[cfg(test)]
mod tests {
    use super::super::rejects::REJECTS_MAX;
    use super::*;

    #[test]
    fn parts_without_a_word_are_counted_before_they_take_memory() {
        let (registry, aliases, sets) = Default::default();
        let known = Known { registry: &registry, aliases: &aliases, sets: &sets, is_scoped: false };
        let empty = |parts: usize| [0x12, 0, 0x1A, 0].repeat(parts / 2);
        let batch = empty(50_000);
        let outline = outline(&batch).unwrap();
        assert_eq!((outline.parts, outline.announced, outline.too_long()), (50_000, 0, None));
        let converted = convert(&batch, &known).unwrap();
        assert_eq!(converted.rejects.list.len(), REJECTS_MAX);
        assert_eq!(converted.rejects.left_out, 50_000 - REJECTS_MAX as u64);
        let longer = super::outline(&empty(100_002)).unwrap();
        assert!(longer.too_long().unwrap().contains("100002 parts"));
    }

    #[test]
    fn a_count_beyond_all_is_told_from_the_outline() {
        // A column whose count is 4294967295.
        let outline = outline(&[8, 1, 0x12, 6, 0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F]).unwrap();
        assert_eq!(outline, Outline { seq: 1, announced: u64::from(u32::MAX), parts: 1 });
        assert!(outline.too_long().unwrap().contains("4294967295 samples"));
    }

    #[test]
    fn a_set_that_names_tags_outside_of_the_scope_writes_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let engine =
            tagmill_storage::Engine::open(dir.path(), tagmill_storage::Options::default()).unwrap();
        let define = |name| tagmill_storage::TagDefinition::new(name, ValueType::F64);
        let ids = engine.define(&[define("plant/a"), define("other/b")]).unwrap();
        let scope = Arc::new(tagmill_storage::TagScope::new(&["plant"]).unwrap());
        let within = engine.snapshot().within(&scope);
        let (aliases, sets) = Default::default();
        let registry = within.registry();
        let known = Known { registry, aliases: &aliases, sets: &sets, is_scoped: true };
        let tags = known.seen(&Arc::from(ids.as_slice()));
        assert_eq!(tags.as_ref(), [ids[0], NOBODY]);
        let scan = ScanBlock {
            tags,
            times: vec![5],
            values: vec![1.0, 2.0],
            missing: Vec::new(),
            qualities: Qualities::GOOD,
        };
        let batch = tagmill_storage::Batch { scans: vec![scan], ..Default::default() };
        let appended = engine.append(batch).unwrap();
        assert_eq!((appended.accepted, appended.rejects.len()), (1, 1));
        assert_eq!(appended.rejects[0].reason, tagmill_storage::RejectReason::UnknownTag);
    }
}

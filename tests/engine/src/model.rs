//! What the database ought to hold, in the plainest words: [`Model`].
//!
//! # Contract
//! * One `BTreeMap` from (tag, time) to value and quality. Every rule is written out again here, from the documents and
//!   not from the engine, so that a mistake must be made twice to go unseen.
//! * Values compare bit for bit: the payload of a NaN and the sign of a zero count.
//!
//! It knows nothing of logs, segments or files.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use tagmill_storage::{
    Batch, Quality, ScanBlock, ScanRequest, TagAttributes, TagColumn, TagDefinition, TagEdit,
    TagId, TagSelection, TimeRange, Value, ValueType, limits,
};

/// Key of a sample.
pub type Key = (TagId, i64);
/// What a sample says.
pub type Cell = (Value, Quality);
/// Samples by tag and time.
pub type Rows = BTreeMap<Key, Cell>;

/// One change of the database: what one record of its log says.
#[derive(Clone, Debug)]
pub enum Change {
    /// Tags were defined, or their unset attributes filled.
    Define(Vec<(TagId, TagDefinition)>),
    /// Samples were written, with the definitions of the tags they were the first of.
    Append {
        /// Tags that may have been reserved only.
        defines: Vec<(TagId, TagDefinition)>,
        /// What was sent.
        batch: Batch,
        /// Wall clock then, nanoseconds.
        now_ns: i64,
    },
    /// Samples were deleted.
    Delete {
        /// Of these tags.
        tags: Vec<TagId>,
        /// In this range.
        range: TimeRange,
    },
    /// A tag was renamed or got other attributes.
    Edit(TagId, TagEdit),
    /// A tag was deleted.
    DeleteTag(TagId),
    /// Codes of a state set got their labels.
    States(String, Vec<(u16, String)>),
    /// A gateway's aliases were defined.
    Aliases(String, Vec<(u32, TagId)>),
}

/// A tag as the model knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelTag {
    /// Name, type and attributes; the name is empty once it is deleted.
    pub definition: TagDefinition,
}

/// What became of the samples of a batch.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    /// Samples taken, in the order in which they overwrite each other.
    pub taken: Vec<(Key, Cell)>,
    /// Part, tag and position (of a scan block: cycle) of every refused sample.
    pub refused: BTreeSet<(usize, TagId, usize)>,
    /// Parts whose lengths differ: refused whole.
    pub mismatched: BTreeSet<usize>,
}

/// What the database ought to hold.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Every tag that must be known.
    pub tags: BTreeMap<TagId, ModelTag>,
    /// Every sample.
    pub rows: Rows,
    /// Labels of state sets by code.
    pub states: BTreeMap<String, BTreeMap<u16, String>>,
    /// Epoch and seq of each gateway's newest batch.
    pub marks: BTreeMap<Arc<str>, (u64, u64)>,
    /// Aliases of each gateway.
    pub aliases: BTreeMap<String, BTreeMap<u32, TagId>>,
}

impl Model {
    /// Tags that are not deleted.
    pub fn live(&self) -> impl Iterator<Item = (TagId, &TagDefinition)> {
        let live = self.tags.iter().filter(|(_, tag)| !tag.definition.name.is_empty());
        live.map(|(id, tag)| (*id, &tag.definition))
    }

    /// The live tag with this name.
    pub fn find(&self, name: &str) -> Option<TagId> {
        self.live().find(|(_, definition)| definition.name == name).map(|(id, _)| id)
    }

    /// Applies one change.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Define(tags) => self.define(tags),
            Change::Append { defines, batch, now_ns } => self.append(defines, batch, *now_ns),
            Change::Delete { tags, range } => {
                self.rows.retain(|(tag, time), _| !(tags.contains(tag) && range.contains(*time)));
            }
            Change::Edit(id, edit) => {
                let tag = self.tags.get_mut(id).expect("only known tags are edited");
                if let Some(name) = &edit.name {
                    tag.definition.name.clone_from(name);
                }
                if let Some(attributes) = &edit.attributes {
                    tag.definition.attributes.clone_from(attributes);
                }
            }
            Change::DeleteTag(id) => {
                let tag = self.tags.get_mut(id).expect("only known tags are deleted");
                tag.definition.name.clear();
                self.rows.retain(|(tag, _), _| tag != id);
            }
            Change::States(set, labels) => {
                self.states.entry(set.clone()).or_default().extend(labels.iter().cloned());
            }
            Change::Aliases(gateway, aliases) => {
                self.aliases.entry(gateway.clone()).or_default().extend(aliases.iter().copied());
            }
        }
    }

    fn define(&mut self, tags: &[(TagId, TagDefinition)]) {
        for (id, definition) in tags {
            match self.tags.get_mut(id) {
                Some(tag) => fill(&mut tag.definition.attributes, &definition.attributes),
                None => {
                    self.tags.insert(*id, ModelTag { definition: definition.clone() });
                }
            }
        }
    }

    fn append(&mut self, defines: &[(TagId, TagDefinition)], batch: &Batch, now_ns: i64) {
        let judged = self.judge(defines, batch, now_ns);
        let used: BTreeSet<TagId> = judged.taken.iter().map(|((tag, _), _)| *tag).collect();
        let used = defines.iter().filter(|(id, _)| used.contains(id)).cloned().collect::<Vec<_>>();
        self.define(&used);
        self.rows.extend(judged.taken);
        if let Some(origin) = &batch.origin {
            self.marks.insert(Arc::clone(&origin.gateway), (origin.epoch, origin.seq));
        }
    }

    /// Which samples of a batch are taken and which are refused.
    pub fn judge(&self, defines: &[(TagId, TagDefinition)], batch: &Batch, now_ns: i64) -> Judged {
        let type_of = |tag: TagId| {
            let new = defines.iter().find(|(id, _)| *id == tag).map(|(_, d)| d);
            let known = self.tags.get(&tag).map(|t| &t.definition).filter(|d| !d.name.is_empty());
            known.or(new).map(|definition| definition.value_type)
        };
        let mut judged = Judged::default();
        for (part, column) in batch.columns.iter().enumerate() {
            judged.column(part, column, type_of(column.tag), now_ns);
        }
        for (index, scan) in batch.scans.iter().enumerate() {
            judged.scan(batch.columns.len() + index, scan, &type_of, now_ns);
        }
        judged
    }

    /// The greatest time of a tag with its value and quality.
    pub fn latest(&self, tag: TagId) -> Option<(i64, &Cell)> {
        let mut of_tag = self.rows.range((tag, i64::MIN)..=(tag, i64::MAX));
        of_tag.next_back().map(|((_, time), cell)| (*time, cell))
    }

    /// What a scan must give, in its order.
    pub fn scan(&self, request: &ScanRequest) -> Vec<(Key, Cell)> {
        let wanted = |(tag, time): &Key| {
            let selected = match &request.tags {
                TagSelection::All => true,
                TagSelection::Only(only) => only.contains(tag),
            };
            selected && request.range.contains(*time)
        };
        let mut found: Vec<(Key, Cell)> =
            self.rows.iter().filter(|(key, _)| wanted(key)).map(|(k, c)| (*k, c.clone())).collect();
        if request.descending {
            found.sort_by_key(|((tag, time), _)| (*tag, std::cmp::Reverse(*time)));
        }
        let limit = request.limit.map_or(usize::MAX, |l| usize::try_from(l).unwrap_or(usize::MAX));
        found.truncate(limit);
        found
    }
}

impl Judged {
    fn column(&mut self, part: usize, column: &TagColumn, known: Option<ValueType>, now_ns: i64) {
        let count = column.times.len();
        if column.values.len() != count || !column.qualities.fits(count) {
            self.mismatched.insert(part);
            return;
        }
        for (at, time) in column.times.iter().enumerate() {
            let value = column.values.get(at).expect("lengths are equal");
            let fits = known == Some(value.value_type()) && !is_too_long(&value);
            if fits && is_acceptable_time(*time, now_ns) {
                self.taken.push(((column.tag, *time), (value, column.qualities.at(at))));
            } else {
                self.refused.insert((part, column.tag, at));
            }
        }
    }

    fn scan(
        &mut self,
        part: usize,
        scan: &ScanBlock,
        type_of: &dyn Fn(TagId) -> Option<ValueType>,
        now_ns: i64,
    ) {
        let cells = scan.tags.len() * scan.times.len();
        let flags = scan.missing.len();
        if scan.values.len() != cells
            || !(flags == 0 || flags == cells)
            || !scan.qualities.fits(cells)
        {
            self.mismatched.insert(part);
            return;
        }
        for (cycle, time) in scan.times.iter().enumerate() {
            for (column, tag) in scan.tags.iter().enumerate() {
                let at = cycle * scan.tags.len() + column;
                if scan.missing.get(at) == Some(&true) {
                    continue;
                }
                let value = type_of(*tag).and_then(|known| exact(known, scan.values[at]));
                match value {
                    Some(value) if is_acceptable_time(*time, now_ns) => {
                        self.taken.push(((*tag, *time), (value, scan.qualities.at(at))));
                    }
                    _ => {
                        self.refused.insert((part, *tag, cycle));
                    }
                }
            }
        }
    }
}

/// The value of a scan cell in the tag's own type, if it is exact there.
#[expect(clippy::cast_possible_truncation, reason = "the result is compared with what was cast")]
fn exact(value_type: ValueType, value: f64) -> Option<Value> {
    match value_type {
        ValueType::F64 => Some(Value::F64(value)),
        ValueType::F32 => {
            let narrow = value as f32;
            (f64::from(narrow).to_bits() == value.to_bits()).then_some(Value::F32(narrow))
        }
        ValueType::I64 => {
            let whole = value.trunc().to_bits() == value.to_bits();
            (whole && value.abs() <= 9_007_199_254_740_992.0).then_some(Value::I64(value as i64))
        }
        ValueType::Bool if value.to_bits() == 0.0f64.to_bits() => Some(Value::Bool(false)),
        ValueType::Bool if value.to_bits() == 1.0f64.to_bits() => Some(Value::Bool(true)),
        ValueType::Bool | ValueType::State | ValueType::Text => None,
    }
}

fn is_acceptable_time(time_ns: i64, now_ns: i64) -> bool {
    (limits::TIME_MIN_NS..limits::TIME_MAX_NS).contains(&time_ns)
        && time_ns <= now_ns.saturating_add(limits::FUTURE_NS)
}

fn is_too_long(value: &Value) -> bool {
    matches!(value, Value::Text(text) if text.len() > limits::TEXT_VALUE_BYTES_MAX)
}

/// Fills what is not said; written apart from the engine's own rule.
fn fill(mine: &mut TagAttributes, theirs: &TagAttributes) {
    let theirs = theirs.clone();
    let had = std::mem::take(mine);
    *mine = TagAttributes {
        description: had.description.or(theirs.description),
        unit: had.unit.or(theirs.unit),
        stepped: had.stepped.or(theirs.stepped),
        range_low: had.range_low.or(theirs.range_low),
        range_high: had.range_high.or(theirs.range_high),
        max_gap_ns: had.max_gap_ns.or(theirs.max_gap_ns),
        uncertain_usable: had.uncertain_usable.or(theirs.uncertain_usable),
        rollover: had.rollover.or(theirs.rollover),
        jitter: had.jitter.or(theirs.jitter),
        reset_value: had.reset_value.or(theirs.reset_value),
        retention: had.retention.or(theirs.retention),
        state_set: had.state_set.or(theirs.state_set),
        labels: (theirs.labels.iter().chain(had.labels.iter()))
            .map(|(key, label)| (Arc::clone(key), Arc::clone(label)))
            .collect(),
    };
}

/// The bits of a value: its type, its word, its text.
pub fn bits(value: &Value) -> (ValueType, u64, &str) {
    let text = match value {
        Value::Text(text) => text.as_ref(),
        _ => "",
    };
    (value.value_type(), value.to_word(), text)
}

/// Whether two samples say the same, bit for bit.
pub fn same(left: &Cell, right: &Cell) -> bool {
    bits(&left.0) == bits(&right.0) && left.1 == right.1
}

/// The first difference between what was expected and what was found, in order.
pub fn difference<'a>(
    expected: impl IntoIterator<Item = (&'a Key, &'a Cell)>,
    found: impl IntoIterator<Item = (&'a Key, &'a Cell)>,
) -> Option<String> {
    let (mut expected, mut found) = (expected.into_iter(), found.into_iter());
    for row in 0.. {
        match (expected.next(), found.next()) {
            (None, None) => return None,
            (Some(e), Some(f)) if e.0 == f.0 && same(e.1, f.1) => {}
            (e, f) => return Some(format!("row {row}: expected {e:?}, found {f:?}")),
        }
    }
    None
}

/// Rows of a list as a map gives them.
pub fn pairs(rows: &[(Key, Cell)]) -> impl Iterator<Item = (&Key, &Cell)> {
    rows.iter().map(|(key, cell)| (key, cell))
}

/// A number that stands for these samples.
pub fn digest<'a>(rows: impl IntoIterator<Item = (&'a Key, &'a Cell)>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for ((tag, time), (value, quality)) in rows {
        (tag.0, time, bits(value), quality.0).hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use tagmill_storage::{Qualities, Values};

    use super::*;

    fn column(tag: u32, times: &[i64], values: &[f64]) -> TagColumn {
        TagColumn {
            tag: TagId(tag),
            times: times.to_vec(),
            values: Values::F64(values.to_vec()),
            qualities: Qualities::GOOD,
        }
    }

    fn append(model: &mut Model, columns: Vec<TagColumn>) {
        let defines = vec![(TagId(0), TagDefinition::new("a", ValueType::F64))];
        let batch = Batch { columns, ..Batch::default() };
        model.apply(&Change::Append { defines, batch, now_ns: 1_000 });
    }

    #[test]
    fn the_last_position_and_the_later_record_win() {
        let mut model = Model::default();
        append(&mut model, vec![column(0, &[5, 5], &[1.0, 2.0])]);
        assert_eq!(model.latest(TagId(0)).unwrap().1.0, Value::F64(2.0));
        append(&mut model, vec![column(0, &[5], &[3.0]), column(0, &[5], &[4.0])]);
        assert_eq!(model.latest(TagId(0)).unwrap().1.0, Value::F64(4.0));
        assert_eq!(model.rows.len(), 1);
    }

    #[test]
    fn a_delete_brings_back_the_time_before() {
        let mut model = Model::default();
        append(&mut model, vec![column(0, &[5, 6], &[1.0, 2.0])]);
        let range = TimeRange::new(6, 7);
        model.apply(&Change::Delete { tags: vec![TagId(0)], range });
        assert_eq!(model.latest(TagId(0)).unwrap().0, 5);
        append(&mut model, vec![column(0, &[6], &[9.0])]);
        assert_eq!(model.latest(TagId(0)).unwrap().0, 6);
    }

    #[test]
    fn unknown_tags_and_impossible_times_are_refused() {
        let mut model = Model::default();
        let late = limits::FUTURE_NS + 1_001;
        append(&mut model, vec![column(0, &[late, -1, 1], &[1.0; 3]), column(1, &[1], &[1.0])]);
        assert_eq!(model.rows.len(), 1);
        assert_eq!(model.tags.len(), 1);
    }

    #[test]
    fn nan_payloads_and_the_sign_of_zero_differ() {
        let cell = |value: f64| (Value::F64(value), Quality::GOOD);
        assert!(!same(&cell(0.0), &cell(-0.0)));
        let other = f64::from_bits(f64::NAN.to_bits() | 1);
        assert!(!same(&cell(f64::NAN), &cell(other)));
        assert!(same(&cell(other), &cell(other)));
    }
}

//! Samples until they are a batch: each gets the type of its tag, or its line is refused. No file and no socket.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tagmill_client::{BatchBuilder, Qualities, TagDef, Times, Values as Wire};
use tagmill_storage::limits::TEXT_VALUE_BYTES_MAX;
use tagmill_storage::{Quality, Value, ValueType, Values};

use super::samples::{Said, Sample};
use crate::cli::import::cell::{self, Cell, Fit};
use crate::cli::import::text;
use crate::cli::wire::type_to_wire;

/// Samples at which a batch is closed.
const SAMPLES_MAX: usize = 1_000;
/// Bytes of texts at which it is closed.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The tags, by the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Tags {
    by_name: HashMap<String, usize>,
    all: Vec<Tag>,
    /// Types that a server says.
    told: HashMap<String, ValueType>,
}

#[derive(Debug)]
struct Tag {
    name: String,
    value_type: ValueType,
    alias: Option<u32>,
}

/// What a sample is, in the wire's sense: each goes into a column of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Value,
    /// The label of a state.
    Label,
    Absent,
}

/// Where a column stands in its batch: of equal times the later column wins, so by tag first, and then by turn.
type Place = (usize, u32, Form);

/// Which turn the next sample of a tag is in. In one turn no time stands in two forms.
#[derive(Debug, Default)]
struct Turn {
    number: u32,
    /// Greatest time of each form.
    newest: BTreeMap<Form, i64>,
}

impl Turn {
    /// The turn of a sample: a new one where its time may stand in a column of another form.
    fn of(&mut self, form: Form, time_ns: i64) -> u32 {
        if self.newest.iter().any(|(other, newest)| *other != form && *newest >= time_ns) {
            self.number += 1;
            self.newest.clear();
        }
        let newest = self.newest.entry(form).or_insert(time_ns);
        *newest = time_ns.max(*newest);
        self.number
    }
}

#[derive(Debug)]
struct Column {
    times: Vec<i64>,
    values: Values,
    qualities: Vec<u32>,
}

/// Samples of a batch.
#[derive(Debug, Default)]
pub(super) struct Pending {
    columns: BTreeMap<Place, Column>,
    /// By tag.
    turns: HashMap<usize, Turn>,
    samples: usize,
    text_bytes: usize,
    /// The lines they are from.
    lines: Option<(u64, u64)>,
}

impl Tags {
    pub(super) fn new(told: HashMap<String, ValueType>) -> Self {
        Self { told, ..Self::default() }
    }

    /// The tag of a sample; a new one has the type that a server says, that the queue knows, or that the value has.
    fn of(
        &mut self,
        sample: &Sample,
        in_queue: impl FnOnce(&str) -> Option<ValueType>,
    ) -> Result<usize, String> {
        if let Some(tag) = self.by_name.get(&sample.tag) {
            return Ok(*tag);
        }
        let name = sample.tag.clone();
        let known = self.told.get(&name).copied().or_else(|| in_queue(&name));
        let value_type = known.or_else(|| type_of(&sample.said)).ok_or_else(|| {
            format!("{name:?} is a new tag, and {:?} says nothing of its type", shown(&sample.said))
        })?;
        let tag = self.all.len();
        self.by_name.insert(name.clone(), tag);
        self.all.push(Tag { name, value_type, alias: None });
        Ok(tag)
    }

    /// Tags without an alias.
    pub(super) fn undefined(&self) -> Vec<TagDef> {
        let new = self.all.iter().filter(|tag| tag.alias.is_none());
        new.map(|tag| TagDef::new(tag.name.clone(), type_to_wire(tag.value_type))).collect()
    }

    /// Gives them theirs, in their order.
    pub(super) fn set_aliases(&mut self, aliases: &[u32]) {
        let new = self.all.iter_mut().filter(|tag| tag.alias.is_none());
        for (tag, alias) in new.zip(aliases) {
            tag.alias = Some(*alias);
        }
    }
}

/// The type a new tag gets. A text that is a number makes it f64, since the next one may have a fraction.
fn type_of(said: &Said) -> Option<ValueType> {
    match said {
        Said::Value(value) => Some(value.value_type()),
        Said::Text(words) => match text::read(words, '.') {
            text::Said::Whole(_) | text::Said::Number(_) | text::Said::NumberMarker => {
                Some(ValueType::F64)
            }
            text::Said::Truth(_) => Some(ValueType::Bool),
            text::Said::Words => Some(ValueType::Text),
            text::Said::Empty | text::Said::Marker => None,
        },
    }
}

fn shown(said: &Said) -> String {
    match said {
        Said::Value(value) => format!("{value:?}"),
        Said::Text(words) => words.clone(),
    }
}

/// What the value of a sample becomes in a tag of this type.
fn fit(said: &Said, value_type: ValueType) -> Fit {
    let cell = match said {
        Said::Value(value) if value.value_type() == value_type => match value {
            Value::Text(words) if words.len() > TEXT_VALUE_BYTES_MAX => {
                return Fit::Refused("a text longer than 64 KiB");
            }
            value => return Fit::Value(value.clone(), Quality::GOOD),
        },
        Said::Value(Value::F64(x)) => Cell::F64(*x),
        Said::Value(Value::F32(x)) => Cell::F32(*x),
        Said::Value(Value::I64(x)) => Cell::I64(*x),
        Said::Value(Value::State(x)) => Cell::I64(i64::from(*x)),
        Said::Value(Value::Bool(x)) => Cell::Bool(*x),
        Said::Value(Value::Text(words)) => Cell::Text(words),
        Said::Text(words) => Cell::Text(words),
    };
    cell::fit(cell, value_type, '.')
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Whether it is closed, in a queue of this size: where that is small, fewer texts make a batch.
    pub(super) fn is_full(&self, capacity_bytes: u64) -> bool {
        let most = (capacity_bytes / 4).min(TEXT_BYTES_MAX);
        self.samples >= SAMPLES_MAX || self.text_bytes as u64 >= most
    }

    pub(super) fn samples(&self) -> usize {
        self.samples
    }

    /// The first line and the last.
    pub(super) fn lines(&self) -> (u64, u64) {
        self.lines.unwrap_or_default()
    }

    /// Takes the samples of a line, all or none.
    ///
    /// # Errors
    /// Why the line is refused.
    pub(super) fn take(
        &mut self,
        line: u64,
        samples: Vec<Sample>,
        tags: &mut Tags,
        in_queue: impl Fn(&str) -> Option<ValueType>,
    ) -> Result<(), String> {
        let mut fitted = Vec::with_capacity(samples.len());
        for sample in samples {
            let tag = tags.of(&sample, &in_queue)?;
            let value_type = tags.all[tag].value_type;
            let Sample { time_ns, said, quality, .. } = sample;
            let (form, value, own) = match (fit(&said, value_type), said) {
                (Fit::Value(value, own), _) => (Form::Value, value, own),
                (Fit::NoValue(own), _) => (Form::Absent, Value::Bool(false), own),
                (Fit::Refused(_), Said::Text(words)) if value_type == ValueType::State => {
                    (Form::Label, Value::Text(words.trim().into()), Quality::GOOD)
                }
                (Fit::Refused(_), Said::Value(Value::Text(words)))
                    if value_type == ValueType::State =>
                {
                    (Form::Label, Value::Text(words), Quality::GOOD)
                }
                (Fit::Refused(why), said) => {
                    let name = &tags.all[tag].name;
                    return Err(format!(
                        "{:?} for tag {name:?} of type {value_type}: {why}",
                        shown(&said)
                    ));
                }
            };
            let quality = if quality.is_bad() || !own.is_bad() { quality } else { own };
            fitted.push((tag, form, time_ns, value, quality));
        }
        let first = self.lines.map_or(line, |(first, _)| first);
        self.lines = Some((first, line));
        for (tag, form, time_ns, value, quality) in fitted {
            self.samples += 1;
            if let Value::Text(words) = &value {
                self.text_bytes += words.len();
            }
            let turn = self.turns.entry(tag).or_default().of(form, time_ns);
            let column = self.columns.entry((tag, turn, form)).or_insert_with(|| Column {
                times: Vec::new(),
                values: Values::empty(value.value_type()),
                qualities: Vec::new(),
            });
            column.times.push(time_ns);
            column.values.push(value);
            column.qualities.push(quality.0);
        }
        Ok(())
    }

    /// The batch. Every tag has its alias.
    ///
    /// # Errors
    /// If a column has more samples than a column may have, which the limits above exclude.
    pub(super) fn batch(&self, tags: &Tags) -> tagmill_client::Result<BatchBuilder> {
        let mut batch = BatchBuilder::new();
        for ((tag, _, form), column) in &self.columns {
            let alias = tags.all[*tag].alias.unwrap_or_default();
            let times = Times::Each(&column.times);
            let qualities = Qualities::Each(&column.qualities);
            let texts: Vec<&str> = match &column.values {
                Values::Text(texts) => texts.iter().map(Arc::as_ref).collect(),
                _ => Vec::new(),
            };
            let values = match (&column.values, form) {
                (_, Form::Absent) => Wire::Absent,
                (Values::F64(values), _) => Wire::F64(values),
                (Values::F32(values), _) => Wire::F32(values),
                (Values::I64(values), _) => Wire::I64(values),
                (Values::Bool(values), _) => Wire::Bool(values),
                (Values::State(values), _) => Wire::State(values),
                (Values::Text(_), _) => Wire::Text(&texts),
            };
            batch.column(alias, times, values, qualities)?;
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use tagmill_client::ValueType as T;

    use super::*;

    fn text(tag: &str, time_ns: i64, words: &str) -> Vec<Sample> {
        let said = Said::Text(words.into());
        vec![Sample { tag: tag.into(), time_ns, said, quality: Quality::GOOD }]
    }

    fn value(tag: &str, value: Value) -> Vec<Sample> {
        vec![Sample {
            tag: tag.into(),
            time_ns: 1,
            said: Said::Value(value),
            quality: Quality::GOOD,
        }]
    }

    #[test]
    fn types_come_from_the_server_then_the_queue_then_the_value() {
        let told = HashMap::from([("told".to_owned(), ValueType::I64)]);
        let mut tags = Tags::new(told);
        let mut pending = Pending::default();
        let in_queue = |name: &str| (name == "queued").then_some(ValueType::F32);
        let mut take = |samples| pending.take(1, samples, &mut tags, in_queue);
        for (tag, words) in [
            ("told", "5"),
            ("queued", "0.5"),
            ("number", "5"),
            ("truth", "TRUE"),
            ("words", "night"),
        ] {
            take(text(tag, 1, words)).unwrap();
        }
        assert!(take(text("told", 2, "5.5")).unwrap_err().contains("fraction"));
        assert!(take(text("number", 2, "night")).unwrap_err().contains("tag of numbers"));
        assert!(take(text("new", 2, "")).unwrap_err().contains("its type"));
        // An integer field for a tag that began with fractions, and the other way round.
        take(value("line", Value::F64(0.5))).unwrap();
        take(value("line", Value::I64(3))).unwrap();
        take(value("whole", Value::I64(3))).unwrap();
        assert!(take(value("whole", Value::F64(0.5))).is_err());
        let types: Vec<_> = tags.undefined().into_iter().map(|tag| tag.value_type).collect();
        assert_eq!(types, [T::I64, T::F32, T::F64, T::Bool, T::Text, T::F64, T::I64]);
        assert_eq!((pending.samples(), pending.lines()), (8, (1, 1)));
    }

    #[test]
    fn a_batch_holds_what_was_taken() {
        let told = HashMap::from([("state".to_owned(), ValueType::State)]);
        let mut tags = Tags::new(told);
        let mut pending = Pending::default();
        let samples = [
            text("a", 1, "1.5"),
            text("state", 1, "RUN"),
            text("a", 2, "NaN"),
            text("state", 2, "7"),
            text("a", 3, "2.5"),
        ];
        for (line, samples) in (4..).zip(samples) {
            pending.take(line, samples, &mut tags, |_| None).unwrap();
        }
        let names: Vec<_> = tags.undefined().into_iter().map(|tag| tag.name).collect();
        assert_eq!(names, ["a", "state"]);
        tags.set_aliases(&[11, 12]);
        assert!(tags.undefined().is_empty());
        let builder = pending.batch(&tags).unwrap();
        assert_eq!((builder.samples(), pending.lines()), (5, (4, 8)));
        let found: Vec<_> =
            pending.columns.iter().map(|(place, column)| (*place, column.times.clone())).collect();
        let wanted = [
            ((0, 0, Form::Value), vec![1, 3]),
            ((0, 0, Form::Absent), vec![2]),
            ((1, 0, Form::Value), vec![2]),
            ((1, 0, Form::Label), vec![1]),
        ];
        assert_eq!(found, wanted);
        assert_eq!(pending.columns[&(0, 0, Form::Absent)].qualities, [Quality::BAD.0]);
    }

    /// A later line about the same time is a correction, in whichever form: of equal times the later column wins.
    #[test]
    fn a_correction_stands_behind_what_it_corrects() {
        let told = HashMap::from([("state".to_owned(), ValueType::State)]);
        let (mut tags, mut pending) = (Tags::new(told), Pending::default());
        let samples = [
            text("a", 5, "1.5"),
            text("a", 5, "NaN"),
            text("a", 5, "2.5"),
            text("a", 6, "3.5"),
            text("a", 4, "NaN"),
            text("state", 1, "RUN"),
            text("state", 1, "7"),
        ];
        for (line, samples) in (1..).zip(samples) {
            pending.take(line, samples, &mut tags, |_| None).unwrap();
        }
        let found: Vec<_> =
            pending.columns.iter().map(|(place, column)| (*place, column.times.clone())).collect();
        let wanted = [
            ((0, 0, Form::Value), vec![5]),
            ((0, 1, Form::Absent), vec![5]),
            ((0, 2, Form::Value), vec![5, 6]),
            ((0, 3, Form::Absent), vec![4]),
            ((1, 0, Form::Label), vec![1]),
            ((1, 1, Form::Value), vec![1]),
        ];
        assert_eq!(found, wanted);
        let values = &pending.columns[&(0, 2, Form::Value)].values;
        assert_eq!(*values, Values::F64(vec![2.5, 3.5]));
    }

    #[test]
    fn a_small_queue_gets_small_batches_of_texts() {
        let (mut tags, mut pending) = (Tags::default(), Pending::default());
        for line in 1..=2 {
            assert!(!pending.is_full(64 << 10));
            let words = "word ".repeat(2_000);
            pending.take(line, text("a", 1, &words), &mut tags, |_| None).unwrap();
        }
        assert!(pending.is_full(64 << 10) && !pending.is_full(1 << 30));
    }

    #[test]
    fn a_line_is_taken_as_a_whole_or_not_at_all() {
        let mut tags = Tags::default();
        let mut pending = Pending::default();
        let mut line = value("a", Value::F64(1.0));
        line.extend(value("b", Value::F64(1.0)));
        pending.take(1, line, &mut tags, |_| None).unwrap();
        let mut line = value("a", Value::F64(2.0));
        line.extend(value("b", Value::Text("x".into())));
        assert!(pending.take(2, line, &mut tags, |_| None).is_err());
        assert_eq!((pending.samples(), pending.lines()), (2, (1, 1)));
    }
}

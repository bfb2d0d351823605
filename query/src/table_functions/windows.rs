//! `windows(tags, condition, start, end [, min_duration, merge_gap, hysteresis, no_data])`: when a condition held, and
//! without one the stretches of equal value.
//!
//! The condition is followed along the held or drawn value, so that it begins and ends where the line crosses and not
//! at a sample. A stretch without data closes a window or is passed over, as `no_data` says. What is open at the end is
//! flagged, and so is what had begun before the start.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, DurationNanosecondArray, Float64Array, StringViewArray,
    TimestampNanosecondArray, UInt32Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::Result;
use tagmill_storage::{Rule, Snapshot, Tag, TagId, TimeRange, Value, ValueType};

use super::condition::{Condition, split};
use super::job::{Job, Sink};
use super::known_tags;
use super::planner::Call;
use super::readings::{Carry, Reader, Reading, number_of, readings, rule_of};
use super::stretches::{Keep, Stretch, Stretches};
use crate::limits::BATCH_ROWS;
use crate::pieces::{Next, Piece, Point, piece_of};
use crate::relations::{UTC, utc_time};
use crate::source::Flow;

/// One row per window.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("tag_id", DataType::UInt32, false),
        Field::new("tag", DataType::Utf8View, false),
        Field::new("start_ts", utc_time(), false),
        Field::new("end_ts", utc_time(), false),
        Field::new("duration", DataType::Duration(TimeUnit::Nanosecond), false),
        Field::new("value", DataType::Float64, true),
        Field::new("value_text", DataType::Utf8View, true),
        Field::new("least", DataType::Float64, true),
        Field::new("greatest", DataType::Float64, true),
        Field::new("cut", DataType::Boolean, false),
        Field::new("open", DataType::Boolean, false),
    ]))
}

/// See the module.
#[derive(Debug)]
struct Windows {
    reader: Reader,
    schema: SchemaRef,
    tags: Vec<(TagId, Question)>,
    range: TimeRange,
    keep: Keep,
    hold: bool,
    now_ns: i64,
}

/// What is asked of one tag.
#[derive(Clone, Debug, PartialEq)]
enum Question {
    /// Stretches of equal value.
    Same,
    /// When its number meets a condition.
    Number(Condition),
    /// When it is this text or state (or another).
    Text { text: Arc<str>, wanted: bool },
}

/// Plans a call.
pub(crate) fn plan(call: &Call) -> Result<Arc<dyn Job>> {
    let arguments = &call.arguments;
    let start_ns = arguments.time("start")?.unwrap_or(TimeRange::ALL.start_ns);
    let end_ns = arguments.time("end")?.unwrap_or(call.now_ns);
    let condition = arguments.text("condition")?;
    let hysteresis = arguments.number("hysteresis")?.unwrap_or(0.0);
    if hysteresis < 0.0 {
        return Err(arguments.wrong("hysteresis", "it must not be below zero"));
    }
    let registry = call.scope.snapshot.registry();
    let mut ids = known_tags(call)?;
    ids.sort_unstable();
    let mut tags = Vec::new();
    for id in &ids {
        let Some(tag) = registry.get(*id) else { continue };
        let question = question_of(condition.as_deref(), tag, &call.scope.snapshot, hysteresis);
        let question = question.map_err(|why| arguments.wrong("condition", why))?;
        let one_sided = matches!(question, Question::Number(Condition::Beyond { .. }));
        if hysteresis > 0.0 && !one_sided {
            return Err(arguments.wrong("hysteresis", "it goes with <, <=, > and >= only"));
        }
        tags.push((*id, question));
    }
    Ok(Arc::new(Windows {
        reader: call.reader(&ids),
        schema: Arc::clone(&call.schema),
        tags,
        range: TimeRange::new(start_ns, end_ns),
        keep: Keep {
            min_ns: arguments.length_ns("min_duration")?.unwrap_or(0),
            merge_ns: arguments.length_ns("merge_gap")?.unwrap_or(0),
        },
        hold: arguments.word("no_data", &["close", "hold"])? == "hold",
        now_ns: call.now_ns,
    }))
}

fn question_of(
    condition: Option<&str>,
    tag: &Tag,
    snapshot: &Snapshot,
    hysteresis: f64,
) -> Result<Question, String> {
    let Some(text) = condition else { return Ok(Question::Same) };
    let wrong = || format!("'{text}' is no condition: write for example '> 80' or '= RUN'");
    let (sign, operand) = split(text).ok_or_else(wrong)?;
    let number = operand.parse::<f64>().ok().filter(|number| number.is_finite());
    let states = snapshot.registry().states(tag.state_set());
    let quoted = operand.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
    let label = quoted.unwrap_or(operand);
    let is_label = match tag.value_type {
        ValueType::Text => true,
        ValueType::State => {
            number.is_none() || states.is_some_and(|states| states.code(label).is_some())
        }
        _ => false,
    };
    if !is_label {
        let number = number.ok_or_else(|| {
            format!("'{operand}' is no number, and '{}' is {}", tag.name, tag.value_type)
        })?;
        return Condition::of(sign, number, hysteresis).map(Question::Number).ok_or_else(wrong);
    }
    if tag.value_type == ValueType::State && states.is_none_or(|set| set.code(label).is_none()) {
        let known: Vec<&str> =
            states.iter().flat_map(|set| set.iter()).map(|(_, label)| label.as_ref()).collect();
        return Err(format!("'{}' has no state {label}: it has {}", tag.name, known.join(", ")));
    }
    match sign {
        "=" => Ok(Question::Text { text: Arc::from(label), wanted: true }),
        "<>" | "!=" => Ok(Question::Text { text: Arc::from(label), wanted: false }),
        _ => Err(format!("'{}' is {}, which is = or <> only", tag.name, tag.value_type)),
    }
}

impl Job for Windows {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn order(&self) -> &'static [&'static str] {
        &["tag_id", "start_ts"]
    }

    fn explain(&self) -> String {
        format!(
            "windows tags={} until={}",
            self.tags.len(),
            tagmill_storage::Rfc3339(self.range.end_ns)
        )
    }

    fn run(&self, sink: &mut Sink) -> Result<()> {
        if self.range.is_empty() {
            return Ok(());
        }
        let mut rows = Vec::new();
        for (tag, question) in &self.tags {
            if self.run_tag(*tag, question, &mut rows, sink)? == Flow::Stop {
                return Ok(());
            }
        }
        self.send(&mut rows, sink).map(|_| ())
    }
}

impl Windows {
    fn run_tag(
        &self,
        id: TagId,
        question: &Question,
        rows: &mut Vec<(TagId, Stretch<Option<Value>>)>,
        sink: &mut Sink,
    ) -> Result<Flow> {
        let Some(tag) = self.reader.snapshot.registry().get(id) else { return Ok(Flow::Continue) };
        let rule = rule_of(tag);
        let mut carry = self.reader.before(id, self.range.start_ns, &rule)?;
        let mut follower = Follower {
            tag,
            snapshot: &self.reader.snapshot,
            question: question.clone(),
            rule: rule.clone(),
            range: self.range,
            horizon_ns: self.range.end_ns.min(self.now_ns),
            hold: self.hold,
            fed_ns: self.range.start_ns,
            stretches: Stretches::new(self.keep),
            out: Vec::new(),
        };
        let mut walk = self.reader.walk(&[id], self.range)?;
        while let Some(batch) = walk.next_batch()? {
            for reading in readings(&batch) {
                follower.follow(&carry, Some(&reading));
                carry.push(reading, &rule);
            }
            rows.extend(follower.out.drain(..).map(|it| (id, it)));
            if rows.len() >= BATCH_ROWS && self.send(rows, sink)? == Flow::Stop {
                return Ok(Flow::Stop);
            }
            if sink.flow() == Flow::Stop {
                return Ok(Flow::Stop);
            }
        }
        let after = self.reader.after(id, self.range.end_ns, None)?;
        follower.follow(&carry, after.as_ref());
        follower.finish();
        rows.extend(follower.out.drain(..).map(|it| (id, it)));
        Ok(sink.flow())
    }

    fn send(
        &self,
        rows: &mut Vec<(TagId, Stretch<Option<Value>>)>,
        sink: &mut Sink,
    ) -> Result<Flow> {
        if rows.is_empty() {
            return Ok(sink.flow());
        }
        let rows = std::mem::take(rows);
        let registry = self.reader.snapshot.registry();
        let tag_of = |id: TagId| registry.get(id);
        let times = |time: fn(&Stretch<Option<Value>>) -> i64| -> ArrayRef {
            let times = rows.iter().map(|(_, it)| time(it));
            Arc::new(TimestampNanosecondArray::from_iter_values(times).with_timezone(UTC))
        };
        let lengths = rows.iter().map(|(_, it)| it.end_ns.saturating_sub(it.start_ns));
        let value = |it: &Stretch<Option<Value>>| match &it.key {
            None | Some(Value::Text(_)) => None,
            Some(value) => Some(number_of(value)),
        };
        let text = |id: TagId, it: &Stretch<Option<Value>>| match &it.key {
            Some(Value::Text(text)) => Some(Arc::clone(text)),
            Some(Value::State(code)) => registry.state_label(tag_of(id)?, *code).map(Arc::clone),
            _ => None,
        };
        let finite = |value: f64| Some(value).filter(|value| value.is_finite());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from_iter_values(rows.iter().map(|(id, _)| id.0))),
            Arc::new(StringViewArray::from_iter_values(
                rows.iter().map(|(id, _)| tag_of(*id).map_or("", |tag| tag.name.as_ref())),
            )),
            times(|it| it.start_ns),
            times(|it| it.end_ns),
            Arc::new(DurationNanosecondArray::from_iter_values(lengths)),
            Arc::new(rows.iter().map(|(_, it)| value(it)).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|(id, it)| text(*id, it)).collect::<StringViewArray>()),
            Arc::new(rows.iter().map(|(_, it)| finite(it.least)).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|(_, it)| finite(it.greatest)).collect::<Float64Array>()),
            Arc::new(rows.iter().map(|(_, it)| Some(it.cut)).collect::<BooleanArray>()),
            Arc::new(rows.iter().map(|(_, it)| Some(it.open)).collect::<BooleanArray>()),
        ];
        Ok(sink.send(&RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}

/// Follows one tag along its pieces.
struct Follower<'a> {
    tag: &'a Tag,
    snapshot: &'a Snapshot,
    question: Question,
    rule: Rule,
    range: TimeRange,
    /// Until where the last value is held.
    horizon_ns: i64,
    hold: bool,
    /// Until where there was data so far.
    fed_ns: i64,
    stretches: Stretches<Option<Value>>,
    out: Vec<Stretch<Option<Value>>>,
}

impl Follower<'_> {
    /// Takes the piece from the last sample to the next one.
    fn follow(&mut self, carry: &Carry, next: Option<&Reading>) {
        let Some(from) = carry.usable.as_ref().filter(|_| !carry.is_broken()) else { return };
        let number = |reading: &Reading| self.number(&reading.value);
        let point = Point { time_ns: from.time_ns, value: number(from) };
        let next = next.map(|next| Next {
            time_ns: next.time_ns,
            value: next.is_usable(&self.rule).then(|| number(next)),
        });
        let Some(whole) = piece_of(&self.rule, point, next, self.horizon_ns) else { return };
        let Some(piece) = whole.cut(self.range.start_ns, self.range.end_ns) else { return };
        if piece.start_ns > self.fed_ns && !self.hold {
            self.stretches.close(self.fed_ns);
        }
        self.fed_ns = piece.end_ns;
        // What held before the range began was not seen to begin.
        let cut = whole.start_ns < self.range.start_ns && piece.start_ns == self.range.start_ns;
        match self.question.clone() {
            Question::Same => self.follow_value(&piece, &from.value, cut),
            Question::Number(condition) => self.follow_condition(&condition, &piece, cut),
            Question::Text { wanted, .. } => {
                let condition = Condition::Equal { number: 1.0, wanted };
                self.follow_condition(&condition, &piece, cut);
            }
        }
    }

    /// The value as the question sees it.
    fn number(&self, value: &Value) -> f64 {
        let Question::Text { text, .. } = &self.question else { return number_of(value) };
        let same = match value {
            Value::Text(value) => value == text,
            Value::State(code) => {
                self.snapshot.registry().state_label(self.tag, *code) == Some(text)
            }
            _ => false,
        };
        f64::from(u8::from(same))
    }

    fn follow_value(&mut self, piece: &Piece, value: &Value, cut: bool) {
        let key = Some(value.clone());
        // Text has no number, and holds all the same.
        let flat = self.rule.stepped || piece.is_flat();
        if flat && self.stretches.current().is_some_and(|current| current.key == key) {
            return;
        }
        self.stretches.close(piece.start_ns);
        if flat {
            self.stretches.open(piece.start_ns, key, cut, &mut self.out);
            if !matches!(value, Value::Text(_) | Value::State(_)) {
                self.stretches.meet(piece.from);
            }
        }
    }

    fn follow_condition(&mut self, condition: &Condition, piece: &Piece, cut: bool) {
        let numbers =
            matches!(self.question, Question::Number(_)) && self.tag.value_type != ValueType::State;
        let open = self.stretches.current().is_some();
        let mut changes = Vec::new();
        let ends_open = condition.follow(piece, open, |at_ns, holds| changes.push((at_ns, holds)));
        if open && numbers && changes.first().is_none_or(|change| change.0 > piece.start_ns) {
            self.stretches.meet(piece.from);
        }
        for (at_ns, holds) in changes {
            if holds {
                let cut = cut && at_ns == piece.start_ns;
                self.stretches.open(at_ns, None, cut, &mut self.out);
            }
            // A jump at the start of the piece shows a value that is not of the window it ends.
            if numbers && (holds || at_ns > piece.start_ns) {
                self.stretches.meet(piece.value_at(at_ns));
            }
            if !holds {
                self.stretches.close(at_ns);
            }
        }
        if ends_open && numbers {
            self.stretches.meet(piece.to);
        }
    }

    fn finish(&mut self) {
        let end_ns = self.range.end_ns.min(self.horizon_ns.max(self.fed_ns));
        if self.fed_ns < end_ns && !self.hold {
            self.stretches.close(self.fed_ns);
        }
        self.stretches.finish(end_ns, &mut self.out);
    }
}

//! Interval functions against the rule book: from rollups, from samples one by one, and without tiers.
//!
//! # Contract
//! * What a cell of time ought to say, [`Weights`](crate::weights::Weights) says from the model's samples.
//! * Each question is asked three times: as it is, with `duration_in_state(value, 0)` beside it, which needs every sample,
//!   and with `tagmill.tiers` at `off`. All three must be right.
//! * Between questions attributes change, and tags get what counters give: rollovers, noise and resets.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, DurationNanosecondType, Float64Type, Int64Type, TimestampNanosecondType,
};
use arrow::util::display::array_value_to_string;
use tagmill::Database;
use tagmill_engine_tests::harness::{Answer, Harness};
use tagmill_engine_tests::model::Change;
use tagmill_engine_tests::steps::Step;
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    Batch, Clock, Qualities, SECOND_NS, TagColumn, TagDefinition, TagEdit, TagId, Value, ValueType,
    Values,
};

use crate::client::Client;
use crate::questions::{CALLS, Call, Group, Key, Lane, Plant, Question, now_ns};

/// Attributes as interval functions care about, and samples as counters give them.
fn stir(harness: &mut Harness) {
    let live: Vec<(TagId, TagDefinition)> =
        harness.settled.live().map(|(id, definition)| (id, definition.clone())).collect();
    if live.is_empty() {
        return;
    }
    for _ in 0..harness.random.below(4) {
        let (id, definition) = &live[harness.random.index(live.len())];
        let (step_ns, random) = (harness.timeline.step_ns, &mut harness.random);
        let mut attributes = definition.attributes.clone();
        let some = |random: &mut Random, values: &[f64]| {
            random.once_in(2).then(|| values[random.index(values.len())])
        };
        attributes.stepped = [None, Some(true), Some(false)][random.index(3)];
        attributes.uncertain_usable = Some(random.once_in(2));
        let gap_ns = step_ns.saturating_mul([1, 2, 10, 100][random.index(4)]);
        attributes.max_gap_ns = random.once_in(2).then_some(gap_ns);
        attributes.rollover = some(random, &[5.0, 100.0, 1_000.0, 65_536.0, 7.5]);
        attributes.jitter = some(random, &[0.0, 0.5, 1.0, 3.25, 40.0]);
        attributes.reset_value = some(random, &[0.0, 1.0, -2.0, 0.75]);
        let edit = TagEdit { attributes: Some(attributes), ..TagEdit::default() };
        let edited = harness.engine().edit_tag(*id, edit.clone());
        let answer = edited.map(|()| Answer { seq: None, is_durable: true });
        harness.note(Change::Edit(*id, edit), answer);
    }
    for _ in 0..=harness.random.below(3) {
        let (id, definition) = &live[harness.random.index(live.len())];
        let count = 1 + harness.random.index(60);
        let times = harness.timeline.times(&mut harness.random, count);
        let values = counted(&mut harness.random, definition.value_type, count);
        let column = TagColumn { tag: *id, times, values, qualities: Qualities::GOOD };
        let batch = Batch { columns: vec![column], ..Batch::default() };
        let now_ns = harness.clock.wall_ns();
        if harness.settled.judge(&[], &batch, now_ns).taken.is_empty() {
            continue;
        }
        let answer = harness.engine().append(batch.clone());
        let answer =
            answer.map(|answer| Answer { seq: Some(answer.seq), is_durable: answer.durable });
        harness.note(Change::Append { defines: Vec::new(), batch, now_ns }, answer);
        match harness.random.below(6) {
            0 => harness.perform(Step::Seal),
            1 => harness.perform(Step::Compact),
            2 => harness.perform(Step::Delete),
            _ => {}
        }
    }
}

/// The values of a counter that rolls over, trembles and is reset.
fn counted(random: &mut Random, value_type: ValueType, count: usize) -> Values {
    let modulus = [5, 100, 1_000, 65_536][random.index(4)];
    let (mut at, mut values) = (random.below(modulus), Values::empty(value_type));
    for _ in 0..count {
        match random.below(9) {
            0 => at = at.saturating_sub(1 + random.below(4)),
            1 => at = random.below(3),
            2 => {}
            3 => at += random.below(modulus),
            _ => at += random.below(modulus / 4 + 1),
        }
        at %= modulus;
        let small = u16::try_from(at).expect("below 65,536");
        values.push(match value_type {
            ValueType::F64 => Value::F64(at as f64 * 0.25),
            ValueType::F32 => Value::F32(f32::from(small) * 0.5),
            ValueType::I64 => Value::I64(at.cast_signed()),
            ValueType::Bool => Value::Bool(at % 2 == 1),
            ValueType::State => Value::State(small),
            ValueType::Text => Value::Text(format!("order {}", at % 3).into()),
        });
    }
    values
}

/// Some random questions of the open engine, each after some more changes, against the rule book.
///
/// # Panics
/// If an answer differs.
pub fn check_intervals(harness: &mut Harness, questions: u64, tally: &Tally) {
    harness.engine().sync().expect("a healthy disk");
    harness.settle_doubts();
    let database = Database::over(std::sync::Arc::clone(harness.engine())).expect("SQL starts");
    let mut client = Client::of(&database);
    for at in 0..questions {
        if at % 4 == 0 {
            stir(harness);
            harness.engine().sync().expect("a healthy disk");
            harness.settle_doubts();
        }
        let plant = Plant::of(&harness.settled);
        let step_ns = harness.timeline.step_ns;
        let question = Question::draw(&plant, &mut harness.random, step_ns);
        client.set("tagmill.partitions", ["1", "3"][harness.random.index(2)]);
        ask(question, &plant, &mut client, tally);
    }
}

fn ask(mut question: Question, plant: &Plant, client: &mut Client, tally: &Tally) {
    let groups = question.groups(plant, now_ns(), client);
    // Beyond 64 bits that function ends with an error, as it ought to.
    let is_beyond = |group: &Group| {
        group.get(&Lane::ValueInt).is_some_and(|weights| i64::try_from(weights.whole).is_err())
    };
    if groups.values().any(is_beyond) {
        question.calls.retain(|call| call.name != "increase_int");
        question.calls.push(CALLS[0]);
    }
    let forced = ", duration_in_state(s.value, 0) AS forced";
    for (tiers, with) in [("always", ""), ("auto", ""), ("auto", forced), ("off", "")] {
        client.set("tagmill.tiers", tiers);
        let sql = format!("/* tiers={tiers} */ {}", question.sql(with));
        check(&question, plant, &groups, client, &sql);
        tally.add(1);
    }
    tally.note("questions", 1);
    tally.note("rows", groups.len() as u64);
}

fn check(
    question: &Question,
    plant: &Plant,
    groups: &BTreeMap<Key, Group>,
    client: &mut Client,
    sql: &str,
) {
    let batches = client.rows(sql);
    let asked_ns = batches.iter().find_map(|batch| {
        let now = batch.columns().last()?.as_primitive_opt::<Int64Type>()?;
        (!now.is_empty()).then(|| now.value(0))
    });
    let fresh;
    let groups = match asked_ns {
        Some(asked_ns) if question.range.end_ns > asked_ns => {
            fresh = question.groups(plant, asked_ns, client);
            &fresh
        }
        _ => groups,
    };
    let mut left: BTreeMap<&Key, &Group> = groups.iter().collect();
    let keys = usize::from(question.is_by_tag()) + usize::from(question.bucket().is_some());
    for batch in &batches {
        for row in 0..batch.num_rows() {
            let key = key_of(question, batch, row);
            let Some(group) = left.remove(&key) else {
                panic!("{sql}\nthe row {key:?} is there twice, or ought not to be")
            };
            for (call, found) in question.calls.iter().zip(&batch.columns()[keys..]) {
                if let Some(wanted) = complaint(call, group, found, row) {
                    let shown = array_value_to_string(found, row).unwrap_or_default();
                    panic!("{sql}\n{} of {key:?} is {shown}, not {wanted}\n{group:?}", call.sql);
                }
            }
        }
    }
    assert!(left.is_empty(), "{sql}\nmissing: {:?}", left.keys());
}

fn key_of(question: &Question, batch: &RecordBatch, row: usize) -> Key {
    let mut at = 0;
    let whose = (question.is_by_tag()).then(|| {
        at += 1;
        let column = batch.column(0);
        column.is_valid(row).then(|| array_value_to_string(column, row).expect("text"))
    });
    let label = question
        .bucket()
        .map(|_| batch.column(at).as_primitive::<TimestampNanosecondType>().value(row));
    (whose.flatten(), label)
}

/// What an answer must be.
enum Wanted {
    Null,
    Whole(i64),
    Exactly(f64),
    About(f64, f64),
}

fn complaint(call: &Call, group: &Group, found: &dyn Array, row: usize) -> Option<String> {
    let wanted = wanted(call, group);
    let number = || (found.is_valid(row)).then(|| found.as_primitive::<Float64Type>().value(row));
    let (is_right, wanted) = match wanted {
        Wanted::Null => (found.is_null(row), "null".to_owned()),
        Wanted::Whole(wanted) => {
            let whole = match found.data_type() {
                DataType::Int64 => found.as_primitive::<Int64Type>().value(row),
                _ => found.as_primitive::<DurationNanosecondType>().value(row),
            };
            (found.is_valid(row) && whole == wanted, wanted.to_string())
        }
        Wanted::Exactly(wanted) => (number() == Some(wanted), format!("{wanted:e}")),
        // Order decides what becomes of numbers that floats cannot hold.
        Wanted::About(_, by) if !by.is_finite() => return None,
        Wanted::About(wanted, by) => {
            // The least floats have few digits, and half of one is rounded much.
            let is_near = number().is_some_and(|found| (found - wanted).abs() <= by + 1e-300);
            (is_near, format!("{wanted:e} to within {by:e}"))
        }
    };
    (!is_right).then_some(wanted)
}

fn wanted(call: &Call, group: &Group) -> Wanted {
    let Some(weights) = group.get(&call.lane) else { return Wanted::Null };
    let covered_ns = weights.covered_ns as f64;
    let divided = |sum: f64, slack: f64, by: f64| {
        let value = sum / by;
        Wanted::About(value, slack / by + 4.0 * value.abs() * f64::EPSILON)
    };
    let increase = weights.increase();
    match call.name {
        "percent_good" if weights.length_ns > 0 => {
            Wanted::Exactly(100.0 * covered_ns / weights.length_ns as f64)
        }
        "largest_gap" if weights.length_ns > 0 => Wanted::Whole(weights.gap_ns),
        "percent_good" | "largest_gap" => Wanted::Null,
        _ if !weights.is_known() => Wanted::Null,
        "time_avg" | "integral" | "duration_in_state" if weights.covered_ns == 0 => Wanted::Null,
        "time_avg" => divided(weights.integral.exact(), weights.integral.slack(), covered_ns),
        "integral" => {
            divided(weights.integral.exact(), weights.integral.slack(), call.per_ns as f64)
        }
        "duration_in_state" => Wanted::Exactly(weights.zero_ns as f64 / SECOND_NS as f64),
        "transitions" => Wanted::Whole(i64::try_from(weights.transitions).expect("few")),
        "increase" if weights.real.count == 0 => Wanted::Exactly(weights.whole as f64),
        "increase" => Wanted::About(increase.exact(), increase.slack()),
        "increase_int" => Wanted::Whole(i64::try_from(weights.whole).expect("looked at before")),
        _ => {
            let per = weights.length_ns as f64 / call.per_ns as f64;
            divided(increase.exact(), increase.slack(), per)
        }
    }
}

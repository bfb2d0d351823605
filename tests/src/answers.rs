//! What SQL answers, held against the model.
//!
//! # Contract
//! The null rules of `samples` are written out again here: `value` is null when Bad or not finite, `value_int` and
//! `value_text` when Bad, `value_raw` never but for text. Values compare bit for bit, but for the payload of a narrow NaN,
//! which has no agreed wide form.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, RecordBatch, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Float64Type, Int64Type, TimeUnit, TimestampNanosecondType, UInt32Type,
};
use tagmill::Database;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{Quality, Rfc3339, TagId, TimeRange, Value, limits};

use tagmill_engine_tests::harness::Harness;
use tagmill_engine_tests::model::{Cell, Key, Model};

const COLUMNS: &str = "tag_id, tag, ts, value, value_int, value_text, value_raw, quality, good";

/// A row of `samples` or `latest`.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    tag_id: u32,
    tag: String,
    ts: i64,
    value: Option<u64>,
    value_int: Option<i64>,
    value_text: Option<String>,
    value_raw: Option<u64>,
    quality: u32,
    good: bool,
}

impl Row {
    fn expected(model: &Model, ((tag, ts), (value, quality)): (&Key, &Cell)) -> Self {
        let definition = &model.tags[tag].definition;
        let set = definition.attributes.state_set.as_ref().unwrap_or(&definition.name);
        let label = |code| model.states.get(set)?.get(&code).cloned();
        let shown = quality.0 >> 31 == 0;
        let (raw, whole, text) = match value {
            Value::F64(value) => (Some(*value), None, None),
            Value::F32(value) => (Some(f64::from(*value)), None, None),
            Value::I64(value) => (Some(*value as f64), Some(*value), None),
            Value::Bool(value) => (Some(f64::from(*value)), Some(i64::from(*value)), None),
            Value::State(code) => (Some(f64::from(*code)), Some(i64::from(*code)), label(*code)),
            Value::Text(text) => (None, None, Some(text.to_string())),
        };
        Self {
            tag_id: tag.0,
            tag: definition.name.clone(),
            ts: *ts,
            value: raw.filter(|value| shown && value.is_finite()).map(f64::to_bits),
            value_int: whole.filter(|_| shown),
            value_text: text.filter(|_| shown),
            value_raw: raw.map(|raw| bits_of(raw, matches!(value, Value::F32(_)))),
            quality: quality.0,
            good: Quality(quality.0).is_good(),
        }
    }
}

fn bits_of(value: f64, is_narrow: bool) -> u64 {
    if is_narrow && value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() }
}

fn column<'a>(batch: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    batch.column_by_name(name).unwrap_or_else(|| panic!("the answer has no column {name}"))
}

fn numbers<T: arrow::datatypes::ArrowPrimitiveType>(array: &ArrayRef) -> Vec<Option<T::Native>> {
    use arrow::array::AsArray;
    array.as_primitive::<T>().iter().collect()
}

fn texts(array: &ArrayRef) -> Vec<Option<String>> {
    let array = cast(array, &DataType::Utf8View).expect("a text column");
    let array = array.as_any().downcast_ref::<StringViewArray>().expect("just cast");
    array.iter().map(|text| text.map(str::to_owned)).collect()
}

fn rows_of(model: &Model, batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        use arrow::array::AsArray;
        let ts = column(batch, "ts");
        let utc = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
        assert_eq!(ts.data_type(), &utc);
        let ids = numbers::<UInt32Type>(column(batch, "tag_id"));
        let (tags, ts) = (texts(column(batch, "tag")), numbers::<TimestampNanosecondType>(ts));
        let value = numbers::<Float64Type>(column(batch, "value"));
        let whole = numbers::<Int64Type>(column(batch, "value_int"));
        let text = texts(column(batch, "value_text"));
        let raw = numbers::<Float64Type>(column(batch, "value_raw"));
        let quality = numbers::<UInt32Type>(column(batch, "quality"));
        let good = column(batch, "good").as_boolean();
        for at in 0..batch.num_rows() {
            let tag_id = ids[at].expect("tag_id is never null");
            let value_type = model.tags.get(&TagId(tag_id)).map(|tag| tag.definition.value_type);
            let is_narrow = value_type == Some(tagmill_storage::ValueType::F32);
            rows.push(Row {
                tag_id,
                tag: tags[at].clone().expect("tag is never null"),
                ts: ts[at].expect("ts is never null"),
                value: value[at].map(f64::to_bits),
                value_int: whole[at],
                value_text: text[at].clone(),
                value_raw: raw[at].map(|raw| bits_of(raw, is_narrow)),
                quality: quality[at].expect("quality is never null"),
                good: good.is_valid(at) && good.value(at),
            });
        }
    }
    rows
}

fn expect_rows(sql: &str, expected: &[Row], found: &[Row]) {
    for (at, (e, f)) in expected.iter().zip(found).enumerate() {
        assert_eq!(e, f, "row {at} of {sql}");
    }
    assert_eq!(expected.len(), found.len(), "rows of {sql}");
}

/// A part of `samples`: its WHERE and its ORDER BY with LIMIT, and the rows of the model that it means.
fn draw_query(model: &Model, random: &mut Random) -> (String, Vec<Row>) {
    let tags: Vec<_> = model.live().collect();
    let mut wheres = Vec::new();
    let mut wanted: Vec<TagId> = tags.iter().map(|(id, _)| *id).collect();
    match random.below(4) {
        0 if !tags.is_empty() => {
            let (id, definition) = tags[random.index(tags.len())];
            wanted = vec![id];
            wheres.push(format!("tag = '{}'", definition.name.replace('\'', "''")));
        }
        1 => {
            wanted.retain(|_| random.once_in(2));
            let ids: Vec<String> = wanted.iter().map(|id| id.0.to_string()).collect();
            let ids = if ids.is_empty() { "4000000000".to_owned() } else { ids.join(", ") };
            wheres.push(format!("tag_id IN ({ids})"));
        }
        2 => {
            wanted.retain(|id| model.tags[id].definition.name.starts_with("area 1/"));
            wheres.push("tag LIKE 'area 1/%'".to_owned());
        }
        _ => {}
    }
    let mut range = TimeRange::ALL;
    if random.once_in(2) && !model.rows.is_empty() {
        let mut at = || model.rows.keys().nth(random.index(model.rows.len())).map_or(0, |k| k.1);
        let (a, b) = (at(), at());
        range = TimeRange::new(a.min(b), a.max(b).min(limits::TIME_MAX_NS - 1));
        let (start, end) = (Rfc3339(range.start_ns), Rfc3339(range.end_ns));
        wheres.push(format!("ts >= TIMESTAMP '{start}' AND ts < TIMESTAMP '{end}'"));
    }
    let in_part = |(tag, ts): &Key| wanted.contains(tag) && range.contains(*ts);
    let part = model.rows.iter().filter(|(key, _)| in_part(key));
    let mut rows: Vec<Row> = part.map(|pair| Row::expected(model, pair)).collect();
    if random.once_in(3) {
        wheres.push("value > 0.5".to_owned());
        rows.retain(|row| row.value.is_some_and(|bits| f64::from_bits(bits) > 0.5));
    }
    let mut sql = format!("SELECT {COLUMNS} FROM samples");
    if !wheres.is_empty() {
        write!(sql, " WHERE {}", wheres.join(" AND ")).expect("text grows");
    }
    if random.once_in(2) {
        sql.push_str(" ORDER BY tag_id, ts");
    } else {
        sql.push_str(" ORDER BY ts DESC, tag_id");
        rows.sort_by_key(|row| (std::cmp::Reverse(row.ts), row.tag_id));
    }
    if random.once_in(2) {
        let limit = random.index(20);
        write!(sql, " LIMIT {limit}").expect("text grows");
        rows.truncate(limit);
    }
    (sql, rows)
}

/// SQL over the open engine against the model: everything, the latest, counts per tag, and some random parts.
///
/// # Panics
/// If an answer differs.
pub fn check_sql(harness: &mut Harness) {
    harness.engine().sync().expect("a healthy disk");
    harness.settle_doubts();
    let database = Database::over(std::sync::Arc::clone(harness.engine())).expect("SQL starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let run = |sql: &str| {
        let answer = runtime.block_on(database.sql(sql));
        answer.unwrap_or_else(|error| panic!("{sql}: {error}"))
    };
    let model = &harness.settled;
    let everything = format!("SELECT {COLUMNS} FROM samples ORDER BY tag_id, ts");
    let expected: Vec<Row> = model.rows.iter().map(|pair| Row::expected(model, pair)).collect();
    expect_rows(&everything, &expected, &rows_of(model, &run(&everything)));

    let latest = format!("SELECT {COLUMNS} FROM latest ORDER BY tag_id");
    let newest = |(id, _)| Some((id, model.latest(id)?));
    let expected: Vec<Row> = model
        .live()
        .filter_map(newest)
        .map(|(id, (ts, cell))| Row::expected(model, (&(id, ts), cell)))
        .collect();
    expect_rows(&latest, &expected, &rows_of(model, &run(&latest)));

    check_counts(model, &run(COUNTS));
    for _ in 0..4 {
        let (sql, expected) = draw_query(model, &mut harness.random);
        expect_rows(&sql, &expected, &rows_of(model, &run(&sql)));
    }
}

const COUNTS: &str = "SELECT tag_id, count(*) AS n, count(value) AS shown, min(ts) AS first_ts, \
     max(ts) AS last_ts, min(value_int) AS low, max(value_int) AS high \
     FROM samples GROUP BY tag_id ORDER BY tag_id";

fn check_counts(model: &Model, batches: &[RecordBatch]) {
    let mut expected = Vec::new();
    for (id, _) in model.live() {
        let of_tag = model.rows.range((id, i64::MIN)..=(id, i64::MAX));
        let rows: Vec<Row> = of_tag.map(|pair| Row::expected(model, pair)).collect();
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { continue };
        let shown = rows.iter().filter(|row| row.value.is_some()).count();
        let low = rows.iter().filter_map(|row| row.value_int).min();
        let high = rows.iter().filter_map(|row| row.value_int).max();
        let count = |n: usize| i64::try_from(n).ok();
        let times = [Some(first.ts), Some(last.ts)];
        expected.push((Some(id.0), [count(rows.len()), count(shown)], times, [low, high]));
    }
    let mut found = Vec::new();
    for batch in batches {
        let whole = |name: &str| numbers::<Int64Type>(column(batch, name));
        let times = |name: &str| numbers::<TimestampNanosecondType>(column(batch, name));
        let ids = numbers::<UInt32Type>(column(batch, "tag_id"));
        let (n, shown, low, high) = (whole("n"), whole("shown"), whole("low"), whole("high"));
        let (first, last) = (times("first_ts"), times("last_ts"));
        for at in 0..batch.num_rows() {
            let counts = [n[at], shown[at]];
            found.push((ids[at], counts, [first[at], last[at]], [low[at], high[at]]));
        }
    }
    assert_eq!(found, expected, "{COUNTS}");
}

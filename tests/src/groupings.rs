//! Random grouped queries, held against the model: with tiers, without them, in one part and in several.
//!
//! # Contract
//! * Which group a sample falls into, the scalar functions of SQL say for each sample alone; they have tests of their
//!   own. Which samples there are and what an aggregate of them is, the model says.
//! * Each query runs with `tagmill.tiers` at `always` or `auto`, and at `off`; both must be right by [`Aggregate::complaint`].
//! * Groups that are asked for in an order come in it, also where the plan relies on that of the scan instead of sorting.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use arrow::array::{ArrayRef, AsArray, RecordBatch, make_comparator};
use arrow::compute::{SortOptions, concat_batches};
use arrow::datatypes::{TimestampNanosecondType, UInt32Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use tagmill::Database;
use tagmill_engine_tests::harness::Harness;
use tagmill_engine_tests::model::{Key, Model};
use tagmill_engine_tests::tally::Tally;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{Rfc3339, TagId, TimeRange, limits};

use crate::aggregates::{Aggregate, Shown};
use crate::client::Client;

/// Widths of buckets that meet tiers, miss them, or lie across them.
const WIDTHS: [&str; 14] = [
    "1 min", "15 min", "1 h", "1 d", "1 week", "5 min", "90 min", "7 min", "10 s", "36 h", "3 d",
    "2 h", "45 min", "1 month",
];

/// A grouped query.
struct Query {
    keys: Vec<String>,
    aggregates: Vec<Aggregate>,
    from: &'static str,
    filter: String,
    order: bool,
    /// Samples of the model that it is over.
    wanted: Vec<TagId>,
    range: TimeRange,
}

impl Query {
    fn draw(model: &Model, random: &mut Random, step_ns: i64) -> Self {
        let mut wheres = Vec::new();
        let mut wanted: Vec<TagId> = model.live().map(|(id, _)| id).collect();
        draw_tags(model, random, &mut wanted, &mut wheres);
        let range = draw_range(model, random, step_ns);
        if range.start_ns > TimeRange::ALL.start_ns {
            wheres.push(format!("s.ts >= TIMESTAMP '{}'", Rfc3339(range.start_ns)));
        }
        if range.end_ns < TimeRange::ALL.end_ns {
            wheres.push(format!("s.ts < TIMESTAMP '{}'", Rfc3339(range.end_ns)));
        }
        let joins = random.once_in(4);
        let from = if joins { "samples s JOIN tags t ON s.tag_id = t.tag_id" } else { "samples s" };
        if joins && random.once_in(4) {
            wheres.push("t.unit = 'bar'".to_owned());
            let unit = |id: &TagId| model.tags[id].definition.attributes.unit.as_deref();
            wanted.retain(|id| unit(id) == Some("bar"));
        }
        let mut keys = Vec::new();
        if random.once_in(2) {
            keys.push("s.tag_id".to_owned());
        }
        if random.once_in(3) {
            keys.push("s.tag".to_owned());
        }
        if random.once_in(4) {
            keys.push("label(s.tag, 'area')".to_owned());
        }
        if joins && random.once_in(2) {
            keys.push("t.unit".to_owned());
        }
        for _ in 0..[0, 1, 1, 1, 2][random.index(5)] {
            keys.push(draw_time_key(random, step_ns));
        }
        // The order of keys decides whether a plan can rely on the order of the scan.
        if keys.len() > 1 && random.once_in(3) {
            let last = keys.len() - 1;
            keys.swap(0, last);
        }
        let count = 1 + random.index(5);
        // Alone, these come from the newest samples.
        let is_newest = keys.iter().all(|key| !key.contains("s.ts")) && random.once_in(2);
        let draw = if is_newest { Aggregate::of_newest } else { Aggregate::draw };
        let aggregates = (0..count).map(|_| draw(random)).collect();
        let filter = if wheres.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", wheres.join(" AND "))
        };
        Self { keys, aggregates, from, filter, order: random.once_in(3), wanted, range }
    }

    fn sql(&self) -> String {
        let keys = self.keys.iter().enumerate().map(|(at, key)| format!("{key} AS k{at}"));
        let aggregates = self.aggregates.iter().enumerate();
        let columns = keys.chain(aggregates.map(|(at, one)| format!("{one} AS a{at}")));
        let columns: Vec<String> = columns.collect();
        let numbers: Vec<String> = (1..=self.keys.len()).map(|at| at.to_string()).collect();
        let mut sql = format!("SELECT {} FROM {}{}", columns.join(", "), self.from, self.filter);
        if !numbers.is_empty() {
            let numbers = numbers.join(", ");
            write!(sql, " GROUP BY {numbers}").expect("text grows");
            if self.order {
                write!(sql, " ORDER BY {numbers}").expect("text grows");
            }
        }
        sql
    }

    /// The keys of every sample, by tag and time.
    fn keys_sql(&self) -> String {
        let keys = self.keys.iter().enumerate().map(|(at, key)| format!(", {key} AS k{at}"));
        let keys: String = keys.collect();
        format!("SELECT s.tag_id AS id, s.ts AS at{keys} FROM {}{}", self.from, self.filter)
    }
}

fn draw_tags(
    model: &Model,
    random: &mut Random,
    wanted: &mut Vec<TagId>,
    wheres: &mut Vec<String>,
) {
    match random.below(5) {
        0 if !wanted.is_empty() => {
            let id = wanted[random.index(wanted.len())];
            *wanted = vec![id];
            let name = model.tags[&id].definition.name.replace('\'', "''");
            wheres.push(format!("s.tag = '{name}'"));
        }
        1 => {
            wanted.retain(|_| random.once_in(2));
            let ids: Vec<String> = wanted.iter().map(|id| id.0.to_string()).collect();
            let ids = if ids.is_empty() { "4000000000".to_owned() } else { ids.join(", ") };
            wheres.push(format!("s.tag_id IN ({ids})"));
        }
        2 => {
            wanted.retain(|id| model.tags[id].definition.name.starts_with("area 1/"));
            wheres.push("s.tag LIKE 'area 1/%'".to_owned());
        }
        3 => {
            let label =
                |id: &TagId| model.tags[id].definition.attributes.labels.get("area").is_some();
            wanted.retain(label);
            wheres.push("label(s.tag, 'area') IS NOT NULL".to_owned());
        }
        _ => {}
    }
}

fn draw_range(model: &Model, random: &mut Random, step_ns: i64) -> TimeRange {
    if model.rows.is_empty() || random.once_in(3) {
        return TimeRange::ALL;
    }
    let mut at = || model.rows.keys().nth(random.index(model.rows.len())).map_or(0, |key| key.1);
    let (a, b) = (at(), at());
    let (mut start_ns, mut end_ns) = (a.min(b), a.max(b));
    if random.once_in(2) {
        // Bounds of minutes and hours, where tiers begin and end.
        let width_ns = [60_000_000_000, 3_600_000_000_000, step_ns.max(1) * 10][random.index(3)];
        start_ns = start_ns.div_euclid(width_ns) * width_ns;
        end_ns = end_ns.div_euclid(width_ns).saturating_add(1).saturating_mul(width_ns);
    }
    let end_ns = end_ns.min(limits::TIME_MAX_NS - 1);
    match random.below(4) {
        0 => TimeRange::new(TimeRange::ALL.start_ns, end_ns),
        1 => TimeRange::new(start_ns, TimeRange::ALL.end_ns),
        _ => TimeRange::new(start_ns, end_ns),
    }
}

fn draw_time_key(random: &mut Random, step_ns: i64) -> String {
    let own = format!("{} ns", step_ns.saturating_mul([1, 3, 60, 1_000][random.index(4)]));
    let width = if random.once_in(4) { own.as_str() } else { WIDTHS[random.index(WIDTHS.len())] };
    match random.below(10) {
        0 => format!("time_bucket('{width}', s.ts, TIMESTAMP '2020-02-29T06:07:08Z')"),
        1 => "time_bucket('1 day', s.ts, 'Europe/Berlin')".to_owned(),
        2 => "time_bucket('8 hours', s.ts, 'America/St_Johns', '6 hours')".to_owned(),
        3 => "date_bin(INTERVAL '30 minutes', s.ts)".to_owned(),
        4 => {
            let units = ["minute", "hour", "day", "week", "month", "year"];
            format!("date_trunc('{}', s.ts)", units[random.index(6)])
        }
        5 => ["s.ts::date", "date_part('hour', s.ts)"][random.index(2)].to_owned(),
        _ => format!("time_bucket('{width}', s.ts)"),
    }
}

/// Some random grouped queries over the open engine against the model.
///
/// # Panics
/// If an answer differs.
pub fn check_groupings(harness: &mut Harness, queries: u64, tally: &Tally) {
    harness.engine().sync().expect("a healthy disk");
    harness.settle_doubts();
    let database = Database::over(std::sync::Arc::clone(harness.engine())).expect("SQL starts");
    let mut client = Client::of(&database);
    for _ in 0..queries {
        let step_ns = harness.timeline.step_ns;
        let query = Query::draw(&harness.settled, &mut harness.random, step_ns);
        let parts = ["1", "3"][harness.random.index(2)];
        client.set("tagmill.partitions", parts);
        let groups = groups_of(&harness.settled, &query, &mut client);
        let some = ["always", "always", "auto"][harness.random.index(3)];
        for tiers in [some, "off"] {
            client.set("tagmill.tiers", tiers);
            check(&query, &groups, &mut client, tiers);
        }
        // By samples, in the order of the scan or hashed.
        let plan = client.plan(&query.sql());
        tally.note("ordered", u64::from(plan.contains("ordering_mode=")));
        client.set("tagmill.tiers", "auto");
        let plan = client.plan(&query.sql());
        tally.note("served", u64::from(plan.contains("TagmillAggregate")));
        tally.note("newest", u64::from(plan.contains("tier=latest")));
        tally.add(1);
        tally.note("groups", groups.len() as u64);
    }
}

/// The samples of each group.
type Groups = BTreeMap<Vec<String>, Vec<Shown>>;

fn groups_of(model: &Model, query: &Query, client: &mut Client) -> Groups {
    let mut groups = Groups::new();
    let mut seen = 0;
    for batch in client.rows(&query.keys_sql()) {
        let ids = batch.column(0).as_primitive::<UInt32Type>();
        let times = batch.column(1).as_primitive::<TimestampNanosecondType>();
        for (row, keys) in keys_of(&batch.columns()[2..], batch.num_rows()).into_iter().enumerate()
        {
            let key: Key = (TagId(ids.value(row)), times.value(row));
            let (value, quality) = &model.rows[&key];
            assert!(query.wanted.contains(&key.0) && query.range.contains(key.1), "{key:?}");
            groups.entry(keys).or_default().push(Shown::new(key.1, value, quality.is_bad()));
            seen += 1;
        }
    }
    let in_part = |(tag, ts): &&Key| query.wanted.contains(tag) && query.range.contains(*ts);
    assert_eq!(seen, model.rows.keys().filter(in_part).count(), "rows of {}", query.keys_sql());
    groups
}

fn keys_of(columns: &[ArrayRef], rows: usize) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let formats: Vec<_> = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options).expect("shows"))
        .collect();
    (0..rows).map(|row| formats.iter().map(|f| f.value(row).to_string()).collect()).collect()
}

fn check(query: &Query, groups: &Groups, client: &mut Client, tiers: &str) {
    let sql = query.sql();
    let mut left: BTreeMap<&Vec<String>, &Vec<Shown>> = groups.iter().collect();
    let none = Vec::new();
    let whole = Vec::new();
    if query.keys.is_empty() && left.is_empty() {
        left.insert(&none, &whole);
    }
    let batches = client.rows(&sql);
    let wrong = |client: &mut Client, what: String| -> ! {
        panic!("tiers={tiers} {sql}\n{what}\n{}", client.plan(&sql))
    };
    if query.order
        && let Some(what) = disorder(&batches, query.keys.len())
    {
        wrong(client, what);
    }
    for batch in &batches {
        let (keys, found) = batch.columns().split_at(query.keys.len());
        for (row, keys) in keys_of(keys, batch.num_rows()).into_iter().enumerate() {
            let Some(rows) = left.remove(&keys) else {
                wrong(client, format!("group {keys:?} is there without samples, or twice"))
            };
            for (aggregate, found) in query.aggregates.iter().zip(found) {
                if let Some(complaint) = aggregate.complaint(rows, found, row) {
                    wrong(client, format!("group {keys:?}: {complaint}"));
                }
            }
        }
    }
    if let Some((keys, _)) = left.first_key_value() {
        let keys = format!("group {keys:?} and {} others are missing", left.len() - 1);
        wrong(client, keys);
    }
}

/// Where rows do not ascend by so many first columns, if they ought to.
fn disorder(batches: &[RecordBatch], keys: usize) -> Option<String> {
    let all = concat_batches(&batches.first()?.schema(), batches).expect("batches of one answer");
    let ascending = SortOptions::new(false, false);
    let compare = |column: &ArrayRef| make_comparator(column, column, ascending).expect("keys");
    let columns: Vec<_> = all.columns().iter().take(keys).map(compare).collect();
    let ascends = |row: &usize| {
        let orders = columns.iter().map(|compare| compare(row - 1, *row));
        orders.fold(Ordering::Equal, Ordering::then) != Ordering::Greater
    };
    let row = (1..all.num_rows()).find(|row| !ascends(row))?;
    Some(format!("row {row} comes after a greater one"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn rows_out_of_order_are_found_across_batches_and_nulls_come_last() {
        let batch = |keys: &[(Option<i64>, i64)]| {
            let first: Int64Array = keys.iter().map(|key| key.0).collect();
            let second: Int64Array = keys.iter().map(|key| Some(key.1)).collect();
            let columns: [ArrayRef; 2] = [Arc::new(first), Arc::new(second)];
            let columns = ["a", "b"].into_iter().zip(columns);
            let columns = columns.map(|(name, column)| (name, column, true));
            RecordBatch::try_from_iter_with_nullable(columns).expect("two columns")
        };
        let good = [batch(&[(Some(1), 5), (Some(1), 6)]), batch(&[(Some(2), 0), (None, 0)])];
        assert_eq!(disorder(&good, 2), None);
        let [first, second] = good;
        assert!(disorder(&[second.clone(), first], 2).is_some());
        assert!(disorder(&[second.clone(), second], 1).is_some(), "a null before a number");
        assert_eq!(disorder(&[batch(&[(Some(1), 6), (Some(1), 5)])], 1), None, "one key alone");
        assert!(disorder(&[batch(&[(Some(1), 6), (Some(1), 5)])], 2).is_some());
    }
}

//! What holds between samples: every function that knows it, against the rule written out once more.
//!
//! Random samples of random tags, some sealed. [`Plant::shown`] is the rule of `docs/sql.md`, word for word and as slow as that;
//! it is asked at many instants, and so are `value_at`, `grid`, `history`, `windows` and `asof_join`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tagmill::arrow::array::{Array, AsArray, Float64Array};
use tagmill::arrow::compute::concat_batches;
use tagmill::arrow::datatypes::{Float64Type, TimestampNanosecondType};
use tagmill::arrow::record_batch::RecordBatch;
use tagmill::{
    Batch, Database, Options, Qualities, Quality, TagAttributes, TagColumn, TagDefinition,
    ValueType, Values,
};
use tagmill_engine_tests::seeds::{Case, seeds};
use tagmill_storage::disk::sim::Random;
use tagmill_tests::fixture::START_NS;
use tokio::runtime::Runtime;

/// Samples stand on whole steps, questions between them, so that no rounding decides.
const STEP_NS: i64 = 1_000;
/// Steps with samples.
const STEPS: u64 = 60;

struct Plant {
    attributes: TagAttributes,
    samples: BTreeMap<i64, (f64, Quality)>,
}

impl Plant {
    fn draw(random: &mut Random) -> Self {
        let attributes = TagAttributes {
            stepped: Some(random.once_in(2)),
            max_gap_ns: random.once_in(2).then(|| (1 + random.below(9)) as i64 * STEP_NS),
            uncertain_usable: Some(random.once_in(2)),
            ..TagAttributes::default()
        };
        let qualities = [Quality::GOOD, Quality::GOOD, Quality::GOOD, Quality::UNCERTAIN];
        let mut samples = BTreeMap::new();
        for _ in 0..random.below(25) {
            let at_ns = START_NS + random.below(STEPS) as i64 * STEP_NS;
            let bad = random.once_in(8);
            let quality = if bad { Quality::BAD } else { qualities[random.index(4)] };
            let value = if random.once_in(12) { f64::NAN } else { random.below(6) as f64 };
            samples.insert(at_ns, (value, quality));
        }
        Self { attributes, samples }
    }

    fn is_usable(&self, (value, quality): (f64, Quality)) -> bool {
        let uncertain = self.attributes.uncertain_usable == Some(true) && !quality.is_bad();
        value.is_finite() && (quality.is_good() || uncertain)
    }

    /// The last usable sample at or before an instant.
    fn usable_before(&self, at_ns: i64) -> Option<(i64, f64)> {
        let mut before = self.samples.range(..=at_ns).rev();
        let found = before.find(|(_, sample)| self.is_usable(**sample));
        found.map(|(time_ns, (value, _))| (*time_ns, *value))
    }

    /// What the tag shows at an instant in the past.
    fn shown(&self, at_ns: i64) -> Option<f64> {
        let gap_ns = self.attributes.max_gap_ns.unwrap_or(i64::MAX);
        let (from_ns, from) = self.usable_before(at_ns)?;
        if from_ns == at_ns {
            return Some(from);
        }
        if self.samples.range(from_ns + 1..=at_ns).next().is_some() {
            return None;
        }
        let Some((&to_ns, &to)) = self.samples.range(at_ns + 1..).next() else {
            return Some(from).filter(|_| at_ns - from_ns <= gap_ns);
        };
        if to_ns - from_ns > gap_ns {
            return None;
        }
        if self.attributes.stepped == Some(true) || !self.is_usable(to) {
            return Some(from);
        }
        let share = (at_ns - from_ns) as f64 / (to_ns - from_ns) as f64;
        Some(from + (to.0 - from) * share)
    }

    fn write(&self, database: &Database, random: &mut Random) {
        let definition = TagDefinition {
            name: "T".to_owned(),
            value_type: ValueType::F64,
            attributes: self.attributes.clone(),
        };
        let tag = database.define(&[definition]).unwrap()[0];
        let all: Vec<_> = self.samples.iter().collect();
        for part in all.chunks(9) {
            let column = TagColumn {
                tag,
                times: part.iter().map(|(time_ns, _)| **time_ns).collect(),
                values: Values::F64(part.iter().map(|(_, (value, _))| *value).collect()),
                qualities: Qualities::Each(part.iter().map(|(_, (_, q))| *q).collect()),
            };
            database.append(Batch { columns: vec![column], ..Batch::default() }).unwrap();
            if random.once_in(2) {
                database.engine().seal().unwrap();
            }
        }
    }
}

struct Asked<'a> {
    runtime: &'a Runtime,
    database: &'a Database,
}

impl Asked<'_> {
    fn rows(&self, sql: &str) -> RecordBatch {
        let answer = async {
            let answer = self.database.session().execute(sql).await.unwrap();
            let schema = Arc::clone(&answer.schema);
            concat_batches(&schema, &answer.collect().await.unwrap()).unwrap()
        };
        self.runtime.block_on(answer)
    }
}

/// An instant as SQL writes it.
fn time(at_ns: i64) -> String {
    format!("'{}'", tagmill_storage::Rfc3339(at_ns))
}

fn times(rows: &RecordBatch, column: &str) -> Vec<i64> {
    let column = rows.column_by_name(column).unwrap();
    column.as_primitive::<TimestampNanosecondType>().values().to_vec()
}

fn numbers<'a>(rows: &'a RecordBatch, column: &str) -> &'a Float64Array {
    rows.column_by_name(column).unwrap().as_primitive::<Float64Type>()
}

fn number(column: &Float64Array, row: usize) -> Option<f64> {
    column.is_valid(row).then(|| column.value(row))
}

fn same(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-9,
        _ => a == b,
    }
}

fn check_instants(plant: &Plant, asked: &Asked) {
    let (start_ns, end_ns) = (START_NS - 3 * STEP_NS, START_NS + 80 * STEP_NS);
    let grid = format!("grid('T', {}, {}, '0.5 us')", time(start_ns), time(end_ns));
    let rows = asked.rows(&format!("SELECT ts, \"T\", value_at('T', ts) AS v FROM {grid}"));
    let (cells, values) = (numbers(&rows, "T"), numbers(&rows, "v"));
    assert_eq!(rows.num_rows(), 166);
    for (row, at_ns) in times(&rows, "ts").into_iter().enumerate() {
        let want = plant.shown(at_ns);
        assert!(
            same(number(cells, row), want),
            "grid at {at_ns}: {:?}, not {want:?}",
            cells.value(row)
        );
        assert!(same(number(values, row), want), "value_at {at_ns}: not {want:?}");
    }
    // Far apart, so that each is looked up by itself.
    let rows = asked.rows(&format!(
        "SELECT ts, value_at('T', ts, '3 us') AS v FROM {grid} WHERE epoch_ns(ts) % 7000 = 500"
    ));
    let values = numbers(&rows, "v");
    for (row, at_ns) in times(&rows, "ts").into_iter().enumerate() {
        let fresh = plant.usable_before(at_ns).is_some_and(|from| at_ns - from.0 <= 3 * STEP_NS);
        let want = plant.shown(at_ns).filter(|_| fresh);
        assert!(same(number(values, row), want), "value_at {at_ns}: not {want:?}");
    }
    let events = format!("(SELECT ts FROM {grid} WHERE epoch_ns(ts) % 3000 = 0)");
    let rows = asked.rows(&format!("SELECT ts, value FROM asof_join({events}, 'T', '5 us')"));
    let values = numbers(&rows, "value");
    for (row, at_ns) in times(&rows, "ts").into_iter().enumerate() {
        let want = plant.usable_before(at_ns).filter(|from| at_ns - from.0 <= 5 * STEP_NS);
        assert_eq!(number(values, row), want.map(|from| from.1), "asof_join at {at_ns}");
    }
}

fn check_means(plant: &Plant, asked: &Asked, width: i64) {
    let (start_ns, end_ns) = (START_NS - 3 * STEP_NS, START_NS + 75 * STEP_NS);
    let rows = asked.rows(&format!(
        "SELECT ts, \"T\" FROM grid('T', {}, {}, '{width} us', mode => 'average')",
        time(start_ns),
        time(end_ns)
    ));
    let cells = numbers(&rows, "T");
    for (row, at_ns) in times(&rows, "ts").into_iter().enumerate() {
        // A line at the middle of a step is its mean over the step.
        let until_ns = (at_ns + width * STEP_NS).min(end_ns);
        let middles = (at_ns..until_ns).step_by(1_000).map(|step_ns| step_ns + STEP_NS / 2);
        let known: Vec<f64> = middles.filter_map(|at_ns| plant.shown(at_ns)).collect();
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let want = Some(mean).filter(|mean| mean.is_finite());
        assert!(
            same(number(cells, row), want),
            "mean at {at_ns}: {:?}, not {want:?}",
            number(cells, row)
        );
    }
}

fn check_edges(plant: &Plant, asked: &Asked, random: &mut Random) {
    let start_ns = START_NS + random.below(2 * STEPS) as i64 * STEP_NS / 2;
    let end_ns = start_ns + (1 + random.below(40)) as i64 * STEP_NS / 2;
    let (start, end) = (time(start_ns), time(end_ns));
    let rows = asked.rows(&format!("SELECT ts, value, bound FROM history('T', {start}, {end})"));
    let values = numbers(&rows, "value");
    let bounds = rows.column_by_name("bound").unwrap().as_boolean();
    let mut want: Vec<(i64, bool)> =
        plant.samples.range(start_ns..end_ns).map(|(time_ns, _)| (*time_ns, false)).collect();
    if !plant.samples.contains_key(&start_ns) && plant.samples.range(..start_ns).next().is_some() {
        want.insert(0, (start_ns, true));
    }
    if plant.samples.range(..=end_ns).next().is_some() {
        want.push((end_ns, true));
    }
    let shown = times(&rows, "ts").into_iter().zip(bounds.values().iter());
    assert_eq!(shown.collect::<Vec<_>>(), want, "history {start} {end}");
    for (row, (at_ns, bound)) in want.into_iter().enumerate().filter(|(_, (_, bound))| *bound) {
        assert!(same(number(values, row), plant.shown(at_ns)), "history at {at_ns} {bound}");
    }
}

fn check_windows(plant: &Plant, asked: &Asked, random: &mut Random) {
    let (start_ns, end_ns) = (START_NS + 5 * STEP_NS, START_NS + 70 * STEP_NS);
    let limit = random.below(5) as f64 + 0.5;
    let above = random.once_in(2);
    let condition = format!("'{} {limit}'", if above { ">" } else { "<=" });
    let range = format!("start => {}, end => {}", time(start_ns), time(end_ns));
    let rows = asked.rows(&format!("SELECT * FROM windows('T', {condition}, {range})"));
    let windows: Vec<(i64, i64)> =
        times(&rows, "start_ts").into_iter().zip(times(&rows, "end_ts")).collect();
    let runs = asked.rows(&format!("SELECT * FROM windows('T', {range})"));
    let equal: Vec<(i64, i64)> =
        times(&runs, "start_ts").into_iter().zip(times(&runs, "end_ts")).collect();
    for step in 5..70 {
        let at_ns = START_NS + step * STEP_NS + STEP_NS / 2;
        let shown = plant.shown(at_ns);
        let inside = |(from, to): &(i64, i64)| *from <= at_ns && at_ns < *to;
        let holds = shown.is_some_and(|value| if above { value > limit } else { value <= limit });
        if shown.is_none_or(|value| (value - limit).abs() > 0.05) {
            assert_eq!(windows.iter().any(inside), holds, "{condition} at {at_ns}: {windows:?}");
        }
        let level =
            shown.filter(|_| plant.shown(at_ns + 1) == shown && plant.shown(at_ns - 1) == shown);
        let run = equal.iter().position(inside).map(|row| numbers(&runs, "value").value(row));
        assert_eq!(run, level, "equal at {at_ns}: {equal:?}");
    }
    assert!(windows.is_sorted_by(|a, b| a.1 <= b.0), "{windows:?}");
    assert!(equal.is_sorted_by(|a, b| a.1 <= b.0), "{equal:?}");
}

#[test]
fn every_function_knows_what_holds_between_samples() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for seed in seeds(6) {
        let _case = Case::of(
            "tagmill-tests",
            "between::every_function_knows_what_holds_between_samples",
            seed,
        );
        let mut random = Random::new(seed);
        let plant = Plant::draw(&mut random);
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(directory.path(), Options::default()).unwrap();
        plant.write(&database, &mut random);
        let asked = Asked { runtime: &runtime, database: &database };
        check_instants(&plant, &asked);
        check_means(&plant, &asked, 1 + random.below(9) as i64);
        for _ in 0..4 {
            check_edges(&plant, &asked, &mut random);
            check_windows(&plant, &asked, &mut random);
        }
    }
}

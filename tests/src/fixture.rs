//! Databases for SQL tests, by name: `# fixture: plant_small` on top of an `.slt` file.
//!
//! SQL only reads, so a test names its data instead of inserting it. Every fixture is small enough to check its
//! answers by hand from the tables below, or regular enough to compute them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tagmill::storage::{RetentionClass, Tier};
use tagmill::{
    Batch, Database, Engine, Labels, Options, Qualities, Quality, TagAttributes, TagColumn,
    TagDefinition, TagId, ValueType, Values,
};

/// 2026-03-01T00:00:00Z, a Sunday.
pub const START_NS: i64 = 1_772_323_200 * SECOND_NS;
const SECOND_NS: i64 = 1_000_000_000;
const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// Every fixture's name.
pub const NAMES: [&str; 8] = [
    "empty",
    "plant_small",
    "exact",
    "clock_change",
    "many_rows",
    "intervals",
    "two_shifts",
    "beyond_raw",
];

/// Builds a fixture in an empty directory; `sealed` has its samples in segments instead of the head.
///
/// # Panics
/// If there is no fixture of this name, or the database refuses it.
pub fn build(name: &str, directory: &Path, sealed: bool) -> Database {
    let mut options = Options::default();
    if name == "beyond_raw" {
        options.storage.retention = short_lived();
    }
    let database = Database::open(directory, options).expect("directory is empty");
    let engine = database.engine();
    match name {
        "empty" => {}
        "plant_small" => plant_small(engine),
        "exact" => exact(engine),
        "clock_change" => clock_change(engine),
        "many_rows" => many_rows(engine),
        "intervals" => intervals(engine),
        "two_shifts" => two_shifts(engine),
        "beyond_raw" => beyond_raw(engine, sealed),
        _ => panic!("no fixture named {name}: there are {}", NAMES.join(", ")),
    }
    if sealed {
        engine.seal().expect("fixture seals");
    }
    database
}

/// Samples for three days, rollups of a minute for five, of an hour for ever; and all of it for ever.
fn short_lived() -> Vec<RetentionClass> {
    let days = |count: u64| Some(Duration::from_secs(count * 86_400));
    let tiers = vec![(Tier::Minute, days(5)), (Tier::Hour, None)];
    vec![
        RetentionClass { tiers, ..RetentionClass::of_raw("", days(3)) },
        RetentionClass::of_raw("keep", None),
    ]
}

/// Ten days from [`START_NS`] on, of which samples are left from 8 March on, rollups of a minute from the 6th on, and rollups
/// of an hour before; `rolled_up` has them in tier segments, else they are still in the head.
///
/// | tag | type | samples |
/// |---|---|---|
/// | B/TT | f64 | every 10 minutes, in each hour 0 1 2 3 4 5 |
/// | B/KEPT | f64 | the same, of the class that is kept |
/// | B/FQ | i64, a counter | at every full hour 10 more, from 0; on 3 March at noon it is 0 again |
/// | B/UP | i64, a counter | at every full hour 10 more, from 0 |
/// | B/SP | f64, stepped | 1 March 06:00: 40, and nothing since |
/// | B/MODE | text | at every full hour, A and B in turn |
fn beyond_raw(engine: &Engine, rolled_up: bool) {
    let class = |name: Option<&str>, stepped| TagAttributes {
        retention: name.map(str::to_owned),
        stepped,
        ..TagAttributes::default()
    };
    let tag = |name: &str, value_type, attributes| TagDefinition {
        name: name.to_owned(),
        value_type,
        attributes,
    };
    let ids = engine
        .define(&[
            tag("B/TT", ValueType::F64, class(None, None)),
            tag("B/KEPT", ValueType::F64, class(Some("keep"), None)),
            tag("B/FQ", ValueType::I64, class(None, None)),
            tag("B/UP", ValueType::I64, class(None, None)),
            tag("B/SP", ValueType::F64, class(None, Some(true))),
            tag("B/MODE", ValueType::Text, class(None, None)),
        ])
        .expect("tags are new");
    let tens: Vec<i64> = (0..1_440).map(|at| at * 600).collect();
    let hours: Vec<i64> = (0..240).map(|at| at * 3_600).collect();
    let saw: Vec<f64> = (0..1_440).map(|at| f64::from(at % 6)).collect();
    let noon = 2 * 24 + 12;
    let falling: Vec<i64> =
        (0..240).map(|at| 10 * if at < noon { at } else { at - noon }).collect();
    let rising: Vec<i64> = (0..240).map(|at| 10 * at).collect();
    let modes = (0..240).map(|at| Arc::from(if at % 2 == 0 { "A" } else { "B" })).collect();
    let columns = vec![
        column(ids[0], &tens, Values::F64(saw.clone()), Qualities::GOOD),
        column(ids[1], &tens, Values::F64(saw), Qualities::GOOD),
        column(ids[2], &hours, Values::I64(falling), Qualities::GOOD),
        column(ids[3], &hours, Values::I64(rising), Qualities::GOOD),
        column(ids[4], &[6 * 3_600], Values::F64(vec![40.0]), Qualities::GOOD),
        column(ids[5], &hours, Values::Text(modes), Qualities::GOOD),
    ];
    engine.append(Batch { columns, ..Batch::default() }).expect("fixture is accepted");
    // Time is at most a day past the newest sample, however late it is now.
    engine.confirm_clock().expect("horizons rise");
    if rolled_up {
        engine.compact().expect("days are rolled up");
    }
}

/// Eight tags of two units, one of them without samples. Times in seconds after [`START_NS`].
///
/// | tag | type | samples |
/// |---|---|---|
/// | U1/TT-101 | f64 | 0: 20, 60: 21, 120: 25 Bad, 180: 22 Uncertain, 240: NaN, 300: 24.5 |
/// | U1/PT-102 | f32 | 0: 0.1, 30: 0.2, 60: 0.3 |
/// | U1/M-103 | state | 0: STOP, 60: RUN, 200: code 7 without label, 210: FAULT, 220: RUN Bad, 230: STOP |
/// | U2/TT-201 | f64 | 0: 5, 60: 6, 120: 7, .. 540: 14 |
/// | U2/FQ-202 | i64 | 0: 9990, 60: 9998, 120: 4 |
/// | U2/XV-203 | bool | 0: false, 90: true, 95: false Bad |
/// | U2/BATCH | text | 0: B-1, 300: B-2 |
/// | U2/SPARE | f64 | |
fn plant_small(engine: &Engine) {
    let known = |area: &str, kind: &str, unit: &str| TagAttributes {
        unit: Some(unit.to_owned()),
        labels: Labels::from([("area", area), ("kind", kind)]),
        ..TagAttributes::default()
    };
    let tag = |name: &str, value_type, attributes| TagDefinition {
        name: name.to_owned(),
        value_type,
        attributes,
    };
    let mut boiler = known("north", "temperature", "°C");
    boiler.description = Some("Boiler outlet".to_owned());
    (boiler.range_low, boiler.range_high) = (Some(0.0), Some(150.0));
    boiler.max_gap_ns = Some(300 * SECOND_NS);
    let mut counter = known("south", "flow", "kg");
    counter.rollover = Some(10_000.0);
    counter.uncertain_usable = Some(true);
    let motor = TagAttributes { state_set: Some("motor".to_owned()), ..TagAttributes::default() };
    let ids = engine
        .define(&[
            tag("U1/TT-101", ValueType::F64, boiler),
            tag("U1/PT-102", ValueType::F32, known("north", "pressure", "bar")),
            tag("U1/M-103", ValueType::State, motor),
            tag("U2/TT-201", ValueType::F64, known("south", "temperature", "°C")),
            tag("U2/FQ-202", ValueType::I64, counter),
            tag("U2/XV-203", ValueType::Bool, TagAttributes::default()),
            tag("U2/BATCH", ValueType::Text, TagAttributes::default()),
            tag("U2/SPARE", ValueType::F64, TagAttributes::default()),
        ])
        .expect("tags are new");
    let labels = ["STOP", "RUN", "FAULT"].map(String::from);
    engine.grow_states("motor", &labels).expect("labels are new");
    let good = Quality::GOOD;
    let each = |qualities: &[Quality]| Qualities::Each(qualities.to_vec());
    let texts = ["B-1", "B-2"].map(Arc::from).to_vec();
    let columns = vec![
        column(
            ids[0],
            &[0, 60, 120, 180, 240, 300],
            Values::F64(vec![20.0, 21.0, 25.0, 22.0, f64::NAN, 24.5]),
            each(&[good, good, Quality::BAD_NOT_CONNECTED, Quality(0x4090_0000), good, good]),
        ),
        column(ids[1], &[0, 30, 60], Values::F32(vec![0.1, 0.2, 0.3]), Qualities::GOOD),
        column(
            ids[2],
            &[0, 60, 200, 210, 220, 230],
            Values::State(vec![0, 1, 7, 2, 1, 0]),
            each(&[good, good, good, good, Quality::BAD, good]),
        ),
        column(
            ids[3],
            &[0, 60, 120, 180, 240, 300, 360, 420, 480, 540],
            Values::F64((5..15).map(f64::from).collect()),
            Qualities::GOOD,
        ),
        column(ids[4], &[0, 60, 120], Values::I64(vec![9_990, 9_998, 4]), Qualities::GOOD),
        column(
            ids[5],
            &[0, 90, 95],
            Values::Bool(vec![false, true, false]),
            each(&[good, good, Quality::BAD_NO_DATA]),
        ),
        column(ids[6], &[0, 300], Values::Text(texts), Qualities::GOOD),
    ];
    append(engine, columns);
}

/// Values and times that lose something as soon as anybody is careless with them.
fn exact(engine: &Engine) {
    let ids = define(engine, &[("big", ValueType::I64), ("odd", ValueType::F64)]);
    let big = column(
        ids[0],
        &[0, 1, 2, 3],
        Values::I64(vec![i64::MIN, i64::MAX, (1 << 53) + 1, -(1 << 53) - 1]),
        Qualities::GOOD,
    );
    let odd = TagColumn {
        tag: ids[1],
        times: (0..6).map(|step| START_NS + step).collect(),
        values: Values::F64(vec![
            -0.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::from_bits(0x7FF8_0000_0000_1234),
            f64::MIN_POSITIVE / 4.0,
            0.1 + 0.2,
        ]),
        qualities: Qualities::GOOD,
    };
    append(engine, vec![big, odd]);
}

/// One tag, value 1 every half hour of the four days around both changes of the clock in Berlin, 2026.
fn clock_change(engine: &Engine) {
    let ids = define(engine, &[("T", ValueType::F64)]);
    // 2026-03-28 and 2026-10-24, 00:00 UTC.
    let firsts = [1_774_656_000, 1_792_800_000].map(|second: i64| second * SECOND_NS);
    let times: Vec<i64> = firsts
        .iter()
        .flat_map(|first| (0..4 * 48).map(move |step| first + step * HOUR_NS / 2))
        .collect();
    let values = Values::F64(vec![1.0; times.len()]);
    append(engine, vec![TagColumn { tag: ids[0], times, values, qualities: Qualities::GOOD }]);
}

/// Eight tags `N-0` to `N-7`, each 10,000 samples, one a second: `1000 * n + i % 100 + 0.5`.
fn many_rows(engine: &Engine) {
    const ROWS: i32 = 10_000;
    let names: Vec<String> = (0..8).map(|number| format!("N-{number}")).collect();
    let tags: Vec<_> = names.iter().map(|name| (name.as_str(), ValueType::F64)).collect();
    let times: Vec<i64> = (0..ROWS).map(|step| START_NS + i64::from(step) * SECOND_NS).collect();
    let columns = define(engine, &tags).into_iter().zip(0..).map(|(tag, number)| TagColumn {
        tag,
        times: times.clone(),
        values: Values::F64(
            (0..ROWS).map(|step| f64::from(1_000 * number + step % 100) + 0.5).collect(),
        ),
        qualities: Qualities::GOOD,
    });
    append(engine, columns.collect());
}

/// What holds between samples, one case a tag. Times in seconds after [`START_NS`].
///
/// | tag | type | samples |
/// |---|---|---|
/// | LINE | f64 | 0: 0, 100: 10, 200: 0 |
/// | STEP | i64 | 0: 1, 50: 3 |
/// | BAD | f64 | 0: 4, 40: 5 Bad, 80: 6 |
/// | GAP | f64, at most 60 s | 0: 1, 60: 2, 200: 5 |
/// | ONE | f64 | 130: 7 |
/// | SILENT | f64 | a week before: 42 |
/// | METER | i64, rollover 10,000 | 0: 9990, 60: 9998, 120: 4, 180: 10 |
/// | NOISE | f64, jitter 0.5 | 0: 10, 60: 11, 120: 10.75, 180: 11.5 |
/// | RESET | i64, reset to 2 | 0: 100, 60: 130, 120: 12 |
/// | BIG | i64 | 0: 2^53 + 1, 60: 2^53 + 2, 120: 2^53 + 4 |
/// | MOTOR | state | 0: STOP, 60: RUN, 120: FAULT Bad, 180: RUN |
/// | ORDER | text | 0: A, 90: B, 150: B |
/// | FLAG | bool | 0: false, 30: true, 90: false |
/// | EMPTY | f64 | |
fn intervals(engine: &Engine) {
    let tag = |name: &str, value_type, area: &str| TagDefinition {
        name: name.to_owned(),
        value_type,
        attributes: TagAttributes {
            labels: Labels::from([("kind", area)]),
            ..TagAttributes::default()
        },
    };
    let mut tags = vec![
        tag("LINE", ValueType::F64, "drawn"),
        tag("STEP", ValueType::I64, "held"),
        tag("BAD", ValueType::F64, "drawn"),
        tag("GAP", ValueType::F64, "drawn"),
        tag("ONE", ValueType::F64, "drawn"),
        tag("SILENT", ValueType::F64, "drawn"),
        tag("METER", ValueType::I64, "counter"),
        tag("NOISE", ValueType::F64, "counter"),
        tag("RESET", ValueType::I64, "counter"),
        tag("BIG", ValueType::I64, "counter"),
        tag("MOTOR", ValueType::State, "held"),
        tag("ORDER", ValueType::Text, "held"),
        tag("FLAG", ValueType::Bool, "held"),
        tag("EMPTY", ValueType::F64, "drawn"),
    ];
    tags[3].attributes.max_gap_ns = Some(60 * SECOND_NS);
    tags[6].attributes.rollover = Some(10_000.0);
    tags[7].attributes.jitter = Some(0.5);
    tags[8].attributes.reset_value = Some(2.0);
    tags[10].attributes.state_set = Some("motor".to_owned());
    let ids = engine.define(&tags).expect("tags are new");
    let labels = ["STOP", "RUN", "FAULT"].map(String::from);
    engine.grow_states("motor", &labels).expect("labels are new");
    let big = |more: i64| (1 << 53) + more;
    let good = Quality::GOOD;
    let one_bad = |bad: usize, count: usize| {
        (0..count).map(move |at| if at == bad { Quality::BAD } else { good })
    };
    let texts = ["A", "B", "B"].map(Arc::from).to_vec();
    let columns = vec![
        column(ids[0], &[0, 100, 200], Values::F64(vec![0.0, 10.0, 0.0]), Qualities::GOOD),
        column(ids[1], &[0, 50], Values::I64(vec![1, 3]), Qualities::GOOD),
        column(
            ids[2],
            &[0, 40, 80],
            Values::F64(vec![4.0, 5.0, 6.0]),
            Qualities::Each(one_bad(1, 3).collect()),
        ),
        column(ids[3], &[0, 60, 200], Values::F64(vec![1.0, 2.0, 5.0]), Qualities::GOOD),
        column(ids[4], &[130], Values::F64(vec![7.0]), Qualities::GOOD),
        column(ids[5], &[-7 * 86_400], Values::F64(vec![42.0]), Qualities::GOOD),
        column(ids[6], &[0, 60, 120, 180], Values::I64(vec![9_990, 9_998, 4, 10]), Qualities::GOOD),
        column(
            ids[7],
            &[0, 60, 120, 180],
            Values::F64(vec![10.0, 11.0, 10.75, 11.5]),
            Qualities::GOOD,
        ),
        column(ids[8], &[0, 60, 120], Values::I64(vec![100, 130, 12]), Qualities::GOOD),
        column(ids[9], &[0, 60, 120], Values::I64([1, 2, 4].map(big).to_vec()), Qualities::GOOD),
        column(
            ids[10],
            &[0, 60, 120, 180],
            Values::State(vec![0, 1, 2, 1]),
            Qualities::Each(one_bad(2, 4).collect()),
        ),
        column(ids[11], &[0, 90, 150], Values::Text(texts), Qualities::GOOD),
        column(ids[12], &[0, 30, 90], Values::Bool(vec![false, true, false]), Qualities::GOOD),
    ];
    append(engine, columns);
}

/// Two lines of a plant through an early and a late shift, 06:00 to 22:00 in Berlin. Times in hours after 05:00 UTC.
///
/// | tag | type | samples |
/// |---|---|---|
/// | L1/TI-1 | f64, °C | 0: 60, 2: 100, 4: 60, 5: 70 Bad, 6: 60, 8: 80, 12: 80, 16: 80 |
/// | L1/STATE | state | 0: RUN, 6: STOP, 7: RUN, 14: STOP |
/// | L1/COUNT | i64, pieces, rolls over at 1000 | 0: 900, 7: 380, 15: 700 |
/// | L1/POWER | f64 stepped, kW | 0: 10, 8: 20, 14: 0 |
/// | L1/ENERGY | i64, kWh, rolls over at 1000 | 0: 960, 8: 40, 14: 160 |
/// | L1/BATCH | text | 1: B-1, 3: B-2, 5: none |
/// | L1/LAB | f64 stepped | 2.5: 4.2, 3.5: 4.4 |
/// | L2/TI-2 | f64, °C | 0: 60, 1: 60, 3: 100, 5: 60, 6: 60, 9: 80, 12: 80, 16: 80 |
/// | L2/PI-1 | f64, bar | 5.0 each hour, 0 to 15 |
/// | L2/PI-2 | f64, bar | 0: 5.0, 1: 5.1 |
fn two_shifts(engine: &Engine) {
    let of_line = |line: &str, unit: &str| TagAttributes {
        unit: Some(unit.to_owned()),
        labels: Labels::from([("area", line)]),
        ..TagAttributes::default()
    };
    let counter = |unit: &str| TagAttributes { rollover: Some(1_000.0), ..of_line("L1", unit) };
    let stepped = |unit: &str| TagAttributes { stepped: Some(true), ..of_line("L1", unit) };
    let state = TagAttributes { state_set: Some("line".to_owned()), ..of_line("L1", "") };
    let tag = |name: &str, value_type, attributes| TagDefinition {
        name: name.to_owned(),
        value_type,
        attributes,
    };
    let ids = engine
        .define(&[
            tag("L1/TI-1", ValueType::F64, of_line("L1", "°C")),
            tag("L1/STATE", ValueType::State, state),
            tag("L1/COUNT", ValueType::I64, counter("pieces")),
            tag("L1/POWER", ValueType::F64, stepped("kW")),
            tag("L1/ENERGY", ValueType::I64, counter("kWh")),
            tag("L1/BATCH", ValueType::Text, of_line("L1", "")),
            tag("L1/LAB", ValueType::F64, stepped("%")),
            tag("L2/TI-2", ValueType::F64, of_line("L2", "°C")),
            tag("L2/PI-1", ValueType::F64, of_line("L2", "bar")),
            tag("L2/PI-2", ValueType::F64, of_line("L2", "bar")),
        ])
        .expect("tags are new");
    engine.grow_states("line", &["STOP", "RUN"].map(String::from)).expect("labels are new");
    let at = |tag: usize, hours: &[f64], values: Values| {
        let seconds: Vec<i64> = hours.iter().map(|hours| 5 * 3_600 + seconds_of(*hours)).collect();
        column(ids[tag], &seconds, values, Qualities::GOOD)
    };
    let mut first = at(
        0,
        &[0.0, 2.0, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0],
        Values::F64(vec![60.0, 100.0, 60.0, 70.0, 60.0, 80.0, 80.0, 80.0]),
    );
    let mut qualities = vec![Quality::GOOD; 8];
    qualities[3] = Quality::BAD;
    first.qualities = Qualities::Each(qualities);
    let batches = ["B-1", "B-2", "none"].map(Arc::from).to_vec();
    let hourly: Vec<f64> = (0..16).map(f64::from).collect();
    let columns = vec![
        first,
        at(1, &[0.0, 6.0, 7.0, 14.0], Values::State(vec![1, 0, 1, 0])),
        at(2, &[0.0, 7.0, 15.0], Values::I64(vec![900, 380, 700])),
        at(3, &[0.0, 8.0, 14.0], Values::F64(vec![10.0, 20.0, 0.0])),
        at(4, &[0.0, 8.0, 14.0], Values::I64(vec![960, 40, 160])),
        at(5, &[1.0, 3.0, 5.0], Values::Text(batches)),
        at(6, &[2.5, 3.5], Values::F64(vec![4.2, 4.4])),
        at(
            7,
            &[0.0, 1.0, 3.0, 5.0, 6.0, 9.0, 12.0, 16.0],
            Values::F64(vec![60.0, 60.0, 100.0, 60.0, 60.0, 80.0, 80.0, 80.0]),
        ),
        at(8, &hourly, Values::F64(vec![5.0; 16])),
        at(9, &[0.0, 1.0], Values::F64(vec![5.0, 5.1])),
    ];
    append(engine, columns);
}

/// Whole seconds of some hours.
#[expect(clippy::cast_possible_truncation, reason = "hours of a fixture are few")]
fn seconds_of(hours: f64) -> i64 {
    (hours * 3_600.0).round() as i64
}

fn define(engine: &Engine, tags: &[(&str, ValueType)]) -> Vec<TagId> {
    let tags: Vec<_> = tags.iter().map(|&(name, of)| TagDefinition::new(name, of)).collect();
    engine.define(&tags).expect("tags are new")
}

fn column(tag: TagId, seconds: &[i64], values: Values, qualities: Qualities) -> TagColumn {
    let times = seconds.iter().map(|second| START_NS + second * SECOND_NS).collect();
    TagColumn { tag, times, values, qualities }
}

fn append(engine: &Engine, columns: Vec<TagColumn>) {
    let count: usize = columns.iter().map(|column| column.times.len()).sum();
    let batch = Batch { columns, ..Batch::default() };
    let appended = engine.append(batch).expect("fixture is appended");
    assert_eq!(appended.accepted, count as u64, "{:?}", appended.rejects);
}

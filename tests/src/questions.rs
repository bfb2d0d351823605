//! Random questions of interval functions: [`Question`], its text, and the cells and sums that it ought to give.
//!
//! # Contract
//! Which cells there are follows from the range, the width, the statement's `now()` and each tag's first sample. Only where
//! local days begin is asked of SQL, whose `time_bucket` has tests of its own.

use std::collections::BTreeMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampNanosecondType;
use tagmill_engine_tests::model::Model;
use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    DAY_NS, Rfc3339, SECOND_NS, TagDefinition, TagId, TimeRange, ValueType, limits,
};

use crate::client::Client;
use crate::weights::{Sample, Weights, is_usable};

/// Cells of one question of one tag, at most.
const CELLS_MAX: i64 = 150;
/// Widths in seconds that meet tiers, miss them, or lie across them.
const WIDTHS_S: [i64; 10] = [60, 900, 3_600, 86_400, 300, 5_400, 420, 10, 129_600, 30 * 86_400];

/// Which column of `samples` a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    Ts,
    Value,
    ValueInt,
    ValueText,
}

impl Lane {
    const ALL: [Self; 4] = [Self::Ts, Self::Value, Self::ValueInt, Self::ValueText];

    const fn has(self, value_type: ValueType) -> bool {
        match self {
            Self::Ts => true,
            Self::Value => !matches!(value_type, ValueType::Text),
            Self::ValueInt => {
                matches!(value_type, ValueType::I64 | ValueType::Bool | ValueType::State)
            }
            Self::ValueText => matches!(value_type, ValueType::Text | ValueType::State),
        }
    }
}

/// A function, its column, and nanoseconds of the width it is per.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) sql: &'static str,
    pub(crate) name: &'static str,
    pub(crate) lane: Lane,
    pub(crate) per_ns: i64,
}

const fn call(sql: &'static str, name: &'static str, lane: Lane, per_s: i64) -> Call {
    Call { sql, name, lane, per_ns: per_s * SECOND_NS }
}

pub(crate) const CALLS: [Call; 15] = [
    call("time_avg(s.value)", "time_avg", Lane::Value, 1),
    call("integral(s.value)", "integral", Lane::Value, 1),
    call("increase(s.value)", "increase", Lane::Value, 1),
    call("transitions(s.value)", "transitions", Lane::Value, 1),
    call("percent_good(s.value)", "percent_good", Lane::Value, 1),
    call("largest_gap(s.ts)", "largest_gap", Lane::Ts, 1),
    call("increase(s.value_int)", "increase_int", Lane::ValueInt, 1),
    call("rate(s.value)", "rate", Lane::Value, 1),
    call("rate(s.value, '1 hour')", "rate", Lane::Value, 3_600),
    call("integral(s.value, '15 min')", "integral", Lane::Value, 900),
    call("time_avg(s.value_int)", "time_avg", Lane::ValueInt, 1),
    call("transitions(s.value_int)", "transitions", Lane::ValueInt, 1),
    call("percent_good(s.value_text)", "percent_good", Lane::ValueText, 1),
    call("transitions(s.value_text)", "transitions", Lane::ValueText, 1),
    call("duration_in_state(s.value, 0)", "duration_in_state", Lane::Value, 1),
];

/// How rows are grouped besides by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Nothing,
    Tag,
    Area,
}

/// How time is cut.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    Not,
    Steps {
        width_ns: i64,
        origin_ns: i64,
    },
    /// Arguments of `time_bucket` after the timestamp, its width first.
    Local(&'static str, &'static str),
}

/// One question.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) calls: Vec<Call>,
    pub(crate) by: By,
    pub(crate) cut: Cut,
    pub(crate) fills_gaps: bool,
    pub(crate) wheres: Vec<String>,
    pub(crate) wanted: Vec<TagId>,
    pub(crate) range: TimeRange,
}

/// A stretch of time, and the start of the bucket it is of.
#[expect(clippy::struct_field_names, reason = "all are times, and times say their unit")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    label_ns: i64,
    start_ns: i64,
    end_ns: i64,
}

/// Whose and when a row is.
pub(crate) type Key = (Option<String>, Option<i64>);
/// What is expected of it, for each lane.
pub(crate) type Group = BTreeMap<Lane, Weights>;

/// Every tag of the model, with its samples.
pub(crate) struct Plant {
    pub(crate) tags: BTreeMap<TagId, (TagDefinition, Vec<Sample>)>,
}

impl Plant {
    pub(crate) fn of(model: &Model) -> Self {
        let tags = model.live().map(|(id, definition)| {
            let rows = model.rows.range((id, i64::MIN)..=(id, i64::MAX));
            let samples = rows.map(|((_, time_ns), (value, quality))| Sample {
                time_ns: *time_ns,
                value: value.clone(),
                is_usable: is_usable(definition, value, *quality),
            });
            (id, (definition.clone(), samples.collect()))
        });
        Self { tags: tags.collect() }
    }

    /// What an answer covers: up to now, and from the first sample of `wanted` on where the range has no start.
    fn span(&self, wanted: &[TagId], range: TimeRange, now_ns: i64) -> TimeRange {
        let end_ns = range.end_ns.min(now_ns);
        let first = wanted.iter().filter_map(|id| Some(self.tags[id].1.first()?.time_ns)).min();
        let is_open = range.start_ns == TimeRange::ALL.start_ns;
        let start_ns = if is_open { first.unwrap_or(end_ns) } else { range.start_ns };
        TimeRange { start_ns, end_ns }
    }
}

impl Question {
    pub(crate) fn draw(plant: &Plant, random: &mut Random, step_ns: i64) -> Self {
        let mut wheres = Vec::new();
        let mut wanted: Vec<TagId> = plant.tags.keys().copied().collect();
        match random.below(4) {
            0 if !wanted.is_empty() => {
                wanted = vec![wanted[random.index(wanted.len())]];
                let name = plant.tags[&wanted[0]].0.name.replace('\'', "''");
                wheres.push(format!("s.tag = '{name}'"));
            }
            1 => {
                wanted.retain(|_| random.once_in(2));
                let ids: Vec<String> = wanted.iter().map(|id| id.0.to_string()).collect();
                let ids = if ids.is_empty() { "4000000000".to_owned() } else { ids.join(", ") };
                wheres.push(format!("s.tag_id IN ({ids})"));
            }
            _ => {}
        }
        let range = draw_range(plant, random, step_ns);
        let time = |ns: i64| format!("TIMESTAMP '{}'", Rfc3339(ns));
        if range.start_ns > TimeRange::ALL.start_ns {
            wheres.push(format!("s.ts >= {}", time(range.start_ns)));
        }
        if range.end_ns < TimeRange::ALL.end_ns {
            wheres.push(format!("s.ts < {}", time(range.end_ns)));
        }
        let cut = draw_cut(random, step_ns, plant.span(&wanted, range, now_ns()));
        let has_ends = range.start_ns > TimeRange::ALL.start_ns && range.end_ns < i64::MAX;
        let fills_gaps = has_ends && random.once_in(4);
        let by = [By::Nothing, By::Tag, By::Tag, By::Area][random.index(4)];
        let count = 1 + random.index(6);
        let calls = (0..count).map(|_| CALLS[random.index(CALLS.len())]).collect();
        Self { calls, by, cut, fills_gaps, wheres, wanted, range }
    }

    /// Whether rows say whose they are.
    pub(crate) fn is_by_tag(&self) -> bool {
        self.by != By::Nothing
    }

    pub(crate) fn bucket(&self) -> Option<String> {
        let name = if self.fills_gaps { "time_bucket_gapfill" } else { "time_bucket" };
        match &self.cut {
            Cut::Not => None,
            Cut::Steps { width_ns, origin_ns: 0 } => Some(format!("{name}('{width_ns} ns', s.ts)")),
            Cut::Steps { width_ns, origin_ns } => {
                let origin = Rfc3339(*origin_ns);
                Some(format!("{name}('{width_ns} ns', s.ts, TIMESTAMP '{origin}')"))
            }
            Cut::Local(width, rest) => Some(format!("{name}('{width}', s.ts, {rest})")),
        }
    }

    pub(crate) fn sql(&self, with: &str) -> String {
        let mut columns = Vec::new();
        match self.by {
            By::Nothing => {}
            By::Tag => columns.push("s.tag_id".to_owned()),
            By::Area => columns.push("label(s.tag, 'area')".to_owned()),
        }
        columns.extend(self.bucket());
        let keys: Vec<String> = (1..=columns.len()).map(|at| at.to_string()).collect();
        columns.extend(self.calls.iter().map(|call| call.sql.to_owned()));
        let columns = columns.iter().enumerate().map(|(at, column)| format!("{column} AS c{at}"));
        let columns = columns.collect::<Vec<_>>().join(", ");
        let group =
            if keys.is_empty() { String::new() } else { format!(" GROUP BY {}", keys.join(", ")) };
        let filter = if self.wheres.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", self.wheres.join(" AND "))
        };
        format!("SELECT {columns}{with}, epoch_ns(now()) FROM samples s{filter}{group}")
    }

    /// The cells from an instant on.
    fn cells(&self, start_ns: i64, end_ns: i64, client: &mut Client) -> Vec<Cell> {
        if start_ns >= end_ns {
            return Vec::new();
        }
        let labels: Vec<i64> = match &self.cut {
            Cut::Not => return vec![Cell { label_ns: 0, start_ns, end_ns }],
            Cut::Steps { width_ns, origin_ns } => {
                let first = (start_ns - origin_ns).div_euclid(*width_ns);
                let last = (end_ns - 1 - origin_ns).div_euclid(*width_ns);
                (first..=last).map(|at| origin_ns + at * width_ns).collect()
            }
            Cut::Local(width, rest) => {
                let (first, last) = (Rfc3339(start_ns), Rfc3339(end_ns - 1));
                let sql = format!(
                    "SELECT DISTINCT time_bucket('{width}', ts, {rest}) AS at FROM (SELECT unnest(generate_series(TIMESTAMP '{first}', TIMESTAMP '{last}', INTERVAL '30 minutes')) AS ts UNION ALL SELECT TIMESTAMP '{last}') ORDER BY at"
                );
                let rows = client.rows(&sql);
                let times = |batch: &RecordBatch| {
                    batch.column(0).as_primitive::<TimestampNanosecondType>().values().to_vec()
                };
                rows.iter().flat_map(times).collect()
            }
        };
        let ends = labels.iter().skip(1).copied().chain([end_ns]);
        let cells = labels.iter().zip(ends).map(|(label_ns, until_ns)| Cell {
            label_ns: *label_ns,
            start_ns: start_ns.max(*label_ns),
            end_ns: until_ns,
        });
        cells.collect()
    }

    /// What the rows ought to be.
    pub(crate) fn groups(
        &self,
        plant: &Plant,
        now_ns: i64,
        client: &mut Client,
    ) -> BTreeMap<Key, Group> {
        let TimeRange { start_ns, end_ns } = plant.span(&self.wanted, self.range, now_ns);
        let is_open = self.range.start_ns == TimeRange::ALL.start_ns;
        let cells = self.cells(start_ns, end_ns, client);
        let mut groups = BTreeMap::new();
        for id in &self.wanted {
            let (tag, samples) = &plant.tags[id];
            let Some(first) = samples.first().filter(|first| first.time_ns < end_ns) else {
                continue;
            };
            let from_ns = if is_open { first.time_ns } else { start_ns };
            let whose = match self.by {
                By::Nothing => None,
                By::Tag => Some(id.0.to_string()),
                By::Area => tag.attributes.labels.get("area").map(str::to_owned),
            };
            for cell in cells.iter().filter(|cell| cell.end_ns > from_ns) {
                let span = (cell.start_ns.max(from_ns), cell.end_ns);
                let weights = Weights::of(tag, samples, span);
                let label = self.bucket().map(|_| cell.label_ns);
                let group: &mut Group = groups.entry((whose.clone(), label)).or_default();
                for lane in Lane::ALL.into_iter().filter(|lane| lane.has(tag.value_type)) {
                    group.entry(lane).or_default().pool(&weights);
                }
            }
        }
        if self.by == By::Nothing && self.bucket().is_none() {
            groups.entry((None, None)).or_default();
        }
        groups
    }
}

/// Now, near enough to draw by.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.ok().and_then(|since| i64::try_from(since.as_nanos()).ok()).unwrap_or(i64::MAX)
}

fn draw_range(plant: &Plant, random: &mut Random, step_ns: i64) -> TimeRange {
    let busy: Vec<&Vec<Sample>> =
        plant.tags.values().map(|(_, samples)| samples).filter(|s| !s.is_empty()).collect();
    if busy.is_empty() {
        return TimeRange::new(0, 3_600 * SECOND_NS);
    }
    let samples = busy[random.index(busy.len())];
    let at = random.index(samples.len());
    let reach = [3, 30, samples.len()][random.index(3)];
    let other = (at + random.index(reach)).min(samples.len() - 1);
    let (mut start_ns, mut end_ns) = (samples[at].time_ns, samples[other].time_ns);
    match random.below(4) {
        0 => {
            let width_ns = [60 * SECOND_NS, 3_600 * SECOND_NS, 10 * step_ns][random.index(3)];
            start_ns = start_ns.div_euclid(width_ns) * width_ns;
            end_ns = end_ns.div_euclid(width_ns).saturating_add(1).saturating_mul(width_ns);
        }
        1 => end_ns = end_ns.saturating_add(1 + random.below(3) as i64),
        _ => {
            let mut off = || random.below(4 * step_ns.unsigned_abs() + 2) as i64;
            start_ns = start_ns.saturating_sub(off());
            end_ns = end_ns.saturating_add(off());
        }
    }
    start_ns = start_ns.max(0);
    end_ns = end_ns.clamp(start_ns, limits::TIME_MAX_NS - 1);
    match random.below(10) {
        0 | 1 => TimeRange::new(TimeRange::ALL.start_ns, end_ns),
        2 => TimeRange::new(start_ns, TimeRange::ALL.end_ns),
        _ => TimeRange::new(start_ns, end_ns),
    }
}

/// Some way to cut a range into not too many cells.
fn draw_cut(random: &mut Random, step_ns: i64, range: TimeRange) -> Cut {
    let length_ns = range.end_ns.saturating_sub(range.start_ns);
    let own = [1, 3, 7, 60, 1_000].map(|steps| step_ns.saturating_mul(steps));
    let widths = own.into_iter().chain(WIDTHS_S.map(|seconds| seconds * SECOND_NS));
    let fits = |width_ns: &i64| length_ns / width_ns < CELLS_MAX && *width_ns < DAY_NS * 400;
    let widths: Vec<i64> = widths.filter(fits).collect();
    match random.below(8) {
        0 => Cut::Not,
        1 | 2 if length_ns < CELLS_MAX * DAY_NS / 3 => {
            let local = [
                ("1 day", "'Europe/Berlin'"),
                ("8 hours", "'America/St_Johns', '6 hours'"),
                ("12 hours", "'Europe/London', '5 hours'"),
            ];
            let (width, rest) = local[random.index(3)];
            Cut::Local(width, rest)
        }
        _ if widths.is_empty() => Cut::Not,
        kind => {
            let width_ns = widths[random.index(widths.len())];
            let origin_ns = if kind == 3 { 1_582_956_428 * SECOND_NS + 7 } else { 0 };
            Cut::Steps { width_ns, origin_ns }
        }
    }
}

//! Samples, times and batches that a seed decides, nasty ones included.
//!
//! # Contract
//! Every series has a style, so that each encoding of the engine meets data it is for, and data it is not for. Nothing
//! here asks the engine anything: the same seed gives the same workload.

use std::sync::Arc;

use tagmill_storage::disk::sim::Random;
use tagmill_storage::{
    Batch, DAY_NS, Durability, Qualities, Quality, SECOND_NS, ScanBlock, TagAttributes, TagColumn,
    TagDefinition, TagId, Value, ValueType, Values, limits,
};

/// Names of the state sets that grow.
pub const STATE_SETS: [&str; 3] = ["set 0", "set 1", "Satz 2"];

/// Names of the gateways that send.
pub const GATEWAYS: [&str; 2] = ["gw-1", "Gerät 2"];

/// How the values of a tag behave. The tag's number decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One value.
    Constant,
    /// A value that holds for a while.
    Steps,
    /// Two decimals, walking.
    Decimal,
    /// 12-bit readings scaled to a range.
    Adc,
    /// Even bits.
    Noise,
    /// Every special value of the type.
    Nasty,
}

impl Style {
    const ALL: [Self; 6] =
        [Self::Constant, Self::Steps, Self::Decimal, Self::Adc, Self::Noise, Self::Nasty];

    /// The style of a tag.
    pub fn of(tag: TagId) -> Self {
        Self::ALL[tag.index() / 6 % Self::ALL.len()]
    }
}

/// A value of `value_type` in the given style.
pub fn value(random: &mut Random, value_type: ValueType, style: Style) -> Value {
    match value_type {
        ValueType::F64 => Value::F64(float(random, style)),
        ValueType::F32 => Value::F32(narrow(random, style)),
        ValueType::I64 => Value::I64(integer(random, style)),
        ValueType::Bool => Value::Bool(random.once_in(2)),
        ValueType::State => Value::State(match style {
            Style::Noise | Style::Nasty => low_u16(random.bits()),
            _ => low_u16(random.below(4)),
        }),
        ValueType::Text => Value::Text(text(random, style)),
    }
}

fn float(random: &mut Random, style: Style) -> f64 {
    match style {
        Style::Constant => 20.5,
        Style::Steps => random.below(3) as f64 * 0.1,
        Style::Decimal => random.below(100_000) as f64 / 100.0,
        Style::Adc => f64::from(low_u16(random.below(4_096))) * (150.0 / 4_095.0) - 25.0,
        Style::Noise => random.below(1 << 52) as f64 / 4_503_599_627_370_496.0,
        Style::Nasty => match random.below(14) {
            0 => f64::NAN,
            1 => f64::from_bits(0x7FF0_0000_0000_0001 | random.below(1 << 50)),
            2 => f64::from_bits(0xFFF8_0000_0000_0000 | random.below(1 << 50)),
            3 => f64::INFINITY,
            4 => f64::NEG_INFINITY,
            5 => 0.0,
            6 => -0.0,
            7 => f64::from_bits(1 + random.below(1_000)),
            8 => f64::MAX,
            9 => f64::MIN_POSITIVE,
            10 => f64::MIN,
            11 => 9_007_199_254_740_993.0 + random.below(1 << 60) as f64,
            12 => f64::from_bits(random.bits()),
            _ => random.below(1_000) as f64 / 10.0,
        },
    }
}

#[expect(clippy::cast_possible_truncation, reason = "any f32 will do")]
fn narrow(random: &mut Random, style: Style) -> f32 {
    match style {
        Style::Nasty => match random.below(7) {
            0 => f32::from_bits(0x7F80_0001 | (random.bits() as u32 & 0x7F_FFFF)),
            1 => f32::INFINITY,
            2 => -0.0,
            3 => f32::from_bits(1),
            4 => f32::MIN,
            5 => f32::NAN,
            _ => f32::from_bits(random.bits() as u32),
        },
        _ => float(random, style) as f32,
    }
}

fn integer(random: &mut Random, style: Style) -> i64 {
    match style {
        Style::Constant => -7,
        Style::Steps => random.below(3) as i64,
        Style::Decimal | Style::Adc => 1_000_000 + random.below(5_000) as i64,
        Style::Noise => random.bits() as i64,
        Style::Nasty => match random.below(6) {
            0 => i64::MIN,
            1 => i64::MAX,
            2 => (1 << 53) + 1 + random.below(1 << 9) as i64,
            3 => -(1 << 53) - 1 - random.below(1 << 9) as i64,
            4 => 0,
            _ => random.bits() as i64,
        },
    }
}

fn text(random: &mut Random, style: Style) -> Arc<str> {
    match style {
        Style::Constant => "RUN".into(),
        Style::Steps => ["RUN", "STOP", "UNAVAILABLE"][random.index(3)].into(),
        Style::Nasty => match random.below(5) {
            0 => "".into(),
            1 => "x\0y\n\u{1F525}'\"".into(),
            2 => "é".repeat(random.index(2_000)).into(),
            3 => "\u{10FFFF}".into(),
            _ => format!("{:x}", random.bits()).into(),
        },
        _ => format!("batch {}", random.below(500)).into(),
    }
}

/// A quality: mostly Good, else of every severity and with every kind of detail.
pub fn quality(random: &mut Random) -> Quality {
    match random.below(12) {
        0 => Quality::BAD,
        1 => Quality::BAD_NOT_CONNECTED,
        2 => Quality::UNCERTAIN,
        3 => Quality(u32::try_from(random.bits() >> 32).expect("32 bits")),
        _ => Quality::GOOD,
    }
}

fn qualities(random: &mut Random, count: usize) -> Qualities {
    match random.below(4) {
        0 => Qualities::Each((0..count).map(|_| quality(random)).collect()),
        1 => Qualities::Uniform(quality(random)),
        _ => Qualities::GOOD,
    }
}

/// Where and how dense the times of a workload lie.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Start of the newest samples, nanoseconds.
    pub at_ns: i64,
    /// How far back late samples and corrections reach.
    pub reach_ns: i64,
    /// Distance of a grid.
    pub step_ns: i64,
    /// Whether the next times are late ones; `None` to leave it to chance.
    pub is_late: Option<bool>,
}

impl Timeline {
    /// A timeline that starts somewhere between 1970 and 2261, near a midnight as likely as not.
    pub fn draw(random: &mut Random) -> Self {
        let day = random.below(60_000) as i64;
        let at_ns = match random.below(3) {
            0 => day * DAY_NS + random.below(86_400) as i64 * SECOND_NS,
            1 => (day + 1) * DAY_NS - random.below(20) as i64 * SECOND_NS,
            _ => 1_767_225_600 * SECOND_NS,
        };
        // Spans of weeks: compaction makes a file a day, and thousands of days make a life long.
        let step_ns = [1, 1_000, SECOND_NS, 60 * SECOND_NS, DAY_NS / 12][random.index(5)];
        Self { at_ns, reach_ns: (200 * step_ns).max(1_000), step_ns, is_late: None }
    }

    /// `count` times: a run of new ones, or scattered late ones; the run moves the timeline on.
    pub fn times(&mut self, random: &mut Random, count: usize) -> Vec<i64> {
        let late = self.is_late.unwrap_or(random.once_in(3));
        let jitters = random.once_in(3);
        let start = self.at_ns;
        let mut times: Vec<i64> = (0..count)
            .map(|index| {
                if late {
                    let back = random.below(self.reach_ns.unsigned_abs()) as i64;
                    let back = back / self.step_ns * self.step_ns;
                    return (start - back).max(limits::TIME_MIN_NS);
                }
                let reach = random.below(self.step_ns.unsigned_abs()) as i64;
                let jitter = if jitters { reach } else { 0 };
                let on_grid = start.saturating_add(self.step_ns.saturating_mul(index as i64));
                on_grid.saturating_add(jitter).min(limits::TIME_MAX_NS - 1)
            })
            .collect();
        if !late && random.once_in(2) {
            self.at_ns = times.last().copied().unwrap_or(start).saturating_add(self.step_ns);
        }
        if random.once_in(6) && count > 1 {
            let (a, b) = (random.index(count), random.index(count));
            times.swap(a, b);
            times[a] = times[b];
        }
        times
    }
}

/// One tag's samples.
pub fn column(
    random: &mut Random,
    timeline: &mut Timeline,
    tag: TagId,
    value_type: ValueType,
    count: usize,
) -> TagColumn {
    let times = timeline.times(random, count);
    let mut values = Values::empty(value_type);
    for _ in 0..count {
        values.push(value(random, value_type, Style::of(tag)));
    }
    TagColumn { tag, times, values, qualities: qualities(random, count) }
}

/// Scan cycles over numeric tags; cells of i64 and bool tags are whole.
pub fn scan(
    random: &mut Random,
    timeline: &mut Timeline,
    tags: &[(TagId, ValueType)],
    cycles: usize,
) -> ScanBlock {
    let times = timeline.times(random, cycles);
    let cells = tags.len() * cycles;
    let mut values = Vec::with_capacity(cells);
    for _ in 0..cycles {
        for (tag, value_type) in tags {
            values.push(scan_value(random, *value_type, Style::of(*tag)));
        }
    }
    let missing = if random.once_in(2) {
        Vec::new()
    } else {
        (0..cells).map(|_| random.once_in(5)).collect()
    };
    let qualities = qualities(random, cells);
    let tags = tags.iter().map(|(tag, _)| *tag).collect();
    ScanBlock { tags, times, values, missing, qualities }
}

fn scan_value(random: &mut Random, value_type: ValueType, style: Style) -> f64 {
    match value_type {
        ValueType::I64 if random.once_in(40) => 0.5,
        ValueType::I64 => random.below(1 << 53) as f64 - 4_503_599_627_370_496.0,
        ValueType::Bool if random.once_in(40) => 2.0,
        ValueType::Bool => random.below(2) as f64,
        ValueType::F32 => {
            let value = narrow(random, style);
            // The payload of a narrow NaN has no agreed wide form.
            if value.is_nan() { 0.1 } else { f64::from(value) }
        }
        _ => float(random, style),
    }
}

/// Whether a tag of this type can be part of scan cycles.
pub const fn is_scannable(value_type: ValueType) -> bool {
    !matches!(value_type, ValueType::State | ValueType::Text)
}

/// A batch over some of `tags`: columns and scan cycles, at times broken in ways the engine must refuse in part.
pub fn batch(
    random: &mut Random,
    timeline: &mut Timeline,
    tags: &[(TagId, ValueType)],
    samples_max: usize,
) -> Batch {
    let mut batch = Batch::default();
    let parts = 1 + random.index(4);
    for _ in 0..parts {
        let scannable: Vec<_> =
            tags.iter().copied().filter(|(_, t)| is_scannable(*t) && random.once_in(2)).collect();
        let count = 1 + random.index(samples_max);
        if random.once_in(4) && !scannable.is_empty() {
            let cycles = 1 + count / scannable.len();
            batch.scans.push(scan(random, timeline, &scannable, cycles));
        } else {
            let (tag, value_type) = tags[random.index(tags.len())];
            batch.columns.push(column(random, timeline, tag, value_type, count));
        }
    }
    if random.once_in(8) {
        spoil(random, &mut batch);
    }
    if random.once_in(5) {
        batch.durability = Durability::Interval;
    }
    batch
}

/// Breaks one part of a batch.
fn spoil(random: &mut Random, batch: &mut Batch) {
    let kind = random.below(6);
    let scans = batch.scans.len();
    if let Some(scan) = batch.scans.get_mut(random.index(scans * 2)) {
        match kind {
            0 => scan.times[0] = limits::TIME_MAX_NS,
            1 => drop(scan.values.pop()),
            _ => scan.times[0] = -1,
        }
    }
    let columns = batch.columns.len();
    if columns == 0 {
        return;
    }
    let column = &mut batch.columns[random.index(columns)];
    match kind {
        0 => column.times[0] = limits::TIME_MAX_NS,
        1 => column.times.push(5),
        2 => column.times[0] = -1,
        3 => column.tag = TagId(u32::MAX),
        4 => {
            let other = if column.values.value_type() == ValueType::F64 {
                ValueType::I64
            } else {
                ValueType::F64
            };
            let mut values = Values::empty(other);
            for _ in 0..column.times.len() {
                values.push(value(random, other, Style::Steps));
            }
            column.values = values;
        }
        _ => {
            let last = column.times.len() - 1;
            column.times[last] = i64::MAX;
        }
    }
}

/// A tag with a name of its own, of any type.
pub fn definition(random: &mut Random, number: usize) -> TagDefinition {
    let value_type = ValueType::ALL[number % ValueType::ALL.len()];
    let area = random.below(3);
    let mut definition =
        TagDefinition::new(format!("area {area}/unit/{value_type}-{number}"), value_type);
    if random.once_in(3) {
        definition.attributes = attributes(random);
    }
    definition
}

/// Attributes, some set and some not.
pub fn attributes(random: &mut Random) -> TagAttributes {
    let mut attributes = TagAttributes::default();
    let number = random.below(1_000) as f64 / 8.0;
    if random.once_in(2) {
        attributes.description = Some(format!("what number {number} measures"));
    }
    if random.once_in(2) {
        attributes.unit = Some(["bar", "°C", "m³/h", ""][random.index(4)].to_owned());
    }
    if random.once_in(3) {
        attributes.stepped = Some(random.once_in(2));
    }
    if random.once_in(3) {
        attributes.range_low = Some(-number);
        attributes.range_high = Some(number);
    }
    if random.once_in(3) {
        attributes.max_gap_ns = Some(1 + random.below(1 << 40) as i64);
    }
    if random.once_in(4) {
        attributes.uncertain_usable = Some(true);
        attributes.rollover = Some(65_536.0);
        attributes.jitter = Some(0.5);
        attributes.reset_value = Some(0.0);
        attributes.retention = Some("long".to_owned());
    }
    if random.once_in(4) {
        attributes.state_set = Some(STATE_SETS[random.index(3)].to_owned());
    }
    for label in ["area", "line", "Ü=\""] {
        if random.once_in(3) {
            attributes.labels.insert(label, format!("{number}"));
        }
    }
    attributes
}

fn low_u16(bits: u64) -> u16 {
    u16::try_from(bits & 0xFFFF).expect("16 bits")
}

//! The plant's tags: which instrument reads what, how finely, how often, and what is wrong with
//! it.
//!
//! Contract: a fixed list of [`signals`], the same in every run; a signal's place in the list is
//! its number. Values are quantised the way plants do it: converter counts scaled to f32,
//! controllers' outputs in hundredths, whole counts. Transmitter noise is the caller's, so that
//! this stays a pure table.

use tagmill_storage::{Quality, TagAttributes, TagDefinition, ValueType};

use super::equipment::{
    BED, CONTROLS, DAY_S, LOOPS, MOTOR_SPECS, MOTOR_STATES, MOTORS, PHASES, Point, Source, TOTALS,
    TRAYS, UNITS, VALVE_STATES, VALVES,
};

/// How often a signal is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Every second, in scan cycles.
    Fast,
    /// Every 5 seconds, in scan cycles.
    Normal,
    /// Every 10 seconds, in scan cycles.
    Slow,
    /// When it changes, and every 10 minutes.
    Change,
}

impl Class {
    /// The classes that are read in cycles.
    pub const SCANNED: [Self; 3] = [Self::Fast, Self::Normal, Self::Slow];

    /// Seconds between two cycles; between two samples at most, for a signal that reports changes.
    pub const fn period_s(self) -> i64 {
        match self {
            Self::Fast => 1,
            Self::Normal => 5,
            Self::Slow => 10,
            Self::Change => 600,
        }
    }
}

/// What an instrument makes of the value it reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Resolution {
    /// As it is.
    Exact,
    /// 12-bit converter counts over the range.
    Counts,
    /// Steps of one part in so many.
    Parts(f64),
    /// Whole counts, starting over at the signal's rollover.
    Whole(f64),
}

/// What is wrong with a signal for a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    /// It shows its last value, in good faith.
    Stuck,
    /// It reports this quality; a Bad one comes without a value.
    Reports(Quality),
    /// A loose contact: this quality for 40 s every 6 minutes.
    Flickers(Quality),
    /// Its samples arrive so many seconds late.
    Late(i64),
    /// One sample in twenty arrives 3 to 9 minutes late.
    Straggles,
    /// It delivers nothing, and nobody says so.
    Silent,
    /// So many seconds later every value is written again, multiplied.
    Corrected(i64, f64),
    /// So many seconds later every sample is delivered again.
    Repeated(i64),
}

/// A [`Trouble`] and when: seconds of the day of history, half-open; it comes back every day.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    from_s: i64,
    to_s: i64,
    /// What is wrong.
    pub trouble: Trouble,
}

impl Fault {
    /// Whether it is on at this second of the history.
    pub fn is_on(&self, second: i64) -> bool {
        (self.from_s..self.to_s).contains(&second.rem_euclid(DAY_S))
    }
}

const SENSOR_FAILURE: Quality = Quality(0x808C_0000);
const OUT_OF_SERVICE: Quality = Quality(0x808D_0000);
const SENSOR_NOT_ACCURATE: Quality = Quality(0x4093_0000);
const SUB_NORMAL: Quality = Quality(0x4095_0000);
const LOCAL_OVERRIDE: Quality = Quality(0x0096_0000);

/// Tags whose name begins so, from hour, to hour, and what is wrong with them.
#[rustfmt::skip]
const FAULTS: [(&str, f64, f64, Trouble); 16] = [
    ("U2/reactor/TI-314.PV", 6.0, 11.5, Trouble::Stuck),
    ("U1/column/TI-415.PV", 8.2, 8.65, Trouble::Reports(SENSOR_FAILURE)),
    ("U3/cooling/FI-502.PV", 3.0, 20.0, Trouble::Flickers(Quality::BAD_NOT_CONNECTED)),
    ("U3/column/AI-406.PV", 2.0, 2.4, Trouble::Reports(SUB_NORMAL)),
    ("U3/column/AI-406.PV", 10.0, 10.4, Trouble::Reports(SUB_NORMAL)),
    ("U3/column/AI-406.PV", 12.0, 12.25, Trouble::Reports(OUT_OF_SERVICE)),
    ("U1/utilities/TI-602.PV", 11.0, 15.5, Trouble::Reports(SENSOR_NOT_ACCURATE)),
    ("U1/feed/FIC-101.OP", 9.0, 9.2, Trouble::Reports(LOCAL_OVERRIDE)),
    ("U2/feed/FQ-101.CNT", 15.0, 15.1, Trouble::Reports(Quality::BAD_NO_DATA)),
    ("U3/cooling/", 4.0, 4.75, Trouble::Late(7_200)),
    ("U1/feed/TI-103.PV", 0.0, 24.0, Trouble::Straggles),
    ("U1/feed/P-102", 8.9, 9.3, Trouble::Late(600)),
    ("U2/column/AI-406.PV", 14.0, 15.0, Trouble::Corrected(10_800, 1.002)),
    ("U1/feed/FIC-101.", 16.0, 16.05, Trouble::Repeated(240)),
    ("U3/feed/", 18.0, 18.1, Trouble::Repeated(1_800)),
    ("U2/utilities/JI-601.PV", 17.0, 17.5, Trouble::Silent),
];

/// One tag of the plant.
#[derive(Clone, Debug)]
pub struct Signal {
    /// Its definition as the gateway declares it.
    pub definition: TagDefinition,
    /// Unit of the plant, from 0.
    pub unit: usize,
    /// What it reads.
    pub source: Source,
    /// How often.
    pub class: Class,
    /// How finely.
    pub resolution: Resolution,
    /// Deviation of its noise, in its own unit.
    pub noise: f64,
    /// What is wrong with it, and when.
    pub faults: Vec<Fault>,
    range: (f64, f64),
}

impl Signal {
    /// Labels of its state set, in the order of their codes; empty for other types.
    pub fn states(&self) -> Vec<String> {
        let labels: Vec<&str> = match self.source {
            Source::Motor(_) => MOTOR_STATES.to_vec(),
            Source::Valve(_) => VALVE_STATES.to_vec(),
            Source::Phase => PHASES.iter().map(|(label, _)| *label).collect(),
            _ => Vec::new(),
        };
        labels.into_iter().map(String::from).collect()
    }

    /// What the instrument makes of a value.
    pub fn resolve(&self, value: f64) -> f64 {
        let (low, high) = self.range;
        let value = match self.resolution {
            Resolution::Exact => value,
            Resolution::Counts => {
                let counts = ((value - low) / (high - low)).clamp(0.0, 1.0) * 4_095.0;
                f64::from(single(low + (high - low) * (counts.round() / 4_095.0)))
            }
            Resolution::Parts(parts) => (value * parts).round() / parts,
            Resolution::Whole(rollover) => value.floor() % rollover,
        };
        if self.definition.value_type == ValueType::F32 { f64::from(single(value)) } else { value }
    }
}

/// The nearest f32.
#[expect(clippy::cast_possible_truncation, reason = "an instrument that sends f32 rounds to it")]
pub fn single(value: f64) -> f32 {
    value as f32
}

/// Every tag of the plant, unit by unit.
pub fn signals() -> Vec<Signal> {
    let mut list = List { signals: Vec::new(), unit: 0 };
    for unit in 0..UNITS {
        list.unit = unit;
        list.loops();
        list.thermometers();
        list.points();
        list.machines();
        list.bookkeeping();
    }
    for signal in &mut list.signals {
        let faults = FAULTS.iter().filter(|fault| signal.definition.name.starts_with(fault.0));
        signal.faults = faults
            .map(|&(_, from_h, to_h, trouble)| Fault {
                from_s: seconds(from_h),
                to_s: seconds(to_h),
                trouble,
            })
            .collect();
    }
    list.signals
}

#[expect(clippy::cast_possible_truncation, reason = "hours of a day, from the table above")]
fn seconds(hours: f64) -> i64 {
    (hours * 3_600.0).round() as i64
}

struct List {
    signals: Vec<Signal>,
    unit: usize,
}

impl List {
    /// Adds a plain f32 instrument of class [`Class::Normal`] for the caller to refine.
    fn add(&mut self, section: &str, name: &str, source: Source) -> &mut Signal {
        let area = format!("U{}", self.unit + 1);
        let (equipment, _) = name.split_once('.').unwrap_or((name, ""));
        let labels = [("area", area.as_str()), ("section", section), ("equipment", equipment)];
        let attributes = TagAttributes {
            labels: labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            ..TagAttributes::default()
        };
        let definition = TagDefinition {
            name: format!("{area}/{section}/{name}"),
            value_type: ValueType::F32,
            attributes,
        };
        self.signals.push(Signal {
            definition,
            unit: self.unit,
            source,
            class: Class::Normal,
            resolution: Resolution::Counts,
            noise: 0.0,
            faults: Vec::new(),
            range: (0.0, 100.0),
        });
        self.signals.last_mut().expect("one was just added")
    }

    fn loops(&mut self) {
        for (index, control) in CONTROLS.iter().enumerate() {
            let class = if control.fast { Class::Fast } else { Class::Normal };
            let name = |part: &str| format!("{}.{part}", control.name);
            let range = (control.low, control.high);
            self.add(control.section, &name("PV"), Source::Pv(index))
                .describe(control.words, control.unit, range)
                .read(class, Resolution::Exact, 0.0);
            self.add(control.section, &name("SP"), Source::Sp(index))
                .describe(&format!("{}, set point", control.words), control.unit, range)
                .typed(ValueType::F64)
                .read(class, Resolution::Parts(10.0), 0.0);
            self.add(control.section, &name("OP"), Source::Op(index))
                .describe(&format!("{}, controller output", control.words), "%", (0.0, 100.0))
                .typed(ValueType::F64)
                .read(class, Resolution::Parts(100.0), 0.0);
        }
        for index in [0, 2, 4, 5, 8, 13] {
            let control = &CONTROLS[index];
            let number = control.name.split_once('-').map_or("", |(_, number)| number);
            self.add(control.section, &format!("ZT-{number}.PV"), Source::Position(index))
                .describe(&format!("{}, valve position", control.words), "%", (0.0, 100.0))
                .read(Class::Change, Resolution::Parts(5.0), 0.0);
        }
        const { assert!(LOOPS == 14) };
    }

    fn thermometers(&mut self) {
        for index in 0..BED {
            self.add("reactor", &format!("TI-{}.PV", 311 + index), Source::Bed(index))
                .describe("bed temperature", "°C", (0.0, 400.0))
                .read(Class::Normal, Resolution::Counts, 0.12);
        }
        for index in 0..TRAYS {
            self.add("column", &format!("TI-{}.PV", 411 + index), Source::Tray(index))
                .describe("tray temperature", "°C", (0.0, 200.0))
                .read(Class::Normal, Resolution::Counts, 0.06);
        }
    }

    #[rustfmt::skip]
    fn points(&mut self) {
        let points = [
            ("feed", "TI-103.PV", Point::FeedTemperature, "feed temperature",
                "°C", (-20.0, 60.0), 0.05),
            ("feed", "PI-104.PV", Point::DischargePressure, "pump discharge pressure",
                "bar", (0.0, 16.0), 0.02),
            ("preheater", "FI-202.PV", Point::SteamFlow, "steam flow",
                "t/h", (0.0, 8.0), 0.01),
            ("preheater", "PI-203.PV", Point::SteamPressure, "steam pressure",
                "bar", (0.0, 16.0), 0.01),
            ("preheater", "TI-204.PV", Point::PreheaterInlet, "preheater inlet temperature",
                "°C", (-20.0, 80.0), 0.05),
            ("reactor", "AI-305.PV", Point::Conversion, "conversion",
                "%", (0.0, 100.0), 0.08),
            ("column", "AI-406.PV", Point::Purity, "product purity",
                "%", (90.0, 100.0), 0.01),
            ("column", "PDI-407.PV", Point::PressureDrop, "column pressure drop",
                "mbar", (0.0, 150.0), 0.3),
            ("cooling", "FI-502.PV", Point::WaterFlow, "cooling water flow",
                "m³/h", (0.0, 400.0), 0.8),
            ("cooling", "PI-503.PV", Point::WaterPressure, "cooling water pressure",
                "bar", (0.0, 6.0), 0.01),
            ("cooling", "TI-504.PV", Point::WaterReturn, "cooling water return temperature",
                "°C", (0.0, 80.0), 0.04),
            ("utilities", "JI-601.PV", Point::Power, "electric and steam power",
                "kW", (0.0, 800.0), 1.0),
            ("utilities", "TI-602.PV", Point::Ambient, "ambient temperature",
                "°C", (-30.0, 50.0), 0.05),
        ];
        for (section, name, point, words, unit, range, noise) in points {
            let signal = self.add(section, name, Source::Point(point))
                .describe(words, unit, range)
                .read(Class::Normal, Resolution::Counts, noise);
            // Some gateways widen what the transmitter sends: an f64 that holds f32 counts.
            if section == "cooling" || section == "utilities" {
                signal.typed(ValueType::F64);
            }
        }
    }

    fn machines(&mut self) {
        for (index, (motor, section, rated_a)) in MOTOR_SPECS.iter().enumerate() {
            self.add(section, &format!("{motor}.STATE"), Source::Motor(index))
                .describe("motor state", "", (0.0, 0.0))
                .label("kind", "motor")
                .named_states("motor");
            self.add(section, &format!("{motor}.IA"), Source::Current(index))
                .describe("motor current", "A", (0.0, 3.0 * rated_a))
                .read(Class::Slow, Resolution::Counts, 0.002 * rated_a);
            self.add(section, &format!("{motor}.VIB"), Source::Vibration(index))
                .describe("vibration velocity", "mm/s", (0.0, 20.0))
                .read(Class::Slow, Resolution::Counts, 0.03);
        }
        const { assert!(MOTORS == 6) };
        let valves = [
            ("feed", "XV-110"),
            ("reactor", "XV-311"),
            ("reactor", "XV-310"),
            ("column", "XV-410"),
        ];
        const { assert!(VALVES == 4) };
        for (index, (section, valve)) in valves.into_iter().enumerate() {
            self.add(section, &format!("{valve}.STATE"), Source::Valve(index))
                .describe("on/off valve", "", (0.0, 0.0))
                .named_states("valve");
        }
    }

    fn bookkeeping(&mut self) {
        let totals = [
            ("feed", "FQ-101.CNT", "feed total", "l", 100_000.0),
            ("utilities", "JQ-601.CNT", "energy total", "kWh", 10_000.0),
            ("column", "FQ-408.CNT", "product total", "kg", 100_000.0),
        ];
        const { assert!(TOTALS == 3) };
        for (index, (section, name, words, unit, rollover)) in totals.into_iter().enumerate() {
            let signal = self
                .add(section, name, Source::Total(index))
                .describe(words, unit, (0.0, rollover))
                .typed(ValueType::I64)
                .read(Class::Slow, Resolution::Whole(rollover), 0.0);
            signal.definition.attributes.rollover = Some(rollover);
        }
        self.add("reactor", "BATCH.PHASE", Source::Phase)
            .describe("phase of the batch", "", (0.0, 0.0))
            .named_states("phase");
        self.add("reactor", "BATCH.ID", Source::Batch)
            .describe("running batch", "", (0.0, 0.0))
            .typed(ValueType::Text)
            .read(Class::Change, Resolution::Exact, 0.0);
    }
}

impl Signal {
    fn describe(&mut self, words: &str, unit: &str, (low, high): (f64, f64)) -> &mut Self {
        let attributes = &mut self.definition.attributes;
        attributes.description = Some(words.to_owned());
        attributes.unit = (!unit.is_empty()).then(|| unit.to_owned());
        if low < high {
            (attributes.range_low, attributes.range_high) = (Some(low), Some(high));
            self.range = (low, high);
        }
        self
    }

    fn label(&mut self, key: &str, value: &str) -> &mut Self {
        self.definition.attributes.labels.insert(key, value);
        self
    }

    fn typed(&mut self, value_type: ValueType) -> &mut Self {
        self.definition.value_type = value_type;
        self
    }

    fn read(&mut self, class: Class, resolution: Resolution, noise: f64) -> &mut Self {
        (self.class, self.resolution, self.noise) = (class, resolution, noise);
        self
    }

    fn named_states(&mut self, set: &str) {
        self.definition.attributes.state_set = Some(set.to_owned());
        self.typed(ValueType::State).read(Class::Change, Resolution::Exact, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn about_three_hundred_tags_of_every_kind() {
        let signals = signals();
        assert_eq!(signals.len(), 306);
        let names: HashSet<&str> = signals.iter().map(|s| s.definition.name.as_str()).collect();
        assert_eq!(names.len(), signals.len());
        for signal in &signals {
            assert_eq!(tagmill_storage::check_name(&signal.definition.name), Ok(()));
            assert_eq!(signal.definition.attributes.check(), Ok(()));
        }
        assert!(names.contains("U1/reactor/TI-311.PV"));
        for value_type in [ValueType::F64, ValueType::F32, ValueType::I64, ValueType::State] {
            assert!(signals.iter().any(|s| s.definition.value_type == value_type));
        }
        let count = |class| signals.iter().filter(|s| s.class == class).count();
        assert_eq!(
            [count(Class::Fast), count(Class::Normal), count(Class::Slow), count(Class::Change)],
            [45, 162, 45, 54]
        );
    }

    #[test]
    fn every_fault_finds_its_tag() {
        let signals = signals();
        for (prefix, from_h, to_h, _) in FAULTS {
            assert!(from_h < to_h);
            assert!(signals.iter().any(|s| s.definition.name.starts_with(prefix)), "{prefix}");
        }
    }

    #[test]
    fn instruments_quantise() {
        let signals = signals();
        let find = |name: &str| signals.iter().find(|s| s.definition.name == name).unwrap();
        let bed = find("U1/reactor/TI-311.PV");
        let cases = [
            (bed, 200.01, f64::from(single(400.0 * (2048.0 / 4095.0)))),
            (bed, 500.0, 400.0),
            (find("U1/reactor/TIC-301.SP"), 201.26, 201.3),
            (find("U1/feed/FQ-101.CNT"), 100_003.7, 3.0),
        ];
        for (signal, value, want) in cases {
            assert_eq!(signal.resolve(value).to_bits(), f64::to_bits(want));
        }
    }
}

//! What a unit of the plant consists of: its loops, motors and phases, and everything that can be
//! read off it.
//!
//! Contract: tables only, in which places are numbers: `CONTROLS[REACTOR]` is the loop that
//! `Source::Pv(REACTOR)` reads. How it behaves is `plant.rs`.

/// Seconds of the simulated history.
pub const DAY_S: i64 = 86_400;
/// Units of the plant.
pub const UNITS: usize = 3;
/// Control loops of a unit.
pub const LOOPS: usize = 14;
/// Motors of a unit.
pub const MOTORS: usize = 6;
/// Thermometers in the reactor's bed.
pub const BED: usize = 6;
/// Thermometers on the column's trays.
pub const TRAYS: usize = 8;
/// On/off valves of a unit.
pub const VALVES: usize = 4;
/// Totalisers of a unit.
pub const TOTALS: usize = 3;

pub(super) const FEED_FLOW: usize = 0;
pub(super) const FEED_LEVEL: usize = 1;
pub(super) const PREHEAT: usize = 2;
pub(super) const REACTOR: usize = 3;
pub(super) const JACKET: usize = 4;
pub(super) const PRESSURE: usize = 5;
pub(super) const REACTOR_LEVEL: usize = 6;
pub(super) const CATALYST: usize = 7;
pub(super) const BOTTOM: usize = 8;
pub(super) const TOP_PRESSURE: usize = 9;
pub(super) const SUMP: usize = 10;
pub(super) const DRUM: usize = 11;
pub(super) const REFLUX: usize = 12;
pub(super) const WATER: usize = 13;

pub(super) const FEED_PUMP: usize = 0;
pub(super) const SPARE_PUMP: usize = 1;
pub(super) const AGITATOR: usize = 2;
pub(super) const REFLUX_PUMP: usize = 3;
pub(super) const FAN: usize = 5;

/// When the agitator of the second unit trips, seconds into the history.
pub const AGITATOR_TRIP_S: i64 = 47_537;
/// How long its bearing announces the trip, seconds.
pub(super) const WEAR_S: i64 = 420;

/// A control loop: what it controls and how the process behind it answers.
#[derive(Debug)]
pub struct LoopSpec {
    /// Name of the instrument.
    pub name: &'static str,
    /// Section of the unit.
    pub section: &'static str,
    /// What it controls, in words.
    pub words: &'static str,
    /// Unit of its values.
    pub unit: &'static str,
    /// Lower end of its range.
    pub low: f64,
    /// Upper end of its range.
    pub high: f64,
    /// Whether it is scanned every second.
    pub fast: bool,
    /// Set point, normalised, at which the process rests with a half-open valve.
    pub(super) rest: f64,
    /// Change of the process per change of the valve; negative when opening lowers it.
    pub(super) gain: f64,
    pub(super) tau1_s: f64,
    pub(super) tau2_s: f64,
    pub(super) kp: f64,
    pub(super) ti_s: f64,
    /// Noise of the transmitter, normalised.
    pub(super) noise: f64,
}

#[rustfmt::skip]
const fn control(
    (name, section, words): (&'static str, &'static str, &'static str),
    (unit, low, high, fast): (&'static str, f64, f64, bool),
    (rest, gain): (f64, f64), (tau1_s, tau2_s): (f64, f64),
    (kp, ti_s, noise): (f64, f64, f64),
) -> LoopSpec {
    LoopSpec {
        name, section, words, unit, low, high, fast, rest, gain, tau1_s, tau2_s, kp, ti_s, noise,
    }
}

/// The loops of every unit. A level is nearly an integrator: a large gain behind a long lag.
#[rustfmt::skip]
pub const CONTROLS: [LoopSpec; LOOPS] = [
    control(("FIC-101", "feed", "feed flow"), ("m³/h", 0.0, 40.0, true),
        (0.6, 1.2), (3.0, 1.0), (0.25, 4.0, 0.0020)),
    control(("LIC-102", "feed", "feed tank level"), ("%", 0.0, 100.0, false),
        (0.55, 6.0), (3600.0, 10.0), (2.0, 1800.0, 0.0010)),
    control(("TIC-201", "preheater", "preheater outlet temperature"), ("°C", 0.0, 200.0, false),
        (0.6, 0.8), (60.0, 15.0), (1.2, 60.0, 0.0004)),
    control(("TIC-301", "reactor", "reactor temperature"), ("°C", 50.0, 300.0, false),
        (0.6, 0.72), (300.0, 60.0), (1.6, 380.0, 0.0003)),
    control(("TIC-302", "reactor", "jacket temperature"), ("°C", 0.0, 250.0, false),
        (0.5, 0.9), (90.0, 10.0), (1.8, 90.0, 0.0004)),
    control(("PIC-303", "reactor", "reactor pressure"), ("bar", 0.0, 16.0, true),
        (0.55, -0.9), (40.0, 2.0), (1.4, 40.0, 0.0008)),
    control(("LIC-304", "reactor", "reactor level"), ("%", 0.0, 100.0, false),
        (0.6, -6.0), (3600.0, 10.0), (2.0, 1800.0, 0.0010)),
    control(("FIC-306", "reactor", "catalyst flow"), ("kg/h", 0.0, 600.0, true),
        (0.4, 1.1), (3.0, 1.0), (0.25, 4.0, 0.0025)),
    control(("TIC-401", "column", "column bottom temperature"), ("°C", 50.0, 200.0, false),
        (0.6, 0.8), (240.0, 40.0), (1.4, 250.0, 0.0003)),
    control(("PIC-402", "column", "column top pressure"), ("bar", 0.0, 6.0, true),
        (0.4, -0.8), (50.0, 2.0), (1.3, 50.0, 0.0008)),
    control(("LIC-403", "column", "column sump level"), ("%", 0.0, 100.0, false),
        (0.5, -5.0), (3600.0, 10.0), (2.0, 1800.0, 0.0012)),
    control(("LIC-404", "column", "reflux drum level"), ("%", 0.0, 100.0, false),
        (0.5, -5.0), (3600.0, 10.0), (2.0, 1800.0, 0.0012)),
    control(("FIC-405", "column", "reflux flow"), ("m³/h", 0.0, 30.0, true),
        (0.4, 1.1), (3.0, 1.0), (0.25, 4.0, 0.0020)),
    control(("TIC-501", "cooling", "cooling water temperature"), ("°C", 0.0, 60.0, false),
        (0.4, -0.7), (200.0, 20.0), (1.2, 200.0, 0.0005)),
];

/// Names, sections and rated currents (A) of a unit's motors.
pub const MOTOR_SPECS: [(&str, &str, f64); MOTORS] = [
    ("P-101", "feed", 42.0),
    ("P-102", "feed", 42.0),
    ("M-301", "reactor", 64.0),
    ("P-401", "column", 28.0),
    ("P-501", "cooling", 55.0),
    ("K-501", "cooling", 33.0),
];

/// What a motor is doing. The numbers are the codes of the state set `motor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MotorState {
    /// Switched off.
    Stop,
    /// Running up.
    Start,
    /// At speed.
    Run,
    /// Switched off by its protection.
    Trip,
}

/// Labels of the state set `motor`, in the order of their codes.
pub const MOTOR_STATES: [&str; 4] = ["STOP", "START", "RUN", "TRIP"];
/// Labels of the state set `valve`, in the order of their codes.
pub const VALVE_STATES: [&str; 3] = ["CLOSED", "MOVING", "OPEN"];
/// Phases of a batch with their lengths in seconds; the labels of the state set `phase`.
pub const PHASES: [(&str, i64); 5] =
    [("CHARGE", 1_200), ("HEAT", 2_400), ("REACT", 7_200), ("COOL", 1_800), ("DISCHARGE", 1_200)];
pub(super) const BATCH_S: i64 = 13_800;
pub(super) const REACT: usize = 2;

/// What happens to motors, and when, seconds into the history.
pub(super) const EVENTS: [(usize, i64, usize, MotorState); 10] = [
    (0, 32_400, SPARE_PUMP, MotorState::Start),
    (0, 32_415, FEED_PUMP, MotorState::Stop),
    (1, AGITATOR_TRIP_S, AGITATOR, MotorState::Trip),
    (1, AGITATOR_TRIP_S + 20, FEED_PUMP, MotorState::Stop),
    (1, AGITATOR_TRIP_S + 2_100, AGITATOR, MotorState::Start),
    (1, AGITATOR_TRIP_S + 2_400, FEED_PUMP, MotorState::Start),
    (2, 25_000, REFLUX_PUMP, MotorState::Stop),
    (2, 25_240, REFLUX_PUMP, MotorState::Start),
    (2, 73_433, FAN, MotorState::Trip),
    (2, DAY_S + 3_600, FAN, MotorState::Start),
];

/// One thing that can be read off a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A loop's measured value, as its controller sees it.
    Pv(usize),
    /// A loop's set point.
    Sp(usize),
    /// A controller's output, percent.
    Op(usize),
    /// Where the control valve really is, percent.
    Position(usize),
    /// A bed thermometer.
    Bed(usize),
    /// A tray thermometer.
    Tray(usize),
    /// A single instrument.
    Point(Point),
    /// Code of a motor's state.
    Motor(usize),
    /// A motor's current, A.
    Current(usize),
    /// A motor's vibration, mm/s.
    Vibration(usize),
    /// Code of an on/off valve's state.
    Valve(usize),
    /// A totaliser's count before rollover.
    Total(usize),
    /// Code of the batch's phase.
    Phase,
    /// Number of the running batch.
    Batch,
}

/// Single instruments of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it, and signals.rs describes each")]
pub enum Point {
    FeedTemperature,
    DischargePressure,
    SteamFlow,
    SteamPressure,
    PreheaterInlet,
    Conversion,
    Purity,
    PressureDrop,
    WaterFlow,
    WaterPressure,
    WaterReturn,
    Power,
    Ambient,
}

//! A small chemical plant, simulated second by second: three units of feed, preheater, reactor,
//! column and cooling.
//!
//! Contract: the same seed and the same steps give the same plant, bit for bit, on every machine
//! (only `+ - * /`, rounding and comparisons). Everything inside is normalised, 0 to 1 of an
//! instrument's range; a loop's process is a second-order lag that its valve, the other loops and
//! the motors pull on, and a PI controller works the valve.
//!
//! It knows no tags, no instruments but the controllers' own, and no wall clock: `signals.rs`
//! reads it.

use std::fmt::Write as _;

use super::equipment::{
    AGITATOR, AGITATOR_TRIP_S, BATCH_S, BED, BOTTOM, CATALYST, CONTROLS, DAY_S, DRUM, EVENTS, FAN,
    FEED_FLOW, FEED_LEVEL, FEED_PUMP, JACKET, LOOPS, MOTOR_SPECS, MOTORS, MotorState, PHASES,
    PREHEAT, PRESSURE, Point, REACT, REACTOR, REACTOR_LEVEL, REFLUX, REFLUX_PUMP, SPARE_PUMP, SUMP,
    Source, TOP_PRESSURE, TOTALS, TRAYS, UNITS, VALVES, WATER, WEAR_S,
};

/// The generator behind all noise: `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A stream of its own for each `lane` of a seed.
    pub fn new(seed: u64, lane: u64) -> Self {
        let mut rng = Self(seed ^ lane.wrapping_mul(0xA24B_AED4_963E_E407));
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Even in 0..1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Nearly normal, mean 0, deviation 1, never beyond 3.5.
    pub fn bell(&mut self) -> f64 {
        let bits = self.next();
        let parts = [bits & 0xFFFF, bits >> 16 & 0xFFFF, bits >> 32 & 0xFFFF, bits >> 48];
        let sum: u64 = parts.iter().sum();
        (sum as f64 / 65_536.0 - 2.0) * 1.732_050_8
    }
}

#[derive(Clone, Debug)]
struct Motor {
    state: MotorState,
    /// When running up ends.
    run_at_s: i64,
    /// 0 at rest, 1 at speed.
    speed: f64,
}

/// One unit of the plant.
#[derive(Clone, Debug)]
pub struct Unit {
    number: usize,
    now_s: i64,
    rng: Rng,
    inner: [f64; LOOPS],
    value: [f64; LOOPS],
    measured: [f64; LOOPS],
    set_point: [f64; LOOPS],
    integral: [f64; LOOPS],
    output: [f64; LOOPS],
    valve: [f64; LOOPS],
    motors: [Motor; MOTORS],
    switches: [f64; VALVES],
    bed: [f64; BED],
    trays: [f64; TRAYS],
    totals: [f64; TOTALS],
    /// How fast the reaction goes; 0.5 is usual.
    reaction: f64,
    ambient: f64,
    steam: f64,
}

impl Unit {
    fn new(number: usize, seed: u64) -> Self {
        let rest = CONTROLS.each_ref().map(|control| control.rest);
        let motors = std::array::from_fn(|index| {
            let state = if index == SPARE_PUMP { MotorState::Stop } else { MotorState::Run };
            Motor { state, run_at_s: 0, speed: if index == SPARE_PUMP { 0.0 } else { 1.0 } }
        });
        let mut unit = Self {
            number,
            now_s: 0,
            rng: Rng::new(seed, number as u64 + 1),
            inner: rest,
            value: rest,
            measured: rest,
            set_point: rest,
            integral: [0.5; LOOPS],
            output: [0.5; LOOPS],
            valve: [0.5; LOOPS],
            motors,
            switches: [0.0; VALVES],
            bed: [200.0; BED],
            trays: [110.0; TRAYS],
            totals: [87_000.0, 4_200.0, 61_000.0].map(|total| total + 1_234.0 * number as f64),
            reaction: 0.3,
            ambient: 0.0,
            steam: 0.0,
        };
        // A plant that runs already: an hour before the history begins.
        for second in -3_600..0 {
            unit.step(second);
        }
        unit
    }

    /// Phase of the batch and seconds since it began.
    fn phase(&self) -> (usize, i64) {
        let mut rest = self.cycle().rem_euclid(BATCH_S);
        for (index, (_, length)) in PHASES.iter().enumerate() {
            if rest < *length {
                return (index, rest);
            }
            rest -= length;
        }
        (0, 0)
    }

    fn cycle(&self) -> i64 {
        self.now_s + 4_600 * self.number as i64
    }

    /// How worn the agitator's bearing is, 0 to 1.
    fn wear(&self) -> f64 {
        let since = self.now_s - (AGITATOR_TRIP_S - WEAR_S);
        let worn = self.number == 1 && (0..=WEAR_S).contains(&since);
        if worn { since as f64 / WEAR_S as f64 } else { 0.0 }
    }

    fn step(&mut self, now_s: i64) {
        self.now_s = now_s;
        self.run_motors();
        self.plan();
        self.weather();
        let targets = self.targets();
        for (index, control) in CONTROLS.iter().enumerate() {
            self.inner[index] += (targets[index] - self.inner[index]) / control.tau1_s;
            self.inner[index] = self.inner[index].clamp(-0.02, 1.02);
            self.value[index] += (self.inner[index] - self.value[index]) / control.tau2_s;
            let noisy = self.value[index] + control.noise * self.rng.bell();
            // The transmitter's converter has 12 bits.
            self.measured[index] = (noisy.clamp(0.0, 1.0) * 4_095.0).round() / 4_095.0;
            self.regulate(index);
            self.valve[index] += (self.output[index] - self.valve[index]) / 2.0;
        }
        self.follow();
        self.count();
    }

    fn run_motors(&mut self) {
        for (unit, at_s, motor, state) in EVENTS {
            if unit == self.number && at_s == self.now_s {
                self.motors[motor].state = state;
                self.motors[motor].run_at_s = at_s + 6;
            }
        }
        for motor in &mut self.motors {
            if motor.state == MotorState::Start && self.now_s >= motor.run_at_s {
                motor.state = MotorState::Run;
            }
            let aim = match motor.state {
                MotorState::Stop | MotorState::Trip => 0.0,
                MotorState::Start => 0.6,
                MotorState::Run => 1.0,
            };
            motor.speed += (aim - motor.speed) / 4.0;
        }
    }

    /// The recipe gives set points; the cascade and the ratio give the others.
    fn plan(&mut self) {
        let (phase, since_s) = self.phase();
        let odd = self.cycle().div_euclid(BATCH_S) % 2 != 0;
        let hot = if odd { 0.62 } else { 0.6 };
        let ramp = since_s as f64 / PHASES[phase].1 as f64;
        let (temperature, feed) = match phase {
            0 => (0.4, 0.75),
            1 => (0.4 + (hot - 0.4) * ramp, 0.55),
            REACT => (hot, 0.6),
            3 => (hot + (0.4 - hot) * ramp, 0.4),
            _ => (0.4, 0.25),
        };
        self.set_point[REACTOR] = temperature;
        self.set_point[FEED_FLOW] = feed;
        self.set_point[JACKET] = 0.1 + 0.8 * self.output[REACTOR];
        self.set_point[CATALYST] = 0.667 * self.measured[FEED_FLOW];
    }

    fn weather(&mut self) {
        // A parabola for each half of the day: a sine to the eye, and the same bits everywhere.
        let turn = (self.now_s.rem_euclid(DAY_S) as f64 / DAY_S as f64) * 2.0 - 1.0;
        let wave = 4.0 * turn * (1.0 - turn.abs());
        self.ambient += (wave + 0.4 * self.rng.bell() - self.ambient) / 120.0;
        self.steam += 0.004 * self.rng.bell() - self.steam / 900.0;
        let (phase, _) = self.phase();
        let wish = if phase == REACT { 0.5 + 0.6 * self.off(CATALYST) } else { 0.2 };
        self.reaction += (wish - self.reaction) / 400.0;
    }

    /// How far a loop's process is from where it rests.
    fn off(&self, index: usize) -> f64 {
        self.value[index] - CONTROLS[index].rest
    }

    /// Where each process would come to rest as things stand: how the loops pull on each other.
    fn targets(&self) -> [f64; LOOPS] {
        let mut targets: [f64; LOOPS] = std::array::from_fn(|index| {
            CONTROLS[index].rest + CONTROLS[index].gain * (self.valve[index] - 0.5)
        });
        let feeding = self.motors[FEED_PUMP].speed.max(self.motors[SPARE_PUMP].speed);
        let stirred = self.motors[AGITATOR].speed * (1.0 - 0.3 * self.wear());
        let heat = self.reaction - 0.5;
        targets[FEED_FLOW] *= feeding;
        targets[FEED_LEVEL] -= 4.8 * self.off(FEED_FLOW);
        targets[PREHEAT] += 0.25 * self.steam + 0.05 * self.ambient - 0.35 * self.off(FEED_FLOW);
        // The reactor's "valve" is its jacket; without stirring it reaches only the wall.
        targets[REACTOR] = CONTROLS[REACTOR].rest
            + 0.9 * (0.25 + 0.75 * stirred) * self.off(JACKET)
            + 0.15 * self.off(PREHEAT)
            + 0.3 * heat
            + 0.16 * (1.0 - stirred);
        targets[JACKET] += 0.15 * self.off(WATER) + 0.1 * self.steam;
        targets[PRESSURE] += 0.3 * heat + 0.4 * self.off(REACTOR) + 0.1 * (1.0 - stirred);
        targets[REACTOR_LEVEL] += 4.8 * self.off(FEED_FLOW);
        let drawn = self.valve[REACTOR_LEVEL] - 0.5;
        targets[BOTTOM] += 0.3 * self.steam - 0.2 * drawn - 0.3 * self.off(REFLUX);
        targets[TOP_PRESSURE] += 0.5 * self.off(BOTTOM) + 0.3 * self.off(WATER);
        targets[SUMP] += 5.0 * drawn - 2.0 * self.off(BOTTOM);
        targets[DRUM] += 3.0 * self.off(BOTTOM) - 2.5 * self.off(REFLUX);
        targets[REFLUX] *= self.motors[REFLUX_PUMP].speed;
        let blown = self.valve[WATER] * self.motors[FAN].speed - 0.5;
        targets[WATER] = CONTROLS[WATER].rest
            + CONTROLS[WATER].gain * blown
            + 0.12 * self.ambient
            + 0.2 * self.off(TOP_PRESSURE)
            + 0.1 * self.off(JACKET);
        targets
    }

    /// A PI controller that stops integrating at the ends of its output.
    fn regulate(&mut self, index: usize) {
        let control = &CONTROLS[index];
        let toward = if control.gain < 0.0 { -1.0 } else { 1.0 };
        let error = (self.set_point[index] - self.measured[index]) * toward;
        let wish = self.integral[index] + control.kp * error;
        if (0.0..=1.0).contains(&wish) || (wish > 1.0) == (error < 0.0) {
            self.integral[index] += control.kp / control.ti_s * error;
        }
        self.output[index] = wish.clamp(0.0, 1.0);
    }

    /// Thermometers and switches that follow the process.
    fn follow(&mut self) {
        let stirred = self.motors[AGITATOR].speed * (1.0 - 0.3 * self.wear());
        let reactor = engineering(REACTOR, self.value[REACTOR]);
        for (index, bed) in self.bed.iter_mut().enumerate() {
            let place = index as f64 / (BED - 1) as f64;
            let spot =
                4.0 * place * (1.0 - place) * self.reaction * (12.0 + 40.0 * (1.0 - stirred));
            *bed += (reactor - 3.0 + spot - *bed) / (25.0 + 8.0 * index as f64);
        }
        let bottom = engineering(BOTTOM, self.value[BOTTOM]);
        let top = 78.0 + 8.0 * (self.value[TOP_PRESSURE] - 0.4) - 20.0 * self.off(REFLUX);
        for (index, tray) in self.trays.iter_mut().enumerate() {
            let place = index as f64 / (TRAYS - 1) as f64;
            *tray += (bottom + (top - bottom) * place - *tray) / (60.0 + 15.0 * index as f64);
        }
        let (phase, _) = self.phase();
        let feeding = self.motors[FEED_PUMP].speed.max(self.motors[SPARE_PUMP].speed) > 0.1;
        let open = [feeding, phase == 0, phase == 4, (1..4).contains(&phase)];
        for (switch, open) in self.switches.iter_mut().zip(open) {
            *switch = (*switch + if open { 0.125 } else { -0.125 }).clamp(0.0, 1.0);
        }
    }

    fn count(&mut self) {
        let feed_l = self.value[FEED_FLOW].max(0.0) * 40_000.0 / 3_600.0;
        self.totals[0] += feed_l;
        self.totals[1] += self.power_kw() / 3_600.0;
        self.totals[2] += feed_l * 0.83 * self.conversion() / 100.0;
    }

    fn conversion(&self) -> f64 {
        (70.0 + 40.0 * self.off(REACTOR) + 30.0 * (self.reaction - 0.3)).clamp(0.0, 99.0)
    }

    fn power_kw(&self) -> f64 {
        let motors: f64 = (0..MOTORS).map(|index| 0.55 * self.current_a(index)).sum();
        motors + 180.0 * self.valve[PREHEAT] + 260.0 * self.valve[BOTTOM]
    }

    fn current_a(&self, index: usize) -> f64 {
        let load = match index {
            FEED_PUMP | SPARE_PUMP => 0.55 + 0.5 * self.value[FEED_FLOW],
            AGITATOR => 0.85 + 0.55 * self.wear(),
            REFLUX_PUMP => 0.6 + 0.5 * self.value[REFLUX],
            FAN => 0.3 + 0.7 * self.valve[WATER],
            _ => 0.8,
        };
        // Running up draws what it likes.
        let inrush = if self.motors[index].state == MotorState::Start { 2.5 } else { 1.0 };
        MOTOR_SPECS[index].2 * load * inrush * self.motors[index].speed
    }

    fn vibration(&self, index: usize) -> f64 {
        let wear = if index == AGITATOR { self.wear() } else { 0.0 };
        0.15 + self.motors[index].speed * (1.1 + 0.2 * index as f64 + 7.0 * wear * wear)
    }

    fn point(&self, point: Point) -> f64 {
        match point {
            Point::FeedTemperature => 14.0 + 5.0 * self.ambient,
            Point::DischargePressure => {
                let speed = self.motors[FEED_PUMP].speed.max(self.motors[SPARE_PUMP].speed);
                1.0 + speed * (9.5 - 4.0 * self.value[FEED_FLOW])
            }
            Point::SteamFlow => 6.0 * self.valve[PREHEAT] * (1.0 + 0.5 * self.steam),
            Point::SteamPressure => 11.0 * (1.0 + 0.25 * self.steam),
            Point::PreheaterInlet => 18.0 + 5.0 * self.ambient - 6.0 * self.off(FEED_FLOW),
            Point::Conversion => self.conversion(),
            Point::Purity => (98.6 + 2.0 * self.off(REFLUX) - 6.0 * self.off(BOTTOM)).min(99.9),
            Point::PressureDrop => 20.0 + 90.0 * self.valve[BOTTOM] * self.valve[BOTTOM],
            Point::WaterFlow => 220.0 * self.motors[4].speed + 40.0 * self.off(WATER),
            Point::WaterPressure => 0.4 + 3.4 * self.motors[4].speed,
            Point::WaterReturn => engineering(WATER, self.value[WATER]) + 6.0 + 4.0 * self.reaction,
            Point::Power => self.power_kw(),
            Point::Ambient => 13.0 + 6.0 * self.ambient,
        }
    }

    /// What an ideal instrument would show, in engineering units.
    pub fn read(&self, source: Source) -> f64 {
        match source {
            Source::Pv(index) => engineering(index, self.measured[index]),
            Source::Sp(index) => engineering(index, self.set_point[index]),
            Source::Op(index) => 100.0 * self.output[index],
            Source::Position(index) => 100.0 * self.valve[index],
            Source::Bed(index) => self.bed[index],
            Source::Tray(index) => self.trays[index],
            Source::Point(point) => self.point(point),
            Source::Motor(index) => f64::from(self.motors[index].state as u8),
            Source::Current(index) => self.current_a(index),
            Source::Vibration(index) => self.vibration(index),
            Source::Valve(index) => match self.switches[index] {
                open if open >= 1.0 => 2.0,
                shut if shut <= 0.0 => 0.0,
                _ => 1.0,
            },
            Source::Total(index) => self.totals[index],
            Source::Phase => self.phase().0 as f64,
            Source::Batch => (412 + self.cycle().div_euclid(BATCH_S)) as f64,
        }
    }

    /// Name of the running batch, such as `U1-0412`.
    pub fn batch_id(&self) -> String {
        let mut id = String::new();
        // Writing to a String cannot fail.
        write!(id, "U{}-{:04}", self.number + 1, self.read(Source::Batch)).unwrap_or_default();
        id
    }
}

fn engineering(index: usize, normalised: f64) -> f64 {
    let control = &CONTROLS[index];
    control.low + (control.high - control.low) * normalised
}

/// The whole plant.
#[derive(Clone, Debug)]
pub struct Plant {
    now_s: i64,
    units: [Unit; UNITS],
}

impl Plant {
    /// The plant at second 0 of its history.
    pub fn new(seed: u64) -> Self {
        Self { now_s: 0, units: std::array::from_fn(|number| Unit::new(number, seed)) }
    }

    /// Seconds since the history began.
    pub fn now_s(&self) -> i64 {
        self.now_s
    }

    /// Lives through one second.
    pub fn step(&mut self) {
        for unit in &mut self.units {
            unit.step(self.now_s);
        }
        self.now_s += 1;
    }

    /// Stands still until `now_s`: nobody watched. What was due for the motors has happened.
    pub fn skip_to(&mut self, now_s: i64) {
        for unit in &mut self.units {
            for (_, at_s, motor, state) in EVENTS.into_iter().filter(|event| event.0 == unit.number)
            {
                if (self.now_s..now_s).contains(&at_s) {
                    unit.motors[motor].state = state;
                    unit.motors[motor].run_at_s = at_s;
                }
            }
        }
        self.now_s = self.now_s.max(now_s);
    }

    /// One unit, from 0.
    pub fn unit(&self, number: usize) -> &Unit {
        &self.units[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(seconds: i64) -> Plant {
        let mut plant = Plant::new(7);
        for _ in 0..seconds {
            plant.step();
        }
        plant
    }

    #[test]
    fn the_same_seed_gives_the_same_plant() {
        let (one, two, other) = (after(2_000), after(2_000), {
            let mut plant = Plant::new(8);
            (0..2_000).for_each(|_| plant.step());
            plant
        });
        let pressures = |plant: &Plant| plant.unit(0).read(Source::Pv(PRESSURE)).to_bits();
        assert_eq!(pressures(&one), pressures(&two));
        assert_ne!(one.unit(0).value[REACTOR].to_bits(), other.unit(0).value[REACTOR].to_bits());
    }

    #[test]
    fn loops_hold_their_set_points_on_a_calm_day() {
        let mut plant = Plant::new(7);
        let mut worst = [0.0f64; LOOPS];
        for second in 0..12_000 {
            plant.step();
            let unit = plant.unit(0);
            // Set points that just moved are given their time.
            let calm = unit.phase().0 == REACT && unit.phase().1 > 3_000;
            if second > 100 && calm {
                for (index, worst) in worst.iter_mut().enumerate() {
                    let off = (unit.set_point[index] - unit.value[index]).abs();
                    *worst = worst.max(off);
                }
            }
        }
        for (control, worst) in CONTROLS.iter().zip(worst) {
            assert!(worst < 0.08, "{} strays by {worst:.3} of its range", control.name);
            assert!(worst > 0.0, "{} never moves", control.name);
        }
    }

    #[test]
    fn an_agitator_that_trips_heats_the_bed_and_stops_the_feed() {
        let mut plant = Plant::new(7);
        (0..AGITATOR_TRIP_S).for_each(|_| plant.step());
        let unit = plant.unit(1);
        assert_eq!(unit.motors[AGITATOR].state, MotorState::Run);
        let (bed, flow) = (unit.read(Source::Bed(2)), unit.read(Source::Pv(FEED_FLOW)));
        assert!(unit.read(Source::Vibration(AGITATOR)) > 4.0);
        (0..300).for_each(|_| plant.step());
        let unit = plant.unit(1);
        assert_eq!(unit.motors[AGITATOR].state, MotorState::Trip);
        assert!(unit.read(Source::Bed(2)) > bed + 15.0);
        assert!(unit.read(Source::Pv(FEED_FLOW)) < flow / 4.0);
    }

    #[test]
    fn a_plant_nobody_watched_has_still_had_its_events() {
        let mut plant = after(10);
        plant.skip_to(AGITATOR_TRIP_S + 100);
        assert_eq!(plant.now_s(), AGITATOR_TRIP_S + 100);
        plant.step();
        assert_eq!(plant.unit(1).motors[AGITATOR].state, MotorState::Trip);
        assert_eq!(plant.unit(0).motors[SPARE_PUMP].state, MotorState::Run);
    }
}

//! A plant as its historian sees it: tags of nine families, scanned in groups, by seed.
//!
//! # Contract
//! * The same seed gives the same samples, whatever the size of the pieces they are asked for in.
//! * Shares and signals are those of [`FAMILIES`]; nothing is tuned to an encoding.
//!
//! # What it does not know
//! How anything is stored.

use tagmill_storage::{
    Qualities, Quality, SECOND_NS, TagColumn, TagDefinition, TagId, ValueType, Values,
};

/// 2026-01-01T00:00:00Z.
pub const START_NS: i64 = 1_767_225_600 * SECOND_NS;
/// Groups of tags that a gateway reads together: those of one group have equal times.
const GROUPS: usize = 10;
/// Groups whose gateway stamps the moment of reading, a few milliseconds off the grid, instead of the grid itself.
const JITTERED: usize = 3;
/// One in so many samples begins a bad stretch.
const BAD_EVERY: u64 = 40_000;

/// What a tag measures, and how its controller makes a number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 12-bit converter, slow, scaled to a range in `f32`.
    Adc12,
    /// 16-bit converter with noise of some counts, scaled in `f32`.
    Adc16,
    /// 4-20 mA card, 0 to 27,648 counts, scaled in `f32`.
    Card,
    /// Two decimals.
    Decimals,
    /// Set by people, now and then.
    SetPoint,
    /// A named state that changes every few minutes.
    State,
    /// A counter that only rises.
    Totaliser,
    /// Six significant digits, all of them moving.
    SixDigits,
    /// A computed value: noise in every bit.
    FullMantissa,
}

/// Families and how many of a hundred tags belong to each.
pub const FAMILIES: [(Family, usize); 9] = [
    (Family::Adc12, 20),
    (Family::Adc16, 16),
    (Family::Card, 15),
    (Family::Decimals, 17),
    (Family::SetPoint, 8),
    (Family::State, 10),
    (Family::Totaliser, 6),
    (Family::SixDigits, 5),
    (Family::FullMantissa, 3),
];

/// Small and fast numbers that look random (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// 64 even bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// In -1.0 .. 1.0.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Roughly normal, deviation 1.
    pub fn normal(&mut self) -> f64 {
        (0..3).map(|_| self.unit()).sum()
    }

    /// True once in `n` on average.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.bits().is_multiple_of(n)
    }

    /// Below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }
}

#[derive(Clone, Debug)]
struct Signal {
    family: Family,
    noise: Noise,
    /// Where the process is, 0 to 1, and where it tends to.
    level: f64,
    aim: f64,
    low: f64,
    span: f64,
    count: i64,
    bad_left: u32,
}

impl Signal {
    fn new(family: Family, number: usize, seed: u64) -> Self {
        let mut noise = Noise(seed ^ (number as u64).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        let level = noise.unit().mul_add(0.3, 0.5);
        let low = [0.0, 0.0, -50.0, 4.0][number % 4];
        let span = [100.0, 250.0, 400.0, 16.0, 1.6][number % 5];
        let count = i64::try_from(noise.below(1_000_000)).unwrap_or(0);
        Self { family, noise, level, aim: level, low, span, count, bad_left: 0 }
    }

    /// The process moves on by a second.
    fn drift(&mut self) {
        if self.noise.once_in(1_800) {
            self.aim = self.noise.unit().mul_add(0.35, 0.5);
        }
        let step = (self.aim - self.level) * 0.002;
        self.level = (self.level + step).clamp(0.0, 1.0);
    }

    /// A converter's count, and the number its controller makes of it.
    fn converted(&mut self, counts: f64, noise_counts: f64) -> f64 {
        let count = (self.level * counts + self.noise.normal() * noise_counts).round();
        let share = single(count.clamp(0.0, counts) / counts);
        f64::from(share * single(self.span) + single(self.low))
    }

    fn float(&mut self) -> f64 {
        self.drift();
        match self.family {
            Family::Adc12 => self.converted(4_095.0, 0.6),
            Family::Adc16 => self.converted(65_535.0, 18.0),
            Family::Card => self.converted(27_648.0, 30.0),
            Family::Decimals => {
                let value = self.level.mul_add(self.span, self.noise.normal() * 0.12) + self.low;
                (value * 100.0).round() / 100.0
            }
            Family::SetPoint => (self.aim * self.span).round() + self.low,
            Family::SixDigits => {
                let value = self.level.mul_add(self.span, self.noise.normal() * self.span * 0.01);
                let digits = value.abs().max(1e-9).log10().floor();
                let scale = 10_f64.powf(5.0 - digits);
                (value * scale).round() / scale
            }
            _ => self.level.mul_add(self.span, self.noise.normal() * self.span * 0.003),
        }
    }

    fn state(&mut self) -> u16 {
        if self.noise.once_in(400) {
            self.count = i64::try_from(self.noise.below(5)).unwrap_or(0);
        }
        u16::try_from(self.count % 5).unwrap_or(0)
    }

    fn total(&mut self) -> i64 {
        self.drift();
        self.count += whole(self.level.mul_add(40.0, self.noise.normal()).max(0.0));
        self.count
    }

    fn quality(&mut self) -> Quality {
        if self.bad_left == 0 && self.noise.once_in(BAD_EVERY) {
            self.bad_left = u32::try_from(5 + self.noise.below(120)).unwrap_or(5);
        }
        if self.bad_left > 0 {
            self.bad_left -= 1;
            return Quality(0x8005_0000); // BadCommunicationError
        }
        Quality(0)
    }
}

/// A plant that goes on, second by second.
#[derive(Clone, Debug)]
pub struct Plant {
    signals: Vec<Signal>,
    clocks: Vec<Noise>,
    second: i64,
}

impl Plant {
    /// A plant of so many tags, at its first second.
    pub fn new(tags: usize, seed: u64) -> Self {
        let families: Vec<Family> =
            FAMILIES.iter().flat_map(|(family, share)| vec![*family; *share]).collect();
        // 37 has no factor in common with 100: families are spread over the groups.
        let family = |number: usize| families[number * 37 % 100];
        let signals = (0..tags).map(|n| Signal::new(family(n), n, seed)).collect();
        let clocks = (0..GROUPS as u64).map(|group| Noise(seed ^ (group << 32))).collect();
        Self { signals, clocks, second: 0 }
    }

    /// Its tags.
    pub fn definitions(&self) -> Vec<TagDefinition> {
        let tag = |(number, signal): (usize, &Signal)| {
            let value_type = match signal.family {
                Family::State => ValueType::State,
                Family::Totaliser => ValueType::I64,
                _ => ValueType::F64,
            };
            let kind = format!("{:?}", signal.family).to_lowercase();
            TagDefinition::new(format!("U{}/{kind}-{number:06}", number % GROUPS), value_type)
        };
        self.signals.iter().enumerate().map(tag).collect()
    }

    /// The samples of the next `seconds`, a column for each tag.
    pub fn next(&mut self, tags: &[TagId], seconds: usize) -> Vec<TagColumn> {
        let first = self.second;
        self.second += i64::try_from(seconds).unwrap_or(0);
        let times: Vec<Vec<i64>> = (0..GROUPS).map(|group| self.times(group, first)).collect();
        let column = |(number, signal): (usize, &mut Signal)| TagColumn {
            tag: tags[number],
            times: times[number % GROUPS].clone(),
            values: match signal.family {
                Family::State => Values::State((0..seconds).map(|_| signal.state()).collect()),
                Family::Totaliser => Values::I64((0..seconds).map(|_| signal.total()).collect()),
                _ => Values::F64((0..seconds).map(|_| signal.float()).collect()),
            },
            qualities: qualities(signal, seconds),
        };
        self.signals.iter_mut().enumerate().map(column).collect()
    }

    fn times(&mut self, group: usize, first: i64) -> Vec<i64> {
        let clock = &mut self.clocks[group];
        let offset_ns = i64::try_from(group).unwrap_or(0) * 7_000_000;
        let mut time = |second| {
            let jitter_ms = if group < JITTERED { whole(clock.normal() * 2.0) } else { 0 };
            START_NS + second * SECOND_NS + offset_ns + jitter_ms * 1_000_000
        };
        (first..self.second).map(&mut time).collect()
    }
}

fn qualities(signal: &mut Signal, seconds: usize) -> Qualities {
    let each: Vec<Quality> = (0..seconds).map(|_| signal.quality()).collect();
    if each.iter().all(|quality| quality.0 == 0) { Qualities::GOOD } else { Qualities::Each(each) }
}

/// What a controller computes with.
#[expect(clippy::cast_possible_truncation, reason = "rounding is what is meant")]
fn single(value: f64) -> f32 {
    value as f32
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what is meant")]
fn whole(value: f64) -> i64 {
    value.round() as i64
}

//! Signals of a plant, the same in every run and on every machine: they add and multiply, nothing
//! else.

use std::sync::Arc;

use super::Column;
use crate::disk::sim::Random;
use crate::sample::Value;
use crate::tag::ValueType;

/// A signal by name, the encoding it must get, and its column.
pub(super) type Signal = (&'static str, &'static str, Column);

const SECOND_NS: i64 = 1_000_000_000;
const START_NS: i64 = 1_700_000_000 * SECOND_NS;

/// Numbers that look random, as signals need them.
pub(super) struct Noise(Random);

impl Noise {
    pub(super) const fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.below(limit)
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.0.index(of.len())]
    }

    /// In -1.0 .. 1.0.
    fn unit(&mut self) -> f64 {
        (self.0.bits() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Mostly near zero: each doubling of the distance is half as likely.
    fn skewed(&mut self) -> i64 {
        let bits = self.0.bits().trailing_zeros().min(8);
        let magnitude = self.below(1 << bits).cast_signed();
        if self.below(2) == 0 { magnitude } else { -magnitude }
    }

    /// A slow walk with measurement noise, as most process values are.
    fn walk(&mut self, rows: usize, center: f64, step: f64) -> Vec<f64> {
        let mut value = center;
        let mut next = || {
            value += self.unit() * step + (center - value) * 0.001;
            value + self.unit() * step
        };
        (0..rows).map(|_| next()).collect()
    }

    /// What a converter of so many counts makes of a walk, scaled to -20 .. 130 in f32.
    fn converter(&mut self, rows: usize, counts: f64, step: f64) -> Vec<f32> {
        let walk = self.walk(rows, counts / 2.0, step);
        walk.iter().map(|count| narrow(count.round() * (150.0 / counts) - 20.0)).collect()
    }
}

/// Every signal.
pub(super) fn signals(rows: usize) -> Vec<Signal> {
    let mut noise = Noise::new(rows as u64);
    let mut all = times(&mut noise, rows);
    all.extend(converters(&mut noise, rows));
    all.extend(decimals(&mut noise, rows));
    all.extend(other_floats(&mut noise, rows));
    all.extend(discrete(&mut noise, rows));
    all.extend(texts_and_qualities(rows));
    all
}

/// Signals that the final effort writes with entropy-coded integers, given a thousand rows: most steps are small, and
/// one in many is large.
pub(super) fn dense_signals(rows: usize) -> Vec<Signal> {
    let mut noise = Noise::new(rows as u64 + 1);
    let steps: Vec<i64> = (0..rows).map(|_| noise.skewed()).collect();
    let sums: Vec<i64> = steps
        .iter()
        .scan(0, |sum, step| {
            *sum += step;
            Some(*sum)
        })
        .collect();
    let cents = |sum: &i64| *sum as f64 / 100.0;
    let counts = steps.iter().map(|step| narrow(step.rem_euclid(90) as f64 * 0.3663 - 20.0));
    let bits = (0..).zip(&steps).map(|(i, step)| {
        f64::from_bits(
            0x4044_5566_7788_99AA_u64.wrapping_add_signed(step * 0x0100_0010_0003 + i * 31),
        )
    });
    let fine = sums.iter().map(|sum| {
        let count = 32_000 + sum * 23 + noise.below(23).cast_signed();
        narrow(count as f64 * (150.0 / 65_535.0) - 20.0)
    });
    let fine = singles(fine);
    let late = (0..).zip(&steps).map(|(i, step)| START_NS + i * SECOND_NS + step.abs() * 1_000_000);
    vec![
        (
            "dense_counter",
            "integers+pco",
            words(ValueType::I64, sums.iter().map(|sum| Value::I64(*sum))),
        ),
        ("dense_decimals", "decimal+pco", doubles(sums.iter().map(cents))),
        ("dense_decimals_f32", "decimal+pco", singles(sums.iter().map(|sum| narrow(cents(sum))))),
        ("dense_converter", "ranks+pco", singles(counts)),
        ("dense_bits", "raw+pco", doubles(bits)),
        ("dense_lattice", "lattice+pco", fine),
        ("dense_times", "delta+pco", Column::Times(late.collect())),
    ]
}

fn times(noise: &mut Noise, rows: usize) -> Vec<Signal> {
    let regular = (0..rows as i64).map(|i| START_NS + i * SECOND_NS).collect();
    let jitter = |i: i64| START_NS + i * SECOND_NS + noise.below(11).cast_signed() * 1_000_000;
    let jittered = (0..rows as i64).map(jitter).collect();
    // A scanner that misses cycles: one in four rows comes one late, few come many late, one in a hundred at any time.
    let (mut scanner, mut late) = (Noise::new(rows as u64 + 2), START_NS);
    let missed = |_| {
        late += match scanner.below(100) {
            0 => 1 + scanner.below(3_600_000_000_000).cast_signed(),
            1..=4 => 11 * 104_857_600,
            5..=28 => 2 * 104_857_600,
            _ => 104_857_600,
        };
        late
    };
    let missed: Vec<i64> = (0..rows).map(missed).collect();
    let gaps = (0..rows as i64).map(|i| START_NS + (i + i / 400 * 77) * SECOND_NS).collect();
    vec![
        ("times_regular", "step", Column::Times(regular)),
        ("times_jittered", "delta", Column::Times(jittered)),
        ("times_with_gaps", "delta", Column::Times(gaps)),
        ("times_of_few_steps", "steps+zstd", Column::Times(missed)),
    ]
}

fn converters(noise: &mut Noise, rows: usize) -> Vec<Signal> {
    let adc12 = noise.converter(rows, 4_096.0, 1.5);
    let adc16 = noise.converter(rows, 65_536.0, 120.0);
    vec![
        ("adc12_f32", "ranks", singles(adc12.iter().copied())),
        ("adc12_widened", "ranks", doubles(adc12.iter().map(|v| f64::from(*v)))),
        ("adc16_f32", "lattice", singles(adc16)),
    ]
}

fn decimals(noise: &mut Noise, rows: usize) -> Vec<Signal> {
    let walk = noise.walk(rows, 78.5, 0.04);
    let two: Vec<f64> = walk.iter().map(|v| (v * 100.0).round() / 100.0).collect();
    let with_gaps = two.iter().enumerate().map(|(i, v)| match i % 1_000 {
        100..=140 => f64::NAN,
        300 => -0.0,
        _ => *v,
    });
    vec![
        ("two_decimals", "decimal", doubles(two.iter().copied())),
        ("decimals_with_gaps", "decimal", doubles(with_gaps)),
        ("two_decimals_widened", "decimal", doubles(two.iter().map(|v| f64::from(narrow(*v))))),
        ("two_decimals_f32", "decimal", singles(two.iter().map(|v| narrow(*v)))),
    ]
}

fn other_floats(noise: &mut Noise, rows: usize) -> Vec<Signal> {
    let set_points = (0..rows).map(|i| [50.0, 62.5, 0.1 + 0.2][i / 700 % 3]);
    let odd_nan = f64::from_bits(0x7FF8_0000_DEAD_BEEF);
    // Of all magnitudes, since seven decimals hold every f32 near 1.
    let powers = noise.walk(rows, 0.5, 1.0).into_iter().map(|v| narrow(v * v * v * v * v));
    vec![
        ("set_points", "runs", doubles(set_points)),
        ("constant", "constant", doubles(vec![odd_nan; rows])),
        ("full_mantissa_f32", "raw", singles(powers)),
        ("full_mantissa", "raw", doubles(noise.walk(rows, 40.0, 0.3))),
    ]
}

fn discrete(noise: &mut Noise, rows: usize) -> Vec<Signal> {
    let totaliser = (0..rows as i64).map(|i| Value::I64(1_000_000 + i * 37 + i % 3));
    let steady = (0..rows).map(|i| Value::State([0, 1, 2, 3, 4][i / 300 % 5]));
    let uneven: Vec<Value> =
        (0..rows).map(|_| Value::State(*noise.pick(&[0, 3, 40_000]))).collect();
    let flags: Vec<Value> = (0..rows).map(|_| Value::Bool(noise.below(2) == 1)).collect();
    vec![
        ("totaliser", "integers", words(ValueType::I64, totaliser)),
        ("states_steady", "runs", words(ValueType::State, steady)),
        ("states_uneven", "ranks", words(ValueType::State, uneven)),
        ("flags", "integers", words(ValueType::Bool, flags)),
    ]
}

fn texts_and_qualities(rows: usize) -> Vec<Signal> {
    let modes = (0..rows).map(|i| ["AUTO", "MANUAL", "CASCADE"][i / 50 % 3]);
    let batches = (0..rows).map(|i| format!("batch-2026-{:05}/unit-{}", i / 40, i / 40 % 4));
    let mixed = (0..rows).map(|i| if i % 400 < 30 { 0x800A_0000 } else { 0 }).collect();
    vec![
        ("texts", "dictionary", texts(modes)),
        ("texts_many", "dictionary+zstd", texts(batches)),
        ("quality_good", "constant", Column::Qualities(vec![0; rows])),
        ("quality_mixed", "runs", Column::Qualities(mixed)),
    ]
}

pub(super) fn texts<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Column {
    Column::Texts(texts.into_iter().map(|text| Arc::from(text.as_ref())).collect())
}

fn words(value_type: ValueType, values: impl IntoIterator<Item = Value>) -> Column {
    Column::Words(value_type, values.into_iter().map(|value| value.to_word()).collect())
}

fn doubles(values: impl IntoIterator<Item = f64>) -> Column {
    words(ValueType::F64, values.into_iter().map(Value::F64))
}

fn singles(values: impl IntoIterator<Item = f32>) -> Column {
    words(ValueType::F32, values.into_iter().map(Value::F32))
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is what a device does")]
fn narrow(value: f64) -> f32 {
    value as f32
}

//! Decimals: floats that people and devices wrote with few digits, as integers at one power of ten.
//!
//! # Contract
//! * A value is `integer / 10^power`: one IEEE division of two exact numbers, hence the very double
//!   that parsing the decimal's text gives. No search for lucky factors, no error in the last
//!   place.
//! * Single precision computes the same quotient in f64 and rounds it to f32; an f64 column may
//!   hold such values too, since gateways widen what devices send as f32.
//! * Words that do not come back exactly (-0.0, NaN, infinities, full mantissas) are kept beside,
//!   bit for bit.
//!
//! This arithmetic is part of the format: see docs/format/encoding.md, "Decimal".

use std::ops::Range;

use super::aside::Aside;
use super::floats::{INTEGER_MAX, Target, float, nearest_integer, round_to_single};
use super::{Kind, entropy, integers, overlap, vectors};
use crate::bytes::{Malformed, Reader};
use crate::limits::VECTOR_ROWS;
use crate::sample::f32_of;

/// Powers of ten that are exact in f64.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];
/// Words looked at to find the power.
const SAMPLE_WORDS: usize = 64;
/// Estimated bits of a word kept beside.
const EXCEPTION_BITS: u64 = 80;

/// Power of ten and target of a column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    target: Target,
    power: u8,
}

impl Scale {
    /// The scale that suits a sample of the words best, if any suits half of them.
    pub(super) fn find(kind: Kind, words: &[u64]) -> Option<Self> {
        let sample: Vec<u64> =
            words.iter().step_by(words.len().div_ceil(SAMPLE_WORDS).max(1)).copied().collect();
        let targets: &[Target] = match Target::of(kind, &sample)? {
            // What fits singles may be doubles of a few digits, too.
            Target::Widened => &[Target::Double, Target::Widened],
            Target::Double => &[Target::Double],
            Target::Single => &[Target::Single],
        };
        let mut best: Option<(u64, Self)> = None;
        for &target in targets {
            for power in 0_u8.. {
                let scale = Self { target, power };
                if scale.divisor().is_none() {
                    break;
                }
                let Some(bits) = scale.cost(&sample) else { continue };
                if best.is_none_or(|(least, _)| bits < least) {
                    best = Some((bits, scale));
                }
            }
        }
        best.map(|(_, scale)| scale)
    }

    /// Bits that the sample would take; none if half of it or more stays beside.
    fn cost(self, sample: &[u64]) -> Option<u64> {
        let (mut least, mut greatest, mut fitting) = (i64::MAX, i64::MIN, 0_u64);
        for &word in sample {
            if let Some(integer) = self.integer(word) {
                least = least.min(integer as i64);
                greatest = greatest.max(integer as i64);
                fitting += 1;
            }
        }
        let exceptions = sample.len() as u64 - fitting;
        let width = super::packing::width_of(greatest.wrapping_sub(least).cast_unsigned());
        (exceptions < fitting).then(|| fitting * u64::from(width) + exceptions * EXCEPTION_BITS)
    }

    fn divisor(self) -> Option<f64> {
        POWERS.get(usize::from(self.power)).copied()
    }

    /// The integer that gives back `word`, if there is one.
    fn integer(self, word: u64) -> Option<u64> {
        let divisor = self.divisor()?;
        let (integer, fits) = match self.target {
            Target::Double => nearest(word, divisor, from_double, double),
            Target::Widened => nearest(word, divisor, from_double, widened),
            Target::Single => nearest(word, divisor, from_single, single),
        };
        fits.then_some(integer)
    }
}

fn from_double(word: u64) -> f64 {
    f64::from_bits(word)
}

fn from_single(word: u64) -> f64 {
    f64::from(f32_of(word))
}

/// Part of the format.
#[inline]
fn double(integer: u64, divisor: f64) -> u64 {
    (float(integer) / divisor).to_bits()
}

/// Part of the format.
#[inline]
fn widened(integer: u64, divisor: f64) -> u64 {
    f64::from(round_to_single(float(integer) / divisor)).to_bits()
}

/// Part of the format.
#[inline]
fn single(integer: u64, divisor: f64) -> u64 {
    u64::from(round_to_single(float(integer) / divisor).to_bits())
}

/// The integer nearest to `word * divisor`, and whether it gives the word back.
#[inline]
fn nearest(
    word: u64,
    divisor: f64,
    value: impl Fn(u64) -> f64,
    back: impl Fn(u64, f64) -> u64,
) -> (u64, bool) {
    let scaled = value(word) * divisor;
    let integer = nearest_integer(scaled);
    (integer, scaled.abs() <= INTEGER_MAX && back(integer, divisor) == word)
}

/// Integers of one vector, and the words that have none.
struct Vector {
    integers: [u64; VECTOR_ROWS],
    aside: Aside,
}

impl Vector {
    fn empty() -> Self {
        Self { integers: [0; VECTOR_ROWS], aside: Aside::default() }
    }

    fn fill(&mut self, scale: Scale, words: &[u64]) {
        let divisor = scale.divisor().expect("scales are built with a power that exists");
        match scale.target {
            Target::Double => self.fill_with(words, |w| nearest(w, divisor, from_double, double)),
            Target::Widened => self.fill_with(words, |w| nearest(w, divisor, from_double, widened)),
            Target::Single => self.fill_with(words, |w| nearest(w, divisor, from_single, single)),
        }
    }

    fn fill_with(&mut self, words: &[u64], nearest: impl Fn(u64) -> (u64, bool)) {
        self.aside.clear();
        let mut all_fit = true;
        for (integer, &word) in self.integers.iter_mut().zip(words) {
            let (found, fits) = nearest(word);
            *integer = found;
            all_fit &= fits;
        }
        if !all_fit {
            self.put_aside(words, nearest);
        }
    }

    /// Moves out the words that do not come back; their places repeat a neighbour, which packs
    /// well.
    #[cold]
    fn put_aside(&mut self, words: &[u64], nearest: impl Fn(u64) -> (u64, bool)) {
        let first = words.iter().map(|&word| nearest(word)).find(|(_, fits)| *fits);
        let mut neighbour = first.map_or(0, |(integer, _)| integer);
        for ((row, integer), &word) in (0..).zip(&mut self.integers).zip(words) {
            if nearest(word).1 {
                neighbour = *integer;
            } else {
                *integer = neighbour;
                self.aside.push(row, word);
            }
        }
    }
}

/// Appends the column: power, target, then for each vector its exceptions and its integers.
pub(super) fn encode(scale: Scale, words: &[u64], out: &mut Vec<u8>) {
    out.push(scale.power);
    out.push(scale.target as u8);
    let mut vector = Vector::empty();
    for words in words.chunks(VECTOR_ROWS) {
        vector.fill(scale, words);
        vector.aside.write(out);
        integers::encode_vector(&vector.integers[..words.len()], out);
    }
}

/// Appends the column, integers entropy-coded: power, target, the exceptions of all rows, the integers of all rows.
/// False if these cannot be written so.
pub(super) fn encode_dense(scale: Scale, words: &[u64], out: &mut Vec<u8>) -> bool {
    let (mut all, mut aside) = (Vec::new(), Aside::default());
    let mut vector = Vector::empty();
    for words in words.chunks(VECTOR_ROWS) {
        vector.fill(scale, words);
        aside.append(&vector.aside, all.len() as u64);
        all.extend_from_slice(&vector.integers[..words.len()]);
    }
    out.push(scale.power);
    out.push(scale.target as u8);
    aside.write(out);
    entropy::encode(&all, out)
}

/// Bytes of one vector of the column.
pub(super) fn estimate(scale: Scale, words: &[u64]) -> usize {
    let mut vector = Vector::empty();
    vector.fill(scale, words);
    vector.aside.estimate() + integers::estimate(&vector.integers[..words.len()])
}

/// Appends the wanted rows.
pub(super) fn decode(
    kind: Kind,
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let (target, quotient) = read_scale(kind, reader)?;
    let mut buffer = [0; VECTOR_ROWS];
    let mut aside = Aside::default();
    for (start, len) in vectors(count) {
        let wanted = overlap(rows, start, len);
        if wanted.is_empty() {
            Aside::skip(reader, len)?;
            integers::skip_vector(reader, len)?;
            continue;
        }
        aside.read(reader, len)?;
        let vector = &mut buffer[..len];
        integers::decode_vector(reader, vector)?;
        let before = out.len();
        quotient.extend(target, &vector[wanted.clone()], out);
        aside.put_back(&wanted, &mut out[before..]);
    }
    Ok(())
}

/// Appends the wanted rows of a column whose integers are entropy-coded.
pub(super) fn decode_dense(
    kind: Kind,
    reader: &mut Reader<'_>,
    count: usize,
    rows: &Range<usize>,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let (target, quotient) = read_scale(kind, reader)?;
    let mut aside = Aside::default();
    aside.read(reader, count)?;
    let before = out.len();
    entropy::for_each(reader, count, rows, |integers| {
        quotient.extend(target, integers, out);
        Ok(())
    })?;
    aside.put_back(rows, &mut out[before..]);
    Ok(())
}

/// Target and power of a column.
fn read_scale(kind: Kind, reader: &mut Reader<'_>) -> Result<(Target, Quotient), Malformed> {
    let power = reader.u8()?;
    let target = Target::read(reader.u8()?, kind)?;
    let divisor = Scale { target, power }.divisor();
    let divisor = divisor.ok_or(Malformed("decimals have too great a power of ten"))?;
    Ok((target, Quotient::new(divisor)))
}

/// Divides by a power of ten, by multiplication where that gives the same bits.
///
/// Multiplication is several times faster. It is right for integers `n` of magnitude up to 2^32 and divisors `d` up to
/// 10^5, and nowhere else is it used. With `near` = 1/d cut to 21 bits, and `far` = 1/d - `near` rounded:
/// * `n * near` is exact, since 32 and 21 bits make 53. `n * far` is off by a factor of 1 + 2^-52 at most, and is less
///   than 2^-20 of the whole. So what is rounded at the end, once, is off by less than 2^-72 of n/d.
/// * Rounding n/d gives another double only if the middle between two doubles, `m * 2^e` with odd `m` of 54 bits, lies
///   that near. It is not n/d itself: then n * 2^-e = m * d, so 2^-e would divide d and n/d would be 2^48 or more. Else
///   |n/d - m * 2^e| = 2^e * |n * 2^-e - m * d| / d with a whole number between the bars, hence at least 2^e / d. That is
///   more than 2^-54 / 10^5 > 2^-71 of n/d.
#[derive(Clone, Copy, Debug)]
struct Quotient {
    divisor: f64,
    near: f64,
    far: f64,
}

/// Greatest divisor that may be multiplied for.
const SHORT_DIVISOR_MAX: f64 = 1e5;
/// Greatest magnitude of an integer that may be multiplied.
const SHORT_INTEGER_MAX: u64 = 1 << 32;

impl Quotient {
    fn new(divisor: f64) -> Self {
        let near = f64::from_bits((1.0 / divisor).to_bits() >> 32 << 32);
        // The product has 38 bits at most, so the difference is exact.
        let far = (1.0 - near * divisor) / divisor;
        Self { divisor, near, far }
    }

    /// Whether all of these may be multiplied.
    fn suits(&self, integers: &[u64]) -> bool {
        let spread = integers.iter().fold(0, |all, n| all | n.wrapping_add(SHORT_INTEGER_MAX));
        self.divisor <= SHORT_DIVISOR_MAX && spread < 2 * SHORT_INTEGER_MAX
    }

    /// Appends the words of these integers.
    #[inline]
    fn extend(self, target: Target, integers: &[u64], out: &mut Vec<u64>) {
        let Self { divisor, near, far } = self;
        if self.suits(integers) {
            let multiply = |n: f64| n * near + n * far;
            put(target, integers, multiply, out);
        } else {
            put(target, integers, |n| n / divisor, out);
        }
    }
}

#[inline]
fn put(target: Target, integers: &[u64], value: impl Fn(f64) -> f64, out: &mut Vec<u64>) {
    let values = integers.iter().map(|&integer| value(float(integer)));
    match target {
        Target::Double => out.extend(values.map(f64::to_bits)),
        Target::Widened => out.extend(values.map(|v| f64::from(round_to_single(v)).to_bits())),
        Target::Single => out.extend(values.map(|v| u64::from(round_to_single(v).to_bits()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multiplied and divided, every integer gives the same bits: at both ends, around powers of two, next to the
    /// middles between doubles, and anywhere.
    #[test]
    fn multiplication_gives_the_bits_of_division() {
        let mut integers: Vec<i64> = (-70_000..70_000).collect();
        for bit in 0..=32 {
            integers.extend((-300..=300).map(|near| (1_i64 << bit) + near));
        }
        let mut noise = 7_u64;
        for _ in 0..200_000 {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            integers.push((noise >> 31).cast_signed() - (1 << 32));
        }
        integers.retain(|n| (-(1_i64 << 32)..1 << 32).contains(n));
        for (power, divisor) in (0..=5).zip(POWERS) {
            assert!(divisor <= SHORT_DIVISOR_MAX);
            // Integers whose quotient lies as near to a middle as any does: n * 2^k is half a unit off a multiple.
            let mut hard = Vec::new();
            for k in 1..54 {
                let modulus = 10_i64.pow(power);
                let twos = (0..k).fold(1_i64, |twos, _| twos * 2 % modulus);
                hard.extend((1..=modulus.min(400)).map(|i| (1_i64 << 32) - i).filter(|n| {
                    let rest = n % modulus * twos % modulus;
                    (2 * rest - modulus).abs() <= 2
                }));
            }
            let quotient = Quotient::new(divisor);
            for &n in integers.iter().chain(&hard) {
                let word = n.cast_unsigned();
                assert!(quotient.suits(&[word]), "{n}");
                let mut words = Vec::new();
                quotient.extend(Target::Double, &[word], &mut words);
                assert_eq!(words, [(n as f64 / divisor).to_bits()], "{n} / {divisor}");
            }
        }
        assert!(!Quotient::new(100.0).suits(&[(1 << 33) + 1]));
        assert!(!Quotient::new(100.0).suits(&[(-(1_i64 << 33)).cast_unsigned()]));
        assert!(!Quotient::new(1e6).suits(&[1]));
    }

    #[test]
    fn a_decimal_is_the_double_its_text_parses_to() {
        for (power, divisor) in POWERS.into_iter().enumerate() {
            assert_eq!(divisor.to_bits(), format!("1e{power}").parse::<f64>().unwrap().to_bits());
            for integer in [0_i64, 1, 7, 2_035, -99_999, 1_234_567_890_123, -(1 << 51), 1 << 51] {
                let text = format!("{integer}e-{power}");
                let want: f64 = text.parse().unwrap();
                assert_eq!(double(integer.cast_unsigned(), divisor), want.to_bits(), "{text}");
                let scale = Scale { target: Target::Double, power: u8::try_from(power).unwrap() };
                if integer.unsigned_abs() < 1 << 50 {
                    assert_eq!(
                        scale.integer(want.to_bits()),
                        Some(integer.cast_unsigned()),
                        "{text}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_division_cannot_give_has_no_integer() {
        let scale = Scale { target: Target::Double, power: 2 };
        for value in [-0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 5e-324, 1e300, 0.125] {
            assert_eq!(scale.integer(value.to_bits()), None, "{value}");
        }
        assert_eq!(scale.integer(0.0_f64.to_bits()), Some(0));
    }

    #[test]
    fn the_power_and_the_target_are_found() {
        let words = |f: fn(u32) -> f64| (0..500).map(|i| f(i).to_bits()).collect::<Vec<_>>();
        let scale = Scale::find(Kind::F64, &words(|i| f64::from(i * 7) / 100.0)).unwrap();
        assert_eq!((scale.target, scale.power), (Target::Double, 2));
        let scale = Scale::find(Kind::F64, &words(|i| f64::from(i as f32 / 1_000.0))).unwrap();
        assert_eq!((scale.target, scale.power), (Target::Widened, 3));
        let singles: Vec<u64> =
            (0..500_u16).map(|i| u64::from((f32::from(i) / 10.0).to_bits())).collect();
        let scale = Scale::find(Kind::F32, &singles).unwrap();
        assert_eq!((scale.target, scale.power), (Target::Single, 1));
        assert!(Scale::find(Kind::F64, &words(|i| f64::from(i).sqrt().sin())).is_none());
    }
}

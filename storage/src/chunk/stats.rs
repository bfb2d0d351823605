//! What is known of a chunk's values without decoding them.
//!
//! Every figure follows from the rows alone, in their order: computing it again gives the same bits.

use crate::quality::{Quality, Severity};
use crate::sample::f32_of;
use crate::tag::ValueType;

/// Statistics of consecutive samples. Extremes and ends are words of the samples' own type, so nothing is rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    /// Samples of Good quality.
    pub good: u32,
    /// Samples of Uncertain quality.
    pub uncertain: u32,
    /// Samples of Bad quality.
    pub bad: u32,
    /// Good samples that are NaN or infinite; the other Good ones are behind `min`, `max` and `sum`.
    pub non_finite: u32,
    /// Least Good finite value; 0 if there is none, and for text.
    pub min: u64,
    /// Greatest Good finite value; 0 if there is none, and for text.
    pub max: u64,
    /// Sum of the Good finite values, added in time order; exact before rounding for types that are not floats.
    pub sum: f64,
    /// Value of the first Good sample; 0 if there is none, and for text.
    pub first: u64,
    /// Value of the last Good sample; 0 if there is none, and for text.
    pub last: u64,
}

impl Statistics {
    /// Statistics of these rows. `words` is empty for text.
    pub(crate) fn of(value_type: ValueType, words: &[u64], qualities: &[u32]) -> Self {
        let mut statistics = Self::default();
        for quality in qualities {
            match Quality(*quality).severity() {
                Severity::Good => statistics.good += 1,
                Severity::Uncertain => statistics.uncertain += 1,
                Severity::Bad => statistics.bad += 1,
            }
        }
        if value_type == ValueType::Text {
            return statistics;
        }
        assert_eq!(words.len(), qualities.len(), "one quality per value");
        let is_good = |row: &usize| Quality(qualities[*row]).is_good();
        statistics.first = (0..words.len()).find(is_good).map_or(0, |row| words[row]);
        statistics.last = (0..words.len()).rev().find(is_good).map_or(0, |row| words[row]);
        match value_type {
            ValueType::F64 => statistics.add_floats(words, qualities, f64::from_bits),
            ValueType::F32 => statistics.add_floats(words, qualities, |w| f64::from(f32_of(w))),
            _ => statistics.add_integers(words, qualities),
        }
        statistics
    }

    fn add_floats(&mut self, words: &[u64], qualities: &[u32], value_of: impl Fn(u64) -> f64) {
        let (mut min, mut max) = (f64::INFINITY, f64::NEG_INFINITY);
        for (&word, &quality) in words.iter().zip(qualities) {
            if !Quality(quality).is_good() {
                continue;
            }
            let value = value_of(word);
            if !value.is_finite() {
                self.non_finite += 1;
                continue;
            }
            if value < min {
                (min, self.min) = (value, word);
            }
            if value > max {
                (max, self.max) = (value, word);
            }
            self.sum += value;
        }
    }

    /// i64 values, truth values and state codes: all order as `i64`, and their sum cannot overflow an `i128`.
    fn add_integers(&mut self, words: &[u64], qualities: &[u32]) {
        let (mut min, mut max, mut sum) = (i64::MAX, i64::MIN, 0_i128);
        for (&word, &quality) in words.iter().zip(qualities) {
            if Quality(quality).is_good() {
                let value = word as i64;
                min = min.min(value);
                max = max.max(value);
                sum += i128::from(value);
            }
        }
        if self.good > 0 {
            (self.min, self.max, self.sum) = (min.cast_unsigned(), max.cast_unsigned(), sum as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_floats(values: &[f64], qualities: &[Quality]) -> Statistics {
        let words: Vec<u64> = values.iter().map(|v| v.to_bits()).collect();
        let qualities: Vec<u32> = qualities.iter().map(|q| q.0).collect();
        Statistics::of(ValueType::F64, &words, &qualities)
    }

    #[test]
    fn only_good_finite_values_count() {
        let (good, bad, unsure) = (Quality::GOOD, Quality::BAD, Quality::UNCERTAIN);
        let values = [9.0, f64::NAN, 2.0, -1.0, f64::INFINITY, 7.0, 100.0];
        let statistics = of_floats(&values, &[bad, good, good, good, good, good, unsure]);
        assert_eq!((statistics.good, statistics.uncertain, statistics.bad), (5, 1, 1));
        assert_eq!(statistics.non_finite, 2);
        assert_eq!((statistics.min, statistics.max), ((-1.0_f64).to_bits(), 7_f64.to_bits()));
        assert_eq!(statistics.sum.to_bits(), 8_f64.to_bits());
        assert!(f64::from_bits(statistics.first).is_nan());
        assert_eq!(statistics.last, 7_f64.to_bits());
    }

    #[test]
    fn nothing_good_gives_zeros() {
        let want = Statistics { bad: 1, ..Statistics::default() };
        assert_eq!(of_floats(&[4.0], &[Quality::BAD]), want);
    }

    #[test]
    fn integers_keep_their_extremes() {
        let words = [i64::MIN, 5, i64::MAX, i64::MAX].map(i64::cast_unsigned);
        let statistics = Statistics::of(ValueType::I64, &words, &[0; 4]);
        assert_eq!((statistics.min as i64, statistics.max as i64), (i64::MIN, i64::MAX));
        let want = (i128::from(i64::MAX) + 4) as f64;
        assert_eq!(statistics.sum.to_bits(), want.to_bits());
    }

    #[test]
    fn infinities_alone_leave_no_extremes() {
        let statistics = of_floats(&[f64::INFINITY, f64::NEG_INFINITY], &[Quality::GOOD; 2]);
        assert_eq!((statistics.non_finite, statistics.min, statistics.max), (2, 0, 0));
        assert_eq!(statistics.sum.to_bits(), 0);
    }
}

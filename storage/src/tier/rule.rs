//! [`Rule`]: how a tag's samples are understood. It follows from the tag's attributes, and nothing of it is ever stored.

use crate::quality::{Quality, Severity};
use crate::sample::f32_of;
use crate::tag::{Tag, ValueType};

/// How a tag's samples are understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Whether a value holds until the next sample; else a straight line leads to it.
    pub stepped: bool,
    /// Whether samples of Uncertain quality are used by interval functions.
    pub uncertain_usable: bool,
    /// Between two samples that are farther apart nothing is held or drawn, and a counter's chain is broken.
    pub max_gap_ns: Option<i64>,
    /// Modulus of a counter.
    pub rollover: Option<f64>,
    /// How far a counter may fall back by noise.
    pub jitter: f64,
    /// Value a counter restarts from.
    pub reset_value: f64,
}

/// A sum in both kinds of numbers: exact for integers, truth values and states, whose `float` is not kept up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Amount {
    pub(crate) float: f64,
    pub(crate) int: i128,
}

impl Amount {
    /// Both added up.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { float: self.float + other.float, int: self.int + other.int }
    }

    /// What is left of it without the other.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self { float: self.float - other.float, int: self.int - other.int }
    }
}

impl Rule {
    /// The rule of a tag.
    pub fn of(tag: &Tag) -> Self {
        let attributes = &tag.attributes;
        Self {
            stepped: tag.is_stepped(),
            uncertain_usable: attributes.uncertain_usable.unwrap_or(false),
            max_gap_ns: attributes.max_gap_ns,
            rollover: attributes.rollover,
            jitter: attributes.jitter.unwrap_or(0.0),
            reset_value: attributes.reset_value.unwrap_or(0.0),
        }
    }

    /// Whether interval functions use a sample: it is finite, and Good, or Uncertain where the tag permits that.
    pub fn is_usable(&self, value_type: ValueType, word: u64, quality: Quality) -> bool {
        self.takes(quality) && is_finite(value_type, word)
    }

    /// Whether they use samples of this quality.
    pub(crate) fn takes(&self, quality: Quality) -> bool {
        match quality.severity() {
            Severity::Good => true,
            Severity::Uncertain => self.uncertain_usable,
            Severity::Bad => false,
        }
    }

    /// Whether something is held or drawn between two samples so far apart.
    pub fn bridges(&self, distance_ns: i64) -> bool {
        self.max_gap_ns.is_none_or(|max_gap_ns| distance_ns <= max_gap_ns)
    }

    /// What a counter's step from `before` to `after` adds. `None` if it fell by no more than noise: then `before` is still
    /// what the next value is compared with.
    pub(crate) fn step(&self, value_type: ValueType, before: u64, after: u64) -> Option<Amount> {
        if !is_float(value_type) {
            let int = self.step_int(i128::from(before as i64), i128::from(after as i64))?;
            return Some(Amount { float: 0.0, int });
        }
        let (before, after) = (value_of(value_type, before), value_of(value_type, after));
        let by = after - before;
        let float = match self.rollover {
            _ if by >= 0.0 => by,
            Some(modulus) if -by > modulus / 2.0 => by + modulus,
            _ if -by <= self.jitter => return None,
            _ => after - self.reset_value,
        };
        Some(Amount { float, int: 0 })
    }

    /// Whether `word` lies above `first` by more than a counter may fall back by noise.
    pub(crate) fn is_beyond(&self, value_type: ValueType, first: u64, word: u64) -> bool {
        if is_float(value_type) {
            return value_of(value_type, word) - value_of(value_type, first) > self.jitter;
        }
        i128::from(word as i64) - i128::from(first as i64) > whole(self.jitter.floor())
    }

    fn step_int(&self, before: i128, after: i128) -> Option<i128> {
        let by = after - before;
        Some(match self.rollover.map(whole) {
            _ if by >= 0 => by,
            Some(modulus) if -by * 2 > modulus => by + modulus,
            _ if -by <= whole(self.jitter.floor()) => return None,
            _ => after - whole(self.reset_value),
        })
    }
}

/// The nearest integer.
#[expect(clippy::cast_possible_truncation, reason = "it is rounded, and far beyond i64 it stops")]
fn whole(value: f64) -> i128 {
    value.round().clamp(-1e30, 1e30) as i128
}

/// Whether values of this type are floats.
pub(crate) const fn is_float(value_type: ValueType) -> bool {
    matches!(value_type, ValueType::F64 | ValueType::F32)
}

/// Whether a word of this type is neither NaN nor infinite.
pub(crate) fn is_finite(value_type: ValueType, word: u64) -> bool {
    !is_float(value_type) || value_of(value_type, word).is_finite()
}

/// The number a word stands for; 0 for text.
pub(crate) fn value_of(value_type: ValueType, word: u64) -> f64 {
    match value_type {
        ValueType::F64 => f64::from_bits(word),
        ValueType::F32 => f64::from(f32_of(word)),
        ValueType::Text => 0.0,
        ValueType::I64 | ValueType::Bool | ValueType::State => word as i64 as f64,
    }
}

/// Whether the value of `a` is below that of `b`: exact for integers.
pub(crate) fn is_below(value_type: ValueType, a: u64, b: u64) -> bool {
    if is_float(value_type) {
        value_of(value_type, a) < value_of(value_type, b)
    } else {
        (a as i64) < (b as i64)
    }
}

/// Whether two words are different values: zeros of either sign are one.
#[expect(clippy::float_cmp, reason = "whether a value changed at all is the question")]
pub(crate) fn differs(value_type: ValueType, a: u64, b: u64) -> bool {
    if is_float(value_type) { value_of(value_type, a) != value_of(value_type, b) } else { a != b }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(rollover: Option<f64>, jitter: f64, reset_value: f64) -> Rule {
        let (stepped, uncertain_usable, max_gap_ns) = (true, false, None);
        Rule { stepped, uncertain_usable, max_gap_ns, rollover, jitter, reset_value }
    }

    #[test]
    fn steps_of_a_counter_are_those_of_the_rule_book() {
        let step = |rule: &Rule, a: f64, b: f64| {
            let float = rule.step(ValueType::F64, a.to_bits(), b.to_bits()).map(|by| by.float);
            let [a, b] = [a, b].map(|value| i64::try_from(whole(value)).unwrap());
            let int = rule.step(ValueType::I64, a.cast_unsigned(), b.cast_unsigned());
            assert_eq!(int.map(|by| by.int), float.map(whole), "{a} to {b}");
            float
        };
        let plain = counter(None, 0.0, 0.0);
        assert_eq!(step(&plain, 3.0, 7.0), Some(4.0));
        assert_eq!(step(&plain, 7.0, 3.0), Some(3.0), "a reset");
        assert_eq!(step(&counter(None, 0.0, 1.0), 7.0, 3.0), Some(2.0), "a reset to 1");
        let wheel = counter(Some(10_000.0), 2.0, 0.0);
        assert_eq!(step(&wheel, 9_990.0, 5.0), Some(15.0), "a rollover");
        assert_eq!(step(&wheel, 9_990.0, 9_988.0), None, "noise");
        assert_eq!(step(&wheel, 9_990.0, 9_987.0), Some(9_987.0), "a reset, not a rollover");
        assert_eq!(step(&wheel, 5_000.0, 0.0), Some(0.0), "just half is no rollover");
    }

    #[test]
    fn integers_are_exact_beyond_what_floats_hold() {
        let (a, b) = ((1_u64 << 60) + 1, (1_u64 << 60) + 4);
        assert_eq!(counter(None, 0.0, 0.0).step(ValueType::I64, a, b).unwrap().int, 3);
        let ends = counter(None, 0.0, 0.0);
        let (least, most) = (i64::MIN.cast_unsigned(), i64::MAX.cast_unsigned());
        assert_eq!(ends.step(ValueType::I64, least, most).unwrap().int, (1 << 64) - 1);
    }
}

//! What a counter has counted: differences of consecutive usable samples, over its rollover, jitter and resets.
//!
//! # Contract
//! * A difference belongs to the later of its two samples.
//! * Integers are subtracted as integers: counters beyond 2^53 lose nothing. Modulus and reset value of such a tag are then
//!   the nearest integers, as they are in rollups.
//! * A distance in time above the tag's `max_gap` begins a new chain, which adds nothing by itself.

use tagmill_storage::{Rule, ValueType};

use super::fold::number;

/// What was counted: whole numbers exactly, others in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gain {
    pub(crate) whole: i128,
    pub(crate) real: f64,
}

impl Gain {
    const fn whole(whole: i128) -> Self {
        Self { whole, real: 0.0 }
    }

    const fn real(real: f64) -> Self {
        Self { whole: 0, real }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.whole = self.whole.saturating_add(other.whole);
        self.real += other.real;
    }

    /// As one number.
    pub(crate) fn value(self) -> f64 {
        self.whole as f64 + self.real
    }
}

/// The sample that the next one is compared with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain {
    kept: Option<Kept>,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    time_ns: i64,
    word: u64,
}

impl Chain {
    /// Begins at a sample that adds nothing: the last usable one before an interval.
    pub(crate) fn begin(&mut self, time_ns: i64, word: u64) {
        self.kept = Some(Kept { time_ns, word });
    }

    /// Takes the next usable sample and says what it adds.
    pub(crate) fn step(
        &mut self,
        rule: &Rule,
        value_type: ValueType,
        time_ns: i64,
        word: u64,
    ) -> Gain {
        let Some(kept) = self.kept.replace(Kept { time_ns, word }) else { return Gain::default() };
        let apart_ns = time_ns.saturating_sub(kept.time_ns);
        if rule.max_gap_ns.is_some_and(|most_ns| apart_ns > most_ns) {
            return Gain::default();
        }
        let step = match value_type {
            ValueType::I64 | ValueType::Bool | ValueType::State => {
                whole_step(rule, kept.word, word)
            }
            ValueType::F64 | ValueType::F32 => {
                real_step(rule, number(value_type, kept.word), number(value_type, word))
            }
            ValueType::Text => return Gain::default(),
        };
        step.unwrap_or_else(|| {
            // Noise: the higher value stays the one to compare with.
            self.kept = Some(Kept { time_ns, word: kept.word });
            Gain::default()
        })
    }
}

/// What a step from one integer to the next adds; nothing at all if it is noise.
fn whole_step(rule: &Rule, from: u64, to: u64) -> Option<Gain> {
    let to = i128::from(to.cast_signed());
    let step = to - i128::from(from.cast_signed());
    Some(Gain::whole(match rule.rollover.map(nearest) {
        _ if step >= 0 => step,
        Some(modulus) if -2 * step > modulus => step + modulus,
        _ if -step <= nearest(rule.jitter.floor()) => return None,
        _ => to - nearest(rule.reset_value),
    }))
}

fn real_step(rule: &Rule, from: f64, to: f64) -> Option<Gain> {
    let step = to - from;
    if step >= 0.0 {
        return Some(Gain::real(step));
    }
    if let Some(modulus) = rule.rollover.filter(|modulus| -step > modulus / 2.0) {
        return Some(Gain::real(step + modulus));
    }
    if -step <= rule.jitter {
        return None;
    }
    Some(Gain::real(to - rule.reset_value))
}

/// The nearest integer.
#[expect(clippy::cast_possible_truncation, reason = "it is rounded, and far beyond i64 it stops")]
fn nearest(number: f64) -> i128 {
    number.round().clamp(-1e30, 1e30) as i128
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Rule = Rule {
        stepped: true,
        uncertain_usable: false,
        max_gap_ns: None,
        rollover: None,
        jitter: 0.0,
        reset_value: 0.0,
    };

    fn counted(rule: &Rule, samples: &[(i64, i64)]) -> Gain {
        let (mut chain, mut sum) = (Chain::default(), Gain::default());
        for &(time_ns, value) in samples {
            sum.add(chain.step(rule, ValueType::I64, time_ns, value.cast_unsigned()));
        }
        sum
    }

    fn counted_real(rule: &Rule, samples: &[f64]) -> f64 {
        let (mut chain, mut sum) = (Chain::default(), Gain::default());
        for (time_ns, value) in (0..).zip(samples) {
            sum.add(chain.step(rule, ValueType::F64, time_ns, value.to_bits()));
        }
        sum.value()
    }

    #[test]
    fn rollover_jitter_and_reset_by_hand() {
        let meter = Rule { rollover: Some(10_000.0), jitter: 5.0, reset_value: 3.0, ..PLAIN };
        for (rule, values, want) in [
            (PLAIN, vec![10, 12, 12, 20], 10),
            // A reset restarts from 0: 7 was counted since.
            (PLAIN, vec![10, 20, 7, 8], 18),
            // 9998 to 4 is 6 over the modulus.
            (meter.clone(), vec![9_990, 9_998, 4], 14),
            // Back by 4 is noise: 96 counts from 100 on, so 103 adds 3 only.
            (meter.clone(), vec![90, 100, 96, 103], 13),
            (meter.clone(), vec![100, 96, 98, 95, 100], 0),
            // Back by 40 is neither: a reset to 3, 57 since.
            (meter.clone(), vec![100, 60], 57),
            // Exactly half of the modulus is a reset, more is a rollover.
            (meter.clone(), vec![5_010, 10], 7),
            (meter.clone(), vec![5_011, 10], 4_999),
        ] {
            let samples: Vec<(i64, i64)> = (0..).zip(values.iter().copied()).collect();
            assert_eq!(counted(&rule, &samples), Gain::whole(want), "{values:?}");
            let reals: Vec<f64> = values.iter().map(|&value| value as f64).collect();
            let off = counted_real(&rule, &reals) - want as f64;
            assert!(off.abs() <= 0.0, "{values:?}");
        }
    }

    #[test]
    fn integers_beyond_the_precision_of_floats_count_exactly() {
        let big = (1_i64 << 53) + 1;
        assert_eq!(counted(&PLAIN, &[(0, big), (1, big + 2), (2, big + 3)]), Gain::whole(3));
        let ends = [(0, i64::MIN), (1, i64::MAX)];
        assert_eq!(counted(&PLAIN, &ends), Gain::whole((1_i128 << 64) - 1));
    }

    #[test]
    fn attributes_of_integers_are_whole_numbers() {
        let odd = Rule { rollover: Some(99.5), jitter: 3.75, reset_value: 0.75, ..PLAIN };
        assert_eq!(counted(&odd, &[(0, 98), (1, 2)]), Gain::whole(4));
        assert_eq!(counted(&odd, &[(0, 40), (1, 37), (2, 30)]), Gain::whole(29));
    }

    #[test]
    fn a_long_silence_begins_anew() {
        let rule = Rule { max_gap_ns: Some(10), ..PLAIN };
        assert_eq!(counted(&rule, &[(0, 1), (10, 2), (21, 50), (22, 51)]), Gain::whole(2));
    }
}

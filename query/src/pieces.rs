//! What holds between two samples: arithmetic of times and numbers, no SQL.
//!
//! # Contract
//! * A piece runs from a usable sample to the next sample of any quality. If that one is usable, a stepped tag holds its
//!   value up to it and a sloped one draws a line; if it is not, either holds.
//! * Between two samples farther apart than the tag's maximum gap there is no piece.
//! * After the last sample its value is held up to a horizon, at most for the maximum gap.
//!
//! Everything that reads a value at a time ([`known_at`]) or over a stretch ([`piece_of`]) comes from here: table functions,
//! `value_at` and the interval functions.

use tagmill_storage::Rule;

/// A usable sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) time_ns: i64,
    pub(crate) value: f64,
}

/// The sample that follows a usable one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Next {
    pub(crate) time_ns: i64,
    /// Its value, if it is usable.
    pub(crate) value: Option<f64>,
}

/// A stretch over which a value is known: `start_ns <= t < end_ns`, on a line that begins at `from` and would reach `to`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) start_ns: i64,
    pub(crate) end_ns: i64,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// What is known of a tag at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Known {
    /// No usable sample at or before it, or none after it and it lies in the future.
    Nothing,
    /// An unusable sample lies between it and the last usable one.
    Broken,
    /// The samples around it are too far apart.
    Apart,
    /// The value of the last usable sample.
    Held,
    /// A value on the line to the next sample.
    Drawn(f64),
}

/// The piece from a usable sample to the `next` one, or without one up to the horizon.
pub(crate) fn piece_of(
    rule: &Rule,
    from: Point,
    next: Option<Next>,
    horizon_ns: i64,
) -> Option<Piece> {
    let (end_ns, to) = match next {
        Some(next) if !is_joined(rule, from.time_ns, next.time_ns) => return None,
        Some(next) => (next.time_ns, next.value.filter(|_| !rule.stepped)),
        None => {
            let held_ns = rule.max_gap_ns.map(|most| from.time_ns.saturating_add(most));
            (held_ns.unwrap_or(i64::MAX).min(horizon_ns), None)
        }
    };
    let to = to.unwrap_or(from.value);
    let piece = Piece { start_ns: from.time_ns, end_ns, from: from.value, to };
    (from.time_ns < end_ns).then_some(piece)
}

/// Whether anything is held or drawn between two samples.
fn is_joined(rule: &Rule, from_ns: i64, to_ns: i64) -> bool {
    rule.bridges(to_ns.saturating_sub(from_ns))
}

impl Piece {
    /// The value at an instant of the piece, or at its end.
    pub(crate) fn value_at(&self, at_ns: i64) -> f64 {
        if self.is_flat() || at_ns <= self.start_ns {
            return self.from;
        }
        if at_ns >= self.end_ns {
            return self.to;
        }
        let share = length(self.start_ns, at_ns) / length(self.start_ns, self.end_ns);
        let rise = self.to - self.from;
        let value = if rise.is_finite() {
            self.from + rise * share
        } else {
            self.from * (1.0 - share) + self.to * share
        };
        // Rounding must not leave the two samples.
        value.clamp(self.from.min(self.to), self.from.max(self.to))
    }

    /// The part of the piece inside `start_ns <= t < end_ns`.
    pub(crate) fn cut(&self, start_ns: i64, end_ns: i64) -> Option<Self> {
        let (start, end) = (self.start_ns.max(start_ns), self.end_ns.min(end_ns));
        let (from, to) = (self.value_at(start), self.value_at(end));
        (start < end).then_some(Self { start_ns: start, end_ns: end, from, to })
    }

    /// Whether one value holds.
    pub(crate) fn is_flat(&self) -> bool {
        self.from.to_bits() == self.to.to_bits()
    }

    /// Its length.
    pub(crate) fn covered_ns(&self) -> f64 {
        length(self.start_ns, self.end_ns)
    }

    /// Value times nanoseconds.
    pub(crate) fn integral(&self) -> f64 {
        // Half of each first: the sum of two great values may be none.
        (self.from / 2.0 + self.to / 2.0) * self.covered_ns()
    }
}

/// What is known at `at_ns`, from the last usable sample at or before it, whether an unusable one came after that one
/// (`broken`), the first sample after, and the statement's now.
pub(crate) fn known_at(
    rule: &Rule,
    at_ns: i64,
    before: Option<Point>,
    broken: bool,
    next: Option<Next>,
    now_ns: i64,
) -> Known {
    let Some(before) = before else { return Known::Nothing };
    if broken {
        return Known::Broken;
    }
    if before.time_ns == at_ns {
        return Known::Held;
    }
    let Some(next) = next else {
        return if at_ns > now_ns {
            Known::Nothing
        } else if is_joined(rule, before.time_ns, at_ns) {
            Known::Held
        } else {
            Known::Apart
        };
    };
    match piece_of(rule, before, Some(next), next.time_ns) {
        None => Known::Apart,
        Some(_) if rule.stepped || next.value.is_none() => Known::Held,
        Some(piece) => Known::Drawn(piece.value_at(at_ns)),
    }
}

fn length(start_ns: i64, end_ns: i64) -> f64 {
    end_ns.saturating_sub(start_ns) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;

    const SLOPED: Rule = Rule {
        stepped: false,
        uncertain_usable: false,
        max_gap_ns: None,
        rollover: None,
        jitter: 0.0,
        reset_value: 0.0,
    };

    fn point(time_ns: i64, value: f64) -> Point {
        Point { time_ns, value }
    }

    fn next(time_ns: i64, value: f64) -> Option<Next> {
        (time_ns > 0).then_some(Next { time_ns, value: Some(value).filter(|v| v.is_finite()) })
    }

    #[test]
    fn a_sloped_tag_draws_and_a_stepped_one_holds() {
        let at = |rule: &Rule, next| known_at(rule, 15, Some(point(10, 1.0)), false, next, 100);
        let stepped = Rule { stepped: true, ..SLOPED };
        assert_eq!(at(&SLOPED, next(20, 3.0)), Known::Drawn(2.0));
        assert_eq!(at(&stepped, next(20, 3.0)), Known::Held);
        assert_eq!(at(&SLOPED, next(20, f64::NAN)), Known::Held);
        assert_eq!(at(&SLOPED, None), Known::Held);
        assert_eq!(known_at(&SLOPED, 15, None, false, next(20, 3.0), 100), Known::Nothing);
        assert_eq!(known_at(&SLOPED, 15, Some(point(10, 1.0)), true, None, 100), Known::Broken);
    }

    #[test]
    fn nothing_is_held_into_the_future_or_over_a_gap() {
        let before = Some(point(10, 1.0));
        assert_eq!(known_at(&SLOPED, 100, before, false, None, 100), Known::Held);
        assert_eq!(known_at(&SLOPED, 101, before, false, None, 100), Known::Nothing);
        assert_eq!(known_at(&SLOPED, 60, before, false, next(110, 2.0), 50), Known::Drawn(1.5));
        let short = Rule { max_gap_ns: Some(5), ..SLOPED };
        assert_eq!(known_at(&short, 15, before, false, None, 100), Known::Held);
        assert_eq!(known_at(&short, 16, before, false, None, 100), Known::Apart);
        assert_eq!(known_at(&short, 12, before, false, next(15, 2.0), 100), Known::Drawn(1.4));
        assert_eq!(known_at(&short, 12, before, false, next(16, 2.0), 100), Known::Apart);
        assert_eq!(piece_of(&short, point(10, 1.0), None, 12).map(|piece| piece.end_ns), Some(12));
        assert_eq!(piece_of(&short, point(10, 1.0), None, 90).map(|piece| piece.end_ns), Some(15));
        assert_eq!(piece_of(&short, point(10, 1.0), None, 10), None);
    }

    #[test]
    fn great_values_do_not_overflow() {
        let piece = Piece { start_ns: 0, end_ns: 4, from: -f64::MAX, to: f64::MAX };
        assert_eq!(piece.value_at(2).to_bits(), 0.0_f64.to_bits());
        assert_eq!(piece.integral().to_bits(), 0.0_f64.to_bits());
        let flat = Piece { from: f64::MAX, ..piece };
        assert_eq!(flat.value_at(1).to_bits(), f64::MAX.to_bits());
        assert_eq!(flat.integral().to_bits(), f64::INFINITY.to_bits());
    }

    /// Cutting a piece anywhere changes neither its values nor its integral.
    #[test]
    fn cuts_add_up() {
        let mut random = Random::new(1);
        for _ in 0..500 {
            let start = random.below(2_000).cast_signed() - 1_000;
            let length = 1 + random.below(1_000).cast_signed();
            let mut number = || random.below(2_000) as f64 / 8.0 - 125.0;
            let (from, to) = (number(), number());
            let piece = Piece { start_ns: start, end_ns: start + length, from, to };
            let at = start + random.below(1_000).cast_signed() % length;
            let left = piece.cut(i64::MIN, at).map_or(0.0, |part| part.integral());
            let right = piece.cut(at, i64::MAX).map_or(0.0, |part| part.integral());
            assert!((left + right - piece.integral()).abs() < 1e-6, "{piece:?} at {at}");
            let value = piece.value_at(at);
            assert!(from.min(to) <= value && value <= from.max(to), "{piece:?} at {at}");
            let exact = from + (to - from) * (at - start) as f64 / length as f64;
            assert!((value - exact).abs() < 1e-9, "{piece:?} at {at}");
        }
    }
}

//! Conditions such as `> 80`, and when they come and go along a piece: arithmetic of times and numbers, no SQL.
//!
//! With a hysteresis a condition that holds ends only when the value is back by that much: `> 80` with 2 begins above 80
//! and ends at 78. On a drawn line both happen where the line crosses.

use crate::pieces::Piece;

/// What is asked of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition {
    /// On one side of a limit.
    Beyond { side: Side, limit: f64, inclusive: bool, hysteresis: f64 },
    /// Equal to a number, or not. A sloping line is equal to none.
    Equal { number: f64, wanted: bool },
}

/// A side of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Above,
    Below,
}

/// A sign and what follows it, as a condition is written.
pub(crate) fn split(text: &str) -> Option<(&'static str, &str)> {
    let text = text.trim();
    // Longer signs first: `>=` begins with `>`.
    let sign = [">=", "<=", "<>", "!=", ">", "<", "="].into_iter().find(|s| text.starts_with(s))?;
    let rest = text[sign.len()..].trim();
    (!rest.is_empty()).then_some((sign, rest))
}

impl Condition {
    /// The condition that `sign` makes of a number.
    pub(crate) fn of(sign: &str, number: f64, hysteresis: f64) -> Option<Self> {
        let beyond = |side, inclusive| Self::Beyond { side, limit: number, inclusive, hysteresis };
        Some(match sign {
            ">" => beyond(Side::Above, false),
            ">=" => beyond(Side::Above, true),
            "<" => beyond(Side::Below, false),
            "<=" => beyond(Side::Below, true),
            "=" => Self::Equal { number, wanted: true },
            "<>" | "!=" => Self::Equal { number, wanted: false },
            _ => return None,
        })
    }

    /// Whether it holds at a value; `open` says whether it held right before.
    #[expect(clippy::float_cmp, reason = "a condition says which value it means")]
    fn holds(&self, value: f64, open: bool) -> bool {
        let (value, limit, inclusive) = match *self {
            Self::Equal { number, wanted } => return (value == number) == wanted,
            Self::Beyond { side: Side::Above, limit, inclusive, hysteresis } => {
                (value, if open { limit - hysteresis } else { limit }, inclusive)
            }
            // Mirrored, so that there is one case.
            Self::Beyond { side: Side::Below, limit, inclusive, hysteresis } => {
                (-value, -(if open { limit + hysteresis } else { limit }), inclusive)
            }
        };
        value > limit || (inclusive && value == limit)
    }

    /// When it changes along a piece: calls `change` with each instant from which on it holds or no longer does. `open`
    /// says whether it held right before the piece; whether it holds at the end is returned.
    pub(crate) fn follow(
        &self,
        piece: &Piece,
        open: bool,
        mut change: impl FnMut(i64, bool),
    ) -> bool {
        let mut open = open;
        let mut turn = |at_ns: i64, holds: bool, open: &mut bool| {
            if holds != *open {
                *open = holds;
                change(at_ns, holds);
            }
        };
        let Self::Beyond { side, limit, hysteresis, .. } = *self else {
            let &Self::Equal { wanted, .. } = self else { return open };
            let holds = if piece.is_flat() { self.holds(piece.from, open) } else { !wanted };
            turn(piece.start_ns, holds, &mut open);
            return open;
        };
        turn(piece.start_ns, self.holds(piece.from, open), &mut open);
        // A line goes one way, so along it there is at most one change.
        let holds = self.holds(piece.to, open);
        if !piece.is_flat() && holds != open {
            let level = match (open, side) {
                (false, _) => limit,
                (true, Side::Above) => limit - hysteresis,
                (true, Side::Below) => limit + hysteresis,
            };
            turn(crossing_ns(piece, level), holds, &mut open);
        }
        open
    }
}

/// When the line of a piece is at `level`, which lies between its ends.
fn crossing_ns(piece: &Piece, level: f64) -> i64 {
    // Halves, because the difference of two great values may be none.
    let rise = piece.to / 2.0 - piece.from / 2.0;
    let share = ((level / 2.0 - piece.from / 2.0) / rise).clamp(0.0, 1.0);
    let after = (share * piece.covered_ns()).round();
    let length = piece.end_ns - piece.start_ns;
    #[expect(clippy::cast_possible_truncation, reason = "a share of the length, which is an i64")]
    let after_ns = (after as i64).clamp(0, length);
    piece.start_ns + after_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;

    fn changes(condition: &Condition, piece: Piece, open: bool) -> Vec<(i64, bool)> {
        let mut all = Vec::new();
        condition.follow(&piece, open, |at_ns, holds| all.push((at_ns, holds)));
        all
    }

    fn line(from: f64, to: f64) -> Piece {
        Piece { start_ns: 0, end_ns: 100, from, to }
    }

    #[test]
    fn reads_signs() {
        assert_eq!(split("> 80"), Some((">", "80")));
        assert_eq!(split(">=80"), Some((">=", "80")));
        assert_eq!(split(" <> RUN "), Some(("<>", "RUN")));
        assert_eq!(split("80"), None);
        assert_eq!(split(">"), None);
    }

    #[test]
    fn crosses_where_the_line_does() {
        let above = Condition::of(">", 80.0, 2.0).unwrap();
        assert_eq!(changes(&above, line(70.0, 90.0), false), [(50, true)]);
        assert_eq!(changes(&above, line(90.0, 70.0), true), [(60, false)]);
        assert_eq!(changes(&above, line(90.0, 70.0), false), [(0, true), (60, false)]);
        assert_eq!(changes(&above, line(90.0, 79.0), true), []);
        assert_eq!(changes(&above, line(70.0, 90.0), true), [(0, false), (50, true)]);
        assert_eq!(changes(&above, line(80.0, 80.0), false), []);
        let from = Condition::of(">=", 80.0, 0.0).unwrap();
        assert_eq!(changes(&from, line(80.0, 80.0), false), [(0, true)]);
        let below = Condition::of("<", 10.0, 1.0).unwrap();
        assert_eq!(changes(&below, line(20.0, 0.0), false), [(50, true)]);
        assert_eq!(changes(&below, line(1.0, 21.0), true), [(50, false)]);
    }

    #[test]
    fn a_sloping_line_equals_nothing() {
        let equal = Condition::of("=", 80.0, 0.0).unwrap();
        assert_eq!(changes(&equal, line(80.0, 80.0), false), [(0, true)]);
        assert_eq!(changes(&equal, line(70.0, 90.0), true), [(0, false)]);
        let other = Condition::of("<>", 80.0, 0.0).unwrap();
        assert_eq!(changes(&other, line(70.0, 90.0), false), [(0, true)]);
        assert_eq!(changes(&other, line(80.0, 80.0), true), [(0, false)]);
    }

    /// Walking the line nanosecond by nanosecond changes state within one of where it is said to.
    #[test]
    fn changes_where_a_walk_does() {
        let mut random = Random::new(3);
        for _ in 0..2_000 {
            let mut number = |span: u64| random.below(span) as f64 - (span / 2) as f64;
            let (from, to, limit) = (number(100), number(100), number(100));
            let sign = [">", ">=", "<", "<="][random.index(4)];
            let condition = Condition::of(sign, limit, random.below(5) as f64).unwrap();
            let (piece, open) = (line(from, to), random.once_in(2));
            let said = changes(&condition, piece, open);
            let mut state = open;
            let mut walked = Vec::new();
            for at in 0..=100 {
                let holds = condition.holds(piece.value_at(at), state);
                if holds != state {
                    state = holds;
                    walked.push((at, holds));
                }
            }
            assert_eq!(said.len(), walked.len(), "{said:?} {walked:?}");
            for (a, b) in said.iter().zip(&walked) {
                assert_eq!(a.1, b.1, "{said:?} {walked:?}");
                assert!((a.0 - b.0).abs() <= 1, "{said:?} {walked:?}");
            }
        }
    }
}

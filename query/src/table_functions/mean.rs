//! Time-weighted means of neighbouring windows: arithmetic of times and numbers, no SQL.
//!
//! A mean is the integral over the pieces in a window by their length there; without a piece there is none.

use crate::pieces::Piece;

/// Means of windows that follow one another, fed with ascending pieces.
#[derive(Debug)]
pub(crate) struct Mean {
    /// Starts of the windows, and the end of the last.
    edges: Vec<i64>,
    /// Integral and covered nanoseconds of each window.
    sums: Vec<(f64, f64)>,
}

impl Mean {
    /// Windows that start at the ascending `starts`, the last one ending at `end_ns`.
    pub(crate) fn new(starts: &[i64], end_ns: i64) -> Self {
        let edges = starts.iter().copied().chain([end_ns]).collect();
        Self { edges, sums: vec![(0.0, 0.0); starts.len()] }
    }

    /// Takes a piece into the windows it touches.
    pub(crate) fn add(&mut self, piece: &Piece) {
        let first = self.edges.partition_point(|&edge| edge <= piece.start_ns).saturating_sub(1);
        let windows = self.edges.windows(2).zip(&mut self.sums).skip(first);
        for (edges, (integral, covered)) in windows {
            let &[start_ns, end_ns] = edges else { continue };
            if start_ns >= piece.end_ns {
                return;
            }
            if let Some(part) = piece.cut(start_ns, end_ns) {
                *integral += part.integral();
                *covered += part.covered_ns();
            }
        }
    }

    /// The mean of each window.
    pub(crate) fn values(&self) -> impl Iterator<Item = Option<f64>> + '_ {
        self.sums.iter().map(|&(integral, covered)| (covered > 0.0).then(|| integral / covered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tagmill_storage::disk::sim::Random;

    #[test]
    fn a_piece_counts_in_every_window_it_touches() {
        let mut mean = Mean::new(&[0, 10, 20], 30);
        mean.add(&Piece { start_ns: -5, end_ns: 15, from: 0.0, to: 20.0 });
        mean.add(&Piece { start_ns: 15, end_ns: 20, from: 2.0, to: 2.0 });
        let want = [Some(10.0), Some((17.5 * 5.0 + 2.0 * 5.0) / 10.0), None];
        assert_eq!(mean.values().collect::<Vec<_>>(), want);
    }

    /// The mean is that of the values at every nanosecond, as far as there are any.
    #[test]
    fn equals_the_mean_of_every_nanosecond() {
        let mut random = Random::new(2);
        for _ in 0..200 {
            let mut at = -20;
            let mut pieces = Vec::new();
            for _ in 0..random.below(12) {
                let length = 1 + random.below(40).cast_signed();
                let mut number = || random.below(18) as f64 - 9.0;
                let (from, to) = (number(), number());
                if random.once_in(2) {
                    pieces.push(Piece { start_ns: at, end_ns: at + length, from, to });
                }
                at += length;
            }
            let width = 1 + random.below(50).cast_signed();
            let starts: Vec<i64> = (0..6).map(|index| index * width).collect();
            let mut mean = Mean::new(&starts, 6 * width);
            for piece in &pieces {
                mean.add(piece);
            }
            for (start, value) in starts.iter().zip(mean.values()) {
                // The line at the middle of a nanosecond is its mean over it.
                let middle = |at: i64| {
                    let piece = pieces.iter().find(|p| p.start_ns <= at && at < p.end_ns)?;
                    Some(f64::midpoint(piece.value_at(at), piece.value_at(at + 1)))
                };
                let known: Vec<f64> = (*start..start + width).filter_map(middle).collect();
                match value {
                    None => assert!(known.is_empty(), "{pieces:?}"),
                    Some(value) => {
                        let naive = known.iter().sum::<f64>() / known.len() as f64;
                        assert!((value - naive).abs() < 1e-9, "{value} is not {naive}: {pieces:?}");
                    }
                }
            }
        }
    }
}

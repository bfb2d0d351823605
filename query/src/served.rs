//! Where windows of time came from, as EXPLAIN and EXPLAIN ANALYZE say it.
//!
//! # Contract
//! What EXPLAIN names is the coarsest tier that windows of this shape can be made of. Which tier answers each of them is
//! decided while reading; EXPLAIN ANALYZE counts that.

use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use tagmill_storage::{DAY_NS, RollupWindows, SECOND_NS, Served};

/// What EXPLAIN says where samples answer.
pub(crate) const RAW: &str = "raw";

/// Tiers and the widths of their windows, the coarsest first.
const TIERS: [(&str, i64); 4] =
    [("1d", DAY_NS), ("1h", 3_600 * SECOND_NS), ("15m", 900 * SECOND_NS), ("1m", 60 * SECOND_NS)];

/// The coarsest tier that has a whole row inside of some window.
pub(crate) fn coarsest_tier(windows: &RollupWindows) -> &'static str {
    let fits = |width_ns: i64| match windows {
        RollupWindows::Even { origin_ns, width_ns: window_ns, .. } => {
            window_ns % width_ns == 0 && origin_ns % width_ns == 0
        }
        RollupWindows::Each(windows) => windows.iter().any(|window| {
            let behind = window.start_ns.rem_euclid(width_ns);
            let ahead = if behind == 0 { 0 } else { width_ns - behind };
            window.end_ns.saturating_sub(window.start_ns).saturating_sub(ahead) >= width_ns
        }),
    };
    TIERS.iter().find(|(_, width_ns)| fits(*width_ns)).map_or(RAW, |(name, _)| name)
}

/// The metrics of one partition: windows that came from each tier, and windows that samples were read for.
#[derive(Clone, Debug)]
pub(crate) struct ServedCounts {
    tiers: [Count; 4],
    raw: Count,
}

impl ServedCounts {
    pub(crate) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Self {
        let counter = |name| MetricBuilder::new(metrics).counter(name, partition);
        let tiers = ["windows_1m", "windows_15m", "windows_1h", "windows_1d"].map(counter);
        Self { tiers, raw: counter("windows_raw") }
    }

    pub(crate) fn add(&self, served: Served) {
        let counted = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        for (metric, count) in self.tiers.iter().zip(served.tiers) {
            metric.add(counted(count));
        }
        self.raw.add(counted(served.raw));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tagmill_storage::TimeRange;

    #[test]
    fn a_tier_is_named_if_a_window_holds_one_of_its_rows() {
        let minutes = |count: i64| count * 60 * SECOND_NS;
        let even = |origin_ns, width_ns| {
            coarsest_tier(&RollupWindows::Even { range: TimeRange::ALL, origin_ns, width_ns })
        };
        assert_eq!(even(0, minutes(90)), "15m");
        assert_eq!(even(0, 2 * DAY_NS), "1d");
        assert_eq!(even(minutes(5), 2 * DAY_NS), "1m");
        assert_eq!(even(4 * DAY_NS, 7 * DAY_NS), "1d", "weeks begin at midnight");
        assert_eq!(even(0, 36 * minutes(60)), "1h");
        assert_eq!(even(0, minutes(7)), "1m");
        assert_eq!(even(0, 10 * SECOND_NS), RAW);
        assert_eq!(even(1, DAY_NS), RAW);
        let each = |start_ns, end_ns| {
            coarsest_tier(&RollupWindows::Each(Arc::new([TimeRange::new(start_ns, end_ns)])))
        };
        assert_eq!(each(minutes(50), minutes(120)), "1h");
        assert_eq!(each(minutes(50), minutes(119)), "15m");
        assert_eq!(each(minutes(50) + 1, minutes(52)), "1m");
        assert_eq!(each(minutes(50) + 1, minutes(52) - 1), RAW);
        assert_eq!(each(i64::MIN, i64::MAX), "1d");
    }
}

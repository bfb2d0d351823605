//! Figures of a run: how long things took, by quantile, and what processes took of the machine.
//!
//! # What it does not know
//! What is good: targets stand where they are printed.

use std::fmt;
use std::fs;
use std::io;
use std::time::Duration;

/// In how many parts Linux shows a second of CPU time to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Durations, for their quantiles.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    /// Adds one.
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Adds all of another.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The duration that `percent` of all do not exceed; zero if there are none.
    pub(crate) fn quantile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| ms(self.quantile(percent)));
        write!(f, "p50 {p50:.1}  p90 {p90:.1}  p99 {p99:.1}  max {max:.1} ms")
    }
}

/// Milliseconds.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Whether a target is met, in a word.
pub(crate) fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// What a process has taken so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all its threads.
    pub(crate) cpu_seconds: f64,
    /// The most memory it has had at one time.
    pub(crate) rss_peak_mib: f64,
}

impl Usage {
    /// Of the process with this number.
    ///
    /// # Errors
    /// If there is no such process, or no `/proc`.
    pub(crate) fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let usage = Self::parse(&stat, &status);
        usage.ok_or_else(|| io::Error::other(format!("/proc/{pid} has no CPU time or memory")))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        // The program's name, in brackets, may hold anything.
        let (_, numbers) = stat.rsplit_once(')')?;
        let mut times = numbers.split_whitespace().skip(11).map(str::parse::<f64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: f64 = peak.trim().trim_end_matches(" kB").parse().ok()?;
        Some(Self { cpu_seconds: ticks / TICKS_PER_SECOND, rss_peak_mib: kib / 1024.0 })
    }
}

/// The machine: its cores, and how many threads have wanted them in the last minute.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cores} cores, load average {}", load.split(' ').next().unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_one_of_the_durations() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(99), Duration::ZERO);
        (1..=200).rev().for_each(|n| latencies.add(Duration::from_millis(n)));
        let found = [0, 50, 99, 100].map(|percent| latencies.quantile(percent));
        assert_eq!(found, [1, 100, 198, 200].map(Duration::from_millis));
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 10 0 0 0 250 50 0 0 20 0";
        let usage = Usage::parse(stat, "Name:\ta\nVmHWM:\t  2048 kB\n").unwrap();
        assert_eq!(
            (usage.cpu_seconds.to_bits(), usage.rss_peak_mib.to_bits()),
            (3.0_f64.to_bits(), 2.0_f64.to_bits())
        );
        assert!(Usage::of(std::process::id()).unwrap().rss_peak_mib > 0.0);
    }
}

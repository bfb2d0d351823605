//! What an analyst asks about the plant's day: SQL, and the same answer worked out from the
//! [`Ledger`] in plain Rust.
//!
//! Contract: [`questions`] is a function of the ledger and the window alone; every SQL text has a
//! total order, so rows compare one by one. It knows neither database nor terminal.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Days, NaiveTime, TimeZone, Timelike, Utc};
use tagmill_storage::{SECOND_NS, Severity};

use super::answer::{Cell, Question, Show};
use super::equipment::MOTOR_STATES;
use super::ledger::{Ledger, Track};
use super::plan::instant;
use super::signals::Signal;

/// The bed's upper limit, °C.
const LIMIT: f64 = 210.0;
const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// The ledger with the names of its tracks, and the window that is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Every tag, by its number.
    pub signals: &'a [Signal],
    /// Its samples, settled.
    pub ledger: &'a Ledger,
    /// First instant asked about, and the first after.
    pub window: (i64, i64),
}

impl<'a> Facts<'a> {
    /// Tags that `wanted` picks by name, in the order of their names, with their samples.
    fn tags(&self, wanted: impl Fn(&str) -> bool) -> Vec<(&'a Signal, &'a Track)> {
        let mut tags: Vec<_> = (self.signals.iter().enumerate())
            .filter(|(_, signal)| wanted(&signal.definition.name))
            .map(|(index, signal)| (signal, self.ledger.track(index)))
            .collect();
        tags.sort_by(|a, b| a.0.definition.name.cmp(&b.0.definition.name));
        tags
    }

    fn between(&self) -> String {
        format!("ts >= '{}' AND ts < '{}'", instant(self.window.0), instant(self.window.1))
    }
}

/// Number of samples in the window that the database must hold.
pub fn rows(facts: &Facts<'_>) -> i64 {
    let rows: usize =
        facts.tags(|_| true).iter().map(|(_, track)| track.within(facts.window).len()).sum();
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// The five questions.
pub fn questions(facts: &Facts<'_>) -> Vec<Question> {
    vec![
        shift_averages(facts),
        above_the_limit(facts),
        production(facts),
        untrustworthy(facts),
        before_the_trip(facts),
    ]
}

fn is_bed(name: &str) -> bool {
    name.contains("/reactor/TI-31")
}

/// Whether what follows the dot is this part of an instrument.
fn has_part(name: &str, part: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, last)| last == part)
}

fn label<'a>(signal: &'a Signal, key: &str) -> &'a str {
    signal.definition.attributes.labels.get(key).unwrap_or_default()
}

fn name(signal: &Signal) -> Cell {
    Cell::Text(signal.definition.name.clone())
}

fn text(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

fn count(count: usize) -> Cell {
    Cell::Whole(i64::try_from(count).unwrap_or(i64::MAX))
}

/// What every motor does at this moment, asked from `latest`: the ledger must hold everything
/// that was ever sent after the window.
pub fn motors_now(facts: &Facts<'_>) -> Question {
    let sql = "\
SELECT label(tag, 'area') AS area, value_text AS state, count(*) AS motors,
       string_agg(label(tag, 'equipment'), ' ' ORDER BY tag) AS which
FROM latest
WHERE label(tag, 'kind') = 'motor'
GROUP BY area, state
ORDER BY area, state";
    let mut groups: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for (signal, track) in facts.tags(|name| has_part(name, "STATE")) {
        if label(signal, "kind") != "motor" {
            continue;
        }
        // State codes are small whole numbers, so their bits are equal when they are.
        let code = track.numbers.last().map(|code| code.to_bits());
        let state = (MOTOR_STATES.iter().enumerate())
            .find(|(at, _)| Some((*at as f64).to_bits()) == code)
            .map_or("", |(_, label)| label);
        groups.entry((label(signal, "area"), state)).or_default().push(label(signal, "equipment"));
    }
    let rows = groups.into_iter().map(|((area, state), which)| {
        vec![text(area), text(state), count(which.len()), Cell::Text(which.join(" "))]
    });
    Question {
        title: "What is every motor doing right now?",
        note: "",
        sql: sql.to_owned(),
        columns: vec![
            ("area", Show::Text),
            ("state", Show::Text),
            ("motors", Show::Number(0)),
            ("which", Show::Text),
        ],
        expected: rows.collect(),
    }
}

/// Start of the Berlin shift (from 06, 14 or 22 h) an instant falls into.
fn shift_start(time_ns: i64) -> i64 {
    let berlin = chrono_tz::Europe::Berlin;
    let local = DateTime::<Utc>::from_timestamp_nanos(time_ns).with_timezone(&berlin);
    let (day, hour) = match local.hour() {
        0..6 => (local.date_naive() - Days::new(1), 22),
        6..14 => (local.date_naive(), 6),
        14..22 => (local.date_naive(), 14),
        _ => (local.date_naive(), 22),
    };
    let start = day.and_time(NaiveTime::from_hms_opt(hour, 0, 0).unwrap_or_default());
    // Clocks change at night between 2 and 3, so none of these hours is skipped or doubled.
    let start = berlin.from_local_datetime(&start).earliest();
    start.and_then(|start| start.timestamp_nanos_opt()).unwrap_or(i64::MIN)
}

struct Shift {
    sum: f64,
    low: f64,
    high: f64,
    samples: usize,
}

fn shift_averages(facts: &Facts<'_>) -> Question {
    let between = facts.between();
    let sql = format!(
        "\
SELECT label(tag, 'area') AS area,
       time_bucket('8 hours', ts, 'Europe/Berlin', '6 hours') AS shift,
       avg(value) AS mean, min(value) AS low, max(value) AS high, count(value) AS samples
FROM samples
WHERE tag LIKE 'U_/reactor/TI-31_.PV'
  AND {between}
GROUP BY area, shift
ORDER BY area, shift"
    );
    let mut shifts: BTreeMap<(&str, i64), Shift> = BTreeMap::new();
    for (signal, track) in facts.tags(is_bed) {
        // Samples ascend, so the shift is looked up once an hour: shifts begin at whole hours.
        let mut known = (i64::MIN, 0);
        for index in track.within(facts.window) {
            let Some(value) = track.value(index) else { continue };
            let hour = track.times[index].div_euclid(HOUR_NS);
            if known.0 != hour {
                known = (hour, shift_start(track.times[index]));
            }
            let empty = Shift { sum: 0.0, low: value, high: value, samples: 0 };
            let shift = shifts.entry((label(signal, "area"), known.1)).or_insert(empty);
            shift.sum += value;
            shift.low = shift.low.min(value);
            shift.high = shift.high.max(value);
            shift.samples += 1;
        }
    }
    let rows = shifts.into_iter().map(|((area, start), shift)| {
        let mean = Cell::Near(shift.sum / shift.samples as f64);
        let (low, high) = (Cell::Exact(shift.low), Cell::Exact(shift.high));
        vec![text(area), Cell::Time(start), mean, low, high, count(shift.samples)]
    });
    Question {
        title: "How warm was the reactor bed, shift by shift?",
        note: "Shifts begin at 06, 14 and 22 h in Berlin, all year. Means are of samples.",
        sql,
        columns: vec![
            ("area", Show::Text),
            ("shift (Berlin)", Show::Berlin),
            ("mean °C", Show::Number(2)),
            ("low", Show::Number(1)),
            ("high", Show::Number(1)),
            ("samples", Show::Number(0)),
        ],
        expected: rows.collect(),
    }
}

fn above_the_limit(facts: &Facts<'_>) -> Question {
    let between = facts.between();
    let sql = format!(
        "\
SELECT tag, count(*) FILTER (WHERE value > {LIMIT}) AS above,
       count(*) FILTER (WHERE value > {LIMIT}) * 5 / 3600.0 AS hours, max(value) AS high
FROM samples
WHERE tag LIKE 'U_/reactor/TI-31_.PV'
  AND {between}
GROUP BY tag
HAVING max(value) > {LIMIT}
ORDER BY above DESC, tag
LIMIT 6"
    );
    let mut rows: Vec<(usize, &Signal, f64)> = Vec::new();
    for (signal, track) in facts.tags(is_bed) {
        let values = || track.within(facts.window).filter_map(|index| track.value(index));
        let above = values().filter(|&value| value > LIMIT).count();
        if above > 0 {
            rows.push((above, signal, values().fold(f64::NEG_INFINITY, f64::max)));
        }
    }
    // Stable: tags ascend already.
    rows.sort_by_key(|row| std::cmp::Reverse(row.0));
    let rows = rows.into_iter().take(6).map(|(above, signal, high)| {
        let hours = Cell::Near((above * 5) as f64 / 3_600.0);
        vec![name(signal), count(above), hours, Cell::Exact(high)]
    });
    Question {
        title: "Which bed temperatures were above 210 °C, and for how long?",
        note: "Hours are counted in samples, 5 s each; nothing is drawn between them.",
        sql,
        columns: vec![
            ("tag", Show::Text),
            ("samples above", Show::Number(0)),
            ("hours", Show::Number(3)),
            ("high °C", Show::Number(1)),
        ],
        expected: rows.collect(),
    }
}

fn production(facts: &Facts<'_>) -> Question {
    let between = facts.between();
    let sql = format!(
        "\
SELECT s.tag, t.unit, count(*) FILTER (WHERE step < 0) AS rollovers,
       sum(CASE WHEN step < 0 THEN step + t.rollover ELSE step END) AS total
FROM (SELECT tag_id, tag,
             value_int - lag(value_int) OVER (PARTITION BY tag_id ORDER BY ts) AS step
      FROM samples
      WHERE tag LIKE '%.CNT' AND good
        AND {between}) s
JOIN tags t ON t.tag_id = s.tag_id
GROUP BY s.tag, t.unit
ORDER BY s.tag"
    );
    let rows = facts.tags(|name| has_part(name, "CNT")).into_iter().map(|(signal, track)| {
        let attributes = &signal.definition.attributes;
        let rollover = attributes.rollover.unwrap_or_default();
        let good = |index: &usize| track.severity(*index) == Severity::Good;
        let counts: Vec<f64> =
            track.within(facts.window).filter(good).map(|index| track.numbers[index]).collect();
        let steps = || counts.windows(2).map(|pair| pair[1] - pair[0]);
        let rollovers = steps().filter(|&step| step < 0.0).count();
        let total: f64 = steps().map(|step| if step < 0.0 { step + rollover } else { step }).sum();
        let unit = text(attributes.unit.as_deref().unwrap_or_default());
        vec![name(signal), unit, count(rollovers), Cell::Exact(total)]
    });
    Question {
        title: "What did each unit take in, make and use, by its totalisers?",
        note: "The counters start over at the tag's rollover; a Bad count is left out.",
        sql,
        columns: vec![
            ("tag", Show::Text),
            ("unit", Show::Text),
            ("rollovers", Show::Number(0)),
            ("total", Show::Number(0)),
        ],
        expected: rows.collect(),
    }
}

fn untrustworthy(facts: &Facts<'_>) -> Question {
    let between = facts.between();
    let sql = format!(
        "\
WITH hours AS (
  SELECT tag, time_bucket('1 hour', ts) AS hour, count(*) AS n,
         count(*) FILTER (WHERE severity(quality) = 'Bad') AS bad,
         count(*) FILTER (WHERE severity(quality) = 'Uncertain') AS uncertain,
         min(value) AS low, max(value) AS high
  FROM samples
  WHERE tag LIKE '%.PV'
    AND {between}
  GROUP BY tag, hour),
days AS (
  SELECT tag, sum(n) AS n, sum(bad) AS bad, sum(uncertain) AS uncertain,
         count(*) FILTER (WHERE low = high AND n >= 300) AS stuck
  FROM hours GROUP BY tag)
SELECT tag, n, 100.0 * bad / n AS bad_share, 100.0 * uncertain / n AS uncertain_share, stuck
FROM days
WHERE bad + uncertain + stuck > 0
ORDER BY bad + uncertain DESC, stuck DESC, tag
LIMIT 8"
    );
    let mut rows = Vec::new();
    for (signal, track) in facts.tags(|name| has_part(name, "PV")) {
        let all = track.within(facts.window);
        let of = |severity| all.clone().filter(|&index| track.severity(index) == severity).count();
        let (bad, uncertain) = (of(Severity::Bad), of(Severity::Uncertain));
        let stuck = stuck_hours(track, all.clone());
        if bad + uncertain + stuck > 0 {
            rows.push((bad, uncertain, stuck, all.len(), signal));
        }
    }
    rows.sort_by_key(|row| (std::cmp::Reverse(row.0 + row.1), std::cmp::Reverse(row.2)));
    let percent = |part: usize, all: usize| Cell::Near(100.0 * part as f64 / all as f64);
    let rows = rows.into_iter().take(8).map(|(bad, uncertain, stuck, all, signal)| {
        let (bad, uncertain) = (percent(bad, all), percent(uncertain, all));
        vec![name(signal), count(all), bad, uncertain, count(stuck)]
    });
    Question {
        title: "Which signals should nobody trust today?",
        note: "Stuck: 300 samples or more in an hour, and all of them the same.",
        sql,
        columns: vec![
            ("tag", Show::Text),
            ("samples", Show::Number(0)),
            ("Bad %", Show::Number(2)),
            ("Uncertain %", Show::Number(2)),
            ("stuck hours", Show::Number(0)),
        ],
        expected: rows.collect(),
    }
}

/// UTC hours of at least 300 samples whose values are all the same.
fn stuck_hours(track: &Track, all: std::ops::Range<usize>) -> usize {
    let mut hours: BTreeMap<i64, (usize, BTreeSet<u64>)> = BTreeMap::new();
    for index in all {
        let hour = hours.entry(track.times[index].div_euclid(HOUR_NS)).or_default();
        hour.0 += 1;
        // Two different values are enough to know.
        if let (Some(value), true) = (track.value(index), hour.1.len() < 2) {
            hour.1.insert(value.to_bits());
        }
    }
    hours.values().filter(|(samples, values)| *samples >= 300 && values.len() == 1).count()
}

fn before_the_trip(facts: &Facts<'_>) -> Question {
    let between = facts.between();
    let sql = format!(
        "\
WITH trip AS (
  SELECT min(ts) AS moment FROM samples
  WHERE tag = 'U2/reactor/M-301.STATE' AND value_text = 'TRIP'
    AND {between}),
moves AS (
  SELECT s.tag, t.unit, first(s.value, s.ts) AS before, last(s.value, s.ts) AS after,
         t.range_high - t.range_low AS span
  FROM samples s JOIN tags t ON t.tag_id = s.tag_id CROSS JOIN trip
  WHERE s.tag LIKE 'U2/%' AND t.range_high > t.range_low AND t.rollover IS NULL
    AND s.ts >= trip.moment - INTERVAL '5 minutes' AND s.ts < trip.moment
    AND s.{and}
  GROUP BY s.tag, t.unit, t.range_high, t.range_low)
SELECT tag, unit, before, after, 100.0 * (after - before) / span AS moved
FROM moves
ORDER BY abs(100.0 * (after - before) / span) DESC NULLS LAST, tag
LIMIT 8",
        and = between.replace(" AND ts", "\n    AND s.ts"),
    );
    Question {
        title: "The agitator M-301 of U2 tripped: what had moved most in the 5 minutes before?",
        note: "Moved: change in percent of the instrument's range.",
        sql,
        columns: vec![
            ("tag", Show::Text),
            ("unit", Show::Text),
            ("before", Show::Number(2)),
            ("at the trip", Show::Number(2)),
            ("moved %", Show::Number(2)),
        ],
        expected: moves_before_the_trip(facts),
    }
}

fn moves_before_the_trip(facts: &Facts<'_>) -> Vec<Vec<Cell>> {
    let trip_code = 3.0;
    let agitator = facts.tags(|name| name == "U2/reactor/M-301.STATE");
    let trip = agitator.first().and_then(|(_, track)| {
        let mut tripped =
            track.within(facts.window).filter(|&index| track.value(index) == Some(trip_code));
        tripped.next().map(|index| track.times[index])
    });
    let Some(trip_ns) = trip else { return Vec::new() };
    let span_ns = ((trip_ns - 300 * SECOND_NS).max(facts.window.0), trip_ns.min(facts.window.1));
    let mut rows: Vec<(Option<f64>, Vec<Cell>)> = Vec::new();
    for (signal, track) in facts.tags(|name| name.starts_with("U2/")) {
        let attributes = &signal.definition.attributes;
        let (Some(low), Some(high), None) =
            (attributes.range_low, attributes.range_high, attributes.rollover)
        else {
            continue;
        };
        let all = track.within(span_ns);
        if all.is_empty() {
            continue;
        }
        let before = all.clone().find_map(|index| track.value(index));
        let after = all.rev().find_map(|index| track.value(index));
        let moved = before.zip(after).map(|(b, a)| 100.0 * (a - b) / (high - low));
        let unit = attributes.unit.as_deref().map_or(Cell::Null, text);
        let exact = |value: Option<f64>| value.map_or(Cell::Null, Cell::Exact);
        let row = vec![name(signal), unit, exact(before), exact(after), exact(moved)];
        rows.push((moved, row));
    }
    let size = |moved: Option<f64>| moved.map_or(-1.0, f64::abs);
    rows.sort_by(|a, b| size(b.0).total_cmp(&size(a.0)));
    rows.into_iter().take(8).map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use tagmill_storage::{Batch, Qualities, Quality, TagColumn, TagId, Values};

    use super::super::signals::signals;
    use super::*;

    /// 2026-03-28T18:00:00Z: in this night clocks change in Berlin.
    const START_NS: i64 = 1_774_720_800 * SECOND_NS;

    struct Small {
        signals: Vec<Signal>,
        ledger: Ledger,
    }

    impl Small {
        fn new() -> Self {
            let signals = signals();
            Self { ledger: Ledger::new(signals.len()), signals }
        }

        fn put(&mut self, name: &str, samples: &[(i64, f64, Quality)]) {
            let at = self.signals.iter().position(|s| s.definition.name == name).unwrap();
            self.ledger.take(&Batch {
                columns: vec![TagColumn {
                    tag: TagId(u32::try_from(at).unwrap()),
                    times: samples.iter().map(|s| START_NS + s.0 * SECOND_NS).collect(),
                    values: Values::F64(samples.iter().map(|s| s.1).collect()),
                    qualities: Qualities::Each(samples.iter().map(|s| s.2).collect()),
                }],
                ..Batch::default()
            });
        }

        fn ask(&mut self, question: fn(&Facts<'_>) -> Question) -> Vec<Vec<Cell>> {
            self.ledger.settle();
            let window = (START_NS, START_NS + 86_400 * SECOND_NS);
            question(&Facts { signals: &self.signals, ledger: &self.ledger, window }).expected
        }
    }

    const GOOD: Quality = Quality::GOOD;

    #[test]
    fn a_night_shift_with_the_clock_change_has_seven_hours() {
        let at =
            |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_nanos_opt().unwrap();
        for (time, start) in [
            ("2026-03-28T20:59:59Z", "2026-03-28T13:00:00Z"),
            ("2026-03-28T21:00:00Z", "2026-03-28T21:00:00Z"),
            ("2026-03-29T03:59:59Z", "2026-03-28T21:00:00Z"),
            ("2026-03-29T04:00:00Z", "2026-03-29T04:00:00Z"),
            ("2026-10-25T04:59:59Z", "2026-10-24T20:00:00Z"),
        ] {
            assert_eq!(shift_start(at(time)), at(start), "{time}");
        }
    }

    #[test]
    fn shifts_average_what_is_usable() {
        let mut small = Small::new();
        let bad = Quality::BAD;
        small.put("U1/reactor/TI-311.PV", &[(0, 10.0, GOOD), (5, 99.0, bad), (20_000, 7.0, GOOD)]);
        small.put("U1/reactor/TI-312.PV", &[(0, 20.0, GOOD), (0, 30.0, Quality::UNCERTAIN)]);
        small.put("U1/reactor/TIC-301.PV", &[(0, 500.0, GOOD)]);
        let shift = |hours: i64| Cell::Time(START_NS + hours * HOUR_NS);
        let row = |start, mean, low, high, n| {
            vec![text("U1"), start, Cell::Near(mean), Cell::Exact(low), Cell::Exact(high), n]
        };
        let want = vec![
            row(shift(-5), 20.0, 10.0, 30.0, Cell::Whole(2)),
            row(shift(3), 7.0, 7.0, 7.0, Cell::Whole(1)),
        ];
        assert_eq!(small.ask(shift_averages), want);
    }

    #[test]
    fn hours_above_a_limit_count_scans() {
        let mut small = Small::new();
        let hot: Vec<_> = (0..720).map(|i| (i * 5, 211.0, GOOD)).collect();
        small.put("U2/reactor/TI-311.PV", &hot);
        small.put("U2/reactor/TI-312.PV", &[(0, 210.0, GOOD), (5, 300.0, Quality::BAD)]);
        small.put("U1/reactor/TI-312.PV", &[(0, 210.5, GOOD)]);
        let row = |tag, n, hours, high| vec![text(tag), n, Cell::Near(hours), Cell::Exact(high)];
        let want = vec![
            row("U2/reactor/TI-311.PV", Cell::Whole(720), 1.0, 211.0),
            row("U1/reactor/TI-312.PV", Cell::Whole(1), 5.0 / 3_600.0, 210.5),
        ];
        assert_eq!(small.ask(above_the_limit), want);
    }

    #[test]
    fn counters_go_on_over_their_rollover_and_over_bad_counts() {
        let mut small = Small::new();
        let counts =
            [(0, 99_000.0, GOOD), (10, 0.0, Quality::BAD), (20, 500.0, GOOD), (30, 700.0, GOOD)];
        small.put("U1/feed/FQ-101.CNT", &counts);
        let rows = small.ask(production);
        assert_eq!(rows.len(), 9);
        let row = rows.iter().find(|row| row[0] == text("U1/feed/FQ-101.CNT")).unwrap();
        assert_eq!(row[1..], [text("l"), Cell::Whole(1), Cell::Exact(1_700.0)]);
    }

    #[test]
    fn suspects_are_bad_uncertain_or_stuck() {
        let mut small = Small::new();
        let still: Vec<_> = (0..300).map(|i| (i * 5, 5.0, GOOD)).collect();
        small.put("U1/feed/TI-103.PV", &still);
        small.put("U1/feed/PI-104.PV", &still[..299]);
        small.put("U3/cooling/FI-502.PV", &[(0, 1.0, GOOD), (5, 2.0, Quality::BAD)]);
        let percent = |percent| Cell::Near(percent);
        let want = vec![
            vec![text("U3/cooling/FI-502.PV"), count(2), percent(50.0), percent(0.0), count(0)],
            vec![text("U1/feed/TI-103.PV"), count(300), percent(0.0), percent(0.0), count(1)],
        ];
        assert_eq!(small.ask(untrustworthy), want);
    }

    #[test]
    fn the_trip_is_blamed_on_what_moved() {
        let mut small = Small::new();
        small.put(
            "U2/reactor/M-301.STATE",
            &[(0, 2.0, GOOD), (1_000, 3.0, GOOD), (1_600, 3.0, GOOD)],
        );
        let vibration = [(600, 9.0, GOOD), (700, 1.0, GOOD), (999, 11.0, GOOD), (1_000, 0.0, GOOD)];
        small.put("U2/reactor/M-301.VIB", &vibration);
        small.put("U2/reactor/TI-311.PV", &[(701, 9.0, GOOD), (900, -11.0, GOOD)]);
        small.put("U1/reactor/M-301.VIB", &vibration);
        let rows = small.ask(before_the_trip);
        let exact = Cell::Exact;
        let want = vec![
            vec![text("U2/reactor/M-301.VIB"), text("mm/s"), exact(1.0), exact(11.0), exact(50.0)],
            vec![text("U2/reactor/TI-311.PV"), text("°C"), exact(9.0), exact(-11.0), exact(-5.0)],
        ];
        assert_eq!(rows, want);
    }

    #[test]
    fn motors_are_grouped_by_what_they_do() {
        let mut small = Small::new();
        for signal in signals() {
            if label(&signal, "kind") == "motor" {
                small.put(&signal.definition.name, &[(90_000, 2.0, GOOD)]);
            }
        }
        small.put("U3/cooling/K-501.STATE", &[(90_001, 3.0, GOOD)]);
        let rows = small.ask(motors_now);
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[2][..3], [text("U3"), text("RUN"), Cell::Whole(5)]);
        assert_eq!(rows[3], [text("U3"), text("TRIP"), Cell::Whole(1), text("K-501")]);
    }
}

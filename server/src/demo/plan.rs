//! Which simulation a directory holds, so that a rerun can work out the same samples again.
//!
//! Contract: the text tag `demo/plan` is written before anything else, and never changed.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat};
use tagmill_storage::SECOND_NS;

use super::answer::Cell;
use super::equipment::DAY_S;
use super::error::{Error, Result};
use super::link::{Link, PLAN_TAG};

/// Raised whenever the simulator gives other samples than before.
const SIMULATION: u32 = 1;
const SEED: u64 = 7_410;
const MINUTE_NS: i64 = 60 * SECOND_NS;

/// Which simulation a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Seed of the simulation.
    pub seed: u64,
    /// First instant of the history, a whole minute.
    pub start_ns: i64,
}

impl Plan {
    /// The day that ends at the last whole minute.
    fn until(now_ns: i64) -> Self {
        let end_ns = now_ns - now_ns.rem_euclid(MINUTE_NS);
        Self { seed: SEED, start_ns: end_ns - DAY_S * SECOND_NS }
    }

    /// First instant of the history, and the first after.
    pub fn window(&self) -> (i64, i64) {
        (self.start_ns, self.start_ns + DAY_S * SECOND_NS)
    }

    /// The same, as SQL takes it.
    pub fn window_text(&self) -> (String, String) {
        let (start_ns, end_ns) = self.window();
        (instant(start_ns), instant(end_ns))
    }

    /// The second of the simulation that an instant falls into.
    pub fn second_of(&self, time_ns: i64) -> i64 {
        (time_ns - self.start_ns).div_euclid(SECOND_NS)
    }
}

/// An instant to the second, as SQL takes it.
pub fn instant(ns: i64) -> String {
    DateTime::from_timestamp_nanos(ns).to_rfc3339_opts(SecondsFormat::Secs, true)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulation {SIMULATION} seed {} from {}", self.seed, instant(self.start_ns))
    }
}

impl FromStr for Plan {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let words: Vec<&str> = text.split(' ').collect();
        let ["simulation", simulation, "seed", seed, "from", start] = words[..] else {
            return Err(());
        };
        if simulation.parse() != Ok(SIMULATION) {
            return Err(());
        }
        let start = DateTime::parse_from_rfc3339(start).map_err(|_| ())?;
        let start_ns = start.timestamp_nanos_opt().ok_or(())?;
        Ok(Self { seed: seed.parse().map_err(|_| ())?, start_ns })
    }
}

/// The plan of the directory, or a new one for an empty directory.
///
/// # Errors
/// If the directory holds something else.
pub async fn find_or_write(link: &mut Link, now_ns: i64) -> Result<Plan> {
    let sql = format!("SELECT value_text FROM latest WHERE tag = '{PLAN_TAG}'");
    let (rows, _) = link.ask(&sql).await?;
    let unfit = |what: &str| Error::Unfit {
        what: what.to_owned(),
        next: "pass --data DIR with another directory, or remove this one".to_owned(),
    };
    if let Some([Cell::Text(text)]) = rows.first().map(Vec::as_slice) {
        let other = || unfit("the directory holds the plant of another version of the demo");
        return text.parse().map_err(|()| other());
    }
    let sql = format!("SELECT count(*) FROM tags WHERE tag <> '{PLAN_TAG}'");
    let (rows, _) = link.ask(&sql).await?;
    if rows != [[Cell::Whole(0)]] {
        return Err(unfit("the directory holds a database that is not the demo's"));
    }
    let plan = Plan::until(now_ns);
    link.write_plan(plan.start_ns, &plan.to_string()).await?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_its_text() {
        let plan = Plan::until(1_700_000_059 * SECOND_NS + 5);
        assert_eq!(plan.window().1, 1_700_000_040 * SECOND_NS);
        assert_eq!(plan.to_string().parse(), Ok(plan));
        assert_eq!(plan.second_of(plan.window().1 + 1), DAY_S);
        let (start, end) = plan.window_text();
        assert_eq!(
            (start.as_str(), end.as_str()),
            ("2023-11-13T22:14:00Z", "2023-11-14T22:14:00Z")
        );
    }

    #[test]
    fn plans_of_other_simulations_are_not_ours() {
        let text = Plan::until(0).to_string();
        for other in ["", "x", &text.replace("tion 1", "tion 2"), &text.replace("seed", "seat")] {
            assert_eq!(other.parse::<Plan>(), Err(()));
        }
    }
}

//! How long raw samples are kept: the horizon of each retention class, and whether the clock may be believed.
//!
//! # Contract
//! * A horizon is the start of a UTC day. Samples before it are neither shown nor taken. It never falls.
//! * A tag belongs to the class its attribute `retention` names; without one, or if there is no such class, to the
//!   default class, whose name is empty.
//! * A class that is new begins at the horizon of the default class, to which its tags belonged until then. One that the
//!   options no longer name keeps its horizon and follows the default class's duration.
//!
//! # What it does not know
//! Files, and who moves the horizons: [`crate::maintenance`] does. Pure.

use std::sync::Arc;
use std::time::Duration;

use crate::options::RetentionClass;
use crate::planted::{self, Bug};
use crate::tag::TagAttributes;
use crate::time::DAY_NS;

/// Where a retention class stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionStatus {
    /// Its name; empty for the default class.
    pub class: Arc<str>,
    /// How long raw samples are kept at least; `None` for ever.
    pub raw: Option<Duration>,
    /// Samples before this instant have ended; 1970 if none have.
    pub horizon_ns: i64,
    /// Whether the horizon stands still because the clock has leapt, until [`crate::Engine::confirm_clock`].
    pub is_paused: bool,
}

/// A class and how far its raw samples have ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    name: Arc<str>,
    raw: Option<Duration>,
    horizon_ns: i64,
}

/// The horizons of one instant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Horizons {
    /// Ascending by name, so that the default class is first.
    classes: Vec<Class>,
    /// The greatest of them: most databases learn here that there is nothing to look up.
    greatest_ns: i64,
    /// Whether the clock has leapt.
    pub(crate) is_paused: bool,
}

impl Horizons {
    /// The classes of the options, with the horizons that were reached before.
    pub(crate) fn new(options: &[RetentionClass], reached: &[(Arc<str>, i64)]) -> Self {
        let before = |name: &str| {
            let found = reached.iter().find(|(class, _)| class.as_ref() == name);
            found.map(|(_, horizon_ns)| (*horizon_ns).max(0))
        };
        let default = before("").unwrap_or(0);
        let duration = |name: &str| options.iter().find(|class| class.name == name);
        let mut names: Vec<Arc<str>> = vec![Arc::from("")];
        names.extend(options.iter().map(|class| Arc::from(class.name.as_str())));
        names.extend(reached.iter().map(|(name, _)| Arc::clone(name)));
        names.sort();
        names.dedup();
        let class = |name: Arc<str>| {
            let policy = duration(&name).or_else(|| duration(""));
            let horizon_ns = before(&name).unwrap_or(default);
            Class { raw: policy.and_then(|policy| policy.raw), horizon_ns, name }
        };
        Self::of_classes(names.into_iter().map(class).collect(), false)
    }

    fn of_classes(classes: Vec<Class>, is_paused: bool) -> Self {
        let greatest_ns = classes.iter().map(|class| class.horizon_ns).max().unwrap_or(0);
        Self { classes, greatest_ns, is_paused }
    }

    /// The horizon of a tag with these attributes.
    pub(crate) fn of(&self, attributes: &TagAttributes) -> i64 {
        if self.greatest_ns == 0 {
            return 0;
        }
        let find = |name: &str| {
            let at = self.classes.binary_search_by(|class| class.name.as_ref().cmp(name)).ok()?;
            self.classes.get(at).map(|class| class.horizon_ns)
        };
        let own = attributes.retention.as_deref().and_then(find);
        own.or_else(|| find("")).unwrap_or(0)
    }

    /// No tag's horizon is below.
    pub(crate) fn least_ns(&self) -> i64 {
        self.classes.iter().map(|class| class.horizon_ns).min().unwrap_or(0)
    }

    /// No tag's horizon is above.
    pub(crate) const fn greatest_ns(&self) -> i64 {
        self.greatest_ns
    }

    /// What must survive. All classes, also those of which nothing has ended: one that is named here is no longer new.
    pub(crate) fn state(&self) -> Vec<(Arc<str>, i64)> {
        self.classes.iter().map(|class| (Arc::clone(&class.name), class.horizon_ns)).collect()
    }

    /// The horizons at `now_ns`, if any of them is above what it was.
    pub(crate) fn raised(&self, now_ns: i64) -> Option<Self> {
        let mut classes = self.classes.clone();
        for class in &mut classes {
            let Some(raw) = class.raw else { continue };
            let raw_ns = i64::try_from(raw.as_nanos()).unwrap_or(i64::MAX);
            let early_ns = if planted::is(Bug::HorizonOffByOne) { DAY_NS } else { 0 };
            let end_ns = now_ns.saturating_sub(raw_ns).saturating_add(early_ns);
            class.horizon_ns = class.horizon_ns.max(end_ns - end_ns.rem_euclid(DAY_NS));
        }
        let is_higher = classes != self.classes;
        is_higher.then(|| Self::of_classes(classes, self.is_paused))
    }

    /// Whether a horizon has moved into or past this span of time since `before`, of which these were [`Self::raised`].
    pub(crate) fn has_reached(&self, before: &Self, first_ns: i64, last_ns: i64) -> bool {
        let pairs = before.classes.iter().zip(&self.classes);
        let moved = |(old, new): (&Class, &Class)| {
            old.horizon_ns < new.horizon_ns
                && old.horizon_ns <= last_ns
                && first_ns < new.horizon_ns
        };
        before.classes.len() != self.classes.len() || pairs.into_iter().any(moved)
    }

    /// Every class, the default one first.
    pub(crate) fn status(&self) -> Vec<RetentionStatus> {
        let status = |class: &Class| RetentionStatus {
            class: Arc::clone(&class.name),
            raw: class.raw,
            horizon_ns: class.horizon_ns,
            is_paused: self.is_paused && class.raw.is_some(),
        };
        self.classes.iter().map(status).collect()
    }
}

/// Tells a clock that runs from one that was set forward.
///
/// The wall clock is believed as long as it is at most a day ahead of what it was plus the time that has passed since.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClockWatch {
    believed_ns: i64,
    since_ns: u64,
}

impl ClockWatch {
    /// Begins to watch. `newest_ns` is the time of the newest sample, if there is one: the clock was there before.
    pub(crate) fn new(newest_ns: Option<i64>, wall_ns: i64, monotonic_ns: u64) -> Self {
        Self { believed_ns: newest_ns.unwrap_or(wall_ns), since_ns: monotonic_ns }
    }

    /// Looks at the clocks. False if the wall clock has leapt more than a day ahead.
    pub(crate) fn is_believable(&mut self, wall_ns: i64, monotonic_ns: u64) -> bool {
        let passed = monotonic_ns.saturating_sub(self.since_ns);
        let expected = self.believed_ns.saturating_add_unsigned(passed);
        if wall_ns > expected.saturating_add(DAY_NS) {
            return false;
        }
        // A clock that was set back is not followed: going forward again to where it was is no leap.
        if wall_ns > self.believed_ns {
            self.confirm(wall_ns, monotonic_ns);
        }
        true
    }

    /// Believes the wall clock from here on.
    pub(crate) fn confirm(&mut self, wall_ns: i64, monotonic_ns: u64) {
        (self.believed_ns, self.since_ns) = (wall_ns, monotonic_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, days: Option<u64>) -> RetentionClass {
        let raw = days.map(|days| Duration::from_secs(days * 86_400));
        RetentionClass { name: name.into(), raw }
    }

    fn of(horizons: &Horizons, class: &str) -> i64 {
        let retention = (!class.is_empty()).then(|| class.to_owned());
        horizons.of(&TagAttributes { retention, ..TagAttributes::default() })
    }

    #[test]
    fn horizons_are_days_and_never_fall() {
        let options = [class("", Some(10)), class("long", None), class("short", Some(1))];
        let fresh = Horizons::new(&options, &[]);
        assert_eq!(fresh.raised(DAY_NS / 2), None);
        let day = fresh.raised(30 * DAY_NS + 5).unwrap();
        let want = [("", 20), ("short", 29), ("long", 0), ("unheard of", 20)];
        for (name, days) in want {
            assert_eq!(of(&day, name), days * DAY_NS, "{name}");
        }
        assert_eq!((day.least_ns(), day.greatest_ns()), (0, 29 * DAY_NS));
        assert_eq!(day.raised(25 * DAY_NS), None);
        let next = day.raised(31 * DAY_NS).unwrap();
        let reached = |from: i64, to: i64| next.has_reached(&day, from * DAY_NS, to * DAY_NS - 1);
        assert_eq!([reached(19, 20), reached(20, 21), reached(21, 29)], [false, true, false]);
        assert_eq!([reached(29, 30), reached(30, 31), reached(0, 40)], [true, false, true]);
        let longer = Horizons::new(&[class("", Some(100))], &day.state());
        assert_eq!(of(&longer, ""), 20 * DAY_NS, "a longer retention lets the horizon stand");
        assert_eq!(of(&longer, "short"), 29 * DAY_NS, "and so does a class that is gone");
        assert_eq!(longer.raised(99 * DAY_NS), None);
        let long = of(&longer.raised(119 * DAY_NS).unwrap(), "long");
        assert_eq!(long, 19 * DAY_NS, "a class that is gone goes by the default");
        assert_eq!(of(&longer.raised(131 * DAY_NS).unwrap(), "short"), 31 * DAY_NS);
    }

    #[test]
    fn a_new_class_begins_where_the_default_class_stands() {
        let before = Horizons::new(&[class("", Some(10))], &[]).raised(30 * DAY_NS).unwrap();
        let with = Horizons::new(&[class("", Some(10)), class("x", Some(400))], &before.state());
        assert_eq!(of(&with, "x"), 20 * DAY_NS);
        let later = with.raised(40 * DAY_NS).unwrap();
        let again = Horizons::new(&[class("", Some(10)), class("x", None)], &later.state());
        assert_eq!((of(&again, ""), of(&again, "x")), (30 * DAY_NS, 20 * DAY_NS));
    }

    #[test]
    fn a_leap_is_told_from_time_that_passes() {
        let hour = DAY_NS / 24;
        let mut watch = ClockWatch::new(Some(100 * DAY_NS), 100 * DAY_NS + hour, 0);
        assert!(watch.is_believable(100 * DAY_NS + hour, 1));
        assert!(watch.is_believable(101 * DAY_NS, 2), "less than a day");
        assert!(!watch.is_believable(103 * DAY_NS, 3), "a leap");
        assert!(!watch.is_believable(103 * DAY_NS + hour, 3 + hour.unsigned_abs()), "still");
        assert!(watch.is_believable(90 * DAY_NS, 4), "set back");
        assert!(watch.is_believable(101 * DAY_NS, 5), "and where it was before");
        assert!(!watch.is_believable(110 * DAY_NS, 6));
        watch.confirm(110 * DAY_NS, 6);
        assert!(watch.is_believable(110 * DAY_NS, 7));
        let week = 7 * DAY_NS;
        assert!(watch.is_believable(110 * DAY_NS + week, 7 + week.unsigned_abs()), "time passes");
        assert!(!ClockWatch::new(Some(5 * DAY_NS), 9 * DAY_NS, 0).is_believable(9 * DAY_NS, 0));
        assert!(ClockWatch::new(None, 9 * DAY_NS, 0).is_believable(9 * DAY_NS, 0));
    }
}

//! How long raw samples and rollups are kept: the horizons of each retention class, and whether the clock may be believed.
//!
//! # Contract
//! * A horizon is the start of a UTC day. It never falls. Samples before that of raw are neither shown nor taken; rollups of
//!   a tier stand for them from the tier's own horizon on. No tier ends before a finer one.
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
use crate::tier::width::Tier;
use crate::time::{DAY_NS, TimeRange};

/// Where a retention class stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionStatus {
    /// Its name; empty for the default class.
    pub class: Arc<str>,
    /// How long raw samples are kept at least; `None` for ever.
    pub raw: Option<Duration>,
    /// How long rollups are kept at least, in the order of [`Tier::ALL`]; `None` for ever.
    pub tiers: [Option<Duration>; Tier::ALL.len()],
    /// Samples before this instant have ended; 1970 if none have.
    pub horizon_ns: i64,
    /// Rollups before these instants have ended, in the order of [`Tier::ALL`]; 1970 if none have.
    pub tier_horizons_ns: [i64; Tier::ALL.len()],
    /// Whether the horizon stands still because the clock has leapt, until [`crate::Engine::confirm_clock`].
    pub is_paused: bool,
}

/// Before which instants a class's samples and rollups have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Samples.
    pub(crate) raw_ns: i64,
    /// Rollups, in the order of [`Tier::ALL`]: descending, and none above `raw_ns`.
    pub(crate) tiers_ns: [i64; Tier::ALL.len()],
}

impl Ends {
    /// All of them at one instant.
    pub(crate) const fn at(end_ns: i64) -> Self {
        Self { raw_ns: end_ns, tiers_ns: [end_ns; Tier::ALL.len()] }
    }

    /// Before it nothing is known any more.
    pub(crate) fn all_ns(&self) -> i64 {
        self.tiers_ns.last().map_or(self.raw_ns, |end_ns| self.raw_ns.min(*end_ns))
    }

    /// Before which rollups of a tier have ended.
    pub(crate) fn of(&self, tier: Tier) -> i64 {
        self.tiers_ns[tier.index()]
    }

    /// When only rollups are left: from the end of all to that of samples. Empty if they end together.
    pub(crate) fn beyond_raw(&self) -> TimeRange {
        TimeRange::new(self.all_ns(), self.raw_ns)
    }

    /// The finest tier that is left at an instant of [`Self::beyond_raw`].
    pub(crate) fn finest_at(&self, time_ns: i64) -> Option<Tier> {
        let is_left = |tier: &Tier| self.of(*tier) <= time_ns;
        Some(time_ns).filter(|ns| self.beyond_raw().contains(*ns))?;
        Tier::ALL.into_iter().find(is_left)
    }

    /// The part of a range that can be answered for: beyond raw its bounds move inward to whole windows of what is left.
    pub(crate) fn clip(&self, range: TimeRange) -> TimeRange {
        let mut start_ns = range.start_ns.max(self.all_ns());
        // A window that ends in a finer tier's time may not be whole there: then it is none of either.
        while let Some(tier) = self.finest_at(start_ns) {
            let beyond_ns = start_ns.rem_euclid(tier.width_ns());
            if beyond_ns == 0 {
                break;
            }
            start_ns += tier.width_ns() - beyond_ns;
        }
        let mut end_ns = range.end_ns;
        if let Some(tier) = self.finest_at(end_ns.saturating_sub(1)) {
            end_ns -= end_ns.rem_euclid(tier.width_ns());
        }
        TimeRange::new(start_ns, end_ns.max(start_ns))
    }

    fn raise(&mut self, due: &Self) {
        self.raw_ns = self.raw_ns.max(due.raw_ns);
        for (end_ns, due_ns) in self.tiers_ns.iter_mut().zip(due.tiers_ns) {
            *end_ns = (*end_ns).max(due_ns);
        }
    }
}

/// A class, and how far it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Class {
    name: Arc<str>,
    raw: Option<Duration>,
    tiers: [Option<Duration>; Tier::ALL.len()],
    ends: Ends,
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
    pub(crate) fn new(options: &[RetentionClass], reached: &[(Arc<str>, Ends)]) -> Self {
        let before = |name: &str| {
            let found = reached.iter().find(|(class, _)| class.as_ref() == name);
            found.map(|(_, ends)| {
                let mut known = Ends::default();
                known.raise(ends);
                known
            })
        };
        let default = before("").unwrap_or_default();
        let policy_of = |name: &str| options.iter().find(|class| class.name == name);
        let mut names: Vec<Arc<str>> = vec![Arc::from("")];
        names.extend(options.iter().map(|class| Arc::from(class.name.as_str())));
        names.extend(reached.iter().map(|(name, _)| Arc::clone(name)));
        names.sort();
        names.dedup();
        let class = |name: Arc<str>| {
            let policy = policy_of(&name).or_else(|| policy_of(""));
            let ends = before(&name).unwrap_or(default);
            let raw = policy.and_then(|policy| policy.raw);
            let tiers = policy.map(RetentionClass::of_tiers).unwrap_or_default();
            Class { name, raw, tiers, ends }
        };
        Self::of_classes(names.into_iter().map(class).collect(), false)
    }

    fn of_classes(classes: Vec<Class>, is_paused: bool) -> Self {
        let greatest_ns = classes.iter().map(|class| class.ends.raw_ns).max().unwrap_or(0);
        Self { classes, greatest_ns, is_paused }
    }

    /// The horizons of a tag with these attributes.
    pub(crate) fn of(&self, attributes: &TagAttributes) -> Ends {
        if self.greatest_ns == 0 {
            return Ends::default();
        }
        let find = |name: &str| {
            let at = self.classes.binary_search_by(|class| class.name.as_ref().cmp(name)).ok()?;
            self.classes.get(at).map(|class| class.ends)
        };
        let own = attributes.retention.as_deref().and_then(find);
        own.or_else(|| find("")).unwrap_or_default()
    }

    /// No tag's horizon of samples is below.
    pub(crate) fn least_ns(&self) -> i64 {
        self.classes.iter().map(|class| class.ends.raw_ns).min().unwrap_or(0)
    }

    /// Before it no tag has samples or rollups any more.
    pub(crate) fn least_of_all_ns(&self) -> i64 {
        self.classes.iter().map(|class| class.ends.all_ns()).min().unwrap_or(0)
    }

    /// Before it no tag has rollups of this tier any more.
    pub(crate) fn least_of_ns(&self, tier: Tier) -> i64 {
        self.classes.iter().map(|class| class.ends.of(tier)).min().unwrap_or(0)
    }

    /// No tag's horizon of this tier is above.
    pub(crate) fn greatest_of_ns(&self, tier: Tier) -> i64 {
        self.classes.iter().map(|class| class.ends.of(tier)).max().unwrap_or(0)
    }

    /// No tag's horizon is above.
    pub(crate) const fn greatest_ns(&self) -> i64 {
        self.greatest_ns
    }

    /// Whether rollups of some class outlive its samples.
    pub(crate) fn is_outlived(&self) -> bool {
        self.classes.iter().any(|class| !class.ends.beyond_raw().is_empty())
    }

    /// What must survive. All classes, also those of which nothing has ended: one that is named here is no longer new.
    pub(crate) fn state(&self) -> Vec<(Arc<str>, Ends)> {
        self.classes.iter().map(|class| (Arc::clone(&class.name), class.ends)).collect()
    }

    /// The horizons at `now_ns`, if any of them is above what it was.
    pub(crate) fn raised(&self, now_ns: i64) -> Option<Self> {
        let mut classes = self.classes.clone();
        let due_ns = |kept: Option<Duration>| {
            let Some(kept) = kept else { return 0 };
            let kept_ns = i64::try_from(kept.as_nanos()).unwrap_or(i64::MAX);
            let early_ns = if planted::is(Bug::HorizonOffByOne) { DAY_NS } else { 0 };
            let end_ns = now_ns.saturating_sub(kept_ns).saturating_add(early_ns);
            end_ns - end_ns.rem_euclid(DAY_NS)
        };
        for class in &mut classes {
            class
                .ends
                .raise(&Ends { raw_ns: due_ns(class.raw), tiers_ns: class.tiers.map(due_ns) });
        }
        let is_higher = classes != self.classes;
        is_higher.then(|| Self::of_classes(classes, self.is_paused))
    }

    /// Whether a horizon has moved into or past this span of time since `before`, of which these were [`Self::raised`].
    pub(crate) fn has_reached(&self, before: &Self, first_ns: i64, last_ns: i64) -> bool {
        let moved = |old: i64, new: i64| old < new && old <= last_ns && first_ns < new;
        let pairs = before.classes.iter().zip(&self.classes);
        let any_moved = |(old, new): (&Class, &Class)| {
            let tiers = old.ends.tiers_ns.iter().zip(new.ends.tiers_ns);
            moved(old.ends.raw_ns, new.ends.raw_ns)
                || tiers.into_iter().any(|(old, new)| moved(*old, new))
        };
        before.classes.len() != self.classes.len() || pairs.into_iter().any(any_moved)
    }

    /// Every class, the default one first.
    pub(crate) fn status(&self) -> Vec<RetentionStatus> {
        let status = |class: &Class| RetentionStatus {
            class: Arc::clone(&class.name),
            raw: class.raw,
            tiers: class.tiers,
            horizon_ns: class.ends.raw_ns,
            tier_horizons_ns: class.ends.tiers_ns,
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
        RetentionClass::of_raw(name, raw)
    }

    fn of(horizons: &Horizons, class: &str) -> i64 {
        let retention = (!class.is_empty()).then(|| class.to_owned());
        let ends = horizons.of(&TagAttributes { retention, ..TagAttributes::default() });
        assert_eq!(ends, Ends::at(ends.raw_ns), "without a word tiers end with raw samples");
        ends.raw_ns
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
    fn tiers_outlive_samples_and_bounds_move_to_what_is_left() {
        let days = |count: u64| Some(Duration::from_secs(count * 86_400));
        let tiers = vec![(Tier::Minute, days(20)), (Tier::Hour, None)];
        let class = RetentionClass { tiers, ..RetentionClass::of_raw("", days(10)) };
        assert_eq!(class.of_tiers(), [days(20), days(20), None, None]);
        let raised = Horizons::new(&[class], &[]).raised(100 * DAY_NS).unwrap();
        let ends = raised.of(&TagAttributes::default());
        let want = [80 * DAY_NS, 80 * DAY_NS, 0, 0];
        assert_eq!(ends, Ends { raw_ns: 90 * DAY_NS, tiers_ns: want });
        assert_eq!(ends.beyond_raw(), TimeRange::new(0, 90 * DAY_NS));
        assert_eq!((raised.least_ns(), raised.least_of_all_ns()), (90 * DAY_NS, 0));
        assert_eq!(raised.least_of_ns(Tier::Quarter), 80 * DAY_NS);
        let finest =
            [-1, 0, 80 * DAY_NS - 1, 80 * DAY_NS, 90 * DAY_NS].map(|ns| ends.finest_at(ns));
        assert_eq!(finest, [None, Some(Tier::Hour), Some(Tier::Hour), Some(Tier::Minute), None]);
        let (hour, minute) = (Tier::Hour.width_ns(), Tier::Minute.width_ns());
        let cases = [
            ((i64::MIN, i64::MAX), (0, i64::MAX)),
            ((5 * hour + 1, 7 * hour - 1), (6 * hour, 6 * hour)),
            ((5 * hour, 7 * hour), (5 * hour, 7 * hour)),
            ((80 * DAY_NS - 1, 81 * DAY_NS + 1), (80 * DAY_NS, 81 * DAY_NS)),
            ((85 * DAY_NS + 1, 95 * DAY_NS + 1), (85 * DAY_NS + minute, 95 * DAY_NS + 1)),
            ((hour + 1, hour + 2), (2 * hour, 2 * hour)),
            ((95 * DAY_NS + 1, 95 * DAY_NS + 2), (95 * DAY_NS + 1, 95 * DAY_NS + 2)),
        ];
        for ((start_ns, end_ns), want) in cases {
            let got = ends.clip(TimeRange::new(start_ns, end_ns));
            assert_eq!((got.start_ns, got.end_ns), want, "{start_ns} .. {end_ns}");
        }
        assert_eq!(Ends::at(5).clip(TimeRange::new(1, 9)), TimeRange::new(5, 9));
        let later = raised.raised(101 * DAY_NS).unwrap();
        let reached = |day: i64| later.has_reached(&raised, day * DAY_NS, (day + 1) * DAY_NS - 1);
        assert_eq!([79, 80, 81, 89, 90, 91].map(reached), [false, true, false, false, true, false]);
        let shorter = [class_of_tiers(days(10), vec![(Tier::Minute, days(5))])];
        assert!(
            crate::Options { retention: shorter.into(), ..Default::default() }.check().is_err()
        );
    }

    fn class_of_tiers(
        raw: Option<Duration>,
        tiers: Vec<(Tier, Option<Duration>)>,
    ) -> RetentionClass {
        RetentionClass { tiers, ..RetentionClass::of_raw("x", raw) }
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

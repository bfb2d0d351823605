//! Settings of a session: a short allow-list, each of which does something.
//!
//! [`Settings`] is what SET, SHOW and RESET work on and what `system.settings` shows. It parses values and knows
//! defaults; what a setting *does* is decided where it is read.

use std::num::NonZeroUsize;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use chrono_tz::Tz;
use tagmill_storage::{OnDamage, Tiers};

use crate::error::{Error, Result};
use crate::functions::width::Width;

/// What may answer aggregates over windows of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TierUse {
    /// Tiers, as far as they are exact and read faster than samples, and samples for the rest.
    #[default]
    Auto,
    /// Tiers, as far as they are exact, and samples for the rest.
    Always,
    /// Samples alone, folded where they are decoded.
    Raw,
    /// Samples alone, row by row in a plan that knows nothing of tiers.
    Off,
}

impl TierUse {
    /// What rollups may be read from.
    pub(crate) const fn of_rollups(self) -> Tiers {
        match self {
            Self::Auto => Tiers::Auto,
            Self::Always => Tiers::Always,
            Self::Raw | Self::Off => Tiers::Off,
        }
    }
}

/// What a session may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    time_zone: Tz,
    statement_timeout: Option<Duration>,
    max_rows: Option<u64>,
    max_bytes: Option<u64>,
    partitions: NonZeroUsize,
    damaged: OnDamage,
    tiers: TierUse,
    is_strict: bool,
    /// What RESET gives, where that is not the default of a new session of the library.
    defaults: Option<Arc<Settings>>,
}

/// One line of SHOW ALL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Its value in this session, as SET takes it.
    pub value: String,
    /// Its value in a new session.
    pub default: String,
    /// What it does.
    pub description: &'static str,
}

const NAMES: [(&str, &str); 8] = [
    (
        "statement_timeout",
        "A statement that runs longer is ended; 0 is no limit. '30s', or milliseconds",
    ),
    (
        "tagmill.damaged",
        "What a statement does about samples the disk has damaged: 'fail', or 'skip' with a notice",
    ),
    (
        "tagmill.max_bytes",
        "A statement with more bytes in its answer is ended with an error; 0 is no limit. '256 MiB', or bytes",
    ),
    (
        "tagmill.max_rows",
        "A statement with more rows in its answer is ended with an error; 0 is no limit",
    ),
    ("tagmill.partitions", "How many parts of a scan one statement reads at once"),
    (
        "tagmill.strict",
        "What a statement does where a bound of its windows would cut a rollup whose samples have ended: 'on' refuses, 'off' moves the bound inward, with a notice",
    ),
    (
        "tagmill.tiers",
        "What answers aggregates over windows: 'auto' tiers where these are exact and faster, 'always' where they are exact, 'raw' samples alone, 'off' rows in a plan without tiers",
    ),
    ("timezone", "Zone of timestamps written without one, as in TIMESTAMPTZ '2026-03-01 06:00'"),
];

impl Default for Settings {
    fn default() -> Self {
        Self {
            time_zone: Tz::UTC,
            statement_timeout: None,
            max_rows: None,
            max_bytes: None,
            partitions: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            damaged: OnDamage::Fail,
            tiers: TierUse::Auto,
            is_strict: false,
            defaults: None,
        }
    }
}

impl Settings {
    /// Zone of timestamps written without one, and the one a client should show times in.
    pub fn time_zone(&self) -> Tz {
        self.time_zone
    }

    /// How long one statement may run.
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.statement_timeout
    }

    /// How many rows one answer may have.
    pub fn max_rows(&self) -> Option<u64> {
        self.max_rows
    }

    /// How many bytes one answer may have.
    pub fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// How many parts of a scan one statement reads at once.
    pub fn partitions(&self) -> NonZeroUsize {
        self.partitions
    }

    /// What a statement does about samples that cannot be read.
    pub fn damaged(&self) -> OnDamage {
        self.damaged
    }

    /// What answers aggregates over windows.
    pub fn tiers(&self) -> TierUse {
        self.tiers
    }

    /// Whether bounds must not move where samples have ended.
    pub fn is_strict(&self) -> bool {
        self.is_strict
    }

    /// Every setting with its value.
    pub fn all(&self) -> Vec<Setting> {
        let defaults = self.defaults();
        NAMES
            .iter()
            .map(|&(name, description)| Setting {
                name,
                value: self.value(name),
                default: defaults.value(name),
                description,
            })
            .collect()
    }

    /// What RESET gives from now on is what the settings are now.
    pub fn make_defaults(&mut self) {
        let defaults = Self { defaults: None, ..self.clone() };
        self.defaults = Some(Arc::new(defaults));
    }

    fn defaults(&self) -> Self {
        self.defaults.as_deref().cloned().unwrap_or_default()
    }

    /// The value of one setting, as SET takes it.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none of this name.
    pub fn get(&self, name: &str) -> Result<String> {
        Ok(self.value(known(name)?))
    }

    /// Changes one setting.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none of this name, or it cannot take the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let name = known(name)?;
        if value.eq_ignore_ascii_case("default") {
            return self.reset(name);
        }
        let refused = |what: &str| Error::Setting(format!("{name} takes {what}, not '{value}'"));
        match name {
            "timezone" => {
                self.time_zone = parse_zone(value).ok_or_else(|| {
                    refused("a zone of the IANA database such as 'Europe/Berlin' or 'UTC'")
                })?;
            }
            "statement_timeout" => {
                let timeout = parse_timeout(value)
                    .ok_or_else(|| refused("milliseconds or a duration such as '30s'"))?;
                self.statement_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
            }
            "tagmill.damaged" => {
                self.damaged = match value.to_ascii_lowercase().as_str() {
                    "fail" => OnDamage::Fail,
                    "skip" => OnDamage::Skip,
                    _ => return Err(refused("'fail' or 'skip'")),
                };
            }
            "tagmill.max_bytes" => {
                let bytes = parse_bytes(value)
                    .ok_or_else(|| refused("a number of bytes, or a size such as '256 MiB'"))?;
                self.max_bytes = Some(bytes).filter(|&bytes| bytes > 0);
            }
            "tagmill.max_rows" => {
                let rows = u64::from_str(value).map_err(|_| refused("a number of rows"))?;
                self.max_rows = Some(rows).filter(|&rows| rows > 0);
            }
            "tagmill.strict" => {
                self.is_strict = match value.to_ascii_lowercase().as_str() {
                    "on" | "true" | "1" | "yes" => true,
                    "off" | "false" | "0" | "no" => false,
                    _ => return Err(refused("'on' or 'off'")),
                };
            }
            "tagmill.tiers" => {
                self.tiers = match value.to_ascii_lowercase().as_str() {
                    "auto" => TierUse::Auto,
                    "always" => TierUse::Always,
                    "raw" => TierUse::Raw,
                    "off" => TierUse::Off,
                    _ => return Err(refused("'auto', 'always', 'raw' or 'off'")),
                };
            }
            _ => {
                let parts = usize::from_str(value).ok().filter(|&parts| parts <= 1_024);
                self.partitions = parts
                    .and_then(NonZeroUsize::new)
                    .ok_or_else(|| refused("a number from 1 to 1024"))?;
            }
        }
        Ok(())
    }

    /// Gives one setting, or with the name `all` every one, its default.
    ///
    /// # Errors
    /// [`Error::Setting`] if there is none of this name.
    pub fn reset(&mut self, name: &str) -> Result<()> {
        let defaults = self.defaults();
        if name.eq_ignore_ascii_case("all") {
            *self = Self { defaults: self.defaults.take(), ..defaults };
            return Ok(());
        }
        match known(name)? {
            "timezone" => self.time_zone = defaults.time_zone,
            "statement_timeout" => self.statement_timeout = defaults.statement_timeout,
            "tagmill.damaged" => self.damaged = defaults.damaged,
            "tagmill.max_bytes" => self.max_bytes = defaults.max_bytes,
            "tagmill.max_rows" => self.max_rows = defaults.max_rows,
            "tagmill.strict" => self.is_strict = defaults.is_strict,
            "tagmill.tiers" => self.tiers = defaults.tiers,
            _ => self.partitions = defaults.partitions,
        }
        Ok(())
    }

    fn value(&self, name: &str) -> String {
        match name {
            "timezone" => self.time_zone.name().to_owned(),
            "statement_timeout" => match self.statement_timeout {
                None => "0".to_owned(),
                Some(timeout) => format!("{}ms", timeout.as_millis()),
            },
            "tagmill.damaged" => match self.damaged {
                OnDamage::Fail => "fail".to_owned(),
                OnDamage::Skip => "skip".to_owned(),
            },
            "tagmill.max_bytes" => self.max_bytes.unwrap_or(0).to_string(),
            "tagmill.max_rows" => self.max_rows.unwrap_or(0).to_string(),
            "tagmill.strict" => if self.is_strict { "on" } else { "off" }.to_owned(),
            "tagmill.tiers" => match self.tiers {
                TierUse::Auto => "auto".to_owned(),
                TierUse::Always => "always".to_owned(),
                TierUse::Raw => "raw".to_owned(),
                TierUse::Off => "off".to_owned(),
            },
            _ => self.partitions.to_string(),
        }
    }
}

/// The name as it stands in the allow-list.
fn known(name: &str) -> Result<&'static str> {
    let wanted = if name.eq_ignore_ascii_case("time zone") { "timezone" } else { name };
    let mut names = NAMES.iter().map(|&(name, _)| name);
    names.clone().find(|known| known.eq_ignore_ascii_case(wanted)).ok_or_else(|| {
        let near = crate::near::nearest(name, names.clone(), 1);
        let hint =
            near.first().cloned().unwrap_or_else(|| names.by_ref().collect::<Vec<_>>().join(", "));
        Error::Setting(format!("no setting named {name}: there is {hint}"))
    })
}

/// A zone of the IANA database, case ignored.
pub(crate) fn parse_zone(text: &str) -> Option<Tz> {
    Tz::from_str(text).ok().or_else(|| {
        chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(text)).copied()
    })
}

/// Bytes, or a number with a unit of 1,024s or 1,000s.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return None,
    };
    u64::from_str(number).ok()?.checked_mul(unit)
}

fn parse_timeout(text: &str) -> Option<Duration> {
    if let Ok(millis) = u64::from_str(text) {
        return Some(Duration::from_millis(millis));
    }
    let width = Width::parse(text).ok()?;
    u64::try_from(width.fixed_ns()?).ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_it_lists_and_nothing_else() {
        let mut settings = Settings::default();
        settings.set("TimeZone", "europe/berlin").unwrap();
        assert_eq!(settings.get("timezone").unwrap(), "Europe/Berlin");
        settings.set("statement_timeout", "1500").unwrap();
        assert_eq!(settings.get("statement_timeout").unwrap(), "1500ms");
        settings.set("statement_timeout", "2 min").unwrap();
        assert_eq!(settings.statement_timeout(), Some(Duration::from_mins(2)));
        settings.set("statement_timeout", "0").unwrap();
        assert_eq!(settings.statement_timeout(), None);
        for (name, value) in [
            ("timezone", "Berlin"),
            ("statement_timeout", "1 month"),
            ("tagmill.partitions", "0"),
            ("tagmill.max_rows", "-1"),
            ("tagmill.max_bytes", "1 byte"),
            ("tagmill.max_bytes", "99999999999 GiB"),
            ("tagmill.damaged", "maybe"),
            ("tagmill.tiers", "on"),
            ("tagmill.strict", "auto"),
            ("datafusion.execution.batch_size", "1"),
        ] {
            assert!(settings.set(name, value).is_err(), "{name} took {value}");
        }
        settings.set("tagmill.max_bytes", "256 MiB").unwrap();
        assert_eq!(settings.max_bytes(), Some(256 << 20));
        let mut of_door = settings.clone();
        of_door.make_defaults();
        of_door.set("tagmill.max_bytes", "1kB").unwrap();
        assert_eq!(of_door.get("tagmill.max_bytes").unwrap(), "1000");
        of_door.reset("tagmill.max_bytes").unwrap();
        assert_eq!(of_door.max_bytes(), Some(256 << 20));
        of_door.set("timezone", "UTC").unwrap();
        of_door.reset("all").unwrap();
        assert_eq!(of_door.get("timezone").unwrap(), "Europe/Berlin");
        settings.reset("ALL").unwrap();
        assert_eq!(settings, Settings::default());
        for setting in settings.clone().all() {
            settings.set(setting.name, &setting.value).unwrap();
        }
        assert_eq!(settings, Settings::default());
    }
}

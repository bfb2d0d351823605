//! Variables that PostgreSQL's clients set and ask for, besides our settings.
//!
//! Contract: a value is taken only if what it asks for holds here. What would have to change something that cannot
//! change, another encoding, another style of dates, is refused with what there is.

use std::collections::{BTreeMap, HashMap};

use pgwire::error::PgWireResult;
use tagmill::{Session, Settings};

use super::dialect::VERSION;
use super::errors::{error, of_query};

/// Longest name of an application; of a longer one the rest goes.
const APPLICATION_BYTES_MAX: usize = 63;

/// What may be set, and its value in a new session. Ours stand in [`Settings`].
const DEFAULTS: [(&str, &str); 18] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("escape_string_warning", "on"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("intervalstyle", "postgres"),
    ("lock_timeout", "0"),
    ("row_security", "on"),
    ("search_path", "public"),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// What can be shown and not set.
const FIXED: [(&str, &str); 9] = [
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("server_encoding", "UTF8"),
    ("server_version", VERSION),
    ("server_version_num", "160006"),
    ("wal_level", "replica"),
];

/// What a client is told of without asking, by the names it knows.
const REPORTED: [(&str, &str); 12] = [
    ("server_version", "server_version"),
    ("server_encoding", "server_encoding"),
    ("client_encoding", "client_encoding"),
    ("application_name", "application_name"),
    ("default_transaction_read_only", "default_transaction_read_only"),
    ("in_hot_standby", "in_hot_standby"),
    ("is_superuser", "is_superuser"),
    ("DateStyle", "datestyle"),
    ("IntervalStyle", "intervalstyle"),
    ("TimeZone", "timezone"),
    ("integer_datetimes", "integer_datetimes"),
    ("standard_conforming_strings", "standard_conforming_strings"),
];

const ISOLATIONS: [&str; 4] =
    ["read uncommitted", "read committed", "repeatable read", "serializable"];
const MESSAGES: [&str; 8] =
    ["debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning"];

/// The variables of one connection that differ from their defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Variables(BTreeMap<&'static str, String>);

impl Variables {
    /// Sets a variable, ours or PostgreSQL's. Gives the name by which the client is to be told, if it is.
    pub(super) fn set(
        &mut self,
        session: &mut Session,
        name: &str,
        value: &str,
    ) -> PgWireResult<Option<&'static str>> {
        let name = name.to_ascii_lowercase();
        if is_ours(session.settings(), &name) {
            session.settings_mut().set(&name, value).map_err(|error| of_query(&error))?;
            return Ok(reported_as(&name));
        }
        let Some((name, default)) = DEFAULTS.iter().find(|(known, _)| *known == name) else {
            if FIXED.iter().any(|(known, _)| *known == name) {
                return Err(error("55P02", format!("{name} cannot be changed")));
            }
            return Err(unknown(&name));
        };
        let value = checked(name, value)
            .map_err(|takes| error("22023", format!("{name} takes {takes} here, not '{value}'")))?;
        if value == *default {
            self.0.remove(name);
        } else {
            self.0.insert(name, value);
        }
        Ok(reported_as(name))
    }

    /// The value of a variable.
    pub(super) fn get(&self, settings: &Settings, name: &str) -> PgWireResult<String> {
        let name = match name.to_ascii_lowercase().as_str() {
            "time zone" => "timezone".to_owned(),
            "transaction isolation level" => "transaction_isolation".to_owned(),
            other => other.to_owned(),
        };
        if is_ours(settings, &name) {
            return settings.get(&name).map_err(|error| of_query(&error));
        }
        let own = self.0.get(name.as_str()).map(String::as_str);
        let value = own.or_else(|| known(&name));
        value.map(str::to_owned).ok_or_else(|| unknown(&name))
    }

    /// Whether notices are wanted.
    pub(super) fn wants_notices(&self) -> bool {
        self.0
            .get("client_min_messages")
            .is_none_or(|least| !matches!(least.as_str(), "warning" | "error"))
    }

    /// What a client is told at its start.
    pub(super) fn reported(&self, settings: &Settings, user: &str) -> HashMap<String, String> {
        let value = |name: &str| self.get(settings, name).unwrap_or_default();
        let all = REPORTED.iter().map(|(shown, name)| ((*shown).to_owned(), value(name)));
        let who = ("session_authorization".to_owned(), user.to_owned());
        all.chain([who]).collect()
    }
}

/// What PostgreSQL's own variables are in a new session.
pub(super) fn known(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    FIXED.iter().chain(&DEFAULTS).find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// Names of all, their values in a new session, and whether they are fixed, in the order of names.
pub(super) fn every() -> Vec<(&'static str, &'static str, bool)> {
    let fixed = FIXED.iter().map(|(name, value)| (*name, *value, true));
    let mut all: Vec<_> =
        DEFAULTS.iter().map(|(name, value)| (*name, *value, false)).chain(fixed).collect();
    all.sort_unstable();
    all
}

fn is_ours(settings: &Settings, name: &str) -> bool {
    settings.all().iter().any(|setting| setting.name == name)
}

/// The name by which a client is told of a variable.
fn reported_as(name: &str) -> Option<&'static str> {
    REPORTED.iter().find(|(_, known)| *known == name).map(|(shown, _)| *shown)
}

fn unknown(name: &str) -> pgwire::error::PgWireError {
    error("42704", format!("there is no setting {name:?}: SHOW ALL lists ours"))
}

/// The value as it is kept, or what would be taken.
fn checked(name: &str, value: &str) -> Result<String, String> {
    let lower = value.to_ascii_lowercase();
    let one_of = |all: &[&str]| {
        let known = all.iter().find(|known| **known == lower);
        known.map(|known| (*known).to_owned()).ok_or_else(|| format!("'{}'", all.join("', '")))
    };
    match name {
        "application_name" => {
            let mut name: String = value.chars().filter(|c| !c.is_control()).collect();
            // Names that are made of paths are long: that keeps nobody out, here as in PostgreSQL.
            name.truncate(name.floor_char_boundary(APPLICATION_BYTES_MAX));
            Ok(name)
        }
        "client_encoding" => match lower.replace(['-', '_'], "").as_str() {
            "utf8" | "unicode" => Ok("UTF8".to_owned()),
            _ => Err("'UTF8'".to_owned()),
        },
        "datestyle" => {
            let is_iso = lower.split(',').next().is_some_and(|style| style.trim() == "iso");
            if is_iso { Ok("ISO, MDY".to_owned()) } else { Err("'ISO'".to_owned()) }
        }
        "search_path" => {
            let mut names = lower.split(',').map(|name| name.trim().trim_matches(['"', '\'']));
            let is_there = names.any(|name| name == "public");
            let way_out =
                || "a list with public in it; name other schemas before the relation".to_owned();
            if is_there { Ok(value.to_owned()) } else { Err(way_out()) }
        }
        "extra_float_digits" => {
            let digits = lower.parse::<i8>().ok().filter(|digits| (-15..=3).contains(digits));
            digits.map(|digits| digits.to_string()).ok_or_else(|| "-15 to 3".to_owned())
        }
        "idle_in_transaction_session_timeout" | "lock_timeout" => {
            let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
            let is_time = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            if is_time { Ok(value.to_owned()) } else { Err("a time".to_owned()) }
        }
        "client_min_messages" if lower == "error" => Ok(lower),
        "client_min_messages" => one_of(&MESSAGES),
        "default_transaction_isolation" | "transaction_isolation" => one_of(&ISOLATIONS),
        "default_transaction_read_only" | "transaction_read_only" | "escape_string_warning" => {
            one_of(&["on", "off", "true", "false"])
                .map(|value| if value == "on" || value == "true" { "on" } else { "off" }.to_owned())
        }
        "bytea_output" => one_of(&["hex"]),
        "intervalstyle" => one_of(&["postgres"]),
        "row_security" | "standard_conforming_strings" => one_of(&["on"]),
        _ => Err("no other value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_of_an_application_is_cut() {
        for (given, kept) in [
            ("psql".to_owned(), "psql".to_owned()),
            ("a\tb\n".to_owned(), "ab".to_owned()),
            ("x".repeat(63), "x".repeat(63)),
            ("x".repeat(64), "x".repeat(63)),
            ("ü".repeat(40), "ü".repeat(31)),
            (format!("{}\n{}", "x".repeat(40), "y".repeat(40)), "x".repeat(40) + &"y".repeat(23)),
        ] {
            assert_eq!(checked("application_name", &given), Ok(kept), "{given}");
        }
    }
}

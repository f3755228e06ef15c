//! The settings of a session: PostgreSQL's that clients set or ask for, and ours.
//!
//! A setting that is not in the table does not exist, except names with a dot that are not ours, which PostgreSQL keeps for
//! extensions and accepts as they are. A value is checked when it is set; those that would change meanings we do not have are
//! accepted only at the value that we do have.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;

use crate::error::{Error, Result, SqlState};
use crate::planner::{OnlineFallback, RouteSetting};
use crate::time::{CommitTime, EventTime};
use crate::types::SqlType;
use crate::types::text::TextParser;

/// What values a setting takes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Any text.
    Text,
    /// On or off.
    Boolean,
    /// A whole number in this range.
    Integer(i64, i64),
    /// A length of time; a bare number is milliseconds.
    Milliseconds,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A time zone.
    TimeZone,
    /// An encoding; only UTF8 is spoken.
    Encoding,
    /// A date style; only ISO output is spoken.
    DateStyle,
    /// Cannot be set.
    ReadOnly,
    /// An instant; empty for none.
    Instant,
}

/// A setting there is.
struct Definition {
    /// The name as `SHOW` prints it.
    name: &'static str,
    default: &'static str,
    kind: Kind,
    /// Whether clients are told its value at login and when it changes.
    reported: bool,
    description: &'static str,
}

const fn setting(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Definition {
    Definition { name, default, kind, reported: false, description }
}

const fn reported(name: &'static str, default: &'static str, kind: Kind, description: &'static str) -> Definition {
    Definition { name, default, kind, reported: true, description }
}

/// The version of PostgreSQL whose behaviour clients may expect.
pub const SERVER_VERSION: &str = "15.0";

const ISOLATION: &[&str] = &["read committed", "read uncommitted", "repeatable read", "serializable"];
const LEVELS: &[&str] = &["debug5", "debug4", "debug3", "debug2", "debug1", "debug", "log", "notice", "info", "warning", "error"];

/// Every setting, by name.
static DEFINITIONS: &[Definition] = &[
    reported("application_name", "", Kind::Text, "The name of the program that connected."),
    setting("bytea_output", "hex", Kind::Word(&["hex"]), "How bytea is written."),
    setting("check_function_bodies", "on", Kind::Boolean, "Accepted for tools; without effect."),
    reported("client_encoding", "UTF8", Kind::Encoding, "The encoding of the client."),
    setting("client_min_messages", "notice", Kind::Word(LEVELS), "The least severe message sent."),
    setting("constraint_exclusion", "partition", Kind::Text, "Accepted for tools; without effect."),
    reported("DateStyle", "ISO, MDY", Kind::DateStyle, "How dates are written."),
    setting("default_table_access_method", "lance", Kind::ReadOnly, "How tables are stored."),
    setting("default_tablespace", "", Kind::Word(&[""]), "There are no tablespaces."),
    setting("default_transaction_isolation", "read committed", Kind::Word(ISOLATION), "The isolation of new blocks."),
    reported("default_transaction_read_only", "off", Kind::Boolean, "Whether new blocks refuse writes."),
    setting("enable_seqscan", "on", Kind::Boolean, "Accepted for tools; without effect."),
    setting("escape_string_warning", "on", Kind::Boolean, "Accepted for tools; without effect."),
    setting("extra_float_digits", "1", Kind::Integer(-15, 3), "Digits of floating-point numbers."),
    setting("idle_in_transaction_session_timeout", "0", Kind::Milliseconds, "How long a block may idle; 0, for ever."),
    reported("in_hot_standby", "off", Kind::ReadOnly, "Whether this is a standby."),
    reported("integer_datetimes", "on", Kind::ReadOnly, "Instants are whole microseconds."),
    reported("IntervalStyle", "postgres", Kind::Word(&["postgres"]), "How intervals are written."),
    reported("is_superuser", "on", Kind::ReadOnly, "Whether the role may do everything."),
    setting("jit", "off", Kind::Boolean, "Accepted for tools; without effect."),
    setting("lc_collate", "C", Kind::ReadOnly, "How text is ordered: by code point."),
    setting("lc_ctype", "C", Kind::ReadOnly, "How text is classified."),
    setting("lc_messages", "C", Kind::Text, "The language of messages."),
    setting("lc_monetary", "C", Kind::Text, "Accepted for tools; without effect."),
    setting("lc_numeric", "C", Kind::Text, "Accepted for tools; without effect."),
    setting("lc_time", "C", Kind::Text, "Accepted for tools; without effect."),
    setting("lock_timeout", "0", Kind::Milliseconds, "Accepted for tools; there are no locks."),
    setting("max_connections", "1000", Kind::ReadOnly, "The most connections at once."),
    setting("max_identifier_length", "63", Kind::ReadOnly, "The most bytes of a name."),
    setting("max_index_keys", "32", Kind::ReadOnly, "The most columns of a key."),
    setting("row_security", "on", Kind::Boolean, "Accepted for tools; without effect."),
    setting("search_path", "\"$user\", public", Kind::Text, "Where names without a schema are looked up: always public."),
    reported("server_encoding", "UTF8", Kind::ReadOnly, "The encoding of the server."),
    reported("server_version", SERVER_VERSION, Kind::ReadOnly, "The version of PostgreSQL that is spoken."),
    setting("server_version_num", "150000", Kind::ReadOnly, "The same as a number."),
    reported("session_authorization", "", Kind::ReadOnly, "The role that logged in."),
    setting("ssl", "off", Kind::ReadOnly, "Whether connections are encrypted."),
    reported("standard_conforming_strings", "on", Kind::Word(&["on"]), "Whether a backslash in '…' is an ordinary character."),
    setting("statement_timeout", "0", Kind::Milliseconds, "How long a statement may run; 0, for ever."),
    setting("synchronize_seqscans", "on", Kind::Boolean, "Accepted for tools; without effect."),
    setting("tidegate.as_of", "", Kind::Instant, "The instant that every view is asked as of."),
    setting(
        "tidegate.online_fallback",
        "error",
        Kind::Word(&["error", "offline"]),
        "What a lookup does without the online store.",
    ),
    setting("tidegate.route", "auto", Kind::Word(&["auto", "online", "offline"]), "Which store answers."),
    setting(
        "tidegate.short_road",
        "on",
        Kind::Boolean,
        "Whether lookups may do without being planned anew; the answers are the same.",
    ),
    setting("tidegate.system_time", "", Kind::Instant, "The knowledge that every view is asked as of."),
    reported("TimeZone", "UTC", Kind::TimeZone, "The zone in which instants are read and written."),
    setting("transaction_isolation", "read committed", Kind::Word(ISOLATION), "The isolation of the current block."),
    setting("transaction_read_only", "off", Kind::Boolean, "Whether the current block refuses writes."),
    setting("xmloption", "content", Kind::Text, "Accepted for tools; without effect."),
];

fn definition(name: &str) -> Option<&'static Definition> {
    DEFINITIONS.iter().find(|definition| definition.name.eq_ignore_ascii_case(name))
}

fn unrecognized(name: &str) -> Error {
    Error::new(SqlState::UndefinedObject, format!("unrecognized configuration parameter \"{name}\""))
}

/// A row of `SHOW ALL`.
pub(super) struct Shown<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    pub(super) description: &'a str,
}

/// The values that hold in a session. Cheap to clone: unchanged settings are not copied.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Values that are not the default's, by lower-case name.
    changed: Arc<BTreeMap<String, String>>,
    /// The values given at login, which `RESET` goes back to.
    login: Arc<BTreeMap<String, String>>,
}

impl Settings {
    /// The settings of a session of `user` that starts with these.
    pub(super) fn new(user: &str, given: &[(String, String)]) -> Result<Self> {
        let mut login = BTreeMap::from([("session_authorization".to_owned(), user.to_owned())]);
        for (name, value) in given {
            login.insert(name.to_lowercase(), checked(name, value)?);
        }
        let login = Arc::new(login);
        Ok(Self { changed: Arc::clone(&login), login })
    }

    /// Whether these are the same settings, unchanged since one was copied from the other.
    pub(super) fn is(&self, other: &Settings) -> bool {
        Arc::ptr_eq(&self.changed, &other.changed)
    }

    /// The value of a setting, by name in any case; `None` where there is no such setting.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let changed = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.changed.get(&name.to_lowercase())
        } else {
            self.changed.get(name)
        };
        match changed {
            Some(value) => Some(value),
            None => definition(name).map(|definition| definition.default),
        }
    }

    /// Sets a value, or with `None` the default.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        let Some(value) = value else { return self.reset(name) };
        let value = checked(name, value)?;
        Arc::make_mut(&mut self.changed).insert(name.to_lowercase(), value);
        Ok(())
    }

    /// Goes back to the value given at login, or the default.
    pub(super) fn reset(&mut self, name: &str) -> Result<()> {
        if definition(name).is_none() && !name.contains('.') {
            return Err(unrecognized(name));
        }
        let key = name.to_lowercase();
        let changed = Arc::make_mut(&mut self.changed);
        match self.login.get(&key) {
            Some(value) => changed.insert(key, value.clone()),
            None => changed.remove(&key),
        };
        Ok(())
    }

    /// [`Settings::reset`] of everything.
    pub(super) fn reset_all(&mut self) {
        self.changed = Arc::clone(&self.login);
    }

    /// What `SHOW name` gives: the name in its canonical case, and the value.
    pub(super) fn show(&self, name: &str) -> Result<(String, String)> {
        let canonical = definition(name).map_or_else(|| name.to_owned(), |definition| definition.name.to_owned());
        let value = self.get(name).ok_or_else(|| unrecognized(name))?;
        Ok((canonical, value.to_owned()))
    }

    /// What `SHOW ALL` gives.
    pub(super) fn show_all(&self) -> impl Iterator<Item = Shown<'_>> {
        DEFINITIONS.iter().map(|definition| Shown {
            name: definition.name,
            value: self.get(definition.name).unwrap_or(definition.default),
            description: definition.description,
        })
    }

    /// Every setting by lower-case name.
    pub(super) fn all(&self) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> =
            DEFINITIONS.iter().map(|definition| (definition.name.to_lowercase(), definition.default.to_owned())).collect();
        all.extend(self.changed.iter().map(|(name, value)| (name.clone(), value.clone())));
        all
    }

    /// The settings that clients are told of, with their values.
    pub(super) fn reported(&self) -> Vec<(&'static str, String)> {
        let told = DEFINITIONS.iter().filter(|definition| definition.reported);
        told.map(|definition| (definition.name, self.get(definition.name).unwrap_or(definition.default).to_owned())).collect()
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        self.get(name) == Some("on")
    }

    pub(super) fn route(&self) -> RouteSetting {
        match self.get("tidegate.route") {
            Some("online") => RouteSetting::Online,
            Some("offline") => RouteSetting::Offline,
            Some(_) | None => RouteSetting::Auto,
        }
    }

    pub(super) fn online_fallback(&self) -> OnlineFallback {
        match self.get("tidegate.online_fallback") {
            Some("offline") => OnlineFallback::Offline,
            Some(_) | None => OnlineFallback::Error,
        }
    }

    /// `tidegate.as_of`.
    pub(super) fn as_of(&self) -> Option<EventTime> {
        instant(self.get("tidegate.as_of")?, self.time_zone()).map(EventTime::from_micros)
    }

    /// `tidegate.system_time`.
    pub(super) fn system_time(&self) -> Option<CommitTime> {
        instant(self.get("tidegate.system_time")?, self.time_zone()).map(CommitTime::from_micros)
    }

    pub(super) fn time_zone(&self) -> &str {
        self.get("timezone").unwrap_or("UTC")
    }
}

/// The value as it is kept, if the setting takes it.
fn checked(name: &str, value: &str) -> Result<String> {
    let Some(definition) = definition(name) else {
        let lower = name.to_lowercase();
        if lower.contains('.') && !lower.starts_with("tidegate.") {
            return Ok(value.to_owned());
        }
        return Err(unrecognized(name));
    };
    let invalid = || {
        Error::new(SqlState::InvalidParameterValue, format!("invalid value for parameter \"{}\": \"{value}\"", definition.name))
    };
    match definition.kind {
        Kind::Text => Ok(value.to_owned()),
        Kind::Boolean => match value.to_lowercase().as_str() {
            "on" | "true" | "yes" | "1" | "t" | "y" => Ok("on".to_owned()),
            "off" | "false" | "no" | "0" | "f" | "n" => Ok("off".to_owned()),
            _ => Err(Error::new(
                SqlState::InvalidParameterValue,
                format!("parameter \"{}\" requires a Boolean value", definition.name),
            )),
        },
        Kind::Integer(min, max) => {
            let number: i64 = value.trim().parse().map_err(|_| invalid())?;
            if !(min..=max).contains(&number) {
                return Err(Error::new(
                    SqlState::InvalidParameterValue,
                    format!("{number} is outside the valid range for parameter \"{}\" ({min} .. {max})", definition.name),
                ));
            }
            Ok(number.to_string())
        }
        Kind::Milliseconds => milliseconds(value).ok_or_else(invalid),
        Kind::Word(words) => {
            let lower = value.to_lowercase();
            words.iter().find(|word| **word == lower).map(|word| (*word).to_owned()).ok_or_else(|| match words {
                [] | [""] => invalid(),
                words => invalid().hint(format!("Available values: {}.", words.join(", "))),
            })
        }
        Kind::TimeZone => time_zone(value).ok_or_else(invalid),
        // Only letters and digits of an encoding's name count, as in PostgreSQL: asyncpg sends it in quotes.
        Kind::Encoding => match value.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "").as_str() {
            "utf8" | "unicode" => Ok("UTF8".to_owned()),
            _ => Err(invalid().hint("The gateway speaks UTF8.")),
        },
        Kind::DateStyle => {
            let known = |word: &str| ["iso", "mdy", "us", "noneuro", "default"].contains(&word);
            if value.to_lowercase().split(',').all(|word| known(word.trim())) {
                Ok("ISO, MDY".to_owned())
            } else {
                Err(invalid().hint("The gateway writes dates as ISO, MDY."))
            }
        }
        Kind::ReadOnly => {
            Err(Error::new(SqlState::CantChangeRuntimeParam, format!("parameter \"{}\" cannot be changed", definition.name)))
        }
        Kind::Instant if value.trim().is_empty() => Ok(String::new()),
        // Without a zone it is read in the session's, which may change: it is kept as written.
        Kind::Instant => match instant(value, "UTC") {
            Some(_) => Ok(value.to_owned()),
            None => Err(invalid().hint("Give an instant, such as '2013-06-01 12:00Z', or '' for none.")),
        },
    }
}

/// A length of time as PostgreSQL keeps it: in the largest unit that holds it whole.
fn milliseconds(value: &str) -> Option<String> {
    let text = value.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let total = number.checked_mul(factor).filter(|total| i32::try_from(*total).is_ok())?;
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let (size, unit) = units.into_iter().find(|(size, _)| total >= *size && total % size == 0).unwrap_or((1, ""));
    Some(format!("{}{unit}", total / size))
}

/// The microseconds of an instant that is written out.
fn instant(text: &str, zone: &str) -> Option<i64> {
    let mut parser = TextParser::new(&SqlType::TimestampTz, zone).ok()?;
    parser.append(Some(text)).ok()?;
    let instants = parser.finish();
    let instants = instants.as_primitive_opt::<TimestampMicrosecondType>()?;
    instants.iter().next().flatten()
}

/// A zone that instants can be read in: an IANA name in its own case, or an offset.
fn time_zone(value: &str) -> Option<String> {
    let value = value.trim();
    let named = chrono_tz::TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(value));
    let zone = match named {
        Some(zone) => zone.name().to_owned(),
        None => value.to_owned(),
    };
    TextParser::new(&SqlType::TimestampTz, &zone).ok()?;
    Some(zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("me", &[("Application_Name".into(), "x".into())]).unwrap()
    }

    #[test]
    fn values_are_checked_and_normalised() {
        let mut settings = settings();
        let cases = [
            ("statement_timeout", "5000", Some("5s")),
            ("statement_timeout", "90s", Some("90s")),
            ("statement_timeout", "120000", Some("2min")),
            ("statement_timeout", "0", Some("0")),
            ("statement_timeout", "soon", None),
            ("jit", "TRUE", Some("on")),
            ("jit", "maybe", None),
            ("client_encoding", "utf-8", Some("UTF8")),
            ("client_encoding", "'utf-8'", Some("UTF8")),
            ("client_encoding", "LATIN1", None),
            ("tidegate.route", "ONLINE", Some("online")),
            ("tidegate.route", "both", None),
            ("tidegate.as_of", "2013-01-01", Some("2013-01-01")),
            ("tidegate.as_of", "", Some("")),
            ("tidegate.system_time", "one day", None),
            ("tidegate.nope", "1", None),
            ("my.own", "1", Some("1")),
            ("nope", "1", None),
            ("server_version", "9", None),
            ("extra_float_digits", "3", Some("3")),
            ("extra_float_digits", "4", None),
        ];
        for (name, value, kept) in cases {
            let outcome = settings.set(name, Some(value)).map(|()| settings.get(name).unwrap().to_owned());
            assert_eq!(outcome.ok().as_deref(), kept, "{name} = {value}");
        }
    }

    #[test]
    fn reset_goes_back_to_the_login() {
        let mut settings = settings();
        settings.set("application_name", Some("y")).unwrap();
        settings.reset("application_name").unwrap();
        assert_eq!(settings.get("APPLICATION_NAME"), Some("x"));
        assert_eq!(settings.show("datestyle").unwrap(), ("DateStyle".into(), "ISO, MDY".into()));
    }
}

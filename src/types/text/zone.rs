//! Time zones: what an instant without one is read in, and what an instant is shown in.

use std::str::FromStr;

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeZone};
use chrono_tz::{TZ_VARIANTS, Tz};

use crate::error::{Error, Result, SqlState};

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// The largest offset PostgreSQL takes: just under 16 hours.
pub(super) const OFFSET_SECONDS_MAX: i32 = 16 * 3600 - 1;

/// A time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    /// UTC.
    Utc,
    /// A fixed offset, in seconds east of Greenwich.
    Fixed(i32),
    /// A zone of the IANA database, with its history.
    Named(Tz),
}

impl Zone {
    /// The zone named `text`: an IANA name in any case, an offset east of Greenwich (`+01`, `+01:30`), or a POSIX zone
    /// as PostgreSQL shows it (`<+01>-01`). `22023` if there is none.
    pub fn parse(text: &str) -> Result<Self> {
        let unknown =
            || Error::new(SqlState::InvalidParameterValue, format!("time zone \"{}\" not recognized", text.to_lowercase()));
        let text = text.trim_ascii();
        if let Some((_, posix)) = text.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
            let seconds = match posix.starts_with(['+', '-']) {
                true => parse_offset(posix),
                false => parse_offset(&format!("+{posix}")),
            };
            return seconds
                .filter(|seconds| seconds.abs() <= OFFSET_SECONDS_MAX)
                .map(|west| Self::fixed(-west))
                .ok_or_else(unknown);
        }
        if text.starts_with(['+', '-']) {
            let seconds = parse_offset(text).filter(|seconds| seconds.abs() <= OFFSET_SECONDS_MAX);
            return seconds.map(Self::fixed).ok_or_else(unknown);
        }
        Self::named(text).ok_or_else(unknown)
    }

    /// The zone of this name or common abbreviation, in any case.
    pub(super) fn named(name: &str) -> Option<Self> {
        let abbreviation = ABBREVIATIONS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        if let Some((_, hours)) = abbreviation {
            return Some(Self::fixed(hours * 3600));
        }
        let zone = match Tz::from_str(name) {
            Ok(zone) => zone,
            Err(_) => *TZ_VARIANTS.iter().find(|zone| zone.name().eq_ignore_ascii_case(name))?,
        };
        Some(match zone {
            Tz::UTC | Tz::Etc__UTC | Tz::GMT | Tz::Etc__GMT => Zone::Utc,
            zone => Zone::Named(zone),
        })
    }

    pub(super) fn fixed(seconds_east: i32) -> Self {
        if seconds_east == 0 { Zone::Utc } else { Zone::Fixed(seconds_east) }
    }

    /// The zone's offset at an instant, in seconds east of Greenwich.
    pub fn offset_seconds(self, micros: i64) -> i32 {
        match self {
            Zone::Utc => 0,
            Zone::Fixed(seconds) => seconds,
            Zone::Named(zone) => {
                let instant = naive(micros);
                zone.offset_from_utc_datetime(&instant).fix().local_minus_utc()
            }
        }
    }

    /// The instant at which clocks of this zone show `local`, both in microseconds; `None` if it is out of range.
    ///
    /// A time that clocks skip is read with the offset before the jump, one they show twice as the second, as in PostgreSQL.
    pub(super) fn instant_of(self, local_micros: i64) -> Option<i64> {
        let seconds = match self {
            Zone::Utc => 0,
            Zone::Fixed(seconds) => seconds,
            Zone::Named(zone) => {
                let local = naive(local_micros);
                match zone.offset_from_local_datetime(&local) {
                    LocalResult::Single(offset) => offset.fix().local_minus_utc(),
                    LocalResult::Ambiguous(first, second) => {
                        // The second showing is the one further west.
                        first.fix().local_minus_utc().min(second.fix().local_minus_utc())
                    }
                    LocalResult::None => {
                        let day_before = naive(local_micros.saturating_sub(SECONDS_PER_DAY * MICROS_PER_SECOND));
                        zone.offset_from_utc_datetime(&day_before).fix().local_minus_utc()
                    }
                }
            }
        };
        local_micros.checked_sub(i64::from(seconds) * MICROS_PER_SECOND)
    }
}

/// A date and time for the zone database. Its own range is smaller than an instant's; beyond it, zones no longer change.
fn naive(micros: i64) -> NaiveDateTime {
    DateTime::from_timestamp_micros(micros).map_or_else(
        || if micros < 0 { DateTime::<chrono::Utc>::MIN_UTC.naive_utc() } else { DateTime::<chrono::Utc>::MAX_UTC.naive_utc() },
        |instant| instant.naive_utc(),
    )
}

/// An offset with its sign: `+h`, `+hh`, `+hhmm`, `+hhmmss`, `+hh:mm`, `+hh:mm:ss`; in seconds. `None` where it is not one.
pub(super) fn parse_offset(text: &str) -> Option<i32> {
    let negative = text.starts_with('-');
    let digits = text.strip_prefix(['+', '-'])?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    let parts: Vec<&str> = match digits.contains(':') {
        true => digits.split(':').collect(),
        false => match digits.len() {
            1 | 2 => vec![digits],
            3 => vec![&digits[..1], &digits[1..]],
            4 => vec![&digits[..2], &digits[2..]],
            6 => vec![&digits[..2], &digits[2..4], &digits[4..]],
            _ => return None,
        },
    };
    let mut seconds = 0;
    let mut unit = 3600;
    if parts.len() > 3 {
        return None;
    }
    for (index, part) in parts.iter().enumerate() {
        let value: i32 = part.parse().ok()?;
        if part.len() > 2 || (index > 0 && value > 59) {
            return None;
        }
        seconds += value * unit;
        unit /= 60;
    }
    Some(if negative { -seconds } else { seconds })
}

/// The abbreviations people write in timestamps, with the hours PostgreSQL's default set gives them. Those that are IANA
/// names too (`EST`, `UTC`) mean the same.
const ABBREVIATIONS: [(&str, i32); 18] = [
    ("z", 0),
    ("zulu", 0),
    ("ut", 0),
    ("utc", 0),
    ("gmt", 0),
    ("wet", 0),
    ("cet", 1),
    ("cest", 2),
    ("bst", 1),
    ("est", -5),
    ("edt", -4),
    ("cst", -6),
    ("cdt", -5),
    ("mst", -7),
    ("mdt", -6),
    ("pst", -8),
    ("pdt", -7),
    ("jst", 9),
];

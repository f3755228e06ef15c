//! `to_char(timestamp, pattern)` with PostgreSQL's patterns; instants with a zone are shown in the session's.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, TimeUnit, TimestampMicrosecondType};
use arrow::temporal_conversions::as_datetime;
use chrono::{Datelike, NaiveDateTime, Offset, TimeZone, Timelike};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::super::value::no_function;
use super::external;
use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;

/// `to_char` for a session in this time zone.
pub(super) fn to_char(time_zone: &str) -> Arc<ScalarUDF> {
    let signature = Signature::any(2, Volatility::Stable);
    Arc::new(ScalarUDF::new_from_impl(ToChar { time_zone: time_zone.to_owned(), signature }))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct ToChar {
    time_zone: String,
    signature: Signature,
}

impl ScalarUDFImpl for ToChar {
    fn name(&self) -> &str {
        "to_char"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        match arguments {
            [DataType::Timestamp(..) | DataType::Date32 | DataType::Null, _] => Ok(DataType::Utf8),
            [DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 | DataType::Boolean, _] => {
                Err(external(no_function("to_char", arguments)))
            }
            _ => {
                let refused = Error::unsupported("to_char of numbers and intervals");
                Err(external(refused.hint("It is built for date, timestamp and timestamptz.")))
            }
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        let types: Vec<DataType> = arguments.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        self.return_type(&types)?;
        Ok(SqlType::Text.field_ref("to_char", true))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let [instants, patterns] = arguments.args.as_slice() else {
            return Err(external(Error::internal("to_char takes two arguments")));
        };
        let (instants, patterns) = (instants.to_array(arguments.number_rows)?, patterns.to_array(arguments.number_rows)?);
        self.format(&instants, &cast(&patterns, &DataType::Utf8)?)
    }
}

impl ToChar {
    fn format(&self, instants: &ArrayRef, patterns: &ArrayRef) -> Result<ColumnarValue, DataFusionError> {
        let zone = match instants.data_type() {
            DataType::Timestamp(_, Some(_)) | DataType::Date32 => Some(self.zone().map_err(external)?),
            _ => None,
        };
        let micros = match instants.data_type() {
            DataType::Timestamp(_, zone) => cast(instants, &DataType::Timestamp(TimeUnit::Microsecond, zone.clone()))?,
            _ => cast(instants, &DataType::Timestamp(TimeUnit::Microsecond, None))?,
        };
        let local_already = matches!(instants.data_type(), DataType::Date32);
        let micros = micros.as_primitive::<TimestampMicrosecondType>();
        let patterns = patterns.as_string::<i32>();
        let mut texts = Vec::with_capacity(micros.len());
        for row in 0..micros.len() {
            texts.push(if micros.is_null(row) || patterns.is_null(row) {
                None
            } else {
                let moment = moment(micros.value(row), zone, local_already).map_err(external)?;
                Some(moment.show(patterns.value(row)))
            });
        }
        Ok(ColumnarValue::Array(Arc::new(StringArray::from(texts))))
    }

    fn zone(&self) -> Result<Zone> {
        Zone::read(&self.time_zone)
    }
}

/// A time zone: its offsets, and where it has a name their abbreviations.
#[derive(Clone, Copy)]
struct Zone {
    offsets: Tz,
    named: Option<chrono_tz::Tz>,
}

impl Zone {
    fn read(name: &str) -> Result<Self> {
        let offsets = name.parse::<Tz>().map_err(|source| {
            let unknown = format!("time zone \"{name}\" is not recognized");
            Error::new(SqlState::InvalidParameterValue, unknown).caused_by(source)
        })?;
        Ok(Self { offsets, named: name.parse().ok() })
    }
}

/// A moment as a clock on the wall shows it.
struct Moment {
    local: NaiveDateTime,
    /// Seconds east of UTC and the zone's abbreviation; nothing for a timestamp without a zone.
    zone: Option<(i32, String)>,
}

fn moment(micros: i64, zone: Option<Zone>, local_already: bool) -> Result<Moment> {
    let out_of_range = || Error::new(SqlState::DatetimeFieldOverflow, "timestamp out of range");
    let utc = as_datetime::<TimestampMicrosecondType>(micros).ok_or_else(out_of_range)?;
    let Some(zone) = zone else {
        return Ok(Moment { local: utc, zone: None });
    };
    let seconds = zone.offsets.offset_from_utc_datetime(&utc).fix().local_minus_utc();
    let local = if local_already { utc } else { utc + chrono::TimeDelta::seconds(i64::from(seconds)) };
    let name = zone.named.map_or_else(|| shown_offset(seconds), |named| named.offset_from_utc_datetime(&utc).to_string());
    Ok(Moment { local, zone: Some((seconds, name)) })
}

/// How the letters of a name are written.
#[derive(Clone, Copy)]
enum Case {
    Upper,
    Capital,
    Lower,
}

/// What a pattern's next letters ask for.
enum Part {
    /// A number with this many digits at least.
    Number(i64, usize),
    /// A text as it is.
    Text(String),
    /// A name, padded to this many letters unless `FM` says otherwise.
    Name(&'static str, Case, usize),
}

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
const DAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

impl Moment {
    /// The moment under PostgreSQL's template patterns; letters that are none stand for themselves.
    fn show(&self, pattern: &str) -> String {
        let mut text = String::new();
        let mut rest = pattern;
        while let Some(letter) = rest.chars().next() {
            if letter == '"' {
                let quoted = &rest[1..];
                let end = quoted.find('"').unwrap_or(quoted.len());
                text.push_str(&quoted[..end]);
                rest = quoted.get(end + 1..).unwrap_or_default();
                continue;
            }
            let filled = rest.strip_prefix("FM").or_else(|| rest.strip_prefix("fm"));
            let start = filled.unwrap_or(rest);
            match self.part(start) {
                Some((length, part)) => {
                    rest = write_part(&mut text, part, filled.is_some(), &start[length..]);
                }
                None => {
                    text.push(letter);
                    rest = &rest[letter.len_utf8()..];
                }
            }
        }
        text
    }

    /// The longest pattern at the start of `rest`: its length, and what it shows.
    fn part(&self, rest: &str) -> Option<(usize, Part)> {
        let upper: String = rest.chars().take(6).map(|letter| letter.to_ascii_uppercase()).collect();
        let (length, part) = PATTERNS.iter().find(|(name, _)| upper.starts_with(name)).map(|(name, kind)| (name.len(), *kind))?;
        let written = &rest[..length];
        let case = case_of(written);
        let (date, time) = (self.local.date(), self.local.time());
        let twelve = i64::from((time.hour() + 11) % 12 + 1);
        let micros = i64::from(time.nanosecond() / 1000);
        let year = i64::from(date.year());
        let zone = self.zone.as_ref();
        let offset = zone.map_or(0, |(seconds, _)| *seconds);
        let weekday = date.weekday().num_days_from_sunday();
        let month = MONTHS.get(date.month0() as usize).copied().unwrap_or_default();
        let day = DAYS.get(weekday as usize).copied().unwrap_or_default();
        let part = match part {
            Kind::Hour24 => Part::Number(i64::from(time.hour()), 2),
            Kind::Hour12 => Part::Number(twelve, 2),
            Kind::Minute => Part::Number(i64::from(time.minute()), 2),
            Kind::SecondOfDay => Part::Number(i64::from(time.num_seconds_from_midnight()), 1),
            Kind::Second => Part::Number(i64::from(time.second()), 2),
            Kind::Milli => Part::Number(micros / 1000, 3),
            Kind::Micro => Part::Number(micros, 6),
            Kind::Meridiem => Part::Text(cased(if time.hour() < 12 { "am" } else { "pm" }, case, 2)),
            Kind::Year(digits) => {
                Part::Number(if digits == 4 { year } else { year.rem_euclid(10_i64.pow(digits)) }, digits as usize)
            }
            Kind::IsoYear => Part::Number(i64::from(date.iso_week().year()), 4),
            Kind::MonthName => Part::Name(month, case, 9),
            Kind::MonthShort => Part::Text(cased(&month[..month.len().min(3)], case, 0)),
            Kind::Month => Part::Number(i64::from(date.month()), 2),
            Kind::DayName => Part::Name(day, case, 9),
            Kind::DayShort => Part::Text(cased(&day[..day.len().min(3)], case, 0)),
            Kind::DayOfYear => Part::Number(i64::from(date.ordinal()), 3),
            Kind::Day => Part::Number(i64::from(date.day()), 2),
            Kind::DayOfWeek => Part::Number(i64::from(weekday) + 1, 1),
            Kind::IsoDay => Part::Number(i64::from(date.weekday().number_from_monday()), 1),
            Kind::IsoWeek => Part::Number(i64::from(date.iso_week().week()), 2),
            Kind::Week => Part::Number(i64::from(date.ordinal0() / 7 + 1), 2),
            Kind::WeekOfMonth => Part::Number(i64::from(date.day0() / 7 + 1), 1),
            Kind::Quarter => Part::Number(i64::from(date.month0() / 3 + 1), 1),
            Kind::Century => Part::Number((year + 99).div_euclid(100), 2),
            Kind::ZoneName => Part::Text(zone.map(|(_, name)| cased(name, case, 0)).unwrap_or_default()),
            Kind::Offset => Part::Text(shown_offset(offset)),
        };
        Some((length, part))
    }
}

/// Writes a part, and takes an ordinal's ending off what follows.
fn write_part<'a>(text: &mut String, part: Part, filled: bool, rest: &'a str) -> &'a str {
    match part {
        Part::Text(written) => text.push_str(&written),
        Part::Name(name, case, width) => text.push_str(&cased(name, case, if filled { 0 } else { width })),
        Part::Number(number, digits) => {
            let width = if filled { 0 } else { digits };
            // Writing to a string cannot fail.
            let _ = write!(text, "{number:0width$}");
            for (ending, case) in [("TH", Case::Upper), ("th", Case::Lower)] {
                if let Some(after) = rest.strip_prefix(ending) {
                    text.push_str(&cased(ordinal(number), case, 0));
                    return after;
                }
            }
        }
    }
    rest
}

fn ordinal(number: i64) -> &'static str {
    match (number % 100, number % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

fn shown_offset(seconds: i32) -> String {
    let (sign, seconds) = if seconds < 0 { ('-', -seconds) } else { ('+', seconds) };
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if minutes == 0 { format!("{sign}{hours:02}") } else { format!("{sign}{hours:02}:{minutes:02}") }
}

fn case_of(written: &str) -> Case {
    let mut letters = written.chars();
    match (letters.next().map(char::is_uppercase), letters.next().map(char::is_uppercase)) {
        (Some(true), Some(true)) => Case::Upper,
        (Some(true), _) => Case::Capital,
        _ => Case::Lower,
    }
}

fn cased(name: &str, case: Case, width: usize) -> String {
    let name = match case {
        Case::Upper => name.to_uppercase(),
        Case::Lower => name.to_lowercase(),
        Case::Capital => {
            let mut letters = name.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
        }
    };
    format!("{name:<width$}")
}

/// What a pattern shows.
#[derive(Clone, Copy)]
enum Kind {
    Hour24,
    Hour12,
    Minute,
    SecondOfDay,
    Second,
    Milli,
    Micro,
    Meridiem,
    Year(u32),
    IsoYear,
    MonthName,
    MonthShort,
    Month,
    DayName,
    DayShort,
    DayOfYear,
    Day,
    DayOfWeek,
    IsoDay,
    IsoWeek,
    Week,
    WeekOfMonth,
    Quarter,
    Century,
    ZoneName,
    Offset,
}

/// The patterns, longer ones before their beginnings.
const PATTERNS: &[(&str, Kind)] = &[
    ("HH24", Kind::Hour24),
    ("HH12", Kind::Hour12),
    ("HH", Kind::Hour12),
    ("MI", Kind::Minute),
    ("SSSSS", Kind::SecondOfDay),
    ("SSSS", Kind::SecondOfDay),
    ("SS", Kind::Second),
    ("MS", Kind::Milli),
    ("US", Kind::Micro),
    ("AM", Kind::Meridiem),
    ("PM", Kind::Meridiem),
    ("YYYY", Kind::Year(4)),
    ("YYY", Kind::Year(3)),
    ("YY", Kind::Year(2)),
    ("Y", Kind::Year(1)),
    ("IYYY", Kind::IsoYear),
    ("MONTH", Kind::MonthName),
    ("MON", Kind::MonthShort),
    ("MM", Kind::Month),
    ("DAY", Kind::DayName),
    ("DY", Kind::DayShort),
    ("DDD", Kind::DayOfYear),
    ("DD", Kind::Day),
    ("D", Kind::DayOfWeek),
    ("ID", Kind::IsoDay),
    ("IW", Kind::IsoWeek),
    ("WW", Kind::Week),
    ("W", Kind::WeekOfMonth),
    ("Q", Kind::Quarter),
    ("CC", Kind::Century),
    ("TZ", Kind::ZoneName),
    ("OF", Kind::Offset),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The right-hand sides are PostgreSQL 15's.
    #[test]
    fn patterns_show_what_postgres_shows() {
        let shown = moment(1_360_411_445_123_456, Some(Zone::read("UTC").unwrap()), false).unwrap();
        for (pattern, text) in include_str!("to_char.txt").lines().filter_map(|line| line.split_once('|')) {
            assert_eq!(shown.show(pattern), text, "{pattern}");
        }
    }

    #[test]
    fn instants_are_shown_in_the_zone() {
        let zone = Some(Zone::read("America/New_York").unwrap());
        let shown = moment(1_360_411_445_000_000, zone, false).unwrap();
        assert_eq!(shown.show("YYYY-MM-DD HH24:MI:SS TZ OF"), "2013-02-09 07:04:05 EST -05");
    }
}

//! Dates, times and instants.

use super::zone::{OFFSET_SECONDS_MAX, Zone, parse_offset};
use super::{TextSink, write_integer};
use crate::error::{Error, Result, SqlState};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The first and the last day PostgreSQL knows, in days since 1970-01-01: 4714-11-24 BC and 5874897-12-31.
const DAY_MIN: i64 = -2_440_588;
const DAY_MAX: i64 = 2_147_483_493 - 2_440_588;

/// No type knows a later year, or one further before Christ.
const YEAR_MAX: i64 = 6_000_000;

/// The instant after all others, `infinity`, in microseconds; the one before them all is [`BEFORE_ALL`]. PostgreSQL sends the same
/// numbers. What computes with them gives an error, for they are no microseconds of any calendar.
pub const AFTER_ALL: i64 = i64::MAX;

/// `-infinity`
pub const BEFORE_ALL: i64 = i64::MIN;

/// Reads a finite instant; without a zone of its own it is read in `time_zone` (an IANA name or an offset). Microseconds since
/// 1970-01-01 UTC; `22007` if it is none, `22008` if it is out of range.
pub fn parse_instant(text: &str, time_zone: &str) -> Result<i64> {
    match infinity(text) {
        Some(_) => Err(infinite(text)),
        None => parse_timestamptz(text, Zone::parse(time_zone)?),
    }
}

pub(super) fn parse_timestamptz(text: &str, zone: Zone) -> Result<i64> {
    const TYPE: &str = "timestamp with time zone";
    if let Some(instant) = infinity(text) {
        return Ok(instant);
    }
    let fields = Fields::read(text, TYPE)?;
    let local = fields.local_micros(text, TYPE)?;
    let zone = fields.zone.unwrap_or(zone);
    zone.instant_of(local).filter(|micros| in_range(*micros)).ok_or_else(|| out_of_range("timestamp", text))
}

/// Reads a `timestamp`. A zone in the text is read over, as in PostgreSQL.
pub(super) fn parse_timestamp(text: &str) -> Result<i64> {
    const TYPE: &str = "timestamp";
    if let Some(instant) = infinity(text) {
        return Ok(instant);
    }
    Fields::read(text, TYPE)?.local_micros(text, TYPE)
}

/// Reads a `date`, as days since 1970-01-01. A time of day in the text is read over.
pub(super) fn parse_date(text: &str) -> Result<i32> {
    let fields = Fields::read(text, "date")?;
    let days = fields.days(text)?.ok_or_else(|| syntax("date", text))?;
    if !(DAY_MIN..=DAY_MAX).contains(&days) {
        return Err(out_of_range("date", text));
    }
    i32::try_from(days).map_err(|_| out_of_range("date", text))
}

/// Reads a `time`, as microseconds since midnight; `24:00` is the end of the day.
pub(super) fn parse_time(text: &str) -> Result<i64> {
    let fields = Fields::read(text, "time")?;
    fields.days(text)?;
    fields.time_of_day.ok_or_else(|| syntax("time", text))
}

fn in_range(micros: i64) -> bool {
    micros >= DAY_MIN * MICROS_PER_DAY
}

fn syntax(type_name: &str, text: &str) -> Error {
    Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type {type_name}: \"{text}\""))
}

fn field_out_of_range(text: &str) -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, format!("date/time field value out of range: \"{text}\""))
}

fn out_of_range(what: &str, text: &str) -> Error {
    Error::new(SqlState::DatetimeFieldOverflow, format!("{what} out of range: \"{text}\""))
}

/// What a text says of an instant.
#[derive(Default)]
struct Fields {
    /// Year (as written), month, day.
    date: Option<(i64, u32, u32)>,
    month_name: Option<u32>,
    /// Bare numbers around a month's name: the day and the year.
    numbers: Vec<(i64, usize)>,
    before_christ: bool,
    time_of_day: Option<i64>,
    afternoon: Option<bool>,
    zone: Option<Zone>,
    epoch: bool,
}

impl Fields {
    fn read(text: &str, type_name: &'static str) -> Result<Self> {
        let mut fields = Self::default();
        let mut rest = text.trim_ascii();
        if rest.is_empty() {
            return Err(syntax(type_name, text));
        }
        while !rest.is_empty() {
            let first = rest.as_bytes()[0];
            rest = match first {
                b' ' | b'\t' | b'\n' | b'\r' | b',' => &rest[1..],
                b'0'..=b'9' => fields.read_number(rest, text, type_name)?,
                b'+' | b'-' if fields.time_of_day.is_some() && fields.zone.is_none() => {
                    fields.read_offset(rest, text, type_name)?
                }
                b'-' | b'+' if is_infinity(&rest[1..]) => return Err(infinite(text)),
                b'T' | b't' if fields.date.is_some() && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit) => {
                    fields.read_time(&rest[1..], text, type_name)?
                }
                _ if first.is_ascii_alphabetic() => fields.read_word(rest, text, type_name)?,
                _ => return Err(syntax(type_name, text)),
            };
        }
        fields.settle_named_month(text, type_name)?;
        fields.settle_half_day(text)?;
        Ok(fields)
    }

    /// A date, a time of day or a bare number.
    fn read_number<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        match rest.as_bytes().get(digits) {
            Some(b':') => self.read_time(rest, text, type_name),
            Some(b'-' | b'/' | b'.') if self.date.is_none() && self.month_name.is_none() => self.read_date(rest, text, type_name),
            _ => {
                let number = rest[..digits].parse().map_err(|_| field_out_of_range(text))?;
                match (digits, self.date, self.month_name) {
                    (8, None, None) => self.date = Some((number / 10_000, two_digits(number / 100), two_digits(number))),
                    (_, None, _) => self.numbers.push((number, digits)),
                    _ => return Err(syntax(type_name, text)),
                }
                Ok(&rest[digits..])
            }
        }
    }

    /// Three parts joined by `-`, `/` or `.`: year first if it has more than two digits, else the month (`DateStyle` is MDY).
    fn read_date<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let bad = || syntax(type_name, text);
        let separator = rest.chars().find(|c| !c.is_ascii_digit()).ok_or_else(bad)?;
        let mut parts = rest.splitn(3, separator);
        let (Some(first), Some(second), Some(tail)) = (parts.next(), parts.next(), parts.next()) else { return Err(bad()) };
        let third_digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        let (third, after) = tail.split_at(third_digits);
        let number = |part: &str| part.parse::<i64>().map_err(|_| bad());
        let small = |part: &str| part.parse::<u32>().map_err(|_| bad());
        self.date = Some(match (month_of(second), first.len()) {
            (Some(month), digits) if digits > 2 => (number(first)?, month, small(third)?),
            (Some(month), _) => (full_year(number(third)?, third.len()), month, small(first)?),
            (None, digits) if digits > 2 => (number(first)?, small(second)?, small(third)?),
            (None, _) => (full_year(number(third)?, third.len()), small(first)?, small(second)?),
        });
        Ok(after)
    }

    /// `hh:mm`, `hh:mm:ss`, either with a fraction of a second; after a `T` also `hh`, `hhmm`, `hhmmss`.
    fn read_time<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let bad = || syntax(type_name, text);
        if self.time_of_day.is_some() {
            return Err(bad());
        }
        let length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.')).count();
        let (clock, after) = rest.split_at(length);
        let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
        let parts: Vec<&str> = match (clock.contains(':'), clock.len()) {
            (true, _) => clock.split(':').collect(),
            (false, 2) => vec![clock],
            (false, 4) => vec![&clock[..2], &clock[2..]],
            (false, 6) => vec![&clock[..2], &clock[2..4], &clock[4..]],
            (false, _) => return Err(bad()),
        };
        if parts.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) || (!fraction.is_empty() && parts.len() < 3) {
            return Err(bad());
        }
        let mut values = [0_i64; 3];
        for (value, part) in values.iter_mut().zip(&parts) {
            *value = part.parse().map_err(|_| bad())?;
        }
        let [hours, minutes, seconds] = values;
        let micros = fraction_micros(fraction);
        if hours > 24 || minutes > 59 || seconds > 60 || (hours == 24 && (minutes, seconds, micros) != (0, 0, 0)) {
            return Err(field_out_of_range(text));
        }
        self.time_of_day = Some(((hours * 60 + minutes) * 60 + seconds) * MICROS_PER_SECOND + micros);
        Ok(after)
    }

    fn read_offset<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let length = 1 + rest[1..].bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b':').count();
        let (offset, after) = rest.split_at(length);
        let seconds = parse_offset(offset).ok_or_else(|| syntax(type_name, text))?;
        if seconds.abs() > OFFSET_SECONDS_MAX {
            let message = format!("time zone displacement out of range: \"{text}\"");
            return Err(Error::new(SqlState::InvalidTimeZoneDisplacementValue, message));
        }
        self.zone = Some(Zone::fixed(seconds));
        Ok(after)
    }

    fn read_word<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let word = rest[..letters].to_ascii_lowercase();
        let after = &rest[letters..];
        match word.as_str() {
            "ad" => {}
            "bc" => self.before_christ = true,
            "am" => self.afternoon = Some(false),
            "pm" => self.afternoon = Some(true),
            "epoch" => {
                self.epoch = true;
                self.zone = Some(Zone::Utc);
            }
            "infinity" | "inf" => return Err(infinite(text)),
            "now" | "today" | "tomorrow" | "yesterday" | "allballs" => {
                return Err(Error::unsupported(format!("the instant \"{word}\" in a literal")).hint("Use now() or current_date."));
            }
            _ => match month_of(&word) {
                Some(month) if self.month_name.is_none() && self.date.is_none() => self.month_name = Some(month),
                _ if is_weekday(&word) => {}
                _ => return self.read_zone_name(rest, text, type_name),
            },
        }
        Ok(after)
    }

    fn read_zone_name<'a>(&mut self, rest: &'a str, text: &str, type_name: &'static str) -> Result<&'a str> {
        let is_long = rest.split([' ', '\t']).next().is_some_and(|name| name.contains('/'));
        let length = rest
            .bytes()
            .take_while(|byte| byte.is_ascii_alphabetic() || (is_long && (byte.is_ascii_digit() || b"/_+-".contains(byte))))
            .count();
        let (name, after) = rest.split_at(length);
        match Zone::named(name) {
            Some(zone) if self.zone.is_none() => {
                self.zone = Some(zone);
                Ok(after)
            }
            None if is_long => {
                Err(Error::new(SqlState::InvalidParameterValue, format!("time zone \"{}\" not recognized", name.to_lowercase())))
            }
            Some(_) | None => Err(syntax(type_name, text)),
        }
    }

    /// `Feb 9, 2013`, `9 February 2013`, `2013 Feb 9`.
    fn settle_named_month(&mut self, text: &str, type_name: &'static str) -> Result<()> {
        match (self.month_name, self.numbers.as_slice()) {
            (None, []) => Ok(()),
            (Some(month), &[(first, first_digits), (second, second_digits)]) => {
                let (year, digits, day) = match first_digits > 2 {
                    true => (first, first_digits, second),
                    false => (second, second_digits, first),
                };
                let day = u32::try_from(day).map_err(|_| field_out_of_range(text))?;
                self.date = Some((full_year(year, digits), month, day));
                Ok(())
            }
            _ => Err(syntax(type_name, text)),
        }
    }

    fn settle_half_day(&mut self, text: &str) -> Result<()> {
        const NOON: i64 = 12 * 3600 * MICROS_PER_SECOND;
        let (Some(afternoon), Some(time)) = (self.afternoon, self.time_of_day) else { return Ok(()) };
        if time >= NOON + 3600 * MICROS_PER_SECOND {
            return Err(field_out_of_range(text));
        }
        self.time_of_day = Some(time % NOON + if afternoon { NOON } else { 0 });
        Ok(())
    }

    /// Days since 1970-01-01; `None` if the text names no date.
    fn days(&self, text: &str) -> Result<Option<i64>> {
        if self.epoch {
            return Ok(Some(0));
        }
        let Some((written, month, day)) = self.date else { return Ok(None) };
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(field_out_of_range(text).hint("Perhaps you need a different \"datestyle\" setting."));
        }
        let year = if self.before_christ { 1 - written } else { written };
        if written > YEAR_MAX {
            return Err(out_of_range("date", text));
        }
        if written < 1 || day > days_in_month(year, month) {
            return Err(field_out_of_range(text));
        }
        Ok(Some(days_from_civil(year, month, day)))
    }

    fn local_micros(&self, text: &str, type_name: &'static str) -> Result<i64> {
        let days = self.days(text).map_err(|error| match error.message().starts_with("date out of range") {
            true => out_of_range("timestamp", text),
            false => error,
        })?;
        let days = days.ok_or_else(|| syntax(type_name, text))?;
        days.checked_mul(MICROS_PER_DAY)
            .and_then(|micros| micros.checked_add(self.time_of_day.unwrap_or(0)))
            .filter(|micros| in_range(*micros))
            .ok_or_else(|| out_of_range("timestamp", text))
    }
}

fn is_infinity(word: &str) -> bool {
    word.eq_ignore_ascii_case("infinity") || word.eq_ignore_ascii_case("inf")
}

/// The infinite instant that a text names.
fn infinity(text: &str) -> Option<i64> {
    let text = text.trim_ascii();
    match text.strip_prefix('-') {
        Some(word) => is_infinity(word).then_some(BEFORE_ALL),
        None => is_infinity(text.strip_prefix('+').unwrap_or(text)).then_some(AFTER_ALL),
    }
}

fn put_infinity(out: &mut impl TextSink, micros: i64) -> bool {
    match micros {
        AFTER_ALL => out.put("infinity"),
        BEFORE_ALL => out.put("-infinity"),
        _ => return false,
    }
    true
}

/// Where no infinite value is known: there is no such day, and nothing can be done at such an instant.
fn infinite(text: &str) -> Error {
    Error::unsupported(format!("the instant \"{}\"", text.trim_ascii())).hint("Write a finite one, such as 9999-12-31.")
}

fn two_digits(number: i64) -> u32 {
    u32::try_from(number % 100).unwrap_or(0)
}

fn full_year(year: i64, digits: usize) -> i64 {
    match (digits, year) {
        (0..=2, 0..70) => year + 2000,
        (0..=2, _) => year + 1900,
        _ => year,
    }
}

/// A fraction of a second in microseconds; what is below one is rounded as PostgreSQL does, by way of a float.
fn fraction_micros(digits: &str) -> i64 {
    let fraction: f64 = format!("0.{digits}").parse().unwrap_or(0.0);
    // At most a million, and so exact.
    (fraction * MICROS_PER_SECOND as f64).round_ties_even() as i64
}

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];

fn month_of(word: &str) -> Option<u32> {
    let word = word.to_ascii_lowercase();
    let month =
        MONTHS.iter().position(|month| *month == word || month[..3] == word || (word == "sept" && *month == "september"))?;
    u32::try_from(month + 1).ok()
}

fn is_weekday(word: &str) -> bool {
    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]
        .iter()
        .any(|day| *day == word || day[..3] == *word)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, year 0 being 1 BC. Eras are 400 years; years start in March here, so that
/// the leap day is the last of its year.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((i64::from(month) + 9) % 12) + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

fn put_padded(out: &mut impl TextSink, value: i64, width: u32) {
    let mut limit = 10_i64.pow(width.saturating_sub(1));
    while limit > 1 && value < limit {
        out.put("0");
        limit /= 10;
    }
    write_integer(out, value);
}

/// Writes year, month and day; gives what is to be added at the end for years before Christ.
fn put_date(out: &mut impl TextSink, days: i64) -> &'static str {
    let (year, month, day) = civil_from_days(days);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    put_padded(out, shown, 4);
    out.put("-");
    put_padded(out, month, 2);
    out.put("-");
    put_padded(out, day, 2);
    era
}

fn put_clock(out: &mut impl TextSink, micros: i64) {
    let seconds = micros / MICROS_PER_SECOND;
    put_padded(out, seconds / 3600, 2);
    out.put(":");
    put_padded(out, seconds / 60 % 60, 2);
    out.put(":");
    put_padded(out, seconds % 60, 2);
    put_fraction(out, micros % MICROS_PER_SECOND);
}

/// Writes a fraction of a second after the point, without zeros at its end.
pub(super) fn put_fraction(out: &mut impl TextSink, micros: i64) {
    if micros == 0 {
        return;
    }
    let (mut micros, mut width) = (micros, 6);
    while micros % 10 == 0 {
        micros /= 10;
        width -= 1;
    }
    out.put(".");
    put_padded(out, micros, width);
}

/// Writes a `date` given in days since 1970-01-01: `2013-02-09`, `0044-03-15 BC`.
pub fn write_date(out: &mut impl TextSink, days: i32) {
    let era = put_date(out, i64::from(days));
    out.put(era);
}

/// Writes a `time` given in microseconds since midnight: `12:00:00.5`.
pub fn write_time(out: &mut impl TextSink, micros: i64) {
    put_clock(out, micros.clamp(0, MICROS_PER_DAY));
}

/// Writes a `timestamp` given in microseconds since 1970-01-01: `2013-02-09 12:00:00`.
pub fn write_timestamp(out: &mut impl TextSink, micros: i64) {
    if put_infinity(out, micros) {
        return;
    }
    let era = put_date(out, micros.div_euclid(MICROS_PER_DAY));
    out.put(" ");
    put_clock(out, micros.rem_euclid(MICROS_PER_DAY));
    out.put(era);
}

/// Writes a `timestamptz` given in microseconds since 1970-01-01 UTC, as clocks of `zone` show it: `2013-02-09 12:00:00+00`.
pub fn write_timestamptz(out: &mut impl TextSink, micros: i64, zone: Zone) {
    if put_infinity(out, micros) {
        return;
    }
    let offset = i64::from(zone.offset_seconds(micros));
    let local = micros.saturating_add(offset * MICROS_PER_SECOND);
    let era = put_date(out, local.div_euclid(MICROS_PER_DAY));
    out.put(" ");
    put_clock(out, local.rem_euclid(MICROS_PER_DAY));
    out.put(if offset < 0 { "-" } else { "+" });
    let offset = offset.abs();
    put_padded(out, offset / 3600, 2);
    if offset % 3600 != 0 {
        out.put(":");
        put_padded(out, offset / 60 % 60, 2);
    }
    if offset % 60 != 0 {
        out.put(":");
        put_padded(out, offset % 60, 2);
    }
    out.put(era);
}

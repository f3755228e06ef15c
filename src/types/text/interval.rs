//! Intervals.

use arrow::datatypes::IntervalMonthDayNano;

use super::datetime::put_fraction;
use super::{TextSink, write_integer};
use crate::error::{Error, Result, SqlState};

const MICROS_PER_SECOND: i64 = 1_000_000;
const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
const NANOS_PER_MICRO: i64 = 1000;

/// Reads an interval in PostgreSQL's forms (`1 day 02:03:04`, `3 hours ago`, `1-2`) or ISO 8601's (`P1DT2H`).
/// `22007` if it is none, `22015` if it is out of range.
pub fn parse_interval(text: &str) -> Result<IntervalMonthDayNano> {
    let trimmed = text.trim_ascii();
    let sum = match trimmed.strip_prefix('P') {
        Some(iso) => read_iso(iso),
        None => read_words(trimmed),
    };
    let sum = sum.map_err(|problem| match problem {
        Problem::Syntax => {
            Error::new(SqlState::InvalidDatetimeFormat, format!("invalid input syntax for type interval: \"{text}\""))
        }
        Problem::Range => out_of_range(text),
    })?;
    let months = i32::try_from(sum.months).map_err(|_| out_of_range(text))?;
    let days = i32::try_from(sum.days).map_err(|_| out_of_range(text))?;
    let nanos = sum.micros.checked_mul(NANOS_PER_MICRO).ok_or_else(|| out_of_range(text))?;
    Ok(IntervalMonthDayNano::new(months, days, nanos))
}

fn out_of_range(text: &str) -> Error {
    Error::new(SqlState::IntervalFieldOverflow, format!("interval field value out of range: \"{text}\""))
}

enum Problem {
    Syntax,
    Range,
}

#[derive(Clone, Copy)]
enum Unit {
    Months(i64),
    Days(i64),
    Micros(i64),
}

#[derive(Default)]
struct Sum {
    months: i64,
    days: i64,
    micros: i64,
}

impl Sum {
    fn add(&mut self, amount: Amount, unit: Unit) -> Result<(), Problem> {
        let (field, size) = match unit {
            Unit::Months(size) => (&mut self.months, size),
            Unit::Days(size) => (&mut self.days, size),
            Unit::Micros(size) => (&mut self.micros, size),
        };
        let whole = amount.whole.checked_mul(size).and_then(|whole| field.checked_add(whole)).ok_or(Problem::Range)?;
        *field = whole;
        self.add_fraction(amount.fraction, unit)
    }

    /// What a fraction of a unit comes to: of a year, months; of a month, days and hours; of a week or day, days and hours.
    fn add_fraction(&mut self, fraction: f64, unit: Unit) -> Result<(), Problem> {
        if fraction == 0.0 {
            return Ok(());
        }
        match unit {
            Unit::Months(1) => self.add_fraction_of_days(fraction * 30.0),
            Unit::Months(size) => {
                // A fraction of a year counts whole months only, rounded.
                let months = round_to_i64(fraction * size as f64).ok_or(Problem::Range)?;
                self.months = self.months.checked_add(months).ok_or(Problem::Range)?;
                Ok(())
            }
            Unit::Days(size) => self.add_fraction_of_days(fraction * size as f64),
            Unit::Micros(size) => self.add_micros(fraction * size as f64),
        }
    }

    fn add_fraction_of_days(&mut self, days: f64) -> Result<(), Problem> {
        let whole = days.trunc();
        let days_whole = round_to_i64(whole).ok_or(Problem::Range)?;
        self.days = self.days.checked_add(days_whole).ok_or(Problem::Range)?;
        self.add_micros((days - whole) * MICROS_PER_DAY as f64)
    }

    fn add_micros(&mut self, micros: f64) -> Result<(), Problem> {
        let micros = round_to_i64(micros).ok_or(Problem::Range)?;
        self.micros = self.micros.checked_add(micros).ok_or(Problem::Range)?;
        Ok(())
    }

    fn negate(self) -> Result<Self, Problem> {
        let negate = |value: i64| value.checked_neg().ok_or(Problem::Range);
        Ok(Self { months: negate(self.months)?, days: negate(self.days)?, micros: negate(self.micros)? })
    }
}

fn round_to_i64(value: f64) -> Option<i64> {
    let rounded = value.round_ties_even();
    // Every float strictly within these bounds is an i64.
    (rounded.abs() < 9.2e18).then_some(rounded as i64)
}

struct Amount {
    whole: i64,
    fraction: f64,
}

impl Amount {
    /// A number with an optional sign and fraction, and how many bytes it takes.
    fn read(text: &str) -> Result<(Self, usize), Problem> {
        let sign_bytes = usize::from(text.starts_with(['+', '-']));
        let unsigned = &text[sign_bytes..];
        let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
        let fraction_digits = match unsigned[digits..].strip_prefix('.') {
            Some(fraction) => 1 + fraction.bytes().take_while(u8::is_ascii_digit).count(),
            None => 0,
        };
        if digits == 0 && fraction_digits < 2 {
            return Err(Problem::Syntax);
        }
        let whole: i64 = match digits {
            0 => 0,
            _ => unsigned[..digits].parse().map_err(|_| Problem::Range)?,
        };
        let fraction: f64 = match fraction_digits {
            0 | 1 => 0.0,
            length => format!("0{}", &unsigned[digits..digits + length]).parse().map_err(|_| Problem::Syntax)?,
        };
        let amount = match text.starts_with('-') {
            true => Self { whole: -whole, fraction: -fraction },
            false => Self { whole, fraction },
        };
        Ok((amount, sign_bytes + digits + fraction_digits))
    }
}

fn read_words(text: &str) -> Result<Sum, Problem> {
    let mut sum = Sum::default();
    let mut rest = text.strip_prefix('@').unwrap_or(text).trim_ascii_start();
    let mut ago = false;
    let mut any = false;
    while !rest.is_empty() {
        if rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("ago")) && rest.len() == 3 {
            ago = true;
            break;
        }
        any = true;
        rest = read_part(&mut sum, rest)?.trim_ascii_start();
    }
    match (any, ago) {
        (false, _) => Err(Problem::Syntax),
        (true, false) => Ok(sum),
        (true, true) => sum.negate(),
    }
}

/// One of: a clock time, years and months (`1-2`), a number with its unit, a number alone.
fn read_part<'a>(sum: &mut Sum, rest: &'a str) -> Result<&'a str, Problem> {
    let word = rest.split([' ', '\t', '\n']).next().unwrap_or(rest);
    if word.contains(':') {
        read_clock(sum, word)?;
        return Ok(&rest[word.len()..]);
    }
    let (amount, length) = Amount::read(rest)?;
    let after = &rest[length..];
    if let Some(months) = after.strip_prefix('-').filter(|months| months.starts_with(|c: char| c.is_ascii_digit())) {
        let (months, months_length) = Amount::read(months)?;
        if months.whole > 11 {
            return Err(Problem::Range);
        }
        let negative = rest.starts_with('-');
        sum.add(amount, Unit::Months(12))?;
        sum.add(Amount { whole: if negative { -months.whole } else { months.whole }, fraction: 0.0 }, Unit::Months(1))?;
        return Ok(&after[1 + months_length..]);
    }
    let unit_text = after.trim_ascii_start();
    let letters = unit_text.bytes().take_while(u8::is_ascii_alphabetic).count();
    if letters == 0 {
        // A number alone is seconds; before a clock time it is days.
        let is_days = unit_text.split([' ', '\t']).next().is_some_and(|next| next.contains(':'));
        sum.add(amount, if is_days { Unit::Days(1) } else { Unit::Micros(MICROS_PER_SECOND) })?;
        return Ok(unit_text);
    }
    let unit = unit_of(&unit_text[..letters].to_ascii_lowercase()).ok_or(Problem::Syntax)?;
    sum.add(amount, unit)?;
    Ok(&unit_text[letters..])
}

fn read_clock(sum: &mut Sum, word: &str) -> Result<(), Problem> {
    let negative = word.starts_with('-');
    let mut parts = word.strip_prefix(['+', '-']).unwrap_or(word).split(':');
    let number = |part: Option<&str>| -> Result<i64, Problem> {
        let part = part.unwrap_or("0");
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Problem::Syntax);
        }
        part.parse().map_err(|_| Problem::Range)
    };
    let (first, second, third) = (parts.next(), parts.next(), parts.next());
    if parts.next().is_some() {
        return Err(Problem::Syntax);
    }
    // `mm:ss.fff` where the second part has a fraction, else `hh:mm[:ss]`.
    let (hours, minutes, seconds) = match (third, second) {
        (None, Some(second)) if second.contains('.') => (0, number(first)?, second),
        _ => (number(first)?, number(second)?, third.unwrap_or("0")),
    };
    let (seconds, length) = Amount::read(seconds)?;
    if length != third.or(second).map_or(0, str::len) && third.is_some() {
        return Err(Problem::Syntax);
    }
    if minutes > 59 || seconds.whole > 60 {
        return Err(Problem::Range);
    }
    let sign = if negative { -1 } else { 1 };
    sum.add(Amount { whole: sign * hours, fraction: 0.0 }, Unit::Micros(3600 * MICROS_PER_SECOND))?;
    sum.add(Amount { whole: sign * minutes, fraction: 0.0 }, Unit::Micros(60 * MICROS_PER_SECOND))?;
    let seconds = Amount { whole: sign * seconds.whole, fraction: sign as f64 * seconds.fraction };
    sum.add(seconds, Unit::Micros(MICROS_PER_SECOND))
}

fn unit_of(word: &str) -> Option<Unit> {
    Some(match word {
        "us" | "usec" | "usecs" | "useconds" | "microsecond" | "microseconds" | "microsecon" => Unit::Micros(1),
        "ms" | "msec" | "msecs" | "mseconds" | "millisecond" | "milliseconds" | "millisecon" => Unit::Micros(1000),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Micros(MICROS_PER_SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Micros(60 * MICROS_PER_SECOND),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Micros(3600 * MICROS_PER_SECOND),
        "d" | "day" | "days" => Unit::Days(1),
        "w" | "week" | "weeks" => Unit::Days(7),
        "mon" | "mons" | "month" | "months" => Unit::Months(1),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
        "dec" | "decs" | "decade" | "decades" => Unit::Months(120),
        "c" | "cent" | "century" | "centuries" => Unit::Months(1200),
        "mil" | "mils" | "millennium" | "millennia" => Unit::Months(12_000),
        _ => return None,
    })
}

/// ISO 8601: designators (`1Y2M3DT4H5M6S`, `2W`) or the alternative form (`0001-02-03T04:05:06`).
fn read_iso(text: &str) -> Result<Sum, Problem> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time),
        None if text.is_empty() => return Err(Problem::Syntax),
        None => (text, ""),
    };
    let mut sum = Sum::default();
    match date.split('-').collect::<Vec<_>>().as_slice() {
        [years, months, days] if !years.is_empty() => {
            for (part, unit) in [(years, Unit::Months(12)), (months, Unit::Months(1)), (days, Unit::Days(1))] {
                let (amount, length) = Amount::read(part)?;
                if length != part.len() {
                    return Err(Problem::Syntax);
                }
                sum.add(amount, unit)?;
            }
        }
        _ => read_designators(&mut sum, date, |letter| {
            Some(match letter {
                b'Y' => Unit::Months(12),
                b'M' => Unit::Months(1),
                b'W' => Unit::Days(7),
                b'D' => Unit::Days(1),
                _ => return None,
            })
        })?,
    }
    if time.contains(':') {
        read_clock(&mut sum, time)?;
    } else {
        read_designators(&mut sum, time, |letter| {
            Some(match letter {
                b'H' => Unit::Micros(3600 * MICROS_PER_SECOND),
                b'M' => Unit::Micros(60 * MICROS_PER_SECOND),
                b'S' => Unit::Micros(MICROS_PER_SECOND),
                _ => return None,
            })
        })?;
    }
    Ok(sum)
}

fn read_designators(sum: &mut Sum, text: &str, unit: impl Fn(u8) -> Option<Unit>) -> Result<(), Problem> {
    let mut rest = text;
    while !rest.is_empty() {
        let (amount, length) = Amount::read(rest)?;
        let letter = *rest.as_bytes().get(length).ok_or(Problem::Syntax)?;
        sum.add(amount, unit(letter).ok_or(Problem::Syntax)?)?;
        rest = &rest[length + 1..];
    }
    Ok(())
}

/// Writes an interval in the `postgres` style: `1 year 2 mons 3 days 04:05:06.7`. Nanoseconds below a microsecond are cut off.
pub fn write_interval(out: &mut impl TextSink, value: IntervalMonthDayNano) {
    let mut first = true;
    let mut negative_before = false;
    let months = i64::from(value.months);
    for (amount, unit) in [(months / 12, "year"), (months % 12, "mon"), (i64::from(value.days), "day")] {
        if amount == 0 {
            continue;
        }
        if !first {
            out.put(" ");
        }
        if negative_before && amount > 0 {
            out.put("+");
        }
        write_integer(out, amount);
        out.put(" ");
        out.put(unit);
        if amount != 1 {
            out.put("s");
        }
        first = false;
        negative_before = amount < 0;
    }
    let micros = value.nanoseconds / NANOS_PER_MICRO;
    if micros == 0 && !first {
        return;
    }
    if !first {
        out.put(" ");
    }
    if micros < 0 {
        out.put("-");
    } else if negative_before {
        out.put("+");
    }
    let micros = micros.abs();
    let seconds = micros / MICROS_PER_SECOND;
    for (value, separator) in [(seconds / 3600, ":"), (seconds / 60 % 60, ":"), (seconds % 60, "")] {
        if value < 10 {
            out.put("0");
        }
        write_integer(out, value);
        out.put(separator);
    }
    put_fraction(out, micros % MICROS_PER_SECOND);
}

//! Booleans, integers, floats and decimals.

use std::fmt::{Display, Write};
use std::str::FromStr;

use super::{TextSink, syntax};
use crate::error::{Error, Result, SqlState};

/// Reads `boolean`: any unambiguous prefix of `true`, `false`, `yes`, `no`, `on`, `off`, or `1`, `0`; case does not matter.
pub(super) fn parse_bool(text: &str) -> Result<bool> {
    let word = text.trim_ascii();
    let is_prefix_of = |full: &str, least: usize| {
        word.len() >= least && full.get(..word.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(word))
    };
    if word == "1" || is_prefix_of("true", 1) || is_prefix_of("yes", 1) || is_prefix_of("on", 2) {
        Ok(true)
    } else if word == "0" || is_prefix_of("false", 1) || is_prefix_of("no", 1) || is_prefix_of("off", 2) {
        Ok(false)
    } else {
        Err(syntax("boolean", text))
    }
}

/// Reads a decimal integer with optional sign and spaces around it.
pub(super) fn parse_integer<T: FromStr>(text: &str, type_name: &'static str) -> Result<T> {
    let word = text.trim_ascii();
    if let Ok(value) = word.parse::<T>() {
        return Ok(value);
    }
    let digits = word.strip_prefix(['+', '-']).unwrap_or(word);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        Err(out_of_range(text, type_name))
    } else {
        Err(syntax(type_name, text))
    }
}

/// Reads `oid`: 0 to 4294967295; a negative number counts down from the top, as in PostgreSQL.
pub(super) fn parse_oid(text: &str) -> Result<i64> {
    let value: i64 = parse_integer(text, "oid")?;
    match value {
        0..=0xffff_ffff => Ok(value),
        -0x8000_0000..0 => Ok(value + 0x1_0000_0000),
        _ => Err(out_of_range(text, "oid")),
    }
}

fn out_of_range(text: &str, type_name: &str) -> Error {
    Error::new(SqlState::NumericValueOutOfRange, format!("value \"{text}\" is out of range for type {type_name}"))
}

pub(super) fn parse_float8(text: &str) -> Result<f64> {
    parse_float(text, "double precision", |value: f64| value.is_infinite(), |value| value == 0.0)
}

pub(super) fn parse_float4(text: &str) -> Result<f32> {
    parse_float(text, "real", |value: f32| value.is_infinite(), |value| value == 0.0)
}

fn parse_float<T: FromStr + Copy>(
    text: &str,
    type_name: &'static str,
    is_infinite: impl Fn(T) -> bool,
    is_zero: impl Fn(T) -> bool,
) -> Result<T> {
    let word = text.trim_ascii();
    let value: T = word.parse().map_err(|_| syntax(type_name, text))?;
    let mantissa = word.split(['e', 'E']).next().unwrap_or("");
    let overflow = is_infinite(value) && word.bytes().any(|byte| byte.is_ascii_digit());
    let underflow = is_zero(value) && mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    if overflow || underflow {
        let message = format!("\"{word}\" is out of range for type {type_name}");
        return Err(Error::new(SqlState::NumericValueOutOfRange, message));
    }
    Ok(value)
}

/// Reads `numeric(precision, scale)` as a multiple of ten to the minus `scale`, rounding half away from zero.
pub fn parse_decimal(text: &str, precision: u8, scale: i8) -> Result<i128> {
    let word = text.trim_ascii();
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    if ["nan", "inf", "infinity"].iter().any(|special| unsigned.eq_ignore_ascii_case(special)) {
        let what = if unsigned.eq_ignore_ascii_case("nan") { "NaN" } else { "an infinite value" };
        return Err(overflow().detail(format!("A field with precision {precision}, scale {scale} cannot hold {what}.")));
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| syntax("numeric", text))?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits_only = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits_only {
        return Err(syntax("numeric", text));
    }
    let limit = || {
        let power = i32::from(precision) - i32::from(scale);
        overflow().detail(format!(
            "A field with precision {precision}, scale {scale} must round to an absolute value less than 10^{power}."
        ))
    };
    // The digits that count: up to `shift` places after those written before the point.
    let digits = || whole.bytes().chain(fraction.bytes()).map(|byte| i128::from(byte - b'0'));
    let written = i64::try_from(whole.len()).unwrap_or(i64::MAX);
    let kept = written.saturating_add(i64::from(exponent)).saturating_add(i64::from(scale));
    let mut value: i128 = 0;
    for (_, digit) in (0_i64..).zip(digits()).take_while(|(place, _)| *place < kept) {
        value = value.checked_mul(10).and_then(|value| value.checked_add(digit)).ok_or_else(limit)?;
    }
    let available = i64::try_from(whole.len() + fraction.len()).unwrap_or(i64::MAX);
    if value != 0 {
        for _ in available..kept {
            value = value.checked_mul(10).ok_or_else(limit)?;
        }
    }
    if kept >= 0 && digits().nth(usize::try_from(kept).unwrap_or(usize::MAX)).is_some_and(|next| next >= 5) {
        value = value.checked_add(1).ok_or_else(limit)?;
    }
    if value >= 10_i128.checked_pow(u32::from(precision)).unwrap_or(i128::MAX) {
        return Err(limit());
    }
    Ok(if word.starts_with('-') { -value } else { value })
}

fn overflow() -> Error {
    Error::new(SqlState::NumericValueOutOfRange, "numeric field overflow")
}

/// Writes an integer.
pub fn write_integer(out: &mut impl TextSink, value: i64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    let mut rest = value.unsigned_abs();
    loop {
        start -= 1;
        digits[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        out.put("-");
    }
    out.put(std::str::from_utf8(&digits[start..]).expect("digits are ASCII"));
}

/// Writes `double precision` in the shortest form that reads back as the same number.
pub fn write_float8(out: &mut impl TextSink, value: f64) {
    if value.is_nan() {
        out.put("NaN");
    } else if value.is_infinite() {
        out.put(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else if value == 0.0 || (1e-4..1e15).contains(&value.abs()) {
        write_positional(out, value);
    } else {
        write_scientific(out, value);
    }
}

/// Writes `real` in the shortest form that reads back as the same number.
pub fn write_float4(out: &mut impl TextSink, value: f32) {
    if value.is_nan() {
        out.put("NaN");
    } else if value.is_infinite() {
        out.put(if value > 0.0 { "Infinity" } else { "-Infinity" });
    } else if value == 0.0 || (1e-4..1e6).contains(&value.abs()) {
        write_positional(out, value);
    } else {
        write_scientific(out, value);
    }
}

/// Writes a number that PostgreSQL writes without an exponent.
fn write_positional(out: &mut impl TextSink, value: impl zmij::Float) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    out.put(text.strip_suffix(".0").unwrap_or(text));
}

/// Writes a number that PostgreSQL writes with an exponent, which always has a sign and two digits.
fn write_scientific(out: &mut impl TextSink, value: impl zmij::Float) {
    let mut buffer = zmij::Buffer::new();
    let text = buffer.format_finite(value);
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, power) = unsigned.split_once('e').unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let significant = digits.trim_start_matches('0');
    // How many digits stand before the point, less where it stands when only one does.
    let moved = digits.len() - significant.len() + 1;
    let power: i64 = power.parse().unwrap_or(0);
    let exponent = power + i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(moved).unwrap_or(0);
    let (first, rest) = significant.trim_end_matches('0').split_at(1);
    if text.len() > unsigned.len() {
        out.put("-");
    }
    out.put(first);
    if !rest.is_empty() {
        out.put(".");
        out.put(rest);
    }
    out.put(if exponent < 0 { "e-" } else { "e+" });
    if exponent.abs() < 10 {
        out.put("0");
    }
    write_integer(out, exponent.abs());
}

/// Writes a decimal given by the digits of its unscaled value (with a sign, if negative), keeping all of its scale.
pub fn write_decimal(out: &mut impl TextSink, unscaled: &impl Display, scale: i8) {
    let mut text = String::new();
    // A `String` takes whatever is written to it.
    let _ = write!(text, "{unscaled}");
    let digits = match text.strip_prefix('-') {
        Some(digits) => {
            out.put("-");
            digits
        }
        None => &text,
    };
    match usize::try_from(scale) {
        Ok(0) => out.put(digits),
        Ok(scale) if digits.len() > scale => {
            let (whole, fraction) = digits.split_at(digits.len() - scale);
            out.put(whole);
            out.put(".");
            out.put(fraction);
        }
        Ok(scale) => {
            out.put("0.");
            (digits.len()..scale).for_each(|_| out.put("0"));
            out.put(digits);
        }
        Err(_) => {
            out.put(digits);
            if digits != "0" {
                (scale..0).for_each(|_| out.put("0"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_written_with_their_shortest_digits(mantissa in -1_000_000_000_000_i64..1_000_000_000_000, power in -16..3_i32) {
            let value = mantissa as f64 * 10_f64.powi(power);
            let mut text = String::new();
            write_float8(&mut text, value);
            prop_assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits());
            if !text.contains('e') {
                prop_assert_eq!(text, format!("{value}"));
            }
        }

        #[test]
        fn numbers_of_any_size_have_an_exponent_where_it_is_due(bits in any::<u64>(), power in -8..20_i32) {
            for value in [f64::from_bits(bits), 10_f64.powi(power) * (1.0 + bits as f64 / 1e20)] {
                let mut text = String::new();
                write_float8(&mut text, value);
                prop_assert_eq!(text.contains('e'), value.is_finite() && format!("{value:e}").split_once('e').is_some_and(|(_, power)| {
                    !(-4..15).contains(&power.parse::<i32>().unwrap())
                }), "{}", text);
                prop_assert!(value.is_nan() || text.parse::<f64>().unwrap() == value, "{}", text);
            }
            let value = f32::from_bits(bits as u32);
            let mut text = String::new();
            write_float4(&mut text, value);
            prop_assert!(value.is_nan() || text.parse::<f32>().unwrap() == value, "{}", text);
            // Of two as near, PostgreSQL writes the one that ends in an even digit.
            if value.is_finite() && !text.contains('e') {
                prop_assert_eq!(text.len(), format!("{value}").len());
            }
        }
    }
}

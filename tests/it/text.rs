//! Binary results as psql would show them, so that one script can be held against both formats.
//!
//! Written from PostgreSQL's description of the formats and not with the server's own encoders: a second opinion.
//! Instants are shown in UTC.

use std::error::Error;

use tokio_postgres::types::{FromSql, Kind, Type};

/// One value's text.
pub(crate) struct ValueText(String);

impl ValueText {
    /// The text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

type Outcome<T> = Result<T, Box<dyn Error + Sync + Send>>;

impl<'a> FromSql<'a> for ValueText {
    fn from_sql(data_type: &Type, raw: &'a [u8]) -> Outcome<Self> {
        decode(data_type, raw).map(Self)
    }

    fn accepts(_data_type: &Type) -> bool {
        true
    }
}

fn decode(data_type: &Type, raw: &[u8]) -> Outcome<String> {
    if let Kind::Array(element) = data_type.kind() {
        return array(element, raw);
    }
    Ok(match *data_type {
        Type::BOOL => if take::<1>(&mut &*raw)? == [1] { "t" } else { "f" }.to_owned(),
        Type::INT2 => i16::from_be_bytes(raw.try_into()?).to_string(),
        Type::INT4 => i32::from_be_bytes(raw.try_into()?).to_string(),
        Type::INT8 => i64::from_be_bytes(raw.try_into()?).to_string(),
        Type::OID | Type::REGCLASS | Type::REGTYPE | Type::REGPROC | Type::REGNAMESPACE => {
            u32::from_be_bytes(raw.try_into()?).to_string()
        }
        Type::FLOAT4 => {
            let number = f32::from_be_bytes(raw.try_into()?);
            float(f64::from(number), &format!("{number:e}"), 6)
        }
        Type::FLOAT8 => {
            let number = f64::from_be_bytes(raw.try_into()?);
            float(number, &format!("{number:e}"), 15)
        }
        Type::NUMERIC => numeric(raw)?,
        Type::BYTEA => format!("\\x{}", hex(raw)),
        Type::UUID => {
            let digits = hex(raw);
            [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
        }
        Type::DATE => date(i64::from(i32::from_be_bytes(raw.try_into()?))),
        Type::TIME => time(i64::from_be_bytes(raw.try_into()?)),
        Type::TIMESTAMP => timestamp(i64::from_be_bytes(raw.try_into()?)),
        Type::TIMESTAMPTZ => with_zone(&timestamp(i64::from_be_bytes(raw.try_into()?))),
        Type::INTERVAL => interval(raw)?,
        Type::JSONB => String::from_utf8(raw.get(1..).unwrap_or_default().to_vec())?,
        _ => String::from_utf8(raw.to_vec())?,
    })
}

fn take<const N: usize>(raw: &mut &[u8]) -> Outcome<[u8; N]> {
    let (head, rest) = raw.split_first_chunk::<N>().ok_or("the value ends early")?;
    *raw = rest;
    Ok(*head)
}

fn hex(raw: &[u8]) -> String {
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The shortest digits that read back as the same number, in PostgreSQL's choice of notation: plain from 1e-4 to below
/// 10 to the power of `plain_digits`.
fn float(number: f64, scientific: &str, plain_digits: i32) -> String {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let (mantissa, exponent) = scientific.split_once('e').expect("Rust writes an exponent");
    let exponent: i32 = exponent.parse().expect("Rust writes the exponent as a number");
    if !(-4..plain_digits).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits.replace('.', "")),
        None => ("", mantissa.replace('.', "")),
    };
    let text = if exponent < 0 {
        format!("0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1))
    } else if digits.len() <= exponent as usize + 1 {
        format!("{digits}{}", "0".repeat(exponent as usize + 1 - digits.len()))
    } else {
        format!("{}.{}", &digits[..=exponent as usize], &digits[exponent as usize + 1..])
    };
    format!("{sign}{text}")
}

fn numeric(mut raw: &[u8]) -> Outcome<String> {
    let groups = i16::from_be_bytes(take(&mut raw)?);
    let weight = i16::from_be_bytes(take(&mut raw)?);
    let sign = u16::from_be_bytes(take(&mut raw)?);
    let scale = usize::from(u16::from_be_bytes(take(&mut raw)?));
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        _ => {}
    }
    let mut digits = Vec::new();
    for _ in 0..groups {
        digits.push(i16::from_be_bytes(take(&mut raw)?));
    }
    let group = |place: i16| digits.get(usize::try_from(place).unwrap_or(usize::MAX)).copied().unwrap_or(0);
    let mut whole: String = (0..=weight).map(|place| format!("{:04}", group(place))).collect();
    whole = whole.trim_start_matches('0').to_owned();
    let fraction_groups = i16::try_from(scale.div_ceil(4))?;
    let mut fraction: String = (weight + 1..=weight + fraction_groups).map(|place| format!("{:04}", group(place))).collect();
    fraction.truncate(scale);
    let sign = if sign == 0x4000 { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { &whole };
    Ok(if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:0<scale$}") })
}

const DAY: i64 = 86_400_000_000;

/// Days since 2000-01-01.
fn date(days: i64) -> String {
    let epoch = chrono::NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");
    let day = epoch + chrono::TimeDelta::days(days);
    match chrono::Datelike::year(&day) {
        year @ 1.. => format!("{year:04}-{}", day.format("%m-%d")),
        year => format!("{:04}-{} BC", 1 - year, day.format("%m-%d")),
    }
}

/// Microseconds since midnight.
fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction == 0 {
        return text;
    }
    format!("{text}.{}", format!("{fraction:06}").trim_end_matches('0'))
}

/// Microseconds since 2000-01-01.
fn timestamp(micros: i64) -> String {
    match micros {
        i64::MAX => return "infinity".into(),
        i64::MIN => return "-infinity".into(),
        _ => {}
    }
    let (day, clock) = (date(micros.div_euclid(DAY)), time(micros.rem_euclid(DAY)));
    match day.strip_suffix(" BC") {
        Some(day) => format!("{day} {clock} BC"),
        None => format!("{day} {clock}"),
    }
}

fn with_zone(timestamp: &str) -> String {
    match timestamp.strip_suffix(" BC") {
        Some(_) if timestamp.ends_with("infinity") => timestamp.into(),
        Some(rest) => format!("{rest}+00 BC"),
        None if timestamp.ends_with("infinity") => timestamp.into(),
        None => format!("{timestamp}+00"),
    }
}

fn interval(mut raw: &[u8]) -> Outcome<String> {
    let micros = i64::from_be_bytes(take(&mut raw)?);
    let days = i32::from_be_bytes(take(&mut raw)?);
    let months = i32::from_be_bytes(take(&mut raw)?);
    let mut parts: Vec<String> = Vec::new();
    let mut after_negative = false;
    for (count, unit) in [(months / 12, "year"), (months % 12, "mon"), (days, "day")] {
        if count != 0 {
            let plus = if after_negative && count > 0 { "+" } else { "" };
            let plural = if count == 1 { "" } else { "s" };
            parts.push(format!("{plus}{count} {unit}{plural}"));
            after_negative = count < 0;
        }
    }
    if micros != 0 || parts.is_empty() {
        let sign = if micros < 0 {
            "-"
        } else if after_negative {
            "+"
        } else {
            ""
        };
        parts.push(format!("{sign}{}", time(micros.abs())));
    }
    Ok(parts.join(" "))
}

fn array(element: &Type, mut raw: &[u8]) -> Outcome<String> {
    let dimensions = i32::from_be_bytes(take(&mut raw)?);
    let _has_nulls: [u8; 4] = take(&mut raw)?;
    let stated = u32::from_be_bytes(take(&mut raw)?);
    if stated != element.oid() {
        return Err(format!("an array of {} says its elements are {stated}", element.name()).into());
    }
    match dimensions {
        0 => return Ok("{}".into()),
        1 => {}
        other => return Err(format!("an array of {other} dimensions").into()),
    }
    let length = i32::from_be_bytes(take(&mut raw)?);
    let _lower_bound: [u8; 4] = take(&mut raw)?;
    let mut items = Vec::new();
    for _ in 0..length {
        let bytes = i32::from_be_bytes(take(&mut raw)?);
        let Ok(bytes) = usize::try_from(bytes) else {
            items.push("NULL".to_owned());
            continue;
        };
        let (item, rest) = raw.split_at_checked(bytes).ok_or("the array ends early")?;
        raw = rest;
        items.push(quote(&decode(element, item)?));
    }
    Ok(format!("{{{}}}", items.join(",")))
}

/// An array's element as PostgreSQL quotes it.
fn quote(item: &str) -> String {
    let special = |c: char| matches!(c, '{' | '}' | ',' | '"' | '\\') || c.is_ascii_whitespace();
    if item.is_empty() || item.eq_ignore_ascii_case("null") || item.contains(special) {
        return format!("\"{}\"", item.replace('\\', "\\\\").replace('"', "\\\""));
    }
    item.to_owned()
}

#[test]
fn binary_values_read_as_postgresql_writes_them() {
    let check = |data_type: Type, raw: &[u8], expected: &str| {
        assert_eq!(decode(&data_type, raw).unwrap(), expected, "{data_type}");
    };
    for (number, expected) in [
        (0.1, "0.1"),
        (1e20, "1e+20"),
        (-1.5e-7, "-1.5e-07"),
        (123_456_789_012_345.0, "123456789012345"),
        (1e15, "1e+15"),
        (0.0001, "0.0001"),
    ] {
        check(Type::FLOAT8, &f64::to_be_bytes(number), expected);
    }
    // 12345.678 is the groups 1, 2345, 6780 with the first of weight 1.
    check(Type::NUMERIC, &[0, 3, 0, 1, 0, 0, 0, 3, 0, 1, 0x09, 0x29, 0x1a, 0x7c], "12345.678");
    check(Type::NUMERIC, &[0, 1, 0xff, 0xfe, 0x40, 0, 0, 6, 0x26, 0xac], "-0.000099");
    check(Type::NUMERIC, &[0, 1, 0xff, 0xff, 0, 0, 0, 4, 0, 5], "0.0005");
    check(Type::TIMESTAMPTZ, &0_i64.to_be_bytes(), "2000-01-01 00:00:00+00");
    check(Type::TIMESTAMP, &(-1_i64).to_be_bytes(), "1999-12-31 23:59:59.999999");
    check(
        Type::INTERVAL,
        &[&(-7_200_000_000_i64).to_be_bytes()[..], &1_i32.to_be_bytes(), &0_i32.to_be_bytes()].concat(),
        "1 day -02:00:00",
    );
}

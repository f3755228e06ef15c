//! Values as text.

use arrow::array::Array;

use super::{Cells, Values};
use crate::types::SqlType;
use crate::types::text::{
    TextSink, Zone, write_bytea, write_date, write_decimal, write_element, write_float4, write_float8, write_integer,
    write_interval, write_time, write_timestamp, write_timestamptz,
};

impl Cells {
    /// Writes the cell's text, instants as in `zone`; nothing for NULL.
    pub(crate) fn write_text(&self, row: usize, zone: Zone, out: &mut impl TextSink) {
        match &self.values {
            Values::Null => {}
            Values::Boolean(values) => out.put(if values.value(row) { "t" } else { "f" }),
            Values::Int16(values) => write_integer(out, values.value(row).into()),
            Values::Int32(values) => write_integer(out, values.value(row).into()),
            Values::Int64(values) => write_integer(out, values.value(row)),
            Values::Float32(values) => write_float4(out, values.value(row)),
            Values::Float64(values) => write_float8(out, values.value(row)),
            Values::Decimal128(values, scale) => write_decimal(out, &values.value(row), *scale),
            Values::Decimal256(values, scale) => write_decimal(out, &values.value(row), *scale),
            Values::Utf8(values) => out.put(values.value(row)),
            Values::LargeUtf8(values) => out.put(values.value(row)),
            Values::Utf8View(values) => out.put(values.value(row)),
            Values::Binary(values) => write_bytea(out, values.value(row)),
            Values::LargeBinary(values) => write_bytea(out, values.value(row)),
            Values::BinaryView(values) => write_bytea(out, values.value(row)),
            Values::Date(values) => write_date(out, values.value(row)),
            Values::Time(values) => write_time(out, values.value(row)),
            Values::Timestamp(values) => match self.sql_type {
                SqlType::TimestampTz => write_timestamptz(out, values.value(row), zone),
                _ => write_timestamp(out, values.value(row)),
            },
            Values::Interval(values) => write_interval(out, values.value(row)),
            Values::List(_, _) | Values::FixedList(_, _) => self.write_list(row, zone, out),
        }
    }

    fn write_list(&self, row: usize, zone: Zone, out: &mut impl TextSink) {
        let Some((range, elements)) = self.elements(row) else { return };
        let (open, separator, close) = match self.sql_type {
            SqlType::Int2Vector | SqlType::OidVector => ("", " ", ""),
            _ => ("{", ",", "}"),
        };
        out.put(open);
        let mut scratch = String::new();
        for element in range.clone() {
            if element > range.start {
                out.put(separator);
            }
            if elements.is_null(element) {
                out.put("NULL");
            } else if elements.needs_no_quotes() {
                elements.write_text(element, zone, out);
            } else {
                scratch.clear();
                elements.write_text(element, zone, &mut scratch);
                write_element(out, &scratch);
            }
        }
        out.put(close);
    }

    /// Whether the text of these values can never be misread inside an array.
    fn needs_no_quotes(&self) -> bool {
        match &self.values {
            Values::Null
            | Values::Boolean(_)
            | Values::Int16(_)
            | Values::Int32(_)
            | Values::Int64(_)
            | Values::Float32(_)
            | Values::Float64(_)
            | Values::Decimal128(_, _)
            | Values::Decimal256(_, _)
            | Values::Time(_)
            | Values::List(_, _)
            | Values::FixedList(_, _) => true,
            // Years before Christ are written with a space.
            Values::Date(values) => values.values().iter().all(|days| *days > -719_162),
            Values::Utf8(values) => values.is_empty(),
            Values::LargeUtf8(_)
            | Values::Utf8View(_)
            | Values::Binary(_)
            | Values::LargeBinary(_)
            | Values::BinaryView(_)
            | Values::Timestamp(_)
            | Values::Interval(_) => false,
        }
    }
}

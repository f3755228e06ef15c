//! Whatever a client sends, nothing panics: it is read, or refused.

use std::sync::Arc;

use arrow::datatypes::Schema;
use bytes::Bytes;
use proptest::prelude::*;

use super::copy::CopyReader;
use super::decode::BinaryParser;
use super::frontend::Message;
use super::wire::Frame;
use crate::error::Error;
use crate::parser::{CopyFormat, CopyOptions};
use crate::registry::{Column, ObjectId, Table, TableSource, Target};
use crate::session::CopyIn;
use crate::types::SqlType;
use crate::types::text::{TextParser, Zone};

fn all_types() -> Vec<SqlType> {
    let array = |element| SqlType::Array(Box::new(element));
    vec![
        SqlType::Boolean,
        SqlType::SmallInt,
        SqlType::Integer,
        SqlType::BigInt,
        SqlType::Real,
        SqlType::DoublePrecision,
        SqlType::Numeric { precision: 10, scale: 2 },
        SqlType::Numeric { precision: 38, scale: 0 },
        SqlType::Numeric { precision: 38, scale: 38 },
        SqlType::Text,
        SqlType::Bytea,
        SqlType::Date,
        SqlType::Time,
        SqlType::Timestamp,
        SqlType::TimestampTz,
        SqlType::Interval,
        SqlType::Uuid,
        SqlType::Json,
        SqlType::Name,
        SqlType::Oid,
        SqlType::Char,
        SqlType::Int2Vector,
        SqlType::OidVector,
        SqlType::Vector(2),
        array(SqlType::Integer),
        array(SqlType::Text),
        array(SqlType::Numeric { precision: 38, scale: 10 }),
    ]
}

fn copy_in(format: CopyFormat, escape: u8) -> CopyIn {
    let columns = [("a", SqlType::BigInt), ("b", SqlType::Text)];
    let columns: Vec<Column> = columns
        .into_iter()
        .map(|(name, data_type)| Column { name: name.into(), data_type, nullable: true, comment: None })
        .collect();
    let fields: Vec<_> = columns.iter().map(|column| column.data_type.field(&column.name, true)).collect();
    let table = Table { id: ObjectId(20_000), name: "t".into(), columns, source: TableSource::Stored, comment: None };
    let (delimiter, null) = if format == CopyFormat::Csv { (b',', "") } else { (b'\t', "\\N") };
    let options = CopyOptions { format, delimiter, null: null.into(), header: false, quote: b'"', escape };
    CopyIn { target: Target::Table(Arc::new(table)), columns: Arc::new(Schema::new(fields)), options }
}

/// What a reader makes of pieces of data: how many rows, or why not.
fn read<'a>(copy: &CopyIn, pieces: impl Iterator<Item = &'a [u8]>) -> Result<usize, String> {
    let told = |error: Error| format!("{error} {:?}", error.context_text());
    let mut reader = CopyReader::new(copy, Zone::Utc, 1 << 20).map_err(told)?;
    for piece in pieces {
        reader.feed(piece).map_err(told)?;
    }
    Ok(reader.finish().map_err(told)?.iter().map(arrow::array::RecordBatch::num_rows).sum())
}

/// Text of the characters that mean something to one of the parsers.
const MEANINGFUL: &str = "[-+0-9:., TZPYMWDHSadegmnoy'\"{}()/\\\\\t\nNé\u{10348}]{0,24}";

proptest! {
    #[test]
    fn any_frame_is_read_or_refused(tag in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..64)) {
        let frame = Frame { tag, body: Bytes::from(body) };
        let _ = Message::parse(&frame);
    }

    #[test]
    fn any_text_is_a_value_or_refused(text in MEANINGFUL) {
        for sql_type in all_types() {
            let mut parser = TextParser::in_zone(&sql_type, Zone::Named(chrono_tz::America::New_York));
            let _ = parser.append(Some(&text));
            parser.finish();
        }
        let _ = Zone::parse(&text);
    }

    #[test]
    fn any_bytes_are_a_value_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        for sql_type in all_types() {
            let mut parser = BinaryParser::new(&sql_type);
            let _ = parser.append(Some(&bytes));
            parser.finish();
        }
    }

    #[test]
    fn copy_data_means_the_same_however_it_is_cut(text in "[0-9\t,\"\\\\\n\raN.]{0,40}", escape in prop::sample::select(vec![b'"', b'\\'])) {
        for format in [CopyFormat::Text, CopyFormat::Csv] {
            let copy = copy_in(format, escape);
            let whole = read(&copy, std::iter::once(text.as_bytes()));
            prop_assert_eq!(read(&copy, text.as_bytes().chunks(1)), whole);
        }
    }

    #[test]
    fn binary_copy_data_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let copy = copy_in(CopyFormat::Binary, b'"');
        let data = [&b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\x08"[..], &bytes].concat();
        let whole = read(&copy, std::iter::once(data.as_slice()));
        prop_assert_eq!(read(&copy, data.chunks(1)), whole);
    }
}

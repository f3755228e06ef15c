use std::sync::Arc;

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeListArray, Float32Array, Float64Array, Int16Array,
    Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{Field, IntervalMonthDayNano, Schema};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::registry::{Feature, KeyColumn, ObjectId};

fn view(features: &[SqlType]) -> FeatureView {
    let features = features.iter().enumerate().map(|(place, data_type)| Feature {
        name: format!("f{place}"),
        data_type: data_type.clone(),
        comment: None,
        check: None,
    });
    FeatureView {
        id: ObjectId(16_384),
        name: "v".into(),
        entities: vec!["e".into()],
        keys: vec![KeyColumn { name: "k".into(), data_type: SqlType::BigInt }],
        event_time: "event_time".into(),
        features: features.collect(),
        ttl: None,
        online: true,
        comment: None,
        options: Default::default(),
        tags: Default::default(),
    }
}

/// History rows of `view` with these features; row i has key i, event time 100 + i, commit time 200 + i, sequence 300 + i.
fn history(view: &FeatureView, features: Vec<ArrayRef>) -> RecordBatch {
    let rows = features.first().map_or(1, |column| column.len());
    let count = |from: i64| (from..).take(rows);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(count(0))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(count(100)).with_timezone("UTC")),
    ];
    columns.extend(features);
    columns.push(Arc::new(TimestampMicrosecondArray::from_iter_values(count(200)).with_timezone("UTC")));
    columns.push(Arc::new(Int64Array::from_iter_values(count(300))));
    columns.push(Arc::new(BooleanArray::from_iter((0..rows).map(|row| Some(row % 5 == 4)))));
    let mut fields: Vec<_> = view.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(SqlType::TimestampTz.field(CREATED_TIME, false));
    fields.push(Field::new(SEQUENCE, SqlType::BigInt.arrow(), false));
    fields.push(Field::new(RETRACTED, SqlType::Boolean.arrow(), false));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// A view of one feature and its rows, packed.
pub(crate) fn one_feature(data_type: &SqlType, values: ArrayRef) -> (RowLayout, Vec<PackedRow>) {
    let view = view(std::slice::from_ref(data_type));
    let layout = RowLayout::new(&view);
    let packed = layout.pack(&history(&view, vec![values])).unwrap();
    (layout, packed.into_iter().map(|(_, row)| row).collect())
}

#[test]
fn rows_have_these_bytes() {
    let view =
        view(&[SqlType::Integer, SqlType::Text, SqlType::Boolean, SqlType::Array(Box::new(SqlType::SmallInt)), SqlType::Bytea]);
    let list = ListArray::new(
        SqlType::SmallInt.field_ref("item", true),
        OffsetBuffer::from_lengths([3]),
        Arc::new(Int16Array::from(vec![Some(1), None, Some(3)])),
        None,
    );
    let rows = history(
        &view,
        vec![
            Arc::new(Int32Array::from(vec![258])),
            Arc::new(StringArray::from(vec!["ab"])),
            Arc::new(BooleanArray::from(vec![None])),
            Arc::new(list),
            Arc::new(BinaryArray::from(vec![b"\xff".as_slice()])),
        ],
    );
    let packed = RowLayout::new(&view).pack(&rows).unwrap();
    assert_eq!(packed[0].0.as_bytes(), [0; 8]);
    #[rustfmt::skip]
    let expected = [
        1, 0, 5, 0,
        100, 0, 0, 0, 0, 0, 0, 0,
        200, 0, 0, 0, 0, 0, 0, 0,
        44, 1, 0, 0, 0, 0, 0, 0,
        0b11011,
        2, 1, 0, 0,
        0,
        2, 0, 0, 0, 13, 0, 0, 0, 14, 0, 0, 0,
        b'a', b'b',
        3, 0, 0, 0, 0b101, 1, 0, 0, 0, 3, 0,
        0xff,
    ];
    assert_eq!(packed[0].1.as_bytes()[..], expected);
    let version = packed[0].1.version();
    assert_eq!((version.event_time.micros(), version.created_time.micros(), version.sequence), (100, 200, 300));
    assert!(!packed[0].1.is_retraction());
}

#[test]
fn a_row_older_than_a_feature_has_no_value_for_it() {
    let old = view(&[SqlType::Integer, SqlType::Text]);
    let new = view(&[SqlType::Integer, SqlType::Text, SqlType::Boolean, SqlType::Text]);
    let rows = history(&old, vec![Arc::new(Int32Array::from(vec![7])), Arc::new(StringArray::from(vec!["seven"]))]);
    let packed = RowLayout::new(&old).pack(&rows).unwrap();
    let columns = RowLayout::new(&new).unpack(&[Some(&packed[0].1)], &[0, 1, 2, 3]).unwrap();
    assert_eq!(columns[1].as_primitive::<arrow::datatypes::Int32Type>().value(0), 7);
    assert_eq!(columns[2].as_string::<i32>().value(0), "seven");
    assert!(columns[3].is_null(0) && columns[4].is_null(0));
}

#[test]
fn torn_bytes_are_an_error_and_not_a_panic() {
    let view = view(&[SqlType::Text, SqlType::Array(Box::new(SqlType::Text)), SqlType::Uuid]);
    let list = ListArray::new(
        SqlType::Text.field_ref("item", true),
        OffsetBuffer::from_lengths([2]),
        Arc::new(StringArray::from(vec!["x", "yz"])),
        None,
    );
    let uuid = StringArray::from(vec!["00112233-4455-6677-8899-aabbccddeeff"]);
    let rows = history(&view, vec![Arc::new(StringArray::from(vec!["abc"])), Arc::new(list), Arc::new(uuid)]);
    let layout = RowLayout::new(&view);
    let whole = layout.pack(&rows).unwrap()[0].1.as_bytes().clone();
    for end in 0..whole.len() {
        if let Ok(row) = PackedRow::from_bytes(whole.slice(..end)) {
            assert!(layout.unpack(&[Some(&row)], &[0, 1, 2]).is_err(), "{end} bytes");
        }
    }
    for at in 0..whole.len() {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 0xff;
        if let Ok(row) = PackedRow::from_bytes(bytes.into()) {
            let _ = layout.unpack(&[Some(&row)], &[0, 1, 2]);
        }
    }
}

/// Values of one type, from a seed each.
fn column(data_type: &SqlType, seeds: &[Option<u64>]) -> ArrayRef {
    let some = || seeds.iter().copied();
    let float = |seed: u64| f64::from_bits(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !(0x7ff << 52) | (0x3f0 << 52));
    match data_type {
        SqlType::Boolean => Arc::new(BooleanArray::from_iter(some().map(|seed| seed.map(|seed| seed % 2 == 0)))),
        SqlType::SmallInt => Arc::new(Int16Array::from_iter(some().map(|seed| seed.map(|seed| seed as i16)))),
        SqlType::Integer => Arc::new(Int32Array::from_iter(some().map(|seed| seed.map(|seed| seed as i32)))),
        SqlType::BigInt | SqlType::Oid => Arc::new(Int64Array::from_iter(some().map(|seed| seed.map(|seed| seed as i64)))),
        SqlType::Real => Arc::new(Float32Array::from_iter(some().map(|seed| seed.map(|seed| float(seed) as f32)))),
        SqlType::DoublePrecision => Arc::new(Float64Array::from_iter(some().map(|seed| seed.map(float)))),
        SqlType::Numeric { precision, scale } => {
            let values = some().map(|seed| seed.map(|seed| i128::from(seed as i64) * i128::from(seed % 1_000_000)));
            Arc::new(Decimal128Array::from_iter(values).with_precision_and_scale(*precision, *scale).unwrap())
        }
        SqlType::Text | SqlType::Json | SqlType::Name | SqlType::Char => {
            Arc::new(StringArray::from_iter(some().map(|seed| seed.map(|seed| "é".repeat(seed as usize % 7)))))
        }
        SqlType::Bytea => {
            let values = some().map(|seed| seed.map(|seed| seed.to_le_bytes()[..seed as usize % 9].to_vec()));
            Arc::new(BinaryArray::from_iter(values))
        }
        SqlType::Date => Arc::new(Date32Array::from_iter(some().map(|seed| seed.map(|seed| seed as i32)))),
        SqlType::Time => {
            Arc::new(Time64MicrosecondArray::from_iter(some().map(|seed| seed.map(|seed| (seed % 86_400_000_000) as i64))))
        }
        SqlType::Timestamp => Arc::new(TimestampMicrosecondArray::from_iter(some().map(|seed| seed.map(|seed| seed as i64)))),
        SqlType::TimestampTz => {
            let values = TimestampMicrosecondArray::from_iter(some().map(|seed| seed.map(|seed| seed as i64)));
            Arc::new(values.with_timezone("UTC"))
        }
        SqlType::Interval => Arc::new(IntervalMonthDayNanoArray::from_iter(
            some().map(|seed| seed.map(|seed| IntervalMonthDayNano::new(seed as i32, (seed >> 32) as i32, seed as i64))),
        )),
        SqlType::Uuid => {
            let text = |seed: u64| Uuid::from_u128(u128::from(seed) << 33).hyphenated().to_string();
            Arc::new(StringArray::from_iter(some().map(|seed| seed.map(text))))
        }
        SqlType::Vector(length) => {
            let inner: Vec<_> =
                seeds.iter().flat_map(|seed| (0..*length).map(|n| Some(seed.unwrap_or(0) + u64::from(n)))).collect();
            let nulls = NullBuffer::from_iter(seeds.iter().map(Option::is_some));
            let item = SqlType::Real.field_ref("item", true);
            Arc::new(FixedSizeListArray::new(item, *length as i32, column(&SqlType::Real, &inner), Some(nulls)))
        }
        SqlType::Array(element) => list(element, seeds),
        SqlType::Int2Vector => list(&SqlType::SmallInt, seeds),
        SqlType::OidVector => list(&SqlType::Oid, seeds),
    }
}

fn list(element: &SqlType, seeds: &[Option<u64>]) -> ArrayRef {
    let lengths: Vec<usize> = seeds.iter().map(|seed| seed.map_or(0, |seed| seed as usize % 11)).collect();
    let inner: Vec<_> = seeds
        .iter()
        .zip(&lengths)
        .flat_map(|(seed, length)| {
            (0..*length).map(|n| seed.filter(|seed| !(*seed as usize + n).is_multiple_of(3)).map(|seed| seed + n as u64))
        })
        .collect();
    let nulls = NullBuffer::from_iter(seeds.iter().map(Option::is_some));
    let item = element.field_ref("item", true);
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths), column(element, &inner), Some(nulls)))
}

fn any_type() -> impl Strategy<Value = SqlType> {
    let scalar = prop_oneof![
        Just(SqlType::Boolean),
        Just(SqlType::SmallInt),
        Just(SqlType::Integer),
        Just(SqlType::BigInt),
        Just(SqlType::Real),
        Just(SqlType::DoublePrecision),
        Just(SqlType::Numeric { precision: 38, scale: 4 }),
        Just(SqlType::Text),
        Just(SqlType::Bytea),
        Just(SqlType::Date),
        Just(SqlType::Time),
        Just(SqlType::Timestamp),
        Just(SqlType::TimestampTz),
        Just(SqlType::Interval),
        Just(SqlType::Uuid),
        Just(SqlType::Json),
    ];
    let array = scalar.clone().prop_map(|element| SqlType::Array(Box::new(element)));
    prop_oneof![3 => scalar, 1 => array, 1 => (1_u32..6).prop_map(SqlType::Vector)]
}

proptest! {
    #[test]
    fn every_value_comes_back(
        types in prop::collection::vec(any_type(), 0..20),
        seeds in prop::collection::vec(prop::option::weighted(0.8, 0_u64..u64::MAX / 2), 1..12),
    ) {
        let view = view(&types);
        let columns: Vec<_> = types.iter().enumerate().map(|(place, data_type)| {
            let seeds: Vec<_> = seeds.iter().enumerate().map(|(row, seed)| {
                seed.filter(|seed| (seed >> 8) as usize % 4 != (place + row) % 4).map(|seed| seed.wrapping_add(place as u64) / 2)
            }).collect();
            column(data_type, &seeds)
        }).collect();
        let rows = history(&view, columns.clone());
        let layout = RowLayout::new(&view);
        let packed = layout.pack(&rows).unwrap();
        let stored: Vec<_> = packed.iter().map(|(_, row)| PackedRow::from_bytes(row.as_bytes().clone()).unwrap()).collect();
        let slots: Vec<_> = stored.iter().map(Some).collect();
        let places: Vec<_> = (0..types.len()).rev().collect();
        let unpacked = layout.unpack(&slots, &places).unwrap();
        prop_assert_eq!(unpacked[0].as_ref(), rows.column(1).as_ref());
        for (found, place) in unpacked[1..].iter().zip(places) {
            prop_assert_eq!(found.as_ref(), columns[place].as_ref(), "{}", types[place]);
        }
        for (row, packed) in stored.iter().enumerate() {
            prop_assert_eq!(packed.is_retraction(), row % 5 == 4);
        }
    }
}

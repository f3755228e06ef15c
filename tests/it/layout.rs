//! A row in Redis, read by the documentation alone: `src/online/redis.rs` for the keys, `src/online/key.rs` for the entity,
//! `src/online/row.rs` for the value. Uses nothing of Tidegate's code, as a reader in another language would.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::harness::{self, Online, Setup};

/// `GET`, in Redis' own protocol.
fn get(port: u16, key: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut call = format!("*2\r\n$3\r\nGET\r\n${}\r\n", key.len()).into_bytes();
    call.extend_from_slice(key);
    call.extend_from_slice(b"\r\n");
    stream.write_all(&call).unwrap();
    let mut byte = [0];
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        stream.read_exact(&mut byte).unwrap();
        line.push(char::from(byte[0]));
    }
    let length: i64 = line.trim().strip_prefix('$').unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    let mut value = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut value).unwrap();
    Some(value)
}

/// Base64url without padding.
fn base64url(bytes: &[u8]) -> String {
    let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']).collect();
    let bits: Vec<usize> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| usize::from(byte >> bit & 1))).collect();
    bits.chunks(6).map(|six| alphabet[(0..6).fold(0, |sum, bit| 2 * sum + six.get(bit).unwrap_or(&0))]).collect()
}

/// Reads from the front of some bytes.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// A little endian integer with a sign.
    fn integer(&mut self, width: usize) -> i128 {
        let bytes = self.take(width);
        let unsigned = bytes.iter().rev().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        let unused = 128 - 8 * u32::try_from(width).unwrap();
        (unsigned << unused) as i128 >> unused
    }

    fn unsigned(&mut self, width: usize) -> usize {
        self.take(width).iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }
}

fn bit(bits: &[u8], number: usize) -> bool {
    bits[number / 8] >> (number % 8) & 1 == 1
}

/// Pieces whose ends are given one after another, then their bytes.
fn pieces<'a>(bytes: &mut Bytes<'a>, count: usize) -> Vec<&'a [u8]> {
    let ends: Vec<usize> = (0..count).map(|_| bytes.unsigned(4)).collect();
    let starts = [0].into_iter().chain(ends.iter().copied());
    let all = bytes.take(ends.last().copied().unwrap_or(0));
    starts.zip(&ends).map(|(start, end)| &all[start..*end]).collect()
}

#[tokio::test]
async fn a_row_can_be_read_by_the_documentation_alone() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY customer KEY (customer_id BIGINT, region TEXT)").await;
    harness::run(
        &client,
        "CREATE FEATURE VIEW facts (
            a SMALLINT, b TEXT, c BOOLEAN, d DOUBLE PRECISION, e NUMERIC(10, 2), f DATE, g TIME, h TIMESTAMPTZ, i INTERVAL,
            j UUID, k REAL[2], l INTEGER[], m TEXT[], n BYTEA, o BIGINT, p REAL
        ) ENTITY customer",
    )
    .await;
    harness::run(
        &client,
        "INSERT INTO facts VALUES (-7, 'né', '2025-12-31 00:00:00.000001Z', -2, 'text', true, 0.5, -12.34, '1970-01-03',
            '00:00:01', '1970-01-01 00:00:00.000009Z', '1 month 2 days 3 microseconds', '00112233-4455-6677-8899-aabbccddeeff',
            '{1.5,-2}', '{1,NULL,-3}', '{ab,NULL,\"\",c}', '\\x00ff', NULL, 1.25)",
    )
    .await;

    // The newest document of the registry names the store and the view.
    let mut documents: Vec<_> =
        std::fs::read_dir(gateway.store().join("registry")).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.sort();
    let document: serde_json::Value = serde_json::from_slice(&std::fs::read(documents.last().unwrap()).unwrap()).unwrap();
    let store = document["store"].as_str().unwrap().replace('-', "");
    let store: Vec<u8> = (0..16).map(|place| u8::from_str_radix(&store[2 * place..2 * place + 2], 16).unwrap()).collect();
    let view = document["feature_views"]["facts"]["id"].as_u64().unwrap();
    let prefix = format!("{}:{view}:", base64url(&store));

    let port = gateway.redis().port();
    assert_eq!(get(port, format!("{prefix}applied").as_bytes()).unwrap(), b"2");
    let entity = [&(-7_i64).to_le_bytes()[..], &3_u32.to_le_bytes(), "né".as_bytes()].concat();
    let key = [prefix.as_bytes(), b"{", &entity, b"}"].concat();
    assert_eq!(get(port, &[prefix.as_bytes(), b"{", &entity, b"x}"].concat()), None);
    let row = get(port, &key).expect("the row is under its documented key");

    let mut bytes = Bytes(&row);
    assert_eq!((bytes.unsigned(1), bytes.unsigned(1), bytes.unsigned(2)), (1, 0, 16), "version, flags, features");
    assert_eq!(bytes.integer(8), 1_767_139_200_000_001, "event time");
    assert!(bytes.integer(8) >= 1_767_225_600_000_000, "commit time");
    bytes.integer(8);
    let present = bytes.take(2);
    let expected = (0..16).map(|feature| feature != 14);
    assert!(expected.enumerate().all(|(feature, expected)| bit(present, feature) == expected), "{present:?}");
    // Those of a fixed width: a c d e f g h i j k o p.
    assert_eq!(bytes.integer(2), -2);
    assert_eq!(bytes.unsigned(1), 1);
    assert_eq!(f64::from_le_bytes(bytes.take(8).try_into().unwrap()), 0.5);
    assert_eq!(bytes.integer(16), -1234);
    assert_eq!(bytes.integer(4), 2);
    assert_eq!(bytes.integer(8), 1_000_000);
    assert_eq!(bytes.integer(8), 9);
    assert_eq!((bytes.integer(4), bytes.integer(4), bytes.integer(8)), (1, 2, 3_000));
    assert_eq!(bytes.take(16), [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
    for expected in [1.5, -2.0] {
        assert_eq!(f32::from_le_bytes(bytes.take(4).try_into().unwrap()), expected);
    }
    assert_eq!(bytes.take(8), [0; 8], "zeros where there is no value");
    assert_eq!(f32::from_le_bytes(bytes.take(4).try_into().unwrap()), 1.25);
    // The others: b l m n.
    let sized = pieces(&mut bytes, 4);
    assert!(bytes.0.is_empty());
    assert_eq!(sized[0], b"text");
    let mut list = Bytes(sized[1]);
    assert_eq!((list.unsigned(4), list.unsigned(1)), (3, 0b101));
    assert_eq!((list.integer(4), list.integer(4), list.integer(4)), (1, 0, -3));
    let mut list = Bytes(sized[2]);
    assert_eq!((list.unsigned(4), list.unsigned(1)), (4, 0b1101));
    assert_eq!(pieces(&mut list, 4), [&b"ab"[..], b"", b"", b"c"]);
    assert_eq!(sized[3], [0, 0xff]);
}

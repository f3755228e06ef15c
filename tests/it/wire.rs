//! The wire under abuse: malformed, misplaced and oversized messages, each answered as PostgreSQL answers it, with the gateway
//! and, where PostgreSQL keeps it, the connection alive afterwards.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::harness::{self, Online, Setup};

/// A client that sends whatever bytes it is told to.
pub(crate) struct Raw(TcpStream);

/// What the server sent: the type byte and the body.
pub(crate) type Message = (u8, Vec<u8>);

impl Raw {
    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(stream)
    }

    /// Connects and logs in.
    pub(crate) fn login(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        raw.start();
        raw
    }

    fn start(&mut self) {
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        body.extend(b"user\0tester\0database\0tidegate\0\0");
        self.bytes(&[&(u32::try_from(body.len()).unwrap() + 4).to_be_bytes()[..], &body].concat());
        let answer = self.until_ready();
        assert_eq!(answer.last().map(|message| message.0), Some(b'Z'), "{answer:?}");
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn message(&mut self, kind: u8, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap() + 4;
        self.bytes(&[&[kind][..], &length.to_be_bytes(), body].concat());
    }

    /// The messages up to `ReadyForQuery` or the end of the connection.
    pub(crate) fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let mut head = [0; 5];
            if self.0.read_exact(&mut head).is_err() {
                return messages;
            }
            let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
            let mut body = vec![0; length - 4];
            self.0.read_exact(&mut body).unwrap();
            messages.push((head[0], body));
            if head[0] == b'Z' {
                return messages;
            }
        }
    }

    /// Sends a simple query and reads its answer.
    pub(crate) fn query(&mut self, sql: &[u8]) -> Vec<Message> {
        self.message(b'Q', &[sql, b"\0"].concat());
        self.until_ready()
    }

    /// Prepares, binds with this `Bind` body and executes with this row limit, then syncs.
    fn extended(&mut self, sql: &str, bind: &[u8], rows_max: i32) -> Vec<Message> {
        self.message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
        self.message(b'B', bind);
        self.message(b'E', &[&b"\0"[..], &rows_max.to_be_bytes()].concat());
        self.message(b'S', b"");
        self.until_ready()
    }

    fn works(&mut self) {
        assert_eq!(rows(&self.query(b"SELECT 1")), 1);
    }
}

/// The SQLSTATE and severity of the first error among messages.
pub(crate) fn error(messages: &[Message]) -> Option<(String, String)> {
    let (_, body) = messages.iter().find(|message| message.0 == b'E')?;
    let fields: Vec<&[u8]> = body.split(|byte| *byte == 0).collect();
    let field = |kind: u8| {
        let found = fields.iter().find(|field| field.first() == Some(&kind)).unwrap();
        String::from_utf8(found[1..].to_vec()).unwrap()
    };
    Some((field(b'C'), field(b'V')))
}

fn rows(messages: &[Message]) -> usize {
    messages.iter().filter(|message| message.0 == b'D').count()
}

/// A `Bind` of the unnamed statement without parameters or formats.
const BIND: &[u8] = b"\0\0\0\0\0\0\0\0";

const THREE: &str = "SELECT * FROM (VALUES (1), (2), (3)) AS t (n)";

#[test]
fn any_row_limit_is_a_limit() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    for (limit, given) in [(i32::MAX, 3), (-1, 3), (i32::MIN, 3), (0, 3), (2, 2)] {
        let answer = raw.extended(THREE, BIND, limit);
        assert_eq!((rows(&answer), error(&answer)), (given, None), "limit {limit}");
    }
    raw.works();
}

#[test]
fn malformed_messages_are_protocol_violations() {
    let gateway = Setup::new(Online::Embedded).start();
    // Two result formats for one column; a parameter longer than the message; a parameter too many; a negative length.
    let binds: [&[u8]; 4] = [
        b"\0\0\0\0\0\0\0\x02\0\0\0\0",
        b"\0\0\0\0\0\x01\0\0\xff\xffx\0\0",
        b"\0\0\0\0\0\x01\0\0\0\x01x\0\0",
        b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
    ];
    for bind in binds {
        let mut raw = Raw::login(gateway.address());
        let answer = raw.extended(THREE, bind, 0);
        assert_eq!(error(&answer).map(|error| error.0).as_deref(), Some("08P01"), "{bind:?}: {answer:?}");
    }
    // Strings without an end; a message that is not one.
    for (kind, body) in [(b'P', &b"no end"[..]), (b'Q', b"SELECT 1"), (b'C', b""), (b'D', b"X\0"), (b'E', b"\0\0"), (b'!', b"")] {
        let mut raw = Raw::login(gateway.address());
        raw.message(kind, body);
        raw.message(b'S', b"");
        let answer = raw.until_ready();
        assert_eq!(error(&answer).map(|error| error.0).as_deref(), Some("08P01"), "{kind}: {answer:?}");
    }
    // Lengths that cannot be: the connection ends, after an error that says why.
    for length in [0_u32, 3, u32::MAX] {
        let mut raw = Raw::login(gateway.address());
        raw.bytes(&[&[b'Q'][..], &length.to_be_bytes()].concat());
        let answer = raw.until_ready();
        assert_eq!(error(&answer), Some(("08P01".into(), "FATAL".into())), "length {length}");
    }
    Raw::login(gateway.address()).works();
}

#[test]
fn text_that_is_not_utf8_is_refused() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    let answer = raw.query(b"SELECT '\xff\xfe'");
    assert_eq!(error(&answer).map(|error| error.0).as_deref(), Some("22021"));
    raw.works();
}

#[test]
fn a_statement_over_the_limit_is_read_past() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    let long = [b"SELECT '", &vec![b'x'; 17 << 20][..], b"'"].concat();
    assert_eq!(error(&raw.query(&long)).map(|error| error.0).as_deref(), Some("54000"));
    raw.works();
}

#[test]
fn a_statement_nested_too_deep_is_an_error() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    let deep = [b"SELECT ", &vec![b'('; 20_000][..], b"1", &vec![b')'; 20_000][..]].concat();
    assert_eq!(error(&raw.query(&deep)).map(|error| error.0).as_deref(), Some("54001"));
    raw.works();
}

#[test]
fn what_is_not_postgres_is_turned_away() {
    let gateway = Setup::new(Online::Embedded).start();
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 3, 0, 0, 0, 0],
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        let mut raw = Raw::connect(gateway.address());
        raw.bytes(bytes);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // The server may also reset the connection; either way it lets go.
        let _ = raw.0.read_to_end(&mut answer);
        assert!(answer.len() < 1024, "{answer:?}");
    }
    Raw::login(gateway.address()).works();
}

#[test]
fn encryption_is_declined_and_the_login_goes_on() {
    let gateway = Setup::new(Online::Embedded).start();
    // SSLRequest, GSSENCRequest.
    let mut raw = Raw::connect(gateway.address());
    for request in [80_877_103_u32, 80_877_104] {
        raw.bytes(&[8_u32.to_be_bytes(), request.to_be_bytes()].concat());
        let mut answer = [0];
        raw.0.read_exact(&mut answer).unwrap();
        assert_eq!(answer, *b"N");
    }
    raw.start();
    raw.works();
}

#[test]
fn a_cancel_request_with_a_wrong_key_does_nothing() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    for process in 0_u32..64 {
        let mut cancel = Raw::connect(gateway.address());
        cancel.bytes(&[16_u32.to_be_bytes(), 80_877_102_u32.to_be_bytes(), process.to_be_bytes(), 7_u32.to_be_bytes()].concat());
        let mut answer = Vec::new();
        let _ = cancel.0.read_to_end(&mut answer);
        assert!(answer.is_empty(), "a cancel request is never answered");
    }
    raw.works();
}

#[test]
fn after_an_error_a_pipeline_is_skipped_to_its_sync() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    raw.message(b'P', b"\0SELECT nope FROM nowhere\0\0\0");
    let answer = raw.extended(THREE, BIND, 0);
    assert_eq!(answer.iter().map(|message| message.0).collect::<Vec<_>>(), b"EZ");
    raw.works();
}

/// After a script or a pipeline that failed, a statement is a transaction of its own again: what it acknowledges, others see.
#[test]
fn after_a_failed_script_or_pipeline_statements_commit_by_themselves() {
    let gateway = Setup::new(Online::Embedded).start();
    let (mut writer, mut reader) = (Raw::login(gateway.address()), Raw::login(gateway.address()));
    assert_eq!(error(&writer.query(b"CREATE TABLE kept (n bigint)")), None);
    let fail_a_script = |raw: &mut Raw| raw.query(b"SELECT 1; SELECT nothing; SELECT 2");
    let fail_a_pipeline = |raw: &mut Raw| {
        for sql in ["SELECT 1", "SELECT nothing", "SELECT 2"] {
            raw.message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
            raw.message(b'B', BIND);
            raw.message(b'E', b"\0\0\0\0\0");
        }
        raw.message(b'S', b"");
        raw.until_ready()
    };
    for before in 0..2 {
        let failed = if before == 0 { fail_a_script(&mut writer) } else { fail_a_pipeline(&mut writer) };
        assert_eq!(error(&failed).map(|error| error.0).as_deref(), Some("42703"));
        assert_eq!(error(&writer.query(b"INSERT INTO kept VALUES (1)")), None);
        assert_eq!(rows(&reader.query(b"SELECT n FROM kept")), before + 1);
    }
}

/// The process number and secret among the messages of a login.
fn cancel_key(login: &[Message]) -> Vec<u8> {
    login.iter().find(|message| message.0 == b'K').unwrap().1.clone()
}

#[test]
fn a_cancel_request_ends_what_runs_and_leaves_the_connection() {
    let gateway = Setup::new(Online::Embedded).start();
    for statement in ["SELECT count(*) FROM generate_series(1, 100000000000)", "SELECT * FROM generate_series(1, 100000000000)"] {
        let mut raw = Raw::connect(gateway.address());
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        body.extend(b"user\0tester\0\0");
        raw.bytes(&[&(u32::try_from(body.len()).unwrap() + 4).to_be_bytes()[..], &body].concat());
        let key = cancel_key(&raw.until_ready());
        raw.message(b'Q', &[statement.as_bytes(), b"\0"].concat());
        // A cancel that comes before its statement does nothing, so it is sent until the answer is there.
        let address = gateway.address();
        let (answered, is_answered) = std::sync::mpsc::channel::<()>();
        let canceller = std::thread::spawn(move || {
            while is_answered.recv_timeout(Duration::from_millis(100)).is_err() {
                let mut cancel = Raw::connect(address);
                cancel.bytes(&[&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), &key].concat());
                let mut rest = Vec::new();
                cancel.0.read_to_end(&mut rest).unwrap();
                assert_eq!(rest, b"", "a cancel request is never answered");
            }
        });
        let answer = raw.until_ready();
        answered.send(()).unwrap();
        canceller.join().unwrap();
        assert_eq!(error(&answer).map(|error| error.0).as_deref(), Some("57014"), "{statement}");
        raw.works();
    }
}

#[test]
fn a_portal_gives_its_rows_in_parts() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    raw.message(b'P', &[b"\0", THREE.as_bytes(), b"\0\0\0"].concat());
    raw.message(b'B', BIND);
    for rows_max in [2_i32, 1, 5, 5] {
        raw.message(b'E', &[&b"\0"[..], &rows_max.to_be_bytes()].concat());
    }
    raw.message(b'S', b"");
    let kinds: Vec<u8> = raw.until_ready().into_iter().map(|message| message.0).collect();
    assert_eq!(kinds, b"12DDsDsCCZ");
    // The portal ended with its transaction.
    raw.message(b'E', b"\0\0\0\0\0");
    raw.message(b'S', b"");
    assert_eq!(error(&raw.until_ready()).map(|error| error.0).as_deref(), Some("34000"));
}

/// There are clients (asyncpg) that send `Flush` instead of `Sync`, and `Sync` only once they have read the error.
#[test]
fn an_error_is_told_before_its_sync() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    raw.message(b'P', b"\0SELECT nothing\0\0\0");
    raw.message(b'D', b"S\0");
    raw.message(b'H', b"");
    let mut kind = [0];
    raw.0.read_exact(&mut kind).unwrap();
    assert_eq!(kind, *b"E");
    raw.message(b'S', b"");
    let mut length = [0; 4];
    raw.0.read_exact(&mut length).unwrap();
    raw.0.read_exact(&mut vec![0; u32::from_be_bytes(length) as usize - 4]).unwrap();
    assert_eq!(raw.until_ready().len(), 1);
    raw.works();
}

#[test]
fn a_message_may_arrive_a_byte_at_a_time() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut raw = Raw::login(gateway.address());
    for byte in b"Q\0\0\0\x0dSELECT 1\0" {
        raw.bytes(&[*byte]);
    }
    assert_eq!(rows(&raw.until_ready()), 1);
}

/// A caret stands before the place that PostgreSQL 15 points at for the same statement over a table `t (a BIGINT, b TEXT)`.
const POINTED: &[(&str, &str)] = &[
    ("SELECT a\n  FROM t\n WHERE ^nope = 1", "42703"),
    ("SELECT 'ä', 'ö\nü',\n  ^t.nope FROM t", "42703"),
    ("SELECT a\r\n  FROM t\r\n WHERE a = 1 AND ^missing", "42703"),
    ("SELECT a FROM t\nWHERE ^x.a = 1", "42P01"),
    ("SELECT a\nFROM t\nWHERE a ^) 1", "42601"),
    ("-- a comment\n/* another\n*/ SELECT ^nope FROM t", "42703"),
    ("SELECT 1;\n\nSELECT ^nope FROM t", "42703"),
];

#[tokio::test]
async fn an_error_points_at_its_place_on_any_line() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE TABLE t (a BIGINT, b TEXT)").await;
    for (marked, code) in POINTED {
        let place = u32::try_from(marked.chars().position(|letter| letter == '^').unwrap() + 1).unwrap();
        let error = client.simple_query(&marked.replace('^', "")).await.map(drop).unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
        let position = Some(&tokio_postgres::error::ErrorPosition::Original(place));
        assert_eq!((error.code().code(), error.position()), (*code, position), "{marked}: {}", error.message());
    }
}

//! Bad input: each case a clear error with its SQLSTATE, and nothing half written.

use std::pin::pin;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Client;

use crate::harness::{self, Online, Setup};

/// Statements, and how their error begins.
const STATEMENTS: &[(&str, &str)] = &[
    ("INSERT INTO spend VALUES ('abc', '2025-12-31 00:00Z', 1)", "22P02: invalid input syntax for type bigint: \"abc\""),
    (
        "INSERT INTO spend VALUES (8, 'some day', 1)",
        "22007: invalid input syntax for type timestamp with time zone: \"some day\"",
    ),
    ("INSERT INTO spend VALUES (8, '2025-13-31 00:00Z', 1)", "22008: date/time field value out of range: \"2025-13-31 00:00Z\""),
    ("INSERT INTO spend VALUES (8, 'infinity', 1)", "22008: an event time must be finite"),
    ("INSERT INTO spend VALUES (8, '2025-12-31 00:00Z', 1), (9, '2025-12-31 00:00Z', 99999)", "22003: smallint out of range"),
    (
        "INSERT INTO spend VALUES (8, '2025-12-31 00:00Z', 1), (NULL, '2025-12-31 00:00Z', 2)",
        "23502: null value in column \"customer_id\" of relation \"spend\" violates not-null constraint",
    ),
    (
        "INSERT INTO spend VALUES (8, NULL, 1)",
        "23502: null value in column \"event_time\" of relation \"spend\" violates not-null constraint",
    ),
    (
        "INSERT INTO spend (event_time, amount) VALUES ('2025-12-31 00:00Z', 1)",
        "23502: null value in column \"customer_id\" of relation \"spend\" violates not-null constraint",
    ),
    (
        "INSERT INTO spend VALUES (8, '2025-12-31 00:00Z', 1), (9, '2025-12-31 00:00Z', -1)",
        "23514: new row for relation \"spend\" violates check constraint",
    ),
    (
        "INSERT INTO spend (customer_id, event_time, nope) VALUES (8, '2025-12-31 00:00Z', 1)",
        "42703: column \"nope\" of relation \"spend\" does not exist",
    ),
    ("INSERT INTO spend (customer_id, customer_id) VALUES (8, 8)", "42701: column \"customer_id\" specified more than once"),
    ("INSERT INTO spend VALUES (8, '2025-12-31 00:00Z', 1, 2)", "42601: INSERT has more expressions than target columns"),
    (
        "INSERT INTO spend (customer_id, event_time, amount) VALUES (8, '2025-12-31 00:00Z')",
        "42601: INSERT has more target columns than expressions",
    ),
    ("INSERT INTO spend SELECT 8, TIMESTAMPTZ '2025-12-31 00:00Z', 1 / 0", "22012: division by zero"),
    (
        "INSERT INTO spend SELECT 8, TIMESTAMPTZ '2025-12-31 00:00Z', true",
        "42804: column \"amount\" is of type smallint but expression is of type boolean",
    ),
    ("INSERT INTO nowhere VALUES (1)", "42P01: relation \"nowhere\" does not exist"),
    ("UPDATE spend SET amount = 2 WHERE customer_id = 7", "0A000: "),
    ("DELETE FROM spend WHERE customer_id = 7", "0A000: "),
    ("COPY nowhere FROM STDIN", "42P01: relation \"nowhere\" does not exist"),
    ("COPY spend (customer_id, nope) FROM STDIN", "42703: column \"nope\" of relation \"spend\" does not exist"),
    ("SELECT nope FROM spend", "42703: column \"nope\" does not exist"),
    ("SELECT * FROM nowhere", "42P01: relation \"nowhere\" does not exist"),
    ("SELECT * FROM", "42601: syntax error at end of input"),
    ("CREATE FEATURE VIEW other (x BIGINT) ENTITY nobody", "42704: entity \"nobody\" does not exist"),
    ("CREATE FEATURE VIEW spend (x BIGINT) ENTITY customer", "42P07: relation \"spend\" already exists"),
    ("CREATE ENTITY customer KEY (x BIGINT)", "42710: entity \"customer\" already exists"),
    ("CREATE FEATURE VIEW other (x BIGINT) ENTITY customer TTL INTERVAL '1 month'", "22023: "),
    ("CREATE FEATURE VIEW other (x BIGINT) ENTITY customer TTL INTERVAL '-1 day'", "22023: "),
    ("DROP ENTITY customer", "2BP01: "),
];

/// Lines for `COPY spend FROM STDIN (FORMAT csv)`, and how the error begins. The bad line is never the first.
const CSV: &[(&str, &str)] = &[
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z,x\n", "22P02: invalid input syntax for type smallint: \"x\""),
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z\n", "22P04: missing data for column \"amount\""),
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z,1,1\n", "22P04: extra data after last expected column"),
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z,\"1\n", "22P04: unterminated CSV quoted field"),
    (
        "8,2025-12-31 00:00Z,1\n,2025-12-31 00:00Z,1\n",
        "23502: null value in column \"customer_id\" of relation \"spend\" violates not-null constraint",
    ),
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z,70000\n", "22003: value \"70000\" is out of range for type smallint"),
    ("8,2025-12-31 00:00Z,1\n9,2025-12-31 00:00Z,-5\n", "23514: new row for relation \"spend\" violates check constraint"),
];

async fn define(client: &Client) {
    harness::run(client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(client, "CREATE FEATURE VIEW spend (amount SMALLINT CHECK (amount >= 0)) ENTITY customer").await;
    harness::run(client, "INSERT INTO spend VALUES (7, '2025-12-31 00:00Z', 1)").await;
}

/// The one row that stands before and after every fault.
async fn check_untouched(client: &Client, after: &str) {
    let history = harness::rows(client, "SELECT customer_id, amount FROM history.spend").await;
    assert_eq!(history, [["7", "1"]], "history after {after}");
    let online = harness::rows(client, "SELECT customer_id, amount FROM spend WHERE customer_id IN (7, 8, 9)").await;
    assert_eq!(online, [["7", "1"]], "online after {after}");
}

#[tokio::test]
async fn a_bad_statement_says_what_is_wrong_and_writes_nothing() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    let mut faults = Vec::new();
    for (sql, expected) in STATEMENTS {
        match client.simple_query(sql).await {
            Ok(_) => faults.push(format!("{sql}\n  was accepted")),
            Err(error) => {
                let error = harness::explain(&error);
                if !error.starts_with(expected) {
                    faults.push(format!("{sql}\n  gave     {error}\n  expected {expected}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    check_untouched(&client, "all of them").await;
}

#[tokio::test]
async fn a_bad_copy_says_what_is_wrong_and_writes_nothing() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    let mut faults = Vec::new();
    for (lines, expected) in CSV {
        let mut sink = pin!(client.copy_in::<_, Bytes>("COPY spend FROM STDIN (FORMAT csv)").await.unwrap());
        let outcome = match sink.send(Bytes::from(*lines)).await {
            Ok(()) => sink.finish().await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => faults.push(format!("{lines:?}\n  was accepted")),
            Err(error) => {
                let error = harness::explain(&error);
                if !error.starts_with(expected) {
                    faults.push(format!("{lines:?}\n  gave     {error}\n  expected {expected}"));
                }
            }
        }
        check_untouched(&client, lines).await;
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test]
async fn a_copy_that_the_client_gives_up_writes_nothing() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    define(&client).await;
    {
        let mut sink = pin!(client.copy_in::<_, Bytes>("COPY spend FROM STDIN (FORMAT csv)").await.unwrap());
        sink.send(Bytes::from_static(b"8,2025-12-31 00:00Z,1\n")).await.unwrap();
        // Dropped unfinished, the sink sends CopyFail.
    }
    check_untouched(&client, "a copy that was given up").await;
}

#[tokio::test]
async fn a_statement_too_long_is_refused_and_the_connection_lives_on() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    let long = format!("SELECT '{}'", "x".repeat(17 * 1024 * 1024));
    let refusal = harness::failure(&client, &long).await;
    assert!(refusal.starts_with("54000: "), "{refusal}");
    assert_eq!(harness::value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_failed_block_writes_nothing() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    define(&client).await;
    harness::run(&client, "BEGIN").await;
    harness::run(&client, "INSERT INTO spend VALUES (8, '2025-12-31 00:00Z', 1)").await;
    harness::failure(&client, "INSERT INTO spend VALUES (9, '2025-12-31 00:00Z', -1)").await;
    let refusal = harness::failure(&client, "SELECT 1").await;
    assert!(refusal.starts_with("25P02: current transaction is aborted"), "{refusal}");
    harness::run(&client, "COMMIT").await;
    check_untouched(&client, "a failed block").await;
}

#[tokio::test]
async fn a_gateway_starts_without_its_redis() {
    let mut gateway = Setup::new(Online::Redis).start();
    define(&gateway.connect().await).await;
    gateway.redis().stop();
    gateway.restart();
    let client = gateway.connect().await;
    assert_eq!(harness::value(&client, "SELECT count(*) FROM history.spend").await, "1");
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    assert_eq!(harness::value(&client, "SELECT amount FROM spend WHERE customer_id = 7").await, "1");
}

#[tokio::test]
async fn a_registry_document_that_is_damaged_stops_the_start() {
    let mut gateway = Setup::new(Online::Embedded).start();
    define(&gateway.connect().await).await;
    gateway.kill();
    let mut documents: Vec<_> =
        std::fs::read_dir(gateway.store().join("registry")).unwrap().map(|entry| entry.unwrap().path()).collect();
    documents.sort();
    std::fs::write(documents.last().unwrap(), "{").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["serve", "--listen", "127.0.0.1:0", "--data"])
        .arg(gateway.store())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{log}");
    assert!(log.contains("registry"), "the error names what is damaged: {log}");
}

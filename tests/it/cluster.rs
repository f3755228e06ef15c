//! Two gateways over one store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{self, Gateway, Online, Setup};

/// How soon one gateway must know what another did.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// Rooms for the machine's own slowness, so that only the gateway's counts.
const SLACK: Duration = Duration::from_secs(4);

/// What a client is told that lost a race for the registry.
const RETRY: &str = "HINT: Other gateways were changing it at the same time. Retry the statement.";

/// Asks until the answer is `expected`; the time it took.
async fn until(gateway: &Gateway, sql: &str, expected: &str) -> Duration {
    let client = gateway.connect().await;
    let start = Instant::now();
    loop {
        let answer = match client.simple_query(sql).await {
            Ok(messages) => messages.into_iter().find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }),
            Err(error) => Some(harness::explain(&error)),
        };
        if answer.as_deref() == Some(expected) {
            return start.elapsed();
        }
        assert!(start.elapsed() < FOLLOWS_WITHIN + SLACK, "{sql}: {answer:?}, not {expected:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn racing_definitions_are_all_kept() {
    const EACH: usize = 20;
    let first = Setup::new(Online::Embedded).start();
    let second = first.second();
    harness::run(&first.connect().await, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    until(&second, "SELECT count(*) FROM tidegate.entities", "1").await;
    let make = async |gateway: &Gateway, name: &str| {
        let client = gateway.connect().await;
        for number in 0..EACH {
            harness::run(&client, &format!("CREATE FEATURE VIEW {name}_{number} (x BIGINT) ENTITY customer")).await;
        }
    };
    tokio::join!(make(&first, "a"), make(&second, "b"), make(&first, "c"));
    let all = (3 * EACH).to_string();
    for gateway in [&first, &second] {
        until(gateway, "SELECT count(*) FROM tidegate.feature_views", &all).await;
    }
    // A third that only now comes reads them from the store.
    let third = first.second();
    assert_eq!(harness::value(&third.connect().await, "SELECT count(*) FROM tidegate.feature_views").await, all);
}

#[tokio::test]
async fn one_name_is_given_once() {
    let first = Setup::new(Online::Embedded).start();
    let second = first.second();
    let (a, b) = (first.connect().await, second.connect().await);
    for round in 0..10 {
        let sql = format!("CREATE TABLE t{round} (x BIGINT)");
        let (left, right) = tokio::join!(a.simple_query(&sql), b.simple_query(&sql));
        let failed: Vec<String> =
            [left, right].iter().filter_map(|outcome| outcome.as_ref().err().map(harness::explain)).collect();
        assert_eq!(failed, [format!("42P07: relation \"t{round}\" already exists")]);
    }
}

#[tokio::test]
async fn each_gateway_reads_what_the_other_wrote() {
    let first = Setup::new(Online::Redis).start();
    let second = first.second();
    let (a, b) = (first.connect().await, second.connect().await);
    harness::run(&a, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(&a, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
    let lookup = "SELECT amount FROM spend WHERE customer_id = 7";
    until(&second, "SELECT count(*) FROM spend", "0").await;
    harness::run(&b, "INSERT INTO spend (customer_id, event_time, amount) VALUES (7, '2025-12-31 10:00Z', 1)").await;
    until(&first, lookup, "1").await;
    harness::run(&a, "INSERT INTO spend (customer_id, event_time, amount) VALUES (7, '2025-12-31 11:00Z', 2)").await;
    until(&second, lookup, "2").await;
    // A late row of the other gateway's hides nothing.
    harness::run(&b, "INSERT INTO spend (customer_id, event_time, amount) VALUES (7, '2025-12-31 10:30Z', 3)").await;
    for gateway in [&first, &second] {
        until(gateway, "SELECT count(*) FROM history.spend", "3").await;
        assert_eq!(harness::value(&gateway.connect().await, lookup).await, "2");
    }
}

#[tokio::test]
async fn embedded_stores_follow_each_other() {
    let first = Setup::new(Online::Embedded).start();
    let second = first.second();
    let a = first.connect().await;
    harness::run(&a, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(&a, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
    harness::run(&a, "INSERT INTO spend (customer_id, event_time, amount) VALUES (7, '2025-12-31 10:00Z', 1)").await;
    until(&second, "SELECT amount FROM spend WHERE customer_id = 7", "1").await;
    harness::run(&a, "INSERT INTO spend (customer_id, event_time, amount) VALUES (7, '2025-12-31 11:00Z', 2)").await;
    until(&second, "SELECT amount FROM spend WHERE customer_id = 7", "2").await;
}

/// Every file under `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files(&entry));
        } else {
            found.push(entry);
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn many_connections_of_two_gateways_race_and_lose_nothing() {
    const CONNECTIONS: usize = 6;
    const EACH: usize = 5;
    let first = Setup::new(Online::Embedded).start();
    let second = first.second();
    let make = async |gateway: &Gateway, name: String| {
        let client = gateway.connect().await;
        for number in 0..EACH {
            let sql = format!("CREATE TABLE {name}_{number} (x BIGINT)");
            // A client that is told to retry does so, and finds nothing of the attempt before.
            while let Err(error) = client.simple_query(&sql).await {
                let error = harness::explain(&error);
                assert!(error.starts_with("40001: ") && error.contains(RETRY), "{sql}: {error}");
            }
        }
    };
    let left = (0..CONNECTIONS).map(|connection| make(&first, format!("a{connection}")));
    let right = (0..CONNECTIONS).map(|connection| make(&second, format!("b{connection}")));
    futures::future::join_all(left.chain(right)).await;
    let all = (2 * CONNECTIONS * EACH).to_string();
    for gateway in [&first, &second, &first.second()] {
        until(gateway, "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'", &all).await;
    }
}

#[tokio::test]
async fn a_race_that_is_always_lost_is_told_and_leaves_nothing() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(&client, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
    harness::run(&client, "INSERT INTO spend VALUES (7, '2025-12-31 00:00Z', 1)").await;
    let documents = gateway.store().join("registry");
    let newest = files(&documents).pop().unwrap();
    let version: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    // A link to nowhere is absent to who reads it and present to who creates it: so looks a store in which another gateway
    // always writes the next document between the two.
    let next = documents.join(format!("{:020}.json", version + 1));
    std::os::unix::fs::symlink("nowhere", &next).unwrap();
    let before = files(&gateway.store());
    for sql in [
        "CREATE ENTITY item KEY (item_id BIGINT)",
        "CREATE FEATURE VIEW visits (n BIGINT) ENTITY customer",
        "CREATE TABLE plain (x BIGINT)",
        "CREATE TABLE filled AS SELECT customer_id, amount FROM spend",
        "CREATE VIEW seen AS SELECT customer_id FROM spend",
        "COMMENT ON FEATURE VIEW spend IS 'what they spend'",
        "DROP FEATURE VIEW spend",
    ] {
        let error = harness::failure(&client, sql).await;
        assert!(error.starts_with("40001: could not change the registry: lost the race"), "{sql}: {error}");
        assert!(error.contains(RETRY), "{sql}: {error}");
        assert_eq!(files(&gateway.store()), before, "after {sql}");
    }
    // A block is lost as a whole: neither its rows nor any of its changes are done.
    harness::run(&client, "BEGIN").await;
    harness::run(&client, "INSERT INTO spend VALUES (7, '2025-12-31 12:00Z', 2)").await;
    harness::run(&client, "COMMENT ON FEATURE VIEW spend IS 'what they spend'").await;
    harness::run(&client, "CREATE TAG first ON FEATURE VIEW spend").await;
    let error = harness::failure(&client, "COMMIT").await;
    assert!(error.starts_with("40001: "), "{error}");
    assert_eq!(files(&gateway.store()), before, "after the block");
    // What was there is untouched, and each statement works once the race is over.
    assert_eq!(harness::value(&client, "SELECT amount FROM spend WHERE customer_id = 7").await, "1");
    std::fs::remove_file(&next).unwrap();
    harness::run(&client, "CREATE FEATURE VIEW visits (n BIGINT) ENTITY customer").await;
    harness::run(&client, "CREATE TABLE filled AS SELECT customer_id, amount FROM spend").await;
    assert_eq!(harness::value(&client, "SELECT amount FROM filled").await, "1");
}

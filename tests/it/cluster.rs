//! Two gateways over one store.

use std::time::{Duration, Instant};

use crate::harness::{self, Gateway, Online, Setup};

/// How soon one gateway must know what another did.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(1);

/// Rooms for the machine's own slowness, so that only the gateway's counts.
const SLACK: Duration = Duration::from_secs(4);

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

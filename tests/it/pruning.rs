//! What queries leave unread, and what a gateway throws away.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::harness::{self, Online, Setup};

/// Rows of the history below.
const ROWS: usize = 100_000;

/// How soon a gateway that keeps versions for a second must have dropped one.
const DROPS_WITHIN: Duration = Duration::from_secs(20);

/// 50 rows each of 2,000 entities, in an order that mixes them.
async fn load(client: &Client) {
    for sql in [
        "CREATE ENTITY customer KEY (customer_id BIGINT)",
        "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer WITH (online = false)",
        "CREATE TABLE labels (customer_id BIGINT, ts TIMESTAMPTZ)",
        "INSERT INTO labels VALUES (7, '2025-01-02 00:00Z'), (1234, '2025-06-01 00:00Z'), (99999, '2025-06-01 00:00Z')",
    ] {
        harness::run(client, sql).await;
    }
    for first in (1..ROWS).step_by(ROWS / 10) {
        let rows = format!(
            "INSERT INTO spend (customer_id, event_time, amount) SELECT (n * 7919) % 2000, \
             TIMESTAMPTZ '2025-01-01 00:00Z' + CAST(CAST(n AS TEXT) || ' seconds' AS INTERVAL), n \
             FROM generate_series({first}, {}) AS t (n)",
            first + ROWS / 10 - 1
        );
        harness::run(client, &rows).await;
    }
}

/// A metric of the operator, from `EXPLAIN ANALYZE` of a query.
fn metric(plan: &str, operator: &str, name: &str) -> usize {
    let line = plan.lines().find(|line| line.contains(operator)).unwrap_or_else(|| panic!("no {operator} in {plan}"));
    let (_, value) = line.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name} in {line}"));
    let value = value.split([',', ']']).next().unwrap().trim();
    let (number, unit) = value.split_once(' ').unwrap_or((value, ""));
    let scale = match unit {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        other => panic!("{other} in {line}"),
    };
    (number.parse::<f64>().unwrap() * scale) as usize
}

#[tokio::test]
async fn few_labels_read_little_of_an_optimized_history() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    load(&client).await;
    let queries = [
        (
            "AsOfJoinExec",
            "SELECT l.customer_id, f.amount FROM labels l LEFT JOIN spend AS OF l.ts AS f USING (customer_id) ORDER BY 1",
        ),
        (
            "SnapshotExec",
            "SELECT customer_id, amount FROM spend AS OF TIMESTAMPTZ '2025-06-01 00:00Z' WHERE customer_id IN (7, 1234)",
        ),
        ("DatasetScanExec", "SELECT sum(amount) FROM history.spend WHERE customer_id = 7"),
    ];
    let mut before = Vec::new();
    for (operator, sql) in queries {
        let plan = harness::rows(&client, &format!("EXPLAIN ANALYZE {sql}")).await.concat().join("\n");
        before.push((metric(&plan, operator, "rows_read"), harness::rows(&client, sql).await));
    }
    harness::run(&client, "OPTIMIZE FEATURE VIEW spend").await;
    for ((operator, sql), (read_before, rows_before)) in queries.into_iter().zip(before) {
        let plan = harness::rows(&client, &format!("EXPLAIN ANALYZE {sql}")).await.concat().join("\n");
        let read = metric(&plan, operator, "rows_read");
        assert!(read < read_before && read < ROWS / 50, "{read_before} rows before, now {plan}");
        assert!(metric(&plan, operator, "rows_skipped") > ROWS / 50 * 49, "{plan}");
        assert_eq!(harness::rows(&client, sql).await, rows_before, "{sql}");
    }
}

#[tokio::test]
async fn old_versions_are_dropped_and_asking_for_one_says_which_are_left() {
    let gateway = Setup::new(Online::Embedded).retention("1 second").start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(&client, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
    for n in 1..=4 {
        let sql = format!("INSERT INTO spend (customer_id, event_time, amount) VALUES (1, '2025-01-0{n} 00:00Z', {n})");
        harness::run(&client, &sql).await;
    }
    harness::run(&client, "CREATE TAG release ON FEATURE VIEW spend VERSION 3").await;
    let then = harness::value(&client, "SELECT created_time FROM history.spend WHERE amount = 1").await;
    harness::set_clock(&client, "2026-01-01 00:01:00Z").await;
    let second = "SELECT amount FROM spend VERSION AS OF 2";
    let dropped = "22023: feature view \"spend\" no longer has version 2\nHINT: The earliest version that is kept is 5.";
    let start = Instant::now();
    loop {
        match client.simple_query(second).await {
            Err(error) => break assert_eq!(harness::explain(&error), dropped),
            Ok(_) => assert!(start.elapsed() < DROPS_WITHIN, "version 2 is still there"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What a tag names, the newest, and every past system time are there.
    assert_eq!(harness::value(&client, "SELECT amount FROM spend VERSION AS OF 'release'").await, "2");
    assert_eq!(harness::value(&client, "SELECT amount FROM spend VERSION AS OF 5").await, "4");
    assert_eq!(harness::value(&client, &format!("SELECT amount FROM spend FOR SYSTEM_TIME AS OF '{then}'")).await, "1");
    harness::run(&client, "INSERT INTO spend (customer_id, event_time, amount) VALUES (1, '2025-01-05 00:00Z', 5)").await;
    assert_eq!(harness::value(&client, "SELECT amount FROM spend WHERE customer_id = 1").await, "5");
}

//! What was acknowledged is there after a kill, on both routes.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::Client;

use crate::harness::{self, Online, Setup};

const WRITERS: i64 = 4;

async fn define(client: &Client) {
    harness::run(client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(client, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
}

/// The keys of `range` that answer, by each route.
async fn present(client: &Client, keys: &BTreeSet<i64>) -> [BTreeSet<i64>; 2] {
    let list = keys.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for (route, found) in ["online", "offline"].into_iter().zip(&mut found) {
        harness::run(client, &format!("SET tidegate.route = {route}")).await;
        let rows = harness::rows(client, &format!("SELECT customer_id FROM spend WHERE customer_id IN ({list})")).await;
        found.extend(rows.iter().map(|row| row[0].parse::<i64>().unwrap()));
    }
    harness::run(client, "RESET tidegate.route").await;
    found
}

async fn survives_inserts(online: Online) {
    let mut gateway = Setup::new(online).start();
    define(&gateway.connect().await).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3_i64 {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let first = round * 1_000_000 + writer * 100_000;
            writers.push(insert_until_cut(gateway.connect().await, first));
        }
        let mut writing = pin!(futures::future::join_all(writers));
        // Long enough for some commits, at a moment that nobody chose.
        let cut = tokio::time::sleep(Duration::from_millis(400 + 137 * round as u64));
        tokio::select! { _ = &mut writing => panic!("the writers stopped by themselves"), () = cut => gateway.kill() }
        for keys in writing.await {
            acknowledged.extend(keys);
        }
        gateway.restart();
        assert!(!acknowledged.is_empty(), "nothing was acknowledged before the kill");
        let [online, offline] = present(&gateway.connect().await, &acknowledged).await;
        assert_eq!(offline, acknowledged, "offline, round {round}");
        assert_eq!(online, acknowledged, "online, round {round}");
    }
}

/// Inserts rows one by one until the gateway is gone; the keys it acknowledged.
async fn insert_until_cut(client: Client, first: i64) -> Vec<i64> {
    let mut acknowledged = Vec::new();
    for key in first.. {
        let sql = format!("INSERT INTO spend (customer_id, event_time, amount) VALUES ({key}, '2025-12-31 00:00Z', {key})");
        match client.simple_query(&sql).await {
            Ok(_) => acknowledged.push(key),
            Err(error) if error.as_db_error().is_none() => break,
            Err(error) => panic!("{}", harness::explain(&error)),
        }
    }
    acknowledged
}

#[tokio::test]
async fn an_acknowledged_insert_survives_a_kill() {
    survives_inserts(Online::Embedded).await;
}

#[tokio::test]
async fn an_acknowledged_insert_survives_a_kill_on_redis() {
    survives_inserts(Online::Redis).await;
}

#[tokio::test]
async fn a_kill_during_optimize_loses_nothing() {
    let mut gateway = Setup::new(Online::Embedded).start();
    define(&gateway.connect().await).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3_i64 {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            writers.push(insert_until_cut(gateway.connect().await, round * 1_000_000 + writer * 100_000));
        }
        let optimizer = gateway.connect().await;
        let optimizing = async {
            let mut done = 0;
            loop {
                match optimizer.simple_query("OPTIMIZE FEATURE VIEW spend").await {
                    Ok(_) => done += 1,
                    Err(error) if error.as_db_error().is_none() => return done,
                    Err(error) => panic!("{}", harness::explain(&error)),
                }
            }
        };
        let mut working = pin!(futures::future::join(futures::future::join_all(writers), optimizing));
        // Long enough for some rewrites, at a moment that nobody chose.
        let cut = tokio::time::sleep(Duration::from_millis(600 + 137 * round as u64));
        tokio::select! { _ = &mut working => panic!("the writers stopped by themselves"), () = cut => gateway.kill() }
        let (keys, optimized) = working.await;
        assert!(optimized > 0, "nothing was rewritten before the kill");
        acknowledged.extend(keys.into_iter().flatten());
        gateway.restart();
        let client = gateway.connect().await;
        let [online, offline] = present(&client, &acknowledged).await;
        assert_eq!(offline, acknowledged, "offline, round {round}");
        assert_eq!(online, acknowledged, "online, round {round}");
        // The killed rewriter keeps no other from it, and every row is there once.
        harness::run(&client, "OPTIMIZE FEATURE VIEW spend").await;
        let rows = harness::rows(&client, "SELECT count(*) - count(DISTINCT customer_id) FROM history.spend").await;
        assert_eq!(rows[0][0], "0", "round {round}");
    }
}

#[tokio::test]
async fn an_acknowledged_copy_survives_a_kill() {
    for online in [Online::Embedded, Online::Redis] {
        let mut gateway = Setup::new(online).start();
        let client = gateway.connect().await;
        define(&client).await;
        let keys: BTreeSet<i64> = (0..5_000).collect();
        let lines: String = keys.iter().map(|key| format!("{key},2025-12-31 00:00:00Z,{key}\n")).collect();
        let mut sink = pin!(
            client.copy_in::<_, Bytes>("COPY spend (customer_id, event_time, amount) FROM STDIN (FORMAT csv)").await.unwrap()
        );
        sink.send(Bytes::from(lines)).await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), 5_000);
        gateway.restart();
        let [by_online, by_offline] = present(&gateway.connect().await, &keys).await;
        assert_eq!(by_offline, keys, "{online:?}");
        assert_eq!(by_online, keys, "{online:?}");
    }
}

#[tokio::test]
async fn small_inserts_at_once_share_commits() {
    const CLIENTS: i64 = 16;
    const EACH: i64 = 8;
    let gateway = Setup::new(Online::Embedded).start();
    define(&gateway.connect().await).await;
    let write = async |first: i64| {
        let client = gateway.connect().await;
        for key in first..first + EACH {
            harness::run(&client, &format!("INSERT INTO spend VALUES ({key}, '2025-12-31 00:00Z', 1)")).await;
        }
    };
    futures::future::join_all((0..CLIENTS).map(|client| write(client * EACH))).await;
    let counts = "SELECT count(*), count(DISTINCT created_time) FROM history.spend";
    let row = harness::rows(&gateway.connect().await, counts).await.remove(0);
    let commits: i64 = row[1].parse().unwrap();
    assert_eq!(row[0], (CLIENTS * EACH).to_string());
    assert!(commits <= CLIENTS * EACH / 2, "{commits} commits for {} inserts", CLIENTS * EACH);
}

#[tokio::test]
async fn a_transaction_is_there_whole_or_not_at_all() {
    let mut gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    define(&client).await;
    harness::run(&client, "BEGIN").await;
    harness::run(&client, "INSERT INTO spend (customer_id, event_time, amount) VALUES (1, '2025-12-31 00:00Z', 1)").await;
    harness::run(&client, "INSERT INTO spend (customer_id, event_time, amount) VALUES (2, '2025-12-31 00:00Z', 2)").await;
    gateway.restart();
    assert_eq!(harness::value(&gateway.connect().await, "SELECT count(*) FROM history.spend").await, "0");
}

#[tokio::test]
async fn a_stopped_gateway_has_let_its_clients_go() {
    let mut gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    define(&client).await;
    assert!(gateway.terminate().success(), "SIGTERM is a clean stop");
    assert!(client.simple_query("SELECT 1").await.is_err());
    gateway.restart();
    assert_eq!(harness::value(&gateway.connect().await, "SELECT count(*) FROM tidegate.feature_views").await, "1");
}

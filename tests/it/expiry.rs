//! Rows past their TTL leave Redis by themselves, an hour later, and no answer tells.

use std::time::Instant;

use tokio_postgres::Client;

use crate::harness::{self, Gateway, Online, Redis, RedisCluster, Setup};
use crate::redis::{DEADLINE, audit, until_online};

/// A view whose rows live for an hour, and one whose rows live for ever, each with rows of these ages.
async fn define(client: &Client) {
    harness::run(client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(client, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer TTL INTERVAL '1 hour'").await;
    harness::run(client, "CREATE FEATURE VIEW origin (amount BIGINT) ENTITY customer").await;
    for view in ["spend", "origin"] {
        for (customer, minutes) in [(1, 30), (2, 90), (3, 180), (4, 100_000)] {
            write(client, view, customer, minutes, minutes).await;
        }
    }
}

/// Writes a row that became true so many minutes ago.
async fn write(client: &Client, view: &str, customer: i64, minutes: i64, amount: i64) {
    let row = format!("SELECT {customer}, now() - INTERVAL '{minutes} minutes', {amount}");
    harness::run(client, &format!("INSERT INTO {view} {row}")).await;
}

/// What both routes say of all customers.
async fn amounts(client: &Client, view: &str) -> Vec<Vec<String>> {
    let sql = format!("SELECT customer_id, amount FROM {view} WHERE customer_id IN (1, 2, 3, 4) ORDER BY customer_id");
    harness::run(client, "SET tidegate.route = offline").await;
    let offline = harness::rows(client, &sql).await;
    harness::run(client, "RESET tidegate.route").await;
    assert_eq!(harness::rows(client, &sql).await, offline);
    offline
}

/// What is in the online store of a view: entities, and those past the TTL.
async fn kept(client: &Client, view: &str) -> Vec<String> {
    let sql = format!("SELECT keys, expired FROM tidegate.freshness WHERE feature_view = '{view}'");
    harness::rows(client, &sql).await.remove(0)
}

/// For how many milliseconds Redis keeps each row that it does not keep for ever.
fn times_left(redis: &Redis) -> Vec<i64> {
    const SCRIPT: &str = "local left = {}
        for _, key in ipairs(redis.call('KEYS', '*{*')) do
            local time = redis.call('PTTL', key)
            if time >= 0 then left[#left + 1] = time end
        end
        return left";
    let mut left: Vec<i64> = redis.cli(&["EVAL", SCRIPT, "0"]).lines().map(|time| time.trim().parse().unwrap()).collect();
    left.sort_unstable();
    left
}

/// Lets the time of the rows run out that have less than an hour of it.
async fn let_expired_rows_go(client: &Client, redis: &Redis) {
    const SCRIPT: &str = "for _, key in ipairs(redis.call('KEYS', '*{*')) do
            local time = redis.call('PTTL', key)
            if time >= 0 and time < 3600000 then redis.call('PEXPIRE', key, 1) end
        end";
    redis.cli(&["EVAL", SCRIPT, "0"]);
    let start = Instant::now();
    while kept(client, "spend").await[1] != "0" {
        assert!(start.elapsed() < DEADLINE, "expired rows stay");
    }
}

fn agrees(gateway: &Gateway, redis: &Redis) {
    for arguments in [&[][..], &["--repair"]] {
        let (code, said) = audit(gateway, Some(&redis.url()), arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("2 views audited: the online rows are those of the history."), "{said}");
    }
}

fn expected(rows: &[(i64, i64)]) -> Vec<Vec<String>> {
    rows.iter().map(|(customer, amount)| vec![customer.to_string(), amount.to_string()]).collect()
}

#[tokio::test]
async fn rows_past_their_ttl_leave_redis_and_no_answer_tells() {
    let mut gateway = Setup::new(Online::Redis).clock_of_the_machine().start();
    let client = gateway.connect().await;
    define(&client).await;
    let all = expected(&[(1, 30), (2, 90), (3, 180), (4, 100_000)]);
    assert_eq!(amounts(&client, "spend").await, all[..1]);
    assert_eq!(amounts(&client, "origin").await, all);
    // One lives, one is past its TTL, two are so for more than an hour and never came there.
    assert_eq!(kept(&client, "spend").await, ["2", "1"]);
    assert_eq!(kept(&client, "origin").await, ["4", "0"]);
    let minute = 60_000;
    let left = times_left(gateway.redis());
    assert_eq!(left.len(), 2);
    assert!(left[0] <= 30 * minute && left[1] > 60 * minute && left[1] <= 90 * minute, "{left:?}");
    agrees(&gateway, gateway.redis());

    let_expired_rows_go(&client, gateway.redis()).await;
    assert_eq!(kept(&client, "spend").await, ["1", "0"]);
    assert_eq!(harness::value(&client, "SELECT rows FROM tidegate.freshness WHERE feature_view = 'spend'").await, "4");
    assert_eq!(amounts(&client, "spend").await, all[..1]);
    agrees(&gateway, gateway.redis());

    // Late rows of what has gone: none that is past the TTL is seen, older or newer than the one that went, one that lives is.
    write(&client, "spend", 2, 100, 100).await;
    write(&client, "spend", 2, 80, 80).await;
    write(&client, "spend", 4, 100_001, 1).await;
    assert_eq!(amounts(&client, "spend").await, all[..1]);
    agrees(&gateway, gateway.redis());
    write(&client, "spend", 3, 20, 20).await;
    let now = expected(&[(1, 30), (3, 20)]);
    assert_eq!(amounts(&client, "spend").await, now);

    // Built anew, by hand or after a loss, and on a gateway that starts: the same.
    let lookup = "SELECT amount FROM spend WHERE customer_id = 3";
    harness::run(&client, "REFRESH ONLINE spend").await;
    assert_eq!(amounts(&client, "spend").await, now);
    gateway.redis().cli(&["FLUSHALL"]);
    until_online(&gateway, lookup, "20").await;
    assert_eq!(kept(&client, "spend").await, ["3", "1"]);
    let other = gateway.second();
    until_online(&other, lookup, "20").await;
    assert_eq!(amounts(&other.connect().await, "spend").await, now);
    gateway.restart();
    let client = gateway.connect().await;
    assert_eq!(amounts(&client, "spend").await, now);
    agrees(&gateway, gateway.redis());
    // A row that lives is missed all the same.
    let script = "for _, key in ipairs(redis.call('KEYS', '*{*')) do redis.call('DEL', key) end";
    gateway.redis().cli(&["EVAL", script, "0"]);
    let (code, said) = audit(&gateway, Some(&gateway.redis().url()), &["spend"]);
    assert!(code == Some(1) && said.contains("spend          2          2"), "{said}");
}

#[tokio::test]
async fn nothing_expires_by_itself_under_a_clock_that_is_set() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    assert_eq!(times_left(gateway.redis()), [0; 0]);
    assert_eq!(kept(&client, "spend").await, ["4", "3"]);
    // What is past its TTL may be live again.
    harness::set_clock(&client, "2025-12-31 22:45:00Z").await;
    until_online(&gateway, "SELECT amount FROM spend WHERE customer_id = 2", "90").await;
    assert_eq!(amounts(&client, "spend").await, expected(&[(2, 90)]));
}

#[tokio::test]
async fn rows_past_their_ttl_leave_a_cluster() {
    let cluster = RedisCluster::start(3);
    let gateway = Setup::new(Online::Embedded).redis_at(&cluster.url()).clock_of_the_machine().start();
    let client = gateway.connect().await;
    define(&client).await;
    assert_eq!(amounts(&client, "spend").await, expected(&[(1, 30)]));
    assert_eq!(kept(&client, "spend").await, ["2", "1"]);
    let rows = "for _, key in ipairs(redis.call('KEYS', '*:{*')) do
            if redis.call('PTTL', key) > 0 then redis.call('PEXPIRE', key, 1) end
        end";
    for node in &cluster.nodes {
        node.cli(&["EVAL", rows, "0"]);
    }
    let start = Instant::now();
    while kept(&client, "spend").await != ["0", "0"] {
        assert!(start.elapsed() < DEADLINE, "expired rows stay");
    }
    assert_eq!(kept(&client, "origin").await, ["4", "0"]);
    write(&client, "spend", 2, 10, 10).await;
    assert_eq!(harness::value(&client, "SELECT amount FROM spend WHERE customer_id = 2").await, "10");
}

//! A cluster of Redis: nodes that go away, fail over without their last writes, and hand slots to each other.

use tokio_postgres::Client;

use crate::harness::{self, Gateway, Online, RedisCluster, Setup, until};
use crate::redis::{answer, check, define, until_online};

/// Customers on every node.
const CUSTOMERS: i64 = 40;

/// What all of them have spent, by their keys.
fn sum() -> String {
    let keys: Vec<String> = (1..=CUSTOMERS).map(|customer| customer.to_string()).collect();
    format!("SELECT sum(amount) FROM spend WHERE customer_id IN ({})", keys.join(", "))
}

/// Writes a newer row of each customer; gives the sum of all.
async fn write_all(client: &Client, amount: i64) -> String {
    let row = |customer| format!("({customer}, '2025-06-01 00:00:{amount:02}Z', {amount})");
    let rows: Vec<String> = (1..=CUSTOMERS).map(row).collect();
    harness::run(client, &format!("INSERT INTO spend VALUES {}", rows.join(", "))).await;
    (CUSTOMERS * amount).to_string()
}

fn on(cluster: &RedisCluster) -> Gateway {
    Setup::new(Online::Embedded).redis_at(&cluster.url()).start()
}

#[tokio::test]
async fn a_cluster_serves_and_a_node_that_was_away_is_filled_again() {
    let cluster = RedisCluster::start(3);
    let mut gateway = on(&cluster);
    let client = gateway.connect().await;
    define(&client).await;
    let total = write_all(&client, 5).await;
    until_online(&gateway, &sum(), &total).await;
    // Every node has some of the rows, and a version of its own.
    for node in &cluster.nodes {
        assert!(node.cli(&["DBSIZE"]).trim().parse::<u64>().unwrap() > 2);
    }
    let other = gateway.second();
    let total = write_all(&other.connect().await, 6).await;
    until_online(&gateway, &sum(), &total).await;
    let shown = harness::value(&client, "SELECT address FROM tidegate.online_store").await;
    assert_eq!(shown, cluster.url());
    let keys = harness::value(&client, "SELECT keys FROM tidegate.online_store").await;
    assert_eq!(keys, (CUSTOMERS + 3).to_string());
    // One goes away: writes stay durable, no lookup is wrong, also after a start without it.
    cluster.nodes[1].stop();
    let total = write_all(&client, 7).await;
    for _ in 0..20 {
        check(answer(&client, &sum()).await, &total);
    }
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    assert_eq!(harness::value(&client, &sum()).await, total);
    gateway.restart();
    let client = gateway.connect().await;
    check(answer(&client, &sum()).await, &total);
    cluster.nodes[1].start_again();
    for gateway in [&gateway, &other] {
        until_online(gateway, &sum(), &total).await;
    }
    // An emptied node is noticed as well.
    assert_eq!(cluster.nodes[2].cli(&["FLUSHALL"]), "OK");
    check(answer(&client, &sum()).await, &total);
    until_online(&gateway, &sum(), &total).await;
    harness::run(&client, "DROP FEATURE VIEW spend").await;
    until("nothing is left", || cluster.nodes.iter().all(|node| node.cli(&["DBSIZE"]) == "0"));
}

/// A replica that lacks the last writes takes over: what it lacks is noticed, and replayed.
#[tokio::test]
async fn a_failed_over_primary_of_a_cluster_is_given_what_it_lacks() {
    let cluster = RedisCluster::start_with_replicas(3);
    let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[3]);
    let gateway = on(&cluster);
    let client = gateway.connect().await;
    define(&client).await;
    let total = write_all(&client, 5).await;
    until_online(&gateway, &sum(), &total).await;
    // The replica has what was written so far, and from here on nothing more.
    assert_eq!(primary.cli(&["WAIT", "1", "10000"]), "1");
    replica.must(&["CONFIG", "SET", "masterauth", "wrong"]);
    replica.must(&["CONFIG", "SET", "masteruser", "nobody"]);
    primary.cli(&["CLIENT", "KILL", "TYPE", "replica"]);
    until("the replica lost its primary", || replica.cli(&["INFO", "replication"]).contains("master_link_status:down"));
    let mut total = total;
    for amount in 6..=20 {
        total = write_all(&client, amount).await;
    }
    until_online(&gateway, &sum(), &total).await;
    primary.stop();
    let any = gateway.connect().await;
    check(answer(&any, &sum()).await, &total);
    replica.must(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    until_online(&gateway, &sum(), &total).await;
    assert_eq!(replica.cli(&["ROLE"]).lines().next(), Some("master"));
    let total = write_all(&client, 21).await;
    until_online(&gateway, &sum(), &total).await;
}

#[tokio::test]
async fn a_slot_that_moves_to_another_node_misleads_nobody() {
    let cluster = RedisCluster::start(3);
    let (source, target) = (&cluster.nodes[0], &cluster.nodes[1]);
    let gateway = on(&cluster);
    let client = gateway.connect().await;
    define(&client).await;
    let mut total = write_all(&client, 5).await;
    until_online(&gateway, &sum(), &total).await;
    // The slot of some row on the first node, there and back again.
    let slot_of_row = "for _, key in ipairs(redis.call('KEYS', '*:{*')) do
        if not string.find(key, 'applied') then return redis.call('CLUSTER', 'KEYSLOT', key) end
    end";
    let slot = source.cli(&["EVAL", slot_of_row, "0"]);
    for (round, (source, target)) in [(0, (source, target)), (1, (target, source))] {
        target.must(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source.id()]);
        source.must(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target.id()]);
        let port = target.port().to_string();
        let move_rows = "for _, key in ipairs(redis.call('CLUSTER', 'GETKEYSINSLOT', ARGV[1], 100)) do
            redis.call('MIGRATE', '127.0.0.1', ARGV[2], key, 0, 5000)
        end";
        source.cli(&["EVAL", move_rows, "0", &slot, &port]);
        for _ in 0..10 {
            check(answer(&client, &sum()).await, &total);
        }
        // What is written now cannot be online yet, and is read all the same.
        total = write_all(&client, 6 + 2 * round).await;
        for _ in 0..10 {
            check(answer(&client, &sum()).await, &total);
        }
        for node in [target, source] {
            node.must(&["CLUSTER", "SETSLOT", &slot, "NODE", &target.id()]);
        }
        until_online(&gateway, &sum(), &total).await;
        total = write_all(&client, 7 + 2 * round).await;
        until_online(&gateway, &sum(), &total).await;
        assert_eq!(answer(&client, &sum()).await, Ok(Some(total.clone())));
    }
    // Versions of the slots served in between are gone.
    let keys = harness::value(&client, "SELECT keys FROM tidegate.online_store").await;
    assert_eq!(keys, (CUSTOMERS + 3).to_string());
}

#[tokio::test]
async fn a_node_of_a_cluster_is_not_taken_for_a_server() {
    let cluster = RedisCluster::start(1);
    let url = format!("redis://127.0.0.1:{}", cluster.nodes[0].port());
    let gateway = Setup::new(Online::Embedded).redis_at(&url).start();
    let client = gateway.connect().await;
    define(&client).await;
    let refusal = harness::failure(&client, &sum()).await;
    assert!(refusal.contains("DETAIL: It is a node of a cluster: give its address as redis+cluster://."), "{refusal}");
}

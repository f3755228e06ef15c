//! Redis behind TLS, where there are several of it: a primary that sentinels name, and a cluster.

use std::time::Instant;

use crate::harness::{self, Certificates, Gateway, Online, Redis, RedisCluster, Sentinel, Setup, until};
use crate::redis::{DEADLINE, answer, check, define, until_online, write};

const LOOKUP: &str = "SELECT amount FROM spend WHERE customer_id = 1";

const UNTRUSTED: &str =
    "DETAIL: Its certificate is not trusted: it is by another authority (name the right one with ?ca=FILE), or for another name.";

/// Another gateway on the same store is refused by what stands at `url`, and says why; its rows are read from the history.
async fn is_refused(gateway: &Gateway, url: &str, why: &str, expected: &str) {
    let refused = gateway.second_at(url);
    let client = refused.connect().await;
    let refusal = harness::failure(&client, LOOKUP).await;
    assert!(refusal.contains(why), "{url}: {refusal}");
    check(Err(refusal), expected);
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    assert_eq!(harness::value(&client, LOOKUP).await, expected, "{url}");
}

#[tokio::test]
async fn a_primary_behind_tls_is_found_by_sentinels_behind_tls_and_followed() {
    let certificates = Certificates::new();
    let (primary, replica) = (Redis::behind_tls(&certificates, "no"), Redis::behind_tls(&certificates, "no"));
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.tls_port().to_string()]);
    let sentinel = Sentinel::behind_tls(&primary, &certificates);
    let trusting = format!("{}?ca={}", sentinel.url(), certificates.file("ca.pem"));
    let gateway = Setup::new(Online::Embedded).redis_at(&trusting).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    // The sentinels are not believed either where they are not trusted.
    is_refused(&gateway, &sentinel.url(), UNTRUSTED, "5").await;
    is_refused(&gateway, &format!("{}?ca={}", sentinel.url(), certificates.file("other.pem")), UNTRUSTED, "5").await;
    let plain = trusting.replace("rediss", "redis");
    let without = plain.split_once('?').unwrap().0;
    is_refused(&gateway, without, "DETAIL: ", "5").await;

    let seen = || sentinel.cli(&["SENTINEL", "REPLICAS", "tide"]).contains(&replica.tls_port().to_string());
    until("the sentinel sees the replica", seen);
    assert_eq!(primary.cli(&["WAIT", "1", "30000"]), "1");
    primary.stop();
    let (any, start) = (gateway.connect().await, Instant::now());
    let named = || sentinel.cli(&["SENTINEL", "get-master-addr-by-name", "tide"]).contains(&replica.tls_port().to_string());
    while !named() {
        assert!(start.elapsed() < DEADLINE, "no failover");
        check(answer(&any, LOOKUP).await, "5");
    }
    until_online(&gateway, LOOKUP, "5").await;
    assert_eq!(replica.cli(&["ROLE"]).lines().next(), Some("master"));
    write(&client, 6).await;
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_primary_that_cannot_prove_who_it_is_is_not_followed() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let primary = Redis::behind_tls(&certificates, "no");
    let sentinel = Sentinel::behind_tls(&primary, &certificates);
    let gateway =
        Setup::new(Online::Embedded).redis_at(&format!("{}?ca={}", sentinel.url(), certificates.file("ca.pem"))).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    // What the sentinels name from now on has a certificate by somebody else.
    let stranger = Redis::behind_tls(&others, "no");
    let port = stranger.tls_port().to_string();
    sentinel.cli(&["SENTINEL", "REMOVE", "tide"]);
    assert_eq!(sentinel.cli(&["SENTINEL", "MONITOR", "tide", "127.0.0.1", &port, "1"]), "OK");
    let start = Instant::now();
    loop {
        let found = answer(&client, LOOKUP).await;
        check(found.clone(), "5");
        if found.is_err_and(|refusal| refusal.contains(UNTRUSTED)) {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "the stranger is not refused");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(stranger.cli(&["DBSIZE"]), "0");
    // Back at the first one, all is as it was.
    sentinel.cli(&["SENTINEL", "REMOVE", "tide"]);
    let port = primary.tls_port().to_string();
    assert_eq!(sentinel.cli(&["SENTINEL", "MONITOR", "tide", "127.0.0.1", &port, "1"]), "OK");
    until_online(&gateway, LOOKUP, "5").await;
}

#[tokio::test]
async fn a_cluster_behind_tls_serves_and_is_followed() {
    let certificates = Certificates::new();
    let cluster = RedisCluster::behind_tls(2, &|port| certificates.arguments(port, "no"));
    let trusting = format!("{}?ca={}", cluster.url(), certificates.file("ca.pem"));
    let gateway = Setup::new(Online::Embedded).redis_at(&trusting).start();
    let client = gateway.connect().await;
    define(&client).await;
    let customers: Vec<_> = (1..=40).map(|id| id.to_string()).collect();
    let sum = format!("SELECT sum(amount) FROM spend WHERE customer_id IN ({})", customers.join(", "));
    let sum = sum.as_str();
    let write_all = async |amount: i64| {
        let rows: Vec<_> = customers.iter().map(|id| format!("({id}, '2025-06-01 00:00:{amount:02}Z', {amount})")).collect();
        harness::run(&client, &format!("INSERT INTO spend VALUES {}", rows.join(", "))).await;
    };
    write_all(5).await;
    until_online(&gateway, sum, "200").await;
    for node in &cluster.nodes[..2] {
        assert!(node.cli(&["DBSIZE"]).parse::<u64>().unwrap() > 1, "each node has rows, and its version");
    }
    is_refused(&gateway, &cluster.url(), UNTRUSTED, "5").await;
    is_refused(&gateway, &format!("{}?ca={}", cluster.url(), certificates.file("other.pem")), UNTRUSTED, "5").await;

    let (primary, replica) = (&cluster.nodes[0], &cluster.nodes[2]);
    assert_eq!(primary.cli(&["WAIT", "1", "30000"]), "1");
    primary.stop();
    check(answer(&gateway.connect().await, sum).await, "200");
    replica.must(&["CLUSTER", "FAILOVER", "TAKEOVER"]);
    until_online(&gateway, sum, "200").await;
    assert_eq!(replica.cli(&["ROLE"]).lines().next(), Some("master"));
    write_all(6).await;
    until_online(&gateway, sum, "240").await;
}

#[tokio::test]
async fn a_redis_that_asks_its_clients_for_certificates_is_shown_one() {
    let certificates = Certificates::new();
    let redis = Redis::behind_tls(&certificates, "yes");
    let url = format!("rediss://127.0.0.1:{}?ca={}", redis.tls_port(), certificates.file("ca.pem"));
    let shown = format!("{url}&cert={}&key={}", certificates.file("redis.pem"), certificates.file("redis.key"));
    let gateway = Setup::new(Online::Embedded).redis_at(&shown).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    let wanted = "DETAIL: It wants another certificate of its clients, or one at all: name it with ?cert=FILE&key=FILE.";
    is_refused(&gateway, &url, wanted, "5").await;
    let foreign = format!("{url}&cert={}&key={}", certificates.file("other.pem"), certificates.file("other.key"));
    is_refused(&gateway, &foreign, wanted, "5").await;
    // The certificate and its key are no secret of the address, and nobody is shown more than is needed.
    let address = harness::value(&client, "SELECT address FROM tidegate.online_store").await;
    assert_eq!(address, format!("rediss://127.0.0.1:{}/0", redis.tls_port()));
}

//! The ways to a Redis: a socket of this machine, and a user who may do what is needed and nothing else.

use crate::harness::{self, Gateway, Online, Redis, Setup};
use crate::redis::{answer, audit, check, define, until_online, write};

const LOOKUP: &str = "SELECT amount FROM spend WHERE customer_id = 1";

/// Defines, writes and looks up; then once more what somebody emptied.
async fn serves(gateway: &Gateway) {
    let client = gateway.connect().await;
    define(&client).await;
    for amount in [5, 7, 6] {
        write(&client, amount).await;
    }
    until_online(gateway, LOOKUP, "7").await;
    harness::run(&client, "REFRESH ONLINE spend").await;
    until_online(gateway, LOOKUP, "7").await;
}

#[tokio::test]
async fn a_socket_of_this_machine_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a redis.sock").to_str().unwrap().to_owned();
    let redis = Redis::start_with(&["--unixsocket".to_owned(), path.clone(), "--requirepass".to_owned(), "sesame".to_owned()]);
    let url = format!("redis+unix://{}?db=3&pass=sesame", path.replace(' ', "%20"));
    let gateway = Setup::new(Online::Embedded).redis_at(&url).start();
    serves(&gateway).await;
    let client = gateway.connect().await;
    let shown = harness::value(&client, "SELECT address FROM tidegate.online_store").await;
    assert_eq!(shown, format!("redis+unix://{path}?db=3"));
    let kept = redis.cli(&["--no-auth-warning", "-a", "sesame", "INFO", "keyspace"]);
    assert!(kept.contains("db3:keys=2"), "a row and the applied version, in that database: {kept}");
    // It goes, and comes back without rows.
    redis.stop();
    check(answer(&client, LOOKUP).await, "7");
    write(&client, 8).await;
    redis.start_again();
    until_online(&gateway, LOOKUP, "8").await;
    let refused = gateway.second_at(&url.replace("sesame", "open"));
    let refusal = harness::failure(&refused.connect().await, LOOKUP).await;
    assert!(refusal.contains("DETAIL: It refuses the user or the password."), "{refusal}");
    let nobody = gateway.second_at("redis+unix:///nowhere/redis.sock");
    let refusal = harness::failure(&nobody.connect().await, LOOKUP).await;
    assert!(refusal.contains("DETAIL: It cannot be reached."), "{refusal}");
}

/// The rights that the README asks for: from its own text, so that nobody has to trust it.
fn rights(kind: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let start = format!("ACL SETUSER {kind} ");
    let line = readme.lines().find_map(|line| line.trim().strip_prefix(&start)).expect("the README names the rights");
    line.split_whitespace().map(str::to_owned).collect()
}

/// Makes a user of these rights, or gives and takes some.
fn set_user(redis: &Redis, user: &str, rights: &[String]) {
    let command: Vec<&str> = ["ACL", "SETUSER", user].into_iter().chain(rights.iter().map(String::as_str)).collect();
    assert_eq!(redis.cli(&command), "OK");
}

/// A gateway by a user of the rights that are documented, which serves, and the address by which it asks.
async fn by_a_user_of_few_rights(redis: &Redis) -> (Gateway, String) {
    set_user(redis, "tidegate", &rights("tidegate"));
    let url = redis.url().replace("://", "://tidegate:password@");
    let gateway = Setup::new(Online::Embedded).redis_at(&url).start();
    serves(&gateway).await;
    (gateway, url)
}

#[tokio::test]
async fn a_user_of_the_rights_that_are_documented_serves_and_none_of_them_is_idle() {
    let redis = Redis::start();
    let (gateway, url) = by_a_user_of_few_rights(&redis).await;
    let client = gateway.connect().await;
    // With a TTL, rows are given an expiry, which takes the right to ask how the server drops keys.
    let view = "CREATE FEATURE VIEW brief (n BIGINT) ENTITY customer TTL '36500 days'";
    harness::run(&client, view).await;
    harness::run(&client, "INSERT INTO brief VALUES (1, '2025-06-01 00:00Z', 1)").await;
    until_online(&gateway, "SELECT n FROM brief WHERE customer_id = 1", "1").await;
    let status = harness::rows(&client, "SELECT version, keys FROM tidegate.online_store").await;
    assert!(status[0][0] != "NULL" && status[0][1] != "NULL", "{status:?}");
    let (code, said) = audit(&gateway, Some(&url), &["spend"]);
    assert_eq!(code, Some(0), "{said}");
    harness::run(&client, "DROP FEATURE VIEW brief").await;
    // Newer servers are also told the name of the library, which may be refused.
    let log = redis.cli(&["ACL", "LOG"]);
    let lines: Vec<_> = log.lines().collect();
    let mut denied = lines.windows(2).filter(|pair| pair[0] == "object").map(|pair| pair[1]);
    assert!(denied.all(|command| command == "client|setinfo"), "asked for, and denied: {log}");

    // Each right was made use of.
    for right in rights("tidegate").iter().filter(|right| right.starts_with('+')) {
        let used = redis.cli(&["INFO", "commandstats"]);
        let command = right.trim_start_matches('+');
        assert!(used.contains(&format!("cmdstat_{command}:")), "{right} is not needed: {used}");
    }
    let url = redis.url().replace("://", "://tidegate:wrong@");
    let refusal = harness::failure(&gateway.second_at(&url).connect().await, LOOKUP).await;
    assert!(refusal.contains("DETAIL: It refuses the user or the password."), "{refusal}");
    check(Err(refusal), "7");
}

#[tokio::test]
async fn a_user_who_may_not_write_is_told_and_what_is_written_stays_right() {
    let redis = Redis::start();
    let (gateway, _url) = by_a_user_of_few_rights(&redis).await;
    set_user(&redis, "tidegate", &["-set".to_owned()]);
    let client = gateway.connect().await;
    write(&client, 9).await;
    check(answer(&client, LOOKUP).await, "9");
    set_user(&redis, "tidegate", &["+set".to_owned()]);
    until_online(&gateway, LOOKUP, "9").await;
}

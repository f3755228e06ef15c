//! Redis as people run it: killed, emptied, hung, slowed, full, failed over, out of reach. Nothing acknowledged is lost, no lookup
//! is answered wrongly, and nobody has to help.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{self, Gateway, Online, Redis, Sentinel, Setup};

/// How long the gateway may take on a busy machine for what it does within a second.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

const LOOKUP: &str = "SELECT amount FROM spend WHERE customer_id = 1";

pub(crate) async fn define(client: &Client) {
    harness::run(client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(client, "CREATE FEATURE VIEW spend (amount BIGINT) ENTITY customer").await;
}

/// Writes a row of customer 1 that is newer than those with a lower amount.
pub(crate) async fn write(client: &Client, amount: i64) {
    harness::run(client, &format!("INSERT INTO spend VALUES (1, '2025-06-01 00:00:{amount:02}Z', {amount})")).await;
}

/// The first value of an answer, or the error; `None` where there is no row.
pub(crate) async fn answer(client: &Client, sql: &str) -> Result<Option<String>, String> {
    let messages = client.simple_query(sql).await.map_err(|error| harness::explain(&error))?;
    Ok(messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    }))
}

/// Waits until the online store answers lookups again by itself; each answer until then is the right one, or says that there is
/// none now.
pub(crate) async fn until_online(gateway: &Gateway, sql: &str, expected: &str) {
    let (online, any) = (gateway.connect().await, gateway.connect().await);
    harness::run(&online, "SET tidegate.route = online").await;
    let start = Instant::now();
    loop {
        check(answer(&any, sql).await, expected);
        match answer(&online, sql).await {
            Ok(found) => return assert_eq!(found.as_deref(), Some(expected)),
            Err(error) => {
                let expected = error.starts_with("58030: ") || error.starts_with("55000: ");
                assert!(expected && start.elapsed() < DEADLINE, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An answer is right, or there is none.
pub(crate) fn check(found: Result<Option<String>, String>, expected: &str) {
    match found {
        Ok(found) => assert_eq!(found.as_deref(), Some(expected)),
        Err(error) => {
            assert!(error.starts_with("58030: could not read feature view \"spend\" from the online store"), "{error}");
            assert!(error.contains("HINT: Retry, or SET tidegate.online_fallback = offline."), "{error}");
        }
    }
}

/// Looks up while `happens`, again and again, and some more after it: each answer is right, or there is none.
async fn lookups_while(gateway: &Gateway, expected: &str, happens: impl FnOnce()) {
    let client = gateway.connect().await;
    for _ in 0..10 {
        check(answer(&client, LOOKUP).await, expected);
    }
    happens();
    for _ in 0..50 {
        check(answer(&client, LOOKUP).await, expected);
    }
}

#[tokio::test]
async fn a_killed_redis_loses_nothing_and_is_filled_again() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    lookups_while(&gateway, "5", || gateway.redis().stop()).await;
    let refusal = harness::failure(&client, LOOKUP).await;
    assert!(refusal.contains("DETAIL: It cannot be reached."), "{refusal}");
    check(Err(refusal), "5");
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    assert_eq!(harness::value(&client, LOOKUP).await, "5");
    // The row is safe in Lance although Redis is away, and read from there.
    write(&client, 6).await;
    assert_eq!(harness::value(&client, LOOKUP).await, "6");
    gateway.redis().start_again();
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_service_is_read_as_its_views_are_while_redis_is_away() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    harness::run(&client, "CREATE ENTITY item KEY (item_id BIGINT)").await;
    harness::run(&client, "CREATE FEATURE VIEW stock (pieces BIGINT) ENTITY item").await;
    harness::run(&client, "INSERT INTO stock VALUES (2, '2025-06-01 00:00Z', 7)").await;
    let service = "SELECT s.amount, k.pieces, s.amount * k.pieces AS worth FROM spend s, stock k";
    harness::run(&client, &format!("CREATE FEATURE SERVICE input AS {service}")).await;
    write(&client, 5).await;
    // On the short road, planned, and joined to a few rows.
    let asked = [
        ("SELECT pieces FROM input WHERE customer_id = 1 AND item_id = 2", "7"),
        ("SELECT worth FROM input WHERE customer_id = 1 AND item_id = 2", "35"),
        ("SELECT i.worth FROM (VALUES (1, 2)) v (c, i) JOIN input i ON i.customer_id = v.c AND i.item_id = v.i", "35"),
    ];
    for (sql, expected) in asked {
        until_online(&gateway, sql, expected).await;
    }
    gateway.redis().stop();
    for (sql, expected) in asked {
        check(Err(harness::failure(&client, sql).await), expected);
    }
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    for (sql, expected) in asked {
        assert_eq!(harness::value(&client, sql).await, expected, "{sql}");
    }
    gateway.redis().start_again();
    for (sql, expected) in asked {
        until_online(&gateway, sql, expected).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_away_at_start_is_found_when_it_comes() {
    let mut gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    gateway.redis().stop();
    gateway.restart();
    let client = gateway.connect().await;
    check(Err(harness::failure(&client, LOOKUP).await), "5");
    write(&client, 6).await;
    // What is made meanwhile is ready with the rest.
    harness::run(&client, "CREATE FEATURE VIEW visits (n BIGINT) ENTITY customer").await;
    harness::run(&client, "INSERT INTO visits VALUES (1, '2025-06-01 00:00Z', 7)").await;
    gateway.redis().start_again();
    until_online(&gateway, LOOKUP, "6").await;
    assert_eq!(harness::value(&client, "SELECT n FROM visits WHERE customer_id = 1").await, "7");
}

#[tokio::test]
async fn a_flushed_redis_is_never_taken_for_one_without_rows() {
    let gateway = Setup::new(Online::Redis).start();
    define(&gateway.connect().await).await;
    let other = gateway.second();
    write(&gateway.connect().await, 5).await;
    for round in 0..10 {
        for gateway in [&gateway, &other] {
            until_online(gateway, LOOKUP, "5").await;
        }
        let flushed = || assert_eq!(gateway.redis().cli(&["FLUSHALL"]), "OK", "round {round}");
        if round % 2 == 0 {
            lookups_while(&gateway, "5", flushed).await;
        } else {
            lookups_while(&other, "5", flushed).await;
        }
    }
}

/// A late row that comes right after the loss finds no newer one there: it must not be served in its place.
#[tokio::test]
async fn a_late_row_into_a_flushed_redis_hides_nothing() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 50).await;
    for late in 1..=10 {
        until_online(&gateway, LOOKUP, "50").await;
        gateway.redis().cli(&["FLUSHALL"]);
        write(&client, late).await;
        check(answer(&client, LOOKUP).await, "50");
    }
    until_online(&gateway, LOOKUP, "50").await;
}

#[tokio::test]
async fn a_redis_that_hangs_holds_nobody_and_loses_nothing() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    gateway.redis().pause();
    // Each of these ends although Redis never answers.
    check(Err(harness::failure(&client, LOOKUP).await), "5");
    harness::run(&client, "SET tidegate.online_fallback = offline").await;
    assert_eq!(harness::value(&client, LOOKUP).await, "5");
    // Durable in Lance, and acknowledged.
    write(&client, 6).await;
    assert_eq!(harness::value(&client, LOOKUP).await, "6");
    gateway.redis().go_on();
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_slow_redis_delays_and_misleads_nobody() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    for seconds in ["0.3", "2"] {
        until_online(&gateway, LOOKUP, "5").await;
        let port = gateway.redis().port().to_string();
        let slow = std::process::Command::new("redis-cli").args(["-p", &port, "DEBUG", "SLEEP", seconds]).spawn();
        lookups_while(&gateway, "5", || {}).await;
        assert!(slow.unwrap().wait().unwrap().success());
    }
    write(&client, 6).await;
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_full_redis_serves_no_old_row() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    assert_eq!(gateway.redis().cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    write(&client, 6).await;
    assert_eq!(answer(&client, LOOKUP).await, Ok(Some("6".into())));
    assert_eq!(gateway.redis().cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_wrong_password_is_said_and_mended_on_the_other_side() {
    let redis = Redis::start();
    let gateway = Setup::new(Online::Embedded).redis_at(&redis.url().replace("://", "://:sesame@")).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    let refusal = harness::failure(&client, LOOKUP).await;
    assert!(refusal.contains("DETAIL: It refuses the user or the password."), "{refusal}");
    check(Err(refusal), "5");
    assert_eq!(redis.cli(&["CONFIG", "SET", "requirepass", "sesame"]), "OK");
    until_online(&gateway, LOOKUP, "5").await;
}

/// A replica that lacks the last writes becomes the primary: what it lacks is noticed, and replayed.
#[tokio::test]
async fn a_primary_that_lost_its_last_writes_is_given_them_again() {
    let (primary, replica) = (Redis::start(), Redis::start());
    let port = primary.port().to_string();
    replica.cli(&["REPLICAOF", "127.0.0.1", &port]);
    let sentinel = Sentinel::of(&primary);
    let gateway = Setup::new(Online::Embedded).redis_at(&sentinel.url()).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    until_online(&gateway, LOOKUP, "5").await;
    let knows_replica = async || {
        while !sentinel.cli(&["SENTINEL", "REPLICAS", "tide"]).contains(&replica.port().to_string()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, knows_replica()).await.expect("the sentinel does not see the replica");
    // The replica has what was written so far, and from here on nothing more.
    assert_eq!(primary.cli(&["WAIT", "1", "30000"]), "1");
    replica.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    for amount in 6..=20 {
        write(&client, amount).await;
    }
    until_online(&gateway, LOOKUP, "20").await;
    primary.stop();
    let (any, start) = (gateway.connect().await, Instant::now());
    let named = || sentinel.cli(&["SENTINEL", "get-master-addr-by-name", "tide"]).contains(&replica.port().to_string());
    while !named() {
        assert!(start.elapsed() < DEADLINE, "no failover");
        check(answer(&any, LOOKUP).await, "20");
    }
    until_online(&gateway, LOOKUP, "20").await;
    // And it is the new primary that answers.
    assert_eq!(replica.cli(&["ROLE"]).lines().next(), Some("master"));
    write(&client, 21).await;
    assert_eq!(harness::value(&client, LOOKUP).await, "21");
}

/// The commit of a gateway that died before it came online.
#[tokio::test]
async fn a_gap_left_by_a_gateway_that_died_is_closed_by_another() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    write(&client, 5).await;
    // This one commits, cannot reach Redis, and is gone before anybody helps it: to the others, it died in between.
    let mut dying = gateway.second_at("redis://127.0.0.1:1");
    write(&dying.connect().await, 6).await;
    dying.kill();
    let start = Instant::now();
    while answer(&client, LOOKUP).await != Ok(Some("6".into())) {
        assert!(start.elapsed() < DEADLINE, "the gap is not closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_online(&gateway, LOOKUP, "6").await;
}

#[tokio::test]
async fn a_write_is_seen_by_the_next_lookup_of_every_gateway_on_the_same_redis() {
    let gateway = Setup::new(Online::Redis).start();
    define(&gateway.connect().await).await;
    let other = gateway.second();
    let (here, there) = (gateway.connect().await, other.connect().await);
    write(&here, 0).await;
    for gateway in [&gateway, &other] {
        until_online(gateway, LOOKUP, "0").await;
    }
    for amount in 1..50 {
        let (writer, reader) = if amount % 2 == 0 { (&here, &there) } else { (&there, &here) };
        write(writer, amount).await;
        assert_eq!(harness::value(reader, LOOKUP).await, amount.to_string());
    }
}

/// What `tidegate audit` says and how it ends.
pub(crate) fn audit(gateway: &Gateway, redis: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("audit").args(gateway.clock_arguments()).arg("--data").arg(gateway.store()).args(arguments);
    command.env_remove("TIDEGATE_CASES").env_remove("TIDEGATE_SLT");
    if let Some(url) = redis {
        command.args(["--redis", url]);
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    (output.status.code(), said)
}

#[tokio::test]
async fn an_audit_finds_what_differs_and_repairs_it_while_a_gateway_serves() {
    // A password keeps gateways of other tests away, whose own Redis had this port before.
    let redis = Redis::start();
    assert_eq!(redis.cli(&["CONFIG", "SET", "requirepass", "sesame"]), "OK");
    let url = redis.url().replace("://", "://:sesame@");
    let cli = |command: &[&str]| redis.cli(&[&["--no-auth-warning", "-a", "sesame"], command].concat());
    let gateway = Setup::new(Online::Embedded).redis_at(&url).start();
    let client = gateway.connect().await;
    define(&client).await;
    harness::run(&client, "CREATE FEATURE VIEW visits (n BIGINT) ENTITY customer").await;
    for amount in 1..=5 {
        write(&client, amount).await;
    }
    harness::run(&client, "INSERT INTO visits VALUES (1, '2025-06-01 00:00Z', 7)").await;
    until_online(&gateway, LOOKUP, "5").await;
    let (code, said) = audit(&gateway, Some(&url), &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 views audited: the online rows are those of the history."), "{said}");
    // Somebody else deletes a row, which nothing tells the gateway.
    let keys = cli(&["--no-raw", "KEYS", "*{*"]);
    assert_eq!(keys.lines().count(), 2, "{keys}");
    let script = "for _, key in ipairs(redis.call('KEYS', '*{*')) do redis.call('DEL', key) end";
    cli(&["EVAL", script, "0"]);
    let (code, said) = audit(&gateway, Some(&url), &["spend"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("1 view audited: 1 view differs from the history."), "{said}");
    let (code, said) = audit(&gateway, Some(&url), &["--repair"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("2 views audited: 2 views differed and were repaired."), "{said}");
    until_online(&gateway, LOOKUP, "5").await;
    until_online(&gateway, "SELECT n FROM visits WHERE customer_id = 1", "7").await;
    let (code, said) = audit(&gateway, Some(&url), &["spend", "visits"]);
    assert_eq!(code, Some(0), "{said}");
    // The same by hand, from within.
    cli(&["EVAL", script, "0"]);
    harness::run(&client, "REFRESH ONLINE spend").await;
    until_online(&gateway, LOOKUP, "5").await;
    // What cannot be looked at.
    for (redis, arguments, expected) in [
        (None, &[][..], "the online rows are embedded in a gateway and cannot be seen from here"),
        (Some("redis://127.0.0.1:1"), &[], "could not read from the online store (It cannot be reached.)"),
        (Some(url.as_str()), &["nope"], "feature view \"nope\" does not exist"),
        (Some("redis://:secret@a,b"), &[], "the address of the online store is not one of a Redis"),
    ] {
        let (code, said) = audit(&gateway, redis, arguments);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected) && !said.contains("secret"), "{said}");
    }
}

/// Lookups go on, and are right, while a view is built anew again and again.
#[tokio::test]
async fn lookups_are_right_while_a_view_is_refreshed() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    define(&client).await;
    let other = gateway.second();
    let rows: Vec<String> = (0..2_000).map(|id| format!("({id}, '2025-06-01 00:00Z', {id})")).collect();
    harness::run(&client, &format!("INSERT INTO spend VALUES {}", rows.join(", "))).await;
    let lookup = "SELECT amount FROM spend WHERE customer_id = 1999";
    for gateway in [&gateway, &other] {
        until_online(gateway, lookup, "1999").await;
    }
    let refreshing = async {
        for _ in 0..5 {
            harness::run(&client, "REFRESH ONLINE spend").await;
        }
    };
    let mut refreshing = std::pin::pin!(refreshing);
    let (here, there) = (gateway.connect().await, other.connect().await);
    loop {
        tokio::select! {
            () = &mut refreshing => break,
            found = answer(&here, lookup) => check(found, "1999"),
            found = answer(&there, lookup) => check(found, "1999"),
        }
    }
    for gateway in [&gateway, &other] {
        until_online(gateway, lookup, "1999").await;
    }
}

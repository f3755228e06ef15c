//! What only a Redis can do: go away, hang, refuse, follow another.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use uuid::Uuid;

use super::*;
use crate::online::contract::{
    OTHER, PATIENT, RedisServer, VIEW, all_rows, connect, connect_to, empty, entity, get, key, row, try_get,
};
use crate::online::*;
use crate::registry::Ttl;
use crate::time::EventTime;

#[test]
fn the_id_of_a_store_has_these_letters() {
    let id = Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
    assert_eq!(letters(StoreId(id)), "ABEiM0RVZneImaq7zN3u_w");
    assert_eq!(letters(StoreId(Uuid::nil())), "A".repeat(22));
}

#[tokio::test]
async fn two_stores_on_one_redis_share_nothing() {
    let server = RedisServer::start();
    let (one, other) = (connect(&server), connect(&server));
    empty(&one, VIEW).await;
    one.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
    assert_eq!(other.applied(VIEW).await.unwrap(), None);
    empty(&other, VIEW).await;
    assert_eq!(get(&other, &[key(VIEW, 1)]).await, [None]);
    assert_eq!(all_rows(&other, VIEW).await, []);
    other.clear(VIEW).await.unwrap();
    assert!(get(&one, &[key(VIEW, 1)]).await[0].is_some());
}

/// Tries until it succeeds.
async fn until<T, E: std::fmt::Debug>(what: &str, mut attempt: impl AsyncFnMut() -> std::result::Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let failed = match attempt().await {
            Ok(outcome) => return outcome,
            Err(failed) => failed,
        };
        assert!(Instant::now() < deadline, "{what}: {failed:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_away_is_an_error_until_it_is_back() {
    let mut server = RedisServer::start();
    server.stop();
    let store = connect(&server);
    let error = try_get(&store, &[key(VIEW, 1)]).await.unwrap_err();
    assert_eq!((error.code(), error.detail_text()), (SqlState::IoError, Some("It cannot be reached.")));
    assert_eq!(error.hint_text(), Some("Retry, or SET tidegate.online_fallback = offline."));
    assert!(store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.is_err());
    assert_eq!(store.status().await.obstacle.as_deref(), Some("It cannot be reached."));
    let mut before = None;
    for _ in 0..2 {
        server.start_again();
        let epoch = until("the connection does not come back", async || store.connected().await).await;
        assert_ne!(Some(epoch), before);
        // What comes back is empty, and says so.
        let error = store.get(&[key(VIEW, 1)], epoch).await.unwrap_err();
        assert_eq!(error.code(), SqlState::ObjectNotInPrerequisiteState);
        empty(&store, VIEW).await;
        store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
        assert_eq!(get(&store, &[key(VIEW, 1)]).await, [Some(row(1, 1, 1, 1))]);
        server.stop();
        until("nobody notices that it is gone", async || store.connected().await.map_or(Ok(()), Err)).await;
        assert_eq!(store.get(&[key(VIEW, 1)], epoch).await.unwrap_err().code(), SqlState::IoError);
        before = Some(epoch);
    }
}

/// Neither reads nor progress are carried over a connection that broke, though the server behind it has lost nothing here.
#[tokio::test]
async fn what_was_known_before_the_connection_broke_is_not_built_upon() {
    let server = RedisServer::start();
    let store = connect(&server);
    empty(&store, VIEW).await;
    let before = store.connected().await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    let after = until("no other connection", async || match store.connected().await {
        Ok(epoch) if epoch != before => Ok(epoch),
        other => Err(other),
    })
    .await;
    let error = store.get(&[key(VIEW, 1)], before).await.unwrap_err();
    assert_eq!(error.code(), SqlState::ObjectNotInPrerequisiteState);
    let from = Progress::Through(DatasetVersion(1));
    assert!(!store.advance(VIEW, &from, DatasetVersion(2), before).await.unwrap());
    assert!(store.advance(VIEW, &from, DatasetVersion(2), after).await.unwrap());
    assert_eq!(store.get(&[key(VIEW, 1)], after).await.unwrap(), [None]);
}

/// Those of another runtime, where another thread's connections are served, are one of their own.
#[tokio::test]
async fn lookups_of_one_moment_are_one_call() {
    let server = RedisServer::start();
    let store = connect(&server);
    empty(&store, VIEW).await;
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
    let calls = || {
        let stats = server.ask(&["INFO", "commandstats"]);
        let calls =
            stats.lines().find_map(|line| line.strip_prefix("cmdstat_mget:calls=")?.split(',').next()?.parse::<u64>().ok());
        calls.unwrap_or(0)
    };
    let ask = async || assert_eq!(get(&store, &[key(VIEW, 1), key(VIEW, 2)]).await, [Some(row(1, 1, 1, 1)), None]);
    // Each has two keys, of which forty are one call.
    for (lookups, expected) in [(1, 1), (20, 1), (100, 5)] {
        let before = calls();
        join_all((0..lookups).map(|_| ask())).await;
        assert_eq!(calls() - before, expected, "{lookups} lookups");
    }
    let before = calls();
    let elsewhere = tokio::task::spawn_blocking({
        let store = Arc::clone(&store);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let asked = [key(VIEW, 1)];
            runtime.block_on(join_all((0..3).map(|_| get(&store, &asked)))).concat()
        }
    });
    assert_eq!(elsewhere.await.unwrap(), vec![Some(row(1, 1, 1, 1)); 3]);
    assert_eq!(calls() - before, 1);
}

/// A call without a limit would never end here.
#[tokio::test]
async fn no_call_outlives_a_redis_that_hangs() {
    let server = RedisServer::start();
    let limits = CallLimits { read: Duration::from_millis(300), write: Duration::from_millis(600) };
    let store: Arc<dyn OnlineStore> = Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::new_v4()), limits).unwrap());
    let rows = [(entity(1), row(1, 1, 1, 1))];
    empty(&store, VIEW).await;
    store.upsert(VIEW, &rows, None).await.unwrap();
    let epoch = store.connected().await.unwrap();
    server.pause();
    let newer = [(entity(1), row(2, 2, 2, 2))];
    let failures = [
        store.get(&[key(VIEW, 1)], epoch).await.unwrap_err(),
        store.applied(VIEW).await.unwrap_err(),
        store.upsert(VIEW, &newer, None).await.unwrap_err(),
        store.begin_build(VIEW).await.unwrap_err(),
        store.clear(OTHER).await.unwrap_err(),
        store.page(OTHER, 0).await.unwrap_err(),
    ];
    // Once it has been silent for long, the connection is given up, and whoever waits on it is told at once.
    for failure in failures {
        let detail = failure.detail_text().unwrap_or_default();
        assert!(["It did not answer in time.", "The connection broke."].contains(&detail), "{detail}");
        assert_eq!(failure.code(), SqlState::IoError);
    }
    // One made while it hangs does not wait for the greeting either.
    let late: Arc<dyn OnlineStore> = Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::new_v4()), limits).unwrap());
    assert_eq!(try_get(&late, &[key(VIEW, 1)]).await.unwrap_err().code(), SqlState::IoError);
    server.go_on();
    // What was cut off may have been done since: the newest row wins all the same.
    until("the connection does not come back", async || store.upsert(VIEW, &newer, None).await).await;
    assert_eq!(store.upsert(VIEW, &rows, None).await.unwrap(), 0);
    assert_eq!(get(&store, &[key(VIEW, 1)]).await, [Some(row(2, 2, 2, 2))]);
}

#[tokio::test]
async fn a_login_that_is_refused_is_said_and_repaired_without_help() {
    let server = RedisServer::start();
    server.cli(&["CONFIG", "SET", "requirepass", "right"]);
    let connect = |login: &str| -> Arc<dyn OnlineStore> {
        Arc::new(RedisStore::connect(&format!("{}?{login}", server.url()), StoreId(Uuid::new_v4()), PATIENT).unwrap())
    };
    for login in ["db=0", "pass=wrong", "user=nobody&pass=right"] {
        let store = connect(login);
        let error = store.applied(VIEW).await.unwrap_err();
        let expected = (SqlState::IoError, Some("It refuses the user or the password."));
        assert_eq!((error.code(), error.detail_text()), expected, "{login}");
        assert!(!format!("{error:?} {store:?} {:?}", store.status().await).contains("right"), "{login}");
    }
    let store = connect("user=late&pass=right");
    assert!(store.applied(VIEW).await.is_err());
    server.cli(&["-a", "right", "ACL", "SETUSER", "late", "on", ">right", "~*", "+@all", "-@dangerous"]);
    // A user who may not ask the server about itself can use it all the same.
    until("the user is not let in", async || store.applied(VIEW).await).await;
    empty(&store, VIEW).await;
    assert_eq!(get(&store, &[key(VIEW, 1)]).await, [None]);
    let status = store.status().await;
    assert!(status.connected && status.version.is_none(), "{status:?}");
}

#[tokio::test]
async fn databases_are_apart() {
    let server = RedisServer::start();
    let id = StoreId(Uuid::new_v4());
    let connect = |number: u8| -> Arc<dyn OnlineStore> {
        Arc::new(RedisStore::connect(&format!("{}?db={number}", server.url()), id, PATIENT).unwrap())
    };
    let (one, two) = (connect(1), connect(2));
    empty(&one, VIEW).await;
    assert_eq!(one.applied(VIEW).await.unwrap(), Some(DatasetVersion(1)));
    assert_eq!(two.applied(VIEW).await.unwrap(), None);
}

#[tokio::test]
async fn a_replica_is_not_written_to() {
    let server = RedisServer::start();
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = connect(&server).applied(VIEW).await.unwrap_err();
    assert_eq!(error.detail_text(), Some("It is a replica, which takes no writes."));
}

#[test]
fn an_address_that_is_none_is_refused() {
    let error = RedisStore::connect("postgres://localhost", StoreId(Uuid::nil()), PATIENT).unwrap_err();
    assert_eq!(error.code(), SqlState::ConfigFileError);
}

/// Runs `openssl` in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is not installed: apt-get install openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and certificates by it for 127.0.0.1, one of which has no time left.
fn certificates(folder: &Path) {
    const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {KEY} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"));
    openssl(folder, &format!("req -x509 {KEY} -keyout other.key -out other.pem -subj /CN=other -days 2"));
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
    for (name, days) in [("good", 2), ("old", 0)] {
        openssl(folder, &format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN=redis"));
        let signed = format!("-CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -days {days}");
        openssl(folder, &format!("x509 -req -in {name}.csr -out {name}.pem {signed}"));
    }
}

/// A Redis behind TLS on this port, which asks clients for a certificate where `clients` is `yes`.
fn behind_tls(port: u16, certificate: &str, clients: &str) -> RedisServer {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (public, private, authority) = (file(&format!("{certificate}.pem")), file(&format!("{certificate}.key")), file("ca.pem"));
    let port = port.to_string();
    let files = ["--tls-cert-file", &public, "--tls-key-file", &private, "--tls-ca-cert-file", &authority];
    let arguments = [&["--tls-port", &port, "--tls-auth-clients", clients][..], &files].concat();
    RedisServer::start_in(folder, &arguments)
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_redis_behind_tls_is_reached_by_those_who_trust_it() {
    let port = free_port();
    let server = behind_tls(port, "good", "no");
    let file = |name: &str| server.folder().join(name).display().to_string();
    let trusted = format!("rediss://127.0.0.1:{port}?ca={}", file("ca.pem"));
    let store = connect_to(&trusted);
    empty(&store, VIEW).await;
    store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))], None).await.unwrap();
    assert_eq!(get(&store, &[key(VIEW, 1)]).await, [Some(row(1, 1, 1, 1))]);
    // What breaks there is noticed, and made again.
    let before = store.connected().await.unwrap();
    server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    until("no other connection", async || match store.connected().await {
        Ok(epoch) if epoch != before => Ok(epoch),
        other => Err(other),
    })
    .await;
    // Neither this machine nor another authority knows the server, nor is the name right.
    let untrusted =
        "Its certificate is not trusted: it is by another authority (name the right one with ?ca=FILE), or for another name.";
    refuses(&format!("rediss://127.0.0.1:{port}"), untrusted).await;
    refuses(&format!("rediss://127.0.0.1:{port}?ca={}", file("other.pem")), untrusted).await;
    refuses(&format!("rediss://localhost:{port}?ca={}", file("ca.pem")), untrusted).await;
}

#[tokio::test]
async fn a_redis_that_asks_for_certificates_is_shown_one() {
    let port = free_port();
    let server = behind_tls(port, "good", "yes");
    let file = |name: &str| server.folder().join(name).display().to_string();
    let trusted = format!("rediss://127.0.0.1:{port}?ca={}", file("ca.pem"));
    let wanted = "It wants another certificate of its clients, or one at all: name it with ?cert=FILE&key=FILE.";
    refuses(&trusted, wanted).await;
    refuses(&format!("{trusted}&cert={}&key={}", file("other.pem"), file("other.key")), wanted).await;
    let store = connect_to(&format!("{trusted}&cert={}&key={}", file("good.pem"), file("good.key")));
    empty(&store, VIEW).await;
    assert_eq!(get(&store, &[key(VIEW, 1)]).await, [None]);
}

#[tokio::test]
async fn an_expired_certificate_and_a_port_without_tls_are_said() {
    let (port, plain) = (free_port(), free_port());
    let server = behind_tls(port, "old", "no");
    let authority = server.folder().join("ca.pem").display().to_string();
    refuses(&format!("rediss://127.0.0.1:{port}?ca={authority}"), "Its certificate has expired, or is not valid yet.").await;
    let _plain = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", &plain.to_string()]);
    let said = "It does not speak TLS there, or did not answer in time: without TLS its address begins with redis://.";
    refuses(&format!("rediss://127.0.0.1:{plain}?ca={authority}"), said).await;
}

/// Waits until a store at `url` is refused for this reason.
async fn refuses(url: &str, detail: &str) {
    let refused = async || {
        // A certificate without any time left is still good in the second in which it was made.
        let Err(error) = connect_to(url).applied(VIEW).await else { return Err("nothing".to_owned()) };
        assert_eq!(error.code(), SqlState::IoError);
        assert!(error.hint_text().is_some());
        let said = error.detail_text().unwrap_or_default().to_owned();
        if said == detail { Ok(()) } else { Err(said) }
    };
    until(detail, refused).await;
}

#[tokio::test]
async fn one_server_is_no_cluster() {
    let port = free_port();
    let _server = RedisServer::start_in(tempfile::tempdir().unwrap(), &["--port", &port.to_string()]);
    refuses(&format!("redis+cluster://127.0.0.1:1,127.0.0.1:{port}"), "It is no cluster: give its address as redis://.").await;
}

/// How many milliseconds Redis still keeps each row; -1 where it keeps it for ever.
fn left(server: &RedisServer) -> Vec<i64> {
    const SCRIPT: &str = "local left = {}
        for number, key in ipairs(redis.call('KEYS', '*{*')) do left[number] = redis.call('PTTL', key) end
        return left";
    let said = server.ask(&["EVAL", SCRIPT, "0"]);
    said.lines().map(|line| line.trim().parse().unwrap()).collect()
}

#[tokio::test]
async fn a_row_is_given_an_expiry_with_its_newest_version() {
    let server = RedisServer::start();
    let store = connect(&server);
    empty(&store, VIEW).await;
    let now = 1_767_225_600_000_000;
    let lifetime = |ttl: i64| Some(Lifetime::new(Ttl::from_micros(ttl * 1_000_000).unwrap(), EventTime::from_micros(now)));
    let upsert = async |event_time: i64, lifetime| {
        let kept = store.upsert(VIEW, &[(entity(1), row(event_time, 1, 0, 1))], lifetime).await.unwrap();
        let left = left(&server);
        assert_eq!(left.len(), 1);
        (kept, left[0])
    };
    const HOUR: i64 = 3_600_000;
    // Between the end of the TTL and an hour, less what the machine dawdles.
    let (kept, left) = upsert(now, lifetime(86_400)).await;
    assert!(kept == 1 && 24 * HOUR < left && left <= 25 * HOUR, "{left}");
    // What is not newer changes nothing.
    for (event_time, ttl) in [(now, 10), (now - 1, 864_000)] {
        let (kept, left) = upsert(event_time, lifetime(ttl)).await;
        assert!(kept == 0 && 24 * HOUR < left && left <= 25 * HOUR, "{left}");
    }
    // What is newer brings its own, or none.
    let (kept, left) = upsert(now + 3_600_000_000, lifetime(86_400)).await;
    assert!(kept == 1 && 25 * HOUR < left && left <= 26 * HOUR, "{left}");
    assert_eq!(upsert(now + 3_600_000_001, None).await, (1, -1));
    let (kept, left) = upsert(now + 3_600_000_002, lifetime(0)).await;
    assert!(kept == 1 && HOUR < left && left <= 2 * HOUR, "{left}");
}

#[tokio::test]
async fn rows_get_no_expiry_where_redis_would_drop_them_for_it() {
    let server = RedisServer::start();
    let lifetime = Some(Lifetime::new(Ttl::from_micros(1_000_000).unwrap(), EventTime::from_micros(0)));
    let left_after = async |url: &str| {
        server.cli(&["FLUSHALL"]);
        let store = connect_to(url);
        empty(&store, VIEW).await;
        store.upsert(VIEW, &[(entity(1), row(0, 1, 0, 1))], lifetime).await.unwrap();
        left(&server)
    };
    assert!(left_after(&server.url()).await[0] > 0);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
    assert_eq!(left_after(&server.url()).await, [-1]);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert!(left_after(&server.url()).await[0] > 0);
    // Nor where it cannot be asked.
    server.cli(&["ACL", "SETUSER", "quiet", "on", ">word", "~*", "+@all", "-@dangerous"]);
    assert_eq!(left_after(&format!("{}?user=quiet&pass=word", server.url())).await, [-1]);
}

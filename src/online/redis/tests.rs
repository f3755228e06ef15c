//! What only a Redis can do: go away, hang, refuse, follow another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::*;
use crate::online::contract::{OTHER, PATIENT, RedisServer, VIEW, all_rows, connect, empty, entity, get, key, row, try_get};
use crate::online::*;

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
    one.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.unwrap();
    assert_eq!(other.applied(VIEW).await.unwrap(), None);
    empty(&other, VIEW).await;
    assert_eq!(get(&other, &[key(VIEW, 1)]).await, [None]);
    assert_eq!(all_rows(&other, VIEW).await, []);
    other.clear(VIEW).await.unwrap();
    assert!(get(&one, &[key(VIEW, 1)]).await[0].is_some());
}

/// Tries until it succeeds.
async fn until<T, E>(what: &str, mut attempt: impl AsyncFnMut() -> std::result::Result<T, E>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(outcome) = attempt().await {
            return outcome;
        }
        assert!(Instant::now() < deadline, "{what}");
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
    assert!(store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.is_err());
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
        store.upsert(VIEW, &[(entity(1), row(1, 1, 1, 1))]).await.unwrap();
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

/// A call without a limit would never end here.
#[tokio::test]
async fn no_call_outlives_a_redis_that_hangs() {
    let server = RedisServer::start();
    let limits = CallLimits { read: Duration::from_millis(300), write: Duration::from_millis(600) };
    let store: Arc<dyn OnlineStore> = Arc::new(RedisStore::connect(&server.url(), StoreId(Uuid::new_v4()), limits).unwrap());
    let rows = [(entity(1), row(1, 1, 1, 1))];
    empty(&store, VIEW).await;
    store.upsert(VIEW, &rows).await.unwrap();
    let epoch = store.connected().await.unwrap();
    server.pause();
    let newer = [(entity(1), row(2, 2, 2, 2))];
    let failures = [
        store.get(&[key(VIEW, 1)], epoch).await.unwrap_err(),
        store.applied(VIEW).await.unwrap_err(),
        store.upsert(VIEW, &newer).await.unwrap_err(),
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
    until("the connection does not come back", async || store.upsert(VIEW, &newer).await).await;
    assert_eq!(store.upsert(VIEW, &rows).await.unwrap(), 0);
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

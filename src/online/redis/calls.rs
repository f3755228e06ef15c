//! What is asked of each server: of one, in few calls of many keys; of the nodes of a cluster, at once, in calls of one slot each.

use std::fmt::Write;

use bytes::Bytes;
use futures::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, Script, ServerErrorKind};

use super::gather::Gatherer;
use super::link::{Failure, Session};
use super::slots::SlotMap;
use crate::online::{EntityKey, Lifetime, PackedRow, RowKey};
use crate::registry::ObjectId;

/// How many keys one `MGET` names: Redis answers nobody else meanwhile, for less than a millisecond.
pub(super) const MGET_KEYS: usize = 512;

/// How many rows one call of the script compares: Redis answers nobody else meanwhile, for about a millisecond.
const SCRIPT_ROWS: usize = 256;

/// How many rows travel together.
pub(super) const WRITE_ROWS: usize = 16 * SCRIPT_ROWS;

/// Room in the name of a row's key for its view and, mostly, its entity.
const NAME_ROOM: usize = 48;

/// The names of a store's keys.
pub(super) struct Keys {
    /// The letters that all start with.
    pub(super) store: String,
}

impl Keys {
    fn prefix(&self, view: ObjectId) -> String {
        let mut prefix = String::with_capacity(self.store.len() + NAME_ROOM);
        // Nothing that is written to memory fails.
        let _ = write!(prefix, "{}:{view}:{{", self.store);
        prefix
    }

    /// The key of an entity's row.
    pub(super) fn row(&self, view: ObjectId, entity: &EntityKey) -> Vec<u8> {
        let mut key = self.prefix(view).into_bytes();
        key.extend_from_slice(entity.as_bytes());
        key.push(b'}');
        key
    }

    /// The entity that a row's key is of.
    pub(super) fn entity(&self, view: ObjectId, key: &[u8]) -> EntityKey {
        let entity = key.get(self.prefix(view).len()..key.len().saturating_sub(1)).unwrap_or_default();
        EntityKey::from_bytes(Bytes::copy_from_slice(entity))
    }

    /// Where the view's applied version is on the node of this mark.
    pub(super) fn applied(&self, view: ObjectId, mark: &str) -> String {
        format!("{}:{view}:applied{mark}", self.store)
    }

    /// The pattern of the view's rows.
    pub(super) fn all_rows(&self, view: ObjectId) -> String {
        format!("{}*", self.prefix(view))
    }

    /// The pattern of the view's applied versions, whatever slots they are for.
    pub(super) fn all_applied(&self, view: ObjectId) -> String {
        format!("{}:{view}:applied*", self.store)
    }
}

/// The rows of these keys, in their order. Fails as where the connection is another if a view is not whole where it was asked.
pub(super) async fn rows_of(session: &Session, keys: &Keys, asked: &[RowKey]) -> Result<Vec<Option<Vec<u8>>>, Failure> {
    match (&session.slots, &session.nodes[..]) {
        (None, [node]) if Gatherer::takes(asked) => node.gatherer.rows_of(keys, asked).await,
        (None, [node]) => {
            let views = views_of(asked);
            let calls = lookup(keys, asked, &views);
            let mut values: Vec<Vec<Option<Vec<u8>>>> = calls.query_async(&mut node.lookups.clone()).await?;
            let last = values.last_mut().map_or_else(Vec::new, |last| last.split_off(last.len().saturating_sub(views.len())));
            if last.len() != views.len() || !are_versions(&last) {
                return Err(Failure::OtherEpoch);
            }
            Ok(values.into_iter().flatten().collect())
        }
        (Some(slots), nodes) => {
            let shares = shares(slots, nodes.len(), asked.iter().map(|key| keys.row(key.view, &key.entity)));
            let asking = shares.iter().zip(nodes).filter(|(share, _)| !share.is_empty()).map(async |(share, node)| {
                let keys_here: Vec<RowKey> = share.iter().map(|one| asked[one.number].clone()).collect();
                let marks: Vec<_> = views_of(&keys_here).into_iter().map(|view| keys.applied(view, &node.mark)).collect();
                let rows = cluster_lookup(share, &marks).query_async(&mut node.lookups.clone()).await?;
                Ok::<_, Failure>((share, rows))
            });
            let mut found = vec![None; asked.len()];
            for (share, mut values) in try_join_all(asking).await? {
                let values: &mut Vec<Vec<Option<Vec<u8>>>> = &mut values;
                let (last, first) = (values.pop().unwrap_or_default(), values.first().is_some_and(|first| are_versions(first)));
                if !first || !are_versions(&last) {
                    return Err(Failure::OtherEpoch);
                }
                for (one, row) in share.iter().zip(values.drain(1..).flatten()) {
                    found[one.number] = row;
                }
            }
            Ok(found)
        }
        // No connection is made of several servers that are no cluster.
        (None, _) => Err(Failure::OtherEpoch),
    }
}

/// One of the keys that a node is asked for.
struct Share {
    slot: u16,
    /// Its place among all that was asked for.
    number: usize,
    key: Vec<u8>,
}

/// For each node the keys that lie there, those of one slot beside each other.
fn shares(slots: &SlotMap, nodes: usize, keys: impl Iterator<Item = Vec<u8>>) -> Vec<Vec<Share>> {
    let mut shares: Vec<Vec<Share>> = (0..nodes).map(|_| Vec::new()).collect();
    for (number, key) in keys.enumerate() {
        let (slot, node) = slots.place(&key);
        if let Some(share) = shares.get_mut(node) {
            share.push(Share { slot, number, key });
        }
    }
    for share in &mut shares {
        share.sort_by_key(|one| one.slot);
    }
    shares
}

/// The `MGET`s of one node's share, one for each slot. The applied versions come first and last: who finds them on both sides finds
/// between them neither what went missing nor what is being built.
fn cluster_lookup(share: &[Share], marks: &[String]) -> Pipeline {
    let mut calls = redis::pipe();
    calls.cmd("MGET").arg(marks);
    for slot in share.chunk_by(|one, next| one.slot == next.slot) {
        for keys in slot.chunks(MGET_KEYS) {
            let call = calls.cmd("MGET");
            for one in keys {
                call.arg(&one.key);
            }
        }
    }
    calls.cmd("MGET").arg(marks);
    calls
}

/// The `MGET`s of a lookup at one server, which travel together: it serves others between them. The applied versions of its views come
/// last: rows that go missing before they are read are noticed by them.
fn lookup(keys: &Keys, asked: &[RowKey], views: &[ObjectId]) -> Pipeline {
    let mut calls = redis::pipe();
    let mut named = 0;
    for chunk in asked.chunks(MGET_KEYS) {
        let call = calls.cmd("MGET");
        for key in chunk {
            call.arg(keys.row(key.view, &key.entity));
        }
        named += chunk.len();
        if named == asked.len() {
            for view in views {
                call.arg(keys.applied(*view, ""));
            }
        }
    }
    calls
}

/// Rows of a view to be kept.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) view: ObjectId,
    pub(super) rows: &'a [(EntityKey, PackedRow)],
    /// `None`: until newer ones take their place.
    pub(super) lifetime: Option<Lifetime>,
}

/// The calls of the script that each node gets for its rows.
pub(super) fn upserts(session: &Session, keys: &Keys, script: &Script, rows: Rows<'_>) -> Vec<Pipeline> {
    let Rows { view, rows, lifetime } = rows;
    let upsert = |calls: &mut Pipeline, rows: &mut dyn ExactSizeIterator<Item = (Vec<u8>, &PackedRow)>| {
        let call = calls.cmd("EVALSHA").arg(script.get_hash()).arg(rows.len());
        let values: Vec<Bytes> = rows
            .map(|(key, row)| {
                call.arg(key);
                row.as_bytes().clone()
            })
            .collect();
        for value in &values {
            call.arg(value.as_ref());
        }
        if let Some(lifetime) = lifetime {
            call.arg(lifetime.shift_ms());
        }
    };
    let Some(slots) = &session.slots else {
        let mut calls = redis::pipe();
        for rows in rows.chunks(SCRIPT_ROWS) {
            upsert(&mut calls, &mut rows.iter().map(|(entity, row)| (keys.row(view, entity), row)));
        }
        return vec![calls];
    };
    let shares = shares(slots, session.nodes.len(), rows.iter().map(|(entity, _)| keys.row(view, entity)));
    let calls_of = |share: Vec<Share>| {
        let mut calls = redis::pipe();
        for slot in share.chunk_by(|one, next| one.slot == next.slot) {
            for part in slot.chunks(SCRIPT_ROWS) {
                upsert(&mut calls, &mut part.iter().map(|one| (one.key.clone(), &rows[one.number].1)));
            }
        }
        calls
    };
    shares.into_iter().map(calls_of).collect()
}

/// A script's call, sent again with its text where Redis has forgotten it.
pub(super) async fn calls_of_script<T: redis::FromRedisValue>(
    mut connection: MultiplexedConnection,
    script: &Script,
    calls: &Pipeline,
) -> Result<T, Failure> {
    match calls.query_async(&mut connection).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(&mut connection).await?;
            Ok(calls.query_async(&mut connection).await?)
        }
        answer => Ok(answer?),
    }
}

/// The views that keys are of, each once.
fn views_of(keys: &[RowKey]) -> Vec<ObjectId> {
    let mut views: Vec<ObjectId> = Vec::new();
    for key in keys {
        if views.last() != Some(&key.view) && !views.contains(&key.view) {
            views.push(key.view);
        }
    }
    views
}

/// Whether the values of applied versions are some.
fn are_versions(applied: &[Option<Vec<u8>>]) -> bool {
    applied.iter().all(|applied| is_version(applied.as_deref()))
}

/// Whether the value of an applied version is one: not missing, and no building.
pub(super) fn is_version(applied: Option<&[u8]>) -> bool {
    applied.and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit)
}

//! Lookups of a thread's connections that come at the same moment travel as one call.
//!
//! What a server, its library and the system ask for a call is the same for one key as for a few: with many clients it is most of what
//! a lookup costs. The first lookup to come therefore waits, not for a time, but until all that can run on the runtime has run,
//! and sends its keys with those that others have added by then. One that is alone waits for nothing but a look at the sockets.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, Value};
use tokio::runtime::{Handle, Id};
use tokio::sync::oneshot;

use super::calls::{Keys, is_version};
use super::link::Failure;
use crate::online::RowKey;
use crate::registry::ObjectId;

/// How many keys a lookup may have to travel with others: those of one that has more are worth a call of their own.
const LOOKUP_KEYS: usize = 32;

/// How many keys travel in one call: in larger ones, server and gateway wait for each other by turns, where they could both work.
const CALL_KEYS: usize = 40;

/// The lookups that are about to be sent to one server.
#[derive(Debug)]
pub(super) struct Gatherer {
    connection: MultiplexedConnection,
    /// Those of each runtime apart: who is not on it is not waited for.
    waiting: Mutex<HashMap<Id, Batch>>,
}

/// Rows in the order of the keys.
type Rows = Vec<Option<Vec<u8>>>;

/// What a lookup gets: its rows, and the views of the batch that turned out not to be whole.
type Answer = Result<(Rows, Arc<[ObjectId]>), Failure>;

/// Lookups that travel together.
#[derive(Debug, Default)]
struct Batch {
    call: Option<Cmd>,
    /// How many keys of rows the call names.
    keys: usize,
    /// The views of these keys, and the keys of their applied versions.
    marks: Vec<(ObjectId, String)>,
    /// How many keys each lookup has, and where its answer goes.
    lookups: Vec<(usize, oneshot::Sender<Answer>)>,
}

impl Gatherer {
    /// Whether a lookup of these keys may travel with others.
    pub(super) fn takes(asked: &[RowKey]) -> bool {
        asked.len() <= LOOKUP_KEYS
    }

    pub(super) fn new(connection: MultiplexedConnection) -> Self {
        Self { connection, waiting: Mutex::default() }
    }

    /// The rows of these keys, in their order. Fails as where the connection is another if a view is not whole. Must be called
    /// within a tokio runtime, with as few keys as [`Self::takes`] allows.
    pub(super) async fn rows_of(self: &Arc<Self>, keys: &Keys, asked: &[RowKey]) -> Result<Rows, Failure> {
        let here = Handle::current().id();
        let (sender, answer) = oneshot::channel();
        let (full, is_first) = {
            let mut waiting = self.waiting.lock();
            let batch = waiting.entry(here).or_default();
            let full = (batch.keys + asked.len() > CALL_KEYS).then(|| mem::take(batch));
            let is_first = batch.lookups.is_empty();
            batch.add(keys, asked, sender);
            (full, is_first)
        };
        if let Some(full) = full {
            tokio::spawn(full.send(self.connection.clone()));
        }
        if is_first {
            let gatherer = Arc::clone(self);
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                // One that was full went before.
                let batch = gatherer.waiting.lock().remove(&here);
                if let Some(batch) = batch {
                    batch.send(gatherer.connection.clone()).await;
                }
            });
        }
        let (rows, lost) = answer.await.unwrap_or(Err(Failure::OtherEpoch))?;
        if lost.iter().any(|view| asked.iter().any(|key| key.view == *view)) {
            return Err(Failure::OtherEpoch);
        }
        Ok(rows)
    }
}

impl Batch {
    fn add(&mut self, keys: &Keys, asked: &[RowKey], answer: oneshot::Sender<Answer>) {
        let call = self.call.get_or_insert_with(|| redis::cmd("MGET"));
        for key in asked {
            call.arg(keys.row(key.view, &key.entity));
            if !self.marks.iter().any(|(view, _)| *view == key.view) {
                self.marks.push((key.view, keys.applied(key.view, "")));
            }
        }
        self.keys += asked.len();
        self.lookups.push((asked.len(), answer));
    }

    /// Asks for all, and gives each lookup its own. Whoever no longer waits is passed over.
    async fn send(self, mut connection: MultiplexedConnection) {
        let Some(mut call) = self.call else { return };
        for (_, mark) in &self.marks {
            call.arg(mark);
        }
        let values = connection.send_packed_command(&call).await.and_then(Value::extract_error).and_then(rows);
        let values = values.and_then(|values| match values.len() == self.keys + self.marks.len() {
            true => Ok(values),
            false => Err(no_rows()),
        });
        match values {
            Ok(mut values) => {
                let applied = values.split_off(self.keys);
                let lost = self.marks.iter().zip(&applied).filter(|(_, applied)| !is_version(applied.as_deref()));
                let lost: Arc<[ObjectId]> = lost.map(|((view, _), _)| *view).collect();
                let mut values = values.into_iter();
                for (count, answer) in self.lookups {
                    let _ = answer.send(Ok((values.by_ref().take(count).collect(), Arc::clone(&lost))));
                }
            }
            Err(error) => {
                for (_, answer) in self.lookups {
                    let _ = answer.send(Err(error.clone().into()));
                }
            }
        }
    }
}

/// The values of an `MGET`.
fn rows(answer: Value) -> Result<Rows, RedisError> {
    let Value::Array(values) = answer else { return Err(no_rows()) };
    let row = |value| match value {
        Value::BulkString(bytes) => Ok(Some(bytes)),
        Value::Nil => Ok(None),
        _ => Err(no_rows()),
    };
    values.into_iter().map(row).collect()
}

fn no_rows() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "an answer to MGET that is none").into()
}

//! Prepared statements, and the cache of those that all connections share.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use super::Format;
use super::backend::{Backend, Column};
use super::rows::{Formats, columns_of};
use crate::error::Result;
use crate::lookup::{CompiledLookup, Standpoint};
use crate::session::Prepared;

/// A prepared statement, as messages speak of it.
pub(super) struct NamedStatement {
    pub(super) prepared: Prepared,
    pub(super) columns: Option<Arc<[Column]>>,
    /// Where it came from, for a lookup, which may have to be compiled anew.
    source: Option<Source>,
    description: Option<Description>,
}

/// What `Parse` said.
struct Source {
    query: Box<str>,
    types: Box<[u32]>,
}

impl NamedStatement {
    /// A statement that was prepared from this text and these types.
    pub(super) fn new(prepared: Prepared, query: &str, types: &[u32]) -> Result<Self> {
        let columns = prepared.columns.as_ref().map(|schema| columns_of(schema)).transpose()?;
        let (source, description) = match (&prepared.lookup, &columns) {
            (Some(_), Some(columns)) => {
                (Some(Source { query: query.into(), types: types.into() }), Some(Description::of(columns)?))
            }
            _ => (None, None),
        };
        Ok(Self { prepared, columns, source, description })
    }

    /// The lookup that it is, with the text and the types that it was compiled from.
    pub(super) fn lookup(&self) -> Option<(&Arc<CompiledLookup>, &str, &[u32])> {
        let source = self.source.as_ref()?;
        self.prepared.lookup.as_ref().map(|lookup| (lookup, &*source.query, &*source.types))
    }

    /// The same statement for the planner alone.
    pub(super) fn without_lookup(&self) -> Self {
        let prepared = Prepared { lookup: None, ..self.prepared.clone() };
        Self { prepared, columns: self.columns.clone(), source: None, description: None }
    }

    /// Whether a client that knows this statement may be given the other in its place.
    pub(super) fn is_shaped_like(&self, other: &NamedStatement) -> bool {
        self.prepared.parameters == other.prepared.parameters && self.columns == other.columns
    }

    /// Says what its rows are.
    pub(super) fn describe(&self, formats: &Formats, out: &mut BytesMut) -> Result<()> {
        match (&self.description, &self.columns) {
            (Some(description), _) => {
                description.write(formats, out);
                Ok(())
            }
            (None, Some(columns)) => out.row_description(columns, |column| formats.of(column)),
            (None, None) => out.no_data(),
        }
    }
}

/// `RowDescription` as bytes, all of its columns in text.
struct Description {
    message: Bytes,
    /// Where the format of each column stands.
    formats: Vec<usize>,
}

impl Description {
    fn of(columns: &[Column]) -> Result<Self> {
        /// The message's type, length and count of columns.
        const HEAD: usize = 1 + 4 + 2;
        /// A column's relation, place in it, type, width and modifier.
        const NUMBERS: usize = 4 + 2 + 4 + 2 + 4;
        let mut message = BytesMut::new();
        message.row_description(columns, |_| Format::Text)?;
        let mut formats = Vec::with_capacity(columns.len());
        let mut at = HEAD;
        for _ in columns {
            let name = message[at..].iter().position(|byte| *byte == 0).unwrap_or(0);
            at += name + 1 + NUMBERS;
            formats.push(at);
            at += 2;
        }
        Ok(Self { message: message.freeze(), formats })
    }

    fn write(&self, formats: &Formats, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(&self.message);
        for (column, at) in self.formats.iter().enumerate() {
            let code = formats.of(column).code().to_be_bytes();
            out[start + at..start + at + 2].copy_from_slice(&code);
        }
    }
}

/// The lookups of all connections, by text, types and standpoint, so that each is compiled once. Holds a bounded number, and of
/// those that nobody asks for any more the oldest are forgotten first.
#[derive(Default)]
pub struct StatementCache {
    hasher: RandomState,
    generations: Mutex<Generations>,
}

impl std::fmt::Debug for StatementCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatementCache").finish_non_exhaustive()
    }
}

/// Statements by the hash of what they are found by. Those asked for since the last change of generations are in `young`.
#[derive(Default)]
struct Generations {
    young: HashMap<u64, Arc<NamedStatement>>,
    old: HashMap<u64, Arc<NamedStatement>>,
}

/// How many statements a generation has; there are two.
const GENERATION_STATEMENTS_MAX: usize = 1024;

/// The longest text kept, in bytes.
const QUERY_BYTES_MAX: usize = 16 * 1024;

impl StatementCache {
    /// The lookup that was compiled from this text and these types, if it holds here.
    pub(super) fn get(&self, query: &str, types: &[u32], standpoint: &Standpoint) -> Option<Arc<NamedStatement>> {
        if query.len() > QUERY_BYTES_MAX {
            return None;
        }
        let hash = self.hasher.hash_one((query, types, standpoint));
        let mut generations = self.generations.lock();
        let found = match generations.young.get(&hash) {
            Some(found) => Arc::clone(found),
            None => {
                let found = Arc::clone(generations.old.get(&hash)?);
                generations.add(hash, &found);
                found
            }
        };
        drop(generations);
        let is_it = found.lookup().is_some_and(|(lookup, its_query, its_types)| {
            its_query == query && its_types == types && lookup.standpoint == *standpoint
        });
        is_it.then_some(found)
    }

    /// Keeps a lookup for all connections; other statements are not kept.
    pub(super) fn keep(&self, statement: &Arc<NamedStatement>) {
        let Some((lookup, query, types)) = statement.lookup() else { return };
        if query.len() > QUERY_BYTES_MAX {
            return;
        }
        let hash = self.hasher.hash_one((query, types, &lookup.standpoint));
        self.generations.lock().add(hash, statement);
    }
}

impl Generations {
    fn add(&mut self, hash: u64, statement: &Arc<NamedStatement>) {
        if self.young.len() >= GENERATION_STATEMENTS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, Arc::clone(statement));
    }
}

//! The registry as SQL sees it: relations, system views, `pg_catalog`, `information_schema`, and the functions that answer
//! from the session or the registry.
//!
//! [`Catalog::surface`] makes what one statement can name. Nothing is looked up before a statement names it: a surface costs a
//! few allocations, a system relation is made the first time a registry version is asked for it.
//! How a feature view is read is the planner's business; this room only says which relation a name means.

mod definition;
mod functions;
mod live;
mod objects;
mod pg_catalog;
mod pg_types;
mod rows;
mod surface;
mod value;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use arrow::array::RecordBatch;
use parking_lot::Mutex;

use crate::error::Result;
use crate::planner::{Planner, StatementContext, Surface};
use crate::registry::Registry;
use crate::time::CommitTime;

use definition::SystemRelations;
use objects::Objects;
use pg_types::PgTypes;

/// What the catalogs show of a session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The role that logged in.
    pub user: String,
    /// The database it named; every name means this store.
    pub database: String,
    /// The number that `pg_backend_pid()` gives.
    pub backend_pid: i32,
    /// The settings by lower-case name, with the values that `SHOW` gives.
    pub settings: Arc<BTreeMap<String, String>>,
}

/// The SQL surface of one store, shared by all sessions of a gateway.
pub struct Catalog {
    shared: Arc<Shared>,
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalog").finish_non_exhaustive()
    }
}

/// What all surfaces have in common.
struct Shared {
    planner: Arc<Planner>,
    started: CommitTime,
    system: SystemRelations,
    types: PgTypes,
    newest: ArcSwapOption<Snapshot>,
}

/// What was made of one registry version.
struct Snapshot {
    registry: Arc<Registry>,
    objects: OnceLock<Arc<Objects>>,
    batches: Mutex<HashMap<String, RecordBatch>>,
}

impl Catalog {
    /// A catalog whose SQL views `planner` plans; `started` is what `pg_postmaster_start_time()` gives. Reads the definitions
    /// of the system relations, which takes a few milliseconds.
    pub fn new(planner: Arc<Planner>, started: CommitTime) -> Result<Self> {
        let (system, types) = (SystemRelations::read()?, PgTypes::read()?);
        Ok(Self { shared: Arc::new(Shared { planner, started, system, types, newest: ArcSwapOption::empty() }) })
    }

    /// What one statement of `session` can name: the relations of the context's registry and the functions that answer from
    /// it. No IO.
    pub fn surface(&self, context: &Arc<StatementContext>, session: &SessionInfo) -> Surface {
        let scope = Arc::new(Scope {
            shared: Arc::clone(&self.shared),
            snapshot: self.shared.snapshot(&context.registry),
            context: Arc::clone(context),
            session: session.clone(),
        });
        surface::surface(&scope, 0)
    }
}

impl Shared {
    /// What was made of this registry so far; the newest version's is kept.
    fn snapshot(&self, registry: &Arc<Registry>) -> Arc<Snapshot> {
        let newest = self.newest.load_full();
        match newest {
            Some(snapshot) if Arc::ptr_eq(&snapshot.registry, registry) => snapshot,
            newest => {
                let snapshot = Arc::new(Snapshot {
                    registry: Arc::clone(registry),
                    objects: OnceLock::new(),
                    batches: Mutex::new(HashMap::new()),
                });
                if newest.is_none_or(|newest| newest.registry.version <= registry.version) {
                    self.newest.store(Some(Arc::clone(&snapshot)));
                }
                snapshot
            }
        }
    }
}

/// What one statement's relations and functions answer from.
struct Scope {
    shared: Arc<Shared>,
    snapshot: Arc<Snapshot>,
    context: Arc<StatementContext>,
    session: SessionInfo,
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").field("registry", &self.snapshot.registry.version).finish_non_exhaustive()
    }
}

impl Scope {
    /// The relations as the catalogs show them, made on first use.
    fn objects(&self) -> &Arc<Objects> {
        self.snapshot.objects.get_or_init(|| Arc::new(Objects::of(&self.snapshot.registry, &self.shared.system)))
    }

    /// The rows of a system relation that has no query, kept as long as this registry version is the newest.
    fn system_rows(&self, schema: &str, name: &str, relation: &definition::SystemRelation) -> Result<RecordBatch> {
        let key = format!("{schema}.{name}");
        if let Some(batch) = self.snapshot.batches.lock().get(&key) {
            return Ok(batch.clone());
        }
        let source = pg_catalog::Source {
            registry: &self.snapshot.registry,
            objects: self.objects(),
            types: &self.shared.types,
            session: &self.session,
        };
        let batch = pg_catalog::rows(schema, name, relation, &source)?;
        if !pg_catalog::depends_on_session(schema, name) {
            self.snapshot.batches.lock().insert(key, batch.clone());
        }
        Ok(batch)
    }
}

#[cfg(test)]
mod tests;

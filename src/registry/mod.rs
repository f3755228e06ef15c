//! What is defined: entities, feature views, feature services, tables and views, as one immutable, numbered whole.
//!
//! A [`Registry`] is a snapshot that never changes; [`Registry::apply`] makes the next one from a [`Change`] or says why not.
//! [`RegistryStore`] keeps the snapshots as numbered documents, each created only if absent, so that of two gateways changing
//! the same version one wins and the other tries again on what the winner left.
//! This room knows nothing of SQL text, of Arrow batches or of stores of rows.

mod change;
mod model;
mod store;
mod ttl;

pub use change::Change;
pub use model::{
    Column, Entity, Feature, FeatureService, FeatureView, FileFormat, KeyColumn, ObjectId, ObjectKind, Registry, SqlView,
    StoreId, Table, TableSource, Target,
};
pub use store::RegistryStore;
pub use ttl::Ttl;

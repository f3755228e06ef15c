//! The objects, and the snapshot that holds them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ttl::Ttl;
use crate::time::DatasetVersion;
use crate::types::SqlType;

/// The first object number; PostgreSQL gives those below 16384 to its own catalogs.
pub(super) const FIRST_OBJECT_ID: u32 = 16_384;

/// The number of an object: its OID in the catalogs and its folder's name. Never used again after a `DROP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId(pub u32);

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a store: made once, when its first registry document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(pub Uuid);

/// The kinds of object that statements name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// An entity.
    Entity,
    /// A feature view.
    FeatureView,
    /// A table, stored or external.
    Table,
    /// A plain SQL view.
    View,
    /// A feature service.
    FeatureService,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ObjectKind::Entity => "entity",
            ObjectKind::FeatureView => "feature view",
            ObjectKind::Table => "table",
            ObjectKind::View => "view",
            ObjectKind::FeatureService => "feature service",
        })
    }
}

/// A column of an entity's key. Never NULL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyColumn {
    /// The column's name, unique among the keys of a view.
    pub name: String,
    /// One of the types with one encoding a value ([`SqlType::is_key`]).
    pub data_type: SqlType,
}

/// A thing that has features: a customer, an airport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entity {
    /// Its number.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// Its join key; at least one column.
    pub keys: Vec<KeyColumn>,
    /// What it is, in words.
    pub comment: Option<String>,
}

/// A named value that a view gives of its entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Feature {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: SqlType,
    /// What it is, in words.
    pub comment: Option<String>,
    /// The text of its `CHECK` condition: rows for which it is false are refused.
    pub check: Option<String>,
}

/// A table whose rows are each entity's value now, kept with all its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureView {
    /// Its number.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// The entities it describes, by name; none for a global view of one row.
    pub entities: Vec<String>,
    /// The key columns of those entities, in order.
    pub keys: Vec<KeyColumn>,
    /// The name of the event time column.
    pub event_time: String,
    /// Its features, in order.
    pub features: Vec<Feature>,
    /// How long a row lives; `None`, for ever.
    pub ttl: Option<Ttl>,
    /// Whether the online store keeps its rows.
    pub online: bool,
    /// What it is, in words.
    pub comment: Option<String>,
    /// The options of its `WITH` clause that only people read (`owner`, `tags`).
    pub options: BTreeMap<String, String>,
    /// Names for versions of its history.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, DatasetVersion>,
}

impl FeatureView {
    /// The columns a client sees: keys, event time, features.
    pub fn schema(&self) -> SchemaRef {
        let keys = self.keys.iter().map(|key| key.data_type.field(&key.name, false));
        let event_time = std::iter::once(SqlType::TimestampTz.field(&self.event_time, false));
        let features = self.features.iter().map(|feature| feature.data_type.field(&feature.name, true));
        Arc::new(Schema::new(keys.chain(event_time).chain(features).collect::<Vec<_>>()))
    }

    /// Where the event time stands among the columns of [`FeatureView::schema`].
    pub fn event_time_index(&self) -> usize {
        self.keys.len()
    }
}

/// A column of a plain table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub data_type: SqlType,
    /// Whether it takes NULL.
    pub nullable: bool,
    /// What it is, in words.
    pub comment: Option<String>,
}

/// The file formats an external table may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values.
    Csv {
        /// Whether the first line names the columns.
        header: bool,
        /// The byte between values.
        delimiter: u8,
    },
}

/// Where a table's rows are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableSource {
    /// In the store, under `tables/<id>.lance`.
    Stored,
    /// In files elsewhere, read only.
    External {
        /// Their format.
        format: FileFormat,
        /// A path or URL; a folder stands for all files in it.
        location: String,
    },
}

/// A plain table: labels, sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Its number.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Where its rows are.
    pub source: TableSource,
    /// What it is, in words.
    pub comment: Option<String>,
}

impl Table {
    /// The columns a client sees.
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| column.data_type.field(&column.name, column.nullable));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }
}

/// A named query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlView {
    /// Its number.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// The text of its query, parsed anew by every statement that reads it.
    pub definition: String,
    /// The columns it had when it was made.
    pub columns: Vec<Column>,
    /// What it is, in words.
    pub comment: Option<String>,
}

/// A model's input: columns and expressions over several feature views, joined by entity key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureService {
    /// Its number.
    pub id: ObjectId,
    /// Its name.
    pub name: String,
    /// The feature views it reads, by name, in the order of its query.
    pub members: Vec<String>,
    /// The entities of those views, each once, in order.
    pub entities: Vec<String>,
    /// The key columns of those entities, in order: its first columns.
    pub keys: Vec<KeyColumn>,
    /// The text of its query, parsed anew by every statement that reads it.
    pub definition: String,
    /// The columns that its query selects, behind the keys.
    pub columns: Vec<Column>,
    /// What it is, in words.
    pub comment: Option<String>,
    /// The options of its `WITH` clause that only people read (`owner`, `tags`).
    pub options: BTreeMap<String, String>,
}

impl FeatureService {
    /// The columns a client sees: keys, then what the query selects.
    pub fn schema(&self) -> SchemaRef {
        let keys = self.keys.iter().map(|key| key.data_type.field(&key.name, true));
        let columns = self.columns.iter().map(|column| column.data_type.field(&column.name, true));
        Arc::new(Schema::new(keys.chain(columns).collect::<Vec<_>>()))
    }
}

/// A relation that rows can be written to.
#[derive(Clone, Debug)]
pub enum Target {
    /// A feature view.
    View(Arc<FeatureView>),
    /// A stored table.
    Table(Arc<Table>),
}

impl Target {
    /// The relation's name.
    pub fn name(&self) -> &str {
        match self {
            Target::View(view) => &view.name,
            Target::Table(table) => &table.name,
        }
    }

    /// The relation's number.
    pub fn id(&self) -> ObjectId {
        match self {
            Target::View(view) => view.id,
            Target::Table(table) => table.id,
        }
    }

    /// The columns that can be written.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Target::View(view) => view.schema(),
            Target::Table(table) => table.schema(),
        }
    }
}

/// Everything that is defined, at one version. Immutable; relations share one namespace, entities have their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registry {
    /// The version: 0 for an empty store, one more with every change.
    pub version: u64,
    /// The store this registry belongs to.
    pub store: StoreId,
    /// The number the next object gets.
    pub(super) next_id: u32,
    /// Entities by name.
    pub entities: BTreeMap<String, Arc<Entity>>,
    /// Feature views by name.
    pub views: BTreeMap<String, Arc<FeatureView>>,
    /// Tables by name.
    pub tables: BTreeMap<String, Arc<Table>>,
    /// Plain SQL views by name.
    pub sql_views: BTreeMap<String, Arc<SqlView>>,
    /// Feature services by name.
    pub services: BTreeMap<String, Arc<FeatureService>>,
}

impl Registry {
    /// The registry of a new store.
    pub fn empty(store: StoreId) -> Self {
        Self {
            version: 0,
            store,
            next_id: FIRST_OBJECT_ID,
            entities: BTreeMap::new(),
            views: BTreeMap::new(),
            tables: BTreeMap::new(),
            sql_views: BTreeMap::new(),
            services: BTreeMap::new(),
        }
    }

    /// What kind of relation `name` is, if there is one.
    pub fn relation_kind(&self, name: &str) -> Option<ObjectKind> {
        if self.views.contains_key(name) {
            Some(ObjectKind::FeatureView)
        } else if self.tables.contains_key(name) {
            Some(ObjectKind::Table)
        } else if self.sql_views.contains_key(name) {
            Some(ObjectKind::View)
        } else if self.services.contains_key(name) {
            Some(ObjectKind::FeatureService)
        } else {
            None
        }
    }

    /// The feature view with this number.
    pub fn view_by_id(&self, id: ObjectId) -> Option<&Arc<FeatureView>> {
        self.views.values().find(|view| view.id == id)
    }
}

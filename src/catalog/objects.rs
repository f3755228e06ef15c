//! Everything the catalogs show, under PostgreSQL's object numbers.
//!
//! Numbers are stable: they follow from the number the registry gave an object, so they are the same after a restart and on
//! every gateway of a store. Numbers below 16384 belong to relations that every store has.

use std::collections::HashMap;
use std::sync::Arc;

use super::definition::{SystemRelation, SystemRelations};
use crate::offline::CREATED_TIME;
use crate::registry::{Column, FeatureService, FeatureView, FileFormat, ObjectId, Registry, SqlView, Table, TableSource};
use crate::types::SqlType;

/// The role that owns everything.
pub(super) const OWNER: u32 = 10;

/// A schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct Namespace {
    /// Its object number.
    pub(super) oid: u32,
    /// Its name.
    pub(super) name: &'static str,
    /// What it holds, in words.
    pub(super) comment: &'static str,
}

/// The schemas, which are the same in every store.
pub(super) const NAMESPACES: [Namespace; 5] = [
    Namespace { oid: 11, name: "pg_catalog", comment: "system catalog schema" },
    Namespace { oid: 2200, name: "public", comment: "feature views, tables and views" },
    Namespace { oid: 13_000, name: "information_schema", comment: "the SQL standard's catalog" },
    Namespace { oid: 13_001, name: "history", comment: "every row ever written, one relation a feature view" },
    Namespace { oid: 13_002, name: "tidegate", comment: "what this feature store holds" },
];

/// The number of a schema; 0 where there is none of that name.
pub(super) fn namespace_oid(name: &str) -> u32 {
    NAMESPACES.iter().find(|namespace| namespace.name == name).map_or(0, |namespace| namespace.oid)
}

/// How a relation is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelationKind {
    /// A table: feature views, their histories and stored tables.
    Table,
    /// A view.
    View,
    /// A foreign table: files elsewhere.
    Foreign,
}

impl RelationKind {
    /// `relkind`
    pub(super) fn letter(self) -> &'static str {
        match self {
            RelationKind::Table => "r",
            RelationKind::View => "v",
            RelationKind::Foreign => "f",
        }
    }
}

/// A column of a relation.
#[derive(Clone, Debug)]
pub(super) struct Attribute {
    /// Its name.
    pub(super) name: String,
    /// Its type.
    pub(super) data_type: SqlType,
    /// Whether it takes no NULL.
    pub(super) not_null: bool,
    /// What it is, in words.
    pub(super) comment: Option<String>,
}

/// The primary key of a relation: the entity keys of a feature view.
#[derive(Clone, Debug)]
pub(super) struct Key {
    /// The number of its index.
    pub(super) index: u32,
    /// The number of its constraint.
    pub(super) constraint: u32,
    /// The name of both.
    pub(super) name: String,
    /// How many of the relation's columns it has: its first ones.
    pub(super) columns: usize,
}

/// The `CHECK` of a feature.
#[derive(Clone, Debug)]
pub(super) struct Check {
    /// The number of its constraint.
    pub(super) oid: u32,
    /// Its name.
    pub(super) name: String,
    /// The number of its column, from 1.
    pub(super) column: usize,
    /// Its condition.
    pub(super) condition: String,
}

/// A relation, as the catalogs show it.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    /// Its object number.
    pub(super) oid: u32,
    /// Its schema's name.
    pub(super) schema: String,
    /// Its name.
    pub(super) name: String,
    /// How it is shown.
    pub(super) kind: RelationKind,
    /// Its columns, in order.
    pub(super) columns: Vec<Attribute>,
    /// Its primary key.
    pub(super) key: Option<Key>,
    /// Its checks.
    pub(super) checks: Vec<Check>,
    /// What it is, in words.
    pub(super) comment: Option<String>,
    /// The query of a view.
    pub(super) definition: Option<String>,
    /// Its options, `name=value`.
    pub(super) options: Vec<String>,
}

impl Relation {
    /// Whether its bare name finds it.
    pub(super) fn is_visible(&self) -> bool {
        self.schema == "public" || self.schema == "pg_catalog"
    }

    /// Whether every store has it.
    pub(super) fn is_system(&self) -> bool {
        matches!(self.schema.as_str(), "pg_catalog" | "information_schema" | "tidegate")
    }
}

/// What an object number stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found<'a> {
    /// A relation.
    Relation(&'a Relation),
    /// The index of a key.
    Index(&'a Relation, &'a Key),
    /// The constraint of a key.
    Key(&'a Relation, &'a Key),
    /// A check.
    Check(&'a Check),
}

/// Every relation of a registry version.
#[derive(Debug)]
pub(super) struct Objects {
    relations: Vec<Arc<Relation>>,
    by_name: HashMap<String, HashMap<String, usize>>,
    by_oid: HashMap<u32, (usize, Part)>,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Whole,
    Index,
    Key,
    Check(usize),
}

impl Objects {
    /// The relations of `registry`, and those every store has.
    pub(super) fn of(registry: &Registry, system: &SystemRelations) -> Self {
        let mut objects = Self { relations: Vec::new(), by_name: HashMap::new(), by_oid: HashMap::new() };
        for (schema, name, relation) in system.iter() {
            objects.add(system_relation(schema, name, relation));
        }
        for view in registry.views.values() {
            objects.add(feature_view(view));
            objects.add(history(view));
        }
        for table in registry.tables.values() {
            objects.add(table_relation(table));
        }
        for view in registry.sql_views.values() {
            objects.add(sql_view(view));
        }
        for service in registry.services.values() {
            objects.add(feature_service(service));
        }
        objects
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter().map(AsRef::as_ref)
    }

    /// The relation of this schema and name.
    pub(super) fn named(&self, schema: &str, name: &str) -> Option<&Relation> {
        let index = self.by_name.get(schema)?.get(name)?;
        self.relations.get(*index).map(AsRef::as_ref)
    }

    /// The relation that a name stands for, where its schema may be left out.
    pub(super) fn resolve(&self, schema: Option<&str>, name: &str) -> Option<&Relation> {
        match schema {
            Some(schema) => self.named(schema, name),
            None => self.named("public", name).or_else(|| self.named("pg_catalog", name)),
        }
    }

    /// What this number stands for.
    pub(super) fn find(&self, oid: u32) -> Option<Found<'_>> {
        let (index, part) = self.by_oid.get(&oid)?;
        let relation = self.relations.get(*index)?;
        match part {
            Part::Whole => Some(Found::Relation(relation)),
            Part::Index => relation.key.as_ref().map(|key| Found::Index(relation, key)),
            Part::Key => relation.key.as_ref().map(|key| Found::Key(relation, key)),
            Part::Check(check) => relation.checks.get(*check).map(Found::Check),
        }
    }

    /// The relation with this number.
    pub(super) fn relation(&self, oid: u32) -> Option<&Relation> {
        match self.find(oid)? {
            Found::Relation(relation) => Some(relation),
            Found::Index(..) | Found::Key(..) | Found::Check(_) => None,
        }
    }

    fn add(&mut self, relation: Relation) {
        let index = self.relations.len();
        self.by_oid.insert(relation.oid, (index, Part::Whole));
        if let Some(key) = &relation.key {
            self.by_oid.insert(key.index, (index, Part::Index));
            self.by_oid.insert(key.constraint, (index, Part::Key));
        }
        for (number, check) in relation.checks.iter().enumerate() {
            self.by_oid.insert(check.oid, (index, Part::Check(number)));
        }
        self.by_name.entry(relation.schema.clone()).or_default().insert(relation.name.clone(), index);
        self.relations.push(Arc::new(relation));
    }
}

/// Numbers of what belongs to an object. Object numbers stay far below 2^28, so the parts never meet.
fn part_oid(part: u32, id: ObjectId) -> u32 {
    (part << 28) | (id.0 & 0x0fff_ffff)
}

/// The number of the check on the `column`-th column of an object.
fn check_oid(id: ObjectId, column: usize) -> u32 {
    let column = u32::try_from(column).unwrap_or(0) & 0x7ff;
    0x8000_0000 | ((id.0 & 0x000f_ffff) << 11) | column
}

fn system_relation(schema: &str, name: &str, relation: &SystemRelation) -> Relation {
    let columns = relation.columns.iter().map(|column| Attribute {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        not_null: !column.nullable,
        comment: None,
    });
    Relation {
        oid: relation.oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: if relation.is_view { RelationKind::View } else { RelationKind::Table },
        columns: columns.collect(),
        key: None,
        checks: Vec::new(),
        comment: None,
        definition: relation.query.as_ref().map(ToString::to_string),
        options: Vec::new(),
    }
}

fn view_columns(view: &FeatureView) -> Vec<Attribute> {
    let keys = view.keys.iter().map(|key| Attribute {
        name: key.name.clone(),
        data_type: key.data_type.clone(),
        not_null: true,
        comment: None,
    });
    let event_time = std::iter::once(Attribute {
        name: view.event_time.clone(),
        data_type: SqlType::TimestampTz,
        not_null: true,
        comment: None,
    });
    let features = view.features.iter().map(|feature| Attribute {
        name: feature.name.clone(),
        data_type: feature.data_type.clone(),
        not_null: false,
        comment: feature.comment.clone(),
    });
    keys.chain(event_time).chain(features).collect()
}

fn feature_view(view: &FeatureView) -> Relation {
    let key = (!view.keys.is_empty()).then(|| Key {
        index: part_oid(2, view.id),
        constraint: part_oid(3, view.id),
        name: format!("{}_pkey", view.name),
        columns: view.keys.len(),
    });
    let first_feature = view.keys.len() + 2;
    let checks = view.features.iter().enumerate().filter_map(|(index, feature)| {
        let condition = feature.check.clone()?;
        let column = first_feature + index;
        let name = format!("{}_{}_check", view.name, feature.name);
        Some(Check { oid: check_oid(view.id, column), name, column, condition })
    });
    let mut options: Vec<String> = view.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !view.online {
        options.push("online=false".to_owned());
    }
    Relation {
        oid: view.id.0,
        schema: "public".to_owned(),
        name: view.name.clone(),
        kind: RelationKind::Table,
        columns: view_columns(view),
        key,
        checks: checks.collect(),
        comment: view.comment.clone(),
        definition: None,
        options,
    }
}

fn history(view: &FeatureView) -> Relation {
    let mut columns = view_columns(view);
    columns.push(Attribute {
        name: CREATED_TIME.to_owned(),
        data_type: SqlType::TimestampTz,
        not_null: true,
        comment: Some("when the store learned the row".to_owned()),
    });
    Relation {
        oid: part_oid(1, view.id),
        schema: "history".to_owned(),
        name: view.name.clone(),
        kind: RelationKind::Table,
        columns,
        key: None,
        checks: Vec::new(),
        comment: Some(format!("every row ever written to {}", view.name)),
        definition: None,
        options: Vec::new(),
    }
}

fn plain_columns(columns: &[Column]) -> Vec<Attribute> {
    let columns = columns.iter().map(|column| Attribute {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        not_null: !column.nullable,
        comment: column.comment.clone(),
    });
    columns.collect()
}

fn table_relation(table: &Table) -> Relation {
    let (kind, options) = match &table.source {
        TableSource::Stored => (RelationKind::Table, Vec::new()),
        TableSource::External { format, location } => {
            let format = match format {
                FileFormat::Parquet => "parquet",
                FileFormat::Csv { .. } => "csv",
            };
            (RelationKind::Foreign, vec![format!("location={location}"), format!("format={format}")])
        }
    };
    Relation {
        oid: table.id.0,
        schema: "public".to_owned(),
        name: table.name.clone(),
        kind,
        columns: plain_columns(&table.columns),
        key: None,
        checks: Vec::new(),
        comment: table.comment.clone(),
        definition: None,
        options,
    }
}

fn sql_view(view: &SqlView) -> Relation {
    // The columns of a view take NULL as far as a catalog can tell, as in PostgreSQL.
    let columns = plain_columns(&view.columns).into_iter().map(|column| Attribute { not_null: false, ..column });
    Relation {
        oid: view.id.0,
        schema: "public".to_owned(),
        name: view.name.clone(),
        kind: RelationKind::View,
        columns: columns.collect(),
        key: None,
        checks: Vec::new(),
        comment: view.comment.clone(),
        definition: Some(view.definition.clone()),
        options: Vec::new(),
    }
}

fn feature_service(service: &FeatureService) -> Relation {
    let keys = service.keys.iter().map(|key| Attribute {
        name: key.name.clone(),
        data_type: key.data_type.clone(),
        not_null: false,
        comment: None,
    });
    let columns = plain_columns(&service.columns).into_iter().map(|column| Attribute { not_null: false, ..column });
    Relation {
        oid: service.id.0,
        schema: "public".to_owned(),
        name: service.name.clone(),
        kind: RelationKind::View,
        columns: keys.chain(columns).collect(),
        key: None,
        checks: Vec::new(),
        comment: service.comment.clone(),
        definition: Some(service.definition.clone()),
        options: service.options.iter().map(|(name, value)| format!("{name}={value}")).collect(),
    }
}

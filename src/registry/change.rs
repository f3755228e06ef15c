//! The changes a registry can undergo, and what each demands.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{
    Column, Entity, Feature, FeatureService, FeatureView, KeyColumn, ObjectId, ObjectKind, Registry, SqlView, Table, TableSource,
};
use super::ttl::Ttl;
use crate::error::{Error, Result, SqlState};
use crate::time::DatasetVersion;

/// The most bytes a name may have, as in PostgreSQL.
const NAME_BYTES_MAX: usize = 63;

/// The most columns a relation may have, as in PostgreSQL.
const COLUMNS_MAX: usize = 1600;

/// Column names that history keeps for itself.
const RESERVED_COLUMNS: [&str; 3] = ["created_time", "__sequence", "__retracted"];

/// One change of the registry. It names objects; numbers are given when it is applied.
#[derive(Clone, Debug)]
pub enum Change {
    /// `CREATE ENTITY`
    CreateEntity {
        /// The new entity's name.
        name: String,
        /// Its join key.
        keys: Vec<KeyColumn>,
        /// What it is, in words.
        comment: Option<String>,
        /// Leave an entity of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE FEATURE VIEW`
    CreateFeatureView {
        /// The new view's name.
        name: String,
        /// The entities it describes.
        entities: Vec<String>,
        /// The name of its event time column.
        event_time: String,
        /// Its features.
        features: Vec<Feature>,
        /// How long a row lives.
        ttl: Option<Ttl>,
        /// Whether the online store keeps its rows.
        online: bool,
        /// What it is, in words.
        comment: Option<String>,
        /// Other options.
        options: BTreeMap<String, String>,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE TABLE`, `CREATE EXTERNAL TABLE`
    CreateTable {
        /// The new table's name.
        name: String,
        /// Its columns.
        columns: Vec<Column>,
        /// Where its rows are.
        source: TableSource,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE VIEW`
    CreateView {
        /// The new view's name.
        name: String,
        /// Its query.
        definition: String,
        /// The columns of its query.
        columns: Vec<Column>,
        /// Take the place of a view of that name.
        or_replace: bool,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `CREATE FEATURE SERVICE`
    CreateFeatureService {
        /// The new service's name.
        name: String,
        /// The feature views it reads, by name.
        members: Vec<String>,
        /// Its query.
        definition: String,
        /// The columns of its query.
        columns: Vec<Column>,
        /// What it is, in words.
        comment: Option<String>,
        /// Other options.
        options: BTreeMap<String, String>,
        /// Leave a relation of that name as it is.
        if_not_exists: bool,
    },
    /// `DROP`
    Drop {
        /// What kind of object.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// No error if there is none.
        if_exists: bool,
    },
    /// `CREATE TAG`
    CreateTag {
        /// The feature view.
        view: String,
        /// The tag.
        tag: String,
        /// The version it names.
        version: DatasetVersion,
    },
    /// `DROP TAG`
    DropTag {
        /// The feature view.
        view: String,
        /// The tag.
        tag: String,
    },
    /// `COMMENT ON` an object.
    Comment {
        /// What kind of object.
        kind: ObjectKind,
        /// Its name.
        name: String,
        /// The comment; `None` removes it.
        comment: Option<String>,
    },
    /// `COMMENT ON COLUMN`
    CommentOnColumn {
        /// The relation's name.
        relation: String,
        /// The column's name.
        column: String,
        /// The comment; `None` removes it.
        comment: Option<String>,
    },
}

impl Registry {
    /// The registry after `change`, one version later, or unchanged (the same version) where the change asks for nothing,
    /// as `IF NOT EXISTS` may. Errors leave `self` as it is and carry the SQLSTATE PostgreSQL would give.
    pub fn apply(&self, change: &Change) -> Result<Registry> {
        let mut next = self.clone();
        let changed = match change {
            Change::CreateEntity { name, keys, comment, if_not_exists } => {
                next.create_entity(name, keys, comment.as_ref(), *if_not_exists)?
            }
            Change::CreateFeatureView { .. } => next.create_feature_view(change)?,
            Change::CreateTable { name, columns, source, if_not_exists } => {
                next.create_table(name, columns, source, *if_not_exists)?
            }
            Change::CreateView { .. } => next.create_view(change)?,
            Change::CreateFeatureService { .. } => next.create_feature_service(change)?,
            Change::Drop { kind, name, if_exists } => next.drop_object(*kind, name, *if_exists)?,
            Change::CreateTag { view, tag, version } => next.create_tag(view, tag, *version)?,
            Change::DropTag { view, tag } => next.drop_tag(view, tag)?,
            Change::Comment { kind, name, comment } => next.comment(*kind, name, comment.as_ref())?,
            Change::CommentOnColumn { relation, column, comment } => {
                next.comment_on_column(relation, column, comment.as_ref())?
            }
        };
        if changed {
            next.version += 1;
        }
        Ok(next)
    }

    fn take_id(&mut self) -> ObjectId {
        let id = ObjectId(self.next_id);
        self.next_id += 1;
        id
    }

    /// Whether a relation may be made under `name`: an error if the name is taken, `false` if it is taken and that is fine.
    fn is_free(&self, name: &str, if_not_exists: bool) -> Result<bool> {
        check_name(name)?;
        match self.relation_kind(name) {
            None => Ok(true),
            Some(_) if if_not_exists => Ok(false),
            Some(_) => Err(Error::new(SqlState::DuplicateTable, format!("relation \"{name}\" already exists"))),
        }
    }

    fn create_entity(&mut self, name: &str, keys: &[KeyColumn], comment: Option<&String>, if_not_exists: bool) -> Result<bool> {
        check_name(name)?;
        if self.entities.contains_key(name) {
            if if_not_exists {
                return Ok(false);
            }
            return Err(Error::new(SqlState::DuplicateObject, format!("entity \"{name}\" already exists")));
        }
        if keys.is_empty() {
            return Err(Error::new(SqlState::InvalidObjectDefinition, format!("entity \"{name}\" has no key"))
                .hint("Name at least one key column: KEY (customer_id BIGINT)."));
        }
        check_columns(name, keys.iter().map(|key| key.name.as_str()))?;
        for key in keys {
            if !key.data_type.is_key() {
                return Err(Error::new(
                    SqlState::InvalidObjectDefinition,
                    format!("column \"{}\" of type {} cannot be an entity key", key.name, key.data_type),
                )
                .hint("Keys are boolean, smallint, integer, bigint, text, bytea, uuid, date, timestamp or timestamptz."));
            }
        }
        let entity = Entity { id: self.take_id(), name: name.to_owned(), keys: keys.to_vec(), comment: comment.cloned() };
        self.entities.insert(name.to_owned(), Arc::new(entity));
        Ok(true)
    }

    fn create_feature_view(&mut self, change: &Change) -> Result<bool> {
        let Change::CreateFeatureView { name, entities, event_time, features, ttl, online, comment, options, if_not_exists } =
            change
        else {
            return Err(Error::internal("not a CREATE FEATURE VIEW"));
        };
        if !self.is_free(name, *if_not_exists)? {
            return Ok(false);
        }
        let mut keys = Vec::new();
        for entity in entities {
            let entity = self.entities.get(entity).ok_or_else(|| undefined(ObjectKind::Entity, entity))?;
            keys.extend(entity.keys.iter().cloned());
        }
        let names = keys.iter().map(|key| key.name.as_str());
        let names = names.chain(std::iter::once(event_time.as_str()));
        check_columns(name, names.chain(features.iter().map(|feature| feature.name.as_str())))?;
        let view = FeatureView {
            id: self.take_id(),
            name: name.clone(),
            entities: entities.clone(),
            keys,
            event_time: event_time.clone(),
            features: features.clone(),
            ttl: *ttl,
            online: *online,
            comment: comment.clone(),
            options: options.clone(),
            tags: BTreeMap::new(),
        };
        self.views.insert(name.clone(), Arc::new(view));
        Ok(true)
    }

    fn create_table(&mut self, name: &str, columns: &[Column], source: &TableSource, if_not_exists: bool) -> Result<bool> {
        if !self.is_free(name, if_not_exists)? {
            return Ok(false);
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = columns.iter().find(|column| !seen.insert(column.name.as_str())) {
            return Err(specified_twice(&twice.name));
        }
        if columns.len() > COLUMNS_MAX {
            return Err(too_many_columns());
        }
        let table =
            Table { id: self.take_id(), name: name.to_owned(), columns: columns.to_vec(), source: source.clone(), comment: None };
        self.tables.insert(name.to_owned(), Arc::new(table));
        Ok(true)
    }

    fn create_view(&mut self, change: &Change) -> Result<bool> {
        let Change::CreateView { name, definition, columns, or_replace, if_not_exists } = change else {
            return Err(Error::internal("not a CREATE VIEW"));
        };
        let replaced = match self.sql_views.get(name) {
            Some(view) if *or_replace => Some(view.id),
            _ => None,
        };
        if replaced.is_none() && !self.is_free(name, *if_not_exists)? {
            return Ok(false);
        }
        let id = match replaced {
            Some(id) => id,
            None => self.take_id(),
        };
        let view = SqlView { id, name: name.clone(), definition: definition.clone(), columns: columns.clone(), comment: None };
        self.sql_views.insert(name.clone(), Arc::new(view));
        Ok(true)
    }

    fn create_feature_service(&mut self, change: &Change) -> Result<bool> {
        let Change::CreateFeatureService { name, members, definition, columns, comment, options, if_not_exists } = change else {
            return Err(Error::internal("not a CREATE FEATURE SERVICE"));
        };
        if !self.is_free(name, *if_not_exists)? {
            return Ok(false);
        }
        let mut entities: Vec<String> = Vec::new();
        for member in members {
            let member = self.views.get(member).ok_or_else(|| undefined(ObjectKind::FeatureView, member))?;
            for entity in &member.entities {
                if !entities.contains(entity) {
                    entities.push(entity.clone());
                }
            }
        }
        let mut keys = Vec::new();
        for entity in &entities {
            let entity = self.entities.get(entity).ok_or_else(|| undefined(ObjectKind::Entity, entity))?;
            keys.extend(entity.keys.iter().cloned());
        }
        let names = keys.iter().map(|key| key.name.as_str());
        check_columns(name, names.chain(columns.iter().map(|column| column.name.as_str())))
            .map_err(|error| error.hint("The first columns of a feature service are the entity keys of its feature views."))?;
        let service = FeatureService {
            id: self.take_id(),
            name: name.clone(),
            members: members.clone(),
            entities,
            keys,
            definition: definition.clone(),
            columns: columns.clone(),
            comment: comment.clone(),
            options: options.clone(),
        };
        self.services.insert(name.clone(), Arc::new(service));
        Ok(true)
    }

    fn drop_object(&mut self, kind: ObjectKind, name: &str, if_exists: bool) -> Result<bool> {
        let existing = match kind {
            ObjectKind::Entity => self.entities.contains_key(name).then_some(kind),
            ObjectKind::FeatureView | ObjectKind::Table | ObjectKind::View | ObjectKind::FeatureService => {
                self.relation_kind(name)
            }
        };
        match existing {
            None if if_exists => return Ok(false),
            None => return Err(undefined(kind, name)),
            Some(actual) if actual != kind => return Err(wrong_kind(name, kind, actual)),
            Some(_) => {}
        }
        match kind {
            ObjectKind::Entity => {
                let users: Vec<_> =
                    self.views.values().filter(|view| view.entities.iter().any(|entity| entity == name)).collect();
                if let Some(user) = users.first() {
                    return Err(Error::new(
                        SqlState::DependentObjectsStillExist,
                        format!("cannot drop entity {name} because other objects depend on it"),
                    )
                    .detail(format!("feature view {} depends on entity {name}", user.name))
                    .hint("Drop the feature views first."));
                }
                self.entities.remove(name);
            }
            ObjectKind::FeatureView => {
                if let Some(user) = self.services.values().find(|service| service.members.iter().any(|member| member == name)) {
                    return Err(Error::new(
                        SqlState::DependentObjectsStillExist,
                        format!("cannot drop feature view {name} because other objects depend on it"),
                    )
                    .detail(format!("feature service {} depends on feature view {name}", user.name))
                    .hint("DROP FEATURE SERVICE first."));
                }
                drop(self.views.remove(name));
            }
            ObjectKind::FeatureService => drop(self.services.remove(name)),
            ObjectKind::Table => drop(self.tables.remove(name)),
            ObjectKind::View => drop(self.sql_views.remove(name)),
        }
        Ok(true)
    }

    /// Tags never move: what a name stands for does not change.
    fn create_tag(&mut self, view: &str, tag: &str, version: DatasetVersion) -> Result<bool> {
        check_name(tag)?;
        let tags = &mut Arc::make_mut(self.view_mut(view)?).tags;
        if let Some(existing) = tags.get(tag) {
            return Err(Error::new(
                SqlState::DuplicateObject,
                format!("tag \"{tag}\" of feature view \"{view}\" already exists"),
            )
            .detail(format!("It names version {existing}."))
            .hint("Tags do not move: choose another name, or DROP TAG first."));
        }
        tags.insert(tag.to_owned(), version);
        Ok(true)
    }

    fn drop_tag(&mut self, view: &str, tag: &str) -> Result<bool> {
        match Arc::make_mut(self.view_mut(view)?).tags.remove(tag) {
            Some(_) => Ok(true),
            None => {
                Err(Error::new(SqlState::UndefinedObject, format!("tag \"{tag}\" of feature view \"{view}\" does not exist")))
            }
        }
    }

    fn view_mut(&mut self, name: &str) -> Result<&mut Arc<FeatureView>> {
        match self.relation_kind(name) {
            Some(ObjectKind::FeatureView) | None => {
                self.views.get_mut(name).ok_or_else(|| undefined(ObjectKind::FeatureView, name))
            }
            Some(actual) => Err(wrong_kind(name, ObjectKind::FeatureView, actual)),
        }
    }

    fn comment(&mut self, kind: ObjectKind, name: &str, comment: Option<&String>) -> Result<bool> {
        let slot = match kind {
            ObjectKind::Entity => self.entities.get_mut(name).map(|entity| &mut Arc::make_mut(entity).comment),
            ObjectKind::FeatureView => self.views.get_mut(name).map(|view| &mut Arc::make_mut(view).comment),
            ObjectKind::Table => self.tables.get_mut(name).map(|table| &mut Arc::make_mut(table).comment),
            ObjectKind::View => self.sql_views.get_mut(name).map(|view| &mut Arc::make_mut(view).comment),
            ObjectKind::FeatureService => self.services.get_mut(name).map(|service| &mut Arc::make_mut(service).comment),
        };
        match slot {
            Some(slot) => *slot = comment.cloned(),
            None => {
                return Err(match self.relation_kind(name) {
                    _ if kind == ObjectKind::Entity => undefined(kind, name),
                    Some(actual) => wrong_kind(name, kind, actual),
                    None => undefined_relation(name),
                });
            }
        }
        Ok(true)
    }

    fn comment_on_column(&mut self, relation: &str, column: &str, comment: Option<&String>) -> Result<bool> {
        let undefined_column =
            || Error::new(SqlState::UndefinedColumn, format!("column \"{column}\" of relation \"{relation}\" does not exist"));
        if let Some(view) = self.views.get_mut(relation) {
            let feature = Arc::make_mut(view).features.iter_mut().find(|feature| feature.name == column);
            feature.ok_or_else(undefined_column)?.comment = comment.cloned();
        } else if let Some(table) = self.tables.get_mut(relation) {
            let found = Arc::make_mut(table).columns.iter_mut().find(|candidate| candidate.name == column);
            found.ok_or_else(undefined_column)?.comment = comment.cloned();
        } else if let Some(view) = self.sql_views.get_mut(relation) {
            let found = Arc::make_mut(view).columns.iter_mut().find(|candidate| candidate.name == column);
            found.ok_or_else(undefined_column)?.comment = comment.cloned();
        } else if let Some(service) = self.services.get_mut(relation) {
            let found = Arc::make_mut(service).columns.iter_mut().find(|candidate| candidate.name == column);
            found.ok_or_else(undefined_column)?.comment = comment.cloned();
        } else {
            return Err(undefined_relation(relation));
        }
        Ok(true)
    }
}

fn undefined(kind: ObjectKind, name: &str) -> Error {
    let code = match kind {
        ObjectKind::Entity => SqlState::UndefinedObject,
        ObjectKind::FeatureView | ObjectKind::Table | ObjectKind::View | ObjectKind::FeatureService => SqlState::UndefinedTable,
    };
    Error::new(code, format!("{kind} \"{name}\" does not exist"))
}

fn undefined_relation(name: &str) -> Error {
    Error::new(SqlState::UndefinedTable, format!("relation \"{name}\" does not exist"))
}

fn wrong_kind(name: &str, wanted: ObjectKind, actual: ObjectKind) -> Error {
    Error::new(SqlState::WrongObjectType, format!("\"{name}\" is not a {wanted}")).hint(format!("It is a {actual}."))
}

fn specified_twice(column: &str) -> Error {
    Error::new(SqlState::DuplicateColumn, format!("column \"{column}\" specified more than once"))
}

fn too_many_columns() -> Error {
    Error::new(SqlState::ProgramLimitExceeded, format!("tables can have at most {COLUMNS_MAX} columns"))
}

fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::new(SqlState::InvalidName, "a name cannot be empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Error::new(SqlState::NameTooLong, format!("the name \"{name}\" is longer than {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// The rules for the columns of a feature view or entity: named once, not reserved, not too many.
fn check_columns<'a>(relation: &str, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        check_name(name)?;
        if RESERVED_COLUMNS.contains(&name) {
            return Err(Error::new(
                SqlState::InvalidTableDefinition,
                format!("column name \"{name}\" of \"{relation}\" is kept for the history of a view"),
            )
            .hint("Choose another name."));
        }
        if !seen.insert(name) {
            return Err(specified_twice(name));
        }
    }
    if seen.len() > COLUMNS_MAX {
        return Err(too_many_columns());
    }
    Ok(())
}

//! Statements that change what is defined.

use std::sync::Arc;

use super::{Answer, Session, TransactionStatus};
use crate::error::{Error, Result, SqlState};
use crate::ingest::Ingest;
use crate::offline::Dataset;
use crate::parser::{CommentTarget, CreateFeatureService, RelationName, Statement};
use crate::planner::{infer_external_schema, service_members};
use crate::registry::{Change, FeatureView, ObjectKind, Registry, TableSource, Target};
use crate::time::DatasetVersion;

impl Session {
    /// Runs a statement that defines, drops or comments on an object.
    pub(super) async fn define(&mut self, statement: &Statement) -> Result<Answer> {
        self.refuse_if_read_only(command(statement))?;
        match statement {
            Statement::CreateEntity(entity) => {
                in_public(&entity.name)?;
                let change = Change::CreateEntity {
                    name: entity.name.name.clone(),
                    keys: entity.keys.clone(),
                    comment: entity.comment.clone(),
                    if_not_exists: entity.if_not_exists,
                };
                self.create(&change, ObjectKind::Entity, &entity.name.name).await?;
            }
            Statement::CreateFeatureView(view) => {
                in_public(&view.name)?;
                let change = Change::CreateFeatureView {
                    name: view.name.name.clone(),
                    entities: view.entities.clone(),
                    event_time: view.event_time.clone(),
                    features: view.features.clone(),
                    ttl: view.ttl,
                    online: view.online,
                    comment: view.comment.clone(),
                    options: view.options.clone(),
                    if_not_exists: view.if_not_exists,
                };
                let made = self.context().0.registry.apply(&change)?;
                if let Some(view) = made.views.get(&view.name.name) {
                    Ingest::check_conditions(view)?;
                }
                self.create(&change, ObjectKind::FeatureView, &view.name.name).await?;
            }
            Statement::CreateTable { name, columns, if_not_exists } => {
                in_public(name)?;
                let change = Change::CreateTable {
                    name: name.name.clone(),
                    columns: columns.clone(),
                    source: TableSource::Stored,
                    if_not_exists: *if_not_exists,
                };
                self.create(&change, ObjectKind::Table, &name.name).await?;
            }
            Statement::CreateExternalTable { .. } => self.create_external(statement).await?,
            Statement::CreateView { .. } => self.create_view(statement).await?,
            Statement::CreateFeatureService(service) => self.create_feature_service(service).await?,
            Statement::Drop { kind, names, if_exists } => self.drop_objects(*kind, names, *if_exists).await?,
            Statement::CreateTag { .. } => self.create_tag(statement).await?,
            Statement::DropTag { tag, view, if_exists } => {
                in_public(view)?;
                let registry = Arc::clone(&self.context().0.registry);
                let there = registry.views.get(&view.name).is_some_and(|view| view.tags.contains_key(tag));
                if *if_exists && !there {
                    let message = format!("tag \"{tag}\" does not exist, skipping");
                    self.notice("NOTICE", SqlState::SuccessfulCompletion, message, None);
                } else {
                    self.change_in_block(Change::DropTag { view: view.name.clone(), tag: tag.clone() }).await?;
                }
            }
            Statement::Comment { target, comment } => {
                let change = comment_change(target, comment.clone())?;
                self.change_in_block(change).await?;
            }
            _ => return Err(Error::internal("not a definition")),
        }
        Ok(Answer::Done(command(statement).to_owned()))
    }

    async fn create_external(&mut self, statement: &Statement) -> Result<()> {
        let Statement::CreateExternalTable { name, columns, format, location, if_not_exists } = statement else {
            return Err(Error::internal("not a CREATE EXTERNAL TABLE"));
        };
        in_public(name)?;
        let columns = if columns.is_empty() {
            let schema = Box::pin(infer_external_schema(*format, location)).await?;
            super::write::query_columns(&schema, &[])?
        } else {
            columns.clone()
        };
        let source = TableSource::External { format: *format, location: location.clone() };
        let change = Change::CreateTable { name: name.name.clone(), columns, source, if_not_exists: *if_not_exists };
        self.create(&change, ObjectKind::Table, &name.name).await
    }

    async fn create_view(&mut self, statement: &Statement) -> Result<()> {
        let Statement::CreateView { name, columns, definition, query, or_replace, if_not_exists } = statement else {
            return Err(Error::internal("not a CREATE VIEW"));
        };
        in_public(name)?;
        let plan = self.plan(query, &[]).await?;
        if !plan.parameters.is_empty() {
            return Err(Error::new(SqlState::UndefinedParameter, "there is no parameter $1").hint("A view has no parameters."));
        }
        let change = Change::CreateView {
            name: name.name.clone(),
            definition: definition.clone(),
            columns: super::write::query_columns(&plan.schema, columns)?,
            or_replace: *or_replace,
            if_not_exists: *if_not_exists,
        };
        self.create(&change, ObjectKind::View, &name.name).await
    }

    async fn create_feature_service(&mut self, service: &CreateFeatureService) -> Result<()> {
        let CreateFeatureService { name, definition, query, comment, options, if_not_exists } = service;
        in_public(name)?;
        let plan = self.plan(query, &[]).await?;
        if !plan.parameters.is_empty() {
            return Err(
                Error::new(SqlState::UndefinedParameter, "there is no parameter $1").hint("A feature service has no parameters.")
            );
        }
        let change = Change::CreateFeatureService {
            name: name.name.clone(),
            members: service_members(&plan.logical)?,
            definition: definition.clone(),
            columns: super::write::query_columns(&plan.schema, &[])?,
            comment: comment.clone(),
            options: options.clone(),
            if_not_exists: *if_not_exists,
        };
        self.create(&change, ObjectKind::FeatureService, &name.name).await
    }

    /// Names the newest version of a view's history, or the one that is given.
    async fn create_tag(&mut self, statement: &Statement) -> Result<()> {
        let Statement::CreateTag { tag, view, version, if_not_exists } = statement else {
            return Err(Error::internal("not a CREATE TAG"));
        };
        in_public(view)?;
        let context = self.context().0;
        let found = context.registry.views.get(&view.name);
        if *if_not_exists && found.is_some_and(|view| view.tags.contains_key(tag)) {
            self.notice("NOTICE", SqlState::DuplicateObject, format!("tag \"{tag}\" already exists, skipping"), None);
            return Ok(());
        }
        let version = match (found, version) {
            (Some(found), Some(version)) => {
                let (dataset, version) = (Dataset::History(found.id), DatasetVersion(*version));
                if context.stores.offline.commit_of(dataset, version).await?.is_none() {
                    let message = format!("feature view \"{}\" has no version {version}", view.name);
                    return Err(Error::new(SqlState::InvalidParameterValue, message));
                }
                version
            }
            (Some(found), None) => context.stores.offline.latest(Dataset::History(found.id)).await?.version,
            // The registry says what is wrong with the name.
            (None, _) => DatasetVersion(0),
        };
        self.change_in_block(Change::CreateTag { view: view.name.clone(), tag: tag.clone(), version }).await
    }

    /// Rewrites the history of a view as one clustered order. Changes no answer, so a read-only session may do it.
    pub(super) async fn optimize(&self, name: &RelationName) -> Result<Answer> {
        let view = self.view_to_maintain(name, "OPTIMIZE FEATURE VIEW")?;
        self.services.ingest.optimize(&view).await?;
        Ok(Answer::Done("OPTIMIZE FEATURE VIEW".to_owned()))
    }

    /// Builds the online rows of a view anew. Changes no answer, so a read-only session may do it.
    pub(super) async fn refresh_online(&self, name: &RelationName) -> Result<Answer> {
        let view = self.view_to_maintain(name, "REFRESH ONLINE")?;
        if !view.online {
            let message = format!("feature view \"{}\" is not kept in the online store", view.name);
            return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message).hint("It has online = false."));
        }
        self.services.ingest.rebuild_online(&view).await?;
        Ok(Answer::Done("REFRESH ONLINE".to_owned()))
    }

    /// The feature view of that name, for a command that no block can undo.
    fn view_to_maintain(&self, name: &RelationName, command: &str) -> Result<Arc<FeatureView>> {
        if self.transaction() != TransactionStatus::Idle {
            let message = format!("{command} cannot run inside a transaction block");
            return Err(Error::new(SqlState::ActiveSqlTransaction, message));
        }
        in_public(name)?;
        let registry = self.services.registry.current();
        let found = registry.views.get(&name.name).cloned();
        found.ok_or_else(|| Error::new(SqlState::UndefinedTable, format!("feature view \"{}\" does not exist", name.name)))
    }

    /// Makes an object: there at once, and dropped again if the block is rolled back.
    pub(super) async fn create(&mut self, change: &Change, kind: ObjectKind, name: &str) -> Result<()> {
        if skips_existing(change) && exists(&self.context().0.registry, kind, name) {
            self.skipped(kind, name);
            return Ok(());
        }
        if self.block.as_ref().is_some_and(|block| !block.changes.is_empty()) {
            return Err(Error::unsupported("a creation after a DROP or COMMENT in one block").hint("COMMIT first."));
        }
        self.change_now(change).await?;
        if let Some(block) = &mut self.block {
            block.created.push((kind, name.to_owned()));
        }
        Ok(())
    }

    /// Whether a relation of that name is there already, with the notice that says so.
    pub(super) fn skip_existing(&mut self, name: &str) -> bool {
        let there = self.context().0.registry.relation_kind(name).is_some();
        if there {
            self.skipped(ObjectKind::Table, name);
        }
        there
    }

    fn skipped(&mut self, kind: ObjectKind, name: &str) {
        let (code, what) = match kind {
            ObjectKind::Entity => (SqlState::DuplicateObject, "entity"),
            ObjectKind::FeatureView | ObjectKind::Table | ObjectKind::View | ObjectKind::FeatureService => {
                (SqlState::DuplicateTable, "relation")
            }
        };
        self.notice("NOTICE", code, format!("{what} \"{name}\" already exists, skipping"), None);
    }

    async fn drop_objects(&mut self, kind: ObjectKind, names: &[RelationName], if_exists: bool) -> Result<()> {
        for name in names {
            in_public(name)?;
            if if_exists && !exists(&self.context().0.registry, kind, &name.name) {
                let message = format!("{kind} \"{}\" does not exist, skipping", name.name);
                self.notice("NOTICE", SqlState::SuccessfulCompletion, message, None);
                continue;
            }
            self.change_in_block(Change::Drop { kind, name: name.name.clone(), if_exists }).await?;
        }
        Ok(())
    }

    /// Changes the registry at the end of the block, or now where none is open.
    async fn change_in_block(&mut self, change: Change) -> Result<()> {
        // What cannot be is an error now, not at COMMIT.
        self.context().0.registry.apply(&change)?;
        match &mut self.block {
            Some(block) => block.changes.push(change),
            None => self.change_now(&change).await?,
        }
        Ok(())
    }

    /// Changes the registry, and the stores with it.
    pub(super) async fn change_now(&mut self, change: &Change) -> Result<()> {
        let before = self.services.registry.current();
        let after = self.services.registry.commit(change).await?;
        match change {
            Change::CreateFeatureView { name, .. } | Change::CreateTable { name, .. } => {
                if let Some(target) = stored(&after, name)
                    && let Err(error) = self.services.ingest.create(&target).await
                {
                    let kind = match target {
                        Target::View(_) => ObjectKind::FeatureView,
                        Target::Table(_) => ObjectKind::Table,
                    };
                    let undo = Change::Drop { kind, name: name.clone(), if_exists: true };
                    self.services.registry.commit(&undo).await?;
                    return Err(error);
                }
            }
            Change::Drop { .. } => self.remove_dropped(&before, change).await?,
            Change::CreateEntity { .. }
            | Change::CreateView { .. }
            | Change::CreateFeatureService { .. }
            | Change::CreateTag { .. }
            | Change::DropTag { .. }
            | Change::Comment { .. }
            | Change::CommentOnColumn { .. } => {}
        }
        Ok(())
    }

    /// Takes the rows of what a change dropped out of the stores; `before` is the registry that still had it.
    pub(super) async fn remove_dropped(&self, before: &Registry, change: &Change) -> Result<()> {
        match change {
            Change::Drop { name, .. } => match stored(before, name) {
                Some(target) => self.services.ingest.remove(&target).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// The relation of that name whose rows are in the store.
fn stored(registry: &Registry, name: &str) -> Option<Target> {
    if let Some(view) = registry.views.get(name) {
        return Some(Target::View(Arc::clone(view)));
    }
    let table = registry.tables.get(name).filter(|table| table.source == TableSource::Stored)?;
    Some(Target::Table(Arc::clone(table)))
}

fn exists(registry: &Registry, kind: ObjectKind, name: &str) -> bool {
    match kind {
        ObjectKind::Entity => registry.entities.contains_key(name),
        ObjectKind::FeatureView | ObjectKind::Table | ObjectKind::View | ObjectKind::FeatureService => {
            registry.relation_kind(name).is_some()
        }
    }
}

fn skips_existing(change: &Change) -> bool {
    match change {
        Change::CreateEntity { if_not_exists, .. }
        | Change::CreateFeatureView { if_not_exists, .. }
        | Change::CreateTable { if_not_exists, .. }
        | Change::CreateView { if_not_exists, .. }
        | Change::CreateFeatureService { if_not_exists, .. } => *if_not_exists,
        Change::Drop { .. }
        | Change::CreateTag { .. }
        | Change::DropTag { .. }
        | Change::Comment { .. }
        | Change::CommentOnColumn { .. } => false,
    }
}

/// Objects live in the schema `public`; the others are made by the gateway.
pub(super) fn in_public(name: &RelationName) -> Result<()> {
    match name.schema.as_deref() {
        None | Some("public") => Ok(()),
        Some(schema @ ("history" | "tidegate" | "training" | "pg_catalog" | "information_schema")) => {
            Err(Error::new(SqlState::InsufficientPrivilege, format!("permission denied for schema {schema}"))
                .hint("Objects are made in the schema public."))
        }
        Some(schema) => Err(Error::new(SqlState::InvalidSchemaName, format!("schema \"{schema}\" does not exist"))
            .hint("Objects are made in the schema public.")),
    }
}

fn comment_change(target: &CommentTarget, comment: Option<String>) -> Result<Change> {
    match target {
        CommentTarget::Object(kind, name) => {
            in_public(name)?;
            Ok(Change::Comment { kind: *kind, name: name.name.clone(), comment })
        }
        CommentTarget::Column(relation, column) => {
            in_public(relation)?;
            Ok(Change::CommentOnColumn { relation: relation.name.clone(), column: column.clone(), comment })
        }
    }
}

/// The tag of a definition, which also names it in errors.
fn command(statement: &Statement) -> &'static str {
    match statement {
        Statement::CreateEntity(_) => "CREATE ENTITY",
        Statement::CreateFeatureView(_) => "CREATE FEATURE VIEW",
        Statement::CreateTable { .. } => "CREATE TABLE",
        Statement::CreateExternalTable { .. } => "CREATE EXTERNAL TABLE",
        Statement::CreateView { .. } => "CREATE VIEW",
        Statement::CreateFeatureService(_) => "CREATE FEATURE SERVICE",
        Statement::Drop { kind: ObjectKind::Entity, .. } => "DROP ENTITY",
        Statement::Drop { kind: ObjectKind::FeatureView, .. } => "DROP FEATURE VIEW",
        Statement::Drop { kind: ObjectKind::Table, .. } => "DROP TABLE",
        Statement::Drop { kind: ObjectKind::View, .. } => "DROP VIEW",
        Statement::Drop { kind: ObjectKind::FeatureService, .. } => "DROP FEATURE SERVICE",
        Statement::CreateTag { .. } => "CREATE TAG",
        Statement::DropTag { .. } => "DROP TAG",
        Statement::Comment { .. } => "COMMENT",
        _ => "DEFINE",
    }
}

//! The rows of `pg_catalog` and `tidegate`.
//!
//! A relation that is not named here is empty: Tidegate has no triggers, policies, foreign servers beside its own, and so on.

use arrow::array::RecordBatch;

use super::SessionInfo;
use super::definition::SystemRelation;
use super::objects::{NAMESPACES, OWNER, Objects, Relation, RelationKind, namespace_oid};
use super::pg_types::{PgTypes, collation, storage};
use super::rows::Rows;
use super::value::Value;
use crate::error::Result;
use crate::registry::Registry;
use crate::types::SqlType;

/// `pg_class`' own number, in `classoid` and `tableoid`.
pub(super) const CLASS_OF_RELATIONS: u32 = 1259;

/// The numbers of `pg_constraint` and `pg_namespace`.
const CLASS_OF_NAMESPACES: u32 = 2615;

/// The number of the one database.
pub(super) const DATABASE: u32 = 5;

/// The table and index access methods, tablespace, collations and foreign server that stand for Tidegate's.
const HEAP: u32 = 2;
const BTREE: u32 = 403;
const TABLESPACE: u32 = 1663;
const FILES_WRAPPER: u32 = 13_010;
const FILES_SERVER: u32 = 13_011;

/// What the rows are made from.
pub(super) struct Source<'a> {
    /// The registry, as its own kinds of object.
    pub(super) registry: &'a Registry,
    /// The registry, as relations.
    pub(super) objects: &'a Objects,
    /// The types.
    pub(super) types: &'a PgTypes,
    /// The session.
    pub(super) session: &'a SessionInfo,
}

/// Whether the rows of a relation differ from session to session, so that they cannot be kept.
pub(super) fn depends_on_session(schema: &str, name: &str) -> bool {
    schema == "pg_catalog"
        && matches!(name, "pg_database" | "pg_roles" | "pg_authid" | "pg_settings" | "pg_stat_activity" | "pg_timezone_names")
}

/// The rows of a relation that has no query of its own.
pub(super) fn rows(schema: &str, name: &str, relation: &SystemRelation, source: &Source<'_>) -> Result<RecordBatch> {
    let mut rows = Rows::new(relation);
    match (schema, name) {
        ("pg_catalog", "pg_namespace") => namespaces(&mut rows)?,
        ("pg_catalog", "pg_class") => classes(&mut rows, source)?,
        ("pg_catalog", "pg_attribute") => attributes(&mut rows, source)?,
        ("pg_catalog", "pg_type") => types(&mut rows, source)?,
        ("pg_catalog", "pg_proc") => functions(&mut rows, source)?,
        ("pg_catalog", "pg_constraint") => constraints(&mut rows, source)?,
        ("pg_catalog", "pg_index") => indexes(&mut rows, source)?,
        ("pg_catalog", "pg_description") => descriptions(&mut rows, source)?,
        ("pg_catalog", "pg_database") => database(&mut rows, source)?,
        ("pg_catalog", "pg_roles" | "pg_authid") => role(&mut rows, name, source)?,
        ("pg_catalog", "pg_settings") => settings(&mut rows, source)?,
        ("pg_catalog", "pg_stat_activity") => activity(&mut rows, source)?,
        ("pg_catalog", "pg_foreign_table") => foreign_tables(&mut rows, source)?,
        ("pg_catalog", "pg_stat_user_tables" | "pg_stat_all_tables" | "pg_statio_user_tables" | "pg_statio_all_tables") => {
            table_statistics(&mut rows, source)?;
        }
        ("pg_catalog", name) => fixed(&mut rows, name)?,
        ("tidegate", "entities") => entities(&mut rows, source)?,
        ("tidegate", "feature_views") => feature_views(&mut rows, source)?,
        ("tidegate", "features") => features(&mut rows, source)?,
        ("tidegate", "feature_services") => feature_services(&mut rows, source)?,
        ("tidegate", "tags") => tags(&mut rows, source)?,
        _ => {}
    }
    rows.finish()
}

fn number(value: usize) -> Value {
    Value::Int(i64::try_from(value).unwrap_or(i64::MAX))
}

fn numbers(count: usize) -> Value {
    Value::List((1..=count).map(number).collect())
}

fn namespaces(rows: &mut Rows<'_>) -> Result<()> {
    for namespace in NAMESPACES {
        rows.add([("oid", namespace.oid.into()), ("nspname", namespace.name.into()), ("nspowner", OWNER.into())])?;
    }
    Ok(())
}

fn classes(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter() {
        let is_table = relation.kind == RelationKind::Table;
        let options = (!relation.options.is_empty() && is_table).then(|| relation.options.clone());
        rows.add([
            ("oid", relation.oid.into()),
            ("relname", relation.name.as_str().into()),
            ("relnamespace", namespace_oid(&relation.schema).into()),
            ("relowner", OWNER.into()),
            ("relam", if is_table { HEAP } else { 0 }.into()),
            ("relfilenode", if is_table { relation.oid } else { 0 }.into()),
            ("reltuples", Value::Int(-1)),
            ("relhasindex", relation.key.is_some().into()),
            ("relpersistence", "p".into()),
            ("relkind", relation.kind.letter().into()),
            ("relnatts", number(relation.columns.len())),
            ("relchecks", number(relation.checks.len())),
            ("relhasrules", (relation.kind == RelationKind::View).into()),
            ("relispopulated", true.into()),
            ("relreplident", if relation.is_system() { "n" } else { "d" }.into()),
            ("reloptions", options.into()),
        ])?;
        if let Some(key) = &relation.key {
            rows.add([
                ("oid", key.index.into()),
                ("relname", key.name.as_str().into()),
                ("relnamespace", namespace_oid(&relation.schema).into()),
                ("relowner", OWNER.into()),
                ("relam", BTREE.into()),
                ("relfilenode", key.index.into()),
                ("reltuples", Value::Int(-1)),
                ("relpersistence", "p".into()),
                ("relkind", "i".into()),
                ("relnatts", number(key.columns)),
                ("relispopulated", true.into()),
                ("relreplident", "n".into()),
            ])?;
        }
    }
    Ok(())
}

fn attributes(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter() {
        add_columns(rows, relation.oid, relation, relation.columns.len())?;
        if let Some(key) = &relation.key {
            add_columns(rows, key.index, relation, key.columns)?;
        }
    }
    Ok(())
}

fn add_columns(rows: &mut Rows<'_>, owner: u32, relation: &Relation, count: usize) -> Result<()> {
    for (index, column) in relation.columns.iter().take(count).enumerate() {
        let (align, kept, by_value) = storage(&column.data_type);
        let dimensions = i32::from(matches!(column.data_type, SqlType::Array(_) | SqlType::Vector(_)));
        rows.add([
            ("attrelid", owner.into()),
            ("attname", column.name.as_str().into()),
            ("atttypid", column.data_type.oid().into()),
            ("attstattarget", Value::Int(-1)),
            ("attlen", i32::from(column.data_type.wire_size()).into()),
            ("attnum", number(index + 1)),
            ("attndims", dimensions.into()),
            ("attcacheoff", Value::Int(-1)),
            ("atttypmod", column.data_type.type_modifier().into()),
            ("attbyval", by_value.into()),
            ("attalign", align.into()),
            ("attstorage", kept.into()),
            ("attnotnull", column.not_null.into()),
            ("attislocal", true.into()),
            ("attcollation", collation(&column.data_type).into()),
        ])?;
    }
    Ok(())
}

fn types(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for cells in source.types.types.rows() {
        let shared = [
            ("typnamespace", Value::from(11_u32)),
            ("typowner", OWNER.into()),
            ("typisdefined", true.into()),
            ("typtypmod", Value::Int(-1)),
        ];
        rows.extend(cells.into_iter().chain(shared))?;
    }
    Ok(())
}

fn functions(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for cells in source.types.functions.rows() {
        let name = cells.iter().find(|(column, _)| *column == "proname").map_or(Value::Null, |(_, name)| name.clone());
        let shared = [
            ("pronamespace", Value::from(11_u32)),
            ("proowner", OWNER.into()),
            ("prolang", 12_u32.into()),
            ("procost", Value::Int(1)),
            ("proparallel", "s".into()),
            ("prosrc", name),
        ];
        rows.extend(cells.into_iter().chain(shared))?;
    }
    Ok(())
}

fn constraints(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter() {
        let shared = |oid: u32, name: &str, kind: &str| {
            [
                ("oid", oid.into()),
                ("conname", name.into()),
                ("connamespace", namespace_oid(&relation.schema).into()),
                ("contype", kind.into()),
                ("convalidated", true.into()),
                ("conrelid", relation.oid.into()),
                ("confupdtype", " ".into()),
                ("confdeltype", " ".into()),
                ("confmatchtype", " ".into()),
                ("conislocal", true.into()),
                ("connoinherit", (kind == "p").into()),
            ]
        };
        if let Some(key) = &relation.key {
            let own = [("conindid", key.index.into()), ("conkey", numbers(key.columns))];
            rows.extend(shared(key.constraint, &key.name, "p").into_iter().chain(own))?;
        }
        for check in &relation.checks {
            let own = [("conkey", Value::List(vec![number(check.column)])), ("conbin", check.condition.as_str().into())];
            rows.extend(shared(check.oid, &check.name, "c").into_iter().chain(own))?;
        }
    }
    Ok(())
}

fn indexes(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter() {
        let Some(key) = &relation.key else { continue };
        let zeros = || Value::List(vec![Value::Int(0); key.columns]);
        let collations = relation.columns.iter().take(key.columns).map(|column| collation(&column.data_type).into());
        rows.add([
            ("indexrelid", key.index.into()),
            ("indrelid", relation.oid.into()),
            ("indnatts", number(key.columns)),
            ("indnkeyatts", number(key.columns)),
            ("indisunique", true.into()),
            ("indisprimary", true.into()),
            ("indimmediate", true.into()),
            ("indisvalid", true.into()),
            ("indisready", true.into()),
            ("indislive", true.into()),
            ("indkey", numbers(key.columns)),
            ("indcollation", Value::List(collations.collect())),
            ("indclass", zeros()),
            ("indoption", zeros()),
        ])?;
    }
    Ok(())
}

fn descriptions(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for namespace in NAMESPACES {
        rows.add([
            ("objoid", namespace.oid.into()),
            ("classoid", CLASS_OF_NAMESPACES.into()),
            ("description", namespace.comment.into()),
        ])?;
    }
    for relation in source.objects.iter() {
        let whole = std::iter::once((0, relation.comment.as_ref()));
        let columns = relation.columns.iter().enumerate().map(|(index, column)| (index + 1, column.comment.as_ref()));
        for (part, comment) in whole.chain(columns) {
            if let Some(comment) = comment {
                rows.add([
                    ("objoid", relation.oid.into()),
                    ("classoid", CLASS_OF_RELATIONS.into()),
                    ("objsubid", number(part)),
                    ("description", comment.as_str().into()),
                ])?;
            }
        }
    }
    Ok(())
}

fn database(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    rows.add([
        ("oid", DATABASE.into()),
        ("datname", source.session.database.as_str().into()),
        ("datdba", OWNER.into()),
        ("encoding", Value::Int(6)),
        ("datlocprovider", "c".into()),
        ("datallowconn", true.into()),
        ("datconnlimit", Value::Int(-1)),
        ("dattablespace", TABLESPACE.into()),
        ("datcollate", "C.UTF-8".into()),
        ("datctype", "C.UTF-8".into()),
    ])
}

fn role(rows: &mut Rows<'_>, relation: &str, source: &Source<'_>) -> Result<()> {
    let shared = [
        ("oid", OWNER.into()),
        ("rolname", source.session.user.as_str().into()),
        ("rolsuper", true.into()),
        ("rolinherit", true.into()),
        ("rolcreaterole", true.into()),
        ("rolcreatedb", true.into()),
        ("rolcanlogin", true.into()),
        ("rolreplication", true.into()),
        ("rolbypassrls", true.into()),
        ("rolconnlimit", Value::Int(-1)),
    ];
    let password = (relation == "pg_roles").then(|| ("rolpassword", Value::from("********")));
    rows.extend(shared.into_iter().chain(password))
}

fn settings(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for (name, value) in source.session.settings.iter() {
        rows.add([
            ("name", name.as_str().into()),
            ("setting", value.as_str().into()),
            ("category", "Settings".into()),
            ("short_desc", "".into()),
            ("context", "user".into()),
            ("vartype", "string".into()),
            ("source", "session".into()),
            ("reset_val", value.as_str().into()),
            ("boot_val", value.as_str().into()),
            ("pending_restart", false.into()),
        ])?;
    }
    Ok(())
}

/// The session that asks; others are not shown to it.
fn activity(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    let application = source.session.settings.get("application_name").map_or("", String::as_str);
    rows.add([
        ("datid", DATABASE.into()),
        ("datname", source.session.database.as_str().into()),
        ("pid", source.session.backend_pid.into()),
        ("usesysid", OWNER.into()),
        ("usename", source.session.user.as_str().into()),
        ("application_name", application.into()),
        ("state", "active".into()),
        ("backend_type", "client backend".into()),
    ])
}

fn foreign_tables(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter().filter(|relation| relation.kind == RelationKind::Foreign) {
        rows.add([
            ("ftrelid", relation.oid.into()),
            ("ftserver", FILES_SERVER.into()),
            ("ftoptions", relation.options.clone().into()),
        ])?;
    }
    Ok(())
}

fn table_statistics(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for relation in source.objects.iter().filter(|relation| relation.kind == RelationKind::Table && !relation.is_system()) {
        rows.add([
            ("relid", relation.oid.into()),
            ("schemaname", relation.schema.as_str().into()),
            ("relname", relation.name.as_str().into()),
        ])?;
    }
    Ok(())
}

/// The few rows of relations that are the same in every store.
fn fixed(rows: &mut Rows<'_>, name: &str) -> Result<()> {
    match name {
        "pg_am" => {
            rows.add([("oid", HEAP.into()), ("amname", "heap".into()), ("amhandler", 3_u32.into()), ("amtype", "t".into())])?;
            rows.add([("oid", BTREE.into()), ("amname", "btree".into()), ("amhandler", 330_u32.into()), ("amtype", "i".into())])?;
        }
        "pg_tablespace" => {
            for (oid, name) in [(TABLESPACE, "pg_default"), (1664, "pg_global")] {
                rows.add([("oid", oid.into()), ("spcname", name.into()), ("spcowner", OWNER.into())])?;
            }
        }
        "pg_collation" => {
            for (oid, name, provider) in [(100_u32, "default", "d"), (950, "C", "c"), (951, "POSIX", "c")] {
                let locale = (provider == "c").then_some(name);
                rows.add([
                    ("oid", oid.into()),
                    ("collname", name.into()),
                    ("collnamespace", 11_u32.into()),
                    ("collowner", OWNER.into()),
                    ("collprovider", provider.into()),
                    ("collisdeterministic", true.into()),
                    ("collencoding", Value::Int(-1)),
                    ("collcollate", locale.into()),
                    ("collctype", locale.into()),
                ])?;
            }
        }
        "pg_language" => {
            for (oid, name) in [(12_u32, "internal"), (14, "sql")] {
                rows.add([
                    ("oid", oid.into()),
                    ("lanname", name.into()),
                    ("lanowner", OWNER.into()),
                    ("lanpltrusted", (name == "sql").into()),
                ])?;
            }
        }
        "pg_foreign_data_wrapper" => {
            rows.add([("oid", FILES_WRAPPER.into()), ("fdwname", "files".into()), ("fdwowner", OWNER.into())])?;
        }
        "pg_foreign_server" => rows.add([
            ("oid", FILES_SERVER.into()),
            ("srvname", "files".into()),
            ("srvowner", OWNER.into()),
            ("srvfdw", FILES_WRAPPER.into()),
        ])?,
        _ => {}
    }
    Ok(())
}

fn entities(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for entity in source.registry.entities.values() {
        let keys: Vec<&str> = entity.keys.iter().map(|key| key.name.as_str()).collect();
        let key_types: Vec<String> = entity.keys.iter().map(|key| key.data_type.name()).collect();
        rows.add([
            ("name", entity.name.as_str().into()),
            ("keys", keys.into()),
            ("key_types", key_types.into()),
            ("comment", entity.comment.clone().into()),
        ])?;
    }
    Ok(())
}

fn feature_views(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for view in source.registry.views.values() {
        let keys: Vec<&str> = view.keys.iter().map(|key| key.name.as_str()).collect();
        rows.add([
            ("name", view.name.as_str().into()),
            ("entities", view.entities.clone().into()),
            ("keys", keys.into()),
            ("event_time", view.event_time.as_str().into()),
            ("ttl", view.ttl.map_or(Value::Null, |ttl| Value::Length(ttl.micros()))),
            ("online", view.online.into()),
            ("features", number(view.features.len())),
            ("owner", view.options.get("owner").cloned().into()),
            ("tags", view.options.get("tags").cloned().into()),
            ("comment", view.comment.clone().into()),
        ])?;
    }
    Ok(())
}

fn features(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for view in source.registry.views.values() {
        for (index, feature) in view.features.iter().enumerate() {
            rows.add([
                ("feature_view", view.name.as_str().into()),
                ("name", feature.name.as_str().into()),
                ("ordinal", number(index + 1)),
                ("data_type", feature.data_type.name().into()),
                ("check_condition", feature.check.clone().into()),
                ("comment", feature.comment.clone().into()),
            ])?;
        }
    }
    Ok(())
}

fn feature_services(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for service in source.registry.services.values() {
        let keys: Vec<&str> = service.keys.iter().map(|key| key.name.as_str()).collect();
        let columns: Vec<&str> = service.columns.iter().map(|column| column.name.as_str()).collect();
        rows.add([
            ("name", service.name.as_str().into()),
            ("feature_views", service.members.clone().into()),
            ("entities", service.entities.clone().into()),
            ("keys", keys.into()),
            ("columns", columns.into()),
            ("owner", service.options.get("owner").cloned().into()),
            ("tags", service.options.get("tags").cloned().into()),
            ("comment", service.comment.clone().into()),
            ("definition", service.definition.as_str().into()),
        ])?;
    }
    Ok(())
}

fn tags(rows: &mut Rows<'_>, source: &Source<'_>) -> Result<()> {
    for view in source.registry.views.values() {
        for (tag, version) in &view.tags {
            let version = Value::Int(i64::try_from(version.0).unwrap_or(i64::MAX));
            rows.add([("feature_view", view.name.as_str().into()), ("tag", tag.as_str().into()), ("version", version)])?;
        }
    }
    Ok(())
}

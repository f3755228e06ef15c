//! The relations that every store has: their columns and object numbers, read once from `sql/system/*.sql`.
//!
//! A relation with `WITH (kind = 'v')` is shown as a view. Those that `views.sql` defines are planned from that text; the rows
//! of all others are made by [`super::pg_catalog`] once a registry version, by [`super::live`] when they are read, or there are none.

use std::collections::BTreeMap;

use sqlparser::ast::{self, ColumnOption, CreateTableOptions, Expr, SqlOption, Statement};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use crate::error::{Error, Result};
use crate::types::SqlType;

const TABLES: [&str; 3] = [
    include_str!("../../sql/system/pg_catalog.sql"),
    include_str!("../../sql/system/information_schema.sql"),
    include_str!("../../sql/system/tidegate.sql"),
];

const VIEWS: &str = include_str!("../../sql/system/views.sql");

/// A column of a relation that every store has.
#[derive(Clone, Debug)]
pub(super) struct SystemColumn {
    /// Its name.
    pub(super) name: String,
    /// Its type.
    pub(super) data_type: SqlType,
    /// Whether it takes NULL.
    pub(super) nullable: bool,
}

/// A relation that every store has.
#[derive(Clone, Debug)]
pub(super) struct SystemRelation {
    /// Its object number.
    pub(super) oid: u32,
    /// Whether it is shown as a view.
    pub(super) is_view: bool,
    /// Its columns.
    pub(super) columns: Vec<SystemColumn>,
    /// Its query, where `views.sql` gives one.
    pub(super) query: Option<Box<ast::Query>>,
}

/// The relations that every store has, by schema and name.
#[derive(Clone, Debug, Default)]
pub(super) struct SystemRelations(BTreeMap<String, BTreeMap<String, SystemRelation>>);

impl SystemRelations {
    /// Reads the definitions. Fails only where the text that is compiled in is wrong, which a test holds.
    pub(super) fn read() -> Result<Self> {
        let mut relations = Self::default();
        for text in TABLES {
            for statement in parse(text)? {
                relations.add_table(statement)?;
            }
        }
        for statement in parse(VIEWS)? {
            relations.add_view(statement)?;
        }
        Ok(relations)
    }

    /// The relation of this schema and name.
    pub(super) fn get(&self, schema: &str, name: &str) -> Option<&SystemRelation> {
        self.0.get(schema)?.get(name)
    }

    /// The names of the relations of a schema.
    pub(super) fn names<'a>(&'a self, schema: &str) -> impl Iterator<Item = &'a String> {
        self.0.get(schema).into_iter().flat_map(BTreeMap::keys)
    }

    /// Every relation with its schema and name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &SystemRelation)> {
        self.0.iter().flat_map(|(schema, relations)| {
            relations.iter().map(move |(name, relation)| (schema.as_str(), name.as_str(), relation))
        })
    }

    fn add_table(&mut self, statement: Statement) -> Result<()> {
        let Statement::CreateTable(table) = statement else {
            return Err(malformed(&statement));
        };
        let (schema, name) = schema_and_name(&table.name)?;
        let columns = table.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        let CreateTableOptions::With(options) = &table.table_options else {
            return Err(malformed(&table.name));
        };
        let oid = option(options, "oid").and_then(|oid| oid.parse().ok()).ok_or_else(|| malformed(&table.name))?;
        let is_view = option(options, "kind").is_some_and(|kind| kind == "v");
        let relation = SystemRelation { oid, is_view, columns, query: None };
        self.0.entry(schema).or_default().insert(name, relation);
        Ok(())
    }

    fn add_view(&mut self, statement: Statement) -> Result<()> {
        let Statement::CreateView(view) = statement else {
            return Err(malformed(&statement));
        };
        let (schema, name) = schema_and_name(&view.name)?;
        let relation = self.0.get_mut(&schema).and_then(|relations| relations.get_mut(&name));
        relation.ok_or_else(|| malformed(&view.name))?.query = Some(view.query);
        Ok(())
    }
}

fn parse(text: &str) -> Result<Vec<Statement>> {
    Parser::parse_sql(&PostgreSqlDialect {}, text)
        .map_err(|source| Error::internal("a system relation's definition does not parse").detail(source.to_string()))
}

fn malformed(what: &impl std::fmt::Display) -> Error {
    Error::internal(format!("not the definition of a system relation: {what}"))
}

fn schema_and_name(name: &ast::ObjectName) -> Result<(String, String)> {
    let parts: Vec<&ast::Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
    match parts.as_slice() {
        [schema, name] => Ok((schema.value.clone(), name.value.clone())),
        _ => Err(malformed(name)),
    }
}

fn option(options: &[SqlOption], wanted: &str) -> Option<String> {
    options.iter().find_map(|option| match option {
        SqlOption::KeyValue { key, value: Expr::Value(value) } if key.value == wanted => match &value.value {
            ast::Value::Number(number, _) => Some(number.clone()),
            ast::Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    })
}

fn column(column: &ast::ColumnDef) -> Result<SystemColumn> {
    let not_null = column.options.iter().any(|option| matches!(option.option, ColumnOption::NotNull));
    let data_type = sql_type(&column.data_type.to_string().to_lowercase()).ok_or_else(|| malformed(column))?;
    Ok(SystemColumn { name: column.name.value.clone(), data_type, nullable: !not_null })
}

/// The types that definitions of system relations use.
fn sql_type(name: &str) -> Option<SqlType> {
    if let Some(element) = name.strip_suffix("[]") {
        return sql_type(element).map(|element| SqlType::Array(Box::new(element)));
    }
    Some(match name {
        "boolean" => SqlType::Boolean,
        "smallint" => SqlType::SmallInt,
        "integer" => SqlType::Integer,
        "bigint" => SqlType::BigInt,
        "real" => SqlType::Real,
        "double precision" => SqlType::DoublePrecision,
        "numeric" => SqlType::Numeric { precision: 38, scale: 0 },
        "text" => SqlType::Text,
        "bytea" => SqlType::Bytea,
        "timestamptz" => SqlType::TimestampTz,
        "interval" => SqlType::Interval,
        "name" => SqlType::Name,
        "oid" => SqlType::Oid,
        "\"char\"" => SqlType::Char,
        "int2vector" => SqlType::Int2Vector,
        "oidvector" => SqlType::OidVector,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_read() {
        let relations = SystemRelations::read().unwrap();
        assert_eq!(relations.get("pg_catalog", "pg_class").unwrap().oid, 1259);
        assert!(relations.get("information_schema", "tables").unwrap().query.is_some());
        let mut oids: Vec<u32> = relations.iter().map(|(_, _, relation)| relation.oid).collect();
        let count = oids.len();
        oids.sort_unstable();
        oids.dedup();
        assert_eq!(oids.len(), count, "object numbers are given once");
    }
}

//! The names of columns that have no alias.
//!
//! PostgreSQL names them after the function, type or construct that makes them, lets several have one name, and lets outer
//! queries use the name; DataFusion names them after their text and wants every name once. So every item without a name of
//! its own gets PostgreSQL's, and one that repeats a name gets it with a mark that no client sees: what a statement's columns
//! are called outside is the planner's business.

use std::collections::HashSet;

use sqlparser::ast::{DataType, Expr, Ident, ObjectName, Select, SelectItem, SetExpr, TypedString, Value};

use super::build::{builtin_name, fold};

/// Sets off the number that makes a repeated name unique.
const MARK: char = '\u{1f}';

/// A column's name without the mark that makes it unique: what a client is shown.
pub fn display_name(name: &str) -> &str {
    name.split(MARK).next().unwrap_or(name)
}

/// Gives the items of `select` the names that PostgreSQL gives them, each once.
pub(super) fn name_items(select: &mut Select) {
    let mut taken = HashSet::new();
    for item in &mut select.projection {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                let own = column(expr);
                let name = own.clone().or_else(|| name_of(expr)).unwrap_or_else(|| "?column?".to_owned());
                let unique = unique(&mut taken, &name);
                if own.as_ref() != Some(&unique) {
                    let expr = std::mem::replace(expr, super::expressions::placeholder());
                    *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', unique) };
                }
            }
            SelectItem::ExprWithAlias { alias, .. } => {
                let name = fold(alias);
                let unique = unique(&mut taken, &name);
                if unique != name {
                    *alias = Ident::with_quote('"', unique);
                }
            }
            SelectItem::ExprWithAliases { .. } | SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => {}
        }
    }
}

/// Tells the columns that stand beside a `*` of the whole statement from those in it.
pub(super) fn separate_from_wildcards(body: &mut SetExpr) {
    let select = match body {
        SetExpr::Select(select) => select,
        SetExpr::Query(query) => return separate_from_wildcards(&mut query.body),
        _ => return,
    };
    let is_wildcard = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    if !select.projection.iter().any(is_wildcard) {
        return;
    }
    for (place, item) in select.projection.iter_mut().enumerate() {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some(name) = column(expr)
        {
            let expr = std::mem::replace(expr, super::expressions::placeholder());
            *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', format!("{name}{MARK}{place}")) };
        }
    }
}

fn unique(taken: &mut HashSet<String>, name: &str) -> String {
    if taken.insert(name.to_owned()) {
        return name.to_owned();
    }
    let marked = format!("{name}{MARK}{}", taken.len());
    taken.insert(marked.clone());
    marked
}

/// The name of a bare column.
fn column(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(fold(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        _ => None,
    }
}

/// The name that PostgreSQL gives a column made by `expr`; `None` where it gives none.
fn name_of(expr: &Expr) -> Option<String> {
    strong_name(expr).or_else(|| weak_name(expr))
}

/// Names that a cast around them does not change.
fn strong_name(expr: &Expr) -> Option<String> {
    Some(match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => return column(expr),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => return strong_name(inner),
        Expr::Cast { expr: inner, .. } => return strong_name(inner),
        Expr::Function(function) => function_name(&function.name)?,
        Expr::Exists { .. } => "exists".to_owned(),
        Expr::Array(_) => "array".to_owned(),
        Expr::Extract { .. } => "extract".to_owned(),
        Expr::Substring { .. } => "substring".to_owned(),
        Expr::Overlay { .. } => "overlay".to_owned(),
        Expr::Position { .. } => "position".to_owned(),
        Expr::Ceil { .. } => "ceil".to_owned(),
        Expr::Floor { .. } => "floor".to_owned(),
        Expr::AtTimeZone { .. } => "timezone".to_owned(),
        Expr::Trim { trim_where, .. } => match trim_where {
            Some(sqlparser::ast::TrimWhereField::Leading) => "ltrim",
            Some(sqlparser::ast::TrimWhereField::Trailing) => "rtrim",
            Some(sqlparser::ast::TrimWhereField::Both) | None => "btrim",
        }
        .to_owned(),
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => match select.projection.first()? {
                SelectItem::ExprWithAlias { alias, .. } => fold(alias),
                SelectItem::UnnamedExpr(expr) => return strong_name(expr),
                _ => return None,
            },
            _ => return None,
        },
        Expr::Case { else_result: Some(otherwise), .. } => return strong_name(otherwise),
        _ => return None,
    })
}

/// Names that a cast around them changes to its type's.
fn weak_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => weak_name(inner),
        Expr::Case { .. } => Some("case".to_owned()),
        Expr::Cast { data_type, .. } | Expr::TypedString(TypedString { data_type, .. }) => type_name(data_type),
        Expr::Interval(_) => Some("interval".to_owned()),
        Expr::Value(value) if matches!(value.value, Value::Boolean(_)) => Some("bool".to_owned()),
        Expr::Tuple(_) => Some("row".to_owned()),
        _ => None,
    }
}

/// A function's name. Those that stand for a construct bear its name.
fn function_name(name: &ObjectName) -> Option<String> {
    let name = name.0.last().and_then(|part| part.as_ident()).map(fold)?;
    Some(match name.as_str() {
        "__array" => "array".to_owned(),
        "__single" => return None,
        "power" => return None,
        reg if reg.starts_with("__reg") => reg.trim_start_matches("__").trim_end_matches("_text").to_owned(),
        _ => name,
    })
}

/// The name under which a type stands in `pg_type`.
fn type_name(data_type: &DataType) -> Option<String> {
    Some(
        match data_type {
            DataType::Boolean | DataType::Bool => "bool",
            DataType::SmallInt(_) | DataType::Int2(_) => "int2",
            DataType::Int(_) | DataType::Integer(_) | DataType::Int4(_) => "int4",
            DataType::BigInt(_) | DataType::Int8(_) => "int8",
            DataType::Real | DataType::Float4 => "float4",
            DataType::Float(_) | DataType::Double(_) | DataType::DoublePrecision | DataType::Float8 => "float8",
            DataType::Numeric(_) | DataType::Decimal(_) | DataType::Dec(_) => "numeric",
            DataType::Text => "text",
            DataType::Varchar(_) | DataType::CharacterVarying(_) => "varchar",
            DataType::Char(_) | DataType::Character(_) => "bpchar",
            DataType::Bytea => "bytea",
            DataType::Date => "date",
            DataType::Time(..) => "time",
            DataType::Timestamp(_, zone) => match zone {
                sqlparser::ast::TimezoneInfo::Tz | sqlparser::ast::TimezoneInfo::WithTimeZone => "timestamptz",
                _ => "timestamp",
            },
            DataType::Interval { .. } => "interval",
            DataType::Uuid => "uuid",
            DataType::JSON => "json",
            DataType::JSONB => "jsonb",
            DataType::Regclass => "regclass",
            DataType::Custom(name, _) => return builtin_name(name),
            DataType::Array(sqlparser::ast::ArrayElemTypeDef::SquareBracket(element, _)) => return type_name(element),
            _ => return None,
        }
        .to_owned(),
    )
}

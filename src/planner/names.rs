//! The names PostgreSQL gives to the columns of a query.

use datafusion::sql::sqlparser::ast::{self, Expr, SelectItem, SetExpr};

/// What a column without a name of its own is called.
const UNNAMED: &str = "?column?";

/// The names of a query's columns; `None` where a `*` stands for any number of them.
pub(super) fn column_names(query: &ast::Query) -> Vec<Option<String>> {
    match leftmost(&query.body) {
        Some(select) => select.projection.iter().flat_map(item).collect(),
        None => vec![None],
    }
}

/// Gives a select item that another one repeats word for word a name of its own, because DataFusion tells columns by name
/// and PostgreSQL does not.
pub(super) fn separate_repeated_items(query: &mut ast::Query) {
    if let SetExpr::Select(select) = query.body.as_mut() {
        let mut seen = std::collections::HashSet::new();
        for (place, item) in select.projection.iter_mut().enumerate() {
            let (text, expr) = match item {
                // `x` may be the same column as `t.x`.
                SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
                    let expr = Expr::CompoundIdentifier(parts.clone());
                    let bare = parts.last().map(ToString::to_string).filter(|last| seen.contains(last));
                    (bare.unwrap_or_else(|| expr.to_string()), expr)
                }
                SelectItem::UnnamedExpr(expr) => (expr.to_string(), expr.clone()),
                SelectItem::ExprWithAlias { expr, alias } => (alias.to_string(), expr.clone()),
                _ => continue,
            };
            if !seen.insert(text) {
                *item = SelectItem::ExprWithAlias { expr, alias: ast::Ident::with_quote('"', format!("__column_{place}")) };
            }
        }
    }
}

/// `names` for a query of `fields` columns, whose own names are `given`: a `*` takes the columns that are left.
pub(super) fn apply(names: Vec<Option<String>>, given: &[String]) -> Vec<String> {
    let stars = names.iter().filter(|name| name.is_none()).count();
    let named = names.len() - stars;
    if stars > 1 || named > given.len() || (stars == 0 && named != given.len()) {
        return given.to_vec();
    }
    let mut result = Vec::with_capacity(given.len());
    for name in names {
        match name {
            Some(name) => result.push(name),
            None => {
                let end = given.len() - named + result.len();
                let start = result.len();
                result.extend_from_slice(&given[start..end.max(start)]);
            }
        }
    }
    result
}

/// The select that gives a query its names.
fn leftmost(body: &SetExpr) -> Option<&ast::Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => leftmost(&query.body),
        SetExpr::SetOperation { left, .. } => leftmost(left),
        _ => None,
    }
}

fn item(item: &SelectItem) -> Vec<Option<String>> {
    match item {
        SelectItem::UnnamedExpr(expr) => vec![Some(name(expr).unwrap_or_else(|| UNNAMED.to_owned()))],
        SelectItem::ExprWithAlias { alias, .. } => vec![Some(folded(alias))],
        SelectItem::ExprWithAliases { aliases, .. } => aliases.iter().map(|alias| Some(folded(alias))).collect(),
        SelectItem::QualifiedWildcard(..) | SelectItem::Wildcard(_) => vec![None],
    }
}

fn folded(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The name an expression lends its column.
fn name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Function(function) => function.name.0.last().and_then(ast::ObjectNamePart::as_ident).map(folded),
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => name(inner),
        Expr::Cast { expr: inner, data_type, .. } => name(inner).or_else(|| type_name(data_type)),
        Expr::TypedString(typed) => type_name(&typed.data_type),
        Expr::Interval(_) => Some("interval".to_owned()),
        Expr::Case { else_result, .. } => Some(else_result.as_deref().and_then(name).unwrap_or_else(|| "case".to_owned())),
        Expr::Exists { .. } => Some("exists".to_owned()),
        Expr::Array(_) => Some("array".to_owned()),
        Expr::Extract { .. } => Some("extract".to_owned()),
        Expr::Substring { .. } => Some("substring".to_owned()),
        Expr::Trim { .. } => Some("btrim".to_owned()),
        Expr::Position { .. } => Some("position".to_owned()),
        Expr::Ceil { .. } => Some("ceil".to_owned()),
        Expr::Floor { .. } => Some("floor".to_owned()),
        Expr::AtTimeZone { .. } => Some("timezone".to_owned()),
        Expr::Value(ast::ValueWithSpan { value: ast::Value::Boolean(_), .. }) => Some("bool".to_owned()),
        Expr::Subquery(query) => match column_names(query).into_iter().next() {
            Some(Some(name)) => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// The internal name of a type, as a cast's column bears it.
fn type_name(written: &ast::DataType) -> Option<String> {
    use crate::types::SqlType;
    let sql_type = super::types::sql_type(written).ok().flatten()?;
    Some(
        match sql_type {
            SqlType::Boolean => "bool",
            SqlType::SmallInt => "int2",
            SqlType::Integer => "int4",
            SqlType::BigInt => "int8",
            SqlType::Real => "float4",
            SqlType::DoublePrecision => "float8",
            SqlType::Numeric { .. } => "numeric",
            SqlType::Time => "time",
            SqlType::Timestamp => "timestamp",
            SqlType::TimestampTz => "timestamptz",
            SqlType::Array(_) | SqlType::Vector(_) => return None,
            other => return Some(other.name().trim_matches('"').to_owned()),
        }
        .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_star_takes_what_is_left() {
        let names = vec![Some("x".to_owned()), None, Some("y".to_owned())];
        assert_eq!(apply(names.clone(), &given(&["1", "a", "b", "2"])), ["x", "a", "b", "y"]);
        assert_eq!(apply(names, &given(&["1", "2"])), ["x", "y"]);
        assert_eq!(apply(vec![None, None], &given(&["a", "b"])), ["a", "b"]);
    }
}

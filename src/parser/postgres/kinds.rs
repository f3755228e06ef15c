//! What is only computed for kinds of types that no store has.
//!
//! Drivers ask for the base of a domain and for the columns of a composite type, in subqueries that cannot be joined to their
//! outer row: `CASE WHEN t.typtype = 'c' THEN (SELECT array_agg(a.atttypid) FROM … WHERE c.reltype = t.oid) END`. As no type is
//! of that kind, only its type is left of the subquery.

use sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, LimitClause, Query, Select, SelectItem,
    SetExpr, TableFactor, Value,
};

use super::build::{builtin_name, call, fold, number};

/// The kinds in `pg_type.typtype` that no type of Tidegate is of: composite types, domains, enums, multiranges, ranges.
pub const KINDS_WITHOUT_TYPES: &[&str] = &["c", "d", "e", "m", "r"];

/// Empties the subqueries among a select's columns that are for such kinds.
pub(super) fn simplify_kinds(select: &mut Select) {
    let tables = select.from.iter();
    let factors =
        tables.flat_map(|tables| std::iter::once(&tables.relation).chain(tables.joins.iter().map(|join| &join.relation)));
    let types: Vec<String> = factors.filter_map(name_of_types).collect();
    if types.is_empty() {
        return;
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Some(subquery) = for_absent_kind(expr, &types)
        {
            without_rows(subquery);
        }
    }
}

/// What a select calls `pg_type`.
fn name_of_types(factor: &TableFactor) -> Option<String> {
    let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
    let name = builtin_name(name).filter(|name| name == "pg_type")?;
    Some(alias.as_ref().map_or(name, |alias| fold(&alias.name)))
}

/// The subquery of `CASE WHEN t.typtype = 'c' THEN (subquery) [ELSE NULL] END`.
fn for_absent_kind<'a>(expr: &'a mut Expr, types: &[String]) -> Option<&'a mut Query> {
    match expr {
        Expr::Nested(inner) => for_absent_kind(inner, types),
        Expr::Case { operand: None, conditions, else_result, .. } => {
            let [CaseWhen { condition, result: Expr::Subquery(subquery) }] = conditions.as_mut_slice() else { return None };
            let is_null = |expr: &Expr| matches!(expr, Expr::Value(value) if value.value == Value::Null);
            (is_absent_kind(condition, types) && else_result.as_deref().is_none_or(is_null)).then_some(subquery)
        }
        _ => None,
    }
}

fn is_absent_kind(condition: &Expr, types: &[String]) -> bool {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else { return false };
    let (Expr::CompoundIdentifier(parts), Expr::Value(kind)) = (left.as_ref(), right.as_ref()) else { return false };
    let [relation, column] = parts.as_slice() else { return false };
    let Value::SingleQuotedString(kind) = &kind.value else { return false };
    fold(column) == "typtype" && types.contains(&fold(relation)) && KINDS_WITHOUT_TYPES.contains(&kind.as_str())
}

/// Takes from a query what it reads of an outer row, and its rows: NULL is left, of the type that it was.
fn without_rows(query: &mut Query) {
    if let Some(with) = &mut query.with {
        // What begins without rows goes on without any.
        with.recursive = false;
        for table in &mut with.cte_tables {
            if let SetExpr::SetOperation { left, .. } = table.query.body.as_ref() {
                *table.query.body = left.as_ref().clone();
            }
            unconditional(&mut table.query.body);
        }
    }
    unconditional(&mut query.body);
    query.order_by = None;
    query.limit_clause = Some(LimitClause::LimitOffset { limit: Some(number(0)), offset: None, limit_by: Vec::new() });
}

fn unconditional(body: &mut SetExpr) {
    let SetExpr::Select(select) = body else { return };
    select.selection = None;
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && let Some(element) = aggregated_into_array(expr)
        {
            // The engine's own would forget that numbers are those of objects.
            *expr = call("__no_array", vec![element]);
        }
    }
}

/// The column that `array_agg` makes an array of.
fn aggregated_into_array(expr: &Expr) -> Option<Expr> {
    let Expr::Function(function) = expr else { return None };
    let FunctionArguments::List(list) = &function.args else { return None };
    let [FunctionArg::Unnamed(FunctionArgExpr::Expr(element))] = list.args.as_slice() else { return None };
    let is_column = matches!(element, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    (is_column && builtin_name(&function.name).is_some_and(|name| name == "array_agg")).then(|| element.clone())
}

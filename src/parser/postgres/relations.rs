//! What stands in `FROM`, and the clauses around a select.

use std::collections::HashMap;
use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Fetch, FunctionArg, FunctionArgExpr, GroupByExpr, Ident, JoinOperator, LimitClause, ObjectName, Query, Select,
    SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, TableWithJoins, Value, VisitMut, VisitorMut,
};

use super::build::{any_part, builtin_name, fold, has_subquery, is_aggregate, null_text, number};
use crate::error::{Error, Result};

/// Relations of `pg_catalog` that have no rows in any store: Tidegate has no such objects.
pub const EMPTY_RELATIONS: &[&str] = &[
    "pg_event_trigger",
    "pg_inherits",
    "pg_partitioned_table",
    "pg_policy",
    "pg_publication",
    "pg_publication_namespace",
    "pg_publication_rel",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_subscription",
    "pg_trigger",
];

/// The object numbers of the relations whose rows are objects that others speak of, as `tableoid` gives them.
pub const OBJECT_CLASSES: &[(&str, u32)] = &[
    ("pg_attrdef", 2604),
    ("pg_class", 1259),
    ("pg_constraint", 2606),
    ("pg_language", 2612),
    ("pg_namespace", 2615),
    ("pg_opclass", 2616),
    ("pg_operator", 2617),
    ("pg_opfamily", 2753),
    ("pg_proc", 1255),
    ("pg_rewrite", 2618),
    ("pg_trigger", 2620),
    ("pg_type", 1247),
];

/// Functions in `FROM` that give one column, which PostgreSQL calls by the function's alias or name.
const COLUMN_FUNCTIONS: &[&str] = &["generate_series"];

/// Takes the schema off functions in `FROM` and names their one column as PostgreSQL does.
pub(super) fn rewrite_factor(factor: &mut TableFactor) {
    match factor {
        TableFactor::Table { name, alias, args: Some(_), .. } | TableFactor::Function { name, alias, .. } => {
            let Some(builtin) = builtin_name(name) else {
                return;
            };
            if builtin == "unnest" {
                return as_unnest(factor);
            }
            *name = ObjectName::from(vec![Ident::new(builtin.as_str())]);
            if COLUMN_FUNCTIONS.contains(&builtin.as_str()) {
                name_column(alias, &builtin);
            }
        }
        TableFactor::UNNEST { alias, array_exprs, .. } if array_exprs.len() == 1 => name_column(alias, "unnest"),
        _ => {}
    }
}

/// `pg_catalog.unnest(a)` is read as any function's name; without its schema it is a construct of its own.
fn as_unnest(factor: &mut TableFactor) {
    let (args, alias) = match factor {
        TableFactor::Table { args: Some(arguments), alias, .. } => (&mut arguments.args, alias),
        TableFactor::Function { args, alias, .. } => (args, alias),
        _ => return,
    };
    let arrays = args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(array)) => Some(array.clone()),
        _ => None,
    });
    let Some(array_exprs) = arrays.collect::<Option<Vec<Expr>>>() else {
        return;
    };
    let mut alias = alias.take();
    if array_exprs.len() == 1 {
        name_column(&mut alias, "unnest");
    }
    *factor = TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality: false };
}

fn name_column(alias: &mut Option<TableAlias>, function: &str) {
    let alias =
        alias.get_or_insert_with(|| TableAlias { explicit: true, name: Ident::new(function), columns: Vec::new(), at: None });
    if alias.columns.is_empty() {
        alias.columns.push(TableAliasColumnDef { name: alias.name.clone(), data_type: None });
    }
}

/// In a select over a relation that never has rows, items that hold a subquery are never computed: they become NULL, so that
/// shapes which only such relations need do not have to be planned.
pub(super) fn simplify_empty(select: &mut Select) {
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty()) && select.having.is_none();
    if !ungrouped || !select.from.iter().any(is_empty) {
        return;
    }
    let items = || select.projection.iter().filter_map(item_expr);
    if items().any(is_aggregate) {
        return;
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
            && (has_subquery(expr) || any_part(expr, is_array_literal))
        {
            *expr = null_text();
        }
    }
}

fn item_expr(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => Some(expr),
        _ => None,
    }
}

/// Whether nothing can come out of these joins because one of their sides is empty.
fn is_empty(tables: &TableWithJoins) -> bool {
    let inner = tables
        .joins
        .iter()
        .filter(|join| matches!(join.join_operator, JoinOperator::Join(_) | JoinOperator::Inner(_) | JoinOperator::CrossJoin(_)));
    let outer_joined = tables.joins.iter().any(|join| {
        matches!(join.join_operator, JoinOperator::Right(_) | JoinOperator::RightOuter(_) | JoinOperator::FullOuter(_))
    });
    !outer_joined && (is_empty_relation(&tables.relation) || inner.map(|join| &join.relation).any(is_empty_relation))
}

fn is_empty_relation(factor: &TableFactor) -> bool {
    match factor {
        TableFactor::Table { name, args: None, .. } => {
            let in_catalog = name.0.len() == 2;
            in_catalog && builtin_name(name).is_some_and(|name| EMPTY_RELATIONS.contains(&name.as_str()))
        }
        _ => false,
    }
}

/// An array written as text, such as `'{0}'`.
fn is_array_literal(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(&value.value, Value::SingleQuotedString(text) if text.starts_with('{')),
        _ => false,
    }
}

/// `c.tableoid` of a relation in [`OBJECT_CLASSES`] is that relation's number in every row.
pub(super) fn number_object_classes(select: &mut Select) {
    let mut classes = HashMap::new();
    for tables in &select.from {
        let factors = std::iter::once(&tables.relation).chain(tables.joins.iter().map(|join| &join.relation));
        for factor in factors {
            let TableFactor::Table { name, alias, args: None, .. } = factor else { continue };
            let Some(name) = builtin_name(name) else { continue };
            if let Some((_, class)) = OBJECT_CLASSES.iter().find(|(known, _)| *known == name) {
                classes.insert(alias.as_ref().map_or(name, |alias| fold(&alias.name)), *class);
            }
        }
    }
    if classes.is_empty() {
        return;
    }
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && let Some(class) = class_of(expr, &classes)
        {
            *item = SelectItem::ExprWithAlias { expr: number(class), alias: Ident::new("tableoid") };
        }
    }
    let _ = select.visit(&mut Classes(classes));
}

fn class_of(expr: &Expr, classes: &HashMap<String, u32>) -> Option<u32> {
    match expr {
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [relation, column] if fold(column) == "tableoid" => classes.get(&fold(relation)).copied(),
            _ => None,
        },
        _ => None,
    }
}

struct Classes(HashMap<String, u32>);

impl VisitorMut for Classes {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Some(class) = class_of(expr, &self.0) {
            *expr = number(class);
        }
        ControlFlow::Continue(())
    }
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`.
pub(super) fn limit_for_fetch(query: &mut Query) -> Result<()> {
    let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else {
        return Ok(());
    };
    if with_ties || percent {
        return Err(Error::unsupported(if with_ties { "FETCH FIRST … WITH TIES" } else { "FETCH FIRST … PERCENT" }));
    }
    let rows = quantity.unwrap_or_else(|| number(1));
    query.limit_clause = Some(match query.limit_clause.take() {
        None => LimitClause::LimitOffset { limit: Some(rows), offset: None, limit_by: Vec::new() },
        Some(LimitClause::LimitOffset { limit: None, offset, limit_by }) => {
            LimitClause::LimitOffset { limit: Some(rows), offset, limit_by }
        }
        Some(_) => return Err(Error::unsupported("LIMIT beside FETCH FIRST")),
    });
    Ok(())
}

/// `WITH RECURSIVE t(a, b) AS (…)`: the names go to the first arm, where DataFusion looks for them.
pub(super) fn name_recursive_columns(query: &mut Query) {
    let Some(with) = query.with.as_mut().filter(|with| with.recursive) else {
        return;
    };
    for cte in &mut with.cte_tables {
        let names: Vec<Ident> = cte.alias.columns.iter().map(|column| column.name.clone()).collect();
        let Some(first) = first_arm(&mut cte.query.body) else {
            continue;
        };
        if names.is_empty() || names.len() != first.projection.len() {
            continue;
        }
        for (item, name) in first.projection.iter_mut().zip(names) {
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
                    let expr = std::mem::replace(expr, super::expressions::placeholder());
                    let alias = Ident::with_quote('"', fold(&name));
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
                _ => {}
            }
        }
        cte.alias.columns.clear();
    }
}

fn first_arm(body: &mut SetExpr) -> Option<&mut Select> {
    match body {
        SetExpr::Select(select) => Some(select),
        SetExpr::Query(query) => first_arm(&mut query.body),
        SetExpr::SetOperation { left, .. } => first_arm(left),
        _ => None,
    }
}

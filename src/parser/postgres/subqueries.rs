//! `ARRAY(subquery)` and scalar subqueries, in the shapes that DataFusion takes apart.
//!
//! DataFusion wants a correlated scalar subquery to be an aggregate, and its correlated conditions to be equalities. So the
//! value becomes an aggregate that keeps every row's value, conditions on the outer row alone go in front of the subquery, and
//! in other conditions an outer column gives way to the inner one it equals.

use std::collections::{BTreeSet, HashMap};
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, Function, FunctionArg, FunctionArgExpr, GroupByExpr, Ident, LambdaFunction,
    LambdaFunctionParameter, LambdaSyntax, LimitClause, OneOrManyWithParens, OrderBy, OrderByExpr, OrderByKind, Query, Select,
    SelectItem, SetExpr, TableAlias, TableAliasColumnDef, TableFactor, Value, VisitMut, VisitorMut,
};

use super::build::{any_part, builtin_name, call, call_ordered, fold, has_subquery, is_aggregate, number, text};
use super::expressions::placeholder;

/// A scalar subquery of one plain column as an aggregate; `None` where it is one already, or must stay as it is.
///
/// `__single` gives the only value of an array, and fails as PostgreSQL does (`21000`) where there are several.
pub(super) fn scalar(query: &mut Query) -> Option<Expr> {
    let limit = row_limit(query)?;
    let order = order_of(query)?;
    let select = plain_select(query)?;
    let value = item_value(select)?.clone();
    if select.from.is_empty() || is_aggregate(&value) {
        return None;
    }
    let order = resolved(order, &value);
    let aggregate = match limit {
        RowLimit::None => call("__single", vec![call("array_agg", vec![value])]),
        RowLimit::One => call_ordered("first_value", vec![value], order),
    };
    set_value(select, aggregate);
    let condition = split_conditions(select);
    query.order_by = None;
    query.limit_clause = None;
    let subquery = Expr::Subquery(Box::new(query.clone()));
    Some(when(condition, subquery))
}

/// `ARRAY(subquery)` as an expression: an array of the rows' values, in their order; `{}` where there are none.
pub(super) fn array(query: &mut Query) -> Expr {
    let aggregated = match each_element(query) {
        Some(array) => array,
        None => aggregated(query),
    };
    call("__array", vec![aggregated])
}

fn aggregated(query: &mut Query) -> Expr {
    let order = order_of(query);
    let has_limit = query.limit_clause.is_some();
    if let Some(order) = order
        && !has_limit
        && let Some(select) = plain_select(query)
        && let Some(value) = item_value(select).cloned()
        && !is_aggregate(&value)
    {
        let order = resolved(order, &value);
        set_value(select, call_ordered("array_agg", vec![value], order));
        let condition = split_conditions(select);
        query.order_by = None;
        return when(condition, Expr::Subquery(Box::new(query.clone())));
    }
    Expr::Subquery(Box::new(aggregate_over(query)))
}

/// `SELECT array_agg(value) FROM (query) AS rows(value)`
fn aggregate_over(query: &Query) -> Query {
    let column = Ident::with_quote('"', "value");
    let alias = TableAlias {
        explicit: true,
        name: Ident::with_quote('"', "rows"),
        columns: vec![TableAliasColumnDef { name: column.clone(), data_type: None }],
        at: None,
    };
    let rows = TableFactor::Derived { lateral: false, subquery: Box::new(query.clone()), alias: Some(alias), sample: None };
    let mut outer = query.clone();
    outer.with = None;
    outer.order_by = None;
    outer.limit_clause = None;
    let select = Select {
        projection: vec![SelectItem::UnnamedExpr(call("array_agg", vec![Expr::Identifier(column)]))],
        from: vec![sqlparser::ast::TableWithJoins { relation: rows, joins: Vec::new() }],
        ..empty_select()
    };
    outer.body = Box::new(SetExpr::Select(Box::new(select)));
    outer
}

fn empty_select() -> Select {
    Select {
        select_token: sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
        optimizer_hints: Vec::new(),
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection: Vec::new(),
        exclude: None,
        into: None,
        from: Vec::new(),
        lateral_views: Vec::new(),
        prewhere: None,
        selection: None,
        connect_by: Vec::new(),
        group_by: GroupByExpr::Expressions(Vec::new(), Vec::new()),
        cluster_by: Vec::new(),
        distribute_by: Vec::new(),
        sort_by: Vec::new(),
        having: None,
        named_window: Vec::new(),
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: sqlparser::ast::SelectFlavor::Standard,
    }
}

/// `SELECT f(x) FROM unnest(a) x` as `array_transform(a, x -> f(x))`, which needs no subquery and so may name outer columns.
fn each_element(query: &mut Query) -> Option<Expr> {
    if query.order_by.is_some() || query.limit_clause.is_some() {
        return None;
    }
    let select = plain_select(query)?;
    if select.selection.is_some() {
        return None;
    }
    let [tables] = select.from.as_slice() else {
        return None;
    };
    if !tables.joins.is_empty() {
        return None;
    }
    let mut value = item_value(select)?.clone();
    match &tables.relation {
        TableFactor::UNNEST { alias: Some(alias), array_exprs, .. } => {
            let [array] = array_exprs.as_slice() else { return None };
            let column = alias.columns.first().map_or(&alias.name, |column| &column.name);
            Some(transform(array.clone(), column.clone(), value))
        }
        TableFactor::Table { name, args: Some(arguments), .. } if builtin_name(name)? == "pg_options_to_table" => {
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(options))] = arguments.args.as_slice() else { return None };
            let option = Ident::new("__option");
            let parts = [("option_name", 1), ("option_value", 2)];
            let parts = parts.map(|(name, part)| {
                (name.to_owned(), call("split_part", vec![Expr::Identifier(option.clone()), text("="), number(part)]))
            });
            let _ = value.visit(&mut Replace { with: parts.into() });
            Some(transform(options.clone(), option, value))
        }
        _ => None,
    }
}

fn transform(array: Expr, element: Ident, body: Expr) -> Expr {
    let parameter = LambdaFunctionParameter { name: element, data_type: None };
    let lambda =
        LambdaFunction { params: OneOrManyWithParens::One(parameter), body: Box::new(body), syntax: LambdaSyntax::Arrow };
    call("array_transform", vec![array, Expr::Lambda(lambda)])
}

/// How many rows a scalar subquery asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RowLimit {
    None,
    One,
}

/// The limit of a query; nothing where it is neither absent nor `LIMIT 1`.
fn row_limit(query: &Query) -> Option<RowLimit> {
    match &query.limit_clause {
        None => Some(RowLimit::None),
        Some(LimitClause::LimitOffset { limit: Some(Expr::Value(value)), offset: None, limit_by }) if limit_by.is_empty() => {
            match &value.value {
                Value::Number(number, _) if number == "1" => Some(RowLimit::One),
                _ => None,
            }
        }
        Some(_) => None,
    }
}

fn order_of(query: &Query) -> Option<Vec<OrderByExpr>> {
    match &query.order_by {
        None => Some(Vec::new()),
        Some(OrderBy { kind: OrderByKind::Expressions(order), interpolate: None }) => Some(order.clone()),
        Some(_) => None,
    }
}

/// `ORDER BY 1` is by the one column.
fn resolved(mut order: Vec<OrderByExpr>, value: &Expr) -> Vec<OrderByExpr> {
    for by in &mut order {
        if matches!(&by.expr, Expr::Value(place) if matches!(&place.value, Value::Number(..))) {
            by.expr = value.clone();
        }
    }
    order
}

/// The select of a query that neither groups nor counts distinct rows.
fn plain_select(query: &mut Query) -> Option<&mut Select> {
    if query.with.is_some() || query.fetch.is_some() {
        return None;
    }
    let SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let ungrouped = matches!(&select.group_by, GroupByExpr::Expressions(keys, _) if keys.is_empty());
    let is_plain = ungrouped && select.distinct.is_none() && select.having.is_none() && select.qualify.is_none();
    is_plain.then_some(select)
}

fn item_value(select: &Select) -> Option<&Expr> {
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] => {
            let has_window = any_part(expr, |part| matches!(part, Expr::Function(Function { over: Some(_), .. })));
            (!has_window).then_some(expr)
        }
        _ => None,
    }
}

/// Puts `value` in the place of the one item, under the item's name.
fn set_value(select: &mut Select, value: Expr) {
    if let Some(item) = select.projection.first_mut() {
        *item = match std::mem::replace(item, SelectItem::UnnamedExpr(placeholder())) {
            SelectItem::ExprWithAlias { alias, .. } => SelectItem::ExprWithAlias { expr: value, alias },
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => SelectItem::ExprWithAlias { expr: value, alias: name },
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(mut parts)) => match parts.pop() {
                Some(alias) => SelectItem::ExprWithAlias { expr: value, alias },
                None => SelectItem::UnnamedExpr(value),
            },
            _ => SelectItem::UnnamedExpr(value),
        };
    }
}

/// `CASE WHEN condition THEN value END`
fn when(condition: Option<Expr>, value: Expr) -> Expr {
    match condition {
        None => value,
        Some(condition) => Expr::Case {
            case_token: sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
            end_token: sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
            operand: None,
            conditions: vec![CaseWhen { condition, result: value }],
            else_result: None,
        },
    }
}

/// Where a condition's columns stand. Only qualified names tell, so a condition with a bare one stays where it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inner,
    Outer,
    Both,
    Unknown,
}

/// Takes the conditions on the outer row alone out of `select` and gives them; makes those that compare the outer row with
/// the inner other than by `=` into conditions on the inner row, where an equality allows it.
fn split_conditions(select: &mut Select) -> Option<Expr> {
    let condition = select.selection.take()?;
    let inner: BTreeSet<String> = select.from.iter().flat_map(relation_names).collect();
    let mut conditions = Vec::new();
    flatten(condition, &mut conditions);
    let equal: HashMap<String, Expr> = conditions.iter().filter_map(|condition| outer_equality(condition, &inner)).collect();
    let mut kept = Vec::new();
    let mut outer = Vec::new();
    for mut condition in conditions {
        match side(&condition, &inner) {
            Side::Outer => outer.push(condition),
            Side::Both if outer_equality(&condition, &inner).is_none() => {
                let _ = condition.visit(&mut Replace { with: equal.clone() });
                kept.push(condition);
            }
            Side::Both | Side::Inner | Side::Unknown => kept.push(condition),
        }
    }
    select.selection = kept.into_iter().reduce(and);
    outer.into_iter().reduce(and)
}

fn and(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

fn flatten(condition: Expr, conditions: &mut Vec<Expr>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            flatten(*left, conditions);
            flatten(*right, conditions);
        }
        Expr::Nested(inner) => match *inner {
            conjunction @ Expr::BinaryOp { op: BinaryOperator::And, .. } => flatten(conjunction, conditions),
            other => conditions.push(Expr::Nested(Box::new(other))),
        },
        other => conditions.push(other),
    }
}

fn relation_names(tables: &sqlparser::ast::TableWithJoins) -> Vec<String> {
    let factors = std::iter::once(&tables.relation).chain(tables.joins.iter().map(|join| &join.relation));
    factors.filter_map(factor_name).collect()
}

fn factor_name(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. } => Some(fold(&alias.name)),
        TableFactor::Table { name, .. } => name.0.last().and_then(|part| part.as_ident()).map(fold),
        _ => None,
    }
}

fn side(condition: &Expr, inner: &BTreeSet<String>) -> Side {
    if has_subquery(condition) {
        return Side::Unknown;
    }
    let mut side: Option<Side> = None;
    any_part(condition, |part| {
        let found = match part {
            Expr::Identifier(_) => Side::Unknown,
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [qualifier, _] if inner.contains(&fold(qualifier)) => Side::Inner,
                [_, _] => Side::Outer,
                _ => Side::Unknown,
            },
            _ => return false,
        };
        side = Some(match side {
            None => found,
            Some(known) if known == found => found,
            Some(Side::Unknown) => Side::Unknown,
            Some(_) if found == Side::Unknown => Side::Unknown,
            Some(_) => Side::Both,
        });
        false
    });
    side.unwrap_or(Side::Inner)
}

/// The outer column of `outer = inner`, and the inner column.
fn outer_equality(condition: &Expr, inner: &BTreeSet<String>) -> Option<(String, Expr)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else {
        return None;
    };
    let (Expr::CompoundIdentifier(_), Expr::CompoundIdentifier(_)) = (left.as_ref(), right.as_ref()) else {
        return None;
    };
    match (side(left, inner), side(right, inner)) {
        (Side::Outer, Side::Inner) => Some((left.to_string(), right.as_ref().clone())),
        (Side::Inner, Side::Outer) => Some((right.to_string(), left.as_ref().clone())),
        _ => None,
    }
}

/// Puts expressions in the place of columns.
struct Replace {
    with: HashMap<String, Expr>,
}

impl VisitorMut for Replace {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
            && let Some(with) = self.with.get(&expr.to_string())
        {
            *expr = with.clone();
        }
        ControlFlow::Continue(())
    }
}

//! `SELECT set_config(name, value, is_local)`: a query that sets settings.
//!
//! Taken apart here where it is nothing but columns, some of which are such calls: PostgreSQL computes the columns from left to
//! right, so that those behind a call see what it set, and those before it do not. Anywhere else the call is one of a function
//! that can only say what holds.

use sqlparser::ast::{
    self, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, ObjectNamePart,
    SelectItem, SetExpr,
};

use super::cursor::ident_name;
use super::translate::select_values;
use super::{Query, Statement};

/// A query of one row that sets settings.
#[derive(Clone, Debug, PartialEq)]
pub struct SetConfig {
    /// The whole of it, for the types of its parameters and columns.
    pub query: Query,
    /// Its columns in order, in parts that are computed one after another.
    pub parts: Vec<SetConfigPart>,
}

/// Neighbouring columns of a [`SetConfig`].
#[derive(Clone, Debug, PartialEq)]
pub enum SetConfigPart {
    /// A call, the value of one column: a query for its name, its value and whether it is for the block alone.
    Call(Query),
    /// Columns that set nothing.
    Columns(Query),
}

/// The query as a statement: one that sets settings, if it is.
pub(super) fn statement(query: Query) -> Statement {
    match set_config(&query) {
        Some(found) => Statement::SetConfig(found),
        None => Statement::Query(query),
    }
}

fn set_config(query: &Query) -> Option<SetConfig> {
    let SetExpr::Select(select) = query.body.body.as_ref() else { return None };
    let is_candidate = select.from.is_empty() && query.clauses.is_empty() && query.joins.is_empty();
    if !is_candidate || !select.projection.iter().any(|item| called(item).is_some()) {
        return None;
    }
    if *query.body != select_values(select.projection.clone()) {
        return None;
    }
    let mut parts = Vec::new();
    let mut others = Vec::new();
    for item in &select.projection {
        let Some(function) = called(item) else {
            others.push(item.clone());
            continue;
        };
        if !others.is_empty() {
            parts.push(SetConfigPart::Columns(query_of(std::mem::take(&mut others))));
        }
        parts.push(SetConfigPart::Call(query_of(typed_arguments(function)?.map(SelectItem::UnnamedExpr).to_vec())));
    }
    if !others.is_empty() {
        parts.push(SetConfigPart::Columns(query_of(others)));
    }
    let projection = select.projection.iter().map(typed).collect::<Option<_>>()?;
    Some(SetConfig { query: query_of(projection), parts })
}

fn query_of(projection: Vec<SelectItem>) -> Query {
    Query { body: Box::new(select_values(projection)), clauses: Vec::new(), joins: Vec::new() }
}

/// The call of `set_config` that a column is.
fn called(item: &SelectItem) -> Option<&Function> {
    let (SelectItem::UnnamedExpr(Expr::Function(function)) | SelectItem::ExprWithAlias { expr: Expr::Function(function), .. }) =
        item
    else {
        return None;
    };
    let Function { name, uses_odbc_syntax, parameters, args: _, filter, null_treatment, over, within_group } = function;
    let is_plain = !uses_odbc_syntax
        && *parameters == FunctionArguments::None
        && filter.is_none()
        && null_treatment.is_none()
        && over.is_none()
        && within_group.is_empty();
    (is_plain && is_set_config(name) && typed_arguments(function).is_some()).then_some(function)
}

fn is_set_config(ObjectName(parts): &ObjectName) -> bool {
    let name = |part: &ObjectNamePart| part.as_ident().map(ident_name);
    match parts.as_slice() {
        [function] => name(function).as_deref() == Some("set_config"),
        [schema, function] => name(schema).as_deref() == Some("pg_catalog") && name(function).as_deref() == Some("set_config"),
        _ => false,
    }
}

/// The three arguments, each of the type that the function takes.
fn typed_arguments(function: &Function) -> Option<[Expr; 3]> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let value = |argument: &FunctionArg| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(value)) => Some(value.clone()),
        _ => None,
    };
    let [name, setting, is_local] = list.args.as_slice() else { return None };
    if list.duplicate_treatment.is_some() || !list.clauses.is_empty() {
        return None;
    }
    let text = |argument| value(argument).map(|value| cast(value, DataType::Text));
    Some([text(name)?, text(setting)?, cast(value(is_local)?, DataType::Boolean)])
}

/// A column with the types of the function's arguments, so that parameters among them have these.
fn typed(item: &SelectItem) -> Option<SelectItem> {
    let Some(function) = called(item) else { return Some(item.clone()) };
    let arguments = typed_arguments(function)?;
    let mut function = function.clone();
    if let FunctionArguments::List(list) = &mut function.args {
        list.args = arguments.map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).to_vec();
    }
    let alias = match item {
        SelectItem::ExprWithAlias { alias, .. } => alias.clone(),
        _ => Ident::new("set_config"),
    };
    Some(SelectItem::ExprWithAlias { expr: Expr::Function(function), alias })
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: ast::CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

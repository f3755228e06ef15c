//! The rows of an `INSERT`, as the tree has them: what takes its type from the column it is assigned to, and `DEFAULT`.

use std::borrow::Cow;

use sqlparser::ast::{Expr, Function, FunctionArgumentList, FunctionArguments, Ident, ObjectName, SelectItem, SetExpr, Value};

use super::Query;

/// The most parameters of a statement, as the protocol counts them.
const PARAMETERS_MAX: usize = 65_535;

/// The parameters that stand alone where a column's value stands, as pairs of number (from 1) and column (from 0).
pub fn assigned_parameters(query: &Query) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut note = |expr: &Expr, column: usize| {
        let Expr::Value(value) = expr else { return };
        let Value::Placeholder(name) = &value.value else { return };
        let number = name.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        found.extend(number.filter(|number| (1..=PARAMETERS_MAX).contains(number)).map(|number| (number, column)));
    };
    match query.body.body.as_ref() {
        SetExpr::Values(values) => {
            values.rows.iter().for_each(|row| row.content.iter().enumerate().for_each(|(column, expr)| note(expr, column)));
        }
        SetExpr::Select(select) => select.projection.iter().enumerate().for_each(|(column, item)| match item {
            SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => note(expr, column),
            _ => {}
        }),
        _ => {}
    }
    found
}

/// Whether PostgreSQL takes the type of the query's `column` from where it is assigned: text literals, parameters and NULLs
/// have none of their own. In `VALUES`, expressions with a type of their own may stand beside them.
pub fn takes_type_of_column(query: &Query, column: usize) -> bool {
    untyped(query.body.body.as_ref(), column)
}

fn untyped(body: &SetExpr, column: usize) -> bool {
    match body {
        SetExpr::Values(values) => values
            .rows
            .iter()
            .all(|row| row.content.get(column).is_some_and(|expr| is_untyped(expr) || !matches!(expr, Expr::Value(_)))),
        SetExpr::Select(select) => match select.projection.get(column) {
            Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => is_untyped(expr),
            _ => false,
        },
        SetExpr::Query(query) => untyped(&query.body, column),
        _ => false,
    }
}

fn is_untyped(expr: &Expr) -> bool {
    match expr {
        Expr::Value(value) => matches!(
            value.value,
            Value::SingleQuotedString(_) | Value::EscapedStringLiteral(_) | Value::Null | Value::Placeholder(_)
        ),
        Expr::Array(_) => true,
        _ => false,
    }
}

/// The query with each `DEFAULT` of its `VALUES` replaced: by `now()` in the column of the event time, by NULL in any other.
pub fn with_defaults(query: &Query, event_time: Option<usize>) -> Cow<'_, Query> {
    let SetExpr::Values(values) = query.body.body.as_ref() else { return Cow::Borrowed(query) };
    if !values.rows.iter().any(|row| row.content.iter().any(is_default)) {
        return Cow::Borrowed(query);
    }
    let mut query = query.clone();
    if let SetExpr::Values(values) = query.body.body.as_mut() {
        for row in &mut values.rows {
            for (column, expr) in row.content.iter_mut().enumerate().filter(|(_, expr)| is_default(expr)) {
                *expr = if event_time == Some(column) { call("now") } else { Expr::Value(Value::Null.with_empty_span()) };
            }
        }
    }
    Cow::Owned(query)
}

fn is_default(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// A call of a function without arguments.
fn call(name: &str) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args: Vec::new(), clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

//! Small pieces of tree.

use std::ops::ControlFlow;

use sqlparser::ast::{
    CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, OrderByExpr, Query, Value, Visit, Visitor,
};

/// `name(arguments)`
pub(super) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    call_ordered(name, arguments, Vec::new())
}

/// `name(arguments ORDER BY order)`
pub(super) fn call_ordered(name: &str, arguments: Vec<Expr>, order: Vec<OrderByExpr>) -> Expr {
    let args = arguments.into_iter().map(|argument| FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))).collect();
    let clauses = if order.is_empty() { Vec::new() } else { vec![FunctionArgumentClause::OrderBy(order)] };
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// `CAST(expr AS data_type)`
pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::Cast, expr: Box::new(expr), data_type, array: false, format: None }
}

/// The text `text`.
pub(super) fn text(text: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(text.to_owned()).with_empty_span())
}

/// The number `number`.
pub(super) fn number(number: u32) -> Expr {
    Expr::Value(Value::Number(number.to_string(), false).with_empty_span())
}

/// A NULL of type text.
pub(super) fn null_text() -> Expr {
    cast(Expr::Value(Value::Null.with_empty_span()), DataType::Text)
}

/// The one part of a name that has only one, or its last part under `pg_catalog`; folded where unquoted.
pub(super) fn builtin_name(name: &ObjectName) -> Option<String> {
    let parts: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    match parts?.as_slice() {
        [name] => Some(fold(name)),
        [schema, name] if fold(schema) == "pg_catalog" => Some(fold(name)),
        _ => None,
    }
}

/// A name as PostgreSQL reads it.
pub(super) fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// The arguments of a call, if they are plain expressions and nothing else stands in the call.
pub(super) fn plain_arguments(function: &Function) -> Option<Vec<&Expr>> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    let is_plain = list.duplicate_treatment.is_none()
        && list.clauses.is_empty()
        && function.filter.is_none()
        && function.over.is_none()
        && function.within_group.is_empty();
    let arguments = list.args.iter().map(|argument| match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    });
    if is_plain { arguments.collect() } else { None }
}

/// Whether `wanted` holds for `expr` or a part of it that does not stand in a subquery.
pub(super) fn any_part(expr: &Expr, wanted: impl FnMut(&Expr) -> bool) -> bool {
    let mut search = Search { wanted, depth: 0 };
    expr.visit(&mut search).is_break()
}

/// Whether a subquery stands in `expr`.
pub(super) fn has_subquery(expr: &Expr) -> bool {
    struct AnyQuery;
    impl Visitor for AnyQuery {
        type Break = ();
        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
    }
    expr.visit(&mut AnyQuery).is_break()
}

struct Search<F> {
    wanted: F,
    depth: usize,
}

impl<F: FnMut(&Expr) -> bool> Visitor for Search<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.depth == 0 && (self.wanted)(expr) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// The functions that make one value of many rows.
const AGGREGATES: &[&str] = &[
    "any_value",
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "every",
    "first_value",
    "grouping",
    "json_agg",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_object_agg",
    "last_value",
    "max",
    "mean",
    "median",
    "min",
    "nth_value",
    "percentile_cont",
    "percentile_disc",
    "mode",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "stddev_samp",
    "string_agg",
    "sum",
    "var",
    "var_pop",
    "var_samp",
    "variance",
];

/// Whether `expr` makes one value of many rows (window functions do not).
pub(super) fn is_aggregate(expr: &Expr) -> bool {
    any_part(expr, |part| match part {
        Expr::Function(function) => {
            let known = builtin_name(&function.name).is_some_and(|name| AGGREGATES.contains(&name.as_str()));
            known && function.over.is_none()
        }
        _ => false,
    })
}

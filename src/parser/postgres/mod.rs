//! PostgreSQL's spellings, turned into those that DataFusion plans, on the tree.
//!
//! [`refuse_unsupported`] comes first: it names what DataFusion would drop without a word. [`rewrite`] then changes how things
//! are written, never what they mean: `OPERATOR(pg_catalog.~)`, `pg_catalog.f(…)`, casts to `regclass` and its like,
//! `ARRAY(subquery)`, scalar subqueries of one row that no aggregate promises, `FETCH FIRST`, `a ^ b`, `INTERVAL '…'`,
//! comparisons of rows, the names that PostgreSQL gives to columns without an alias.
//!
//! Functions whose names begin with `__` stand for what SQL has no function for; the catalog room gives them.

mod build;
mod expressions;
mod kinds;
mod names;
mod refuse;
mod relations;
mod row_values;
mod subqueries;

use std::ops::ControlFlow;

use sqlparser::ast::{Expr, NamedWindowExpr, Query, Select, TableFactor, VisitMut, VisitorMut};

use crate::error::{Error, Result};

pub use kinds::KINDS_WITHOUT_TYPES;
pub use names::display_name;
pub use refuse::refuse_unsupported;
pub use relations::{EMPTY_RELATIONS, OBJECT_CLASSES};

/// Turns PostgreSQL's spellings in `query` into those that DataFusion plans. Costs one walk over the tree.
///
/// Fails with `0A000` where a spelling is understood and cannot be had.
pub fn rewrite(query: &mut Query) -> Result<()> {
    match query.visit(&mut Rewriter) {
        ControlFlow::Break(error) => return Err(error),
        ControlFlow::Continue(()) => {}
    }
    expressions::show_numbers_as_names(&mut query.body);
    names::separate_from_wildcards(&mut query.body);
    Ok(())
}

/// One walk, inner parts first, so that each rewriting sees what the others left.
struct Rewriter;

impl VisitorMut for Rewriter {
    type Break = Error;

    /// Before its subqueries, of which some need no rewriting then.
    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        kinds::simplify_kinds(select);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        flow(row_values::rewrite(expr).and_then(|()| expressions::rewrite(expr)))
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        relations::rewrite_factor(factor);
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        relations::simplify_empty(select);
        relations::number_object_classes(select);
        for window in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(window) = &mut window.1 {
                expressions::restore_frame(window);
            }
        }
        names::name_items(select);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        relations::name_recursive_columns(query);
        flow(relations::limit_for_fetch(query))
    }
}

fn flow(result: Result<()>) -> ControlFlow<Error> {
    match result {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    }
}

#[cfg(test)]
mod tests;

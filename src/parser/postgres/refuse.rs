//! What sqlparser reads and DataFusion would drop without a word.

use std::ops::ControlFlow;

use sqlparser::ast::{Query, Select, TableFactor, Visit, Visitor};

use crate::error::{Error, Result};

/// Refuses by name the parts of a query that would otherwise be ignored: `FOR UPDATE`, `TABLESAMPLE`, `WITH ORDINALITY`, and
/// other dialects' clauses. `0A000`. Time clauses are the planner's to take or refuse.
pub fn refuse_unsupported(query: &Query) -> Result<()> {
    match query.visit(&mut Refuser) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Refuser;

impl Visitor for Refuser {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Error> {
        let Query {
            with: _,
            body: _,
            order_by: _,
            limit_clause: _,
            fetch: _,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        if let Some(lock) = locks.first() {
            let refused = Error::unsupported(format!("{lock}"));
            return ControlFlow::Break(refused.hint("Reads take no locks here: leave the clause out."));
        }
        refuse_first([
            (for_clause.is_some(), "FOR XML and FOR JSON"),
            (settings.is_some(), "SETTINGS"),
            (format_clause.is_some(), "FORMAT"),
            (!pipe_operators.is_empty(), "the pipe syntax"),
        ])
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Error> {
        refuse_first([
            (select.into.is_some(), "SELECT INTO"),
            (select.top.is_some(), "TOP"),
            (select.exclude.is_some(), "EXCLUDE"),
            (!select.lateral_views.is_empty(), "LATERAL VIEW"),
            (select.prewhere.is_some(), "PREWHERE"),
            (!select.connect_by.is_empty(), "CONNECT BY"),
            (!select.cluster_by.is_empty(), "CLUSTER BY"),
            (!select.distribute_by.is_empty(), "DISTRIBUTE BY"),
            (!select.sort_by.is_empty(), "SORT BY"),
            (select.select_modifiers.is_some(), "a modifier of SELECT"),
            (select.value_table_mode.is_some(), "SELECT AS VALUE"),
        ])
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Error> {
        match factor {
            TableFactor::Table {
                name: _,
                alias: _,
                args: _,
                with_hints,
                version: _,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => refuse_first([
                (sample.is_some(), "TABLESAMPLE"),
                (*with_ordinality, "WITH ORDINALITY"),
                (!with_hints.is_empty() || !index_hints.is_empty(), "a table hint"),
                (!partitions.is_empty(), "PARTITION"),
                (json_path.is_some(), "a path behind a table's name"),
            ]),
            TableFactor::Derived { lateral: _, subquery: _, alias: _, sample } => {
                refuse_first([(sample.is_some(), "TABLESAMPLE")])
            }
            TableFactor::Function { with_ordinality, .. } | TableFactor::UNNEST { with_ordinality, .. } => {
                refuse_first([(*with_ordinality, "WITH ORDINALITY")])
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn refuse_first<const N: usize>(clauses: [(bool, &str); N]) -> ControlFlow<Error> {
    match clauses.into_iter().find(|(stands, _)| *stands) {
        Some((_, clause)) => ControlFlow::Break(Error::unsupported(clause)),
        None => ControlFlow::Continue(()),
    }
}

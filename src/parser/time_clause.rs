//! The clauses that move a table's clock.

use sqlparser::ast;

/// The time clauses of one table, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeClause {
    /// `AS OF t`: the instant whose values are asked for.
    pub as_of: Option<ast::Expr>,
    /// `WITHIN interval`: a window tighter than the view's TTL.
    pub within: Option<ast::Expr>,
    /// `FOR SYSTEM_TIME AS OF t`: only what the store knew by then.
    pub system_time: Option<ast::Expr>,
    /// `VERSION AS OF v`: a dataset version or tag.
    pub version: Option<ast::Expr>,
    /// The position of its first word in the statement, in characters from 1.
    pub position: usize,
}

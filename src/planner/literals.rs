//! Text literals become values of the type they stand for, by PostgreSQL's rules and in the session's time zone.
//!
//! `DATE '2013-01-01'`, `'…'::timestamptz` and `event_time > '2013-01-01'` all end as a cast of a text literal once types are
//! coerced. Arrow's own parsers read other forms than PostgreSQL's and know no session; so those casts are done here.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::error::Result;
use crate::types::SqlType;
use crate::types::text::TextParser;

/// Reads text literals that are cast.
#[derive(Debug)]
pub(super) struct TextLiterals;

impl AnalyzerRule for TextLiterals {
    fn name(&self) -> &'static str {
        "text_literals"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DfResult<LogicalPlan> {
        let time_zone = config.execution.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let read = |node: LogicalPlan| {
            // The name of an output column does not change because its value is known.
            let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(literals(expr, &time_zone)?.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        };
        Ok(plan.transform_up_with_subqueries(read)?.data)
    }
}

/// `expr` with its casts of text literals done.
pub(super) fn literals(expr: Expr, time_zone: &str) -> DfResult<Transformed<Expr>> {
    expr.transform_up(|expr| match &expr {
        Expr::Cast(Cast { expr: inner, field }) => {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = inner.as_ref() else { return Ok(Transformed::no(expr)) };
            let Some(sql_type) = SqlType::of_field(field) else { return Ok(Transformed::no(expr)) };
            if matches!(sql_type, SqlType::Text | SqlType::Name | SqlType::Char | SqlType::Oid) {
                return Ok(Transformed::no(expr));
            }
            let value = read(text, &sql_type, field.data_type(), time_zone)
                .map_err(|error| DataFusionError::External(Box::new(error)))?;
            let metadata = (!field.metadata().is_empty()).then(|| FieldMetadata::from(field.metadata().clone()));
            Ok(Transformed::yes(Expr::Literal(value, metadata)))
        }
        _ => Ok(Transformed::no(expr)),
    })
}

/// The value that `text` stands for.
pub(super) fn read(text: &str, sql_type: &SqlType, data_type: &DataType, time_zone: &str) -> Result<ScalarValue> {
    let mut parser = TextParser::new(sql_type, time_zone)?;
    parser.append(Some(text))?;
    let value = ScalarValue::try_from_array(&parser.finish(), 0).map_err(super::errors::from_datafusion)?;
    value.cast_to(data_type).map_err(super::errors::from_datafusion)
}

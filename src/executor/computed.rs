//! Expressions over the rows of a lookup on the short road, computed as an operator of the planned road would.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result as DfResult;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::scalar::ScalarValue;

use super::batches::{as_type, batch_of};
use super::internal;
use crate::error::Result;
use crate::lookup::Compute;

/// Expressions over some columns and the parameters of a statement.
pub struct ComputedColumns {
    inputs: SchemaRef,
    expressions: Vec<Expression>,
}

/// An expression, and the type that its values are given in.
struct Expression {
    physical: Arc<dyn PhysicalExpr>,
    data_type: DataType,
    /// Whether it takes a parameter.
    is_open: bool,
}

impl ComputedColumns {
    /// Expressions over columns of `inputs`; those behind them are the parameters. Each is given in the type beside it.
    pub fn new(inputs: SchemaRef, expressions: Vec<(Arc<dyn PhysicalExpr>, DataType)>) -> Self {
        let width = inputs.fields().len();
        let expression = |(physical, data_type)| {
            let is_open =
                datafusion::physical_expr::utils::collect_columns(&physical).iter().any(|column| column.index() >= width);
            Expression { physical, data_type, is_open }
        };
        Self { expressions: expressions.into_iter().map(expression).collect(), inputs }
    }

    /// An expression with these values in the place of its parameters.
    fn closed(&self, expression: &Expression, parameters: &[ScalarValue]) -> DfResult<Arc<dyn PhysicalExpr>> {
        if !expression.is_open {
            return Ok(Arc::clone(&expression.physical));
        }
        let width = self.inputs.fields().len();
        let literal = |expr: Arc<dyn PhysicalExpr>| {
            let parameter = expr.downcast_ref::<Column>().and_then(|column| column.index().checked_sub(width));
            Ok(match parameter.and_then(|parameter| parameters.get(parameter)) {
                Some(value) => Transformed::yes(Arc::new(Literal::new(value.clone())) as Arc<dyn PhysicalExpr>),
                None => Transformed::no(expr),
            })
        };
        Arc::clone(&expression.physical).transform_up(literal).map(|closed| closed.data)
    }
}

impl fmt::Debug for ComputedColumns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.expressions.iter().map(|expression| expression.physical.to_string())).finish()
    }
}

impl Compute for ComputedColumns {
    fn columns(&self, inputs: Vec<ArrayRef>, rows: usize, parameters: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let batch: RecordBatch = batch_of(&self.inputs, inputs, rows)?;
        let values = parameters.iter().map(|parameter| ScalarValue::try_from_array(parameter, 0));
        let values = values.collect::<DfResult<Vec<_>>>().map_err(internal)?;
        let column = |expression: &Expression| {
            let computed = self.closed(expression, &values).and_then(|closed| closed.evaluate(&batch)?.into_array(rows));
            as_type(&computed.map_err(internal)?, &expression.data_type)
        };
        self.expressions.iter().map(column).collect()
    }
}

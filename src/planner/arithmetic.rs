//! Whole numbers that do not fit are an error: DataFusion's operators wrap around without a word, PostgreSQL's do not.
//!
//! `+`, `-`, `*`, `/` and unary minus on integers become functions of ours once types are coerced. They are immutable, so
//! constants are still worked out while planning and a key may be written `k = 1 + 1`.

use arrow::array::{ArrayRef, Datum};
use arrow::compute::kernels::numeric::{add, div, mul, neg, sub};
use arrow::datatypes::{DataType, FieldRef};
use arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr_common::datum::apply;

use super::casts::rewrite;
use crate::error::{Error, SqlState};

/// Makes the arithmetic of integers ours.
#[derive(Debug)]
pub(super) struct CheckedIntegers;

impl AnalyzerRule for CheckedIntegers {
    fn name(&self) -> &'static str {
        "checked_integers"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        rewrite(plan, &|expr, schema| Ok(checked(expr, schema)))
    }
}

fn checked(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let integer = |expr: &Expr| expr.get_type(schema).ok().filter(|data_type| name_of(data_type).is_some());
    let call = |operation, arguments: Vec<Expr>| {
        let signature = Signature::any(arguments.len(), Volatility::Immutable);
        let function = ScalarUDF::from(Checked { operation, signature });
        Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function.into(), arguments)))
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let operation =
                Operation::of(op).filter(|_| integer(&left).is_some_and(|data_type| integer(&right) == Some(data_type)));
            match operation {
                Some(operation) => call(operation, vec![*left, *right]),
                None => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        Expr::Negative(inner) if integer(&inner).is_some() => call(Operation::Negate, vec![*inner]),
        other => Transformed::no(other),
    }
}

/// PostgreSQL's name of an integer type.
fn name_of(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Int16 => Some("smallint"),
        DataType::Int32 => Some("integer"),
        DataType::Int64 => Some("bigint"),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Negate,
}

impl Operation {
    fn of(operator: Operator) -> Option<Self> {
        match operator {
            Operator::Plus => Some(Self::Add),
            Operator::Minus => Some(Self::Subtract),
            Operator::Multiply => Some(Self::Multiply),
            Operator::Divide => Some(Self::Divide),
            _ => None,
        }
    }
}

/// The function that an operator becomes: one argument to negate, two for the others, all of one integer type.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Checked {
    operation: Operation,
    signature: Signature,
}

impl Checked {
    fn compute(&self, arguments: &[ColumnarValue]) -> DfResult<ColumnarValue> {
        let kernel: fn(&dyn Datum, &dyn Datum) -> Result<ArrayRef, ArrowError> = match (self.operation, arguments) {
            (Operation::Negate, [ColumnarValue::Array(values)]) => return Ok(ColumnarValue::Array(neg(values)?)),
            (Operation::Negate, [ColumnarValue::Scalar(value)]) => {
                let negated = neg(&value.to_array()?)?;
                return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&negated, 0)?));
            }
            (Operation::Add, _) => add,
            (Operation::Subtract, _) => sub,
            (Operation::Multiply, _) => mul,
            (Operation::Divide, _) => div,
            (Operation::Negate, _) => return Err(DataFusionError::Internal("one value is negated".into())),
        };
        let [left, right] = arguments else {
            return Err(DataFusionError::Internal("an operator has two sides".into()));
        };
        apply(left, right, kernel)
    }
}

impl ScalarUDFImpl for Checked {
    fn name(&self) -> &'static str {
        match self.operation {
            Operation::Add => "checked_add",
            Operation::Subtract => "checked_subtract",
            Operation::Multiply => "checked_multiply",
            Operation::Divide => "checked_divide",
            Operation::Negate => "checked_negate",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> DfResult<DataType> {
        arguments.first().cloned().ok_or_else(|| DataFusionError::Internal("an operator has a side".into()))
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> DfResult<FieldRef> {
        let data_type = arguments.arg_fields.first().map_or(DataType::Null, |field| field.data_type().clone());
        let nullable = arguments.arg_fields.iter().any(|field| field.is_nullable());
        Ok(arrow::datatypes::Field::new(self.name(), data_type, nullable).into())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        self.compute(&arguments.args).map_err(|error| match &error {
            DataFusionError::ArrowError(arrow, _) if matches!(arrow.as_ref(), ArrowError::ArithmeticOverflow(_)) => {
                let name = arguments.args.first().and_then(|value| name_of(&value.data_type())).unwrap_or("value");
                let error = Error::new(SqlState::NumericValueOutOfRange, format!("{name} out of range"));
                DataFusionError::External(Box::new(error))
            }
            _ => error,
        })
    }
}

//! `now()` in microseconds: the one instant of the statement.

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};

use crate::types::SqlType;

/// `now()`, `current_timestamp`, `transaction_timestamp()`, `statement_timestamp()`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Now {
    signature: Signature,
    aliases: Vec<String>,
}

impl Now {
    pub(super) fn new() -> Self {
        let aliases = ["current_timestamp", "transaction_timestamp", "statement_timestamp"];
        Self { signature: Signature::nullary(Volatility::Stable), aliases: aliases.map(str::to_owned).to_vec() }
    }
}

impl ScalarUDFImpl for Now {
    fn name(&self) -> &'static str {
        "now"
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(SqlType::TimestampTz.arrow())
    }

    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> DfResult<ExprSimplifyResult> {
        let Some(now) = context.query_execution_start_time() else { return Ok(ExprSimplifyResult::Original(arguments)) };
        let value = ScalarValue::TimestampMicrosecond(Some(now.timestamp_micros()), Some("UTC".into()));
        Ok(ExprSimplifyResult::Simplified(Expr::Literal(value, None)))
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        Err(DataFusionError::Internal("now() is a literal before it is run".into()))
    }
}

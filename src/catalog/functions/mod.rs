//! The functions that PostgreSQL keeps in `pg_catalog` and that answer from the session or the registry.
//!
//! Each is a row of a table ([`Definition`]) with a plain function over plain values: they are called on catalogs of a few
//! thousand rows at most.

mod lists;
mod objects;
mod session;
mod text;
mod to_char;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;

use super::Scope;
use super::value::{Value, array_of, no_function};
use crate::error::{Error, Result};
use crate::types::SqlType;

/// A function.
pub(super) struct Definition {
    /// Its name, without schema.
    name: &'static str,
    /// How many arguments it takes.
    arity: RangeInclusive<usize>,
    /// The type it gives.
    returns: fn() -> SqlType,
    /// What it does with NULL.
    nulls: Nulls,
    /// What it does.
    eval: fn(&Scope, &[Value]) -> Result<Value>,
}

/// What a function does with a NULL among its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nulls {
    /// It gives NULL.
    Strict,
    /// It looks at it.
    Seen,
}

/// The functions of one statement.
pub(super) fn all(scope: &Arc<Scope>) -> Vec<Arc<ScalarUDF>> {
    let definitions = session::FUNCTIONS.iter().chain(objects::FUNCTIONS).chain(text::FUNCTIONS);
    let functions = definitions.map(|definition| {
        let function = Function { definition, signature: Signature::user_defined(Volatility::Stable), scope: Arc::clone(scope) };
        Arc::new(ScalarUDF::new_from_impl(function))
    });
    let to_char = to_char::to_char(&scope.context.time_zone);
    functions.chain(lists::all()).chain(std::iter::once(to_char)).collect()
}

/// A function, bound to what it answers from.
struct Function {
    definition: &'static Definition,
    signature: Signature,
    scope: Arc<Scope>,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Function").field(&self.definition.name).finish()
    }
}

impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name && Arc::ptr_eq(&self.scope, &other.scope)
    }
}

impl Eq for Function {}

impl Hash for Function {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
    }
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok((self.definition.returns)().arrow())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs<'_>) -> Result<FieldRef, DataFusionError> {
        Ok((self.definition.returns)().field_ref(self.definition.name, true))
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        if self.definition.arity.contains(&arguments.len()) {
            Ok(arguments.to_vec())
        } else {
            Err(external(no_function(self.definition.name, arguments)))
        }
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        self.invoke(&arguments).map_err(external)
    }
}

impl Function {
    fn invoke(&self, arguments: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let data_type = (self.definition.returns)().arrow();
        let all_scalars = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
        let rows = if all_scalars { 1 } else { arguments.number_rows };
        let mut results = Vec::with_capacity(rows);
        for row in 0..rows {
            let values = arguments.args.iter().map(|argument| value_at(argument, row)).collect::<Result<Vec<_>>>()?;
            results.push(if self.definition.nulls == Nulls::Strict && values.contains(&Value::Null) {
                Value::Null
            } else {
                (self.definition.eval)(&self.scope, &values)?
            });
        }
        let array = array_of(&data_type, &results)?;
        if !all_scalars {
            return Ok(ColumnarValue::Array(array));
        }
        // An array keeps what its elements' field says, which a scalar taken from it would lose.
        if let Some(list) = array.as_list_opt::<i32>() {
            return Ok(ColumnarValue::Scalar(ScalarValue::List(Arc::new(list.clone()))));
        }
        let scalar = ScalarValue::try_from_array(&array, 0).map_err(|source| {
            Error::internal(format!("could not give the value of {}", self.definition.name)).caused_by(source)
        })?;
        Ok(ColumnarValue::Scalar(scalar))
    }
}

fn value_at(argument: &ColumnarValue, row: usize) -> Result<Value> {
    match argument {
        ColumnarValue::Scalar(scalar) => Value::of_scalar(scalar),
        ColumnarValue::Array(array) if array.is_null(row) => Ok(Value::Null),
        ColumnarValue::Array(array) => {
            let scalar = ScalarValue::try_from_array(array, row)
                .map_err(|source| Error::internal("could not read a function's argument").caused_by(source))?;
            Value::of_scalar(&scalar)
        }
    }
}

/// The argument at `index`, NULL where it was left out.
fn argument(values: &[Value], index: usize) -> &Value {
    values.get(index).unwrap_or(&Value::Null)
}

/// The argument at `index` as text, nothing where it is not one.
fn text_argument(values: &[Value], index: usize) -> &str {
    argument(values, index).text().unwrap_or_default()
}

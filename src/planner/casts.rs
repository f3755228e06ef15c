//! Casts between text and other types, and comparisons with text literals, by PostgreSQL's rules.
//!
//! DataFusion leaves both to Arrow, which writes `2026-01-01T10:00:00Z`, reads other forms than PostgreSQL's, and compares
//! instants in nanoseconds, whose years end at 2262.

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::{Cast, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Between, BinaryExpr, ColumnarValue, Expr, ExprSchemable, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
    ScalarUDF, ScalarUDFImpl, Signature, Union, Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use crate::error::{Error, Result, SqlState};
use crate::types::SqlType;
use crate::types::cells::Cells;
use crate::types::text::{TextParser, Zone};

/// Gives a text literal that is compared with an instant the instant's type, before DataFusion chooses one.
#[derive(Debug)]
pub(super) struct ComparedLiterals;

impl AnalyzerRule for ComparedLiterals {
    fn name(&self) -> &'static str {
        "compared_literals"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        rewrite(plan, &|expr, schema| {
            refuse_text_with_number(&expr, schema).map_err(|error| DataFusionError::External(Box::new(error)))?;
            Ok(compared(expr, schema))
        })
    }
}

/// What PostgreSQL advises where no operator takes the types it is given.
pub(super) const NO_OPERATOR_HINT: &str =
    "No operator matches the given name and argument types. You might need to add explicit type casts.";

/// DataFusion compares a text with a number as texts or as numbers, by rules of its own; PostgreSQL has no such operator. A
/// literal without a type takes the other side's.
fn refuse_text_with_number(expr: &Expr, schema: &DFSchema) -> Result<()> {
    let check = |left: &Expr, operator: &dyn std::fmt::Display, right: &Expr| -> Result<()> {
        let (left, right) = (type_of(left, schema), type_of(right, schema));
        match (&left, &right) {
            (Some(first), Some(second)) if is_text(first) && is_number(second) || is_number(first) && is_text(second) => {
                let message = format!("operator does not exist: {first} {operator} {second}");
                Err(Error::new(SqlState::UndefinedFunction, message).hint(NO_OPERATOR_HINT))
            }
            _ => Ok(()),
        }
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let shown = if *op == Operator::NotEq { "<>".to_owned() } else { op.to_string() };
            check(left, &shown, right)
        }
        Expr::InList(InList { expr, list, negated }) => {
            list.iter().try_for_each(|item| check(expr, if *negated { &"<>" } else { &"=" }, item))
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            check(expr, if *negated { &"<" } else { &">=" }, low)?;
            check(expr, if *negated { &">" } else { &"<=" }, high)
        }
        _ => Ok(()),
    }
}

/// The type of an expression; `None` where it takes the type of what stands beside it. Whole numbers are `integer` while they fit.
fn type_of(expr: &Expr, schema: &DFSchema) -> Option<SqlType> {
    match expr {
        Expr::Literal(ScalarValue::Utf8(_) | ScalarValue::Null, _) => None,
        Expr::Literal(ScalarValue::Int64(Some(number)), _) if i32::try_from(*number).is_ok() => Some(SqlType::Integer),
        expr => expr.to_field(schema).ok().and_then(|(_, field)| SqlType::of_field(&field)),
    }
}

fn is_text(sql_type: &SqlType) -> bool {
    matches!(sql_type, SqlType::Text)
}

fn is_number(sql_type: &SqlType) -> bool {
    use SqlType::{BigInt, DoublePrecision, Integer, Numeric, Real, SmallInt};
    matches!(sql_type, SmallInt | Integer | BigInt | Real | DoublePrecision | Numeric { .. })
}

/// The parameter that `expr` is, cast to this type and no further.
pub(super) fn read_parameter(expr: &Expr) -> Option<(usize, SqlType)> {
    let place = |expr: &Expr| match expr {
        Expr::Placeholder(placeholder) => placeholder.id.strip_prefix('$')?.parse::<usize>().ok()?.checked_sub(1),
        _ => None,
    };
    match expr {
        Expr::Cast(Cast { expr, field }) => Some((place(expr)?, SqlType::of_field(field)?)),
        // What a cast of a parameter becomes whose type is not known to DataFusion.
        Expr::ScalarFunction(call) => {
            let read = call.func.inner().downcast_ref::<TextCast>().filter(|cast| cast.direction == Direction::Read)?;
            match call.args.as_slice() {
                [argument] => Some((place(argument)?, read.sql_type.clone())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// `to`, where a cast from `from` keeps every value and tells no two of them equal.
pub(super) fn same_or_wider(from: &SqlType, to: &SqlType) -> Option<SqlType> {
    use SqlType::{Array, BigInt, Integer, SmallInt, Text, Uuid};
    let keeps = match (from, to) {
        // A uuid is held as its one canonical text.
        (SmallInt, Integer | BigInt) | (Integer, BigInt) | (Uuid, Text) => true,
        (Array(from), Array(to)) => same_or_wider(from, to).is_some(),
        (from, to) => from == to,
    };
    keeps.then(|| to.clone())
}

/// Makes casts between text and other types ours.
#[derive(Debug)]
pub(super) struct TextCasts;

impl AnalyzerRule for TextCasts {
    fn name(&self) -> &'static str {
        "text_casts"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DfResult<LogicalPlan> {
        let time_zone = config.execution.time_zone.clone().unwrap_or_else(|| "UTC".into());
        rewrite(plan, &|expr, schema| text_cast(expr, schema, &time_zone))
    }
}

/// Rewrites every expression of a plan from the leaves up; names of output columns stay.
pub(super) fn rewrite(
    plan: LogicalPlan,
    change: &dyn Fn(Expr, &DFSchema) -> DfResult<Transformed<Expr>>,
) -> DfResult<LogicalPlan> {
    let one = |node: LogicalPlan| {
        let mut schema = merge_schema(&node.inputs());
        if let LogicalPlan::TableScan(scan) = &node {
            schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|expr| change(expr, &schema))?.update_data(|expr| name.restore(expr)))
        })?
        .map_data(with_own_schema)
    };
    Ok(plan.transform_up_with_subqueries(one)?.data)
}

/// The node with the columns that its expressions and inputs now give: a cast that became ours tells its type in the metadata
/// of its column, and a union keeps the columns it had unless it is made anew.
fn with_own_schema(node: LogicalPlan) -> DfResult<LogicalPlan> {
    match node {
        LogicalPlan::Union(union) => Ok(LogicalPlan::Union(Union::try_new_with_loose_types(union.inputs)?)),
        node => node.recompute_schema(),
    }
}

fn compared(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let instant = |expr: &Expr| match expr.to_field(schema) {
        Ok((_, field)) if matches!(field.data_type(), DataType::Timestamp(_, _)) => Some(field),
        _ => None,
    };
    let is_text = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), _));
    let typed = |expr: Expr, field: &FieldRef| match is_text(&expr) {
        true => Expr::Cast(Cast::new_from_field(Box::new(expr), field.clone())),
        false => expr,
    };
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let field = match (is_text(&left), is_text(&right)) {
                (true, false) => instant(&right),
                (false, true) => instant(&left),
                _ => None,
            };
            let Some(field) = field else { return Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })) };
            let (left, right) = (Box::new(typed(*left, &field)), Box::new(typed(*right, &field)));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::InList(InList { expr, list, negated }) => match instant(&expr) {
            Some(field) => {
                let list = list.into_iter().map(|item| typed(item, &field)).collect();
                Transformed::yes(Expr::InList(InList { expr, list, negated }))
            }
            None => Transformed::no(Expr::InList(InList { expr, list, negated })),
        },
        Expr::Between(Between { expr, negated, low, high }) => match instant(&expr) {
            Some(field) => {
                let (low, high) = (Box::new(typed(*low, &field)), Box::new(typed(*high, &field)));
                Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
            }
            None => Transformed::no(Expr::Between(Between { expr, negated, low, high })),
        },
        other => Transformed::no(other),
    }
}

fn text_cast(expr: Expr, schema: &DFSchema, time_zone: &str) -> DfResult<Transformed<Expr>> {
    let Expr::Cast(Cast { expr: inner, field: target }) = &expr else { return Ok(Transformed::no(expr)) };
    let Ok((_, source)) = inner.to_field(schema) else { return Ok(Transformed::no(expr)) };
    let (Some(from), Some(to)) = (SqlType::of_field(&source), SqlType::of_field(target)) else {
        return Ok(Transformed::no(expr));
    };
    let function = if is_read(&from, &to) {
        ScalarUDF::from(TextCast::new(Direction::Read, target.clone(), to, time_zone))
    } else if is_shown(&from, &to) {
        ScalarUDF::from(TextCast::new(Direction::Show, target.clone(), from, time_zone))
    } else {
        return Ok(Transformed::no(expr));
    };
    let call = ScalarFunction::new_udf(function.into(), vec![inner.as_ref().clone()]);
    Ok(Transformed::yes(Expr::ScalarFunction(call)))
}

/// Whether a cast reads text: what Arrow reads differently, or not at all.
fn is_read(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{Char, Name, Oid, Text};
    matches!(from, Text) && !matches!(to, Text | Name | Char | Oid)
}

/// Whether a cast writes as text what Arrow writes differently.
fn is_shown(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{
        Array, Bytea, Char, Date, DoublePrecision, Int2Vector, Interval, Json, Name, OidVector, Real, Text, Time, Timestamp,
        TimestampTz, Uuid, Vector,
    };
    let written_otherwise = matches!(from, Real | DoublePrecision | Date | Time | Timestamp | TimestampTz | Interval | Bytea)
        || matches!(from, Array(_) | Vector(_) | Int2Vector | OidVector);
    // These are text already; a plain cast would keep what tells their type.
    matches!(to, Text) && (written_otherwise || matches!(from, Uuid | Json | Name | Char))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Direction {
    /// From text.
    Read,
    /// To text.
    Show,
}

/// The function that a cast becomes.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextCast {
    direction: Direction,
    /// The cast's result.
    target: FieldRef,
    /// The type on the side that is not text.
    sql_type: SqlType,
    time_zone: String,
    signature: Signature,
}

impl TextCast {
    fn new(direction: Direction, target: FieldRef, sql_type: SqlType, time_zone: &str) -> Self {
        Self { direction, target, sql_type, time_zone: time_zone.into(), signature: Signature::any(1, Volatility::Immutable) }
    }

    fn read(&self, texts: &ArrayRef) -> Result<ArrayRef> {
        let texts = cast(texts, &DataType::Utf8).map_err(arrow)?;
        let mut parser = TextParser::new(&self.sql_type, &self.time_zone)?;
        for text in texts.as_string::<i32>() {
            parser.append(text)?;
        }
        cast(&parser.finish(), self.target.data_type()).map_err(arrow)
    }

    fn show(&self, values: &ArrayRef) -> Result<ArrayRef> {
        let zone = Zone::parse(&self.time_zone)?;
        let cells = Cells::new(values, &self.sql_type)?;
        let mut texts = StringBuilder::with_capacity(values.len(), values.len() * 24);
        let mut text = String::new();
        for row in 0..values.len() {
            if cells.is_null(row) {
                texts.append_null();
                continue;
            }
            text.clear();
            cells.write_text(row, zone, &mut text);
            texts.append_value(&text);
        }
        let texts: ArrayRef = std::sync::Arc::new(texts.finish());
        cast(&texts, self.target.data_type()).map_err(arrow)
    }
}

fn arrow(source: arrow::error::ArrowError) -> crate::error::Error {
    super::errors::from_datafusion(source.into())
}

impl ScalarUDFImpl for TextCast {
    fn name(&self) -> &'static str {
        match self.direction {
            Direction::Read => "from_text",
            Direction::Show => "to_text",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DfResult<DataType> {
        Ok(self.target.data_type().clone())
    }

    fn return_field_from_args(&self, _arguments: ReturnFieldArgs) -> DfResult<FieldRef> {
        Ok(self.target.as_ref().clone().with_name(self.name()).with_nullable(true).into())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> DfResult<ColumnarValue> {
        let values = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [values] = values.as_slice() else {
            return Err(DataFusionError::Internal("a cast has one argument".into()));
        };
        let done = match self.direction {
            Direction::Read => self.read(values),
            Direction::Show => self.show(values),
        };
        done.map(ColumnarValue::Array).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

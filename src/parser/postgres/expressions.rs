//! Operators, casts and calls.

use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr, Function, FunctionArgumentList, FunctionArguments, Ident, Interval, ObjectName,
    SelectItem, SetExpr, Value, WindowFrameBound, WindowSpec, WindowType,
};

use super::build::{builtin_name, call, cast, fold, plain_arguments};
use super::subqueries;
use crate::error::{Error, Result, SqlState};
use crate::types::text::array_elements;

/// The types whose values are object numbers that PostgreSQL prints as names.
const NAMED_NUMBERS: &[(&str, &str)] = &[
    ("regclass", "__regclass"),
    ("regtype", "__regtype"),
    ("regnamespace", "__regnamespace"),
    ("regproc", "__regproc"),
    ("regprocedure", "__regproc"),
    ("regrole", "__regrole"),
];

/// Functions that SQL writes without parentheses.
const BARE_FUNCTIONS: &[&str] = &["current_catalog", "current_role", "current_schema", "current_user", "session_user", "user"];

/// The type `interval`, without fields.
const INTERVAL: DataType = DataType::Interval { fields: None, precision: None };

/// The collations under which texts compare byte by byte, as they do here anyway.
const BYTE_ORDERS: &[&str] = &["default", "C", "POSIX", "ucs_basic"];

/// Turns one expression, whose parts are already turned.
pub(super) fn rewrite(expr: &mut Expr) -> Result<()> {
    match expr {
        Expr::BinaryOp { op, .. } => return operator(expr_operator(op)?, expr),
        Expr::Collate { expr: inner, collation } => {
            let name = builtin_name(collation);
            if !name.as_deref().is_some_and(|name| BYTE_ORDERS.contains(&name)) {
                return Err(Error::unsupported(format!("collation {collation}"))
                    .hint("Texts compare byte by byte, as under the collation \"C\"."));
            }
            let inner = std::mem::replace(inner.as_mut(), placeholder());
            *expr = inner;
        }
        Expr::Identifier(ident) if ident.quote_style.is_none() && fold(ident) == "current_schema" => {
            *expr = call("current_schema", Vec::new());
        }
        Expr::Cast { expr: inner, data_type, .. } => {
            if let Some(function) = named_number(data_type) {
                let inner = std::mem::replace(inner.as_mut(), placeholder());
                *expr = call(function, vec![inner]);
            } else if is_text(data_type) {
                show_as_name(inner);
            }
        }
        Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } => {
            let escape = escape_char.take_if(|escape| !matches!(&escape.value, Value::SingleQuotedString(text) if text == "\\"));
            if let Some(escape) = escape {
                let written = std::mem::replace(pattern.as_mut(), placeholder());
                **pattern = call("like_escape", vec![written, Expr::Value(escape)]);
            }
        }
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
            if let Some(elements) = array_literal(right)? {
                *expr = is_one_of(std::mem::replace(left.as_mut(), placeholder()), elements, false);
            }
        }
        Expr::AllOp { left, compare_op: BinaryOperator::NotEq, right } => {
            if let Some(elements) = array_literal(right)? {
                *expr = is_one_of(std::mem::replace(left.as_mut(), placeholder()), elements, true);
            }
        }
        Expr::Subquery(query) => {
            if let Some(scalar) = subqueries::scalar(query) {
                *expr = scalar;
            }
        }
        // As a cast it is read by PostgreSQL's rules: DataFusion's own know neither `mons` nor `04:05:06`.
        Expr::Interval(Interval {
            value,
            leading_field: None,
            leading_precision: None,
            last_field: None,
            fractional_seconds_precision: None,
        }) if matches!(value.as_ref(), Expr::Value(_)) => {
            let value = std::mem::replace(value.as_mut(), placeholder());
            *expr = cast(value, INTERVAL);
        }
        Expr::Function(function) => {
            if let Some(WindowType::WindowSpec(window)) = &mut function.over {
                restore_frame(window);
            }
            let counted = function.over.as_ref().and_then(|_| counted_type(&builtin_name(&function.name)?));
            rewrite_call(expr_function(function), expr)?;
            if let Some(data_type) = counted {
                *expr = cast(std::mem::replace(expr, placeholder()), data_type);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The elements of an array that is written as a text, such as `'{7,8}'`, each as a text.
fn array_literal(expr: &Expr) -> Result<Option<Vec<Expr>>> {
    match expr {
        Expr::Nested(inner) => array_literal(inner),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => {
                let elements = array_elements(text)?.into_iter();
                let literal = |element: Option<String>| element.map_or(Value::Null, Value::SingleQuotedString);
                Ok(Some(elements.map(|element| Expr::Value(literal(element).with_empty_span())).collect()))
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// `expr IN (elements)`, whose literals are of the type of `expr`, as those of the array would be.
fn is_one_of(expr: Expr, elements: Vec<Expr>, negated: bool) -> Expr {
    if elements.is_empty() {
        return Expr::Value(Value::Boolean(negated).with_empty_span());
    }
    Expr::InList { expr: Box::new(expr), list: elements, negated }
}

/// The type in which a window function counts rows: DataFusion counts without a sign.
fn counted_type(function: &str) -> Option<DataType> {
    match function {
        "row_number" | "rank" | "dense_rank" => Some(DataType::BigInt(None)),
        "ntile" => Some(DataType::Integer(None)),
        _ => None,
    }
}

/// The bounds of a window's frame as they were written: there DataFusion takes an interval only as a literal.
pub(super) fn restore_frame(window: &mut WindowSpec) {
    let Some(frame) = &mut window.window_frame else { return };
    for bound in [Some(&mut frame.start_bound), frame.end_bound.as_mut()].into_iter().flatten() {
        let (WindowFrameBound::Preceding(Some(offset)) | WindowFrameBound::Following(Some(offset))) = bound else { continue };
        if let Expr::Cast { kind: CastKind::Cast, expr, data_type, .. } = offset.as_mut()
            && *data_type == INTERVAL
        {
            let value = std::mem::replace(expr, Box::new(placeholder()));
            **offset = Expr::Interval(Interval {
                value,
                leading_field: None,
                leading_precision: None,
                last_field: None,
                fractional_seconds_precision: None,
            });
        }
    }
}

/// The select items of the whole statement that are object numbers under a name's type: they are shown as names.
pub(super) fn show_numbers_as_names(body: &mut SetExpr) {
    match body {
        SetExpr::Select(select) => {
            for item in &mut select.projection {
                if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item {
                    show_as_name(expr);
                }
            }
        }
        SetExpr::Query(query) => show_numbers_as_names(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            show_numbers_as_names(left);
            show_numbers_as_names(right);
        }
        _ => {}
    }
}

/// What takes an expression's place for a moment.
pub(super) fn placeholder() -> Expr {
    Expr::Tuple(Vec::new())
}

/// What an operator becomes.
enum Operator {
    Same,
    Plain(BinaryOperator),
    Power,
}

fn expr_operator(operator: &BinaryOperator) -> Result<Operator> {
    Ok(match operator {
        BinaryOperator::PGExp => Operator::Power,
        BinaryOperator::PGCustomBinaryOperator(parts) => match parts.as_slice() {
            [schema, name] if schema.eq_ignore_ascii_case("pg_catalog") => Operator::Plain(plain_operator(name)?),
            [name] => Operator::Plain(plain_operator(name)?),
            _ => return Err(no_operator(&parts.join("."))),
        },
        _ => Operator::Same,
    })
}

fn plain_operator(name: &str) -> Result<BinaryOperator> {
    Ok(match name {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        ">" => BinaryOperator::Gt,
        "<=" => BinaryOperator::LtEq,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "%" => BinaryOperator::Modulo,
        "||" => BinaryOperator::StringConcat,
        other => return Err(no_operator(other)),
    })
}

fn no_operator(name: &str) -> Error {
    Error::new(SqlState::UndefinedFunction, format!("operator does not exist: {name}"))
}

fn operator(becomes: Operator, expr: &mut Expr) -> Result<()> {
    let Expr::BinaryOp { left, op, right } = expr else {
        return Ok(());
    };
    match becomes {
        Operator::Same => {}
        Operator::Plain(plain) => *op = plain,
        // PostgreSQL raises integers as double precision; DataFusion reads `^` as exclusive or.
        Operator::Power => {
            let left = std::mem::replace(left.as_mut(), placeholder());
            let right = std::mem::replace(right.as_mut(), placeholder());
            let double = |expr| cast(expr, DataType::DoublePrecision);
            *expr = call("power", vec![double(left), double(right)]);
        }
    }
    Ok(())
}

/// What a call becomes.
enum Call {
    Same,
    ArrayOfSubquery,
    Bare,
    Subscripts,
    Builtin(String),
}

fn expr_function(function: &Function) -> Call {
    let Some(name) = builtin_name(&function.name) else {
        return Call::Same;
    };
    match &function.args {
        FunctionArguments::Subquery(_) if name == "array" => Call::ArrayOfSubquery,
        FunctionArguments::None if BARE_FUNCTIONS.contains(&name.as_str()) => Call::Bare,
        FunctionArguments::List(_) if name == "generate_subscripts" && of_first_dimension(function) => Call::Subscripts,
        _ if function.name.0.len() > 1 => Call::Builtin(name),
        _ => Call::Same,
    }
}

/// Whether a call's second argument is 1, as a literal or a cast one.
fn of_first_dimension(function: &Function) -> bool {
    let arguments = plain_arguments(function).unwrap_or_default();
    let [_, dimension] = arguments.as_slice() else {
        return false;
    };
    match dimension {
        Expr::Cast { expr, .. } => is_one(expr),
        dimension => is_one(dimension),
    }
}

fn is_one(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(&value.value, Value::Number(number, _) if number == "1"))
}

fn rewrite_call(becomes: Call, expr: &mut Expr) -> Result<()> {
    let Expr::Function(function) = expr else {
        return Ok(());
    };
    match becomes {
        Call::Same => {}
        Call::Builtin(name) => function.name = ObjectName::from(vec![Ident::new(name)]),
        // Of the elements' places a row each, as `unnest` gives of the elements.
        Call::Subscripts => {
            let array = plain_arguments(function).and_then(|arguments| arguments.first().map(|array| Expr::clone(array)));
            if let Some(array) = array {
                *expr = call("unnest", vec![call("__subscripts", vec![array])]);
            }
        }
        Call::Bare => {
            function.args = FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: None,
                args: Vec::new(),
                clauses: Vec::new(),
            });
        }
        Call::ArrayOfSubquery => {
            if let FunctionArguments::Subquery(query) = &mut function.args {
                *expr = subqueries::array(query);
            }
        }
    }
    Ok(())
}

/// The function that stands for a cast to one of the types whose values are numbers shown as names.
fn named_number(data_type: &DataType) -> Option<&'static str> {
    let name = match data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::Custom(name, modifiers) if modifiers.is_empty() => builtin_name(name)?,
        _ => return None,
    };
    NAMED_NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, function)| *function)
}

fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Text | DataType::Varchar(_) | DataType::CharacterVarying(_) => true,
        DataType::Custom(name, _) => builtin_name(name).is_some_and(|name| matches!(name.as_str(), "text" | "varchar" | "name")),
        _ => false,
    }
}

/// `__regclass(x)` becomes `__regclass_text(x)`.
fn show_as_name(expr: &mut Expr) {
    let Expr::Function(function) = expr else {
        return;
    };
    let Some(name) = builtin_name(&function.name) else {
        return;
    };
    if NAMED_NUMBERS.iter().any(|(_, known)| *known == name) && plain_arguments(function).is_some() {
        function.name = ObjectName::from(vec![Ident::new(format!("{name}_text"))]);
    }
}

//! Text literals become values of the type they stand for, by PostgreSQL's rules and in the session's time zone.
//!
//! `DATE '2013-01-01'`, `'…'::timestamptz` and `event_time > '2013-01-01'` all end as a cast of a text literal once types are
//! coerced. Arrow's own parsers read other forms than PostgreSQL's and know no session; so those casts are done here.

use std::any::Any;
use std::borrow::Cow;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::common::config::{ConfigEntry, ConfigExtension, ConfigOptions, ExtensionOptions};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use crate::error::Result;
use crate::types::SqlType;
use crate::types::text::{TextParser, Zone, write_date, write_timestamptz};

/// Reads text literals that are cast.
#[derive(Debug)]
pub(super) struct TextLiterals;

impl AnalyzerRule for TextLiterals {
    fn name(&self) -> &'static str {
        "text_literals"
    }

    fn analyze(&self, plan: LogicalPlan, config: &ConfigOptions) -> DfResult<LogicalPlan> {
        let time_zone = config.execution.time_zone.clone().unwrap_or_else(|| "UTC".into());
        let now = config.extensions.get::<StatementTime>().copied();
        let read = |node: LogicalPlan| {
            // The name of an output column does not change because its value is known.
            let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(literals_at(expr, &time_zone, now)?.update_data(|expr| name.restore(expr)))
            })?
            .map_data(LogicalPlan::recompute_schema)
        };
        Ok(plan.transform_up_with_subqueries(read)?.data)
    }
}

/// The one `now()` of a statement, in microseconds, for literals that name a day by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatementTime(pub(super) i64);

impl ConfigExtension for StatementTime {
    const PREFIX: &'static str = "tidegate_statement";
}

impl ExtensionOptions for StatementTime {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn cloned(&self) -> Box<dyn ExtensionOptions> {
        Box::new(*self)
    }

    fn set(&mut self, _key: &str, _value: &str) -> DfResult<()> {
        Err(DataFusionError::Internal("the time of a statement is not set by name".into()))
    }

    fn entries(&self) -> Vec<ConfigEntry> {
        Vec::new()
    }
}

/// What a word at the start of a text counts days from the statement's by; `Some(None)` for its instant, `None` for other words.
fn days_from_now(word: &str) -> Option<Option<i64>> {
    match word.to_ascii_lowercase().as_str() {
        "now" => Some(None),
        "today" => Some(Some(0)),
        "tomorrow" => Some(Some(1)),
        "yesterday" => Some(Some(-1)),
        _ => None,
    }
}

/// The letters that a text begins with, and what is behind them.
fn first_word(text: &str) -> (&str, &str) {
    let trimmed = text.trim_ascii_start();
    trimmed.split_at(trimmed.bytes().take_while(u8::is_ascii_alphabetic).count())
}

/// Whether a plan has a text literal that may stand for a day or an instant counted from the statement's own, so that it means
/// something else each time it is run.
pub(super) fn names_the_present(plan: &LogicalPlan) -> bool {
    let names = |expr: &Expr| match expr {
        Expr::Literal(ScalarValue::Utf8(Some(text)), _) => days_from_now(first_word(text).0).is_some(),
        _ => false,
    };
    let found = plan.exists(|node| {
        let mut found = false;
        node.apply_expressions(|expr| {
            found |= expr.exists(|expr| Ok(names(expr)))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(found)
    });
    found.unwrap_or(true)
}

/// A text that begins with `now`, `today`, `tomorrow` or `yesterday`, with the instant or day in the word's place as clocks of
/// the zone show it; any other text as it is.
fn spelled_out<'a>(text: &'a str, sql_type: &SqlType, time_zone: &str, now: Option<StatementTime>) -> Result<Cow<'a, str>> {
    const MICROS_PER_DAY: i64 = 86_400_000_000;
    let (word, rest) = first_word(text);
    let days = match days_from_now(word) {
        Some(None) if rest.trim_ascii().is_empty() => None,
        Some(Some(days)) => Some(days),
        Some(None) | None => return Ok(Cow::Borrowed(text)),
    };
    let (SqlType::Date | SqlType::Timestamp | SqlType::TimestampTz, Some(StatementTime(now))) = (sql_type, now) else {
        return Ok(Cow::Borrowed(text));
    };
    let zone = Zone::parse(time_zone)?;
    let mut spelled = String::new();
    match days {
        None => write_timestamptz(&mut spelled, now, zone),
        Some(days) => {
            let local = now.saturating_add(i64::from(zone.offset_seconds(now)) * 1_000_000);
            write_date(&mut spelled, i32::try_from(local.div_euclid(MICROS_PER_DAY) + days).unwrap_or(i32::MAX));
            spelled.push_str(rest);
        }
    }
    Ok(Cow::Owned(spelled))
}

/// `expr` with its casts of text literals done.
pub(super) fn literals(expr: Expr, time_zone: &str) -> DfResult<Transformed<Expr>> {
    literals_at(expr, time_zone, None)
}

fn literals_at(expr: Expr, time_zone: &str, now: Option<StatementTime>) -> DfResult<Transformed<Expr>> {
    expr.transform_up(|expr| match &expr {
        Expr::Cast(Cast { expr: inner, field }) => {
            let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = inner.as_ref() else { return Ok(Transformed::no(expr)) };
            let Some(sql_type) = SqlType::of_field(field) else { return Ok(Transformed::no(expr)) };
            if matches!(sql_type, SqlType::Text | SqlType::Name | SqlType::Char | SqlType::Oid) {
                return Ok(Transformed::no(expr));
            }
            let value = spelled_out(text, &sql_type, time_zone, now)
                .and_then(|text| read(&text, &sql_type, field.data_type(), time_zone))
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

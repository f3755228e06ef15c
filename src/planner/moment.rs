//! When a feature view is read: what a clause, or the session, says of the two clocks.

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::{Expr, ExprSchemable};

use super::StatementContext;
use super::errors::from_datafusion;
use super::instant::{constant, resolve};
use super::literals;
use super::route::Tense;
use crate::error::{Error, Result, SqlState};
use crate::registry::{FeatureView, Ttl};
use crate::time::{CommitTime, DatasetVersion, EventTime};
use crate::types::SqlType;

/// The instant that a view is read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// Now.
    Present,
    /// An instant; `None` where the query's instant is NULL.
    Instant(Option<EventTime>),
    /// When the version read was committed.
    Commit,
    /// The instant that each row of a join's left side gives: the place of the clause among the query's. Only the as-of
    /// join may read such a relation.
    OfLeftRow(usize),
    /// Any: the view stands directly right of an `ASOF JOIN`, for its history. The place of its clause, where it has one.
    OfMatch(Option<usize>),
}

/// When a view is read, and with what knowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Moment {
    /// The instant.
    pub(super) at: At,
    /// How far from the instant a row may lie: the view's TTL, or less.
    pub(super) window: Option<Ttl>,
    /// Only what was committed by then counts.
    pub(super) known_at: Option<CommitTime>,
    /// The version read; `None`, the newest.
    pub(super) version: Option<DatasetVersion>,
}

impl Moment {
    /// The moment of a view that stands without a clause: now, unless the session says otherwise.
    pub(super) fn of_session(context: &StatementContext, view: &FeatureView) -> Self {
        let at = match (context.as_of, context.system_time) {
            (Some(as_of), _) => At::Instant(Some(as_of)),
            // What a read at that time answered.
            (None, Some(known_at)) => At::Instant(Some(known_at.as_event_time())),
            (None, None) => At::Present,
        };
        Self { at, window: view.ttl, known_at: context.system_time, version: None }
    }

    /// Whether it is now.
    pub(super) fn tense(&self) -> Tense {
        if self.at == At::Present { Tense::Present } else { Tense::AsOf }
    }
}

/// The constants of a clause, as expressions that may hold parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd)]
pub(super) struct ClauseTimes {
    /// `AS OF t`.
    pub(super) as_of: Option<Expr>,
    /// `WITHIN interval`.
    pub(super) within: Option<Expr>,
    /// `FOR SYSTEM_TIME AS OF t`.
    pub(super) system_time: Option<Expr>,
}

impl ClauseTimes {
    /// Those that are there, in order.
    pub(super) fn expressions(&self) -> Vec<Expr> {
        [&self.as_of, &self.within, &self.system_time].into_iter().flatten().cloned().collect()
    }

    /// The same with other expressions, as many as there were.
    pub(super) fn with(&self, exprs: Vec<Expr>) -> Self {
        let mut exprs = exprs.into_iter();
        let mut next = |there: &Option<Expr>| there.as_ref().and_then(|_| exprs.next());
        Self { as_of: next(&self.as_of), within: next(&self.within), system_time: next(&self.system_time) }
    }

    /// The moment they name, now that parameters are values.
    pub(super) fn moment(
        &self,
        context: &StatementContext,
        view: &FeatureView,
        version: Option<DatasetVersion>,
        state: &SessionState,
    ) -> Result<Moment> {
        let within = self.within.as_ref().map(|within| length(within, state)).transpose()?;
        let window = Ttl::shorter(view.ttl, within);
        let as_of = self.as_of.as_ref().map(|as_of| resolve(as_of, state)).transpose()?;
        let stated = self.system_time.as_ref().map(|known_at| resolve(known_at, state)).transpose()?;
        let known_at = match stated {
            // NULL knows nothing.
            Some(None) => return Ok(Moment { at: At::Instant(None), window, known_at: None, version }),
            Some(Some(known_at)) => Some(CommitTime::from_micros(known_at.micros())),
            None if version.is_some() => None,
            None => context.system_time,
        };
        let at = match (as_of, known_at) {
            (Some(as_of), _) => At::Instant(as_of),
            (None, _) if version.is_some() && stated.is_none() => At::Commit,
            (None, Some(known_at)) => At::Instant(Some(known_at.as_event_time())),
            (None, None) => return Err(Error::internal("a time clause without a time")),
        };
        Ok(Moment { at, window, known_at, version })
    }
}

/// A system time in the future is `22023`: what will be known by then cannot be said.
pub(super) fn refuse_future(known_at: CommitTime, now: CommitTime) -> Result<()> {
    if known_at <= now {
        return Ok(());
    }
    Err(Error::new(SqlState::InvalidParameterValue, format!("system time {known_at} is in the future"))
        .detail(format!("It is {now}."))
        .hint("Ask for a system time up to now()."))
}

/// `expr` as a length of time: an interval as it is, text that is written out parsed.
pub(super) fn interval(expr: Expr, what: &str) -> Result<Expr> {
    let target = SqlType::Interval.arrow();
    let expr = match expr {
        Expr::Alias(alias) => *alias.expr,
        expr => expr,
    };
    if let Expr::Literal(ScalarValue::Utf8(Some(text)), _) = &expr {
        return Ok(Expr::Literal(literals::read(text, &SqlType::Interval, &target, "UTC")?, None));
    }
    if let Expr::Placeholder(Placeholder { id, field: None }) = expr {
        let field = SqlType::Interval.field_ref("", true);
        return Ok(Expr::Placeholder(Placeholder::new_with_field(id, Some(field))));
    }
    match expr.get_type(&DFSchema::empty()).map_err(from_datafusion)? {
        DataType::Interval(_) | DataType::Null => Ok(expr),
        other => {
            let name = SqlType::of_arrow(&other).map_or_else(|| other.to_string(), |sql_type| sql_type.name());
            let message = format!("argument of {what} must be type interval, not type {name}");
            Err(Error::new(SqlState::DatatypeMismatch, message).hint("Write INTERVAL '3 hours'."))
        }
    }
}

/// The length that `expr` stands for, now that parameters are values.
pub(super) fn length(expr: &Expr, state: &SessionState) -> Result<Ttl> {
    match constant(expr, state, &SqlType::Interval.arrow())? {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => Ttl::from_interval(interval).map_err(|error| match error.code() {
            SqlState::InvalidParameterValue if interval.months == 0 => {
                Error::new(SqlState::InvalidParameterValue, "WITHIN and TOLERANCE cannot be negative")
            }
            _ => error,
        }),
        _ => {
            Err(Error::new(SqlState::NullValueNotAllowed, "WITHIN and TOLERANCE cannot be NULL")
                .hint("Leave it out for no limit."))
        }
    }
}

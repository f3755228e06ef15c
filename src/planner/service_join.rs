//! From a join whose right side is a feature service with a clause over left columns to as-of joins with its members.

use std::sync::Arc;

use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result as DfResult;
use datafusion::execution::SessionState;
use datafusion::logical_expr::utils::{conjunction, disjunction};
use datafusion::logical_expr::{Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, lit};

use super::StatementContext;
use super::as_of_join::{Keyed, asked};
use super::correlated::{columns_of, when};
use super::errors::from_datafusion;
use super::nodes::{AsOfJoinNode, Asked};
use super::provider::RelationProvider;
use super::service::{Member, Service};
use crate::error::Result;
use crate::executor::AsOfKind;
use crate::parser::TimeClause;
use crate::registry::ObjectKind;

/// The as-of join that `join` asks for: its right side is `service` with this clause, the query's at `place`. Each member is a
/// side that keeps every left row, and one operator reads them all; what the service selects is computed above.
pub(super) fn service_join(
    join: &Join,
    service: &Service,
    (place, clause): (usize, &TimeClause),
    state: &SessionState,
    context: &StatementContext,
) -> Result<LogicalPlan> {
    let definition = &service.definition;
    let keyed = Keyed { kind: ObjectKind::FeatureService, name: &definition.name, keys: &definition.keys };
    let question = asked(join, &keyed, clause, state, context)?;
    let sides = Sides { service, place };
    let mut plan = join.left.as_ref().clone();
    for (number, member) in service.members.iter().enumerate() {
        let keys = member.places(definition)?.into_iter().map(|place| question.keys[place].clone()).collect();
        let side = Asked { keys, kind: AsOfKind::Left, condition: None, ..question.clone() };
        let joined = || AsOfJoinNode::new(plan, sides.scan(number, member)?, side);
        plan = LogicalPlan::Extension(Extension { node: Arc::new(joined().map_err(from_datafusion)?) });
    }
    sides.given(join, plan, question).map_err(from_datafusion)
}

/// The members of a service as the sides of a join.
struct Sides<'a> {
    service: &'a Service,
    /// The place of the clause, which tells this use of the service from others in the statement.
    place: usize,
}

impl Sides<'_> {
    /// A name that nothing in a statement has.
    fn reference(&self, number: usize) -> TableReference {
        TableReference::bare(format!("\u{1f}{}.{number}", self.place))
    }

    fn column(&self, number: usize, name: &str) -> Expr {
        Expr::Column(Column::new(Some(self.reference(number)), name))
    }

    fn scan(&self, number: usize, member: &Member) -> DfResult<LogicalPlan> {
        let relation = RelationProvider::view(&self.service.context, &member.view, member.moment);
        LogicalPlanBuilder::scan(self.reference(number), provider_as_source(Arc::new(relation)), None)?.build()
    }

    /// The columns of `join` over its left side's and those of the members' rows.
    fn given(&self, join: &Join, plan: LogicalPlan, question: Asked) -> DfResult<LogicalPlan> {
        let members = &self.service.members;
        let of_member = |member: &Member, name: &str| {
            let number = members.iter().position(|other| other.reference == member.reference).unwrap_or_default();
            self.column(number, name)
        };
        let selected = self.service.selected(of_member)?;
        let right = join.right.schema();
        let schema = self.service.schema();
        let below = Arc::clone(plan.schema());
        let values = question.keys.iter().cloned().chain(selected).zip(schema.fields());
        let values = values.map(|(value, field)| value.cast_to(field.data_type(), &below)).collect::<DfResult<Vec<_>>>()?;
        let over_values = |expr: Expr| {
            let place = match &expr {
                Expr::Column(column) => right.maybe_index_of_column(column),
                _ => None,
            };
            Ok(place.map_or_else(|| Transformed::no(expr), |place| Transformed::yes(values[place].clone())))
        };
        let condition = question.condition.map(|condition| condition.transform_down(over_values).map(|expr| expr.data));
        // There is a row where any member has one; and none of a NULL key.
        let there = members.iter().enumerate().map(|(number, member)| self.column(number, &member.view.event_time).is_not_null());
        let there = disjunction(there).unwrap_or_else(|| lit(false));
        let known = question.keys.iter().map(|key| key.clone().is_not_null());
        let chosen = conjunction(known.chain([there]).chain(condition.transpose()?)).unwrap_or_else(|| lit(false));
        let plan = match question.kind {
            AsOfKind::Left => plan,
            AsOfKind::Inner => LogicalPlan::Filter(Filter::try_new(chosen.clone(), Arc::new(plan))?),
        };
        let given = right.columns().into_iter().zip(schema.fields()).zip(values).map(|((column, field), value)| {
            let metadata = (!field.metadata().is_empty()).then(|| FieldMetadata::from(field.metadata()));
            let value = if question.kind == AsOfKind::Inner { value } else { when(chosen.clone(), value) };
            value.alias_qualified_with_metadata(column.relation, column.name, metadata)
        });
        let columns = columns_of(join.left.schema()).into_iter().chain(given).collect();
        Ok(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?))
    }
}

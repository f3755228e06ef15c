//! What an as-of join asks one of its right sides.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::Field;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;

use super::source::DatasetReader;
use crate::registry::{FeatureView, Ttl};

/// What becomes of left rows without a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AsOfKind {
    /// They stay, with NULLs.
    Left,
    /// They drop.
    Inner,
}

/// On which side of a left row's instant its answer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Direction {
    /// At or before the instant: the greatest candidate by (event time, commit time, sequence).
    #[default]
    Backward,
    /// At or after it: the least event time; among equals the last correction.
    Forward,
}

/// Whether a row at the instant itself can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Bound {
    /// It can.
    #[default]
    Inclusive,
    /// It cannot.
    Strict,
}

/// Which rows of a side may answer a left row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Reach {
    /// Before or after the instant.
    pub direction: Direction,
    /// Whether the instant itself counts.
    pub bound: Bound,
    /// How far from the instant, that distance included; `None` is no limit. Always given where the view has a TTL.
    pub window: Option<Ttl>,
}

/// Where the rows of a side come from.
#[derive(Clone, Debug)]
pub enum AsOfSource {
    /// The history of a feature view.
    View {
        /// The view.
        view: Arc<FeatureView>,
        /// Its history.
        reader: DatasetReader,
    },
    /// Any relation, which is collected.
    Relation {
        /// The relation.
        plan: Arc<dyn ExecutionPlan>,
        /// Its key columns, by place.
        keys: Vec<usize>,
        /// The column that stands for the event time, by place: of any ordered type.
        order: usize,
        /// The columns that decide between rows of the same keys and order, the greatest first: by place, with the order in
        /// which greatest is meant. What they leave is decided by the whole row.
        ties: Vec<(usize, SortOptions)>,
    },
}

/// One right side of an as-of join.
#[derive(Clone, Debug)]
pub struct AsOfSide {
    /// Where its rows come from.
    pub source: AsOfSource,
    /// The keys over the left side, in the order and types of the source's.
    pub keys: Vec<Arc<dyn PhysicalExpr>>,
    /// The instant over the left side, of the type of the source's event time.
    pub instant: Arc<dyn PhysicalExpr>,
    /// The knowledge instant over the left side: only rows committed by then may answer. Of views alone.
    pub known_at: Option<Arc<dyn PhysicalExpr>>,
    /// Which rows may answer.
    pub reach: Reach,
    /// The columns given, by place among the source's: of a view, among those of its stored history.
    pub columns: Vec<usize>,
    /// The fields they are given under.
    pub fields: Vec<Arc<Field>>,
    /// A further condition, judged on the chosen row: over the left side, the sides before, and this side's columns.
    pub condition: Option<Arc<dyn PhysicalExpr>>,
    /// What becomes of left rows without a match.
    pub kind: AsOfKind,
}

impl AsOfSide {
    /// What the side is called in plans: the view's name, or `relation`.
    pub fn name(&self) -> &str {
        match &self.source {
            AsOfSource::View { view, .. } => &view.name,
            AsOfSource::Relation { .. } => "relation",
        }
    }

    /// The relation that is collected, where the side is one.
    pub fn plan(&self) -> Option<&Arc<dyn ExecutionPlan>> {
        match &self.source {
            AsOfSource::View { .. } => None,
            AsOfSource::Relation { plan, .. } => Some(plan),
        }
    }
}

//! What a lookup compiles to.

use std::fmt::Debug;
use std::sync::Arc;

use arrow::array::ArrayRef;

use super::keys::KeyPlan;
use super::left::LeftPlan;
use crate::error::Result;
use crate::online::RowLayout;
use crate::registry::{FeatureView, KeyColumn};
use crate::types::SqlType;

/// What a statement was compiled under, beside its text: it means the same wherever these are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standpoint {
    /// The version of the definitions.
    pub registry_version: u64,
    /// The session's `TimeZone`, in which instants without one are read.
    pub time_zone: Arc<str>,
}

impl Standpoint {
    /// Whether a statement compiled here means the same under this version of the definitions and this time zone.
    pub fn is(&self, registry_version: u64, time_zone: &str) -> bool {
        self.registry_version == registry_version && *self.time_zone == *time_zone
    }
}

/// A statement that asks the online store for entities of one or several views, and nothing else.
#[derive(Clone, Debug)]
pub struct CompiledLookup {
    /// Where it holds.
    pub standpoint: Standpoint,
    /// The parts of an entity's key.
    pub parts: Vec<KeyColumn>,
    /// What the rows of the answer are made for.
    pub candidates: Candidates,
    /// The views that are asked.
    pub views: Vec<LookupView>,
    /// Whether a candidate without a live row in any of the views is no row of the answer.
    pub needs_row: bool,
    /// The columns of a row of the answer.
    pub columns: Vec<LookupColumn>,
    /// What is computed for some of them.
    pub computed: Option<Computed>,
    /// Which rows of the answer are wanted.
    pub range: RowRange,
}

/// What the rows of an answer are made for.
#[derive(Clone, Debug)]
pub enum Candidates {
    /// Entities that conditions name, each once.
    Keys(KeyPlan),
    /// The rows of a left side, as often as they stand there.
    Left(LeftPlan),
}

/// `OFFSET` and `LIMIT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowRange {
    /// How many rows are passed over; none where it is not said.
    pub skip: Option<RowCount>,
    /// How many are given; all where it is not said.
    pub fetch: Option<RowCount>,
}

/// A number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowCount {
    /// This one.
    Literal(u64),
    /// The value of a parameter, from 0, of this integer type; as if it were not said where that is NULL.
    Parameter(usize, SqlType),
}

impl RowRange {
    /// The parameters that it takes, from 0.
    pub fn parameters(&self) -> impl Iterator<Item = usize> {
        [&self.skip, &self.fetch].into_iter().filter_map(|count| match count {
            Some(RowCount::Parameter(parameter, _)) => Some(*parameter),
            Some(RowCount::Literal(_)) | None => None,
        })
    }
}

impl CompiledLookup {
    /// The names of its views.
    pub fn view_names(&self) -> impl Iterator<Item = &str> {
        self.views.iter().map(|view| view.view.name.as_str())
    }

    /// Whether it is the same whenever it is executed.
    pub fn is_without_parameters(&self) -> bool {
        let is_constant = match &self.candidates {
            Candidates::Keys(keys) => keys.slots.is_empty(),
            Candidates::Left(left) => left.parameters().next().is_none(),
        };
        is_constant
            && self.range.parameters().next().is_none()
            && self.computed.as_ref().is_none_or(|computed| computed.parameters.is_empty())
    }
}

/// A view that a lookup reads.
#[derive(Clone, Debug)]
pub struct LookupView {
    /// The view.
    pub view: Arc<FeatureView>,
    /// How its rows are packed.
    pub layout: RowLayout,
    /// Which parts of the entity's key are its key, in its order; `None` where the keys are the same. Of a left side, which of
    /// its columns.
    pub parts: Option<Vec<usize>>,
    /// Whether a candidate without a live row here is no row of the answer.
    pub is_required: bool,
}

/// A column of the answer.
#[derive(Clone, Debug)]
pub struct LookupColumn {
    /// Its type.
    pub sql_type: SqlType,
    /// Where its values are.
    pub source: ColumnSource,
}

/// Where the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnSource {
    /// They are there, as packed bytes.
    Cell(CellSource),
    /// They are computed: so many expressions stand before this one.
    Computed(usize),
}

/// Where packed values are; views by their place in the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellSource {
    /// A part of the entity's key.
    Key {
        /// The view without whose live row it is NULL.
        view: Option<usize>,
        /// The part.
        part: usize,
    },
    /// A key of a view's row, where candidates are the rows of a left side.
    OwnKey {
        /// The view.
        view: usize,
        /// Its place among the view's keys.
        key: usize,
    },
    /// A column of the left side.
    Left {
        /// The column.
        column: usize,
    },
    /// The event time of a view's row.
    EventTime {
        /// The view.
        view: usize,
    },
    /// A feature of a view's row.
    Feature {
        /// The view.
        view: usize,
        /// Its place among the view's features.
        place: usize,
    },
}

/// What is computed of the rows of an answer.
#[derive(Clone, Debug)]
pub struct Computed {
    /// The values that it takes, and their types.
    pub inputs: Vec<(CellSource, SqlType)>,
    /// The parameters that it takes, from 0, and their types.
    pub parameters: Vec<(usize, SqlType)>,
    /// The expressions.
    pub expressions: Arc<dyn Compute>,
}

/// Expressions over the rows of an answer.
pub trait Compute: Debug + Send + Sync {
    /// The values of each expression in so many rows. `inputs` are columns of these rows; of each parameter there is one value.
    /// Fails where a value cannot be computed in one of the rows.
    fn columns(&self, inputs: Vec<ArrayRef>, rows: usize, parameters: &[ArrayRef]) -> Result<Vec<ArrayRef>>;
}

//! What a lookup compiles to.

use std::sync::Arc;

use super::keys::KeyPlan;
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
    /// The entities asked for.
    pub keys: KeyPlan,
    /// The views that are asked. An entity without a live row in any of them is no row of the answer.
    pub views: Vec<LookupView>,
    /// The columns of a row of the answer.
    pub columns: Vec<LookupColumn>,
    /// How many rows are wanted.
    pub limit: Option<u64>,
}

impl CompiledLookup {
    /// The names of its views.
    pub fn view_names(&self) -> impl Iterator<Item = &str> {
        self.views.iter().map(|view| view.view.name.as_str())
    }
}

/// A view that a lookup reads.
#[derive(Clone, Debug)]
pub struct LookupView {
    /// The view.
    pub view: Arc<FeatureView>,
    /// How its rows are packed.
    pub layout: RowLayout,
    /// Which parts of the entity's key are its key, in its order; `None` where the keys are the same.
    pub parts: Option<Vec<usize>>,
    /// Whether an entity without a live row here is no row of the answer.
    pub is_required: bool,
}

/// A column of the answer.
#[derive(Clone, Debug)]
pub struct LookupColumn {
    /// Its type.
    pub sql_type: SqlType,
    /// Where its values are.
    pub source: CellSource,
}

/// Where the values of a column are; views by their place in the lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellSource {
    /// A part of the entity's key.
    Key {
        /// The view without whose live row it is NULL.
        view: Option<usize>,
        /// The part.
        part: usize,
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

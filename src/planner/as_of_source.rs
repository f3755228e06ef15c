//! What stands below an as-of join until the join is planned.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result as DfResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties, SendableRecordBatchStream,
};

use super::errors::from_datafusion;
use crate::error::{Error, Result};
use crate::executor::DatasetReader;
use crate::offline::history_schema;
use crate::registry::{FeatureView, Ttl};

/// Stands for a view's history below an as-of join until the join is planned; it cannot run.
#[derive(Debug)]
pub(super) struct AsOfSourceExec {
    view: Arc<FeatureView>,
    reader: DatasetReader,
    projection: Vec<usize>,
    window: Option<Ttl>,
    properties: Arc<PlanProperties>,
}

impl AsOfSourceExec {
    /// The columns of `view`'s stored history at these places, of rows within `window`.
    pub(super) fn new(
        view: Arc<FeatureView>,
        reader: DatasetReader,
        projection: Vec<usize>,
        window: Option<Ttl>,
    ) -> Result<Self> {
        let schema = history_schema(&view).project(&projection).map_err(|error| from_datafusion(error.into()))?;
        let schema: SchemaRef = Arc::new(schema);
        let properties = Arc::new(PlanProperties::new(
            datafusion::physical_expr::EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        ));
        Ok(Self { view, reader, projection, window, properties })
    }

    /// The view, its history, the columns read, and how far from its instant a row may lie.
    pub(super) fn parts(&self) -> (&Arc<FeatureView>, &DatasetReader, &[usize], Option<Ttl>) {
        (&self.view, &self.reader, &self.projection, self.window)
    }
}

impl DisplayAs for AsOfSourceExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AsOfSourceExec: view={}", self.view.name)
    }
}

impl ExecutionPlan for AsOfSourceExec {
    fn name(&self) -> &'static str {
        "AsOfSourceExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, _children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let error = Error::internal(format!("feature view \"{}\" is read AS OF a column outside a join", self.view.name));
        Err(DataFusionError::External(Box::new(error)))
    }
}

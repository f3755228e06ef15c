//! `DatasetScanExec`: stored rows as they are.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::error::Result as DfResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SendableRecordBatchStream};
use futures::{StreamExt, TryStreamExt};

use super::batches::project_schema;
use super::scan_metrics::ScanMetrics;
use super::source::DatasetReader;
use super::{cooperative_stream, external, kernel, one_stream};
use crate::error::Result;
use crate::offline::{Predicate, Scan};

/// Reads the rows of one dataset version, with those the block keeps back, in no order.
#[derive(Debug)]
pub struct DatasetScanExec {
    relation: String,
    reader: DatasetReader,
    scan: Scan,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl DatasetScanExec {
    /// A scan of `columns` of `relation`, of the rows that meet `predicates`.
    pub fn new(relation: String, reader: DatasetReader, columns: Vec<String>, predicates: Vec<Predicate>) -> Result<Self> {
        let schema = project_schema(reader.schema(), &columns, false)?;
        let properties = one_stream(&schema, EmissionType::Incremental);
        let mut scan = Scan { columns, predicates, ..Scan::default() };
        if scan.columns.is_empty() {
            // Somebody counts rows: a column has to be read for that, and is dropped again.
            scan.columns.extend(reader.schema().fields().first().map(|field| field.name().clone()));
        }
        Ok(Self { relation, reader, scan, schema, properties, metrics: ExecutionPlanMetricsSet::new() })
    }
}

impl DisplayAs for DatasetScanExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatasetScanExec: {}, version={}", self.relation, self.reader.version())?;
        for predicate in &self.scan.predicates {
            match predicate {
                Predicate::In { column, values } => write!(f, ", {column} in {} values", values.len())?,
                Predicate::EventTime { column, min, max } => {
                    write!(f, ", {column} in [")?;
                    min.iter().try_for_each(|min| write!(f, "{min}"))?;
                    f.write_str(" .. ")?;
                    max.iter().try_for_each(|max| write!(f, "{max}"))?;
                    f.write_str("]")?;
                }
            }
        }
        Ok(())
    }
}

impl ExecutionPlan for DatasetScanExec {
    fn name(&self) -> &'static str {
        "DatasetScanExec"
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

    fn execute(&self, partition: usize, _context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        let (reader, scan) = (self.reader.watched_by(ScanMetrics::new(&self.metrics, partition)), self.scan.clone());
        let metrics = BaselineMetrics::new(&self.metrics, partition);
        let rows = async move { reader.scan(scan).await };
        let columns: Vec<usize> = (0..self.schema.fields().len()).collect();
        let stream = futures::stream::once(rows)
            .try_flatten()
            .and_then(move |batch| std::future::ready(batch.project(&columns).map_err(kernel)))
            .inspect_ok(move |batch| metrics.record_output(batch.num_rows()))
            .map_err(external)
            .boxed();
        Ok(cooperative_stream(Arc::clone(&self.schema), stream))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

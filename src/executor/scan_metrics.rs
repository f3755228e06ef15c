//! What `EXPLAIN ANALYZE` shows of an operator's scans.

use std::sync::Arc;

use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};

use crate::offline::{Coverage, ScanWatch};

/// Sums over the scans of one operator. Rows are counted as they lie in the files, before predicates are judged.
#[derive(Debug)]
pub(super) struct ScanMetrics {
    fragments: Count,
    fragments_pruned: Count,
    rows_read: Count,
    rows_skipped: Count,
}

impl ScanMetrics {
    pub(super) fn new(metrics: &ExecutionPlanMetricsSet, partition: usize) -> Arc<Self> {
        let count = |name: &'static str| MetricBuilder::new(metrics).counter(name, partition);
        Arc::new(Self {
            fragments: count("fragments"),
            fragments_pruned: count("fragments_pruned"),
            rows_read: count("rows_read"),
            rows_skipped: count("rows_skipped"),
        })
    }
}

impl ScanWatch for ScanMetrics {
    fn scans(&self, coverage: Coverage) {
        let Coverage { fragments, fragments_pruned, rows_read, rows_skipped } = coverage;
        self.fragments.add(fragments);
        self.fragments_pruned.add(fragments_pruned);
        self.rows_read.add(rows_read);
        self.rows_skipped.add(rows_skipped);
    }
}

//! Tables over files elsewhere, read only.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::datasource::file_format::FileFormat as Format;
use datafusion::datasource::file_format::csv::CsvFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::execution::context::SessionContext;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::StatementContext;
use super::errors::from_datafusion;
use crate::error::{Error, Result, SqlState};
use crate::registry::{FileFormat, Table, TableSource};
use crate::types::SqlType;

/// A table over files. Its columns are those in the registry, whatever the files have become since; a file that no longer
/// has them fails when it is read. Costs a listing of the files.
pub fn external_table(
    _context: &Arc<StatementContext>,
    table: &Arc<Table>,
) -> BoxFuture<'static, Result<Arc<dyn TableProvider>>> {
    let table = Arc::clone(table);
    async move {
        let TableSource::External { format, location } = &table.source else {
            return Err(Error::internal(format!("table \"{}\" is not external", table.name)));
        };
        let url = url(location)?;
        // Files seldom promise what a NOT NULL column does.
        let fields = table.columns.iter().map(|column| column.data_type.field(&column.name, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let config = ListingTableConfig::new(url).with_listing_options(options(*format)).with_schema(schema);
        let provider = ListingTable::try_new(config).map_err(from_datafusion)?;
        Ok(Arc::new(provider) as Arc<dyn TableProvider>)
    }
    .boxed()
}

/// The columns that the files at `location` have. Reads their footers, or the first rows of a CSV file.
pub async fn infer_external_schema(format: FileFormat, location: &str) -> Result<SchemaRef> {
    let url = url(location)?;
    let state = SessionContext::new().state();
    let inferred = options(format).infer_schema(&state, &url).await.map_err(from_datafusion)?;
    if inferred.fields().is_empty() {
        return Err(Error::new(SqlState::IoError, format!("could not find any rows at \"{location}\"")));
    }
    let fields = inferred.fields().iter().map(|field| match SqlType::of_field(field) {
        Some(sql_type) => Ok(sql_type.field(field.name(), true)),
        None => Err(Error::unsupported(format!("column \"{}\" of type {}", field.name(), field.data_type()))),
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

fn url(location: &str) -> Result<ListingTableUrl> {
    if !location.contains("://") && !std::path::Path::new(location).exists() {
        return Err(Error::new(SqlState::IoError, format!("could not open file \"{location}\": No such file or directory")));
    }
    ListingTableUrl::parse(location)
        .map_err(|error| Error::new(SqlState::InvalidParameterValue, format!("invalid location \"{location}\"")).caused_by(error))
}

fn options(format: FileFormat) -> ListingOptions {
    let format: Arc<dyn Format> = match format {
        FileFormat::Parquet => Arc::new(ParquetFormat::default().with_force_view_types(false)),
        FileFormat::Csv { header, delimiter } => Arc::new(CsvFormat::default().with_has_header(header).with_delimiter(delimiter)),
    };
    ListingOptions::new(format).with_file_extension("").with_collect_stat(true)
}

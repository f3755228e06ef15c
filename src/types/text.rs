//! PostgreSQL's text form of values, both ways.

use arrow::array::ArrayRef;

use super::SqlType;
use crate::error::{Error, Result};

/// Builds a column of one SQL type from PostgreSQL text: parameters, `COPY` fields, string literals.
#[derive(Debug)]
pub struct TextParser {
    data_type: SqlType,
}

impl TextParser {
    /// A parser for values of `data_type`; instants without a zone are read in `time_zone` (an IANA name or an offset).
    pub fn new(data_type: &SqlType, _time_zone: &str) -> Result<Self> {
        Ok(Self { data_type: data_type.clone() })
    }

    /// Adds a value; `None` is NULL. Errors carry the SQLSTATE and message PostgreSQL would give
    /// (`22P02`: `invalid input syntax for type bigint: "x"`).
    pub fn append(&mut self, _text: Option<&str>) -> Result<()> {
        Err(Error::unsupported(format!("text of type {}", self.data_type)))
    }

    /// The values added so far, of the type's Arrow form.
    pub fn finish(&mut self) -> ArrayRef {
        arrow::array::new_empty_array(&self.data_type.arrow())
    }
}

//! Statements that write rows: `INSERT`, `COPY … FROM`, `CREATE TABLE … AS`. All end in [`Ingest::write`](crate::ingest::Ingest::write).

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::scalar::ScalarValue;
use futures::{StreamExt, TryStreamExt};

use super::block::too_much_written;
use super::{Answer, CopyIn, Session};
use crate::error::{Error, Result, SqlState};
use crate::executor::{at_length, own_bytes};
use crate::ingest::Intake;
use crate::parser::{
    CopyOptions, Insert, Query, RelationName, Statement, assigned_parameters, takes_type_of_column, with_defaults,
};
use crate::planner::{Rows, typed_literals};
use crate::registry::{Change, Column, ObjectKind, TableSource, Target};
use crate::types::SqlType;

impl Session {
    /// The relation a statement writes to.
    pub(super) fn target(&self, name: &RelationName) -> Result<Target> {
        let (context, _) = self.context();
        let registry = &context.registry;
        match name.schema.as_deref() {
            None | Some("public") => {}
            Some("history") if registry.views.contains_key(&name.name) => {
                return Err(Error::new(SqlState::WrongObjectType, format!("cannot write to \"history.{}\"", name.name))
                    .hint(format!("Write to \"{}\": every row written is kept in its history.", name.name)));
            }
            Some("tidegate" | "pg_catalog" | "information_schema") => {
                return Err(Error::new(SqlState::WrongObjectType, format!("cannot write to system relation \"{}\"", name.name))
                    .hint("CREATE, DROP and COMMENT change what it shows."));
            }
            Some(_) => return Err(undefined_relation(name)),
        }
        if let Some(view) = registry.views.get(&name.name) {
            return Ok(Target::View(Arc::clone(view)));
        }
        match registry.tables.get(&name.name) {
            Some(table) if table.source == TableSource::Stored => Ok(Target::Table(Arc::clone(table))),
            Some(_) => Err(Error::new(SqlState::WrongObjectType, format!("cannot write to external table \"{}\"", name.name))
                .hint("Write its files, or insert into a table of the store.")),
            None if registry.sql_views.contains_key(&name.name) => {
                Err(Error::new(SqlState::WrongObjectType, format!("cannot insert into view \"{}\"", name.name))
                    .hint("Write to the relations it reads."))
            }
            None if registry.services.contains_key(&name.name) => {
                Err(Error::new(SqlState::WrongObjectType, format!("cannot insert into feature service \"{}\"", name.name))
                    .hint("Write to the feature views it reads."))
            }
            None => Err(undefined_relation(name)),
        }
    }

    pub(super) async fn insert(&mut self, insert: &Insert, types: &[SqlType], parameters: &[ScalarValue]) -> Result<Answer> {
        self.refuse_if_read_only("INSERT")?;
        let target = self.target(&insert.table)?;
        let columns = named_columns(&target, &insert.columns)?;
        let stated: Vec<_> = types.iter().cloned().map(Some).collect();
        let types: Vec<SqlType> = placeholder_types(&insert.source, &columns, &stated).into_iter().flatten().collect();
        let source = typed_literals(with_defaults(&insert.source, event_time_among(&target, &columns)), &columns)?;
        let rows = self.rows(&source, &types, parameters).await?;
        let schema = as_columns(&target, &columns, !insert.columns.is_empty(), &rows.schema, &insert.source)?;
        let count = self.write_rows(&target, rows, schema).await?;
        Ok(Answer::Done(format!("INSERT 0 {count}")))
    }

    /// Writes the rows of a query under these column names: as they come, or in a block when it ends.
    async fn write_rows(&mut self, target: &Target, rows: Rows, names: SchemaRef) -> Result<u64> {
        if self.block.is_some() {
            let batch = self.collect(rows.stream, &rows.schema).await?;
            return self.validate_and_write(target, &renamed(&batch, names)?).await;
        }
        let named = rows.stream.map(move |batch| batch.and_then(|batch| renamed(&batch, Arc::clone(&names))));
        let written = self.services.ingest.write_stream(target, named.boxed(), self.intake()).await?;
        self.warn(written.warnings);
        Ok(written.rows)
    }

    async fn validate_and_write(&mut self, target: &Target, batch: &RecordBatch) -> Result<u64> {
        let rows = self.services.ingest.validate(target, batch, &self.intake())?;
        self.write(rows).await
    }

    fn intake(&self) -> Intake {
        Intake { now: self.services.clock.now(), time_zone: self.settings.time_zone().to_owned(), first_row: 0 }
    }

    /// Collects what a statement is to write, within the limit.
    async fn collect(&self, mut stream: crate::offline::BatchStream, schema: &SchemaRef) -> Result<RecordBatch> {
        let limit = self.services.limits.write_bytes_max;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = stream.try_next().await? {
            bytes += own_bytes(&batch);
            if bytes > limit {
                return Err(too_much_written(limit));
            }
            batches.push(batch);
        }
        let schema = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
        concat_batches(&schema, &batches).map_err(|source| Error::internal("could not gather rows").caused_by(source))
    }

    pub(super) fn start_copy_in(&self, table: &RelationName, columns: &[String], options: &CopyOptions) -> Result<Answer> {
        self.refuse_if_read_only("COPY FROM")?;
        let target = self.target(table)?;
        let columns = named_columns(&target, columns)?;
        // What the client sends may hold NULL anywhere; the write path says where it may not.
        let columns = columns.iter().map(|column| column.as_ref().clone().with_nullable(true)).collect::<Vec<_>>();
        let columns = Arc::new(Schema::new(columns));
        Ok(Answer::CopyIn(CopyIn { target, columns, options: options.clone() }))
    }

    /// Writes what a `COPY … FROM STDIN` brought; gives the tag.
    pub async fn copy_in(&mut self, copy: &CopyIn, rows: Vec<RecordBatch>) -> Result<String> {
        let gather = || concat_batches(&copy.columns, &rows);
        let batch = if rows.len() > 1 { at_length(gather) } else { gather() };
        let batch = batch.map_err(|source| Error::internal("could not gather rows").caused_by(source))?;
        let count = self.validate_and_write(&copy.target, &batch).await?;
        Ok(format!("COPY {count}"))
    }

    pub(super) async fn create_table_as(&mut self, statement: &Statement) -> Result<Answer> {
        let Statement::CreateTableAs { name, columns, query, if_not_exists, with_data } = statement else {
            return Err(Error::internal("not a CREATE TABLE AS"));
        };
        self.refuse_if_read_only("CREATE TABLE AS")?;
        super::define::in_public(name)?;
        if *if_not_exists && self.skip_existing(&name.name) {
            return Ok(Answer::Done("CREATE TABLE AS".into()));
        }
        let rows = self.rows(query, &[], &[]).await?;
        let table_columns = query_columns(&rows.schema, columns)?;
        let change = Change::CreateTable {
            name: name.name.clone(),
            columns: table_columns,
            source: TableSource::Stored,
            if_not_exists: false,
        };
        // A name that is taken is found out before the rows are.
        self.context().0.registry.apply(&change)?;
        self.create(&change, ObjectKind::Table, &name.name).await?;
        let target = self.target(name)?;
        if !*with_data {
            return Ok(Answer::Done("CREATE TABLE AS".into()));
        }
        let names = target.schema();
        let count = match self.write_rows(&target, rows, names).await {
            Ok(count) => count,
            Err(error) => {
                let undo = Change::Drop { kind: ObjectKind::Table, name: name.name.clone(), if_exists: true };
                self.change_now(&undo).await?;
                return Err(error);
            }
        };
        Ok(Answer::Done(format!("SELECT {count}")))
    }
}

pub(super) fn undefined_relation(name: &RelationName) -> Error {
    let shown = match &name.schema {
        Some(schema) => format!("{schema}.{}", name.name),
        None => name.name.clone(),
    };
    Error::new(SqlState::UndefinedTable, format!("relation \"{shown}\" does not exist"))
}

/// The target's columns that a statement names, in its order; all of them where it names none.
pub(super) fn named_columns(target: &Target, names: &[String]) -> Result<Vec<FieldRef>> {
    let schema = target.schema();
    if names.is_empty() {
        return Ok(schema.fields().iter().cloned().collect());
    }
    let mut columns: Vec<FieldRef> = Vec::with_capacity(names.len());
    for name in names {
        let (_, field) = schema.fields().find(name).ok_or_else(|| {
            Error::new(SqlState::UndefinedColumn, format!("column \"{name}\" of relation \"{}\" does not exist", target.name()))
        })?;
        if columns.iter().any(|column| column.name() == name) {
            return Err(Error::new(SqlState::DuplicateColumn, format!("column \"{name}\" specified more than once")));
        }
        columns.push(Arc::clone(field));
    }
    Ok(columns)
}

/// Where the event time stands among the columns written, if it does.
pub(super) fn event_time_among(target: &Target, columns: &[FieldRef]) -> Option<usize> {
    match target {
        Target::View(view) => columns.iter().position(|column| *column.name() == view.event_time),
        Target::Table(_) => None,
    }
}

/// The columns a table made from a query has.
pub(super) fn query_columns(schema: &SchemaRef, names: &[String]) -> Result<Vec<Column>> {
    if names.len() > schema.fields().len() {
        return Err(Error::new(SqlState::SyntaxError, "too many column names were specified"));
    }
    let column = |(n, field): (usize, &FieldRef)| {
        let name = names.get(n).unwrap_or(field.name()).clone();
        let data_type = SqlType::of_field(field)
            .ok_or_else(|| Error::unsupported(format!("column \"{name}\" of type {}", field.data_type())))?;
        Ok(Column { name, data_type, nullable: true, comment: None })
    };
    schema.fields().iter().enumerate().map(column).collect()
}

/// The same rows under other column names.
fn renamed(batch: &RecordBatch, names: SchemaRef) -> Result<RecordBatch> {
    let fields = batch.schema_ref().fields().iter().zip(names.fields());
    let fields: Vec<Field> = fields.map(|(own, named)| own.as_ref().clone().with_name(named.name())).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), batch.columns().to_vec())
        .map_err(|source| Error::internal("could not name columns").caused_by(source))
}

/// The schema whose names the source's columns get, after checking that they can be assigned.
fn as_columns(target: &Target, columns: &[FieldRef], named: bool, source: &SchemaRef, query: &Query) -> Result<SchemaRef> {
    let given = source.fields().len();
    if given > columns.len() {
        return Err(Error::new(SqlState::SyntaxError, "INSERT has more expressions than target columns"));
    }
    if given < columns.len() && named {
        return Err(Error::new(SqlState::SyntaxError, "INSERT has more target columns than expressions"));
    }
    for (n, (field, column)) in source.fields().iter().zip(columns).enumerate() {
        let (Some(from), Some(to)) = (SqlType::of_field(field), SqlType::of_field(column)) else { continue };
        let unknown = field.data_type().is_null() || takes_type_of_column(query, n);
        if !unknown && !is_assignable(&from, &to) {
            return Err(Error::new(
                SqlState::DatatypeMismatch,
                format!("column \"{}\" is of type {to} but expression is of type {from}", column.name()),
            )
            .hint("You will need to rewrite or cast the expression.")
            .detail(format!("Relation \"{}\".", target.name())));
        }
    }
    Ok(Arc::new(Schema::new(columns.iter().take(given).cloned().collect::<Vec<_>>())))
}

/// PostgreSQL's assignment casts among the types there are (`pg_cast`, contexts `a` and `i`).
fn is_assignable(from: &SqlType, to: &SqlType) -> bool {
    use SqlType::{
        Array, BigInt, Date, DoublePrecision, Integer, Interval, Json, Name, Numeric, Oid, Real, SmallInt, Text, Time, Timestamp,
        TimestampTz, Vector,
    };
    let number =
        |data_type: &SqlType| matches!(data_type, SmallInt | Integer | BigInt | Real | DoublePrecision | Numeric { .. } | Oid);
    match (from, to) {
        (from, to) if from == to => true,
        (_, Text | Name) => true,
        (from, to) if number(from) && number(to) => true,
        (Date, Timestamp | TimestampTz) | (Timestamp, TimestampTz | Date | Time) | (TimestampTz, Timestamp | Date | Time) => true,
        (Time, Interval) | (Interval, Time) => true,
        (Text, Json) => false,
        (Array(from), Array(to)) => is_assignable(from, to),
        (Array(from), Vector(_)) => number(from),
        (Vector(_), Array(to)) => number(to),
        (Vector(_), Vector(_)) => true,
        _ => false,
    }
}

/// The types of parameters that stand alone where a column's value stands: the column's, unless the client stated one.
pub(super) fn placeholder_types(query: &Query, columns: &[FieldRef], stated: &[Option<SqlType>]) -> Vec<Option<SqlType>> {
    let mut types = stated.to_vec();
    for (parameter, column) in assigned_parameters(query) {
        if types.len() < parameter {
            types.resize(parameter, None);
        }
        if types[parameter - 1].is_none() {
            types[parameter - 1] = columns.get(column).and_then(|field| SqlType::of_field(field));
        }
    }
    types
}

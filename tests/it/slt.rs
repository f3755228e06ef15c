//! The scripts of `tests/slt`, each on a fresh store, over both protocols and both online stores.
//!
//! A script reads as psql shows values: NULL as `NULL`, an empty text as `(empty)`. An expected error is a pattern over
//! `SQLSTATE: message`, then `DETAIL:` and `HINT:` lines. A `COPY … FROM STDIN` carries its data on the lines after the first.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt, TryStreamExt};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::{self, Online, Setup};
use crate::text::ValueText;

/// How many scripts run at once.
const AT_ONCE: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

#[tokio::test]
async fn scripts_hold_over_the_simple_protocol() {
    run_all(Protocol::Simple, Online::Embedded).await;
}

#[tokio::test]
async fn scripts_hold_over_the_extended_protocol() {
    run_all(Protocol::Extended, Online::Embedded).await;
}

#[tokio::test]
async fn scripts_hold_over_the_simple_protocol_on_redis() {
    run_all(Protocol::Simple, Online::Redis).await;
}

#[tokio::test]
async fn scripts_hold_over_the_extended_protocol_on_redis() {
    run_all(Protocol::Extended, Online::Redis).await;
}

/// Runs every script, or those whose path contains `TIDEGATE_SLT`; reports all that fail, not only the first.
async fn run_all(protocol: Protocol, online: Online) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slt");
    let wanted = std::env::var("TIDEGATE_SLT").unwrap_or_default();
    let scripts: Vec<PathBuf> = scripts(&root).into_iter().filter(|path| path.to_string_lossy().contains(&wanted)).collect();
    assert!(!scripts.is_empty(), "no script matches {wanted:?}");
    let failures: Vec<String> = futures::stream::iter(scripts)
        .map(|script| async move { run_script(&script, protocol, online).await.err() })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(failures.is_empty(), "{} scripts fail:\n\n{}", failures.len(), failures.join("\n\n"));
}

async fn run_script(script: &Path, protocol: Protocol, online: Online) -> Result<(), String> {
    let gateway = Setup::new(online).start();
    let mut runner =
        Runner::new(|| async { Ok(Connection { client: gateway.try_connect().await.map_err(ScriptError)?, protocol }) });
    runner.add_label(if protocol == Protocol::Simple { "simple" } else { "extended" });
    runner.add_label(if online == Online::Redis { "redis" } else { "embedded" });
    runner.run_file_async(script).await.map_err(|error| error.display(false).to_string())
}

fn scripts(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(scripts(&path));
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            found.push(path);
        }
    }
    found.sort();
    found
}

struct Connection {
    client: Client,
    protocol: Protocol,
}

impl Connection {
    async fn simple(&self, sql: &str) -> Result<Output, ScriptError> {
        let (mut columns, mut rows, mut count) = (0, Vec::new(), 0);
        for message in self.client.simple_query(sql).await.map_err(ScriptError)? {
            match message {
                SimpleQueryMessage::RowDescription(description) => columns = description.len(),
                SimpleQueryMessage::Row(row) => rows.push((0..row.len()).map(|column| show(row.get(column))).collect()),
                SimpleQueryMessage::CommandComplete(affected) => count = affected,
                _ => {}
            }
        }
        Ok(output(columns, rows, count))
    }

    async fn extended(&self, sql: &str) -> Result<Output, ScriptError> {
        let statement = self.client.prepare(sql).await.map_err(ScriptError)?;
        let columns = statement.columns().len();
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
        let mut stream = pin!(self.client.query_raw(&statement, parameters).await.map_err(ScriptError)?);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await.map_err(ScriptError)? {
            let row = (0..columns).map(|column| row.get::<_, Option<ValueText>>(column));
            rows.push(row.map(|value| show(value.as_ref().map(ValueText::as_str))).collect());
        }
        Ok(output(columns, rows, stream.rows_affected().unwrap_or_default()))
    }

    async fn copy_in(&self, sql: &str, data: &str) -> Result<Output, ScriptError> {
        let mut sink = pin!(self.client.copy_in::<_, Bytes>(sql).await.map_err(ScriptError)?);
        sink.send(Bytes::from(format!("{data}\n"))).await.map_err(ScriptError)?;
        sink.finish().await.map(DBOutput::StatementComplete).map_err(ScriptError)
    }

    async fn copy_out(&self, sql: &str) -> Result<Output, ScriptError> {
        let stream = self.client.copy_out(sql).await.map_err(ScriptError)?;
        let chunks: Vec<Bytes> = stream.try_collect().await.map_err(ScriptError)?;
        let text = String::from_utf8(chunks.concat()).unwrap();
        Ok(output(1, text.lines().map(|line| vec![show(Some(line))]).collect(), 0))
    }
}

type Output = DBOutput<DefaultColumnType>;

fn output(columns: usize, rows: Vec<Vec<String>>, count: u64) -> Output {
    if columns == 0 {
        return DBOutput::StatementComplete(count);
    }
    DBOutput::Rows { types: vec![DefaultColumnType::Any; columns], rows }
}

fn show(value: Option<&str>) -> String {
    match value {
        None => "NULL".into(),
        Some("") => "(empty)".into(),
        Some(text) => text.into(),
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = ScriptError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<Output, ScriptError> {
        let start = sql.trim_start().to_ascii_uppercase();
        let first_line = start.lines().next().unwrap_or_default();
        if start.starts_with("COPY") && first_line.contains("STDIN") {
            let (statement, data) = sql.split_once('\n').unwrap_or((sql, ""));
            return self.copy_in(statement, data).await;
        }
        if start.starts_with("COPY") && start.contains("STDOUT") {
            return self.copy_out(sql).await;
        }
        match self.protocol {
            Protocol::Simple => self.simple(sql).await,
            Protocol::Extended => self.extended(sql).await,
        }
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "tidegate"
    }

    fn error_sql_state(error: &ScriptError) -> Option<String> {
        error.0.code().map(|code| code.code().to_owned())
    }
}

#[derive(Debug)]
struct ScriptError(tokio_postgres::Error);

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&harness::explain(&self.0))
    }
}

impl std::error::Error for ScriptError {}

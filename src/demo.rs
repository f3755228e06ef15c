//! `tidegate demo`: a guided session on real data, on embedded stores, then a gateway to go on with.
//!
//! The session is `sql/quickstart.sql`, the README's own: its comments are read aloud, its statements run as a client's
//! would, and each answer is shown with the time it took.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Config, Given};
use crate::error::{Error, Result, SqlState};
use crate::gateway::Gateway;
use crate::parser;
use crate::protocol::text_cells;
use crate::session::{Answer, Login, Session};

/// The session.
const SCRIPT: &str = include_str!("../sql/quickstart.sql");

/// Where the clock stands: the last midnight of the data.
const CLOCK: &str = "2013-12-31 00:00:00Z";

/// The data, from the project's folder.
const DATA: &str = "examples/nycflights13";

/// The most rows of one answer that are shown.
const ROWS_SHOWN_MAX: usize = 20;

/// Runs the session, then serves on `listen` until `shutdown` completes; with `once` it ends after the session.
///
/// The store is a new folder among the temporary files, removed at the end. Fails where the example's data is not in the
/// working folder.
pub async fn run(listen: String, once: bool, shutdown: impl Future<Output = ()>) -> Result<()> {
    if !Path::new(DATA).is_dir() {
        return Err(Error::new(SqlState::ConfigFileError, format!("the demo's data is not here: {DATA}"))
            .hint("Run it in the project's folder: make demo."));
    }
    let folder = std::env::temp_dir().join(format!("tidegate-demo-{}", std::process::id()));
    let given = Given {
        listen: Some(listen),
        data: Some(folder.to_string_lossy().into_owned()),
        clock: Some(CLOCK.to_owned()),
        ..Given::default()
    };
    let outcome = in_folder(given.resolve(None)?, once, shutdown).await;
    if let Err(problem) = std::fs::remove_dir_all(&folder) {
        tracing::warn!(%problem, folder = %folder.display(), "could not remove the demo's store");
    }
    outcome
}

async fn in_folder(config: Config, once: bool, shutdown: impl Future<Output = ()>) -> Result<()> {
    let gateway = Gateway::open(config).await?;
    let login = Login { user: "demo".into(), database: "tidegate".into(), settings: Vec::new(), backend_pid: 1 };
    let mut session = Session::open(gateway.services(), login)?;
    say("Tidegate's demo: every flight that left New York in 2013, and its weather. Embedded stores, nothing to install.\n");
    tokio::pin!(shutdown);
    tokio::select! {
        () = &mut shutdown => return Ok(()),
        told = tell(&mut session) => told?,
    }
    drop(session);
    if once {
        return Ok(());
    }
    gateway
        .serve(
            |address| {
                say(&format!(
                    "Now it is yours. The gateway goes on serving; in another terminal:\n\n    psql \"host={} port={} user=demo dbname=tidegate\"\n\nCtrl-C ends it and removes its data.",
                    address.ip(),
                    address.port()
                ));
            },
            shutdown,
        )
        .await
}

/// Reads the script aloud: its comments, its statements, their answers.
async fn tell(session: &mut Session) -> Result<()> {
    let mut statement = String::new();
    for line in SCRIPT.lines() {
        if let Some(comment) = line.strip_prefix("--") {
            say(&format!("\n\u{25b6}{comment}"));
            continue;
        }
        if line.trim().is_empty() {
            continue;
        }
        say(&format!("  {line}"));
        statement.push_str(line);
        statement.push('\n');
        if line.ends_with(';') {
            answer(session, &statement).await?;
            statement.clear();
        }
    }
    Ok(())
}

async fn answer(session: &mut Session, sql: &str) -> Result<()> {
    let progress = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("    {spinner} {elapsed_precise} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    progress.set_message(if sql.contains("INSERT") { "loading" } else { "running" });
    progress.enable_steady_tick(Duration::from_millis(100));
    let started = std::time::Instant::now();
    let mut shown = Vec::new();
    for statement in parser::parse(sql)? {
        let prepared = session.prepare(statement, &[]).await?;
        match session.run(&prepared, &[]).await? {
            Answer::Rows { schema, stream, .. } => {
                let batches: Vec<RecordBatch> = stream.try_collect().await?;
                let names = schema.fields().iter().map(|field| field.name().clone()).collect();
                shown = table(names, &batches)?;
            }
            Answer::Done(tag) => shown = vec![tag],
            Answer::CopyIn(_) | Answer::CopyOut { .. } | Answer::Empty => {}
        }
    }
    let elapsed = started.elapsed();
    progress.finish_and_clear();
    for line in shown {
        say(&format!("    {line}"));
    }
    say(&format!("    ({:.1} ms)", elapsed.as_secs_f64() * 1e3));
    Ok(())
}

/// Rows under their names, columns in line.
fn table(names: Vec<String>, batches: &[RecordBatch]) -> Result<Vec<String>> {
    let mut rows: Vec<Vec<String>> = vec![names];
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    for batch in batches {
        let left = ROWS_SHOWN_MAX.saturating_sub(rows.len() - 1).min(batch.num_rows());
        for row in text_cells(&batch.slice(0, left), "UTC")? {
            rows.push(row.into_iter().map(Option::unwrap_or_default).collect());
        }
    }
    let columns = rows[0].len();
    let widths: Arc<[usize]> =
        (0..columns).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(widths.iter()).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join(" | ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.insert(1, widths.iter().map(|width| "-".repeat(*width)).collect::<Vec<_>>().join("-+-"));
    if count > ROWS_SHOWN_MAX {
        lines.push(format!("… {count} rows"));
    }
    Ok(lines)
}

#[expect(clippy::print_stdout, reason = "the demo speaks to whoever started it")]
fn say(text: &str) {
    println!("{text}");
}

//! The command line of Tidegate.

mod allocator;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tidegate::config::{ConfigFile, Given, refuse_unknown_variables};
use tidegate::error::{Error, Result, SqlState};
use tidegate::gateway::Gateway;
use tidegate::gateway::audit::{self, Audited, Repair};
use tidegate::server::connection_runtime;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: allocator::BySize = allocator::BySize;

/// A feature store that speaks PostgreSQL
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve clients until told to stop
    Serve {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        given: Given,
    },
    /// Hold the rows in Redis against the history in the data folder, row by row
    ///
    /// Reads both stores directly, while gateways serve. Prints a line a view: how many entities should have an online row, and
    /// how many rows are missing, older or newer than the newest, different in content, or of entities that the history does
    /// not know. Exits with 0 where there is no difference, or none is left; with 1 where there is one; with 2 where it could
    /// not look.
    Audit {
        /// The feature views; all that are kept online where none is named
        #[arg(value_name = "VIEW")]
        views: Vec<String>,
        /// Build the online rows of views that differ anew, while gateways serve them from the history
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        given: Given,
    },
    /// Load real data into an embedded store, show what it answers, and keep serving
    Demo {
        /// The address to listen on
        #[arg(long, default_value = "127.0.0.1:6432", value_name = "HOST:PORT")]
        listen: String,
        /// Stop after the session instead of serving on
        #[arg(long)]
        once: bool,
    },
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    tune_libraries();
    let filter = EnvFilter::try_from_env("TIDEGATE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,tidegate=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let trouble = match command_line.command {
        Command::Audit { .. } => ExitCode::from(2),
        Command::Serve { .. } | Command::Demo { .. } => ExitCode::FAILURE,
    };
    match run(command_line.command) {
        Ok(code) => code,
        Err(error) => {
            complain(&error);
            trouble
        }
    }
}

/// Settings that libraries read from the environment when the process starts, and nowhere else. Starts this program again
/// with them, in the same process, unless they are there; where that fails it goes on without them, slower.
fn tune_libraries() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    let settings = [
        // Lance leaves two cores to input and output, so of two it would use one.
        ("LANCE_CPU_THREADS", cores.as_str()),
        // Of the system's allocator, which large blocks come from: few arenas, so that threads use each other's freed blocks;
        // none but the largest blocks from pages of their own, and only so much free memory given back, because getting a page
        // from the system costs more than filling it.
        ("MALLOC_ARENA_MAX", "2"),
        ("MALLOC_MMAP_THRESHOLD_", "33554432"),
        ("MALLOC_TRIM_THRESHOLD_", "268435456"),
        // Huge pages are given back to the system whole or not at all: with them the process keeps twice what it uses.
        ("MIMALLOC_ALLOW_THP", "0"),
    ];
    let missing: Vec<_> = settings.into_iter().filter(|(name, _)| std::env::var_os(name).is_none()).collect();
    if missing.is_empty() {
        return;
    }
    let mut arguments = std::env::args_os();
    let (Some(name), Ok(program)) = (arguments.next(), std::env::current_exe()) else { return };
    let error = std::process::Command::new(program).arg0(name).args(arguments).envs(missing).exec();
    tracing::debug!(%error, "could not start again with tuned libraries");
}

fn run(command: Command) -> Result<ExitCode> {
    refuse_unknown_variables(std::env::vars().map(|(name, _)| name))?;
    match command {
        Command::Serve { file, given } => {
            let config = given.resolve(file.config.as_deref())?;
            connection_runtime()?.block_on(async {
                Gateway::open(config).await?.serve(announce, stop_signal()).await?;
                Ok(ExitCode::SUCCESS)
            })
        }
        Command::Audit { views, repair, file, given } => {
            let repair = if repair { Repair::Yes } else { Repair::No };
            let config = given.resolve(file.config.as_deref())?;
            let audited = all_processors()?.block_on(audit::audit(&config, &views, repair))?;
            say(&audit::summary(&audited));
            Ok(if audited.iter().all(Audited::agrees) { ExitCode::SUCCESS } else { ExitCode::from(1) })
        }
        Command::Demo { listen, once } => {
            connection_runtime()?.block_on(tidegate::demo::run(listen, once, stop_signal()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A runtime for what serves nobody, with a thread for each processor.
fn all_processors() -> Result<Runtime> {
    Runtime::new().map_err(|source| Error::new(SqlState::SystemError, "could not start the threads").caused_by(source))
}

#[expect(clippy::print_stdout, reason = "the answer of a command that has one")]
fn say(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stdout, reason = "the one line that says where connections are accepted")]
fn announce(address: std::net::SocketAddr) {
    println!("tidegate is accepting connections on {address}");
}

#[expect(clippy::print_stderr, reason = "the command line's own answer")]
fn complain(error: &Error) {
    eprintln!("tidegate: {error}");
    if let Some(hint) = error.hint_text() {
        eprintln!("hint: {hint}");
    }
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        eprintln!("caused by: {cause}");
        source = cause.source();
    }
}

/// Completes on SIGTERM or SIGINT.
async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

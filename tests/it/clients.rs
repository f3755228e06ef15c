//! Other people's clients: psql, psycopg 3, asyncpg and tokio-postgres each create, insert with parameters, copy, look up and join.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Output, Stdio};

use bytes::Bytes;
use futures::SinkExt;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;

use crate::harness::{self, Gateway, Online, Setup};

fn clients(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

/// Runs `psql` against the gateway, with nothing of the machine's settings.
pub(crate) fn psql(gateway: &Gateway, arguments: &[&str]) -> Output {
    let output = psql_command(gateway).args(arguments).output();
    output.expect("psql is installed (`make test` installs it; or: apt-get install postgresql-client)")
}

fn psql_command(gateway: &Gateway) -> Command {
    let port = gateway.address().port().to_string();
    let mut command = Command::new("psql");
    command.args(["-X", "-h", "127.0.0.1", "-p", &port, "-U", "tester", "-d", "tidegate"]).env_clear();
    let path = std::env::var("PATH").unwrap_or_default();
    command.envs([("PATH", path.as_str()), ("LC_ALL", "C.UTF-8"), ("PAGER", ""), ("PGTZ", "UTC")]);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn psql_runs_a_session() {
    let gateway = Setup::new(Online::Redis).start();
    let script = clients("psql_session.sql");
    let output = psql(&gateway, &["-f", script.to_str().unwrap()]);
    let text = text(&output);
    let expected = std::fs::read_to_string(clients("psql_session.out")).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.starts_with(&expected), "{text}\n--- expected to begin with\n{expected}");
    let described = &text[expected.len()..];
    for line in
        ["customer_id | bigint", "event_time  | timestamp with time zone", "amount      | double precision", "plan        | text"]
    {
        assert!(described.contains(line), "\\d spend shows {line:?}:\n{described}");
    }
    assert!(described.contains("labels"), "\\dt shows the table:\n{described}");
}

#[test]
fn psql_looks_around() {
    let gateway = Setup::new(Online::Embedded).start();
    let define = "CREATE ENTITY customer KEY (customer_id BIGINT)";
    assert!(psql(&gateway, &["-c", define]).status.success());
    let view =
        "CREATE FEATURE VIEW spend (amount DOUBLE PRECISION COMMENT 'in euros') ENTITY customer COMMENT 'what customers spend'";
    assert!(psql(&gateway, &["-c", view]).status.success());
    let cases = [
        ("\\d", "spend"),
        ("\\d+ spend", "in euros"),
        ("\\dt", "spend"),
        ("\\dt+", "what customers spend"),
        ("\\dt history.*", "spend"),
        ("\\dn", "tidegate"),
        ("\\l", "tidegate"),
        ("\\dv tidegate.*", "feature_views"),
        ("\\du", "tester"),
        ("\\conninfo", "tester"),
    ];
    let mut faults = Vec::new();
    for (command, expected) in cases {
        let output = psql(&gateway, &["-v", "ON_ERROR_STOP=1", "-c", command]);
        let text = text(&output);
        if !output.status.success() || !text.contains(expected) || text.contains("ERROR") {
            faults.push(format!("{command}, expected to show {expected:?}:\n{text}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A Python that has a client's module: the one `TIDEGATE_TEST_PYTHON` names, or one in a virtual environment made here once, with
/// the module of this requirement.
fn python(module: &str, requirement: &str) -> PathBuf {
    if let Ok(python) = std::env::var("TIDEGATE_TEST_PYTHON") {
        return python.into();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(module);
    let python = folder.join("bin/python");
    let import = format!("import {module}");
    let has_driver =
        |python: &Path| Command::new(python).args(["-c", &import]).output().is_ok_and(|output| output.status.success());
    if !has_driver(&python) {
        let run = |command: &mut Command| {
            let output = command.output().expect("python3 and its venv module are installed (apt-get install python3-venv)");
            assert!(output.status.success(), "{}", text(&output));
        };
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]));
    }
    python
}

/// Runs a script of `tests/clients`, which prints nothing when all holds.
fn runs(python: &Path, script: &str) {
    let gateway = Setup::new(Online::Redis).start();
    let output = Command::new(python).arg(clients(script)).arg(gateway.address().port().to_string()).output().unwrap();
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn psycopg_runs_a_session_in_text_and_in_binary() {
    runs(&python("psycopg", "psycopg[binary]>=3.2,<4"), "psycopg_session.py");
}

#[test]
fn asyncpg_runs_a_session_and_a_pool() {
    runs(&python("asyncpg", "asyncpg>=0.29,<1"), "asyncpg_session.py");
}

#[tokio::test]
async fn tokio_postgres_runs_a_session() {
    let gateway = Setup::new(Online::Redis).start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY customer KEY (customer_id BIGINT)").await;
    harness::run(&client, "CREATE FEATURE VIEW spend (amount DOUBLE PRECISION, plan TEXT) ENTITY customer").await;
    let insert = "INSERT INTO spend (customer_id, event_time, amount, plan) VALUES ($1, $2::text::timestamptz, $3, $4)";
    let nobody: Option<&str> = None;
    assert_eq!(client.execute(insert, &[&7_i64, &"2025-12-31 12:00Z", &0.1_f64, &nobody]).await.unwrap(), 1);
    let statement = client.prepare(insert).await.unwrap();
    assert_eq!(statement.params(), [Type::INT8, Type::TEXT, Type::FLOAT8, Type::TEXT]);
    for key in [8_i64, 9] {
        client.execute(&statement, &[&key, &"2025-12-31 12:00Z", &1.5_f64, &Some("free")]).await.unwrap();
    }
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY spend (customer_id, event_time, amount) FROM STDIN").await.unwrap());
    sink.send(Bytes::from_static(b"7\t2025-12-31 11:00:00Z\t0.05\n10\t2025-12-31 11:00:00Z\t\\N\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    let sink = client.copy_in("COPY spend (customer_id, amount) FROM STDIN (FORMAT binary)").await.unwrap();
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT8, Type::FLOAT8]));
    writer.as_mut().write(&[&11_i64, &2.5_f64]).await.unwrap();
    assert_eq!(writer.finish().await.unwrap(), 1);

    let lookup = client.prepare("SELECT amount, plan FROM spend WHERE customer_id = $1").await.unwrap();
    assert_eq!(lookup.params(), [Type::INT8]);
    let row = client.query_one(&lookup, &[&7_i64]).await.unwrap();
    assert_eq!((row.get::<_, f64>(0), row.get::<_, Option<&str>>(1)), (0.1, None));
    assert!(client.query_opt(&lookup, &[&99_i64]).await.unwrap().is_none());
    let several = "SELECT customer_id FROM spend WHERE customer_id = ANY($1) ORDER BY customer_id";
    let keys: Vec<i64> = client.query(several, &[&vec![7_i64, 10, 11, 99]]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(keys, [7, 10, 11]);

    harness::run(&client, "CREATE TABLE labels (id BIGINT, customer_id BIGINT, ts TIMESTAMPTZ)").await;
    harness::run(
        &client,
        "INSERT INTO labels VALUES (1, 7, '2025-12-31 11:30Z'), (2, 7, '2025-12-31 12:30Z'), (3, 99, '2025-12-31 12:30Z')",
    )
    .await;
    let join = "SELECT l.id, f.amount FROM labels l LEFT JOIN spend AS OF l.ts AS f ON f.customer_id = l.customer_id \
                WHERE l.id >= $1 ORDER BY l.id";
    let joined: Vec<(i64, Option<f64>)> =
        client.query(join, &[&1_i64]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(joined, [(1, Some(0.05)), (2, Some(0.1)), (3, None)]);
}

#[tokio::test]
async fn a_long_query_can_be_cancelled() {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    let token = client.cancel_token();
    let endless = "SELECT count(*) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b";
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (answer, ()) = tokio::join!(client.simple_query(endless), cancel);
    assert_eq!(harness::explain(&answer.unwrap_err()), "57014: canceling statement due to user request");
    assert_eq!(harness::value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_portal_gives_rows_in_portions() {
    let gateway = Setup::new(Online::Embedded).start();
    let mut client = gateway.connect().await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT * FROM generate_series(1, 25) AS n", &[]).await.unwrap();
    let mut portions = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 10).await.unwrap();
        if rows.is_empty() {
            break;
        }
        portions.push(rows.len());
    }
    assert_eq!(portions, [10, 10, 5]);
    transaction.commit().await.unwrap();
}

#[test]
fn a_large_result_streams() {
    let gateway = Setup::new(Online::Embedded).start();
    let rows =
        "COPY (SELECT n, 'a row of a result that is too large to keep' FROM generate_series(1, 1000000000) AS t (n)) TO STDOUT";
    let mut reader = psql_command(&gateway).args(["-c", rows]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    for number in 1..=500_000 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with(&format!("{number}\t")), "{line}");
    }
    reader.kill().unwrap();
    reader.wait().unwrap();
    assert!(gateway.memory_peak_mib() < 700, "the gateway held {} MiB", gateway.memory_peak_mib());
}

#[tokio::test]
async fn settings_stay_with_their_session() {
    let gateway = Setup::new(Online::Embedded).start();
    let (a, b) = (gateway.connect().await, gateway.connect().await);
    harness::run(&a, "SET TimeZone = 'Europe/Berlin'").await;
    harness::run(&a, "SET tidegate.route = offline").await;
    assert_eq!(harness::value(&b, "SHOW TimeZone").await, "UTC");
    assert_eq!(harness::value(&b, "SHOW tidegate.route").await, "auto");
    assert_eq!(harness::value(&a, "SELECT TIMESTAMPTZ '2026-07-01 12:00Z'").await, "2026-07-01 14:00:00+02");
}

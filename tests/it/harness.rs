//! A real gateway in a folder of its own, started, killed and started again; with a real Redis where a test asks for one.

mod redis_cluster;
mod slow_way;
mod tls;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

pub(crate) use redis_cluster::{RedisCluster, until};
pub(crate) use slow_way::SlowWay;
pub(crate) use tls::Certificates;

/// Where a test's clock stands unless the test says otherwise.
pub(crate) const CLOCK: &str = "2026-01-01 00:00:00Z";

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// Which online store a gateway uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Online {
    /// Embedded memory.
    Embedded,
    /// A Redis of the test's own.
    Redis,
}

/// What a gateway is started with.
#[derive(Clone)]
pub(crate) struct Setup {
    online: Online,
    /// Where the gateway looks for Redis, where that is not at the test's own.
    url: Option<String>,
    /// `None`: the machine's.
    clock: Option<String>,
    retention: Option<String>,
}

impl Setup {
    /// A set clock and this online store.
    pub(crate) fn new(online: Online) -> Self {
        Self { online, url: None, clock: Some(CLOCK.into()), retention: None }
    }

    /// Another address of Redis than that of the test's own.
    pub(crate) fn redis_at(mut self, url: &str) -> Self {
        self.url = Some(url.into());
        self
    }

    /// Another place for the clock to stand.
    pub(crate) fn clock(mut self, instant: &str) -> Self {
        self.clock = Some(instant.into());
        self
    }

    /// The machine's clock, which runs by itself.
    pub(crate) fn clock_of_the_machine(mut self) -> Self {
        self.clock = None;
        self
    }

    /// How long older versions stay.
    pub(crate) fn retention(mut self, interval: &str) -> Self {
        self.retention = Some(interval.into());
        self
    }

    /// Starts the gateway on a fresh store; ready when this returns.
    pub(crate) fn start(self) -> Gateway {
        let redis = (self.online == Online::Redis).then(|| Arc::new(Redis::start()));
        Gateway::start(Arc::new(temporary_folder()), redis, self)
    }
}

/// A running gateway. Killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    address: SocketAddr,
    data: Arc<TempDir>,
    redis: Option<Arc<Redis>>,
    setup: Setup,
    log: PathBuf,
}

impl Gateway {
    fn start(data: Arc<TempDir>, redis: Option<Arc<Redis>>, setup: Setup) -> Self {
        let log = data.path().join(format!("gateway-{}.log", unique()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(data.path().join("store"));
        // However few processors the machine has, what connections do to each other crosses threads.
        command.args(["--connection-threads", "3"]);
        if let Some(url) = setup.url.clone().or(redis.as_ref().map(|redis| redis.url())) {
            // However busy the machine is, a Redis that answers is not taken for one that hangs.
            command.args(["--redis", &url, "--redis-read-ms", "3000"]);
        }
        if let Some(retention) = &setup.retention {
            command.args(["--retention", retention]);
        }
        if let Some(clock) = &setup.clock {
            command.args(["--clock", clock]);
        }
        let mut child = command
            // How many cases and which scripts the tests try is no setting of a gateway.
            .env_remove("TIDEGATE_CASES")
            .env_remove("TIDEGATE_SLT")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let address = read_address(&mut child, &log);
        Self { child, address, data, redis, setup, log }
    }

    /// A second gateway over the same store and Redis, with the same settings.
    pub(crate) fn second(&self) -> Gateway {
        Gateway::start(Arc::clone(&self.data), self.redis.clone(), self.setup.clone())
    }

    /// Another gateway over the same store, which looks for Redis at `url`.
    pub(crate) fn second_at(&self, url: &str) -> Gateway {
        Gateway::start(Arc::clone(&self.data), self.redis.clone(), self.setup.clone().redis_at(url))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder of its store.
    pub(crate) fn store(&self) -> PathBuf {
        self.data.path().join("store")
    }

    /// Its Redis.
    pub(crate) fn redis(&self) -> &Redis {
        self.redis.as_ref().expect("the test asked for Redis")
    }

    /// A connection for a test that minds errors.
    pub(crate) async fn connect(&self) -> Client {
        self.try_connect().await.unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()))
    }

    /// A connection, or why there is none.
    pub(crate) async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.connect_with("").await
    }

    /// A connection whose string has these `options`, or why there is none.
    pub(crate) async fn connect_with(&self, options: &str) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.address.port()).user("tester").dbname("tidegate").options(options);
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// The most memory it ever held, in MiB; 0 where the system does not tell.
    pub(crate) fn memory_peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    }

    /// Kills it as a power cut would: no signal handler runs.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on the same store, its clock standing where `clock` says.
    pub(crate) fn restart_at(&mut self, clock: &str) {
        self.setup = self.setup.clone().clock(clock);
        self.restart();
    }

    /// Starts it again on the same store.
    pub(crate) fn restart(&mut self) {
        self.kill();
        *self = Gateway::start(Arc::clone(&self.data), self.redis.clone(), self.setup.clone());
    }

    /// The arguments that set its clock.
    pub(crate) fn clock_arguments(&self) -> Vec<String> {
        self.setup.clock.iter().flat_map(|clock| ["--clock".to_owned(), clock.clone()]).collect()
    }

    /// Asks it to stop, and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        signal(&self.child, "TERM");
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "did not stop on SIGTERM\n{}", self.log_tail());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's log ends so:\n{}", self.log_tail());
        }
    }
}

/// The gateway's one line on standard output names the address; a gateway that ends instead fails the test with its log.
fn read_address(child: &mut Child, log: &Path) -> SocketAddr {
    let stdout = child.stdout.take().expect("standard output is piped");
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        let _ = sender.send(lines.next());
        // Later output is read too, so that the gateway never blocks on a full pipe.
        lines.for_each(drop);
    });
    let line = match receiver.recv_timeout(START_DEADLINE) {
        Ok(Some(Ok(line))) => line,
        other => {
            let _ = child.kill();
            panic!("the gateway did not start ({other:?}):\n{}", tail(log));
        }
    };
    let address = line.strip_prefix("tidegate is accepting connections on ");
    let address = address.unwrap_or_else(|| panic!("not the line that names the address: {line}"));
    address.parse().unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A `redis-server` of the test's own, without persistence.
pub(crate) struct Redis {
    child: parking_lot::Mutex<Child>,
    port: u16,
    /// Where it speaks TLS.
    tls_port: Option<u16>,
    /// What it is started with besides.
    arguments: Vec<String>,
    /// Of its own: a replica writes there what it is sent, and a Redis reads at its start what it finds there.
    folder: TempDir,
}

impl Redis {
    /// One that is there when this returns.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// One that speaks TLS on a second port, also to its replicas, and to the primary that it is made a replica of. Of clients it
    /// asks a certificate where `clients` is `yes`.
    pub(crate) fn behind_tls(certificates: &Certificates, clients: &str) -> Self {
        Self::start_on(Some(certificates), &|_port, tls_port| certificates.arguments(tls_port, clients))
    }

    /// One with further arguments.
    pub(crate) fn start_with(arguments: &[String]) -> Self {
        Self::start_on(None, &|_port, _tls_port| arguments.to_vec())
    }

    /// One with the arguments for the ports that it is given, the second of which is for TLS.
    fn start_on(certificates: Option<&Certificates>, arguments: &dyn Fn(u16, u16) -> Vec<String>) -> Self {
        // Another process may take a free port between the look and the start: then look again.
        let folder = temporary_folder();
        for _ in 0..10 {
            let (port, tls_port) = (free_port(), free_port());
            let arguments = arguments(port, tls_port);
            if let Some(child) = spawn_redis(port, folder.path(), &arguments) {
                let tls_port = certificates.map(|_| tls_port);
                return Self { child: parking_lot::Mutex::new(child), port, tls_port, arguments, folder };
            }
        }
        panic!("redis-server did not start on any of ten free ports");
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The port where it speaks TLS.
    pub(crate) fn tls_port(&self) -> u16 {
        self.tls_port.expect("it was started behind TLS")
    }

    /// Runs a command of `redis-cli`; what it says.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Takes it away, with all it holds.
    pub(crate) fn stop(&self) {
        let mut child = self.child.lock();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Makes it hang, as a machine that swaps does: connections stay, answers do not come.
    pub(crate) fn pause(&self) {
        signal(&self.child.lock(), "STOP");
    }

    /// Ends the pause.
    pub(crate) fn go_on(&self) {
        signal(&self.child.lock(), "CONT");
    }

    /// Brings it back, empty.
    pub(crate) fn start_again(&self) {
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
        *self.child.lock() = spawn_redis(self.port, self.folder.path(), &self.arguments).expect("the port was ours a moment ago");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A sentinel that watches over `primary` as the service `tide`, with a vote of its own.
pub(crate) struct Sentinel {
    redis: Redis,
    _folder: TempDir,
}

impl Sentinel {
    pub(crate) fn of(primary: &Redis) -> Self {
        Self::of_port(primary.port, None)
    }

    /// One that asks the primary behind TLS, and is asked so.
    pub(crate) fn behind_tls(primary: &Redis, certificates: &Certificates) -> Self {
        Self::of_port(primary.tls_port(), Some(certificates))
    }

    fn of_port(watched: u16, certificates: Option<&Certificates>) -> Self {
        let folder = temporary_folder();
        let redis = Redis::start_on(certificates, &|port, tls_port| {
            let file = folder.path().join(format!("sentinel-{port}.conf"));
            let watched = format!("127.0.0.1 {watched} 1");
            let text = format!(
                "sentinel monitor tide {watched}\nsentinel down-after-milliseconds tide 500\nsentinel failover-timeout tide 3000\n"
            );
            std::fs::write(&file, text).unwrap();
            let mut arguments = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
            arguments.extend(certificates.iter().flat_map(|certificates| certificates.arguments(tls_port, "no")));
            arguments
        });
        Self { redis, _folder: folder }
    }

    /// The address of the service.
    pub(crate) fn url(&self) -> String {
        let (scheme, port) = match self.redis.tls_port {
            Some(port) => ("rediss", port),
            None => ("redis", self.redis.port),
        };
        // The first sentinel named is not there.
        format!("{scheme}+sentinel://127.0.0.1:1,127.0.0.1:{port}/tide")
    }

    /// Runs a command of `redis-cli`; what it says.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        self.redis.cli(command)
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `arguments` begin with the configuration file, if there is one, and options otherwise.
fn spawn_redis(port: u16, folder: &Path, arguments: &[String]) -> Option<Child> {
    let (file, rest) = match arguments {
        [file, rest @ ..] if !file.starts_with("--") => (Some(file), rest),
        options => (None, options),
    };
    let keeps_nothing = ["--save", "", "--appendonly", "no", "--enable-debug-command", "local"];
    let mut child = Command::new("redis-server")
        .args(file)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(if file.is_some() { &[][..] } else { &keeps_nothing[..] })
        .args(rest)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(folder)
        .spawn()
        .expect("redis-server is installed (`make test` installs it; or: apt-get install redis-server)");
    let deadline = Instant::now() + START_DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// Sends a signal, by the shell's own `kill`: the program is not on every machine.
fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

fn temporary_folder() -> TempDir {
    tempfile::Builder::new().prefix("tidegate-").tempdir().unwrap()
}

fn unique() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Runs a statement that must succeed, by the simple protocol; its rows as text, NULL as `NULL`.
pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{}\n  in: {sql}", explain(&error)));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|column| row.get(column).unwrap_or("NULL").to_owned()).collect()),
        _ => None,
    });
    rows.collect()
}

/// Runs a statement that must succeed, for what it does.
pub(crate) async fn run(client: &Client, sql: &str) {
    rows(client, sql).await;
}

/// Runs a statement that gives one value.
pub(crate) async fn value(client: &Client, sql: &str) -> String {
    let mut rows = rows(client, sql).await;
    assert!(rows.len() == 1 && rows[0].len() == 1, "one value expected of: {sql}\n{rows:?}");
    rows.remove(0).remove(0)
}

/// Runs a statement that must fail; its error as [`explain`] writes it.
pub(crate) async fn failure(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Ok(_) => panic!("should have failed: {sql}"),
        Err(error) => explain(&error),
    }
}

/// Moves the gateway's clock.
pub(crate) async fn set_clock(client: &Client, instant: &str) {
    run(client, &format!("ALTER SYSTEM SET tidegate.clock = '{instant}'")).await;
}

/// An error as tests read it: `SQLSTATE: message`, then detail and hint on lines of their own.
pub(crate) fn explain(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        return format!("no answer: {error:?}");
    };
    let mut text = format!("{}: {}", error.code().code(), error.message());
    if let Some(detail) = error.detail() {
        text.push_str(&format!("\nDETAIL: {detail}"));
    }
    if let Some(hint) = error.hint() {
        text.push_str(&format!("\nHINT: {hint}"));
    }
    text
}

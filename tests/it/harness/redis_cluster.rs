//! A cluster of real `redis-server`s, made by commands.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a server is started with besides, so that it speaks TLS on this port.
pub(crate) type BehindTls<'a> = &'a dyn Fn(u16) -> Vec<String>;

/// How long the machine may take for what takes a moment.
const DEADLINE: Duration = Duration::from_secs(60);

const SLOTS: usize = 16_384;

/// A cluster. Its servers end when it is dropped.
pub(crate) struct RedisCluster {
    /// First the primaries, then a replica of each, in the same order, where there are any.
    pub(crate) nodes: Vec<ClusterNode>,
}

/// One server of a cluster.
pub(crate) struct ClusterNode {
    child: parking_lot::Mutex<Child>,
    port: u16,
    bus_port: u16,
    /// Where it speaks TLS.
    tls_port: Option<u16>,
    /// What it is started with besides.
    arguments: Vec<String>,
    folder: tempfile::TempDir,
}

impl RedisCluster {
    /// A cluster of this many primaries, whole when this returns.
    pub(crate) fn start(primaries: usize) -> Self {
        Self::of_primaries((0..primaries).map(|_| ClusterNode::start(None)).collect())
    }

    fn of_primaries(nodes: Vec<ClusterNode>) -> Self {
        let primaries = nodes.len();
        for (number, node) in nodes.iter().enumerate() {
            let (first, end) = (number * SLOTS / primaries, (number + 1) * SLOTS / primaries);
            node.must(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            node.must(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &(end - 1).to_string()]);
        }
        let cluster = Self { nodes };
        cluster.meet();
        cluster
    }

    /// As [`RedisCluster::start`], each primary with a replica.
    pub(crate) fn start_with_replicas(primaries: usize) -> Self {
        Self::start_pairs(primaries, None)
    }

    /// As [`RedisCluster::start_with_replicas`], all of them behind TLS, also to each other.
    pub(crate) fn behind_tls(primaries: usize, tls: BehindTls<'_>) -> Self {
        Self::start_pairs(primaries, Some(tls))
    }

    fn start_pairs(primaries: usize, tls: Option<BehindTls<'_>>) -> Self {
        let start = || (0..primaries).map(|_| ClusterNode::start(tls));
        let mut cluster = Self::of_primaries(start().collect());
        cluster.nodes.extend(start());
        cluster.meet();
        for number in 0..primaries {
            let primary = cluster.nodes[number].id();
            let replica = &cluster.nodes[primaries + number];
            until("the replica knows its primary", || replica.cli(&["CLUSTER", "REPLICATE", &primary]) == "OK");
            until("the replica follows", || replica.cli(&["INFO", "replication"]).contains("master_link_status:up"));
        }
        cluster
    }

    /// Makes all nodes known to each other.
    fn meet(&self) {
        for node in &self.nodes[1..] {
            let (port, bus_port) = (node.tls_port.unwrap_or(node.port).to_string(), node.bus_port.to_string());
            self.nodes[0].must(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
        }
        let known = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            until("all know all", || {
                let info = node.cli(&["CLUSTER", "INFO"]);
                info.contains("cluster_state:ok")
                    && info.contains(&known)
                    && !node.cli(&["CLUSTER", "NODES"]).contains("handshake")
            });
        }
    }

    /// Its address, by two nodes, the first of which is not there.
    pub(crate) fn url(&self) -> String {
        let (scheme, port) = match self.nodes[0].tls_port {
            Some(port) => ("rediss", port),
            None => ("redis", self.nodes[0].port),
        };
        format!("{scheme}+cluster://127.0.0.1:1,127.0.0.1:{port}")
    }
}

impl ClusterNode {
    fn start(tls: Option<BehindTls<'_>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..10 {
            let (port, bus_port, tls_port) = (free_port(), free_port(), tls.map(|_| free_port()));
            let mut arguments = Vec::new();
            if let (Some(tls), Some(tls_port)) = (tls, tls_port) {
                arguments = tls(tls_port);
                arguments.extend(["--tls-cluster", "yes"].map(str::to_owned));
            }
            if let Some(child) = Self::spawn(port, bus_port, folder.path(), &arguments) {
                return Self { child: parking_lot::Mutex::new(child), port, bus_port, tls_port, arguments, folder };
            }
        }
        panic!("redis-server did not start on any of ten free ports");
    }

    fn spawn(port: u16, bus_port: u16, folder: &std::path::Path, arguments: &[String]) -> Option<Child> {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--cluster-port", &bus_port.to_string(), "--bind", "127.0.0.1"]);
        // Failovers are the tests' alone, however busy the machine is.
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "60000", "--save", "", "--appendonly", "no"]);
        command.args(["--repl-diskless-sync-delay", "0", "--enable-debug-command", "local"]);
        let mut child = command.args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + DEADLINE;
        while child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(child);
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// Runs a command of `redis-cli`; what it says.
    pub(crate) fn cli(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(command).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs a command that says `OK`.
    pub(crate) fn must(&self, command: &[&str]) {
        let said = self.cli(command);
        assert_eq!(said, "OK", "{command:?}");
    }

    /// What the cluster calls it.
    pub(crate) fn id(&self) -> String {
        self.cli(&["CLUSTER", "MYID"])
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Takes it away, with all it holds.
    pub(crate) fn stop(&self) {
        let mut child = self.child.lock();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Brings it back, without rows, as the member of the cluster that it was.
    pub(crate) fn start_again(&self) {
        let _ = std::fs::remove_file(self.folder.path().join("dump.rdb"));
        let child = Self::spawn(self.port, self.bus_port, self.folder.path(), &self.arguments);
        *self.child.lock() = child.expect("the port was ours a moment ago");
    }
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        let mut child = self.child.lock();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until it is so.
pub(crate) fn until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !so() {
        assert!(Instant::now() < deadline, "{what}: waited in vain");
        std::thread::sleep(Duration::from_millis(20));
    }
}

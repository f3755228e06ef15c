//! Certificates of a test's own, by `openssl`.

use std::path::Path;
use std::process::Command;

/// How a new key is made.
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// An authority, a certificate by it for 127.0.0.1, and another authority. The files go when this is dropped.
pub(crate) struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for authority in ["ca", "other"] {
            let signed = format!("-keyout {authority}.key -out {authority}.pem -subj /CN={authority} -days 2");
            openssl(folder.path(), &format!("req -x509 {KEY} {signed}"));
        }
        std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1").unwrap();
        openssl(folder.path(), &format!("req {KEY} -keyout redis.key -out redis.csr -subj /CN=redis"));
        let signed = "-CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -days 2";
        openssl(folder.path(), &format!("x509 -req -in redis.csr -out redis.pem {signed}"));
        Self { folder }
    }

    /// The path of `ca.pem`, `other.pem`, `redis.pem` or `redis.key`.
    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// What a server, or a sentinel, is started with to speak TLS on `port`, also to others of its kind. Of clients it asks a
    /// certificate where `clients` is `yes`.
    pub(crate) fn arguments(&self, port: u16, clients: &str) -> Vec<String> {
        let options = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", self.file("redis.pem")),
            ("--tls-key-file", self.file("redis.key")),
            ("--tls-ca-cert-file", self.file("ca.pem")),
            ("--tls-auth-clients", clients.to_owned()),
            ("--tls-replication", "yes".to_owned()),
        ];
        options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
    }
}

/// Runs `openssl` in a folder.
fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output();
    let output = output.expect("openssl is installed (`make test` installs it; or: apt-get install openssl)");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

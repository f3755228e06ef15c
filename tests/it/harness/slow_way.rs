//! A way to a server of this machine on which bytes take their time.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many bytes travel at once.
const PORTION: usize = 16 << 10;

/// A way to a server. What is on it when this is dropped still arrives; nothing new is let on.
pub(crate) struct SlowWay {
    port: u16,
    delay_ms: Arc<AtomicU64>,
}

impl SlowWay {
    /// One to the server at this port, which takes no time yet.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let delay = Arc::downgrade(&delay_ms);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Some(delay), Ok(client)) = (delay.upgrade(), client) else { return };
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let delay = Arc::clone(&delay);
                    std::thread::spawn(move || carry(from, to, &delay));
                }
            }
        });
        Self { port, delay_ms }
    }

    /// Its near end, as the address of a Redis.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on each portion takes so long, each way.
    pub(crate) fn delay(&self, milliseconds: u64) {
        self.delay_ms.store(milliseconds, Ordering::Relaxed);
    }
}

/// Carries bytes until either end closes.
fn carry(mut from: TcpStream, mut to: TcpStream, delay_ms: &AtomicU64) {
    let mut portion = vec![0; PORTION];
    let _ = to.set_nodelay(true);
    while let Ok(bytes @ 1..) = from.read(&mut portion) {
        std::thread::sleep(Duration::from_millis(delay_ms.load(Ordering::Relaxed)));
        if to.write_all(&portion[..bytes]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

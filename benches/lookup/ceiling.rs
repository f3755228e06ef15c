//! The ceiling of a lookup: one thread that answers every Execute with the same prepared bytes, a row of ten doubles in text.
//! It reads no statement and keeps no table, so no server of PostgreSQL's protocol on one thread does less for a client.
//!
//!     ceiling PORT

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::{env, process};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const FLOAT8: u32 = 701;

/// `struct pollfd` of poll(2).
#[repr(C)]
struct Polled {
    descriptor: i32,
    events: i16,
    happened: i16,
}

const READABLE: i16 = 1;

unsafe extern "C" {
    fn poll(descriptors: *mut Polled, count: std::ffi::c_ulong, timeout_ms: i32) -> i32;
}

fn main() {
    if let Err(error) = serve() {
        eprintln!("ceiling: {error}");
        process::exit(1);
    }
}

fn serve() -> io::Result<()> {
    let port =
        env::args().nth(1).and_then(|text| text.parse::<u16>().ok()).ok_or_else(|| io::Error::other("a port is needed"))?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let answers = Answers::prepare();
    let mut clients = HashMap::new();
    let (mut chunk, mut answer) = ([0; 16_384], Vec::new());
    let mut waiting = vec![Polled { descriptor: listener.as_raw_fd(), events: READABLE, happened: 0 }];
    loop {
        // SAFETY: the pointer and the length are of one vector, which nothing else touches during the call.
        let ready = unsafe { poll(waiting.as_mut_ptr(), waiting.len() as std::ffi::c_ulong, -1) };
        if ready < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut gone = Vec::new();
        for polled in waiting.iter().skip(1).filter(|polled| polled.happened != 0) {
            let client: &mut Client =
                clients.get_mut(&polled.descriptor).expect("every descriptor that is waited for has a client");
            if !client.turn(&answers, &mut chunk, &mut answer) {
                gone.push(polled.descriptor);
            }
        }
        let came = waiting[0].happened != 0;
        clients.retain(|descriptor, _| !gone.contains(descriptor));
        waiting.retain(|polled| !gone.contains(&polled.descriptor));
        if came {
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            waiting.push(Polled { descriptor: stream.as_raw_fd(), events: READABLE, happened: 0 });
            clients.insert(stream.as_raw_fd(), Client { stream, came: Vec::new(), started: false });
        }
    }
}

/// The bytes that answer each message.
struct Answers {
    startup: Vec<u8>,
    description: Vec<u8>,
    row: Vec<u8>,
    ready: Vec<u8>,
}

impl Answers {
    fn prepare() -> Self {
        let ready = message(b'Z', b"I");
        let version = message(b'S', b"server_version\x0015.0\0");
        let encoding = message(b'S', b"client_encoding\0UTF8\0");
        let startup = [message(b'R', &[0; 4]), version, encoding, message(b'K', &[0; 8]), ready.clone()].concat();
        let mut description = vec![0, 10];
        let mut row = vec![0, 10];
        for feature in 0..10_u32 {
            description.extend_from_slice(format!("f{feature}\0").as_bytes());
            description.extend_from_slice(&[0; 6]);
            description.extend_from_slice(&FLOAT8.to_be_bytes());
            description.extend_from_slice(&[0, 8, 255, 255, 255, 255, 0, 0]);
            let value = (f64::from(1_500_000 + feature) / 7.0).to_string();
            row.extend_from_slice(&(value.len() as u32).to_be_bytes());
            row.extend_from_slice(value.as_bytes());
        }
        let row = [message(b'D', &row), message(b'C', b"SELECT 1\0")].concat();
        Self { startup, description: message(b'T', &description), row, ready }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

struct Client {
    stream: TcpStream,
    came: Vec<u8>,
    started: bool,
}

impl Client {
    /// Answers all that came, in one write. False when the client is gone.
    fn turn(&mut self, answers: &Answers, chunk: &mut [u8], answer: &mut Vec<u8>) -> bool {
        match self.stream.read(chunk) {
            Ok(bytes) if bytes > 0 => self.came.extend_from_slice(&chunk[..bytes]),
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            _ => return false,
        }
        answer.clear();
        let mut read = 0;
        loop {
            let rest = &self.came[read..];
            // A message begins with its kind and its length, the first ones of a connection with their length.
            let head = usize::from(self.started);
            let Some(length) = rest.get(head..head + 4) else { break };
            let length = head + u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize;
            if rest.len() < length {
                break;
            }
            match (self.started, rest[0]) {
                (false, _) => match u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]) {
                    SSL_REQUEST | GSS_REQUEST => answer.push(b'N'),
                    _ => {
                        answer.extend_from_slice(&answers.startup);
                        self.started = true;
                    }
                },
                (true, b'P') => answer.extend_from_slice(b"1\0\0\0\x04"),
                (true, b'B') => answer.extend_from_slice(b"2\0\0\0\x04"),
                (true, b'D') => answer.extend_from_slice(&answers.description),
                (true, b'E') => answer.extend_from_slice(&answers.row),
                (true, b'S') => answer.extend_from_slice(&answers.ready),
                (true, _) => return false,
            }
            read += length;
        }
        self.came.drain(..read);
        self.stream.write_all(answer).is_ok()
    }
}

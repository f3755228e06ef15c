//! A client that costs next to nothing, so that what it measures is the server: PostgreSQL's protocol, Redis' or HTTP, spoken
//! by hand over blocking sockets, a thread for each connection. The standard library alone, so `rustc -O` builds it in a moment.
//!
//!     client KIND HOST:PORT CONNECTIONS SECONDS ENTITIES BATCH FILE TEXT
//!
//! One call asks for BATCH different entities of 0 to ENTITIES - 1. KIND says how, and what TEXT is:
//!
//! - `key`: a statement with one `bigint` parameter, `array`: with one `bigint[]`; prepared once, parameters and rows in binary;
//! - `redis`: the key of an entity, `$1` in it the entity's number in twelve digits: `GET`, or `MGET` of several;
//! - `http`: a request's path, a space, and a body posted to it as JSON, `$1` in it the entities with commas between.
//!
//! FILE receives the latency of every call in nanoseconds, four bytes each, little-endian; standard output the seconds taken.
//! An answer that lacks an entity ends it with an error.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};
use std::{env, fs, process, str, thread};

const INT8: u32 = 20;
const INT8_ARRAY: u32 = 1016;

struct Job {
    kind: String,
    address: String,
    connections: usize,
    seconds: f64,
    entities: u64,
    batch: u64,
    text: String,
}

fn main() {
    if let Err(error) = run() {
        eprintln!("client: {error}");
        process::exit(1);
    }
}

fn run() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [kind, address, connections, seconds, entities, batch, file, text] = arguments.as_slice() else {
        return Err(fault("eight arguments are needed"));
    };
    let number = |text: &String| text.parse::<f64>().map_err(|_| fault("a number is needed"));
    let job = Job {
        kind: kind.clone(),
        address: address.clone(),
        connections: number(connections)? as usize,
        seconds: number(seconds)?,
        entities: number(entities)? as u64,
        batch: number(batch)? as u64,
        text: text.clone(),
    };
    let (seconds, latencies) = measure(&job)?;
    fs::write(file, latencies.iter().flat_map(|nanos| nanos.to_le_bytes()).collect::<Vec<u8>>())?;
    println!("{seconds}");
    Ok(())
}

/// Asks from all connections at once until the time is up.
fn measure(job: &Job) -> io::Result<(f64, Vec<u32>)> {
    let connected = (0..job.connections).map(|_| connect(job)).collect::<io::Result<Vec<_>>>()?;
    let together = Barrier::new(job.connections);
    thread::scope(|scope| {
        let together = &together;
        let ask = |(seed, server)| scope.spawn(move || ask_until_done(job, seed, server, together));
        let threads: Vec<_> = connected.into_iter().enumerate().map(ask).collect();
        let mut longest = 0.0_f64;
        let mut latencies = Vec::new();
        for thread in threads {
            let (seconds, some) = thread.join().map_err(|_| fault("a thread panicked"))??;
            longest = longest.max(seconds);
            latencies.extend(some);
        }
        Ok((longest, latencies))
    })
}

fn ask_until_done(job: &Job, seed: usize, mut server: Box<dyn Server>, together: &Barrier) -> io::Result<(f64, Vec<u32>)> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed as u64 + 1);
    let mut keys = Vec::new();
    let mut latencies = Vec::new();
    together.wait();
    let start = Instant::now();
    loop {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // A step that shares no divisor with the number of entities never meets the same one twice.
        keys.clear();
        keys.extend((0..job.batch).map(|place| (state % job.entities + place * 7919) % job.entities));
        let asked = Instant::now();
        server.ask(&keys)?;
        latencies.push(u32::try_from(asked.elapsed().as_nanos()).unwrap_or(u32::MAX));
        let passed = start.elapsed();
        if passed >= Duration::from_secs_f64(job.seconds) {
            return Ok((passed.as_secs_f64(), latencies));
        }
    }
}

/// What answers calls, over one connection.
trait Server: Send {
    /// One call: sends it and reads the answer to its end.
    fn ask(&mut self, keys: &[u64]) -> io::Result<()>;
}

fn connect(job: &Job) -> io::Result<Box<dyn Server>> {
    let wire = Wire::open(&job.address)?;
    Ok(match job.kind.as_str() {
        "key" => Box::new(Postgres::prepare(wire, &job.text, INT8)?),
        "array" => Box::new(Postgres::prepare(wire, &job.text, INT8_ARRAY)?),
        "redis" => Box::new(Redis { wire, request: Vec::new(), key: job.text.clone() }),
        "http" => {
            let (path, body) = job.text.split_once(' ').ok_or_else(|| fault("a path and a body are needed"))?;
            Box::new(Http { wire, request: Vec::new(), path: path.into(), body: body.into() })
        }
        other => return Err(fault(&format!("unknown kind {other}"))),
    })
}

/// A statement prepared at a server of PostgreSQL's protocol.
struct Postgres {
    wire: Wire,
    bind: Vec<u8>,
    request: Vec<u8>,
    parameter: u32,
}

impl Postgres {
    fn prepare(mut wire: Wire, statement: &str, parameter: u32) -> io::Result<Self> {
        let startup = b"\0\x03\0\0user\0bench\0database\0postgres\0\0";
        wire.send(&[&(startup.len() as u32 + 4).to_be_bytes()[..], startup].concat())?;
        let mut server = Self { wire, bind: Vec::new(), request: Vec::new(), parameter };
        server.answer()?;
        let mut parse = b"asked\0".to_vec();
        parse.extend_from_slice(statement.as_bytes());
        parse.extend_from_slice(b"\0\0\x01");
        parse.extend_from_slice(&parameter.to_be_bytes());
        let request = [message(b'P', &parse), message(b'S', b"")].concat();
        server.wire.send(&request)?;
        server.answer()?;
        Ok(server)
    }

    /// Reads until the server is ready again, and counts the rows.
    fn answer(&mut self) -> io::Result<usize> {
        let mut rows = 0;
        loop {
            let head = self.wire.peek(5)?;
            let (kind, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize + 1);
            let whole = &self.wire.peek(length)?[..length];
            match kind {
                b'D' => rows += 1,
                b'E' => return Err(fault(&String::from_utf8_lossy(&whole[5..]).replace('\0', " "))),
                b'R' if whole[5..9] != [0; 4] => return Err(fault("the server wants a password")),
                _ => {}
            }
            self.wire.skip(length);
            if kind == b'Z' {
                return Ok(rows);
            }
        }
    }
}

impl Server for Postgres {
    fn ask(&mut self, keys: &[u64]) -> io::Result<()> {
        // The unnamed portal, the statement, one parameter in binary.
        self.bind.clear();
        self.bind.extend_from_slice(b"\0asked\0\0\x01\0\x01\0\x01");
        if self.parameter == INT8_ARRAY {
            let keys_len = keys.len() as u32;
            for word in [20 + keys_len * 12, 1, 0, INT8, keys_len, 1] {
                self.bind.extend_from_slice(&word.to_be_bytes());
            }
        }
        for key in keys {
            self.bind.extend_from_slice(&8_u32.to_be_bytes());
            self.bind.extend_from_slice(&key.to_be_bytes());
        }
        self.bind.extend_from_slice(&[0, 1, 0, 1]);
        self.request.clear();
        self.request.extend(message(b'B', &self.bind));
        self.request.extend(message(b'E', &[0; 5]));
        self.request.extend(message(b'S', b""));
        self.wire.send(&self.request)?;
        let rows = self.answer()?;
        complete(rows, keys)
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

struct Redis {
    wire: Wire,
    request: Vec<u8>,
    key: String,
}

impl Server for Redis {
    fn ask(&mut self, keys: &[u64]) -> io::Result<()> {
        let command = if keys.len() == 1 { "$3\r\nGET" } else { "$4\r\nMGET" };
        self.request.clear();
        write!(self.request, "*{}\r\n{command}\r\n", keys.len() + 1)?;
        for key in keys {
            let key = self.key.replace("$1", &format!("{key:012}"));
            write!(self.request, "${}\r\n{key}\r\n", key.len())?;
        }
        self.wire.send(&self.request)?;
        let mut found = 0;
        let mut left = 1;
        while left > 0 {
            let line = self.wire.line()?;
            let number = line.get(1..).and_then(|digits| digits.parse::<i64>().ok());
            match (line.as_bytes().first(), number) {
                (Some(b'*'), Some(elements)) => left += elements,
                (Some(b'$'), Some(length)) if length >= 0 => {
                    let length = length as usize + 2;
                    self.wire.peek(length)?;
                    self.wire.skip(length);
                    found += 1;
                }
                (Some(b'$'), Some(_)) => {}
                _ => return Err(fault(&line)),
            }
            left -= 1;
        }
        complete(found, keys)
    }
}

struct Http {
    wire: Wire,
    request: Vec<u8>,
    path: String,
    body: String,
}

impl Server for Http {
    fn ask(&mut self, keys: &[u64]) -> io::Result<()> {
        let keys_text: Vec<String> = keys.iter().map(u64::to_string).collect();
        let body = self.body.replace("$1", &keys_text.join(","));
        self.request.clear();
        write!(self.request, "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n", self.path)?;
        write!(self.request, "Content-Length: {}\r\n\r\n{body}", body.len())?;
        self.wire.send(&self.request)?;
        let status = self.wire.line()?;
        if !status.contains(" 200 ") {
            return Err(fault(&status));
        }
        let mut length = None;
        loop {
            let line = self.wire.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(digits) = line.strip_prefix("content-length:") {
                length = digits.trim().parse().ok();
            }
        }
        let length = length.ok_or_else(|| fault("an answer without its length"))?;
        self.wire.peek(length)?;
        self.wire.skip(length);
        Ok(())
    }
}

fn complete(found: usize, keys: &[u64]) -> io::Result<()> {
    if found == keys.len() { Ok(()) } else { Err(fault(&format!("{found} of {} entities came", keys.len()))) }
}

/// A socket, and what came from it and was not read yet.
struct Wire {
    stream: TcpStream,
    came: Vec<u8>,
    /// Where in `came` the part that is not read begins.
    at: usize,
    chunk: Box<[u8; 65_536]>,
}

impl Wire {
    fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, came: Vec::new(), at: 0, chunk: Box::new([0; 65_536]) })
    }

    fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// What is not read yet, once there is so much of it.
    fn peek(&mut self, bytes: usize) -> io::Result<&[u8]> {
        while self.came.len() - self.at < bytes {
            self.receive()?;
        }
        Ok(&self.came[self.at..])
    }

    fn skip(&mut self, bytes: usize) {
        self.at += bytes;
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<String> {
        loop {
            let rest = &self.came[self.at..];
            if let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
                let line = str::from_utf8(&rest[..end]).map_err(|_| fault("a line that is not text"))?.to_string();
                self.at += end + 2;
                return Ok(line);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        if self.at == self.came.len() {
            self.came.clear();
            self.at = 0;
        }
        let bytes = self.stream.read(&mut self.chunk[..])?;
        if bytes == 0 {
            return Err(fault("the server closed the connection"));
        }
        self.came.extend_from_slice(&self.chunk[..bytes]);
        Ok(())
    }
}

fn fault(text: &str) -> io::Error {
    io::Error::other(text.to_string())
}

//! Tidegate from outside: every test starts the real binary, or reads the sources.
//!
//! What a client sees is pinned in `tests/slt/**/*.slt` first; code is for what a script cannot say: crashes, races, random
//! histories, other people's clients.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what failed by panicking, its helpers too"
)]

mod clients;
mod cluster;
mod demo;
mod durability;
mod expiry;
mod faults;
mod harness;
mod layout;
mod oracle;
mod parity;
mod pruning;
mod readme;
mod redis;
mod redis_access;
mod redis_cluster;
mod redis_slow;
mod redis_tls;
mod roads;
mod slt;
mod text;
mod tidy;
mod wire;

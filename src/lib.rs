//! # Tidegate
//!
//! A feature store that speaks PostgreSQL.

pub mod catalog;
pub mod config;
pub mod demo;
pub mod error;
pub mod executor;
pub mod gateway;
pub mod ingest;
pub mod metrics;
pub mod offline;
pub mod online;
pub mod parser;
pub mod planner;
pub mod protocol;
pub mod registry;
pub mod server;
pub mod session;
pub mod time;
pub mod types;

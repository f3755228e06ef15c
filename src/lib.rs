//! # Tidegate
//!
//! A feature store that speaks PostgreSQL. A feature view is a table whose rows are each entity's value *now*: asked by key, it
//! answers from the online store; asked `AS OF` an instant, it answers from the offline store with what was true then.
//! This page is the map of the code.
//!
//! ## The rooms
//!
//! Each module is a room with a door: what it exports. Imports run one way, from the top of this list to its bottom, and
//! `tests/it/tidy.rs` holds it.
//!
//! | room | what it is for |
//! |---|---|
//! | [`demo`] | the guided session of `make demo` |
//! | [`gateway`] | builds the parts of a gateway and joins them; follows other gateways on the same root |
//! | [`server`] | sockets: accepting, limiting, stopping; the threads that connections stay on |
//! | [`protocol`] | bytes to session and back: frames, prepared statements and portals, values in text and binary, `COPY` |
//! | [`session`] | one client's conversation: settings, blocks, what a statement does |
//! | [`catalog`] | the registry as SQL sees it: relations, system views, `pg_catalog`, functions |
//! | [`ingest`] | the one write path, and the catching up of the online store |
//! | [`planner`] | the choice of store, keys, time clauses; from a parsed query to running operators |
//! | [`executor`] | the operators, named as `EXPLAIN` prints them |
//! | [`parser`] | SQL text to statements, parsed once |
//! | [`lookup`] | the short road: lookups compiled once, then keys in, one round trip, packed rows out |
//! | [`online`] | the newest row of each entity, by key: Redis or memory |
//! | [`offline`] | every row ever written, as versions of Lance datasets |
//! | [`registry`] | what is defined, as numbered versions |
//! | [`types`] | SQL types, in Arrow and as PostgreSQL's text |
//! | [`config`], [`metrics`], [`time`], [`error`] | settings; counters; the two clocks; what a client reads when something fails |
//!
//! ## Life of a query
//!
//! `SELECT temp FROM airport_weather WHERE origin = $1`
//!
//! 1. [`server`] takes the socket, [`protocol`] reads `Parse`, `Bind` and `Execute` and decodes `$1`.
//! 2. [`parser::parse`] gives a [`parser::Statement`], once; from here on the tree travels.
//! 3. [`session::Session`] fixes what the statement sees in a [`planner::StatementContext`]: one registry, one `now()`, one
//!    version of each dataset, the rows its own block keeps back.
//! 4. [`catalog`] says which relation the name means, [`planner`] finds that every key is bound and decides the route, which
//!    `EXPLAIN` prints: `OnlineLookupExec: view=airport_weather, keys=1`.
//! 5. [`executor`] asks [`online`] for all keys in one round trip and drops rows that
//!    [`Ttl::is_live`](registry::Ttl::is_live) does not let live.
//! 6. [`protocol`] encodes each batch while the next is awaited.
//!
//! That is the planned road. A statement that is nothing but a lookup takes it once: [`planner`] compiles its analysis of it into a
//! [`lookup::CompiledLookup`], which connections share under the statement's text until the definitions change. From then on `Bind`
//! makes keys of bytes, the lookups of a pipeline go to [`online`] in one round trip, and packed rows are encoded as they are:
//! no DataFusion, no Arrow. Only a column that is an expression is computed, by the planned road's own code, over the cells that
//! it takes. Both roads say the same, byte for byte, which `tests/it/roads.rs` holds; `EXPLAIN` prints
//! `road=short`, and `SET tidegate.short_road = off` closes it. Whether it may be taken is judged at every execution,
//! by [`session`], as the route would be.
//!
//! `… FROM airport_weather AS OF '2013-02-09 12:00Z' …` differs in one step: the route is offline, and `SnapshotExec` reads one
//! version of the view's history. `LEFT JOIN airport_weather AS OF l.ts AS f ON …`, however it is spelt (PostgreSQL's own
//! `LATERAL`, `DISTINCT ON`, `row_number()` and scalar subqueries over `history.airport_weather` among them), becomes
//! `AsOfJoinExec`, which streams the history past the collected left side and never sorts it.
//!
//! A feature service is planned as a view is: its query stands where it is named, over a relation that has its feature views'
//! columns side by side. By whole keys that relation is one `OnlineLookupExec`, at a past instant, or unbound over one entity, an
//! `EntityJoinExec` of snapshots; in an as-of join each feature view is one more side of the `AsOfJoinExec`.
//!
//! ## Life of a write
//!
//! `INSERT`, `COPY … FROM` and `CREATE TABLE … AS` end in one function, [`ingest::Ingest::write`]: the rows, checked by
//! [`ingest::Ingest::validate`], are appended to the offline store (now they are durable), then kept in the online store where
//! they are newer, then acknowledged. If the second step fails the rows are safe, the client gets a `WARNING`, and
//! [`ingest::Ingest::catch_up`] repairs it. What a query writes is checked, sorted and staged as it comes, in bounded memory, and
//! committed at its end ([`ingest::Ingest::write_stream`]). **The online store is a cache of the offline store and can always be rebuilt from
//! it.** That sentence is the design.
//!
//! Small files are merged and sorted beside readers and writers, by [`gateway`] now and then and by `OPTIMIZE FEATURE VIEW` at
//! once: a rewrite is a version of its own that holds the same rows. Where rows of an entity or of a time lie together, zone
//! maps beside the data let a scan leave out the rest; they are only a cache. Files of writes that were killed are removed
//! after an hour, and with `--retention` older versions too. Answers for past system times do not come from older versions:
//! each row carries its `created_time`, so only `VERSION AS OF` depends on what is kept.
//!
//! ## When the online store fails
//!
//! A view's rows are served while they are *whole*: while the store holds the version that says so and the connection over which
//! that was found is the same. A lookup reads the version in one step with its rows; where it is gone, or the connection is another,
//! the lookup reads the offline store, and [`ingest::Ingest::catch_up`] replays the commits that the store lacks or builds the view
//! anew. In a cluster each primary keeps that version for its own rows, so that it is lost, or set back, with them. A store that cannot be asked fails lookups at once, or sends them offline, as the session prefers.
//! [`gateway::audit`] compares both stores row by row.
//!
//! ## What holds everywhere
//!
//! - A time clause is honoured or refused by name, never ignored.
//! - A filter on a feature is judged after the choice of the latest row, never before: it would revive an older row.
//! - Both routes give the same rows for one instant, and both judge expiry by one function.
//! - Only [`time`] reads the clock; only [`config`] knows the settings; only one room imports each heavy library.

#![forbid(unsafe_code)]

pub mod catalog;
pub mod config;
pub mod demo;
pub mod error;
pub mod executor;
pub mod gateway;
pub mod ingest;
pub mod lookup;
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

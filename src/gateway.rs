//! The only place where the parts of a gateway are built and joined.
//!
//! [`Gateway::open`] builds them from a [`Config`], [`Gateway::serve`] serves until told to stop. Beside the connections one
//! task follows what other gateways on the same root do: definitions, and commits that the online store has not applied. Another
//! keeps the files of the offline store few. [`audit`] looks at the stores without serving.

pub mod audit;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, Result, SqlState};
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::offline::{Durability, LanceStore, SharedOfflineStore};
use crate::online::{CallLimits, MemoryStore, OnlineStore, OnlineViews, RedisStore};
use crate::planner::{Planner, PlannerConfig, Stores};
use crate::registry::{ObjectId, Registry, RegistryStore, TableSource, Target, Ttl};
use crate::server::{self, ServerConfig, Threads};
use crate::session::{Services, SessionLimits};
use crate::time::{Clock, CommitTime, SetClock, SystemClock};
use crate::types::text::{parse_instant, parse_interval};

/// How often a gateway looks for what others did. Others' definitions and commits are seen within twice this.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(400);

/// How often a gateway looks for small files to put together. At 1,000 commits a second about that many files gather.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(500);

/// How often a gateway looks for what nobody can read any more; with a short retention more often.
const TIDY_INTERVAL: Duration = Duration::from_secs(600);

/// The shortest time between two such looks.
const TIDY_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// How long the start waits for the online rows; lookups of views that are not ready then read the offline store.
const CATCH_UP_AT_START: Duration = Duration::from_secs(20);

/// The prepared statements a session may make with SQL's `PREPARE`.
const PREPARED_MAX: usize = 1000;

/// A gateway, ready to serve.
#[derive(Debug)]
pub struct Gateway {
    services: Arc<Services>,
    config: Config,
    retention: Option<Ttl>,
}

impl Gateway {
    /// Builds the parts and brings the online store up to the offline store, as far as that is quick.
    ///
    /// Fails where the store's root cannot be used. A Redis that is away is no failure: lookups say so until it is back.
    pub async fn open(config: Config) -> Result<Self> {
        let clock = clock(config.clock.as_deref())?;
        let retention = config.retention.as_deref().map(retention).transpose()?;
        let registry = Arc::new(RegistryStore::open(&config.data).await?);
        let durability = if config.fsync { Durability::Synced } else { Durability::Cached };
        let offline: SharedOfflineStore = Arc::new(LanceStore::with_durability(&config.data, durability)?);
        let online = Arc::new(online_views(&config, &registry.current())?);
        let partitions = std::thread::available_parallelism().map_or(1, usize::from);
        let planner = Arc::new(Planner::new(&PlannerConfig { memory_bytes_max: config.memory_bytes_max, partitions })?);
        let ingest = Ingest::new(Arc::clone(&offline), Arc::clone(&online), Arc::clone(&clock));
        let ingest = Arc::new(ingest.with_long_work_on(planner.runtime().handle()?));
        let catalog = Catalog::new(Arc::clone(&planner), clock.now())?;
        let stores = Stores { offline, online, metrics: Arc::new(Metrics::default()) };
        let limits = SessionLimits { write_bytes_max: config.write_bytes_max, prepared_max: PREPARED_MAX };
        let services = Arc::new(Services { registry, catalog, planner, ingest, stores, clock, limits });
        let gateway = Self { services, config, retention };
        gateway.start_following().await;
        Ok(gateway)
    }

    /// The parts that sessions work with.
    pub fn services(&self) -> &Arc<Services> {
        &self.services
    }

    /// Serves clients until `shutdown` completes; `ready` is called with the address once connections are accepted.
    pub async fn serve(self, ready: impl FnOnce(SocketAddr), shutdown: impl Future<Output = ()>) -> Result<()> {
        let unusable = |source: std::io::Error| {
            Error::new(SqlState::IoError, format!("could not listen on {}", self.config.listen))
                .detail(source.to_string())
                .hint("Is another server there? Choose another address with --listen.")
        };
        let listener = TcpListener::bind(&self.config.listen).await.map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        let mut server = ServerConfig { connections_max: self.config.connections_max, ..ServerConfig::default() };
        server.limits.message_bytes_max = self.config.message_bytes_max;
        let threads = Threads::start(connection_threads(&self.config))?;
        let (stop, stopped) = watch::channel(false);
        let long_work = self.services.planner.runtime().handle()?;
        let maintainer = long_work.spawn(maintain(Arc::clone(&self.services), stopped.clone()));
        let tidier = long_work.spawn(tidy(Arc::clone(&self.services), self.retention, stopped.clone()));
        let follower = tokio::spawn(follow(Arc::clone(&self.services), stopped));
        info!(%address, data = %self.config.data, "accepting connections");
        ready(address);
        server::serve(listener, threads, server, Arc::clone(&self.services), shutdown).await;
        stop.send_replace(true);
        maintainer.await.map_err(|source| Error::internal("the task that keeps files few failed").caused_by(source))?;
        tidier.await.map_err(|source| Error::internal("the task that removes old files failed").caused_by(source))?;
        follower.await.map_err(|source| Error::internal("the task that follows other gateways failed").caused_by(source))
    }

    async fn start_following(&self) {
        let registry = self.services.registry.current();
        let catch_up = self.services.ingest.catch_up(&registry);
        match tokio::time::timeout(CATCH_UP_AT_START, catch_up).await {
            Ok(Ok(())) => debug!(version = registry.version, "online rows are ready"),
            Ok(Err(error)) => warn!(%error, "online rows are not ready"),
            Err(_) => info!("online rows are still being built; lookups read the offline store until they are ready"),
        }
    }
}

/// How many threads serve connections and lookups: one processor is left to those who ask and are asked. Where clients, Redis or queries
/// work on this machine too, each of so many threads answers more lookups at a time, and none waits for its turn on a processor.
fn connection_threads(config: &Config) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    config.connection_threads.unwrap_or_else(|| (processors - 1).max(1))
}

fn clock(instant: Option<&str>) -> Result<Arc<dyn Clock>> {
    match instant {
        None => Ok(Arc::new(SystemClock)),
        Some(instant) => Ok(Arc::new(SetClock::new(CommitTime::from_micros(parse_instant(instant, "UTC")?)))),
    }
}

/// How long older versions are kept. An interval without a fixed length is refused.
fn retention(interval: &str) -> Result<Ttl> {
    let length = parse_interval(interval).and_then(Ttl::from_interval);
    length.map_err(|error| {
        Error::new(SqlState::ConfigFileError, format!("retention \"{interval}\" is no length of time"))
            .detail(error.message().to_owned())
            .hint("Give days (of 24 hours) or less, as in '30 days'.")
    })
}

fn online_views(config: &Config, registry: &Registry) -> Result<OnlineViews> {
    let store: Arc<dyn OnlineStore> = match &config.redis {
        None => Arc::new(MemoryStore::new()),
        Some(url) => {
            let limits = CallLimits { read: config.redis_read, write: config.redis_write };
            Arc::new(RedisStore::connect(url, registry.store, limits)?)
        }
    };
    let views = OnlineViews::new(store);
    // A clock that is set by hand stands still, or goes back: what is past now may be live again.
    Ok(if config.clock.is_none() { views.with_expiry() } else { views })
}

/// Follows other gateways until told to stop: their definitions, their commits, and the rows whose time has come.
async fn follow(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    let mut known = relations(&services.registry.current());
    let mut interval = tokio::time::interval(FOLLOW_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What goes on for long is said once.
    let mut said: Option<String> = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = stopped.changed() => return,
        }
        let problem = follow_once(&services, &mut known).await.err();
        let text = problem.as_ref().map(Error::to_string);
        if text != said {
            match &problem {
                Some(error) => warn!(%error, "could not follow other gateways"),
                None => info!("following other gateways again"),
            }
            said = text;
        }
    }
}

/// Keeps the files of every relation few until told to stop. A rewrite under way is then left, and changes nothing.
async fn maintain(services: Arc<Services>, mut stopped: watch::Receiver<bool>) {
    let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            _ = stopped.changed() => return,
        }
        let registry = services.registry.current();
        tokio::select! {
            failures = services.ingest.maintain(&registry) => {
                if let Some(error) = first_that_counts(&services, failures).await {
                    warn!(%error, "small files could not be put together");
                }
            }
            _ = stopped.changed() => return,
        }
    }
}

/// Removes what nobody can read any more, until told to stop.
async fn tidy(services: Arc<Services>, retention: Option<Ttl>, mut stopped: watch::Receiver<bool>) {
    let kept = retention.and_then(|kept| u64::try_from(kept.micros()).ok()).map(Duration::from_micros);
    let pause = kept.map_or(TIDY_INTERVAL, |kept| (kept / 4).clamp(TIDY_INTERVAL_MIN, TIDY_INTERVAL));
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.changed() => return,
        }
        let tidied = async {
            // A tag that another gateway has just given counts.
            services.registry.refresh().await?;
            let failures = services.ingest.tidy(&services.registry.current(), retention).await;
            first_that_counts(&services, failures).await.map_or(Ok(()), Err)
        };
        tokio::select! {
            tidied = tidied => {
                if let Err(error) = tidied {
                    warn!(%error, "old files and versions could not be removed");
                }
            }
            _ = stopped.changed() => return,
        }
    }
}

/// The first error about a relation that is still there. One that has been dropped meanwhile, by whichever gateway, wants nothing.
async fn first_that_counts(services: &Services, failures: Vec<(ObjectId, Error)>) -> Option<Error> {
    if failures.is_empty() {
        return None;
    }
    if let Err(error) = services.registry.refresh().await {
        return Some(error);
    }
    let there = relations(&services.registry.current());
    let (count, moot): (Vec<_>, Vec<_>) = failures.into_iter().partition(|(id, _)| there.contains(id));
    for (id, error) in moot {
        debug!(%id, %error, "a relation was dropped while its files were looked at");
    }
    count.into_iter().map(|(_, error)| error).next()
}

async fn follow_once(services: &Services, known: &mut BTreeSet<ObjectId>) -> Result<()> {
    services.registry.refresh().await?;
    let registry = services.registry.current();
    let relations_now = relations(&registry);
    for id in known.difference(&relations_now) {
        services.stores.online.forget(*id).await?;
    }
    *known = relations_now;
    match services.ingest.catch_up(&registry).await {
        // A view may have been dropped meanwhile; the next look tells whether it was that.
        Err(error) if services.registry.current().version > registry.version => debug!(%error, "definitions changed meanwhile"),
        outcome => outcome?,
    }
    services.stores.online.apply_due(services.clock.now().as_event_time()).await
}

/// The numbers of the relations whose rows are in the store.
fn relations(registry: &Registry) -> BTreeSet<ObjectId> {
    let views = registry.views.values().map(|view| Target::View(Arc::clone(view)));
    let tables = registry.tables.values().filter(|table| table.source == TableSource::Stored);
    views.chain(tables.map(|table| Target::Table(Arc::clone(table)))).map(|target| target.id()).collect()
}

//! When a lookup may take the short road, and what it finds there.

use std::sync::Arc;

use super::Session;
use super::block::Block;
use super::settings::Settings;
use crate::error::{Error, Result};
use crate::lookup::{Ask, CompiledLookup, LookupView, Standpoint, look_up};
use crate::online::{PackedRow, ViewState};
use crate::planner::{OnlineFallback, RouteSetting};
use crate::time::EventTime;

/// What the settings say of the short road, read once a change.
#[derive(Clone, Debug)]
pub(super) struct Steering {
    time_zone: Arc<str>,
    /// Whether views are read in the present tense, from whichever store has them, and not to compare the roads.
    is_open: bool,
    fallback: OnlineFallback,
}

impl Steering {
    pub(super) fn of(settings: &Settings) -> Self {
        let is_open = settings.is_on("tidegate.short_road")
            && settings.route() != RouteSetting::Offline
            && settings.as_of().is_none()
            && settings.system_time().is_none();
        Self { time_zone: settings.time_zone().into(), is_open, fallback: settings.online_fallback() }
    }
}

impl Session {
    /// What a statement that is compiled now may stand on; `None` where none is to be: the road is closed, or the open block
    /// has definitions of its own.
    pub fn standpoint(&self) -> Option<Standpoint> {
        let is_common = self.block.as_ref().is_none_or(|block| block.changes.is_empty());
        (self.steering.is_open && is_common).then(|| Standpoint {
            registry_version: self.services.registry.version(),
            time_zone: Arc::clone(&self.steering.time_zone),
        })
    }

    /// Whether a compiled lookup may be answered from the online store now, as the planner would find if it planned the
    /// statement anew. No IO, no allocation.
    pub fn takes_short_road(&self, lookup: &CompiledLookup) -> bool {
        let reads_only_stored = |block: &Block| {
            let holds = |view: &LookupView| block.holds_rows_of(view.view.id);
            !block.failed && !block.is_pinned() && block.changes.is_empty() && !lookup.views.iter().any(holds)
        };
        self.steering.is_open
            && self.abandoned.is_none()
            && self.block.as_ref().is_none_or(reads_only_stored)
            && lookup.standpoint.is(self.services.registry.version(), &self.steering.time_zone)
            // One that is away is asked all the same, as the planner would.
            && lookup.views.iter().all(|view| self.services.stores.online.state(view.view.id) != ViewState::Rebuilding)
    }

    /// Asks the online store for all of these at once; gives what [`look_up`] gives, and the instant that was now.
    pub async fn look_up(&self, asks: &[Ask]) -> Result<(Vec<Option<PackedRow>>, EventTime)> {
        let now = self.services.clock.now().as_event_time();
        let stores = &self.services.stores;
        let found = look_up(&stores.online, &stores.metrics, asks, now).await?;
        Ok((found, now))
    }

    /// Whether a lookup that failed so is to be planned after all, because the planner may read the offline store instead.
    pub fn retries_on_planned_road(&self, error: &Error) -> bool {
        self.steering.fallback.reads_offline(error)
    }

    /// Counts lookups that were answered on the short road, and the rows they found.
    pub fn count_lookups(&self, lookups: u64, hits: u64) {
        let metrics = &self.services.stores.metrics;
        metrics.lookups_short.add(lookups);
        metrics.online_hits.add(hits);
    }
}

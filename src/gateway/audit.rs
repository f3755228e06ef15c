//! `tidegate audit`: the online rows held against the history, from outside the gateways that serve them.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{clock, online_views};
use crate::config::Config;
use crate::error::{Error, Result, SqlState};
use crate::ingest::{Audit, AuditStep, Ingest};
use crate::offline::LanceStore;
use crate::registry::{FeatureView, Registry, RegistryStore};

/// What to do about differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Nothing.
    No,
    /// Build the online rows of the views that have some anew. Gateways serve on meanwhile, from the offline store.
    Yes,
}

/// What was found of one view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited {
    /// The view's name.
    pub view: String,
    /// What was found.
    pub found: Audit,
    /// What was found after the repair; `None` where there was none.
    pub repaired: Option<Audit>,
}

impl Audited {
    /// Whether the online rows are as they should be now.
    pub fn agrees(&self) -> bool {
        self.repaired.as_ref().unwrap_or(&self.found).agrees()
    }
}

/// Compares the online rows of these views, of all that have some where none is named, with their histories. Shows its progress
/// on a terminal. Costs a read of each entity's newest row in both stores, and memory for the keys of one view.
///
/// Fails where there is no store, no such view, or no Redis: rows that are embedded in a gateway cannot be seen from outside.
pub async fn audit(config: &Config, names: &[String], repair: Repair) -> Result<Vec<Audited>> {
    if config.redis.is_none() {
        return Err(Error::new(
            SqlState::ConfigFileError,
            "the online rows are embedded in a gateway and cannot be seen from here",
        )
        .hint("Name the Redis with --redis. Embedded rows are built anew at each start, and by REFRESH ONLINE."));
    }
    let registry = RegistryStore::open_existing(&config.data).await?.current();
    let views = chosen(&registry, names)?;
    let online = Arc::new(online_views(config, &registry)?);
    let ingest = Ingest::new(Arc::new(LanceStore::new(&config.data)?), online, clock(config.clock.as_deref())?);
    let mut audited = Vec::with_capacity(views.len());
    for view in views {
        let found = with_progress(&ingest, &view).await?;
        let repaired = match repair {
            Repair::Yes if !found.agrees() => {
                ingest.rebuild_online(&view).await?;
                Some(with_progress(&ingest, &view).await?)
            }
            Repair::Yes | Repair::No => None,
        };
        audited.push(Audited { view: view.name.clone(), found, repaired });
    }
    Ok(audited)
}

fn chosen(registry: &Registry, names: &[String]) -> Result<Vec<Arc<FeatureView>>> {
    if names.is_empty() {
        return Ok(registry.views.values().filter(|view| view.online).cloned().collect());
    }
    let view = |name: &String| {
        let view = registry.views.get(name);
        let view = view.ok_or_else(|| Error::new(SqlState::UndefinedTable, format!("feature view \"{name}\" does not exist")))?;
        if !view.online {
            let message = format!("feature view \"{name}\" is not kept in the online store");
            return Err(Error::new(SqlState::ObjectNotInPrerequisiteState, message).hint("It has online = false."));
        }
        Ok(Arc::clone(view))
    };
    names.iter().map(view).collect()
}

async fn with_progress(ingest: &Ingest, view: &FeatureView) -> Result<Audit> {
    let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::no_length().with_style(style("{spinner} {elapsed_precise} {msg}"));
    bar.set_message(format!("{}: reading the history", view.name));
    bar.enable_steady_tick(Duration::from_millis(100));
    let show = |step| match step {
        AuditStep::ReadingHistory => {}
        AuditStep::Comparing { rows, of } => {
            if bar.length().is_none() {
                bar.set_style(style("{spinner} {elapsed_precise} {msg} {bar:30} {human_pos}/{human_len} {eta}"));
                bar.set_message(format!("{}: comparing online rows", view.name));
            }
            bar.set_length(of.max(rows));
            bar.set_position(rows);
        }
    };
    let audit = ingest.audit(view, &show).await;
    bar.finish_and_clear();
    audit
}

/// A table of what was found, a line a view, and a sentence that says what it means.
pub fn summary(audited: &[Audited]) -> String {
    const NAMES: [&str; 7] = ["entities", "missing", "older", "newer", "different", "unknown", ""];
    let width = audited.iter().map(|audited| audited.view.chars().count()).chain(["view".len()]).max().unwrap_or(0);
    let line = |view: &str, cells: [String; 7]| {
        let cells = cells.map(|cell| format!("  {cell:>9}")).concat();
        format!("{view:<width$}{cells}").trim_end().to_owned() + "\n"
    };
    let mut text = line("view", NAMES.map(str::to_owned));
    for Audited { view, found, repaired } in audited {
        let state = match (found.built, repaired) {
            (_, Some(repaired)) if repaired.agrees() => "repaired",
            (_, Some(_)) => "not repaired",
            (false, None) => "not built",
            (true, None) => "",
        };
        let counts = [found.entities, found.missing, found.older, found.newer, found.different, found.unknown];
        let cells: Vec<String> = counts.iter().map(u64::to_string).chain([state.to_owned()]).collect();
        text += &line(view, std::array::from_fn(|place| cells[place].clone()));
    }
    let differ = audited.iter().filter(|audited| !audited.found.agrees()).count();
    let left = audited.iter().filter(|audited| !audited.agrees()).count();
    text += &match (differ, left) {
        (0, _) => format!("{} audited: the online rows are those of the history.\n", views(audited.len())),
        (_, 0) => format!("{} audited: {} differed and {} repaired.\n", views(audited.len()), views(differ), was(differ)),
        (_, _) => format!(
            "{} audited: {} differ{} from the history.\n",
            views(audited.len()),
            views(left),
            if left == 1 { "s" } else { "" }
        ),
    };
    text
}

fn views(count: usize) -> String {
    if count == 1 { "1 view".to_owned() } else { format!("{count} views") }
}

fn was(count: usize) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_says_what_differs() {
        let good = Audit { built: true, entities: 12_345, ..Audit::default() };
        let bad = Audit { missing: 2, unknown: 1, ..good };
        let view = |view: &str, found, repaired| Audited { view: view.into(), found, repaired };
        let text = summary(&[view("spend", bad, None), view("customer_weather", good, None), view("v", Audit::default(), None)]);
        let expected = "\
view               entities    missing      older      newer  different    unknown
spend                 12345          2          0          0          0          1
customer_weather      12345          0          0          0          0          0
v                         0          0          0          0          0          0  not built
3 views audited: 2 views differ from the history.
";
        assert_eq!(text, expected);
        let text = summary(&[view("spend", bad, Some(good))]);
        assert!(text.ends_with("repaired\n1 view audited: 1 view differed and was repaired.\n"), "{text}");
        assert!(summary(&[view("v", good, None)]).ends_with("1 view audited: the online rows are those of the history.\n"));
    }
}

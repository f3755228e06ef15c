//! Which store answers for a view: one pure function.

use super::RouteSetting;
use crate::error::{Error, Result, SqlState};

/// Which instant a view is read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tense {
    /// Now.
    Present,
    /// An instant that the query names.
    AsOf,
}

/// How far the query's filters name the entities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeysBound {
    /// Every entity key is bound.
    All,
    /// Some is not.
    NotAll,
}

/// Whether a thing is so; named where it is built, so that eight of them cannot be swapped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The view's name, for errors.
    pub(super) view: &'a str,
    /// `SET tidegate.route`.
    pub(super) setting: RouteSetting,
    /// The instant asked for.
    pub(super) tense: Tense,
    /// What the filters bind.
    pub(super) keys: KeysBound,
    /// The view has `online = true`.
    pub(super) kept_online: bool,
    /// Its online rows are all there.
    pub(super) ready: bool,
    /// The block keeps rows of the view back.
    pub(super) rows_held: bool,
    /// The block's versions are pinned.
    pub(super) versions_pinned: bool,
}

/// Where a view is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// By key, from the online store.
    Online,
    /// From the history.
    Offline,
}

/// Decides where a view is read; fails where the session insists on the online store and it cannot answer.
pub(super) fn route(facts: &Facts<'_>) -> Result<Route> {
    let obstacle = obstacle(facts);
    match (facts.setting, obstacle) {
        (RouteSetting::Offline, _) | (RouteSetting::Auto, Some(_)) => Ok(Route::Offline),
        (RouteSetting::Auto | RouteSetting::Online, None) => Ok(Route::Online),
        (RouteSetting::Online, Some(obstacle)) => Err(Error::new(
            SqlState::ObjectNotInPrerequisiteState,
            format!("cannot read feature view \"{}\" from the online store: {obstacle}", facts.view),
        )
        .hint("SET tidegate.route = auto.")),
    }
}

/// Why the online store cannot answer.
fn obstacle(facts: &Facts<'_>) -> Option<&'static str> {
    if facts.tense == Tense::AsOf {
        return Some("it keeps no past values");
    }
    if facts.keys == KeysBound::NotAll {
        return Some("the query does not bind every entity key");
    }
    if !facts.kept_online {
        return Some("the view has online = false");
    }
    if facts.versions_pinned {
        return Some("a REPEATABLE READ transaction reads one version of the history");
    }
    if facts.rows_held {
        return Some("the transaction has uncommitted rows of the view");
    }
    if !facts.ready {
        return Some("its online rows are being rebuilt");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_is_a_table() {
        let lookup = Facts {
            view: "v",
            setting: RouteSetting::Auto,
            tense: Tense::Present,
            keys: KeysBound::All,
            kept_online: true,
            ready: true,
            rows_held: false,
            versions_pinned: false,
        };
        let cases = [
            (lookup, Some(Route::Online)),
            (Facts { setting: RouteSetting::Online, ..lookup }, Some(Route::Online)),
            (Facts { setting: RouteSetting::Offline, ..lookup }, Some(Route::Offline)),
            (Facts { keys: KeysBound::NotAll, ..lookup }, Some(Route::Offline)),
            (Facts { tense: Tense::AsOf, ..lookup }, Some(Route::Offline)),
            (Facts { kept_online: false, ..lookup }, Some(Route::Offline)),
            (Facts { ready: false, ..lookup }, Some(Route::Offline)),
            (Facts { rows_held: true, ..lookup }, Some(Route::Offline)),
            (Facts { versions_pinned: true, ..lookup }, Some(Route::Offline)),
            (Facts { setting: RouteSetting::Online, keys: KeysBound::NotAll, ..lookup }, None),
            (Facts { setting: RouteSetting::Online, tense: Tense::AsOf, ..lookup }, None),
            (Facts { setting: RouteSetting::Online, ready: false, ..lookup }, None),
        ];
        for (facts, expected) in cases {
            assert_eq!(route(&facts).ok(), expected, "{facts:?}");
        }
    }
}

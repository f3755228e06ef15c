//! Every form in which the past can be asked for, held against its definition by brute force.
//!
//! A [`Form`] is a name, an SQL template and the rule that says which row answers a label. Labels lie on and beside the edges of
//! what was written; each statement asks for all of them at once. One label under one form is one case: it is compared on its
//! own. Histories are asked as they were written, in several fragments; after `OPTIMIZE FEATURE VIEW`, in one; by a gateway that
//! was killed and started again; and after later writes.

use tokio_postgres::Client;

use super::{Chance, History, KEYS, Row, SECOND, TTL, Trial, instant, literal, micros};
use crate::harness::{self, Online, Setup};

/// How many cases one run asks at least; `TIDEGATE_CASES` asks for more.
const CASES: usize = 20_000;

/// How many labels a statement asks about.
const LABELS: usize = 60;

/// On which side of the instant the answer lies, and whether it may lie at it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    AtOrBefore,
    Before,
    AtOrAfter,
    After,
}

/// How far from the instant it may lie.
#[derive(Clone, Copy)]
enum Window {
    /// As far as the view's TTL says.
    OfView,
    /// As far as that, and no farther than this.
    Within(i64),
    /// No farther than this; the view's TTL does not count.
    Only(i64),
    /// However far.
    Any,
}

/// The instant asked for.
#[derive(Clone, Copy)]
enum At {
    /// The label's `ts`.
    Label,
    /// `{t}`
    Constant,
    /// `{T}`, as of which the store is asked.
    Known,
    /// Where the clock stands.
    Now,
    /// When version `{n}` was committed.
    Commit,
}

/// What may be known.
#[derive(Clone, Copy)]
enum Knowledge {
    /// Everything.
    All,
    /// What was committed until `{T}`.
    Until,
    /// What was committed until the label's `known`.
    OfLabel,
    /// What was committed until the label's `ts`.
    UntilInstant,
    /// Version `{n}`, which has the tag `{tag}`.
    Version,
}

/// Which of several rows with the same event time answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ties {
    /// The last correction.
    Last,
    /// Any of them.
    Any,
}

/// Which row answers.
#[derive(Clone, Copy)]
struct Rule {
    at: At,
    side: Side,
    window: Window,
    knows: Knowledge,
    ties: Ties,
    /// Whether a label without an answer stays, with NULLs.
    keeps_label: bool,
}

/// `AS OF l.ts`
const AS_OF: Rule = Rule {
    at: At::Label,
    side: Side::AtOrBefore,
    window: Window::OfView,
    knows: Knowledge::All,
    ties: Ties::Last,
    keeps_label: true,
};

/// The same over `history.v`, which has no TTL.
const HISTORY: Rule = Rule { window: Window::Any, ..AS_OF };

/// A view as of a constant.
const SNAPSHOT: Rule = Rule { at: At::Constant, keeps_label: false, ..AS_OF };

struct Form {
    name: &'static str,
    /// `{ask}` is the labels' part, `{keys}` the part of a snapshot, `{on}` the key equalities, `{every}` every key bound, `{v}`
    /// the view, `{other}` another one over the same entity; the other names are those of [`Picks`].
    sql: &'static str,
    rule: Rule,
    /// Settings that it is asked under.
    set: &'static [(&'static str, &'static str)],
}

const fn form(name: &'static str, sql: &'static str, rule: Rule) -> Form {
    Form { name, sql, rule, set: &[] }
}

const fn set(name: &'static str, sql: &'static str, rule: Rule, set: &'static [(&'static str, &'static str)]) -> Form {
    Form { name, sql, rule, set }
}

const SECONDS_3: i64 = 3 * SECOND;
const WITHIN_3: Rule = Rule { window: Window::Within(SECONDS_3), ..AS_OF };
const BEFORE: Rule = Rule { side: Side::Before, ..AS_OF };
const AFTER: Rule = Rule { side: Side::After, ..AS_OF };
const AT_OR_AFTER: Rule = Rule { side: Side::AtOrAfter, ..AS_OF };
const INNER: Rule = Rule { keeps_label: false, ..AS_OF };
const KNOWN: Rule = Rule { knows: Knowledge::Until, ..AS_OF };
const VERSION: Rule = Rule { knows: Knowledge::Version, ..AS_OF };
const LEAK_PROOF: Rule = Rule { knows: Knowledge::UntilInstant, ..AS_OF };
const SYSTEM_TIME: &[(&str, &str)] = &[("tidegate.system_time", "{T}")];
const INSTANT: &[(&str, &str)] = &[("tidegate.as_of", "{t}")];
const ONLINE: &[(&str, &str)] = &[("tidegate.route", "online")];
const OFFLINE: &[(&str, &str)] = &[("tidegate.route", "offline")];
const BOTH: &[(&str, &str)] = &[("tidegate.as_of", "{t}"), ("tidegate.system_time", "{T}")];

#[rustfmt::skip]
const FORMS: &[Form] = &[
    form("as of", "{ask} LEFT JOIN {v} AS OF l.ts AS f ON {on}", AS_OF),
    form("as of, using", "{ask} LEFT JOIN {v} AS OF l.ts AS f USING (a, b)", AS_OF),
    form("as of, inner", "{ask} JOIN {v} AS OF l.ts AS f ON {on}", INNER),
    form("within", "{ask} LEFT JOIN {v} AS OF l.ts WITHIN INTERVAL '3 seconds' AS f ON {on}", WITHIN_3),
    form("within nothing", "{ask} LEFT JOIN {v} AS OF l.ts WITHIN INTERVAL '0' AS f ON {on}", Rule { window: Window::Within(0), ..AS_OF }),
    form("within, inner", "{ask} JOIN {v} AS OF l.ts WITHIN INTERVAL '3 seconds' AS f ON {on}", Rule { keeps_label: false, ..WITHIN_3 }),
    form("chain", "{ask} LEFT JOIN {other} AS OF l.ts AS g ON g.a = l.a AND g.b = l.b LEFT JOIN {v} AS OF l.ts WITHIN INTERVAL '3 seconds' AS f ON {on}", WITHIN_3),
    form("match >=", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts >= f.event_time) ON {on}", AS_OF),
    form("match >= using", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts >= f.event_time) USING (a, b)", AS_OF),
    form("match >", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts > f.event_time) ON {on}", BEFORE),
    form("match <=", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts <= f.event_time) ON {on}", AT_OR_AFTER),
    form("match <", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts < f.event_time) ON {on}", AFTER),
    form("match >=, tolerance", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts >= f.event_time) ON {on} TOLERANCE INTERVAL '3 seconds'", WITHIN_3),
    form("match >, tolerance", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts > f.event_time) ON {on} TOLERANCE INTERVAL '3 seconds'", Rule { side: Side::Before, ..WITHIN_3 }),
    form("match <=, tolerance", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts <= f.event_time) ON {on} TOLERANCE INTERVAL '3 seconds'", Rule { side: Side::AtOrAfter, ..WITHIN_3 }),
    form("match <, tolerance", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts < f.event_time) ON {on} TOLERANCE INTERVAL '3 seconds'", Rule { side: Side::After, ..WITHIN_3 }),
    form("match, inner", "{ask} ASOF INNER JOIN {v} f MATCH_CONDITION (l.ts >= f.event_time) ON {on}", INNER),
    form("asof left >=", "{ask} ASOF LEFT JOIN {v} f ON {on} AND l.ts >= f.event_time", AS_OF),
    form("asof left >", "{ask} ASOF LEFT JOIN {v} f ON {on} AND f.event_time < l.ts", BEFORE),
    form("asof left <=", "{ask} ASOF LEFT JOIN {v} f ON l.ts <= f.event_time AND {on}", AT_OR_AFTER),
    form("asof left <", "{ask} ASOF LEFT JOIN {v} f ON {on} AND l.ts < f.event_time TOLERANCE INTERVAL '3 seconds'", Rule { side: Side::After, ..WITHIN_3 }),
    form("asof >=", "{ask} ASOF JOIN {v} f ON {on} AND l.ts >= f.event_time", INNER),
    form("asof <", "{ask} ASOF JOIN {v} f ON {on} AND l.ts < f.event_time", Rule { keeps_label: false, ..AFTER }),
    form("asof history", "{ask} ASOF LEFT JOIN history.{v} f ON {on} AND l.ts >= f.event_time TOLERANCE INTERVAL '3 seconds'", Rule { window: Window::Only(SECONDS_3), ties: Ties::Any, ..AS_OF }),
    form("asof table", "{ask} ASOF LEFT JOIN copied f ON {on} AND l.ts > f.event_time", Rule { window: Window::Any, ties: Ties::Any, ..BEFORE }),
    form("asof table, forward", "{ask} ASOF JOIN copied f ON {on} AND l.ts <= f.event_time", Rule { window: Window::Any, ties: Ties::Any, keeps_label: false, ..AT_OR_AFTER }),
    form("system time", "{ask} LEFT JOIN {v} FOR SYSTEM_TIME AS OF '{T}' AS OF l.ts AS f ON {on}", KNOWN),
    form("system time of the label", "{ask} LEFT JOIN {v} FOR SYSTEM_TIME AS OF l.known AS OF l.ts AS f ON {on}", Rule { knows: Knowledge::OfLabel, ..AS_OF }),
    form("leak-proof", "{ask} LEFT JOIN {v} FOR SYSTEM_TIME AS OF l.ts AS OF l.ts AS f ON {on}", LEAK_PROOF),
    form("leak-proof, once", "{ask} LEFT JOIN {v} FOR SYSTEM_TIME AS OF l.ts AS f ON {on}", LEAK_PROOF),
    form("system time, within", "{ask} JOIN {v} FOR SYSTEM_TIME AS OF l.known AS OF l.ts WITHIN INTERVAL '3 seconds' AS f ON {on}", Rule { knows: Knowledge::OfLabel, keeps_label: false, ..WITHIN_3 }),
    form("system time, match", "{ask} ASOF JOIN {v} FOR SYSTEM_TIME AS OF l.known AS f MATCH_CONDITION (l.ts > f.event_time) ON {on}", Rule { knows: Knowledge::OfLabel, ..BEFORE }),
    form("system time, forward", "{ask} ASOF JOIN {v} FOR SYSTEM_TIME AS OF l.known AS f MATCH_CONDITION (l.ts <= f.event_time) ON {on}", Rule { knows: Knowledge::OfLabel, ..AT_OR_AFTER }),
    form("system time, asof", "{ask} ASOF LEFT JOIN {v} FOR SYSTEM_TIME AS OF '{T}' AS f ON {on} AND l.ts < f.event_time", Rule { knows: Knowledge::Until, ..AFTER }),
    form("version", "{ask} LEFT JOIN {v} VERSION AS OF {n} AS OF l.ts AS f ON {on}", VERSION),
    form("tag", "{ask} LEFT JOIN {v} VERSION AS OF '{tag}' AS OF l.ts AS f ON {on}", VERSION),
    form("version, match", "{ask} ASOF JOIN {v} VERSION AS OF {n} f MATCH_CONDITION (l.ts <= f.event_time) ON {on}", Rule { knows: Knowledge::Version, ..AT_OR_AFTER }),
    form("tag, asof", "{ask} ASOF JOIN {v} VERSION AS OF '{tag}' f ON {on} AND l.ts > f.event_time", Rule { knows: Knowledge::Version, keeps_label: false, ..BEFORE }),
    form("features_at", "{ask} LEFT JOIN features_at('{v}', l.ts) AS f ON {on}", AS_OF),
    form("features_at, named", "{ask} LEFT JOIN LATERAL features_at('{v}', as_of => l.ts) AS f ON {on}", AS_OF),
    form("features_at, within", "{ask} JOIN features_at('{v}', l.ts, INTERVAL '3 seconds') AS f ON {on}", Rule { keeps_label: false, ..WITHIN_3 }),
    form("features_at, system time", "{ask} LEFT JOIN features_at('{v}', l.ts, system_time => l.known) AS f ON {on}", Rule { knows: Knowledge::OfLabel, ..AS_OF }),
    form("features_at, version", "{ask} LEFT JOIN features_at('{v}', l.ts, version => {n}) AS f ON {on}", VERSION),
    set("as of, set system time", "{ask} LEFT JOIN {v} AS OF l.ts AS f ON {on}", KNOWN, SYSTEM_TIME),
    set("match, set system time", "{ask} ASOF JOIN {v} f MATCH_CONDITION (l.ts < f.event_time) ON {on}", Rule { knows: Knowledge::Until, ..AFTER }, SYSTEM_TIME),
    set("lateral, set system time", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) f ON true", Rule { knows: Knowledge::Until, ..HISTORY }, SYSTEM_TIME),
    set("version, set system time", "{ask} LEFT JOIN {v} VERSION AS OF {n} AS OF l.ts AS f ON {on}", VERSION, SYSTEM_TIME),
    set("as of, set as of", "{ask} LEFT JOIN {v} AS OF l.ts AS f ON {on}", AS_OF, INSTANT),
    form("lateral", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) f ON true", HISTORY),
    form("lateral, cross", "{ask} CROSS JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time < l.ts ORDER BY f.event_time DESC LIMIT 1) f", Rule { side: Side::Before, keeps_label: false, ..HISTORY }),
    form("lateral, within", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time <= l.ts AND f.event_time >= l.ts - INTERVAL '3 seconds' ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) f ON true", Rule { window: Window::Only(SECONDS_3), ..AS_OF }),
    form("lateral, forward", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time BETWEEN l.ts AND l.ts + INTERVAL '3 seconds' ORDER BY f.event_time, f.created_time DESC LIMIT 1) f ON true", Rule { window: Window::Only(SECONDS_3), ..AT_OR_AFTER }),
    form("lateral, known", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time <= l.ts AND f.created_time <= l.known ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) f ON true", Rule { knows: Knowledge::OfLabel, ..HISTORY }),
    form("lateral, table", "{ask} LEFT JOIN LATERAL (SELECT * FROM copied f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) f ON true", Rule { ties: Ties::Any, ..HISTORY }),
    form("lateral, counted off", "{ask} LEFT JOIN LATERAL (SELECT * FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time + INTERVAL '1 day' DESC, f.created_time DESC LIMIT 1) f ON true", Rule { ties: Ties::Any, ..HISTORY }),
    form("distinct on", "SELECT DISTINCT ON (l.id) l.id, f.event_time, f.amount, f.label FROM labels l LEFT JOIN history.{v} f ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC NULLS LAST, f.created_time DESC NULLS LAST", HISTORY),
    form("distinct on, forward", "SELECT DISTINCT ON (l.id) l.id, f.event_time, f.amount, f.label FROM labels l JOIN history.{v} f ON {on} AND f.event_time > l.ts ORDER BY l.id, f.event_time, f.created_time DESC", Rule { side: Side::After, keeps_label: false, ..HISTORY }),
    form("row_number", "SELECT id, event_time, amount, label FROM (SELECT l.id, f.event_time, f.amount, f.label, row_number() OVER (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l, history.{v} f WHERE {on} AND f.event_time < l.ts) r WHERE n = 1", Rule { side: Side::Before, keeps_label: false, ..HISTORY }),
    form("scalar subqueries", "SELECT l.id, (SELECT f.event_time FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1), (SELECT f.amount FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1), (SELECT f.label FROM history.{v} f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1) FROM labels l", HISTORY),
    set("now, online", "{keys} {v} WHERE {every}", Rule { at: At::Now, ..SNAPSHOT }, ONLINE),
    set("now, offline", "{keys} {v} WHERE {every}", Rule { at: At::Now, ..SNAPSHOT }, OFFLINE),
    form("now, all", "{keys} {v}", Rule { at: At::Now, ..SNAPSHOT }),
    form("constant", "{keys} {v} AS OF TIMESTAMPTZ '{t}'", SNAPSHOT),
    form("constant, within", "{keys} {v} AS OF TIMESTAMPTZ '{t}' WITHIN INTERVAL '3 seconds'", Rule { window: Window::Within(SECONDS_3), ..SNAPSHOT }),
    form("constant, features_at", "{keys} features_at('{v}', TIMESTAMPTZ '{t}')", SNAPSHOT),
    set("constant, set", "{keys} {v}", SNAPSHOT, INSTANT),
    form("known", "{keys} {v} FOR SYSTEM_TIME AS OF '{T}'", Rule { at: At::Known, knows: Knowledge::Until, ..SNAPSHOT }),
    set("known, set", "{keys} {v}", Rule { at: At::Known, knows: Knowledge::Until, ..SNAPSHOT }, SYSTEM_TIME),
    form("known, constant", "{keys} {v} FOR SYSTEM_TIME AS OF '{T}' AS OF '{t}'", Rule { knows: Knowledge::Until, ..SNAPSHOT }),
    set("known, constant, set", "{keys} {v}", Rule { knows: Knowledge::Until, ..SNAPSHOT }, BOTH),
    form("known, features_at", "{keys} features_at('{v}', TIMESTAMPTZ '{t}', system_time => '{T}')", Rule { knows: Knowledge::Until, ..SNAPSHOT }),
    form("committed", "{keys} {v} VERSION AS OF {n}", Rule { at: At::Commit, knows: Knowledge::Version, ..SNAPSHOT }),
    form("tagged", "{keys} {v} VERSION AS OF '{tag}' AS OF '{t}'", Rule { knows: Knowledge::Version, ..SNAPSHOT }),
];

/// A row that asks.
struct Label {
    key: Option<usize>,
    ts: Option<i64>,
    known: Option<i64>,
}

/// One version of the history: how many rows it has, when it was committed, and its number; its tag is `r` and that number.
struct Version {
    rows: usize,
    created_time: i64,
    number: String,
}

/// What a template's names stand for.
struct Picks<'a> {
    /// `{t}`
    instant: i64,
    /// `{T}`
    known: i64,
    /// `{n}` and `{tag}`
    version: &'a Version,
    /// The clock.
    now: i64,
}

impl Rule {
    /// The rows that may answer: the greatest or least event time that the definition allows, the last correction last.
    fn answers<'a>(&self, history: &'a History, label: &Label, picks: &Picks<'_>) -> Vec<&'a Row> {
        let at = match self.at {
            At::Label => label.ts,
            At::Constant => Some(picks.instant),
            At::Known => Some(picks.known),
            At::Now => Some(picks.now),
            At::Commit => Some(picks.version.created_time),
        };
        let (Some(key), Some(at)) = (label.key, at) else { return Vec::new() };
        let known = match self.knows {
            Knowledge::All | Knowledge::Version => Some(i64::MAX),
            Knowledge::Until => Some(picks.known),
            Knowledge::OfLabel => label.known,
            Knowledge::UntilInstant => Some(at),
        };
        let rows = if matches!(self.knows, Knowledge::Version) { picks.version.rows } else { history.rows.len() };
        let window = match self.window {
            Window::OfView => history.ttl,
            Window::Within(length) => Some(history.ttl.map_or(length, |ttl| ttl.min(length))),
            Window::Only(length) => Some(length),
            Window::Any => None,
        };
        let is_on_side = |event_time: i64| match self.side {
            Side::AtOrBefore => event_time <= at,
            Side::Before => event_time < at,
            Side::AtOrAfter => event_time >= at,
            Side::After => event_time > at,
        };
        let is_near =
            |event_time: i64| window.is_none_or(|window| (i128::from(event_time) - i128::from(at)).abs() <= window.into());
        let is_candidate = |row: &&Row| {
            row.key == key
                && is_on_side(row.event_time)
                && is_near(row.event_time)
                && known.is_some_and(|known| row.created_time <= known)
        };
        let candidates: Vec<&Row> = history.rows[..rows].iter().filter(is_candidate).collect();
        let times = candidates.iter().map(|row| row.event_time);
        let nearest = if matches!(self.side, Side::AtOrBefore | Side::Before) { times.max() } else { times.min() };
        candidates.into_iter().filter(|row| Some(row.event_time) == nearest).collect()
    }
}

/// What a row shows: event time and features.
type Shown = (Option<i64>, Option<String>, Option<String>);

fn shown(row: Option<&Row>) -> Shown {
    let text = |value: Option<&Row>| value.and_then(|row| row.amount).map(|amount| amount.to_string());
    (row.map(|row| row.event_time), text(row), row.and_then(|row| row.label.clone()))
}

fn shown_of(columns: &[String]) -> Shown {
    let known = |text: &String| (text != "NULL").then(|| text.clone());
    (known(&columns[0]).map(|text| micros(&text)), known(&columns[1]), known(&columns[2]))
}

/// A view, what it was asked, and the versions it had.
struct Asked {
    trial: Trial,
    /// Another view over the same entity.
    other: &'static str,
    labels: Vec<Label>,
    versions: Vec<Version>,
}

impl Asked {
    /// Writes once, and tags the version that this makes.
    async fn write(&mut self, client: &Client, chance: &mut Chance, now: i64) {
        self.trial.write(client, chance, now).await;
        let (view, tag) = (self.trial.view, format!("r{}", self.versions.len()));
        harness::run(client, &format!("CREATE TAG {tag} ON FEATURE VIEW {view}")).await;
        let number = format!("SELECT version FROM tidegate.tags WHERE feature_view = '{view}' AND tag = '{tag}'");
        let number = harness::value(client, &number).await;
        let history = &self.trial.history;
        let created_time = history.rows.last().map_or(0, |row| row.created_time);
        self.versions.push(Version { rows: history.rows.len(), created_time, number });
    }

    /// Labels on the edges of what was written and beside them, some of them twice, some that match nothing.
    fn draw_labels(&mut self, chance: &mut Chance) {
        let mut edges = self.trial.history.edges();
        edges.extend([-400 * 365 * 86_400 * SECOND, 7000 * 365 * 86_400 * SECOND]);
        edges.extend([i64::MIN, i64::MAX].repeat(1 + edges.len() / 30));
        let commits = self.trial.history.rows.iter().map(|row| row.created_time);
        let mut commits: Vec<i64> = commits.flat_map(|commit| [commit - 1, commit, commit + 1]).collect();
        commits.extend([i64::MIN, i64::MAX]);
        let mut one_of = |values: &[i64]| values[chance.below(values.len() as i64) as usize];
        let mut drawn: Vec<(i64, i64)> = (0..LABELS).map(|_| (one_of(&edges), one_of(&commits))).collect();
        let again = drawn[..LABELS / 10].to_vec();
        drawn.extend(again);
        let labels = drawn.into_iter().map(|(ts, known)| Label {
            key: (!chance.one_in(20)).then(|| chance.below(KEYS.len() as i64) as usize),
            ts: (!chance.one_in(20)).then_some(ts),
            known: (!chance.one_in(20)).then_some(known),
        });
        self.labels = labels.collect();
    }

    async fn write_labels(&self, client: &Client) {
        let rows = self.labels.iter().enumerate().map(|(id, label)| {
            let (a, b) = label.key.map(|key| KEYS[key]).map_or((None, Some("c")), |(a, b)| (Some(a), Some(b)));
            let (ts, known) = (label.ts.map(instant), label.known.map(instant));
            let (ts, known) = (literal(ts.as_deref()), literal(known.as_deref()));
            format!("({id}, {}, {}, {ts}, {known})", literal(a), literal(b))
        });
        let rows = rows.collect::<Vec<_>>().join(", ");
        harness::run(client, "DROP TABLE IF EXISTS labels").await;
        harness::run(client, "CREATE TABLE labels (id INTEGER, a TEXT, b TEXT, ts TIMESTAMPTZ, known TIMESTAMPTZ)").await;
        harness::run(client, &format!("INSERT INTO labels VALUES {rows}")).await;
    }

    /// Asks every form; gives the number of cases.
    async fn check(&self, client: &Client, chance: &mut Chance, now: i64, phase: &str) -> usize {
        let view = self.trial.view;
        harness::run(client, "DROP TABLE IF EXISTS copied").await;
        harness::run(client, &format!("CREATE TABLE copied AS SELECT * FROM history.{view}")).await;
        let mut cases = 0;
        for form in FORMS {
            cases += self.check_form(client, form, &self.picks(chance, now), phase).await;
        }
        cases
    }

    fn picks(&self, chance: &mut Chance, now: i64) -> Picks<'_> {
        let edges = self.trial.history.edges();
        let version = &self.versions[chance.below(self.versions.len() as i64) as usize];
        let instant = edges[chance.below(edges.len() as i64) as usize];
        // Commits while the clock stands still are stamped after it.
        let known = now.min(version.created_time - chance.below(2));
        Picks { instant, known, version, now }
    }

    /// Asks one form; gives the statement and its rows.
    async fn ask(&self, client: &Client, form: &Form, picks: &Picks<'_>) -> (String, Vec<Vec<String>>) {
        let every = KEYS.map(|(a, b)| format!("(a = '{a}' AND b = '{b}')")).join(" OR ");
        let fill = |template: &str| {
            let template = template
                .replace("{ask}", "SELECT l.id, f.event_time, f.amount, f.label FROM labels l")
                .replace("{keys}", "SELECT a, b, event_time, amount, label FROM")
                .replace("{on}", "f.a = l.a AND f.b = l.b")
                .replace("{every}", &every)
                .replace("{v}", self.trial.view)
                .replace("{other}", self.other);
            let tag = self.versions.iter().position(|version| version.number == picks.version.number);
            template
                .replace("{t}", &instant(picks.instant))
                .replace("{T}", &instant(picks.known))
                .replace("{n}", &picks.version.number)
                .replace("{tag}", &format!("r{}", tag.unwrap_or_default()))
        };
        for (setting, value) in form.set {
            harness::run(client, &format!("SET {setting} = '{}'", fill(value))).await;
        }
        let sql = fill(form.sql);
        let rows = harness::rows(client, &sql).await;
        for (setting, _) in form.set {
            harness::run(client, &format!("RESET {setting}")).await;
        }
        (sql, rows)
    }

    async fn check_form(&self, client: &Client, form: &Form, picks: &Picks<'_>, phase: &str) -> usize {
        let (sql, mut rows) = self.ask(client, form, picks).await;
        let keys: Vec<Label>;
        let labels = if form.sql.contains("{keys}") {
            for row in &mut rows {
                let key = super::key_number(&row[0], &row[1]);
                row.splice(..2, [key.to_string()]);
            }
            keys = (0..KEYS.len()).map(|key| Label { key: Some(key), ts: None, known: None }).collect();
            &keys
        } else {
            &self.labels
        };
        let mut given = vec![Vec::new(); labels.len()];
        for row in &rows {
            given[row[0].parse::<usize>().unwrap()].push(shown_of(&row[1..]));
        }
        for (label, given) in labels.iter().zip(given) {
            let answers = form.rule.answers(&self.trial.history, label, picks);
            let allowed: Vec<Shown> = match (answers.last(), form.rule.ties) {
                (None, _) => vec![shown(None)],
                (Some(last), Ties::Last) => vec![shown(Some(last))],
                (Some(_), Ties::Any) => answers.iter().map(|row| shown(Some(row))).collect(),
            };
            let right = match given.as_slice() {
                [] => answers.is_empty() && !form.rule.keeps_label,
                [one] => allowed.contains(one) && (form.rule.keeps_label || !answers.is_empty()),
                _ => false,
            };
            let of = |micros: Option<i64>| micros.map(instant);
            assert!(
                right,
                "{phase}, {}: {sql}\n  key {:?} at {:?}, knowing until {:?}\n  gives {given:?}\n  not {allowed:?}\n{}",
                form.name,
                label.key.map(|key| KEYS[key]),
                of(label.ts),
                of(label.known),
                self.trial.story()
            );
        }
        labels.len()
    }
}

/// Two views over one entity, without any rows.
async fn defined(client: &Client, seed: u64) -> Vec<Asked> {
    harness::run(client, "CREATE ENTITY pair KEY (a TEXT, b TEXT)").await;
    let mut asked = Vec::new();
    for (view, other, ttl) in [("fading", "lasting", Some(TTL)), ("lasting", "fading", None)] {
        let trial = Trial { view, history: History { rows: Vec::new(), ttl }, seed };
        trial.define(client).await;
        asked.push(Asked { trial, other, labels: Vec::new(), versions: Vec::new() });
    }
    asked
}

/// Writes to each view some times while time goes on; gives what time it is then.
async fn written(client: &Client, asked: &mut [Asked], chance: &mut Chance, mut now: i64, writes: usize) -> i64 {
    for _ in 0..writes {
        for asked in &mut *asked {
            asked.write(client, chance, now).await;
        }
        now += chance.below(5) * SECOND;
        harness::set_clock(client, &instant(now)).await;
    }
    now
}

/// Two histories through all their phases; gives the number of cases.
async fn forms_of(seed: u64, online: Online) -> usize {
    let mut chance = Chance(seed);
    let mut gateway = Setup::new(online).start();
    let mut client = gateway.connect().await;
    let mut asked = defined(&client, seed).await;
    let (mut now, mut cases) = (0, 0);
    for phase in ["one fragment", "several fragments", "optimized", "started again", "written to again"] {
        let writes = match phase {
            "one fragment" => 1,
            "several fragments" | "written to again" => 5,
            _ => 0,
        };
        now = written(&client, &mut asked, &mut chance, now, writes).await;
        if phase == "started again" {
            client = super::reopen(&mut gateway, now).await;
        }
        for asked in &mut asked {
            if phase == "optimized" {
                harness::run(&client, &format!("OPTIMIZE FEATURE VIEW {}", asked.trial.view)).await;
            }
            asked.draw_labels(&mut chance);
            asked.write_labels(&client).await;
            cases += asked.check(&client, &mut chance, now, phase).await;
        }
    }
    cases
}

#[tokio::test]
async fn every_form_gives_what_its_definition_says() {
    let wanted = std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES);
    let (mut cases, mut seed) = (0, 1);
    while cases < wanted {
        let online = if seed % 4 == 0 { Online::Redis } else { Online::Embedded };
        cases += forms_of(seed, online).await;
        seed += 1;
    }
    eprintln!("{cases} cases, {} histories", (seed - 1) * 2);
}

/// What past system times, versions and tags answer is the same after the history was rewritten, after a restart, and after later
/// writes, late and corrected rows among them.
#[tokio::test]
async fn answers_of_the_past_do_not_change() {
    let seed = 1001;
    let mut chance = Chance(seed);
    let mut gateway = Setup::new(Online::Embedded).start();
    let mut client = gateway.connect().await;
    let mut asked = defined(&client, seed).await;
    let mut now = written(&client, &mut asked, &mut chance, 0, 8).await;
    let of_the_past = |form: &&Form| match form.rule.knows {
        Knowledge::Until | Knowledge::Version => true,
        // Not over what has no version, and not where a label knows more than there was to know.
        Knowledge::All | Knowledge::OfLabel | Knowledge::UntilInstant => false,
    };
    let forms: Vec<&Form> = FORMS.iter().filter(of_the_past).collect();
    let (mut before, then) = (Vec::new(), now);
    for phase in ["as written", "optimized", "started again", "written to again", "optimized again"] {
        match phase {
            "started again" => client = super::reopen(&mut gateway, now).await,
            "written to again" => now = written(&client, &mut asked, &mut chance, now, 5).await,
            _ => {}
        }
        let mut answers = Vec::new();
        for asked in &mut asked {
            if phase.starts_with("optimized") {
                harness::run(&client, &format!("OPTIMIZE FEATURE VIEW {}", asked.trial.view)).await;
            }
            if phase == "as written" {
                asked.draw_labels(&mut chance);
            }
            asked.write_labels(&client).await;
            for version in asked.versions[..8].iter().step_by(3) {
                let picks = Picks { instant: version.created_time, known: then.min(version.created_time), version, now };
                for form in &forms {
                    let (sql, mut rows) = asked.ask(&client, form, &picks).await;
                    rows.sort();
                    answers.push((sql, rows));
                }
            }
        }
        if phase == "as written" {
            before = answers;
            assert!(before.iter().any(|(_, rows)| rows.iter().any(|row| row[1] != "NULL")), "something is answered");
        } else {
            for (before, after) in before.iter().zip(&answers) {
                assert_eq!(after, before, "{phase}");
            }
        }
    }
}

//! The rules of time, held against a brute-force oracle: random histories with ties, corrections, late and future rows, NULLs
//! and composite keys whose parts run together. Every instant tried is asked by the online route and the offline route;
//! [`forms`] asks of the past in every form there is.

use std::collections::BTreeMap;
use std::fmt::Write;

use tokio_postgres::Client;

use crate::harness::{self, Gateway, Online, Setup};

mod forms;
mod services;

const SECOND: i64 = 1_000_000;
const TTL: i64 = 10 * SECOND;

/// Keys whose parts run together if the encoding lets them; the last has an empty part.
const KEYS: [(&str, &str); 5] = [("ab", "c"), ("a", "bc"), ("abc", "x"), ("a", "b"), ("", "abc")];

/// Small numbers without a library: the sequence is the seed's alone.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, bound: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % bound.unsigned_abs()) as i64
    }

    pub(crate) fn one_in(&mut self, chances: i64) -> bool {
        self.below(chances) == 0
    }
}

/// A row as written: microseconds since the start. Its place in the history is the order of arrival, which is the order of
/// (created_time, sequence).
#[derive(Clone, Debug)]
struct Row {
    key: usize,
    event_time: i64,
    created_time: i64,
    amount: Option<i64>,
    label: Option<String>,
}

/// What a view says of its entities: key number to features.
type Answer = BTreeMap<usize, (i64, Option<i64>, Option<String>)>;

struct History {
    rows: Vec<Row>,
    ttl: Option<i64>,
}

impl History {
    /// DESIGN's definition, word by word: among the rows in the window the greatest by (event_time, order of arrival).
    fn at(&self, key: usize, instant: i64) -> Option<&Row> {
        let live = |row: &Row| row.event_time <= instant && self.ttl.is_none_or(|ttl| row.event_time >= instant - ttl);
        let candidates = self.rows.iter().enumerate().filter(|(_, row)| row.key == key && live(row));
        candidates.max_by_key(|(arrival, row)| (row.event_time, *arrival)).map(|(_, row)| row)
    }

    fn answer(&self, instant: i64) -> Answer {
        let keys = (0..KEYS.len()).filter_map(|key| {
            let row = self.at(key, instant)?;
            Some((key, (row.event_time, row.amount, row.label.clone())))
        });
        keys.collect()
    }

    /// Instants at which an answer may change, and their neighbours.
    fn edges(&self) -> Vec<i64> {
        let ends = self.rows.iter().flat_map(|row| [row.event_time, row.event_time + self.ttl.unwrap_or(TTL)]);
        ends.flat_map(|edge| [edge - 1, edge, edge + 1]).collect()
    }
}

/// Microseconds since the start as an instant in SQL.
fn instant(micros: i64) -> String {
    match micros {
        i64::MAX => return "infinity".into(),
        i64::MIN => return "-infinity".into(),
        _ => {}
    }
    let base = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap();
    (base + chrono::TimeDelta::microseconds(micros)).format("%Y-%m-%d %H:%M:%S%.6fZ").to_string()
}

/// The other way, from PostgreSQL's text.
fn micros(text: &str) -> i64 {
    let base = chrono::DateTime::parse_from_rfc3339("2026-01-01T00:00:00Z").unwrap();
    let at = chrono::DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap();
    (at - base).num_microseconds().unwrap()
}

fn literal(text: Option<&str>) -> String {
    text.map_or("NULL".into(), |text| format!("'{text}'"))
}

fn key_number(first: &str, second: &str) -> usize {
    KEYS.iter().position(|key| *key == (first, second)).unwrap_or_else(|| panic!("no such key: {first:?}, {second:?}"))
}

/// The test's side of one view: what was written, and how to ask for it.
struct Trial {
    view: &'static str,
    history: History,
    seed: u64,
}

impl Trial {
    async fn define(&self, client: &Client) {
        let ttl = self.history.ttl.map_or(String::new(), |ttl| format!("TTL INTERVAL '{} seconds'", ttl / SECOND));
        harness::run(client, &format!("CREATE FEATURE VIEW {} (amount BIGINT, label TEXT) ENTITY pair {ttl}", self.view)).await;
    }

    /// Writes a batch of random rows around `now`: most of the recent past, some late, some of the future, many tied.
    async fn write(&mut self, client: &Client, chance: &mut Chance, now: i64) {
        let mut sql = format!("INSERT INTO {} (a, b, event_time, amount, label) VALUES ", self.view);
        let mut rows = Vec::new();
        for number in 0..=chance.below(4) {
            let distance = chance.below(6) * SECOND + if chance.one_in(3) { chance.below(3) - 1 } else { 0 };
            let event_time = match chance.below(6) {
                0 => now + distance,
                1 => now - TTL - distance,
                2 => now,
                _ => now - distance,
            };
            let key = chance.below(KEYS.len() as i64) as usize;
            let amount = (!chance.one_in(4)).then(|| chance.below(1000));
            let label = (!chance.one_in(4)).then(|| format!("l{}", chance.below(100)));
            let (a, b) = KEYS[key];
            let comma = if number == 0 { "" } else { ", " };
            let amount_text = amount.map_or("NULL".into(), |amount| amount.to_string());
            write!(sql, "{comma}('{a}', '{b}', '{}', {amount_text}, {})", instant(event_time), literal(label.as_deref()))
                .unwrap();
            rows.push(Row { key, event_time, created_time: 0, amount, label });
        }
        harness::run(client, &sql).await;
        let created_time = harness::value(client, &format!("SELECT max(created_time) FROM history.{}", self.view)).await;
        let created_time = micros(&created_time);
        self.history.rows.extend(rows.into_iter().map(|row| Row { created_time, ..row }));
    }

    async fn ask(&self, client: &Client, clause: &str, filter: &str) -> Answer {
        let sql = format!("SELECT a, b, event_time, amount, label FROM {} {clause} {filter}", self.view);
        let rows = harness::rows(client, &sql).await;
        let known = |text: &str| (text != "NULL").then(|| text.to_owned());
        let keyed = rows.iter().map(|row| {
            let features = (micros(&row[2]), known(&row[3]).map(|amount| amount.parse().unwrap()), known(&row[4]));
            (key_number(&row[0], &row[1]), features)
        });
        let answer: Answer = keyed.collect();
        assert_eq!(answer.len(), rows.len(), "an entity has more than one row: {sql}");
        answer
    }

    /// The present, by key online, by key offline and without keys.
    async fn check_now(&self, client: &Client, now: i64) {
        let expected = self.history.answer(now);
        let keys = KEYS.map(|(a, b)| format!("(a = '{a}' AND b = '{b}')")).join(" OR ");
        let by_key = format!("WHERE {keys}");
        for (route, filter) in [("online", by_key.as_str()), ("offline", &by_key), ("auto", &by_key), ("auto", "")] {
            harness::run(client, &format!("SET tidegate.route = {route}")).await;
            let answer = self.ask(client, "", filter).await;
            assert_eq!(answer, expected, "{} at {}, {route} {filter}, {}", self.view, instant(now), self.story());
        }
        harness::run(client, "SET tidegate.route = auto").await;
        for (key, (a, b)) in KEYS.iter().enumerate() {
            let one = self.ask(client, "", &format!("WHERE a = '{a}' AND b = '{b}'")).await;
            assert_eq!(
                one.get(&key),
                expected.get(&key),
                "{} at {}, key {a:?}, {b:?}, {}",
                self.view,
                instant(now),
                self.story()
            );
        }
    }

    /// Snapshots as of `instants`.
    async fn check_snapshots(&self, client: &Client, instants: &[i64]) {
        for at in instants {
            let answer = self.ask(client, &format!("AS OF TIMESTAMPTZ '{}'", instant(*at)), "").await;
            assert_eq!(answer, self.history.answer(*at), "{} as of {}, {}", self.view, instant(*at), self.story());
        }
    }

    /// A join of labels at `instants` for every key, with labels that match nothing, against the definition label by label.
    async fn check_join(&self, client: &Client, instants: &[i64]) {
        let mut labels: Vec<(Option<usize>, Option<i64>)> =
            instants.iter().flat_map(|at| (0..KEYS.len()).map(|key| (Some(key), Some(*at)))).collect();
        labels.extend([(None, instants.first().copied()), (Some(0), None), (Some(0), instants.first().copied())]);
        let values = labels.iter().enumerate().map(|(id, (key, at))| {
            let (a, b) = key.map(|key| KEYS[key]).map_or((None, None), |(a, b)| (Some(a), Some(b)));
            let at = at.map(instant);
            format!("({id}, {}, {}, {}::timestamptz)", literal(a), literal(b), literal(at.as_deref()))
        });
        let sql = format!(
            "WITH labels (id, a, b, ts) AS (VALUES {}) SELECT l.id, f.amount, f.label, f.a IS NOT NULL FROM labels l \
             LEFT JOIN {} AS OF l.ts AS f ON f.a = l.a AND f.b = l.b ORDER BY l.id",
            values.collect::<Vec<_>>().join(", "),
            self.view
        );
        let expected = labels.iter().enumerate().map(|(id, (key, at))| {
            let row = key.zip(*at).and_then(|(key, at)| self.history.at(key, at));
            let amount = row.and_then(|row| row.amount).map_or("NULL".into(), |amount| amount.to_string());
            let label = row.and_then(|row| row.label.clone()).unwrap_or_else(|| "NULL".into());
            vec![id.to_string(), amount, label, if row.is_some() { "t" } else { "f" }.into()]
        });
        let expected: Vec<Vec<String>> = expected.collect();
        let answer = harness::rows(client, &sql).await;
        for (row, expected) in answer.iter().zip(&expected) {
            let label = &labels[expected[0].parse::<usize>().unwrap()];
            assert_eq!(row, expected, "{} joined at {label:?}, {}", self.view, self.story());
        }
        assert_eq!(answer.len(), expected.len(), "one row out per label, {}", self.story());
    }

    fn story(&self) -> String {
        format!("seed {}, history {:#?}", self.seed, self.history.rows)
    }
}

async fn history_of(seed: u64, online: Online, rounds: usize) {
    let mut chance = Chance(seed);
    let mut gateway = Setup::new(online).start();
    let mut client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY pair KEY (a TEXT, b TEXT)").await;
    let views = [("fading", Some(TTL)), ("lasting", None)];
    let mut trials = views.map(|(view, ttl)| Trial { view, history: History { rows: Vec::new(), ttl }, seed });
    for trial in &trials {
        trial.define(&client).await;
    }
    let mut now = 0;
    for round in 0..rounds {
        for trial in &mut trials {
            trial.write(&client, &mut chance, now).await;
        }
        if round == rounds / 2 {
            client = reopen(&mut gateway, now).await;
        }
        for trial in &trials {
            trial.check_now(&client, now).await;
        }
        now += match chance.below(4) {
            0 => 0,
            1 => chance.below(3) + 1,
            2 => TTL,
            _ => chance.below(5) * SECOND,
        };
        harness::set_clock(&client, &instant(now)).await;
        for trial in &trials {
            trial.check_now(&client, now).await;
        }
    }
    for trial in &trials {
        let mut edges = trial.history.edges();
        let tried: Vec<i64> = (0..25).map(|_| edges.swap_remove(chance.below(edges.len() as i64) as usize)).collect();
        trial.check_snapshots(&client, &tried).await;
        trial.check_join(&client, &tried).await;
    }
}

/// Kills the gateway and starts it again at the same instant: what was pending is pending still.
async fn reopen(gateway: &mut Gateway, now: i64) -> Client {
    gateway.restart_at(&instant(now));
    gateway.connect().await
}

#[tokio::test]
async fn routes_and_oracle_agree_on_random_histories() {
    for seed in 1..=4 {
        history_of(seed, Online::Embedded, 10).await;
    }
}

#[tokio::test]
async fn routes_and_oracle_agree_on_random_histories_on_redis() {
    for seed in 101..=104 {
        history_of(seed, Online::Redis, 10).await;
    }
}

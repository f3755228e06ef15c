//! Feature services against the definition: a row where any view has one, NULLs where one has none, each view by its own TTL.

use tokio_postgres::Client;

use super::{Chance, History, Row, SECOND, TTL, instant, literal};
use crate::harness::{self, Online, Setup};

const A: [&str; 3] = ["x", "y", "z"];
const B: [&str; 3] = ["p", "", "q"];

const SETUP: &str = "CREATE ENTITY first KEY (a TEXT);
CREATE ENTITY second KEY (b TEXT);
CREATE FEATURE VIEW of_a (amount BIGINT) ENTITY first TTL INTERVAL '10 seconds';
CREATE FEATURE VIEW of_b (amount BIGINT) ENTITY second;
CREATE FEATURE VIEW of_both (amount BIGINT) ENTITY second, first TTL INTERVAL '10 seconds';
CREATE FEATURE SERVICE input AS
    SELECT x.amount AS of_a, z.amount AS of_both, x.amount + y.amount AS total, coalesce(z.amount, -1) AS rest, y.event_time AS since
    FROM of_a x, of_both z, of_b y";

/// What a row of the service shows behind its keys, as text.
type Shown = [String; 4];

/// The three histories: of `a`, of `b` and of both, whose keys are numbered `3a + b`.
struct Service {
    histories: [History; 3],
}

impl Service {
    /// Some rows of one of the views, of the recent past.
    async fn write(&mut self, client: &Client, chance: &mut Chance, now: i64) {
        let view = chance.below(3) as usize;
        let name = ["of_a", "of_b", "of_both"][view];
        for _ in 0..=chance.below(3) {
            let (a, b) = (chance.below(3) as usize, chance.below(3) as usize);
            let event_time = now - chance.below(12) * SECOND - chance.below(2);
            let amount = (!chance.one_in(5)).then(|| chance.below(1000));
            let (columns, keys, key) = match view {
                0 => ("a", format!("'{}'", A[a]), a),
                1 => ("b", format!("'{}'", B[b]), b),
                _ => ("a, b", format!("'{}', '{}'", A[a], B[b]), 3 * a + b),
            };
            let shown = amount.map_or("NULL".into(), |amount| amount.to_string());
            let row = format!("({keys}, '{}', {shown})", instant(event_time));
            harness::run(client, &format!("INSERT INTO {name} ({columns}, event_time, amount) VALUES {row}")).await;
            self.histories[view].rows.push(Row { key, event_time, created_time: 0, amount, label: None });
        }
    }

    /// The row of two entities at an instant, by the definition.
    fn at(&self, a: usize, b: usize, at: i64) -> Option<Shown> {
        let [x, y, z] = [(0, a), (1, b), (2, 3 * a + b)].map(|(view, key)| self.histories[view].at(key, at));
        if x.is_none() && y.is_none() && z.is_none() {
            return None;
        }
        let amount = |row: Option<&Row>| row.and_then(|row| row.amount);
        let shown = |amount: Option<i64>| amount.map_or("NULL".into(), |amount| amount.to_string());
        let total = amount(x).zip(amount(y)).map(|(x, y)| x + y);
        Some([shown(amount(x)), shown(amount(z)), shown(total), shown(amount(z).or(Some(-1)))])
    }

    /// All nine combinations by key, in the present and at instants of the past.
    async fn check_keys(&self, client: &Client, now: i64, instants: &[i64]) {
        let pairs: Vec<String> = A.iter().flat_map(|a| B.map(|b| format!("('{a}', '{b}')"))).collect();
        let lists = "a IN ('x', 'y', 'z') AND b = ANY(ARRAY['p', '', 'q'])".to_owned();
        let filters = [lists, format!("(a, b) IN ({})", pairs.join(", "))];
        let past = instants.iter().map(|at| (format!("AS OF TIMESTAMPTZ '{}'", instant(*at)), *at, "auto"));
        let present = ["online", "offline"].map(|route| (String::new(), now, route));
        for (clause, at, route) in present.into_iter().chain(past) {
            harness::run(client, &format!("SET tidegate.route = {route}")).await;
            for filter in &filters {
                let sql = format!("SELECT a, b, of_a, of_both, total, rest FROM input {clause} WHERE {filter} ORDER BY a, b");
                let mut expected: Vec<Vec<String>> = Vec::new();
                for (a, name) in A.iter().enumerate() {
                    for (b, other) in B.iter().enumerate() {
                        let keys = [name, other].map(|name| (*name).to_owned());
                        expected.extend(self.at(a, b, at).map(|row| keys.into_iter().chain(row).collect()));
                    }
                }
                let mut answer = harness::rows(client, &sql).await;
                answer.sort();
                expected.sort();
                assert_eq!(answer, expected, "{route} {sql} at {}", instant(now));
            }
        }
        harness::run(client, "SET tidegate.route = auto").await;
    }

    /// Labels for every combination at every instant, some without a key or an instant, label by label.
    async fn check_join(&self, client: &Client, instants: &[i64]) {
        let mut labels: Vec<(Option<usize>, Option<usize>, Option<i64>)> = Vec::new();
        for at in instants {
            labels.extend((0..9).map(|pair| (Some(pair / 3), Some(pair % 3), Some(*at))));
            labels.extend([(None, Some(0), Some(*at)), (Some(0), None, Some(*at)), (Some(1), Some(1), None)]);
        }
        let values = labels.iter().enumerate().map(|(id, (a, b, at))| {
            let (a, b) = (literal(a.map(|a| A[a])), literal(b.map(|b| B[b])));
            format!("({id}, {a}, {b}, {}::timestamptz)", literal(at.map(instant).as_deref()))
        });
        let values = values.collect::<Vec<_>>().join(", ");
        for (kind, condition) in [("LEFT JOIN", ""), ("JOIN", ""), ("LEFT JOIN", " AND f.rest < 0"), ("JOIN", " AND f.rest < 0")]
        {
            let sql = format!(
                "WITH labels (id, a, b, ts) AS (VALUES {values}) SELECT l.id, f.a, f.b, f.of_a, f.of_both, f.total, f.rest \
                 FROM labels l {kind} input AS OF l.ts AS f ON f.b = l.b AND f.a = l.a{condition} ORDER BY l.id"
            );
            let mut expected: Vec<Vec<String>> = Vec::new();
            for (id, (a, b, at)) in labels.iter().enumerate() {
                let known = (*a).zip(*b).zip(*at);
                let row = known.and_then(|((a, b), at)| Some((a, b, self.at(a, b, at)?)));
                let row = row.filter(|(_, _, row)| condition.is_empty() || row[3].starts_with('-'));
                let shown = match row {
                    Some((a, b, row)) => [A[a].to_owned(), B[b].to_owned()].into_iter().chain(row).collect(),
                    None if kind == "JOIN" => continue,
                    None => vec!["NULL".to_owned(); 6],
                };
                expected.push([id.to_string()].into_iter().chain(shown).collect());
            }
            let answer = harness::rows(client, &sql).await;
            assert_eq!(answer.len(), expected.len(), "{kind}{condition}");
            for (row, expected) in answer.iter().zip(&expected) {
                let label = &labels[expected[0].parse::<usize>().unwrap()];
                assert_eq!(row, expected, "{kind}{condition} of {label:?}");
            }
        }
    }
}

#[tokio::test]
async fn services_and_oracle_agree_on_random_histories() {
    for (seed, online) in [(11, Online::Embedded), (12, Online::Redis)] {
        let mut chance = Chance(seed);
        let gateway = Setup::new(online).start();
        let client = gateway.connect().await;
        for statement in SETUP.split(";\n") {
            harness::run(&client, statement).await;
        }
        let history = |ttl| History { rows: Vec::new(), ttl };
        let mut service = Service { histories: [history(Some(TTL)), history(None), history(Some(TTL))] };
        let mut now = 0;
        for _ in 0..5 {
            for _ in 0..3 {
                service.write(&client, &mut chance, now).await;
            }
            service.check_keys(&client, now, &[]).await;
            now += chance.below(5) * SECOND + chance.below(2);
            harness::set_clock(&client, &instant(now)).await;
            service.check_keys(&client, now, &[]).await;
        }
        let mut edges: Vec<i64> = service.histories.iter().flat_map(History::edges).collect();
        let tried: Vec<i64> = (0..20).map(|_| edges.swap_remove(chance.below(edges.len() as i64) as usize)).collect();
        service.check_keys(&client, now, &tried[..5]).await;
        service.check_join(&client, &tried).await;
    }
}

//! How often the store is asked.

use super::{Asked, Maker, items, prepared_gateway, roads, shown};
use crate::harness::{Gateway, Online};
use crate::oracle::Chance;

/// How often Redis was asked for rows: only lookups ask so.
fn calls(gateway: &Gateway) -> u32 {
    let stats = gateway.redis().cli(&["INFO", "commandstats"]);
    let mget = stats.lines().find_map(|line| line.strip_prefix("cmdstat_mget:calls="));
    mget.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// Statements over several views, which on the short road are one call for their rows, and how many the planner's way makes.
const SEVERAL_VIEWS: &[(&str, u32)] = &[
    ("SELECT te, currency, price FROM basket WHERE k IN (1, 2, 5)", 1),
    ("SELECT word, note, times FROM visits WHERE a IN (1, 2, 3) AND b = ANY(ARRAY['x', 'y']) AND k IN (1, 2, 5, 7)", 1),
    ("SELECT v.te, o.price FROM items v LEFT JOIN prices o ON o.k = v.k WHERE v.k IN (1, 2)", 2),
    (
        "SELECT q.k, v.te, o.price FROM (VALUES (1), (2), (1)) AS q(k) LEFT JOIN items v ON v.k = q.k JOIN prices o ON o.k = q.k",
        1,
    ),
    (
        "SELECT q.*, v.x, s.times, b.te, c.price FROM unnest(ARRAY[1, 3, NULL], ARRAY['x', 'x', 'y'], ARRAY[1, 2, 7]) AS q(a, b, k) \
         LEFT JOIN pairs v ON v.a = q.a AND v.b = q.b LEFT JOIN seen s ON s.a = q.a AND s.b = q.b LEFT JOIN items b ON b.k = q.k \
         LEFT JOIN prices c ON c.k = q.k",
        2,
    ),
    ("SELECT q.k, s.ratio FROM (VALUES (1), (2)) AS q(k) LEFT JOIN scored s USING (k)", 1),
];

#[tokio::test]
async fn several_views_are_asked_in_few_calls() {
    let gateway = prepared_gateway(Online::Redis).await;
    let [mut short, mut planned] = roads(&gateway);
    for (sql, calls_planned) in SEVERAL_VIEWS {
        for (raw, expected) in [(&mut short, 1), (&mut planned, *calls_planned)] {
            let before = calls(&gateway);
            let answer = raw.query(sql.as_bytes());
            assert!(answer.iter().any(|message| message.0 == b'D'), "{sql}\n{:?}", shown(&answer));
            assert_eq!(calls(&gateway) - before, expected, "{sql}");
        }
    }
}

#[tokio::test]
async fn the_lookups_of_a_pipeline_are_asked_in_one_call() {
    let gateway = prepared_gateway(Online::Redis).await;
    let [mut short, _] = roads(&gateway);
    let mut chance = Chance(21);
    let mut pipeline: Vec<Asked> = Vec::new();
    while pipeline.len() < 20 {
        let asked = Maker { chance: &mut chance, asked: Asked::default() }.statement(&items());
        let is_answered = asked.ask(&mut short).iter().all(|message| message.0 != b'E');
        // The rest of a portal's rows is asked for when the first are there.
        if is_answered && asked.rows_max.len() == 1 && asked.plan(&mut short).contains("road=short") {
            pipeline.push(asked);
        }
    }
    let before = calls(&gateway);
    pipeline.iter().for_each(|asked| asked.send(&mut short));
    short.message(b'S', b"");
    let answers = short.until_ready();
    assert!(answers.iter().all(|message| message.0 != b'E'), "{:?}", shown(&answers));
    assert_eq!(calls(&gateway) - before, 1);
}

//! One question, every spelling: each gives the same rows, and is planned as the same operator.
//!
//! The rows are written down, and those of the classical spellings are PostgreSQL 15's over the same tables.

use tokio_postgres::Client;

use crate::harness::{self, Gateway, Online, Setup};

/// A question, its answer, and the ways to ask it.
struct Question {
    asks: &'static str,
    /// `label value`, by label; a label that is not there drops.
    answer: &'static str,
    /// What `EXPLAIN` shows of each spelling.
    operator: &'static str,
    /// What stands before a semicolon is set first.
    spellings: &'static [&'static str],
}

const AS_OF_JOIN: &str = "AsOfJoinExec: views=[v]";
const SNAPSHOT: &str = "SnapshotExec: view=v";

/// What is left out: the keys, and how the classical forms order.
const SHORT: &[(&str, &str)] = &[
    ("{on}", "f.a = l.a AND f.b = l.b"),
    ("{ask}", "SELECT l.id, f.x FROM labels l"),
    ("{newest}", "ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1"),
    ("{next}", "ORDER BY f.event_time, f.created_time DESC LIMIT 1"),
    ("{eleven}", "SET tidegate.system_time = '2026-01-01 11:00Z'"),
    ("{entities}", "SELECT b * 100 + length(a), x FROM"),
    ("{first}", "SELECT DISTINCT ON (l.id) l.id, f.x FROM labels l"),
    ("{number}", "SELECT id, x FROM (SELECT l.id, f.x, row_number() OVER"),
];

const QUESTIONS: &[Question] = &[
    Question {
        asks: "the newest row at or before the label's instant",
        answer: "1 10, 2 13, 3 21, 4 NULL, 5 NULL, 6 NULL, 7 13, 8 10, 9 NULL, 10 31, 11 13, 12 NULL",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} LEFT JOIN v AS OF l.ts AS f ON {on}",
            "{ask} LEFT JOIN v AS OF l.ts AS f USING (a, b)",
            "{ask} LEFT OUTER JOIN v AS OF (coalesce(l.ts, NULL)) AS f ON l.b = f.b AND l.a = f.a",
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts >= f.event_time) ON {on}",
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts >= f.event_time) USING (a, b)",
            "{ask} ASOF LEFT JOIN v f ON {on} AND l.ts >= f.event_time",
            "{ask} ASOF LEFT JOIN v f ON f.event_time <= l.ts AND {on}",
            "{ask} LEFT JOIN features_at('v', l.ts) AS f ON {on}",
            "{ask} LEFT JOIN LATERAL features_at('v', as_of => l.ts) AS f ON {on}",
            "{ask} LEFT JOIN v FOR SYSTEM_TIME AS OF now() AS OF l.ts AS f ON {on}",
            "{ask} LEFT JOIN v VERSION AS OF 'all' AS OF l.ts AS f ON {on}",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) f ON true",
            "{ask} LEFT JOIN LATERAL (SELECT * FROM history.v WHERE v.b = l.b AND l.a = v.a AND event_time <= l.ts ORDER BY event_time DESC, created_time DESC LIMIT 1) f ON true",
            "{ask} LEFT JOIN LATERAL (SELECT s.x FROM (SELECT x, event_time AS t, b, created_time, a AS c FROM history.v) s WHERE s.c = l.a AND s.b = l.b AND s.t <= l.ts ORDER BY s.t DESC, s.created_time DESC LIMIT 1) f ON true",
            "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) FROM labels l",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC NULLS LAST, f.created_time DESC NULLS LAST",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts) r WHERE n = 1",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC NULLS LAST, f.created_time DESC NULLS LAST) AS n FROM labels l LEFT JOIN history.v f ON {on} AND l.ts >= f.event_time) r WHERE n < 2",
            "WITH numbered AS ({number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts) r WHERE n <= 1) SELECT * FROM numbered",
        ],
    },
    Question {
        asks: "the same, labels without an answer dropped",
        answer: "1 10, 2 13, 3 21, 7 13, 8 10, 10 31, 11 13",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} JOIN v AS OF l.ts AS f ON {on}",
            "{ask} ASOF INNER JOIN v f MATCH_CONDITION (l.ts >= f.event_time) ON {on}",
            "{ask} ASOF JOIN v f ON {on} AND l.ts >= f.event_time",
            "{ask} JOIN features_at('v', l.ts) AS f ON {on}",
            "{ask} CROSS JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) f",
            "{ask}, LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) f",
            "{first} JOIN history.v f ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{first}, history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{first} LEFT JOIN history.v f ON {on} WHERE f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "SELECT DISTINCT ON (l.id) l.id, f.x FROM history.v f JOIN labels l ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l, history.v f WHERE {on} AND f.event_time <= l.ts) r WHERE 1 = n",
        ],
    },
    Question {
        asks: "the newest row before it",
        answer: "1 10, 2 13, 3 21, 4 NULL, 5 NULL, 6 NULL, 7 13, 8 NULL, 9 NULL, 10 30, 11 13, 12 NULL",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts > f.event_time) ON {on}",
            "{ask} ASOF LEFT JOIN v f ON {on} AND f.event_time < l.ts",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time < l.ts {newest}) f ON true",
            "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND l.ts > f.event_time {newest}) FROM labels l",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time < l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time < l.ts) r WHERE n = 1",
        ],
    },
    Question {
        asks: "the next row at or after it",
        answer: "1 12, 2 NULL, 3 NULL, 4 NULL, 5 NULL, 6 NULL, 7 NULL, 8 10, 9 10, 10 31, 11 NULL, 12 30",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts <= f.event_time) ON {on}",
            "{ask} ASOF LEFT JOIN v f ON {on} AND f.event_time >= l.ts",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time >= l.ts {next}) f ON true",
            "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND l.ts <= f.event_time {next}) FROM labels l",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time >= l.ts ORDER BY l.id, f.event_time, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time >= l.ts) r WHERE n = 1",
        ],
    },
    Question {
        asks: "the next row after it",
        answer: "1 12, 2 NULL, 3 NULL, 4 NULL, 5 NULL, 6 NULL, 7 NULL, 8 12, 9 10, 10 NULL, 11 NULL, 12 30",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts < f.event_time) ON {on}",
            "{ask} ASOF LEFT JOIN v f ON {on} AND l.ts < f.event_time",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time > l.ts {next}) f ON true",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time > l.ts ORDER BY l.id, f.event_time, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time > l.ts) r WHERE n = 1",
        ],
    },
    Question {
        asks: "the newest row of the half hour up to it",
        answer: "1 NULL, 2 13, 3 NULL, 4 NULL, 5 NULL, 6 NULL, 7 13, 8 10, 9 NULL, 10 31, 11 NULL, 12 NULL",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} LEFT JOIN v AS OF l.ts WITHIN INTERVAL '30 minutes' AS f ON {on}",
            "{ask} LEFT JOIN features_at('v', l.ts, INTERVAL '30 minutes') AS f ON {on}",
            "{ask} ASOF JOIN v f MATCH_CONDITION (l.ts >= f.event_time) ON {on} TOLERANCE INTERVAL '30 minutes'",
            "{ask} ASOF LEFT JOIN v f ON {on} AND l.ts >= f.event_time TOLERANCE '30 minutes'",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time BETWEEN l.ts - INTERVAL '30 minutes' AND l.ts {newest}) f ON true",
            "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts AND l.ts - INTERVAL '30 minutes' <= f.event_time {newest}) FROM labels l",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts AND f.event_time >= l.ts - INTERVAL '30 minutes' ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "WITH base AS (SELECT f.event_time, f.created_time, f.x, l.id FROM history.v f INNER JOIN labels l ON TRUE AND f.event_time <= l.ts AND f.event_time >= l.ts - INTERVAL '30 minutes' AND {on}), numbered AS (SELECT *, row_number() OVER (PARTITION BY id ORDER BY event_time DESC, created_time DESC) AS n FROM base) SELECT l.id, r.x FROM labels l LEFT JOIN (SELECT * FROM numbered WHERE n = 1) r ON r.id = l.id",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time BETWEEN l.ts - INTERVAL '30 minutes' AND l.ts) r WHERE n = 1",
        ],
    },
    Question {
        asks: "what was known at the label's instant",
        answer: "1 10, 2 11, 3 21, 4 NULL, 5 NULL, 6 NULL, 7 11, 8 NULL, 9 NULL, 10 30, 11 13, 12 NULL",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} LEFT JOIN v FOR SYSTEM_TIME AS OF l.ts AS OF l.ts AS f ON {on}",
            "{ask} LEFT JOIN v FOR SYSTEM_TIME AS OF l.ts AS f ON {on}",
            "{ask} ASOF JOIN v FOR SYSTEM_TIME AS OF l.ts AS f MATCH_CONDITION (l.ts >= f.event_time) ON {on}",
            "{ask} ASOF LEFT JOIN v FOR SYSTEM_TIME AS OF l.ts AS f ON {on} AND l.ts >= f.event_time",
            "{ask} LEFT JOIN features_at('v', l.ts, system_time => l.ts) AS f ON {on}",
            "{ask} LEFT JOIN features_at('v', system_time => l.ts) AS f ON {on}",
            "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts AND f.created_time <= l.ts {newest}) f ON true",
            "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.created_time <= l.ts AND f.event_time <= l.ts {newest}) FROM labels l",
            "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts AND f.created_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts AND l.ts >= f.created_time) r WHERE n = 1",
        ],
    },
    Question {
        asks: "what was known at eleven",
        answer: "1 10, 2 11, 3 21, 4 NULL, 5 NULL, 6 NULL, 7 11, 8 10, 9 NULL, 10 NULL, 11 11, 12 NULL",
        operator: AS_OF_JOIN,
        spellings: &[
            "{ask} LEFT JOIN v FOR SYSTEM_TIME AS OF '2026-01-01 11:00Z' AS OF l.ts AS f ON {on}",
            "{ask} ASOF JOIN v FOR SYSTEM_TIME AS OF '2026-01-01 11:00Z' AS f MATCH_CONDITION (l.ts >= f.event_time) ON {on}",
            "{ask} LEFT JOIN features_at('v', l.ts, system_time => '2026-01-01 11:00Z') AS f ON {on}",
            "{ask} LEFT JOIN v VERSION AS OF 3 AS OF l.ts AS f ON {on}",
            "{ask} LEFT JOIN v VERSION AS OF 'eleven' AS OF l.ts AS f ON {on}",
            "{ask} ASOF LEFT JOIN v VERSION AS OF 'eleven' AS f ON {on} AND l.ts >= f.event_time",
            "{ask} LEFT JOIN features_at('v', l.ts, version => 3) AS f ON {on}",
            "{eleven}; {ask} LEFT JOIN v AS OF l.ts AS f ON {on}",
            "{eleven}; {ask} ASOF JOIN v f MATCH_CONDITION (l.ts >= f.event_time) ON {on}",
            "{eleven}; {ask} LEFT JOIN features_at('v', l.ts) AS f ON {on}",
            "{eleven}; {ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) f ON true",
            "{eleven}; SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts {newest}) FROM labels l",
            "{eleven}; {first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts ORDER BY l.id, f.event_time DESC, f.created_time DESC",
            "{eleven}; {number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts) r WHERE n = 1",
        ],
    },
    Question {
        asks: "every entity at eleven",
        answer: "101 21, 102 13",
        operator: SNAPSHOT,
        spellings: &[
            "{entities} v AS OF '2026-01-01 11:00Z'",
            "{entities} v AS OF TIMESTAMPTZ '2026-01-01 11:00Z' AS f",
            "{entities} v AS OF (TIMESTAMPTZ '2026-01-01 12:00Z' - INTERVAL '1 hour')",
            "{entities} v FOR SYSTEM_TIME AS OF now() AS OF '2026-01-01 11:00Z'",
            "{entities} v VERSION AS OF 'all' AS OF '2026-01-01 11:00Z'",
            "{entities} features_at('v', TIMESTAMPTZ '2026-01-01 11:00Z')",
            "WITH f AS (SELECT * FROM v AS OF '2026-01-01 11:00Z') {entities} f",
            "SET tidegate.as_of = '2026-01-01 11:00Z'; {entities} v",
            "SET tidegate.as_of = '2026-01-01 11:00Z'; {entities} (SELECT * FROM v) f",
        ],
    },
    Question {
        asks: "every entity as a read at eleven answered",
        answer: "101 21, 102 11",
        operator: SNAPSHOT,
        spellings: &[
            "{entities} v FOR SYSTEM_TIME AS OF '2026-01-01 11:00Z'",
            "{entities} v FOR SYSTEM_TIME AS OF '2026-01-01 11:00Z' AS OF '2026-01-01 11:00Z'",
            "{entities} v VERSION AS OF 3",
            "{entities} v VERSION AS OF 'eleven'",
            "{entities} v VERSION AS OF 'eleven' AS OF '2026-01-01 11:00Z'",
            "{entities} features_at('v', system_time => TIMESTAMPTZ '2026-01-01 11:00Z')",
            "{entities} features_at('v', version => 3)",
            "{eleven}; {entities} v",
            "SET tidegate.as_of = '2026-01-01 11:00Z'; {entities} v VERSION AS OF 3",
        ],
    },
];

/// Near-misses: what they ask is no as-of join, and they give PostgreSQL's rows through ordinary joins.
const OTHERS: &[(&str, &str)] = &[
    (
        "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 2) f ON true WHERE l.id < 4",
        "1 10, 2 11, 2 13, 3 20, 3 21",
    ),
    (
        "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1 OFFSET 1) f ON true WHERE l.id IN (1, 2, 4)",
        "1 NULL, 2 11, 4 NULL",
    ),
    (
        "{ask} CROSS JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC OFFSET 1) f WHERE l.id < 3",
        "2 10, 2 11, 2 12",
    ),
    (
        "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.x, f.event_time DESC LIMIT 1) f ON true WHERE l.id < 4",
        "1 10, 2 10, 3 20",
    ),
    (
        "{ask} LEFT JOIN LATERAL (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time, f.created_time LIMIT 1) f ON true WHERE l.id < 4",
        "1 10, 2 10, 3 20",
    ),
    (
        "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.x LIMIT 1) FROM labels l WHERE l.id < 5",
        "1 10, 2 10, 3 20, 4 NULL",
    ),
    (
        "SELECT l.id, (SELECT f.x FROM history.v f WHERE {on} AND f.event_time <= l.ts ORDER BY f.event_time DESC, f.created_time DESC LIMIT 1 OFFSET 1) FROM labels l WHERE l.id IN (1, 2, 4)",
        "1 NULL, 2 11, 4 NULL",
    ),
    (
        "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts WHERE l.id < 5 ORDER BY l.id, f.x DESC, f.event_time DESC",
        "1 10, 2 13, 3 21, 4 NULL",
    ),
    (
        "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts WHERE l.id < 5 ORDER BY l.id, f.event_time, f.x",
        "1 10, 2 10, 3 20, 4 NULL",
    ),
    (
        "{first} LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts WHERE l.id < 5 AND (f.x IS NULL OR f.x < 12) ORDER BY l.id, f.event_time DESC, f.created_time DESC",
        "1 10, 2 11, 4 NULL",
    ),
    (
        "SELECT DISTINCT ON (f.b, f.x) l.id, f.x FROM labels l JOIN history.v f ON {on} AND f.event_time <= l.ts WHERE l.id < 4 ORDER BY f.b, f.x, f.event_time DESC, l.id",
        "1 10, 2 11, 2 12, 2 13, 3 20, 3 21",
    ),
    (
        "{number} (PARTITION BY l.id ORDER BY f.event_time DESC, f.created_time DESC) AS n FROM labels l LEFT JOIN history.v f ON {on} AND f.event_time <= l.ts) r WHERE n = 2 AND id < 3",
        "2 11",
    ),
    (
        "SELECT id, x FROM (SELECT l.id, f.x, rank() OVER (PARTITION BY l.id ORDER BY f.event_time DESC) AS n FROM labels l JOIN history.v f ON {on} AND f.event_time <= l.ts) r WHERE n = 1 AND id < 4",
        "1 10, 2 11, 2 13, 3 20, 3 21",
    ),
];

fn spelt(template: &str) -> String {
    SHORT.iter().fold(template.to_owned(), |sql, (short, long)| sql.replace(short, long))
}

/// A history with a correction, a tie within one commit and a late row; labels with NULLs, twice, without any history, and at
/// infinite instants.
async fn prepared() -> (Gateway, Client) {
    let gateway = Setup::new(Online::Embedded).start();
    let client = gateway.connect().await;
    for sql in [
        "CREATE ENTITY pair KEY (a TEXT, b BIGINT)",
        "CREATE FEATURE VIEW v (x BIGINT) ENTITY pair",
        "ALTER SYSTEM SET tidegate.clock = '2026-01-01 10:00Z'",
        "INSERT INTO v VALUES ('ab', 1, '2026-01-01 09:00Z', 10), ('b', 1, '2026-01-01 09:30Z', 20), ('b', 1, '2026-01-01 09:30Z', 21)",
        "ALTER SYSTEM SET tidegate.clock = '2026-01-01 11:00Z'",
        "INSERT INTO v VALUES ('ab', 1, '2026-01-01 10:30Z', 11)",
        "CREATE TAG eleven ON FEATURE VIEW v",
        "ALTER SYSTEM SET tidegate.clock = '2026-01-01 12:00Z'",
        "INSERT INTO v VALUES ('ab', 1, '2026-01-01 10:30Z', 13), ('ab', 1, '2026-01-01 10:20Z', 12), ('a', 1, '2026-01-01 12:00Z', 30)",
        "ALTER SYSTEM SET tidegate.clock = '2026-01-01 13:00Z'",
        "INSERT INTO v VALUES ('a', 1, '2026-01-01 12:30Z', 31)",
        "CREATE TAG \"all\" ON FEATURE VIEW v",
        "CREATE TABLE labels (id INTEGER, a TEXT, b BIGINT, ts TIMESTAMPTZ)",
        "INSERT INTO labels VALUES (1, 'ab', 1, '2026-01-01 10:15Z'), (2, 'ab', 1, '2026-01-01 11:00Z'), (3, 'b', 1, '2026-01-01 11:00Z'), \
         (4, 'c', 1, '2026-01-01 11:31Z'), (5, 'ab', 1, NULL), (6, NULL, 1, '2026-01-01 11:00Z'), (7, 'ab', 1, '2026-01-01 11:00Z'), \
         (8, 'ab', 1, '2026-01-01 09:00Z'), (9, 'ab', 1, '2026-01-01 08:59:59.999999Z'), (10, 'a', 1, '2026-01-01 12:30Z'), \
         (11, 'ab', 1, 'infinity'), (12, 'a', 1, '-infinity')",
    ] {
        harness::run(&client, sql).await;
    }
    (gateway, client)
}

/// The rows of a statement, sorted, as answers are written.
async fn answer(client: &Client, sql: &str) -> String {
    let mut rows = harness::rows(client, sql).await;
    rows.sort_by_key(|row| (row[0].parse::<i64>().unwrap(), row[1].clone()));
    rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(", ")
}

async fn is_planned_as(client: &Client, sql: &str, operator: &str) -> bool {
    let plan = harness::rows(client, &format!("EXPLAIN {sql}")).await;
    plan.iter().any(|line| line[0].contains(operator))
}

#[tokio::test]
async fn every_spelling_of_a_question_gives_one_answer() {
    let (_gateway, client) = prepared().await;
    let mut wrong = Vec::new();
    for optimized in [false, true] {
        if optimized {
            harness::run(&client, "OPTIMIZE FEATURE VIEW v").await;
        }
        for Question { asks, answer: expected, operator, spellings } in QUESTIONS {
            for spelling in *spellings {
                let spelling = spelt(spelling);
                let (set, sql) = spelling.split_once("; ").unwrap_or(("", &spelling));
                harness::run(&client, set).await;
                let given = answer(&client, sql).await;
                if given != *expected {
                    wrong.push(format!("{asks}: {spelling}\n  gives {given}\n  not   {expected}"));
                }
                if !is_planned_as(&client, sql, operator).await {
                    wrong.push(format!("{asks}: {spelling}\n  is not planned as {operator}"));
                }
                harness::run(&client, "RESET tidegate.as_of").await;
                harness::run(&client, "RESET tidegate.system_time").await;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn near_misses_of_the_classical_spellings_give_their_own_rows() {
    let (_gateway, client) = prepared().await;
    let mut wrong = Vec::new();
    for (spelling, expected) in OTHERS {
        let sql = spelt(spelling);
        let given = answer(&client, &sql).await;
        if given != *expected {
            wrong.push(format!("{sql}\n  gives {given}\n  not   {expected}"));
        }
        if is_planned_as(&client, &sql, AS_OF_JOIN).await {
            wrong.push(format!("{sql}\n  is an as-of join"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Unmodified SQL is asked of the past where the connection string says so, and what cannot be an instant ends the login.
#[tokio::test]
async fn a_connection_string_asks_for_the_past() {
    let gateway = Setup::new(Online::Embedded).clock("2026-01-02 00:00:00Z").start();
    let client = gateway.connect().await;
    harness::run(&client, "CREATE ENTITY thing KEY (k BIGINT); CREATE FEATURE VIEW v (x BIGINT) ENTITY thing").await;
    harness::run(&client, "INSERT INTO v VALUES (1, '2026-01-01 09:00Z', 9)").await;
    harness::run(&client, "ALTER SYSTEM SET tidegate.clock = '2026-01-03 00:00:00Z'").await;
    harness::run(&client, "INSERT INTO v VALUES (1, '2026-01-01 09:00Z', 90), (1, '2026-01-01 10:00Z', 10)").await;
    let asked = "SELECT x FROM v WHERE k = 1";
    for (options, answer) in [
        ("", "10"),
        ("-c tidegate.as_of=2026-01-01T09:30Z", "90"),
        ("--tidegate.as-of=2026-01-01\\ 09:30Z", "90"),
        ("-c tidegate.system_time=2026-01-02T12:00Z", "9"),
        ("-c tidegate.as_of=2026-01-01T09:30Z -c tidegate.system_time=2026-01-02T12:00Z", "9"),
    ] {
        let client = gateway.connect_with(options).await.unwrap();
        assert_eq!(harness::value(&client, asked).await, answer, "{options}");
    }
    let refused = gateway.connect_with("-c tidegate.as_of=soon").await.expect_err("\"soon\" is no instant");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("22023"), "{refused}");
}

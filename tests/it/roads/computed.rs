//! Columns that are expressions, on both roads.

use super::{Asked, Maker, Value, assert_same, cases, items, prepared_gateway, roads, value};
use crate::harness::Online;
use crate::oracle::Chance;

/// What an expression is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Integer,
    BigInt,
    Double,
    Numeric,
    Text,
    Boolean,
    Instant,
}

const KINDS: &[Kind] = &[Kind::Integer, Kind::BigInt, Kind::Double, Kind::Numeric, Kind::Text, Kind::Boolean, Kind::Instant];

impl Kind {
    fn columns(self) -> &'static [&'static str] {
        match self {
            Kind::Integer => &["i", "k", "si", "ai[1]"],
            Kind::BigInt => &["bi", "i"],
            Kind::Double => &["dp", "re"],
            Kind::Numeric => &["nu"],
            Kind::Text => &["te", "te", "uu::text", "at[2]"],
            Kind::Boolean => &["bo"],
            Kind::Instant => &["tz", "event_time"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Integer => "integer",
            Kind::BigInt => "bigint",
            Kind::Double => "double precision",
            Kind::Numeric => "numeric(12, 3)",
            Kind::Text => "text",
            Kind::Boolean => "boolean",
            Kind::Instant => "timestamptz",
        }
    }

    fn oid(self) -> u32 {
        match self {
            Kind::Integer => 23,
            Kind::BigInt => 20,
            Kind::Double => 701,
            Kind::Numeric => 1700,
            Kind::Text => 25,
            Kind::Boolean => 16,
            Kind::Instant => 1184,
        }
    }

    fn literals(self) -> &'static [&'static str] {
        match self {
            Kind::Integer => &["0", "1", "-3", "2147483647"],
            Kind::BigInt => &["0", "7", "9223372036854775807"],
            Kind::Double => &["0.5::double precision", "1e300::double precision", "0::double precision"],
            Kind::Numeric => &["0.5", "1234.567", "0.0"],
            Kind::Text => &["'a'", "''", "'12'", "'it''s'"],
            Kind::Boolean => &["true", "false", "NULL::boolean"],
            Kind::Instant => &["'2025-12-31 12:00Z'::timestamptz", "'infinity'::timestamptz", "NULL::timestamptz"],
        }
    }

    fn values(self) -> Vec<Value> {
        let integers =
            |width: usize| [0_i64, 1, -3].map(|number| value(&number.to_string(), &number.to_be_bytes()[8 - width..])).to_vec();
        match self {
            Kind::Integer => integers(4),
            Kind::BigInt => integers(8),
            Kind::Double => [0.5_f64, 0.0, -1e10].map(|number| value(&number.to_string(), &number.to_be_bytes())).to_vec(),
            Kind::Text => ["a", "12", "x_y%"].map(|text| value(text, text.as_bytes())).to_vec(),
            Kind::Boolean => vec![value("t", &[1]), value("f", &[0])],
            Kind::Numeric => ["0.5", "0", "-7.25"].map(super::wrong).to_vec(),
            Kind::Instant => ["2025-12-31 13:00Z", "2026-01-01 00:00"].map(super::wrong).to_vec(),
        }
    }
}

impl Maker<'_> {
    fn leaf(&mut self, kind: Kind) -> String {
        match self.chance.below(6) {
            0 => (*self.one_of(kind.literals())).to_owned(),
            1 => {
                let given = self.one_of(&kind.values()).clone();
                let parameter = self.parameter(kind.oid(), Some(given));
                if self.chance.one_in(2) { format!("{parameter}::{}", kind.name()) } else { parameter }
            }
            _ => (*self.one_of(kind.columns())).to_owned(),
        }
    }

    fn of_kind(&mut self, kind: Kind, depth: u32) -> String {
        if depth == 0 || self.chance.one_in(5) {
            return self.leaf(kind);
        }
        let depth = depth - 1;
        match self.chance.below(9) {
            0 => {
                let (condition, first, second) =
                    (self.of_kind(Kind::Boolean, depth), self.of_kind(kind, depth), self.of_kind(kind, depth));
                format!("CASE WHEN {condition} THEN {first} ELSE {second} END")
            }
            1 => format!("coalesce({}, {})", self.of_kind(kind, depth), self.of_kind(kind, depth)),
            2 => format!("nullif({}, {})", self.of_kind(kind, depth), self.of_kind(kind, depth)),
            3 => {
                let other = *self.one_of(KINDS);
                format!("({})::{}", self.of_kind(other, depth), kind.name())
            }
            _ => self.operation(kind, depth),
        }
    }

    fn operation(&mut self, kind: Kind, depth: u32) -> String {
        match kind {
            Kind::Integer | Kind::BigInt | Kind::Double | Kind::Numeric => {
                let operator = *self.one_of(&["+", "-", "*", "/", "%"]);
                match self.chance.below(4) {
                    0 => format!("abs({})", self.of_kind(kind, depth)),
                    _ => format!("({} {operator} {})", self.of_kind(kind, depth), self.of_kind(kind, depth)),
                }
            }
            Kind::Text => match self.chance.below(4) {
                0 => format!("upper({})", self.of_kind(kind, depth)),
                1 => format!("substr({}, 2)", self.of_kind(kind, depth)),
                2 => format!("left({}, {})", self.of_kind(kind, depth), self.leaf(Kind::Integer)),
                _ => format!("({} || {})", self.of_kind(kind, depth), self.of_kind(kind, depth)),
            },
            Kind::Boolean => {
                let of = *self.one_of(KINDS);
                let (left, right) = (self.of_kind(of, depth), self.of_kind(of, depth));
                match self.chance.below(6) {
                    0 => format!("({left} IS NULL)"),
                    1 => format!("({} AND {})", self.of_kind(kind, depth), self.of_kind(kind, depth)),
                    2 => format!("(NOT {} OR {left} = {right})", self.of_kind(kind, depth)),
                    3 => format!("({left} IN ({right}, {}))", self.leaf(of)),
                    4 => format!("({} LIKE {})", self.of_kind(Kind::Text, depth), self.leaf(Kind::Text)),
                    _ => {
                        let operator = *self.one_of(&["=", "<>", "<", ">="]);
                        format!("({left} {operator} {right})")
                    }
                }
            }
            Kind::Instant => {
                let step = *self.one_of(&["+ INTERVAL '1 day'", "- INTERVAL '3 hours'", "+ iv"]);
                match self.chance.below(3) {
                    0 => format!("date_trunc('hour', {})", self.of_kind(kind, depth)),
                    _ => format!("({} {step})", self.of_kind(kind, depth)),
                }
            }
        }
    }

    fn computing(mut self) -> Asked {
        self.asked = Asked { is_lookup: true, rows_max: vec![0], ..Asked::default() };
        let columns = 1 + self.chance.below(3);
        let made: Vec<String> = (0..columns)
            .map(|place| {
                let kind = *self.one_of(KINDS);
                format!("{} AS c{place}", self.of_kind(kind, 3))
            })
            .collect();
        let condition = self.condition("", &items().keys);
        let plain = if self.chance.one_in(2) { ", k, te" } else { "" };
        self.asked.sql = format!("SELECT {}{plain} FROM items WHERE {condition}", made.join(", "));
        self.asked.result_formats = vec![i16::from(self.chance.one_in(2))];
        if self.chance.one_in(5) {
            self.asked.rows_max = vec![1, 0];
        }
        self.asked
    }
}

#[tokio::test]
async fn expressions_say_the_same_on_both_roads() {
    let gateway = prepared_gateway(Online::Embedded).await;
    let [mut short, mut planned] = roads(&gateway);
    let mut chance = Chance(5);
    let (mut took, mut answered, mut failed) = (0, 0, 0);
    for case in 0..cases(300) {
        let asked = Maker { chance: &mut chance, asked: Asked::default() }.computing();
        let answers = [&mut short, &mut planned].map(|raw| asked.ask(raw));
        assert_same(&answers, &(case, &asked));
        let is_error = answers[0].iter().any(|message| message.0 == b'E');
        failed += usize::from(is_error);
        answered += usize::from(!is_error);
        took += usize::from(!is_error && asked.plan(&mut short).contains("road=short"));
    }
    assert!(
        took * 2 > answered && took * 5 > cases(300) && failed > 0,
        "{took} of {answered} took the short road, {failed} failed"
    );
}

/// Expressions, and whether the short road computes them.
const EXPRESSIONS: &[(&str, bool)] = &[
    ("SELECT dp * 2 + 1, i + si, bi - 1 FROM items WHERE k = 1", true),
    ("SELECT bi + 1 FROM items WHERE k = 1", true),
    ("SELECT i / (k - 1) FROM items WHERE k = 1", true),
    ("SELECT i / (k - 1) FROM items WHERE k IN (2, 99)", true),
    ("SELECT 1 / 0 FROM items WHERE k = 99", false),
    ("SELECT CASE WHEN k = 1 THEN 0 ELSE 10 / (k - 1) END FROM items WHERE k IN (1, 2)", true),
    ("SELECT coalesce(i, 1 / (k - 2), 3) FROM items WHERE k IN (1, 2)", true),
    ("SELECT te || '!', upper(te), length(te), te LIKE 'a%' FROM items WHERE k IN (1, 2)", true),
    ("SELECT dp::text, nu::integer, i::text, te::bytea, uu::text, js::text FROM items WHERE k = 1", true),
    ("SELECT te::integer FROM items WHERE k = 1", true),
    (
        "SELECT tz AT TIME ZONE 'America/New_York', date_trunc('day', event_time), extract(epoch FROM tz) FROM items WHERE k = 1",
        true,
    ),
    ("SELECT ai[1], at[4], ve[2], cardinality(ai), array_length(at, 1), 3 = ANY(ai) FROM items WHERE k = 1", true),
    ("SELECT iv + INTERVAL '1 hour', da + INTERVAL '1 day', da - '1999-01-01'::date FROM items WHERE k = 1", true),
    ("SELECT 7, 'seven', NULL, k FROM items WHERE k IN (1, 2, 99)", true),
    ("SELECT k AS one, k * 1 AS two, k AS three FROM items WHERE k = 1", true),
    ("SELECT d * 2 FROM (SELECT k, dp + 1 AS d FROM items) s WHERE k = 1", true),
    (
        "SELECT v.te, o.price * 2, coalesce(o.price, 0) FROM items v LEFT JOIN prices o ON o.k = v.k WHERE v.k IN (-2147483648, 1)",
        true,
    ),
    (
        "SELECT v.te, o.p, o.c FROM items v LEFT JOIN (SELECT k, coalesce(price, 0) AS p, 'x' AS c FROM prices) o ON o.k = v.k \
         WHERE v.k IN (-2147483648, 1)",
        true,
    ),
    ("SELECT ratio, price, label, following, is_dear FROM scored WHERE k = ANY(ARRAY[1, 2, 5, 7, 99])", true),
    ("SELECT price * 2, label || '?' FROM scored WHERE k = 7", true),
    ("SELECT score, word, bi, is_new, a FROM fit WHERE (a, b, k) IN ((1, 'x', 1), (1, 'y', 5), (3, 'x', 9), (8, 'x', 8))", true),
    ("SELECT dp IS NULL, NOT bo, bo AND i > 3, k BETWEEN 1 AND 2, k IN (1, 5) FROM items WHERE k IN (1, 2)", true),
    // What depends on the time, the session or chance, on other rows, or is a filter.
    ("SELECT now() - event_time FROM items WHERE k = 1", false),
    ("SELECT event_time > 'yesterday' FROM items WHERE k = 1", false),
    ("SELECT current_user, te FROM items WHERE k = 1", false),
    ("SELECT te FROM items WHERE k = 1 AND dp < 2", false),
    ("SELECT te, (SELECT count(*) FROM prices) FROM items WHERE k = 1", false),
    ("SELECT max(dp) FROM items WHERE k = 1", false),
];

#[tokio::test]
async fn expressions_of_the_short_road_are_those_that_mean_the_same_each_time() {
    let gateway = prepared_gateway(Online::Embedded).await;
    let [mut short, mut planned] = roads(&gateway);
    let mut faults = Vec::new();
    for (sql, is_short) in EXPRESSIONS {
        for result_format in [0, 1] {
            let asked = Asked { sql: (*sql).into(), rows_max: vec![0], result_formats: vec![result_format], ..Asked::default() };
            let answers = [&mut short, &mut planned].map(|raw| asked.ask(raw));
            assert_same(&answers, &asked);
        }
        let answers = [&mut short, &mut planned].map(|raw| raw.query(sql.as_bytes()));
        assert_same(&answers, sql);
        let plan = super::shown(&short.query(format!("EXPLAIN {sql}").as_bytes())).join("\n");
        if plan.contains("road=short") != *is_short {
            faults.push(format!("{sql}\n{plan}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

/// A literal that names a day by the statement's own is read each time, wherever it stands.
#[tokio::test]
async fn days_that_are_named_by_today_are_those_of_each_execution() {
    let gateway = prepared_gateway(Online::Embedded).await;
    let client = gateway.connect().await;
    crate::harness::run(&client, "CREATE ENTITY day KEY (d DATE)").await;
    crate::harness::run(&client, "CREATE FEATURE VIEW days (x BIGINT) ENTITY day").await;
    crate::harness::run(&client, "INSERT INTO days VALUES ('2026-01-01', '2025-12-31Z', 1), ('2026-01-02', '2025-12-31Z', 2)")
        .await;
    let found = client.prepare("SELECT x FROM days WHERE d = 'today'").await.unwrap();
    for (instant, x) in [("2026-01-01 12:00Z", 1_i64), ("2026-01-02 12:00Z", 2)] {
        crate::harness::set_clock(&client, instant).await;
        assert_eq!(client.query_one(&found, &[]).await.unwrap().get::<_, i64>(0), x);
    }
}

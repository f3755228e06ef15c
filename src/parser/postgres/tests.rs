//! What the rewriting makes of a query, as text.

use super::*;
use crate::parser::parse_query;

fn rewritten(sql: &str) -> String {
    let mut query = parse_query(sql).unwrap().body;
    refuse_unsupported(&query).unwrap();
    rewrite(&mut query).unwrap();
    query.to_string()
}

#[test]
fn spellings_are_rewritten() {
    for (sql, expected) in [
        ("SELECT a OPERATOR(pg_catalog.~) 'x' COLLATE pg_catalog.default AS b FROM t", "SELECT a ~ 'x' AS b FROM t"),
        ("SELECT pg_catalog.length(a) AS b FROM t", "SELECT length(a) AS b FROM t"),
        ("SELECT a FROM t WHERE b = 't'::regclass", "SELECT a FROM t WHERE b = __regclass('t')"),
        (
            "SELECT a FROM t ORDER BY b::pg_catalog.regtype::pg_catalog.text",
            "SELECT a FROM t ORDER BY __regtype_text(b)::pg_catalog.text",
        ),
        ("SELECT a::regclass AS b FROM t", "SELECT __regclass_text(a) AS b FROM t"),
        ("SELECT a FROM t FETCH FIRST 3 ROWS ONLY", "SELECT a FROM t LIMIT 3"),
        ("SELECT count(*), count(*) FROM t", "SELECT count(*) AS \"count\", count(*) AS \"count\u{1f}1\" FROM t"),
        ("SELECT a FROM t WHERE k = ANY ('{7,\"b c\",NULL}')", "SELECT a FROM t WHERE k IN ('7', 'b c', NULL)"),
        ("SELECT a FROM t WHERE k <> ALL(('{7}')) OR k = ANY('{}')", "SELECT a FROM t WHERE k NOT IN ('7') OR false"),
        ("SELECT lower(a) FROM t", "SELECT lower(a) AS \"lower\" FROM t"),
        ("SELECT a::int, 1::int FROM t", "SELECT a::INT AS \"a\", 1::INT AS \"int4\" FROM t"),
    ] {
        assert_eq!(rewritten(sql), expected);
    }
}

#[test]
fn conditions_on_the_outer_row_go_in_front_of_a_subquery() {
    assert_eq!(
        rewritten("SELECT (SELECT d.x FROM d WHERE d.k = a.k AND a.has) AS v FROM a"),
        "SELECT CASE WHEN a.has THEN (SELECT __single(array_agg(d.x)) AS x FROM d WHERE d.k = a.k) END AS v FROM a"
    );
    assert_eq!(
        rewritten("SELECT (SELECT d.x FROM d WHERE d.k = a.k AND a.k <> d.y) AS v FROM a"),
        "SELECT (SELECT __single(array_agg(d.x)) AS x FROM d WHERE d.k = a.k AND d.k <> d.y) AS v FROM a"
    );
}

#[test]
fn of_subqueries_for_kinds_without_types_only_the_type_is_left() {
    let kind = |kind: &str, relation: &str, subquery: &str| {
        format!("SELECT CASE WHEN t.typtype = '{kind}' THEN ({subquery}) ELSE NULL END AS v FROM {relation} AS t")
    };
    let columns = "SELECT array_agg(a.x ORDER BY a.n) FROM pg_attribute a WHERE a.k = t.oid";
    let none = "SELECT __no_array(a.x) AS \"__no_array\" FROM pg_attribute a LIMIT 0";
    assert_eq!(rewritten(&kind("c", "pg_catalog.pg_type", columns)), kind("c", "pg_catalog.pg_type", none));
    let bases = "WITH RECURSIVE b(o) AS (SELECT x FROM pg_type u WHERE u.oid = t.oid UNION ALL SELECT o FROM b) SELECT o FROM b";
    let none = "WITH b (o) AS (SELECT x FROM pg_type u) SELECT o FROM b LIMIT 0";
    assert_eq!(rewritten(&kind("d", "pg_type", bases)), kind("d", "pg_type", none));
    // Other kinds there are, and other relations may have any.
    for (name, relation) in [("b", "pg_type"), ("c", "mine"), ("c", "mine.pg_type")] {
        assert!(rewritten(&kind(name, relation, columns)).contains("a.k = t.oid"), "{name} {relation}");
    }
}

#[test]
fn what_is_fine_stays_as_it_is() {
    for sql in [
        "SELECT a, b AS c FROM t WHERE a = 1 AND b IN (1, 2) ORDER BY a LIMIT 1",
        "SELECT * FROM t WHERE k = '{a}'",
        "SELECT (SELECT count(*) FROM u WHERE u.a = t.a) AS n FROM t",
    ] {
        let expected = sql.replace("SELECT count(*) FROM u", "SELECT count(*) AS \"count\" FROM u");
        assert_eq!(rewritten(sql), expected);
    }
}

#[test]
fn clauses_that_would_be_dropped_are_refused() {
    for sql in [
        "SELECT a FROM t FOR UPDATE",
        "SELECT a FROM (SELECT a FROM t FOR SHARE) s",
        "SELECT a FROM t TABLESAMPLE SYSTEM (1)",
        "WITH s AS (SELECT a FROM t TABLESAMPLE SYSTEM (1)) SELECT a FROM s",
    ] {
        let refused = parse_query(sql).and_then(|query| refuse_unsupported(&query.body)).unwrap_err();
        assert_eq!(refused.code(), crate::error::SqlState::FeatureNotSupported, "{sql}");
    }
}

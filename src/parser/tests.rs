//! What parses, as what, and what is refused.

use sqlparser::ast::{self, SetExpr, TableFactor, TableVersion};

use super::{Copy, CopyFormat, Statement, parse};
use crate::error::SqlState;
use crate::types::SqlType;

fn one(sql: &str) -> Statement {
    let mut statements = parse(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    assert_eq!(statements.len(), 1, "{sql}");
    statements.remove(0)
}

fn query(sql: &str) -> super::Query {
    match one(sql) {
        Statement::Query(query) => query,
        other => panic!("{sql}: {other:?}"),
    }
}

/// The tables of a plain select with their clause numbers.
fn tables(query: &super::Query) -> Vec<(String, Option<usize>)> {
    let SetExpr::Select(select) = query.body.body.as_ref() else { panic!("not a select") };
    let from = &select.from[0];
    let factors = std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation));
    factors
        .map(|factor| {
            let TableFactor::Table { name, version, .. } = factor else { panic!("not a table") };
            let clause = version.as_ref().map(|version| {
                let TableVersion::VersionAsOf(ast::Expr::Value(value)) = version else { panic!("{version:?}") };
                value.to_string().parse().unwrap()
            });
            (name.to_string(), clause)
        })
        .collect()
}

#[test]
fn time_clauses_stand_at_their_tables() {
    let cases: [(&str, &str, [Option<&str>; 4]); 8] = [
        ("select * from v as of timestamp '2013-06-01' where k = 1", "\"v\"", [Some("TIMESTAMP '2013-06-01'"), None, None, None]),
        ("SELECT * FROM V AS OF $1 f", "\"v\"", [Some("$1"), None, None, None]),
        (
            "SELECT * FROM \"V\" AS OF now() - INTERVAL '1 hour' AS f",
            "\"V\"",
            [Some("now() - INTERVAL '1 hour'"), None, None, None],
        ),
        ("SELECT * FROM v AS OF $1 WITHIN INTERVAL '3 hours'", "\"v\"", [Some("$1"), Some("INTERVAL '3 hours'"), None, None]),
        ("SELECT * FROM v FOR SYSTEM_TIME AS OF $2", "\"v\"", [None, None, Some("$2"), None]),
        ("SELECT * FROM v FOR SYSTEM_TIME AS OF $2 AS OF $1 x", "\"v\"", [Some("$1"), None, Some("$2"), None]),
        ("SELECT * FROM v VERSION AS OF 42", "\"v\"", [None, None, None, Some("42")]),
        ("SELECT * FROM v VERSION AS OF 'release-12' AS OF $1", "\"v\"", [Some("$1"), None, None, Some("'release-12'")]),
    ];
    for (sql, table, parts) in cases {
        let query = query(sql);
        assert_eq!(tables(&query), vec![(table.to_owned(), Some(0))], "{sql}");
        let clause = &query.clauses[0];
        let found = [&clause.as_of, &clause.within, &clause.system_time, &clause.version];
        let found = found.map(|part| part.as_ref().map(ToString::to_string));
        assert_eq!(found, parts.map(|part| part.map(str::to_owned)), "{sql}");
    }
}

#[test]
fn each_table_of_a_join_keeps_its_own_clause() {
    let query = query("SELECT * FROM l LEFT JOIN a AS OF l.ts AS x ON x.k = l.k LEFT JOIN b AS OF l.at ON b.k = l.k");
    assert_eq!(tables(&query), vec![("l".into(), None), ("\"a\"".into(), Some(0)), ("\"b\"".into(), Some(1))]);
    assert_eq!(query.clauses[1].as_of.as_ref().map(ToString::to_string), Some("l.at".into()));
}

#[test]
fn clauses_are_found_in_subqueries_and_ctes() {
    for sql in [
        "WITH c AS (SELECT * FROM v AS OF $1) SELECT * FROM c",
        "SELECT (SELECT max(a) FROM v AS OF $1)",
        "SELECT * FROM (SELECT * FROM v AS OF $1) s",
        "VALUES ((SELECT 1 FROM v AS OF $1))",
    ] {
        assert_eq!(query(sql).clauses.len(), 1, "{sql}");
    }
}

#[test]
fn misplaced_clauses_are_errors() {
    let cases = [
        ("SELECT 1 AS of", SqlState::SyntaxError),
        ("SELECT x AS of FROM t", SqlState::SyntaxError),
        ("SELECT * FROM (SELECT 1) AS OF $1", SqlState::FeatureNotSupported),
        ("SELECT * FROM f(1) AS OF $1", SqlState::FeatureNotSupported),
        ("SELECT a AS OF $1", SqlState::SyntaxError),
        ("INSERT INTO v AS OF $1 VALUES (1)", SqlState::SyntaxError),
        ("SELECT * FROM v AS OF $1 AS OF $2", SqlState::SyntaxError),
        ("SELECT * FROM l ASOF JOIN v", SqlState::SyntaxError),
        ("SELECT * FROM l ASOF JOIN v MATCH_CONDITION l.t >= v.t ON l.k = v.k", SqlState::SyntaxError),
        ("SELECT * FROM l LEFT ASOF JOIN v ON l.k = v.k AND l.t >= v.t", SqlState::SyntaxError),
        ("DELETE FROM l USING l ASOF JOIN v ON l.k = v.k AND l.t >= v.t", SqlState::FeatureNotSupported),
        ("COPY v AS OF $1 FROM STDIN", SqlState::FeatureNotSupported),
    ];
    for (sql, code) in cases {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.code(), code, "{sql}: {error}");
    }
}

#[test]
fn aliases_named_at_before_and_changes_still_work() {
    for alias in ["at", "before", "changes", "version", "\"of\"", "\"asof\""] {
        query(&format!("SELECT * FROM t {alias}"));
        query(&format!("SELECT * FROM t AS {alias}"));
    }
}

#[test]
fn syntax_errors_point_at_the_word() {
    let cases = [
        ("SELEC 1", "syntax error at or near \"SELEC\"", 1),
        ("SELECT 1 FROM", "syntax error at end of input", 14),
        ("SELECT *\nFROM t WHERE ) 1", "syntax error at or near \")\"", 23),
        ("SELECT 'ä',\r\n\n  'ö\nü' FROM t\n WHERE ) 1", "syntax error at or near \")\"", 37),
        ("SELECT 1;\n\nSELEC 1", "syntax error at or near \"SELEC\"", 12),
        ("CREATE ENTITY c (a int)", "syntax error at or near \"(\"", 17),
    ];
    for (sql, message, position) in cases {
        let error = parse(sql).expect_err(sql);
        assert_eq!((error.message(), error.position()), (message, Some(position)), "{sql}");
        assert_eq!(error.code(), SqlState::SyntaxError);
    }
}

#[test]
fn definitions_are_understood() {
    let Statement::CreateEntity(entity) = one("create entity Customer key (customer_id bigint, \"Region\" text) comment 'c'")
    else {
        panic!()
    };
    assert_eq!(entity.name.name, "customer");
    assert_eq!(entity.keys[1].name, "Region");
    let sql = "CREATE FEATURE VIEW s (a DOUBLE PRECISION COMMENT 'mean' CHECK (a >= 0), b bigint, e real[3], n numeric(10,2))
               ENTITY customer, item EVENT TIME at COMMENT 'x' WITH (owner = 'growth', tags = 'a,b', online = false)";
    let Statement::CreateFeatureView(view) = one(sql) else { panic!() };
    assert_eq!(view.entities, ["customer", "item"]);
    assert_eq!(view.event_time, "at");
    assert_eq!(view.features[0].check.as_deref(), Some("a >= 0"));
    assert_eq!(view.features[2].data_type, SqlType::Vector(3));
    assert!(!view.online);
    assert_eq!(view.options["owner"], "growth");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for sql in [
        "CREATE FEATURE SERVICE s AS SELECT 1",
        "ALTER FEATURE VIEW v ADD FEATURE x int",
        "CREATE FEATURE VIEW v ENTITY e REFRESH EVERY INTERVAL '1 hour' AS SELECT 1",
        "CREATE FEATURE VIEW v ENTITY e AS SELECT 1",
        "UPDATE v SET a = 1",
        "DELETE FROM v WHERE k = 1",
        "INSERT INTO v VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO v VALUES (1) RETURNING k",
        "CREATE TABLE t (a int PRIMARY KEY)",
        "CREATE TABLE t (a jsonb)",
        "SAVEPOINT a",
        "DECLARE c CURSOR FOR SELECT 1",
        "COPY t TO '/tmp/x'",
        "DROP TABLE t CASCADE",
        "CREATE EXTERNAL TABLE t STORED AS AVRO LOCATION 'x'",
    ] {
        let error = parse(sql).expect_err(sql);
        assert_eq!(error.code(), SqlState::FeatureNotSupported, "{sql}: {error}");
    }
}

#[test]
fn settings_are_read_in_every_spelling() {
    let set = |name: &str, value: &str| Statement::Set {
        name: name.into(),
        value: Some(value.into()),
        scope: super::SetScope::Session,
    };
    assert_eq!(one("SET TimeZone = 'Europe/Berlin'"), set("timezone", "Europe/Berlin"));
    assert_eq!(one("set time zone utc"), set("timezone", "utc"));
    assert_eq!(one("SET tidegate.route TO online"), set("tidegate.route", "online"));
    assert_eq!(one("SET SESSION search_path = a, 'b'"), set("search_path", "a, b"));
    assert_eq!(one("SET extra_float_digits = -1"), set("extra_float_digits", "-1"));
    assert_eq!(one("SHOW transaction isolation level"), Statement::Show("transaction_isolation".into()));
    assert_eq!(one("SHOW tidegate.route"), Statement::Show("tidegate.route".into()));
    assert_eq!(
        one("ALTER SYSTEM SET tidegate.clock = '2026-01-01 00:00:00Z'"),
        Statement::SetClock("2026-01-01 00:00:00Z".into())
    );
}

#[test]
fn copy_options_have_postgres_defaults() {
    let Statement::Copy(Copy::In { options, columns, .. }) = one("COPY t (a, B) FROM STDIN WITH (FORMAT csv, HEADER)") else {
        panic!()
    };
    assert_eq!((options.format, options.delimiter, options.null.as_str(), options.header), (CopyFormat::Csv, b',', "", true));
    assert_eq!(columns, ["a", "b"]);
    let Statement::Copy(Copy::In { options, .. }) = one("COPY t FROM STDIN") else { panic!() };
    assert_eq!((options.format, options.delimiter, options.null.as_str()), (CopyFormat::Text, b'\t', "\\N"));
    let Statement::Copy(Copy::In { options, .. }) = one("COPY t FROM STDIN CSV HEADER DELIMITER ';'") else { panic!() };
    assert_eq!((options.format, options.delimiter, options.header), (CopyFormat::Csv, b';', true));
    assert!(matches!(one("COPY (SELECT * FROM v AS OF $1) TO STDOUT (FORMAT binary)"), Statement::Copy(Copy::Out { .. })));
}

#[test]
fn a_view_keeps_the_text_of_its_query() {
    let Statement::CreateView { definition, query, .. } =
        one("CREATE VIEW x (a) AS SELECT k -- the key\nFROM v AS OF '2013-01-01' ;")
    else {
        panic!()
    };
    assert_eq!(definition, "SELECT k -- the key\nFROM v AS OF '2013-01-01'");
    assert_eq!(query.clauses.len(), 1);
}

#[test]
fn statements_are_split_and_blank_ones_dropped() {
    assert_eq!(parse(";; -- nothing\n ;").unwrap().len(), 0);
    assert_eq!(parse("SELECT ';'; SELECT $$;$$;").unwrap().len(), 2);
}

#[test]
fn create_table_as_takes_column_names_and_no_data() {
    let cases = [
        ("CREATE TABLE t AS SELECT 1", vec![], false, true),
        ("CREATE TABLE IF NOT EXISTS t (a, \"B\") AS SELECT 1, 2 FROM x WITH NO DATA", vec!["a", "B"], true, false),
        ("CREATE TABLE t AS (SELECT 1) WITH DATA", vec![], false, true),
    ];
    for (sql, expected, existing, filled) in cases {
        let Statement::CreateTableAs { columns, if_not_exists, with_data, .. } = one(sql) else { panic!("{sql}") };
        assert_eq!(
            (columns, if_not_exists, with_data),
            (expected.into_iter().map(str::to_owned).collect(), existing, filled),
            "{sql}"
        );
    }
}

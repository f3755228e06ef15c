//! The catalogs, asked as clients ask them.

use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;

use super::*;
use crate::error::SqlState;
use crate::metrics::Metrics;
use crate::offline::{Dataset, LanceStore, history_schema};
use crate::online::{MemoryStore, OnlineViews};
use crate::parser;
use crate::planner::{HeldRows, OnlineFallback, PlannerConfig, RouteSetting, Stores, VersionPins};
use crate::registry::{Change, Column, Feature, FileFormat, KeyColumn, StoreId, TableSource, Ttl};
use crate::types::SqlType;

struct World {
    catalog: Catalog,
    planner: Arc<Planner>,
    context: Arc<StatementContext>,
    session: SessionInfo,
    _root: tempfile::TempDir,
}

/// Entity 16384, feature view 16385, table 16386, view 16387, external table 16388, a view on the view 16389.
fn changes() -> Vec<Change> {
    let feature = |name: &str, data_type, comment: Option<&str>, check: Option<&str>| Feature {
        name: name.into(),
        data_type,
        comment: comment.map(Into::into),
        check: check.map(Into::into),
    };
    let column = |name: &str, data_type| Column { name: name.into(), data_type, nullable: true, comment: None };
    let view = |name: &str, definition: &str, columns| Change::CreateView {
        name: name.into(),
        definition: definition.into(),
        columns,
        or_replace: false,
        if_not_exists: false,
    };
    let external = TableSource::External { format: FileFormat::Parquet, location: "/nowhere/f.parquet".into() };
    vec![
        Change::CreateEntity {
            name: "customer".into(),
            keys: vec![
                KeyColumn { name: "customer_id".into(), data_type: SqlType::BigInt },
                KeyColumn { name: "Shop".into(), data_type: SqlType::Text },
            ],
            comment: Some("a person".into()),
            if_not_exists: false,
        },
        Change::CreateFeatureView {
            name: "customer_spend".into(),
            entities: vec!["customer".into()],
            event_time: "event_time".into(),
            features: vec![
                feature("avg", SqlType::DoublePrecision, Some("mean purchase"), Some("avg >= 0")),
                feature("vector", SqlType::Vector(3), None, None),
                feature("price", SqlType::Numeric { precision: 10, scale: 2 }, None, None),
            ],
            ttl: Some(Ttl::from_micros(86_400_000_000).unwrap()),
            online: true,
            comment: Some("what they spend".into()),
            options: [("owner".to_owned(), "growth".to_owned())].into(),
            if_not_exists: false,
        },
        Change::CreateTable {
            name: "labels".into(),
            columns: vec![column("id", SqlType::BigInt), column("at", SqlType::TimestampTz)],
            source: TableSource::Stored,
            if_not_exists: false,
        },
        view(
            "w",
            "SELECT id, count(*) FROM labels GROUP BY id",
            vec![column("id", SqlType::BigInt), column("n", SqlType::BigInt)],
        ),
        Change::CreateTable {
            name: "files".into(),
            columns: vec![column("x", SqlType::Integer)],
            source: external,
            if_not_exists: false,
        },
        view("w2", "SELECT n AS m FROM w", vec![column("m", SqlType::BigInt)]),
    ]
}

impl World {
    fn new() -> Self {
        let mut registry = Registry::empty(StoreId(uuid::Uuid::from_u128(1)));
        for change in changes() {
            registry = registry.apply(&change).unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        let planner = Arc::new(Planner::new(&PlannerConfig { memory_bytes_max: 1 << 28, partitions: 2 }).unwrap());
        let stores = Stores {
            offline: Arc::new(LanceStore::new(root.path().to_str().unwrap()).unwrap()),
            online: Arc::new(OnlineViews::new(Arc::new(MemoryStore::new()))),
            metrics: Arc::new(Metrics::default()),
        };
        let context = StatementContext {
            registry: Arc::new(registry),
            now: CommitTime::from_micros(1_000_000),
            as_of: None,
            system_time: None,
            time_zone: "UTC".into(),
            route: RouteSetting::Auto,
            online_fallback: OnlineFallback::Error,
            held: Arc::new(HeldRows::new()),
            pinned: false,
            pins: Arc::new(VersionPins::default()),
            stores,
        };
        let settings = [("search_path", "public"), ("server_version", "15.0"), ("application_name", "psql")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let session =
            SessionInfo { user: "ann".into(), database: "shop".into(), backend_pid: 7, settings: Arc::new(settings.into()) };
        let catalog = Catalog::new(Arc::clone(&planner), CommitTime::from_micros(0)).unwrap();
        Self { catalog, planner, context: Arc::new(context), session, _root: root }
    }

    /// The rows, each as its cells with `|` between.
    async fn rows(&self, sql: &str) -> Result<Vec<String>> {
        let query = parser::parse_query(sql)?;
        let surface = self.catalog.surface(&self.context, &self.session);
        let plan = self.planner.plan(&self.context, &surface, &query, &[]).await?;
        let rows = self.planner.run(&self.context, &surface, &plan, &[]).await?;
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
        let options = FormatOptions::default().with_null("NULL");
        let mut lines = Vec::new();
        for batch in &batches {
            let columns: Vec<_> =
                batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap()).collect();
            for row in 0..batch.num_rows() {
                let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
                lines.push(cells.join("|"));
            }
        }
        Ok(lines)
    }

    async fn check(&self, sql: &str, expected: &[&str]) {
        match self.rows(sql).await {
            Ok(rows) => assert_eq!(rows, expected, "{sql}"),
            Err(error) => panic!("{sql}\n{error} ({:?})", std::error::Error::source(&error).map(ToString::to_string)),
        }
    }
}

#[tokio::test]
async fn every_system_relation_can_be_read() {
    let world = World::new();
    for view in world.context.registry.views.values() {
        world.context.stores.offline.create(Dataset::History(view.id), history_schema(view)).await.unwrap();
    }
    let mut failures = Vec::new();
    for (schema, name, _) in world.catalog.shared.system.iter() {
        if let Err(error) = world.rows(&format!("SELECT * FROM {schema}.{name}")).await {
            failures.push(format!("{schema}.{name}: {error}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test]
async fn relations_called_empty_are_empty() {
    let world = World::new();
    for name in parser::postgres::EMPTY_RELATIONS {
        world.check(&format!("SELECT * FROM pg_catalog.{name}"), &[]).await;
    }
}

#[tokio::test]
async fn no_type_is_of_a_kind_without_types() {
    let kinds = parser::postgres::KINDS_WITHOUT_TYPES.iter().map(|kind| format!("'{kind}'")).collect::<Vec<_>>();
    let sql = format!("SELECT typname FROM pg_catalog.pg_type WHERE typtype IN ({})", kinds.join(", "));
    World::new().check(&sql, &[]).await;
}

#[test]
fn classes_have_the_numbers_of_their_relations() {
    let system = SystemRelations::read().unwrap();
    for (name, oid) in parser::postgres::OBJECT_CLASSES {
        assert_eq!(system.get("pg_catalog", name).unwrap().oid, *oid, "{name}");
    }
}

#[tokio::test]
async fn psql_gets_its_answers() {
    let world = World::new();
    let mut failures = Vec::new();
    for query in include_str!("tests/psql15.sql").split(";\n").filter(|query| query.contains("SELECT")) {
        if let Err(error) = world.rows(query).await {
            failures.push(format!("{query}\n=> {error}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn a_feature_view_looks_like_a_table_with_a_key() {
    let world = World::new();
    world
        .check(
            "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
                    (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d
                     WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull,
                    (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t
                     WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation)
             FROM pg_catalog.pg_attribute a WHERE a.attrelid = '16385' AND a.attnum > 0 ORDER BY a.attnum",
            &[
                "customer_id|bigint|NULL|true|NULL",
                "Shop|text|NULL|true|NULL",
                "event_time|timestamp with time zone|NULL|true|NULL",
                "avg|double precision|NULL|false|NULL",
                "vector|real[]|NULL|false|NULL",
                "price|numeric(10,2)|NULL|false|NULL",
            ],
        )
        .await;
    world
        .check(
            "SELECT c2.relname, i.indisprimary, pg_get_indexdef(i.indexrelid, 0, true), pg_get_constraintdef(con.oid, true)
             FROM pg_catalog.pg_class c, pg_catalog.pg_class c2, pg_catalog.pg_index i
             LEFT JOIN pg_catalog.pg_constraint con ON (conrelid = i.indrelid AND conindid = i.indexrelid AND contype IN ('p'))
             WHERE c.oid = '16385' AND c.oid = i.indrelid AND i.indexrelid = c2.oid",
            &["customer_spend_pkey|true|CREATE UNIQUE INDEX customer_spend_pkey ON public.customer_spend USING btree \
               (customer_id, \"Shop\")|PRIMARY KEY (customer_id, \"Shop\")"],
        )
        .await;
    world
        .check(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'",
            &["customer_spend_avg_check|CHECK ((avg >= 0))"],
        )
        .await;
    world
        .check(
            "SELECT obj_description('customer_spend'::regclass, 'pg_class'), col_description('customer_spend'::regclass, 4)",
            &["what they spend|mean purchase"],
        )
        .await;
}

#[tokio::test]
async fn numbers_under_a_names_type_are_shown_as_names_and_compare_as_numbers() {
    let world = World::new();
    world
        .check(
            "SELECT 16385::regclass, 'history.customer_spend'::regclass, 20::regtype, 11::regnamespace",
            &["customer_spend|history.customer_spend|bigint|pg_catalog"],
        )
        .await;
    world.check("SELECT 'pg_class'::regclass::oid, 'labels'::regclass = 16386, 'int4'::regtype::int", &["1259|true|23"]).await;
    world.check("SELECT relname FROM pg_class WHERE oid = 'w'::regclass", &["w"]).await;
    world.check("SELECT to_regclass('nothing')", &["NULL"]).await;
    let missing = world.rows("SELECT 'nothing'::regclass").await.unwrap_err();
    assert_eq!((missing.code(), missing.message()), (SqlState::UndefinedTable, "relation \"nothing\" does not exist"));
}

#[tokio::test]
async fn postgres_spellings_mean_what_they_mean_there() {
    let world = World::new();
    for (sql, expected) in [
        ("SELECT ARRAY(SELECT x FROM (VALUES (3), (1), (2)) t(x) ORDER BY 1)", "[1, 2, 3]"),
        ("SELECT ARRAY(SELECT x FROM (VALUES (1)) t(x) WHERE x > 1)", "[]"),
        ("SELECT ARRAY(SELECT DISTINCT x FROM (VALUES (1), (1)) t(x))", "[1]"),
        ("SELECT ARRAY(SELECT 'a' || x FROM unnest(ARRAY['b', 'c']) x)", "[ab, ac]"),
        ("SELECT (SELECT x FROM (VALUES (1)) t(x) WHERE x > 1)", "NULL"),
        ("SELECT a, (SELECT b FROM (VALUES (1, 'x')) u(a, b) WHERE u.a = t.a) FROM (VALUES (1)) t(a)", "1|x"),
        (
            "SELECT (SELECT b FROM (VALUES (1, 2), (1, 3)) u(a, b) WHERE u.a = t.a ORDER BY b DESC LIMIT 1) FROM (VALUES (1)) t(a)",
            "3",
        ),
        ("SELECT 'pg_x' LIKE 'pg/_' || '%' ESCAPE '/', 'pgax' LIKE 'pg/_' || '%' ESCAPE '/'", "true|false"),
        ("SELECT json_build_object('a', 1, 'b', NULL, 'c', 'x')", "{\"a\" : 1, \"b\" : null, \"c\" : \"x\"}"),
        ("SELECT max(x), max(n) FROM (SELECT unnest(indkey) AS x, generate_subscripts(indkey, 1) AS n FROM pg_index) i", "2|1"),
        ("SELECT max(indkey::text) FROM pg_index", "1 2"),
        ("SELECT max(n) FROM (SELECT generate_subscripts(ARRAY[5, 6], 1) AS n) i", "2"),
        (
            "SELECT to_char(TIMESTAMP '2013-02-09 12:00:00', 'YYYY-MM-DD'), to_char(DATE '2013-02-09', 'FMMonth')",
            "2013-02-09|February",
        ),
        ("SELECT 2 ^ 10", "1024.0"),
        ("SELECT 1 OPERATOR(pg_catalog.+) 2", "3"),
        ("SELECT 'a' COLLATE \"C\" = 'a'", "true"),
        ("SELECT 1, 1, NULL, NULL, count(*), count(*) FROM pg_catalog.pg_database", "1|1|NULL|NULL|1|1"),
        ("SELECT count FROM (SELECT count(*) FROM pg_database) t", "1"),
        ("SELECT s FROM generate_series(1, 1) s", "1"),
        ("SELECT generate_series FROM pg_catalog.generate_series(2, 2)", "2"),
        ("SELECT x FROM (VALUES (1), (2)) t(x) ORDER BY x FETCH FIRST 1 ROW ONLY", "1"),
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) SELECT max(n) FROM t", "3"),
        (
            "SELECT current_user, session_user, current_schema, current_database(), current_schemas(false)",
            "ann|ann|public|shop|[public]",
        ),
        (
            "SELECT pg_size_pretty(10240::bigint), pg_size_pretty(10239::bigint), pg_size_pretty(1048576::bigint)",
            "10 kB|10239 bytes|1024 kB",
        ),
        ("SELECT quote_ident('A b'), quote_literal('it''s'), format('%I=%L', 'x', NULL)", "\"A b\"|'it''s'|x=NULL"),
        ("SELECT current_setting('server_version'), current_setting('no.such', true)", "15.0|NULL"),
        ("SELECT pg_get_viewdef('w2'::regclass)", " SELECT n AS m FROM w;"),
        ("SELECT column_name FROM information_schema.key_column_usage WHERE ordinal_position = 2", "Shop"),
    ] {
        world.check(sql, &[expected]).await;
    }
}

#[tokio::test]
async fn errors_are_postgres_errors() {
    let world = World::new();
    for (sql, code) in [
        ("SELECT (SELECT x FROM (VALUES (1), (2)) t(x))", SqlState::CardinalityViolation),
        ("SELECT current_setting('no.such')", SqlState::UndefinedObject),
        ("SELECT * FROM labels FOR UPDATE", SqlState::FeatureNotSupported),
        ("SELECT * FROM labels TABLESAMPLE BERNOULLI (10)", SqlState::FeatureNotSupported),
        ("SELECT (SELECT 1 FROM labels FOR SHARE)", SqlState::FeatureNotSupported),
        ("SELECT 'a' COLLATE \"de_DE\"", SqlState::FeatureNotSupported),
        ("SELECT pg_backend_pid(1)", SqlState::UndefinedFunction),
        ("SELECT set_config('x', 'y', false)", SqlState::UndefinedObject),
        ("SELECT set_config('search_path', 'y', false) FROM pg_catalog.pg_database", SqlState::FeatureNotSupported),
    ] {
        let error = world.rows(sql).await.unwrap_err();
        assert_eq!(error.code(), code, "{sql}: {error}");
    }
    let error = world.rows("SELECT set_config('x', 'y')").await.unwrap_err();
    assert_eq!((error.code(), error.message()), (SqlState::UndefinedFunction, "function set_config(text, text) does not exist"));
}

#[tokio::test]
async fn views_stand_on_views_under_their_own_names() {
    let world = World::new();
    let query = parser::parse_query("SELECT m FROM w2").unwrap();
    let surface = world.catalog.surface(&world.context, &world.session);
    let plan = world.planner.plan(&world.context, &surface, &query, &[]).await.unwrap();
    assert_eq!(plan.schema.field(0).name(), "m");
    assert_eq!(SqlType::of_field(plan.schema.field(0)), Some(SqlType::BigInt));
}

//! Queries from text to rows, over real stores.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider, SchemaProvider,
};
use datafusion::scalar::ScalarValue;
use futures::TryStreamExt;

use super::*;
use crate::error::{Error, Result, SqlState};
use crate::ingest::{Ingest, Intake};
use crate::metrics::Metrics;
use crate::offline::LanceStore;
use crate::online::{MemoryStore, OnlineViews};
use crate::parser;
use crate::registry::{Change, Column, Feature, KeyColumn, Registry, StoreId, TableSource, Target, Ttl};
use crate::time::{Clock, SetClock};

const HOUR: i64 = 3_600_000_000;

/// A gateway's insides below the session.
struct World {
    planner: Planner,
    registry: Arc<Registry>,
    stores: Stores,
    ingest: Ingest,
    clock: Arc<SetClock>,
    route: RouteSetting,
    time_zone: String,
    held: Arc<HeldRows>,
    _root: tempfile::TempDir,
}

fn feature(name: &str, data_type: SqlType) -> Feature {
    Feature { name: name.into(), data_type, comment: None, check: None }
}

fn view_change(name: &str, entity: &str, ttl: Option<i64>, features: Vec<Feature>) -> Change {
    Change::CreateFeatureView {
        name: name.into(),
        entities: vec![entity.into()],
        event_time: "event_time".into(),
        features,
        ttl: ttl.map(|ttl| Ttl::from_micros(ttl).unwrap()),
        online: true,
        comment: None,
        options: Default::default(),
        if_not_exists: false,
    }
}

fn column(name: &str, data_type: SqlType) -> Column {
    Column { name: name.into(), data_type, nullable: true, comment: None }
}

impl World {
    async fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut registry = Registry::empty(StoreId(uuid::Uuid::new_v4()));
        let key = |name: &str, data_type| KeyColumn { name: name.into(), data_type };
        let changes = [
            Change::CreateEntity {
                name: "airport".into(),
                keys: vec![key("origin", SqlType::Text)],
                comment: None,
                if_not_exists: false,
            },
            Change::CreateEntity {
                name: "pair".into(),
                keys: vec![key("a", SqlType::BigInt), key("b", SqlType::Text)],
                comment: None,
                if_not_exists: false,
            },
            view_change(
                "weather",
                "airport",
                Some(3 * HOUR),
                vec![feature("temp", SqlType::DoublePrecision), feature("note", SqlType::Text)],
            ),
            view_change("traffic", "airport", None, vec![feature("planes", SqlType::BigInt)]),
            view_change("pairs", "pair", None, vec![feature("x", SqlType::Integer)]),
            Change::CreateTable {
                name: "labels".into(),
                columns: vec![
                    column("id", SqlType::BigInt),
                    column("origin", SqlType::Text),
                    column("ts", SqlType::TimestampTz),
                    column("late", SqlType::Boolean),
                ],
                source: TableSource::Stored,
                if_not_exists: false,
            },
        ];
        for change in changes {
            registry = registry.apply(&change).unwrap();
        }
        let start = parser_instant("2013-02-09 12:00:00Z");
        let clock = Arc::new(SetClock::new(CommitTime::from_micros(start)));
        let offline: crate::offline::SharedOfflineStore = Arc::new(LanceStore::new(root.path().to_str().unwrap()).unwrap());
        let online = Arc::new(OnlineViews::new(Arc::new(MemoryStore::new())));
        let ingest = Ingest::new(Arc::clone(&offline), Arc::clone(&online), Arc::clone(&clock) as _);
        for view in registry.views.values() {
            ingest.create(&Target::View(Arc::clone(view))).await.unwrap();
        }
        for table in registry.tables.values() {
            ingest.create(&Target::Table(Arc::clone(table))).await.unwrap();
        }
        ingest.catch_up(&registry).await.unwrap();
        let planner = Planner::new(&PlannerConfig { memory_bytes_max: 1 << 30, partitions: 2 }).unwrap();
        Self {
            planner,
            registry: Arc::new(registry),
            stores: Stores { offline, online, metrics: Arc::new(Metrics::default()) },
            ingest,
            clock,
            route: RouteSetting::Auto,
            time_zone: "UTC".into(),
            held: Arc::new(HeldRows::new()),
            _root: root,
        }
    }

    fn context(&self) -> Arc<StatementContext> {
        Arc::new(StatementContext {
            registry: Arc::clone(&self.registry),
            now: self.clock.now(),
            as_of: None,
            system_time: None,
            time_zone: self.time_zone.clone(),
            route: self.route,
            online_fallback: OnlineFallback::Error,
            held: Arc::clone(&self.held),
            pinned: false,
            pins: Arc::new(VersionPins::default()),
            stores: self.stores.clone(),
        })
    }

    fn surface(&self, context: &Arc<StatementContext>) -> Surface {
        let public = Arc::new(MemorySchemaProvider::new());
        let old = Arc::new(MemorySchemaProvider::new());
        for view in self.registry.views.values() {
            public.register_table(view.name.clone(), feature_view(context, view)).unwrap();
            old.register_table(view.name.clone(), history(context, view)).unwrap();
        }
        for table in self.registry.tables.values() {
            public.register_table(table.name.clone(), stored_table(context, table)).unwrap();
        }
        let catalog = Arc::new(MemoryCatalogProvider::new());
        catalog.register_schema("public", public).unwrap();
        catalog.register_schema("history", old).unwrap();
        let catalogs = MemoryCatalogProviderList::new();
        catalogs.register_catalog("db".into(), catalog);
        Surface { catalogs: Arc::new(catalogs), functions: Vec::new() }
    }

    async fn try_rows(&self, sql: &str, parameters: &[ScalarValue]) -> Result<Rows> {
        let context = self.context();
        let surface = self.surface(&context);
        let query = parser::parse_query(sql)?;
        let plan = self.planner.plan(&context, &surface, &query, &[]).await?;
        self.planner.run(&context, &surface, &plan, parameters).await
    }

    async fn try_query(&self, sql: &str, parameters: &[ScalarValue]) -> Result<Vec<String>> {
        let rows = self.try_rows(sql, parameters).await?;
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await?;
        Ok(lines(&batches))
    }

    /// Rows as text, values between bars.
    async fn query(&self, sql: &str) -> Vec<String> {
        self.try_query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error} {:?}", error.hint_text()))
    }

    /// The same, in some order of its own.
    async fn sorted(&self, sql: &str) -> Vec<String> {
        let mut rows = self.query(sql).await;
        rows.sort();
        rows
    }

    async fn error(&self, sql: &str) -> Error {
        match self.try_query(sql, &[]).await {
            Ok(rows) => panic!("{sql} gave {rows:?}"),
            Err(error) => error,
        }
    }

    async fn explain(&self, sql: &str) -> String {
        let context = self.context();
        let surface = self.surface(&context);
        let query = parser::parse_query(sql).unwrap();
        let plan = self.planner.plan(&context, &surface, &query, &[]).await.unwrap();
        let rows = self.planner.explain(&context, &surface, &plan, &[], false, false).await.unwrap();
        lines(&rows.stream.try_collect::<Vec<_>>().await.unwrap()).join("\n")
    }

    /// Writes the rows of a query into a relation.
    async fn insert(&self, relation: &str, sql: &str) {
        let rows = self.try_rows(sql, &[]).await.unwrap();
        let batches: Vec<RecordBatch> = rows.stream.try_collect().await.unwrap();
        let target = match (self.registry.views.get(relation), self.registry.tables.get(relation)) {
            (Some(view), _) => Target::View(Arc::clone(view)),
            (None, Some(table)) => Target::Table(Arc::clone(table)),
            (None, None) => panic!("no relation {relation}"),
        };
        let intake = Intake { now: self.clock.now(), time_zone: "UTC".into(), first_row: 0 };
        let valid = batches.iter().map(|batch| self.ingest.validate(&target, batch, &intake).unwrap());
        self.ingest.write(valid.collect()).await.unwrap();
    }

    async fn with_rows() -> Self {
        let world = Self::new().await;
        world
            .insert(
                "weather",
                "SELECT * FROM (VALUES ('JFK', TIMESTAMPTZ '2013-02-09 08:00Z', 1.0, 'old'),
                    ('JFK', TIMESTAMPTZ '2013-02-09 10:00Z', 2.0, 'wrong'),
                    ('JFK', TIMESTAMPTZ '2013-02-09 13:00Z', 4.0, 'future'),
                    ('LGA', TIMESTAMPTZ '2013-02-09 09:00Z', 5.0, NULL),
                    ('EWR', TIMESTAMPTZ '2013-02-09 08:59:59.999999Z', 6.0, 'stale')) t(origin, event_time, temp, note)",
            )
            .await;
        world
            .insert("weather", "SELECT 'JFK' origin, TIMESTAMPTZ '2013-02-09 10:00Z' event_time, 3.0 temp, 'corrected' note")
            .await;
        world
            .insert(
                "labels",
                "SELECT * FROM (VALUES (1, 'JFK', TIMESTAMPTZ '2013-02-09 09:30Z', true),
                    (2, 'JFK', TIMESTAMPTZ '2013-02-09 10:00Z', false),
                    (3, 'JFK', TIMESTAMPTZ '2013-02-09 07:00Z', false),
                    (4, 'LGA', TIMESTAMPTZ '2013-02-09 12:00Z', true),
                    (5, 'LGA', TIMESTAMPTZ '2013-02-09 12:00:00.000001Z', true),
                    (6, NULL, TIMESTAMPTZ '2013-02-09 12:00Z', true),
                    (7, 'JFK', NULL, true),
                    (8, 'BOS', TIMESTAMPTZ '2013-02-09 12:00Z', true)) t(id, origin, ts, late)",
            )
            .await;
        world
    }
}

fn parser_instant(text: &str) -> i64 {
    let value = super::literals::read(text, &SqlType::TimestampTz, &SqlType::TimestampTz.arrow(), "UTC").unwrap();
    match value {
        ScalarValue::TimestampMicrosecond(Some(micros), _) => micros,
        other => panic!("{other}"),
    }
}

fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|column| column.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_queries_run() {
    let world = World::new().await;
    assert_eq!(world.query("SELECT 1 + 1").await, ["2"]);
    assert_eq!(world.query("VALUES (1, 'a'), (2, NULL)").await, ["1|a", "2|NULL"]);
    assert_eq!(world.query("WITH c AS (SELECT 1 AS x) SELECT x, x + 1 FROM c").await, ["1|2"]);
    assert_eq!(world.query("SELECT count(*) FROM labels").await, ["0"]);
    assert_eq!(world.query("SELECT now() = TIMESTAMPTZ '2013-02-09 12:00Z', 1, 1").await, ["true|1|1"]);
    assert_eq!(world.query("SELECT TIMESTAMP '2013-02-09 12:00:00.123456'").await, ["2013-02-09T12:00:00.123456"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_have_postgresql_s_names() {
    let world = World::new().await;
    let rows = world.try_rows("SELECT count(*), 1, id, l.*, id::text, now(), 'x'::int4 + 1 FROM labels l GROUP BY ALL", &[]);
    drop(rows.await);
    let rows = world.try_rows("SELECT max(id), 1 + 1, max(id) AS \"Top\", 1, sum(id)::int8 FROM labels", &[]).await.unwrap();
    let names: Vec<_> = rows.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["max", "?column?", "Top", "?column?", "sum"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_get_their_types() {
    let world = World::with_rows().await;
    let context = world.context();
    let surface = world.surface(&context);
    let types = async |sql: &str| {
        let query = parser::parse_query(sql).unwrap();
        world.planner.plan(&context, &surface, &query, &[]).await.unwrap().parameters
    };
    assert_eq!(types("SELECT $1").await, [SqlType::Text]);
    assert_eq!(
        types("SELECT $1::int, $2 FROM labels WHERE id = $2 LIMIT $3").await,
        [SqlType::Integer, SqlType::BigInt, SqlType::BigInt]
    );
    assert_eq!(types("SELECT temp FROM weather WHERE origin = ANY($1)").await, [SqlType::Array(Box::new(SqlType::Text))]);
    assert_eq!(types("SELECT temp FROM weather AS OF $1 WHERE origin = $2").await, [SqlType::TimestampTz, SqlType::Text]);
    assert_eq!(types("SELECT id FROM labels WHERE id = $1 OR $1 IS NULL").await, [SqlType::BigInt]);

    let run = async |sql: &str, values: &[ScalarValue]| world.try_query(sql, values).await.unwrap();
    assert_eq!(run("SELECT $1", &[ScalarValue::from("x")]).await, ["x"]);
    assert_eq!(
        run(
            "SELECT id FROM labels WHERE id > $1 ORDER BY id LIMIT $2",
            &[ScalarValue::Int64(Some(3)), ScalarValue::Int64(Some(2))]
        )
        .await,
        ["4", "5"]
    );
    let list = ScalarValue::List(ScalarValue::new_list_nullable(
        &[ScalarValue::from("JFK"), ScalarValue::from("ORD"), ScalarValue::Utf8(None)],
        &arrow::datatypes::DataType::Utf8,
    ));
    assert_eq!(run("SELECT temp FROM weather WHERE origin = ANY($1)", &[list]).await, ["3.0"]);
    let instant = ScalarValue::TimestampMicrosecond(Some(parser_instant("2013-02-09 09:00Z")), Some("UTC".into()));
    assert_eq!(run("SELECT temp FROM weather AS OF $1 WHERE origin = $2", &[instant, "JFK".into()]).await, ["1.0"]);
    let null = ScalarValue::TimestampMicrosecond(None, Some("UTC".into()));
    assert!(run("SELECT temp FROM weather AS OF $1", &[null]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_routes_give_the_same_rows() {
    let mut world = World::with_rows().await;
    let by_key = "SELECT * FROM weather WHERE origin IN ('JFK', 'LGA', 'EWR', 'JFK')";
    let explained = world.explain(by_key).await;
    assert!(explained.contains("OnlineLookupExec: view=weather, keys=3"), "{explained}");
    assert!(!explained.contains("FilterExec"), "{explained}");
    let online = world.sorted(by_key).await;
    assert_eq!(online, ["JFK|2013-02-09T10:00:00Z|3.0|corrected", "LGA|2013-02-09T09:00:00Z|5.0|NULL"]);
    world.route = RouteSetting::Offline;
    let explained = world.explain(by_key).await;
    assert!(explained.contains("SnapshotExec: view=weather"), "{explained}");
    assert!(explained.contains("keys=3"), "{explained}");
    assert_eq!(world.sorted(by_key).await, online);
    assert_eq!(world.sorted("SELECT * FROM weather").await, online);
    world.route = RouteSetting::Online;
    assert_eq!(world.sorted(by_key).await, online);
    let error = world.error("SELECT * FROM weather").await;
    assert_eq!(error.code(), SqlState::ObjectNotInPrerequisiteState);
    world.route = RouteSetting::Auto;
    // A filter on a feature does not revive an older row.
    assert!(world.query("SELECT * FROM weather WHERE origin = 'JFK' AND note = 'old'").await.is_empty());
    assert!(world.query("SELECT * FROM weather WHERE note = 'wrong'").await.is_empty());
    assert_eq!(world.query("SELECT count(*) FROM weather WHERE origin = 'JFK'").await, ["1"]);
    assert!(world.query("SELECT * FROM weather WHERE origin = 'JFK' AND origin = 'LGA'").await.is_empty());
    // The future row comes when its time does, and both routes say so.
    world.clock.set(CommitTime::from_micros(parser_instant("2013-02-09 13:00Z"))).unwrap();
    assert_eq!(world.query("SELECT temp FROM weather WHERE origin = 'JFK'").await, ["4.0"]);
    world.route = RouteSetting::Offline;
    assert_eq!(world.query("SELECT temp FROM weather WHERE origin = 'JFK'").await, ["4.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn composite_keys_are_looked_up() {
    let world = World::new().await;
    world.insert("pairs", "SELECT * FROM (VALUES (1, 'ab', 10), (1, 'b', 20), (2, 'ab', 30)) t(a, b, x)").await;
    let query = "SELECT x FROM pairs WHERE (a = 1 AND b = 'ab') OR (a = 2 AND b = 'ab') OR (a = 2 AND b = 'b')";
    assert!(world.explain(query).await.contains("OnlineLookupExec: view=pairs, keys=3"), "{}", world.explain(query).await);
    assert_eq!(world.sorted(query).await, ["10", "30"]);
    let query = "SELECT x FROM pairs WHERE a = 1 AND b IN ('ab', 'b', 'c')";
    assert!(world.explain(query).await.contains("OnlineLookupExec: view=pairs, keys=3"));
    assert_eq!(world.sorted(query).await, ["10", "20"]);
    assert_eq!(world.sorted("SELECT x FROM pairs WHERE a = 1").await, ["10", "20"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_shows_what_was_true_then() {
    let mut world = World::with_rows().await;
    assert_eq!(world.query("SELECT temp FROM weather AS OF TIMESTAMP '2013-02-09 09:00Z' WHERE origin = 'JFK'").await, ["1.0"]);
    assert_eq!(
        world.sorted("SELECT w.origin, w.temp FROM weather AS OF '2013-02-09 11:00Z' AS w").await,
        ["EWR|6.0", "JFK|3.0", "LGA|5.0"]
    );
    // Both ends of the TTL are inside.
    assert_eq!(world.query("SELECT count(*) FROM weather AS OF '2013-02-09 13:00Z'").await, ["1"]);
    assert_eq!(world.query("SELECT count(*) FROM weather AS OF '2013-02-09 16:00Z'").await, ["1"]);
    assert_eq!(world.query("SELECT count(*) FROM weather AS OF '2013-02-09 16:00:00.000001Z'").await, ["0"]);
    assert_eq!(world.query("SELECT count(*) FROM weather AS OF now() - INTERVAL '2 hours'").await, ["3"]);
    assert_eq!(world.query("SELECT count(*) FROM weather AS OF NULL").await, ["0"]);
    let plan = world.explain("SELECT temp FROM weather AS OF '2013-02-09 09:00Z' WHERE origin = 'JFK'").await;
    assert!(plan.contains("SnapshotExec: view=weather, as_of=2013-02-09 09:00:00.000000Z, version="), "{plan}");
    // Two instants of one view in one statement.
    let query =
        "SELECT a.temp, b.temp FROM weather AS OF '2013-02-09 08:00Z' a JOIN weather AS OF '2013-02-09 10:00Z' b USING (origin)";
    assert_eq!(world.query(query).await, ["1.0|3.0"]);
    world.time_zone = "America/New_York".into();
    assert_eq!(world.query("SELECT temp FROM weather AS OF '2013-02-09 04:00' WHERE origin = 'JFK'").await, ["1.0"]);
    assert_eq!(world.query("SELECT temp FROM weather AS OF TIMESTAMP '2013-02-09 04:00' WHERE origin = 'JFK'").await, ["1.0"]);
    assert_eq!(world.query("SELECT temp FROM weather WHERE origin = 'JFK' AND event_time = '2013-02-09 05:00'").await, ["3.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_as_of_join_answers_each_row_at_its_own_instant() {
    let world = World::with_rows().await;
    let rows = ["1|1.0", "2|3.0", "3|NULL", "4|5.0", "5|NULL", "6|NULL", "7|NULL", "8|NULL"];
    let on = "SELECT l.id, f.temp FROM labels l LEFT JOIN weather AS OF l.ts AS f ON f.origin = l.origin";
    assert!(world.explain(on).await.contains("AsOfJoinExec: views=[weather]"), "{}", world.explain(on).await);
    assert_eq!(world.sorted(on).await, rows);
    let using = "SELECT id, temp FROM labels LEFT JOIN weather AS OF ts AS f USING (origin)";
    assert_eq!(world.sorted(using).await, rows);
    let inner = "SELECT l.id, f.temp FROM labels l JOIN weather AS OF l.ts AS f ON l.origin = f.origin";
    assert_eq!(world.sorted(inner).await, ["1|1.0", "2|3.0", "4|5.0"]);
    assert_eq!(world.query(&format!("SELECT count(*), count(temp), sum(temp) FROM ({on}) x")).await, ["8|3|9.0"]);
    assert_eq!(world.query(&format!("SELECT count(*) FROM ({on}) x")).await, ["8"]);
    let star = world.sorted("SELECT * FROM labels JOIN weather AS OF ts AS f USING (origin) WHERE id = 2").await;
    assert_eq!(star, ["JFK|2|2013-02-09T10:00:00Z|false|2013-02-09T10:00:00Z|3.0|corrected"]);
    let merged = "SELECT * FROM labels LEFT JOIN weather AS OF ts AS f USING (origin) WHERE id = 8";
    assert_eq!(world.query(merged).await, ["BOS|8|2013-02-09T12:00:00Z|true|NULL|NULL|NULL"]);
    let chain = "SELECT * FROM labels LEFT JOIN weather AS OF ts AS f USING (origin) LEFT JOIN pairs AS OF ts AS a ON a.a = id AND a.b = labels.origin
        LEFT JOIN traffic AS OF f.event_time AS t USING (origin) WHERE id = 8";
    assert_eq!(world.query(chain).await, ["BOS|8|2013-02-09T12:00:00Z|true|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL|NULL"]);
    let both = "SELECT origin, f.origin, labels.origin FROM labels LEFT JOIN weather AS OF ts AS f USING (origin) WHERE id = 8";
    assert_eq!(world.query(both).await, ["BOS|NULL|BOS"]);
    // A condition in ON is judged on the chosen row, and the left row stays; WHERE is judged after.
    let condition = "SELECT l.id, f.temp FROM labels l LEFT JOIN weather AS OF l.ts AS f ON f.origin = l.origin AND f.temp > 2 AND l.late = false";
    assert_eq!(world.sorted(condition).await, ["1|NULL", "2|3.0", "3|NULL", "4|NULL", "5|NULL", "6|NULL", "7|NULL", "8|NULL"]);
    let filtered =
        "SELECT l.id FROM labels l LEFT JOIN weather AS OF l.ts AS f ON f.origin = l.origin WHERE f.note = 'old' AND l.late";
    assert_eq!(world.sorted(filtered).await, ["1"]);
    assert!(
        world
            .sorted("SELECT l.id FROM labels l JOIN weather AS OF l.ts f ON f.origin = l.origin WHERE f.note = 'wrong'")
            .await
            .is_empty()
    );
    // Instants may be expressions.
    let later = "SELECT l.id, f.temp FROM labels l JOIN weather AS OF l.ts + INTERVAL '1 hour' AS f ON f.origin = l.origin";
    assert_eq!(world.sorted(later).await, ["1|3.0", "2|3.0", "3|1.0"]);
    let renamed = "SELECT l.id, f.t FROM labels l JOIN weather AS OF l.ts AS f(o, e, t, n) ON f.o = l.origin WHERE l.id = 2";
    assert_eq!(world.sorted(renamed).await, ["2|3.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_joins_all_views_of_a_chain() {
    let world = World::with_rows().await;
    world
        .insert(
            "traffic",
            "SELECT * FROM (VALUES ('JFK', TIMESTAMPTZ '2013-02-09 09:45Z', 7), ('LGA', TIMESTAMPTZ '2013-01-01 00:00Z', 8)) t(origin, event_time, planes)",
        )
        .await;
    let chain = "SELECT l.id, w.temp, t.planes FROM labels l
        LEFT JOIN weather AS OF l.ts AS w ON w.origin = l.origin
        LEFT JOIN traffic AS OF l.ts AS t ON t.origin = l.origin";
    let plan = world.explain(chain).await;
    assert!(plan.contains("AsOfJoinExec: views=[weather, traffic]"), "{plan}");
    let rows = ["1|1.0|NULL", "2|3.0|7", "3|NULL|NULL", "4|5.0|8", "5|NULL|8", "6|NULL|NULL", "7|NULL|NULL", "8|NULL|NULL"];
    assert_eq!(world.sorted(chain).await, rows);
    let using = "SELECT id, temp, planes FROM labels LEFT JOIN weather AS OF ts AS w USING (origin) LEFT JOIN traffic AS OF ts AS t USING (origin)";
    let plan = world.explain(using).await;
    assert!(plan.contains("AsOfJoinExec: views=[weather, traffic]"), "{plan}");
    assert_eq!(world.sorted(using).await, rows);
    // The second join's instant comes from the first one's row.
    let nested = "SELECT l.id, t.planes FROM labels l JOIN weather AS OF l.ts AS w ON w.origin = l.origin
        LEFT JOIN traffic AS OF w.event_time AS t ON t.origin = w.origin";
    assert_eq!(world.sorted(nested).await, ["1|NULL", "2|7", "4|8"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn time_clauses_elsewhere_are_refused() {
    let world = World::with_rows().await;
    let cases = [
        "SELECT * FROM labels AS OF now()",
        "WITH weather AS (SELECT 1 AS x) SELECT * FROM weather AS OF now()",
        "SELECT * FROM weather AS OF l.ts, labels l",
        "SELECT * FROM labels l, weather AS OF l.ts AS f",
        "SELECT * FROM labels l CROSS JOIN weather AS OF l.ts AS f",
        "SELECT * FROM labels l RIGHT JOIN weather AS OF l.ts AS f ON f.origin = l.origin",
        "SELECT * FROM labels l FULL JOIN weather AS OF l.ts AS f ON f.origin = l.origin",
        "SELECT * FROM labels l LEFT JOIN weather AS OF l.ts AS f ON f.temp = 1",
        "SELECT EXISTS (SELECT 1 FROM weather AS OF l.ts AS f WHERE f.origin = l.origin) FROM labels l",
        "SELECT * FROM history.weather AS OF now()",
        "SELECT * FROM weather AS OF (SELECT max(ts) FROM labels)",
    ];
    for sql in cases {
        let error = world.error(sql).await;
        assert_eq!(error.code(), SqlState::FeatureNotSupported, "{sql}: {error}");
    }
    let inside = "WITH old AS (SELECT * FROM weather AS OF '2013-02-09 09:00Z') SELECT temp FROM old WHERE origin = 'JFK'";
    assert_eq!(world.query(inside).await, ["1.0"]);
    let same_name =
        "WITH weather AS (SELECT * FROM weather AS OF '2013-02-09 09:00Z') SELECT temp FROM weather WHERE origin = 'JFK'";
    assert_eq!(world.query(same_name).await, ["1.0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_postgresql_s() {
    let world = World::with_rows().await;
    let cases = [
        ("SELECT * FROM nothing", SqlState::UndefinedTable, "relation \"nothing\" does not exist"),
        ("SELECT nothing FROM labels", SqlState::UndefinedColumn, "column \"nothing\" does not exist"),
        ("SELECT l.nothing FROM labels l", SqlState::UndefinedColumn, "column l.nothing does not exist"),
        ("SELECT x.id FROM labels l", SqlState::UndefinedTable, "missing FROM-clause entry for table \"x\""),
        ("SELECT 1 / 0", SqlState::DivisionByZero, "division by zero"),
        ("SELECT id / 0 FROM labels", SqlState::DivisionByZero, "division by zero"),
        ("SELECT 'x'::int", SqlState::InvalidTextRepresentation, "invalid input syntax for type integer: \"x\""),
        ("SELECT nothing(1)", SqlState::UndefinedFunction, "function nothing does not exist"),
        (
            "SELECT id, count(*) FROM labels",
            SqlState::GroupingError,
            "column \"labels.id\" must appear in the GROUP BY clause or be used in an aggregate function",
        ),
        ("SELECT x::money FROM (VALUES (1)) t(x)", SqlState::UndefinedObject, "type \"money\" does not exist"),
        ("SELECT $0", SqlState::UndefinedParameter, "there is no parameter $0"),
        (
            "SELECT * FROM labels a JOIN labels b ON true WHERE id = 1",
            SqlState::AmbiguousColumn,
            "column reference \"id\" is ambiguous",
        ),
        (
            "SELECT * FROM weather AS OF 5",
            SqlState::DatatypeMismatch,
            "argument of AS OF must be type timestamp with time zone, not type bigint",
        ),
    ];
    for (sql, code, message) in cases {
        let error = world.error(sql).await;
        assert_eq!((error.code(), error.message()), (code, message), "{sql}: {error:?}");
    }
    assert_eq!(world.error("SELECT nothing FROM labels").await.position(), Some(8));
    assert_eq!(world.error("SELECT 1 + true").await.code(), SqlState::UndefinedFunction);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_shows_every_row() {
    let world = World::with_rows().await;
    assert_eq!(world.query("SELECT count(*) FROM history.weather").await, ["6"]);
    let query = "SELECT temp FROM history.weather WHERE origin = 'JFK' AND event_time >= '2013-02-09 10:00Z' AND event_time < '2013-02-09 13:00Z' ORDER BY created_time";
    assert_eq!(world.query(query).await, ["2.0", "3.0"]);
    assert!(world.explain(query).await.contains("DatasetScanExec: history.weather, version="), "{}", world.explain(query).await);
    assert_eq!(world.query("SELECT count(*) FROM history.weather WHERE created_time > now()").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_stops_the_work() {
    let world = World::new().await;
    let rows =
        world.try_rows("SELECT count(*) FROM generate_series(1, 100000000) a, generate_series(1, 1000) b", &[]).await.unwrap();
    let mut stream = rows.stream;
    let first = tokio::time::timeout(std::time::Duration::from_millis(200), stream.try_next()).await;
    assert!(first.is_err());
    drop(stream);
}

//! Views and services joined to the rows of `unnest` and `VALUES`, on both roads.

use super::{Asked, Key, Maker, Value, View, basket, cases, fit, items, pairs, prepared_gateway, roads, scored, visits};
use crate::harness::Online;
use crate::oracle::Chance;
use crate::wire::Message;

/// Fails where the roads did not say the same in the same order: rows stand as they do on the left.
fn assert_same_order(answers: &[Vec<Message>; 2], asked: &impl std::fmt::Debug) {
    let [short, planned] = answers;
    if short != planned {
        panic!("short:   {:#?}\nplanned: {:#?}\n{asked:#?}", super::shown(short), super::shown(planned));
    }
}

impl Maker<'_> {
    /// A row of values, some of them NULL, some of no entity.
    fn row(&mut self, keys: &[Key]) -> Vec<Option<Value>> {
        let value = |maker: &mut Self, key: &Key| {
            let right: Vec<Value> = key.values.iter().filter(|value| value.binary.is_some()).cloned().collect();
            (!maker.chance.one_in(8)).then(|| maker.one_of(&right).clone())
        };
        keys.iter().map(|key| value(self, key)).collect()
    }

    /// An array as a parameter, in text or binary, or written out.
    fn array(&mut self, key: &Key, values: &[Option<Value>]) -> String {
        let element = match key.oid {
            23 => "integer",
            20 => "bigint",
            _ => "text",
        };
        if self.chance.one_in(5) {
            let written = values.iter().map(|value| match value {
                Some(value) => format!("'{}'", value.text.replace('\'', "''")),
                None => "NULL".into(),
            });
            return format!("ARRAY[{}]::{element}[]", written.collect::<Vec<_>>().join(", "));
        }
        let escaped = |value: &Option<Value>| match value {
            Some(value) => format!("\"{}\"", value.text.replace('\\', "\\\\").replace('"', "\\\"")),
            None => "NULL".into(),
        };
        let text = format!("{{{}}}", values.iter().map(escaped).collect::<Vec<_>>().join(","));
        let mut binary: Vec<u8> = Vec::new();
        let dimensions = i32::from(!values.is_empty());
        [dimensions, 1].iter().for_each(|number| binary.extend(number.to_be_bytes()));
        binary.extend(key.oid.to_be_bytes());
        if !values.is_empty() {
            [i32::try_from(values.len()).unwrap(), 1].iter().for_each(|number| binary.extend(number.to_be_bytes()));
        }
        for value in values {
            match value.as_ref().and_then(|value| value.binary.as_ref()) {
                Some(bytes) => {
                    binary.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
                    binary.extend(bytes);
                }
                None => binary.extend((-1_i32).to_be_bytes()),
            }
        }
        let is_null = self.chance.one_in(20);
        if self.chance.one_in(2) {
            return self.typed(key.array_oid, (!is_null).then_some(binary));
        }
        self.asked.types.push(0);
        self.asked.formats.push(0);
        self.asked.values.push((!is_null).then(|| text.into_bytes()));
        format!("${}::{element}[]", self.asked.types.len())
    }

    /// The left side, named `q`, with the names of the keys for its columns.
    fn left_side(&mut self, keys: &[Key]) -> String {
        let names = keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ");
        let rows: Vec<Vec<Option<Value>>> = (0..self.chance.below(7)).map(|_| self.row(keys)).collect();
        if self.chance.one_in(2) || rows.is_empty() {
            let arrays: Vec<String> = keys
                .iter()
                .enumerate()
                .map(|(place, key)| {
                    let mut values: Vec<Option<Value>> = rows.iter().map(|row| row[place].clone()).collect();
                    if self.chance.one_in(6) {
                        values.pop();
                    }
                    self.array(key, &values)
                })
                .collect();
            return format!("unnest({}) AS q({names})", arrays.join(", "));
        }
        let row = |maker: &mut Self, row: &Vec<Option<Value>>| {
            let cell = |maker: &mut Self, key: &Key, value: &Option<Value>| {
                let name = match key.oid {
                    23 => "integer",
                    20 => "bigint",
                    _ => "text",
                };
                match value {
                    Some(value) if maker.chance.one_in(2) => format!("'{}'::{name}", value.text.replace('\'', "''")),
                    Some(value) => maker.typed(key.oid, value.binary.clone()),
                    None => format!("NULL::{name}"),
                }
            };
            let cells: Vec<String> = keys.iter().zip(row).map(|(key, value)| cell(maker, key, value)).collect();
            format!("({})", cells.join(", "))
        };
        let rows: Vec<String> = rows.iter().map(|values| row(self, values)).collect();
        format!("(VALUES {}) AS q({names})", rows.join(", "))
    }

    fn joined(mut self, view: &View) -> Asked {
        self.asked = Asked { is_lookup: true, rows_max: vec![0], ..Asked::default() };
        let left = self.left_side(&view.keys);
        let names: Vec<&str> = view.keys.iter().map(|key| key.name).collect();
        let kind = *self.one_of(&["JOIN", "LEFT JOIN"]);
        let on = if self.chance.one_in(2) {
            format!("USING ({})", names.join(", "))
        } else {
            let equalities: Vec<String> = names.iter().map(|name| format!("v.{name} = q.{name}")).collect();
            format!("ON {}", equalities.join(" AND "))
        };
        let mut sql = format!("FROM {left} {kind} {} v {on}", view.name);
        let mut columns: Vec<String> = names.iter().map(|name| format!("q.{name}")).collect();
        for _ in 0..1 + self.chance.below(4) {
            columns.push(format!("v.{}", self.one_of(view.columns)));
        }
        if let Some(other) = view.other.filter(|_| self.chance.one_in(2)) {
            let kind = *self.one_of(&["JOIN", "LEFT JOIN"]);
            let equalities: Vec<String> = names.iter().map(|name| format!("o.{name} = q.{name}")).collect();
            sql.push_str(&format!(" {kind} {other} o ON {}", equalities.join(" AND ")));
            columns.push("o.event_time".into());
            columns.push(format!("coalesce(o.event_time, v.event_time) IS NULL AS \"nothing {}\"", columns.len()));
        }
        self.asked.sql = format!("SELECT {} {sql}", columns.join(", "));
        if self.chance.one_in(4) {
            let limit = self.count(&["1", "2", "100", "NULL"]);
            self.asked.sql.push_str(&format!(" LIMIT {limit}"));
        }
        self.asked.result_formats = vec![i16::from(self.chance.one_in(2))];
        if self.chance.one_in(5) {
            self.asked.rows_max = vec![1, 2, 0];
        }
        self.asked
    }
}

#[tokio::test]
async fn left_sides_say_the_same_on_both_roads() {
    for (online, seed) in [(Online::Embedded, 11), (Online::Redis, 12)] {
        let gateway = prepared_gateway(online).await;
        let [mut short, mut planned] = roads(&gateway);
        let views = [items(), pairs(), basket(), visits(), scored(), fit()];
        let mut chance = Chance(seed);
        let (mut took, mut answered) = (0, 0);
        for case in 0..cases(150) {
            let asked = Maker { chance: &mut chance, asked: Asked::default() }.joined(&views[case % views.len()]);
            let answers = [&mut short, &mut planned].map(|raw| asked.ask(raw));
            assert_same_order(&answers, &(case, &asked));
            let is_error = answers[0].iter().any(|message| message.0 == b'E');
            answered += usize::from(!is_error);
            let is_short = asked.plan(&mut short).contains("road=short");
            assert!(is_short || is_error || !asked.is_lookup, "case {case} is no lookup: {asked:?}\n{}", asked.plan(&mut short));
            took += usize::from(is_short);
        }
        assert!(took * 2 > answered && answered * 2 > cases(150), "{took} of {answered} took the short road");
    }
}

/// Joins with a left side, and whether the short road makes them.
const LEFT_SIDES: &[(&str, bool)] = &[
    ("SELECT q.k, v.te FROM unnest(ARRAY[1, 2, 2, 99, NULL]) AS q(k) LEFT JOIN items v USING (k)", true),
    ("SELECT q.k, v.te FROM unnest(ARRAY[1, 2, 2, 99, NULL]) AS q(k) JOIN items v ON v.k = q.k", true),
    ("SELECT q.k, v.* FROM unnest(ARRAY[1, 9999999999]) AS q(k) LEFT JOIN items v USING (k)", true),
    ("SELECT q.a, q.b, v.x FROM unnest(ARRAY[1, 1, 2, 3], ARRAY['x', 'y', 'x']) AS q(a, b) LEFT JOIN pairs v USING (a, b)", true),
    (
        "SELECT q.a, q.b, v.* FROM (VALUES (1, 'x'), (2, 'x'), (NULL, 'x'), (9, 'q')) AS q(a, b) LEFT JOIN pairs v USING (a, b)",
        true,
    ),
    (
        "SELECT q.k, v.te, o.price, v.k, o.k FROM (VALUES (1), (2), (7), (1)) AS q(k) LEFT JOIN items v ON v.k = q.k \
         LEFT JOIN prices o ON o.k = q.k",
        true,
    ),
    ("SELECT q.k, o.price FROM (VALUES (1), (5)) AS q(k) JOIN items v ON v.k = q.k LEFT JOIN prices o ON o.k = v.k", true),
    ("SELECT q.k, s.* FROM (VALUES (1), (2), (7), (99)) AS q(k) LEFT JOIN scored s ON s.k = q.k", true),
    ("SELECT q.k, s.price FROM (VALUES (1), (2), (7), (99)) AS q(k) JOIN scored s ON s.k = q.k", true),
    ("SELECT s.* FROM unnest(ARRAY[1, 8], ARRAY['x', 'x'], ARRAY[5, 8]) AS q(a, b, k) LEFT JOIN fit s USING (a, b, k)", true),
    ("SELECT q.k * 2, v.dp + q.k FROM (VALUES (1), (2)) AS q(k) LEFT JOIN items v ON v.k = q.k LIMIT 1", true),
    (
        "SELECT q.k, v.p FROM (VALUES (1), (99)) AS q(k) LEFT JOIN (SELECT k, coalesce(price, 0) AS p FROM prices) v ON v.k = q.k",
        true,
    ),
    ("SELECT q.k, q.n, v.te FROM (VALUES (1, 'one'), (2, NULL)) AS q(k, n) LEFT JOIN items v ON v.k = q.k", true),
    // Not the whole key, a condition, another order.
    ("SELECT q.a, v.x FROM (VALUES (1), (2)) AS q(a) JOIN pairs v ON v.a = q.a", false),
    ("SELECT q.k, v.te FROM (VALUES (1), (2)) AS q(k) JOIN items v ON v.k = q.k WHERE v.dp > 0", false),
    ("SELECT q.k, v.te FROM (VALUES (1), (2)) AS q(k) JOIN items v ON v.k = q.k ORDER BY q.k DESC", false),
    ("SELECT q.k, v.te FROM (VALUES (1), (2)) AS q(k) FULL JOIN items v ON v.k = q.k", false),
    ("SELECT q.k, o.price FROM (VALUES (1), (5)) AS q(k) LEFT JOIN items v ON v.k = q.k JOIN prices o ON o.k = v.k", false),
];

#[tokio::test]
async fn left_sides_of_the_short_road_name_whole_keys() {
    let gateway = prepared_gateway(Online::Embedded).await;
    let [mut short, mut planned] = roads(&gateway);
    let mut faults = Vec::new();
    for (sql, is_short) in LEFT_SIDES {
        let answers = [&mut short, &mut planned].map(|raw| raw.query(sql.as_bytes()));
        match is_short {
            true => assert_same_order(&answers, sql),
            false => super::assert_same(&answers, sql),
        }
        let is_error = answers[0].iter().any(|message| message.0 == b'E');
        let plan = super::shown(&short.query(format!("EXPLAIN {sql}").as_bytes())).join("\n");
        if is_error || plan.contains("road=short") != *is_short {
            faults.push(format!("{sql}\n{plan}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

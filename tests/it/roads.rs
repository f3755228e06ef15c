//! The short road against the planner's: random lookups are sent, byte for byte the same, over two connections of which one has
//! the short road closed, and every message that comes back must be the same.

mod calls;
mod computed;
mod left;

use crate::harness::{self, Gateway, Online, Setup};
use crate::oracle::Chance;
use crate::wire::{Message, Raw};

/// A value as clients send it.
#[derive(Clone, Debug)]
struct Value {
    text: String,
    /// `None` for what has no binary form, because it is wrong.
    binary: Option<Vec<u8>>,
}

/// A key column: its name, its type in SQL, its OID, and values to ask for.
struct Key {
    name: &'static str,
    oid: u32,
    array_oid: u32,
    values: Vec<Value>,
    /// How a value is written in SQL.
    quoted: bool,
}

fn value(text: &str, binary: &[u8]) -> Value {
    Value { text: text.into(), binary: Some(binary.into()) }
}

fn wrong(text: &str) -> Value {
    Value { text: text.into(), binary: None }
}

/// The views: a name, its keys, and what it is joined with on the same keys.
struct View {
    name: &'static str,
    keys: Vec<Key>,
    other: Option<&'static str>,
    columns: &'static [&'static str],
}

const SETUP: &str = r#"
CREATE ENTITY item KEY (k INTEGER);
CREATE ENTITY pair KEY (a BIGINT, b TEXT);
CREATE ENTITY kinds KEY (u UUID, d DATE);
CREATE ENTITY moments KEY (z TIMESTAMPTZ, t TIMESTAMP);
CREATE ENTITY small KEY (s SMALLINT, f BOOLEAN, y BYTEA);
CREATE FEATURE VIEW items (
    bo BOOLEAN, si SMALLINT, i INTEGER, bi BIGINT, re REAL, dp DOUBLE PRECISION, nu NUMERIC(12, 3), te TEXT, by BYTEA, da DATE,
    ti TIME, ts TIMESTAMP, tz TIMESTAMPTZ, iv INTERVAL, uu UUID, js JSON, ai INTEGER[], at TEXT[], ad DATE[], ve REAL[3]
) ENTITY item TTL INTERVAL '2 days';
CREATE FEATURE VIEW prices (price DOUBLE PRECISION, currency TEXT) ENTITY item;
CREATE FEATURE VIEW pairs (x BIGINT, note TEXT) ENTITY pair TTL INTERVAL '2 days';
CREATE FEATURE VIEW seen (times BIGINT) ENTITY pair;
CREATE FEATURE VIEW kinds (x BIGINT) ENTITY kinds;
CREATE FEATURE VIEW moments (x BIGINT) ENTITY moments;
CREATE FEATURE VIEW smalls (x BIGINT) ENTITY small;
CREATE FEATURE SERVICE basket AS SELECT i.event_time, p.event_time AS since, i.te, p.currency, i.nu, p.price, i.ai FROM items i, prices p;
CREATE FEATURE SERVICE visits AS SELECT s.event_time, i.te AS word, p.note, s.times, i.bi, p.x FROM seen s, items i, pairs p;
CREATE FEATURE SERVICE scored AS SELECT i.dp / p.price AS ratio, coalesce(p.price, -1) AS price, i.nu,
    CASE WHEN i.bo THEN upper(i.te) ELSE p.currency END AS label, i.k + 1 AS following, p.price > 2 AS is_dear FROM items i, prices p;
CREATE FEATURE SERVICE fit AS SELECT p.x * 2 - s.times AS score, coalesce(i.te, p.note, '?') AS word, i.bi, s.event_time IS NULL AS is_new
    FROM pairs p, items i, seen s;
CREATE VIEW named AS SELECT k AS number, te AS word, event_time AS since FROM items;
INSERT INTO items VALUES
    (1, '2025-12-31 12:00Z', true, -3, 7, 9223372036854775807, 1.5, -0.1, 1234.5, 'a "quoted", text\', '\x00ff', '1999-12-31',
     '23:59:59.999999', '0001-01-01 00:00', '2026-01-01 00:00:00.000001+01', '1 year 2 days 03:04:05.6',
     'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{"a": [1, null]}', '{1,NULL,-3}', '{"",NULL,"null","a b","{}",c}', '{0044-03-15 BC,2026-01-01}', '{1,-2.5,1e30}'),
    (2, '2025-12-31 13:00Z', false, NULL, NULL, NULL, 'NaN', '-Infinity', -0.001, '', '\x', NULL, NULL, NULL, NULL, '-00:00:01',
     NULL, NULL, '{}', '{}', NULL, NULL),
    (-2147483648, '2025-12-31 13:00Z', NULL, 32767, -2147483648, -1, 3.4e38, 1e-300, 0, 'é', NULL, '0044-03-15 BC', '00:00', NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, '{NaN,0,-0}'),
    (5, '2025-12-20 12:00Z', true, 1, 1, 1, 1, 1, 1, 'expired', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO prices VALUES (1, '2025-01-01Z', 9.5, 'EUR'), (2, '2025-01-02Z', NULL, 'USD'), (5, '2025-01-01Z', 1, 'CHF'), (7, '2025-01-01Z', 2, 'SEK');
INSERT INTO pairs VALUES (1, 'x', '2025-12-31Z', 10, 'one'), (1, 'y', '2025-12-31Z', 11, NULL), (2, 'x', '2025-12-31Z', NULL, 'two'),
    (9223372036854775807, '', '2025-12-31Z', 13, 'é'), (3, 'x', '2025-12-01Z', 14, 'expired');
INSERT INTO seen VALUES (1, 'x', '2025-12-31Z', 3), (3, 'x', '2025-12-31Z', 4);
INSERT INTO kinds VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2026-01-01', '2025-12-31Z', 1),
    ('00000000-0000-0000-0000-000000000000', '0044-03-15 BC', '2025-12-31Z', 2);
INSERT INTO moments VALUES ('2026-01-01 00:00Z', '2026-01-01 00:00', '2025-12-31Z', 1), ('1969-12-31 23:59:59.999999Z', '9999-12-31', '2025-12-31Z', 2);
INSERT INTO smalls VALUES (-1, true, '\x00ff', '2025-12-31Z', 1), (32767, false, '\x', '2025-12-31Z', 2);
"#;

fn integers(width: usize, numbers: &[i64]) -> Vec<Value> {
    numbers.iter().map(|number| value(&number.to_string(), &number.to_be_bytes()[8 - width..])).collect()
}

fn texts(texts: &[&str]) -> Vec<Value> {
    texts.iter().map(|text| value(text, text.as_bytes())).collect()
}

fn key(name: &'static str, oid: u32, array_oid: u32, quoted: bool, mut values: Vec<Value>, spellings: &[&str]) -> Key {
    values.extend(spellings.iter().map(|text| wrong(text)));
    Key { name, oid, array_oid, values, quoted }
}

fn uuid(text: &str, bytes: u128) -> Value {
    value(text, &bytes.to_be_bytes())
}

/// An instant, and its microseconds since 1970; PostgreSQL counts from 2000.
fn micros(text: &str, micros: i64) -> Value {
    value(text, &(micros - 946_684_800_000_000).to_be_bytes())
}

fn days(text: &str, days: i32) -> Value {
    value(text, &days.to_be_bytes())
}

fn items() -> View {
    let numbers = integers(4, &[1, 2, 5, 7, 99, -2_147_483_648]);
    View {
        name: "items",
        keys: vec![key("k", 23, 1007, false, numbers, &[" 1 ", "+2", "01", "one", "", "4294967297", "1.0"])],
        other: Some("prices"),
        columns: &[
            "k",
            "event_time",
            "bo",
            "si",
            "i",
            "bi",
            "re",
            "dp",
            "nu",
            "te",
            "by",
            "da",
            "ti",
            "ts",
            "tz",
            "iv",
            "uu",
            "js",
            "ai",
            "at",
            "ad",
            "ve",
        ],
    }
}

fn pairs() -> View {
    let numbers = integers(8, &[1, 2, 3, 4, i64::MAX]);
    View {
        name: "pairs",
        keys: vec![
            key("a", 20, 1016, false, numbers, &["1 ", "x"]),
            key("b", 25, 1009, true, texts(&["x", "y", "", "é", "it's", "a,b{}\"\\ "]), &[]),
        ],
        other: Some("seen"),
        columns: &["a", "b", "event_time", "x", "note"],
    }
}

fn kinds() -> View {
    const ID: u128 = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11;
    let ids = vec![
        uuid("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", ID),
        uuid("{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", ID),
        uuid("00000000-0000-0000-0000-000000000000", 0),
    ];
    let dates = vec![days("2026-01-01", 9_497), days("0044-03-15 BC", -746_389), days("Jan 1, 2026", 9_497)];
    View {
        name: "kinds",
        keys: vec![
            key("u", 2950, 2951, true, ids, &["a0eebc99"]),
            key("d", 1082, 1182, true, dates, &["2026-13-01", "today maybe"]),
        ],
        other: None,
        columns: &["u", "d", "event_time", "x"],
    }
}

fn moments() -> View {
    let zoned = vec![
        micros("2026-01-01 00:00:00+00", 1_767_225_600_000_000),
        micros("2026-01-01 00:00", 1_767_225_600_000_000),
        micros("1969-12-31 18:59:59.999999-05", -1),
    ];
    let plain = vec![micros("2026-01-01 00:00", 1_767_225_600_000_000), micros("9999-12-31", 253_402_214_400_000_000)];
    View {
        name: "moments",
        keys: vec![key("z", 1184, 1185, true, zoned, &["noon"]), key("t", 1114, 1115, true, plain, &[])],
        other: None,
        columns: &["z", "t", "event_time", "x"],
    }
}

fn smalls() -> View {
    View {
        name: "smalls",
        keys: vec![
            key("s", 21, 1005, false, integers(2, &[-1, 32_767, 4]), &["32768", "-32769"]),
            key("f", 16, 1000, true, vec![value("t", &[1]), value("false", &[0])], &["maybe", "on"]),
            key("y", 17, 1001, true, vec![value("\\x00ff", &[0, 0xff]), value("\\x", &[])], &["\\xz"]),
        ],
        other: None,
        columns: &["s", "f", "y", "event_time", "x"],
    }
}

/// A service of one entity.
fn basket() -> View {
    let columns = &["k", "event_time", "since", "te", "currency", "nu", "price", "ai"];
    View { name: "basket", other: None, columns, ..items() }
}

/// A service whose views have different entities.
fn visits() -> View {
    let keys = pairs().keys.into_iter().chain(items().keys).collect();
    let columns = &["a", "b", "k", "event_time", "word", "note", "times", "bi", "x"];
    View { name: "visits", keys, other: None, columns }
}

/// A service that computes, of one entity.
fn scored() -> View {
    let columns = &["k", "ratio", "price", "nu", "label", "following", "is_dear"];
    View { name: "scored", other: None, columns, ..items() }
}

/// A service that computes, whose views have different entities.
fn fit() -> View {
    View { name: "fit", columns: &["a", "b", "k", "score", "word", "bi", "is_new"], ..visits() }
}

fn views() -> Vec<View> {
    vec![items(), pairs(), kinds(), moments(), smalls(), basket(), visits(), scored(), fit()]
}

/// A statement with its parameters, as messages.
#[derive(Clone, Debug, Default)]
struct Asked {
    sql: String,
    types: Vec<u32>,
    formats: Vec<i16>,
    values: Vec<Option<Vec<u8>>>,
    result_formats: Vec<i16>,
    rows_max: Vec<i32>,
    /// Whether the short road is meant to take it.
    is_lookup: bool,
}

impl Asked {
    fn parse(&self, name: &str, sql: &str) -> Vec<u8> {
        let mut body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0"].concat();
        body.extend(u16::try_from(self.types.len()).unwrap().to_be_bytes());
        self.types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
        body
    }

    fn bind(&self, portal: &str, name: &str, result_formats: &[i16]) -> Vec<u8> {
        let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0"].concat();
        let count = |body: &mut Vec<u8>, count: usize| body.extend(u16::try_from(count).unwrap().to_be_bytes());
        count(&mut body, self.formats.len());
        self.formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
        count(&mut body, self.values.len());
        for value in &self.values {
            match value {
                None => body.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend(value);
                }
            }
        }
        count(&mut body, result_formats.len());
        result_formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
        body
    }

    /// Sends it without its `Sync`.
    fn send(&self, raw: &mut Raw) {
        raw.message(b'P', &self.parse("", &self.sql));
        raw.message(b'D', b"S\0");
        raw.message(b'B', &self.bind("", "", &self.result_formats));
        raw.message(b'D', b"P\0");
        for rows_max in &self.rows_max {
            raw.message(b'E', &[&b"\0"[..], &rows_max.to_be_bytes()].concat());
        }
    }

    /// Sends it alone, and gives what comes back.
    fn ask(&self, raw: &mut Raw) -> Vec<Message> {
        self.send(raw);
        raw.message(b'S', b"");
        raw.until_ready()
    }

    /// The plan that `EXPLAIN` tells.
    fn plan(&self, raw: &mut Raw) -> String {
        raw.message(b'P', &self.parse("", &format!("EXPLAIN {}", self.sql)));
        raw.message(b'B', &self.bind("", "", &[]));
        raw.message(b'E', b"\0\0\0\0\0");
        raw.message(b'S', b"");
        let rows = raw.until_ready().into_iter().filter(|message| message.0 == b'D');
        rows.map(|(_, body)| String::from_utf8_lossy(&body[6..]).into_owned()).collect::<Vec<_>>().join("\n")
    }
}

/// Makes statements.
struct Maker<'a> {
    chance: &'a mut Chance,
    asked: Asked,
}

impl Maker<'_> {
    fn one_of<'v, T>(&mut self, items: &'v [T]) -> &'v T {
        let count = i64::try_from(items.len()).unwrap();
        &items[usize::try_from(self.chance.below(count)).unwrap()]
    }

    /// A value of a key, some of them wrong now and then; as a literal, or as a parameter.
    fn operand(&mut self, key: &Key) -> String {
        let mut value = self.one_of(&key.values).clone();
        if value.binary.is_none() && !self.chance.one_in(4) {
            value = key.values[0].clone();
        }
        if self.chance.one_in(3) {
            if key.quoted || value.binary.is_none() { format!("'{}'", value.text.replace('\'', "''")) } else { value.text }
        } else {
            self.parameter(key.oid, Some(value))
        }
    }

    /// `$n`, its value in text or in binary, its type stated or not.
    fn parameter(&mut self, oid: u32, value: Option<Value>) -> String {
        let is_null = self.chance.one_in(15);
        let is_binary = self.chance.one_in(2);
        let (format, bytes) = match value.filter(|_| !is_null) {
            None => (0, None),
            Some(Value { binary: Some(binary), .. }) if is_binary => (1, Some(binary)),
            Some(value) => (0, Some(value.text.into_bytes())),
        };
        // A number in binary now and then as another integer type than the key's, as drivers send them.
        let (oid, bytes) = match (oid, format, bytes) {
            (20 | 23, 1, Some(bytes)) if self.chance.one_in(3) => {
                let number =
                    bytes.iter().fold(if bytes[0] > 127 { -1 } else { 0 }, |number: i64, byte| number << 8 | i64::from(*byte));
                match self.chance.below(2) {
                    0 => (20, Some(number.to_be_bytes().to_vec())),
                    _ => match i16::try_from(number) {
                        Ok(number) => (21, Some(number.to_be_bytes().to_vec())),
                        Err(_) => (oid, Some(bytes)),
                    },
                }
            }
            (oid, _, bytes) => (if self.chance.one_in(2) && format == 0 { 0 } else { oid }, bytes),
        };
        self.asked.types.push(oid);
        self.asked.formats.push(format);
        self.asked.values.push(bytes);
        format!("${}", self.asked.types.len())
    }

    /// A number of rows, written out or as a parameter.
    fn count(&mut self, counts: &[&str]) -> String {
        let count = *self.one_of(counts);
        if count == "ALL" || self.chance.one_in(2) {
            // What no row is wanted of is not asked for, and what cannot be is not prepared.
            self.asked.is_lookup &= !matches!(count, "0" | "-1");
            return count.into();
        }
        self.asked.is_lookup &= count != "-1";
        let number = count.parse::<i64>().ok();
        // As drivers send it whose programs have a small number.
        match self.chance.below(3) {
            0 => self.typed(20, number.map(|number| number.to_be_bytes().to_vec())),
            1 => self.typed(23, number.map(|number| number.to_be_bytes()[4..].to_vec())),
            _ => self.parameter(0, number.map(|number| wrong(&number.to_string()))),
        }
    }

    /// `$n` of this type, in binary.
    fn typed(&mut self, oid: u32, value: Option<Vec<u8>>) -> String {
        self.asked.types.push(oid);
        self.asked.formats.push(1);
        self.asked.values.push(value);
        format!("${}", self.asked.types.len())
    }

    /// `= ANY` over some values, as a parameter or written out.
    fn elements(&mut self, key: &Key) -> String {
        let count = self.chance.below(4);
        let values: Vec<Value> = (0..count).map(|_| self.one_of(&key.values).clone()).collect();
        let right: Vec<Value> = values.iter().filter(|value| value.binary.is_some()).cloned().collect();
        if self.chance.one_in(4) && !right.is_empty() {
            let items: Vec<String> = right.iter().map(|value| format!("'{}'", value.text.replace('\'', "''"))).collect();
            let element = match key.oid {
                23 => "integer",
                20 => "bigint",
                _ => "text",
            };
            if matches!(key.oid, 23 | 20 | 25) {
                return format!("ANY(ARRAY[{}]::{element}[])", items.join(", "));
            }
        }
        let escaped = |value: &Value| format!("\"{}\"", value.text.replace('\\', "\\\\").replace('"', "\\\""));
        let text = format!(
            "{{{}}}",
            values.iter().map(escaped).chain(self.chance.one_in(4).then(|| "NULL".into())).collect::<Vec<_>>().join(",")
        );
        let mut binary = Vec::new();
        let head = [i32::from(!right.is_empty()), 0];
        head.iter().for_each(|number| binary.extend(number.to_be_bytes()));
        binary.extend(key.oid.to_be_bytes());
        if !right.is_empty() {
            [i32::try_from(right.len()).unwrap(), 1].iter().for_each(|number| binary.extend(number.to_be_bytes()));
        }
        for element in right.iter().filter_map(|value| value.binary.as_ref()) {
            binary.extend(u32::try_from(element.len()).unwrap().to_be_bytes());
            binary.extend(element);
        }
        let parameter = self.parameter(key.array_oid, Some(Value { text, binary: Some(binary) }));
        format!("ANY({parameter})")
    }

    fn equality(&mut self, alias: &str, key: &Key) -> String {
        let operand = self.operand(key);
        if self.chance.one_in(4) {
            format!("{operand} = {alias}{}", key.name)
        } else {
            format!("{alias}{} = {operand}", key.name)
        }
    }

    fn whole_key(&mut self, alias: &str, keys: &[Key]) -> String {
        keys.iter().map(|key| self.equality(alias, key)).collect::<Vec<_>>().join(" AND ")
    }

    fn condition(&mut self, alias: &str, keys: &[Key]) -> String {
        match self.chance.below(10) {
            0..=3 => self.whole_key(alias, keys),
            4 => {
                let alternatives: Vec<String> =
                    (0..2 + self.chance.below(2)).map(|_| format!("({})", self.whole_key(alias, keys))).collect();
                alternatives.join(" OR ")
            }
            5 if keys.len() > 1 => {
                let names = keys.iter().map(|key| format!("{alias}{}", key.name)).collect::<Vec<_>>().join(", ");
                let row = |maker: &mut Self| {
                    let values: Vec<String> = keys.iter().map(|key| maker.operand(key)).collect();
                    format!("({})", values.join(", "))
                };
                let rows: Vec<String> = (0..1 + self.chance.below(3)).map(|_| row(self)).collect();
                format!("({names}) IN ({})", rows.join(", "))
            }
            6 => {
                // The same key twice: what a parameter says may contradict what another says.
                self.asked.is_lookup = false;
                format!("{} AND {}", self.whole_key(alias, keys), self.equality(alias, &keys[0]))
            }
            7 => {
                self.asked.is_lookup = false;
                format!("{} AND {alias}event_time > '2025-12-31 12:30Z'", self.whole_key(alias, keys))
            }
            8 => {
                let lists = keys.iter().map(|key| {
                    let items: Vec<String> = (0..1 + self.chance.below(5)).map(|_| self.operand(key)).collect();
                    format!("{alias}{} IN ({})", key.name, items.join(", "))
                });
                lists.collect::<Vec<_>>().join(" AND ")
            }
            _ => {
                let each = keys.iter().enumerate().map(|(place, key)| {
                    if place == 0 { format!("{alias}{} = {}", key.name, self.elements(key)) } else { self.equality(alias, key) }
                });
                each.collect::<Vec<_>>().join(" AND ")
            }
        }
    }

    fn projection(&mut self, alias: &str, columns: &[&str]) -> (String, usize) {
        if self.chance.one_in(4) {
            return (format!("{alias}*"), columns.len());
        }
        let count = 1 + self.chance.below(6);
        let column = |maker: &mut Self| {
            let name = *maker.one_of(columns);
            let rename = if maker.chance.one_in(4) { format!(" AS \"{name} too\"") } else { String::new() };
            format!("{alias}{name}{rename}")
        };
        let chosen: Vec<String> = (0..count).map(|_| column(self)).collect();
        (chosen.join(", "), chosen.len())
    }

    fn statement(mut self, view: &View) -> Asked {
        self.asked = Asked { is_lookup: true, rows_max: vec![0], ..Asked::default() };
        let columns;
        self.asked.sql = if let Some(other) = view.other.filter(|_| self.chance.one_in(4)) {
            let (projection, count) = self.projection("v.", view.columns);
            columns = count + 2;
            let kind = if self.chance.one_in(2) { "LEFT JOIN" } else { "JOIN" };
            let on: Vec<String> = view.keys.iter().map(|key| format!("o.{0} = v.{0}", key.name)).collect();
            let condition = self.condition("v.", &view.keys);
            let (first, on) = (view.keys[0].name, on.join(" AND "));
            format!(
                "SELECT {projection}, o.event_time, o.{first} FROM {} v {kind} {other} o ON {on} WHERE {condition}",
                view.name
            )
        } else if self.chance.one_in(5) {
            let condition = self.condition("", &view.keys);
            columns = view.columns.len();
            format!("SELECT * FROM (SELECT * FROM {} AS inside) AS outside WHERE {condition}", view.name)
        } else {
            let (projection, count) = self.projection("", view.columns);
            columns = count;
            let condition = self.condition("", &view.keys);
            format!("SELECT {projection} FROM {} WHERE {condition}", view.name)
        };
        // Which rows of a join a limit lets through is nobody's promise either.
        let is_join = self.asked.sql.contains(" JOIN ");
        if self.chance.one_in(6) {
            let limits: &[&str] = if is_join { &["0", "100", "ALL"] } else { &["0", "1", "2", "100", "ALL", "NULL", "-1"] };
            let limit = self.count(limits);
            self.asked.sql.push_str(&format!(" LIMIT {limit}"));
        }
        if !is_join && self.chance.one_in(8) {
            let offset = self.count(&["0", "1", "2", "100", "NULL", "-1"]);
            self.asked.sql.push_str(&format!(" OFFSET {offset}"));
        }
        let binary_or_text = |maker: &mut Self| i16::from(maker.chance.one_in(2));
        self.asked.result_formats = match self.chance.below(4) {
            0 => vec![],
            1 => vec![binary_or_text(&mut self)],
            _ => (0..columns).map(|_| binary_or_text(&mut self)).collect(),
        };
        if !is_join && self.chance.one_in(5) {
            self.asked.rows_max = vec![1, 2, 0];
        }
        self.asked
    }
}

async fn prepared_gateway(online: Online) -> Gateway {
    let gateway = Setup::new(online).start();
    let client = gateway.connect().await;
    for statement in SETUP.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
        harness::run(&client, statement).await;
    }
    gateway
}

/// Two connections to a gateway: with the short road, and without.
fn roads(gateway: &Gateway) -> [Raw; 2] {
    let [short, mut planned] = [Raw::login(gateway.address()), Raw::login(gateway.address())];
    planned.query(b"SET tidegate.short_road = off");
    [short, planned]
}

/// Messages as one reads them, the rows of each answer sorted: their order is nobody's promise.
fn shown(messages: &[Message]) -> Vec<String> {
    let shown = |(kind, body): &Message| format!("{} {}", char::from(*kind), body.escape_ascii());
    let mut lines: Vec<String> = messages.iter().map(shown).collect();
    lines.chunk_by_mut(|first, second| first.starts_with("D ") && second.starts_with("D ")).for_each(<[String]>::sort);
    lines
}

/// Fails where the roads did not say the same.
fn assert_same(answers: &[Vec<Message>; 2], asked: &impl std::fmt::Debug) {
    let [short, planned] = [shown(&answers[0]), shown(&answers[1])];
    if let Some(place) = (0..short.len().max(planned.len())).find(|place| short.get(*place) != planned.get(*place)) {
        let [short, planned] = [short.get(place), planned.get(place)];
        panic!("message {place} differs\nshort:   {short:?}\nplanned: {planned:?}\n{asked:#?}");
    }
}

/// How many random statements are tried.
fn cases(default: usize) -> usize {
    std::env::var("TIDEGATE_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn both_roads_say_the_same() {
    for (online, seed) in [(Online::Embedded, 1), (Online::Redis, 2)] {
        let gateway = prepared_gateway(online).await;
        let [mut short, mut planned] = roads(&gateway);
        let (views, mut chance) = (views(), Chance(seed));
        let (mut took, mut meant, mut failed) = (0, 0, 0);
        for case in 0..cases(160) {
            let view = &views[case % views.len()];
            let asked = Maker { chance: &mut chance, asked: Asked::default() }.statement(view);
            let answers = [&mut short, &mut planned].map(|raw| asked.ask(raw));
            assert_same(&answers, &(case, &asked));
            let is_short = asked.plan(&mut short).contains("road=short");
            assert!(!asked.plan(&mut planned).contains("road=short"), "{asked:?}");
            let is_error = answers[0].iter().any(|message| message.0 == b'E');
            assert!(is_short || is_error || !asked.is_lookup, "case {case} is no lookup: {asked:?}");
            took += usize::from(is_short);
            meant += usize::from(asked.is_lookup);
            failed += usize::from(is_error);
        }
        assert!(took * 2 > meant && failed > 0, "{took} of {meant} lookups took the short road, {failed} failed");
    }
}

#[tokio::test]
async fn pipelines_say_the_same_on_both_roads() {
    let gateway = prepared_gateway(Online::Redis).await;
    let (views, mut chance) = (views(), Chance(3));
    for case in 0..cases(160) / 8 {
        let pipeline: Vec<Asked> = (0..1 + chance.below(8))
            .map(|_| match chance.below(12) {
                // What is no lookup stands between them, some of it wrong.
                0 => Asked { sql: "SELECT count(*) FROM labels".into(), rows_max: vec![0], ..Asked::default() },
                1 => Asked { sql: "SELECT 7 AS seven".into(), rows_max: vec![0], ..Asked::default() },
                2 => Asked { sql: "SELECT * FROM items WHERE k = 1".into(), rows_max: vec![0, 0], ..Asked::default() },
                _ => {
                    let view = chance.below(views.len() as i64) as usize;
                    Maker { chance: &mut chance, asked: Asked::default() }.statement(&views[view])
                }
            })
            .collect();
        let is_flushed = chance.one_in(4);
        let in_block = chance.one_in(4);
        let answers = roads(&gateway).map(|mut raw| {
            if in_block {
                raw.query(b"BEGIN");
            }
            for asked in &pipeline {
                asked.send(&mut raw);
                if is_flushed {
                    raw.message(b'H', b"");
                }
            }
            raw.message(b'S', b"");
            let mut answers = raw.until_ready();
            // What the pipeline left behind is the same too.
            answers.extend(pipeline[0].ask(&mut raw));
            answers.extend(raw.query(b"ROLLBACK"));
            answers
        });
        assert_same(&answers, &(case, &pipeline));
    }
}

/// One road through a story: everything that came back, step by step, named for the reader of a failure.
struct Story {
    gateway: Gateway,
    raw: Raw,
    other: tokio_postgres::Client,
    told: Vec<(String, Vec<Message>)>,
}

impl Story {
    async fn begin(road: &str) -> Self {
        let gateway = prepared_gateway(Online::Redis).await;
        let mut raw = Raw::login(gateway.address());
        raw.query(format!("SET tidegate.short_road = {road}").as_bytes());
        let other = gateway.connect().await;
        Self { gateway, raw, other, told: Vec::new() }
    }

    fn query(&mut self, sql: &str) {
        let answer = self.raw.query(sql.as_bytes());
        self.told.push((sql.to_owned(), answer));
    }

    fn prepare(&mut self, name: &str, sql: &str) {
        let body = [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat();
        self.raw.message(b'P', &body);
        self.raw.message(b'S', b"");
        let answer = self.raw.until_ready();
        self.told.push((sql.to_owned(), answer));
    }

    /// Binds these texts to a prepared statement and executes it, without `Sync`.
    fn send(&mut self, name: &str, values: &[&str]) {
        let asked = Asked { values: values.iter().map(|text| Some(text.as_bytes().to_vec())).collect(), ..Asked::default() };
        self.raw.message(b'B', &asked.bind("", name, &[]));
        self.raw.message(b'E', b"\0\0\0\0\0");
    }

    fn sync(&mut self, what: &str) {
        self.raw.message(b'S', b"");
        let answer = self.raw.until_ready();
        self.told.push((what.to_owned(), answer));
    }

    fn execute(&mut self, name: &str, values: &[&str]) {
        self.send(name, values);
        self.sync(&format!("{name} of {values:?}"));
    }

    fn prepare_all(&mut self) {
        self.prepare("item", "SELECT te FROM items WHERE k = $1");
        self.prepare("all", "SELECT * FROM items WHERE k = $1");
        self.prepare("pair", "SELECT x, note FROM pairs WHERE a = $1 AND b = $2");
        self.prepare("moment", "SELECT x FROM moments WHERE z = '2026-01-01 00:00' AND t = $1");
        self.prepare("named", "SELECT word, since FROM named WHERE number = $1");
        self.prepare("visit", "SELECT word, note FROM visits WHERE a = $1 AND b = $2 AND k = $3");
    }

    fn execute_all(&mut self) {
        self.execute("item", &["1"]);
        self.execute("all", &["2"]);
        self.execute("pair", &["1", "x"]);
        self.execute("moment", &["2026-01-01"]);
        self.execute("named", &["1"]);
        self.execute("visit", &["1", "x", "1"]);
    }

    async fn settings_and_blocks(&mut self) {
        self.execute_all();
        let plan = harness::value(&self.other, "EXPLAIN SELECT te FROM items WHERE k = 1").await;
        assert_eq!(plan, "OnlineLookupExec: view=items, keys=1, road=short");
        for setting in ["TimeZone = 'America/New_York'", "tidegate.as_of = '2025-12-31 00:00:00Z'", "tidegate.route = offline"] {
            self.query(&format!("SET {setting}"));
            self.execute_all();
            self.query(&format!("RESET {}", setting.split(' ').next().unwrap_or_default()));
            self.execute_all();
        }
        self.query("BEGIN");
        self.query("INSERT INTO pairs VALUES (1, 'x', '2025-12-31 01:00Z', 99, 'held back')");
        self.execute_all();
        self.query("ROLLBACK");
        self.execute_all();
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
        self.execute_all();
        harness::run(&self.other, "INSERT INTO pairs VALUES (1, 'x', '2025-12-31 02:00Z', 100, 'of another')").await;
        self.execute_all();
        self.query("COMMIT");
        self.execute_all();
        self.query("BEGIN");
        self.execute("item", &["one"]);
        self.execute("item", &["1"]);
        self.query("ROLLBACK");
        self.execute("item", &["1"]);
        self.query("BEGIN");
        self.query("COMMENT ON FEATURE VIEW items IS 'changed in a block'");
        self.execute_all();
        self.query("COMMIT");
        self.execute_all();
    }

    async fn definitions(&mut self) {
        harness::run(&self.other, "CREATE TABLE unrelated (x BIGINT)").await;
        self.execute_all();
        harness::run(&self.other, "DROP VIEW named").await;
        harness::run(&self.other, "CREATE VIEW named AS SELECT k AS number, dp AS word, event_time AS since FROM items").await;
        self.execute_all();
        harness::run(&self.other, "DROP FEATURE SERVICE visits").await;
        harness::run(&self.other, "DROP FEATURE SERVICE fit").await;
        self.execute_all();
        harness::run(&self.other, "DROP FEATURE VIEW pairs").await;
        self.execute_all();
        harness::run(&self.other, "CREATE FEATURE VIEW pairs (x BIGINT, note TEXT) ENTITY pair").await;
        self.execute_all();
        harness::run(&self.other, "CREATE FEATURE SERVICE visits AS SELECT p.note, i.te AS word FROM pairs p, items i").await;
        self.execute_all();
        harness::run(&self.other, "INSERT INTO pairs VALUES (1, 'x', '2025-12-31 01:00Z', 7, 'anew')").await;
        self.execute_all();
    }

    async fn time(&mut self) {
        harness::run(&self.other, "INSERT INTO pairs VALUES (1, 'x', '2026-01-01 06:00Z', 8, 'later')").await;
        for instant in ["2026-01-01 05:59:59.999999Z", "2026-01-01 06:00Z", "2026-01-02 12:00Z", "2026-01-02 12:00:00.000001Z"] {
            harness::set_clock(&self.other, instant).await;
            self.execute_all();
        }
        harness::set_clock(&self.other, harness::CLOCK).await;
    }

    /// The store goes away in the middle of a pipeline: what came after the lookup that failed was not listened to.
    fn failure(&mut self) {
        self.gateway.redis().stop();
        for begin in [None, Some("BEGIN")] {
            if let Some(begin) = begin {
                self.query(begin);
            }
            self.query("SELECT 1");
            self.send("named", &["1"]);
            self.raw.message(b'P', b"after\0SELECT te FROM items WHERE k = $1\0\0\0");
            self.send("after", &["1"]);
            self.raw.message(b'H', b"");
            self.send("item", &["1"]);
            self.sync("a pipeline without its store");
            self.query("ROLLBACK");
            self.execute("after", &["1"]);
        }
        self.send("item", &["one"]);
        self.send("item", &["1"]);
        self.sync("a value that is none, then a lookup");
        self.send("item", &["1"]);
        self.send("item", &["one"]);
        self.sync("a lookup, then a value that is none");
        self.query("SET tidegate.online_fallback = offline");
        self.execute_all();
        self.send("item", &["1"]);
        self.prepare("after", "SELECT te FROM items WHERE k IN (1, $1)");
        self.send("after", &["2"]);
        self.send("item", &["one"]);
        self.sync("a pipeline that reads the offline store");
        self.execute("after", &["2"]);
    }
}

#[tokio::test]
async fn a_story_goes_the_same_on_both_roads() {
    let mut told = Vec::new();
    for road in ["on", "off"] {
        let mut story = Story::begin(road).await;
        story.prepare_all();
        story.settings_and_blocks().await;
        story.definitions().await;
        story.time().await;
        story.failure();
        told.push(story.told);
    }
    let (planned, short) = (told.pop().unwrap(), told.pop().unwrap());
    assert_eq!(short.len(), planned.len());
    for (place, ((what, short), (_, planned))) in short.into_iter().zip(planned).enumerate() {
        assert_same(&[short, planned], &format!("step {place}: {what}"));
    }
}

/// Joins of a few rows with views, and whether they are made by lookups.
const JOINS: &[(&str, bool)] = &[
    ("SELECT u.n, i.te, i.event_time FROM unnest(ARRAY[1, 2, 2, 5, 7, NULL]) AS u(n) JOIN items i ON i.k = u.n", true),
    ("SELECT u.n, i.* FROM unnest(ARRAY[1, 2, 2, 5, 7, NULL]) AS u(n) LEFT JOIN items i ON i.k = u.n", true),
    ("SELECT u.n, i.te FROM unnest(ARRAY[1, 9999999999]) AS u(n) LEFT JOIN items i ON i.k = u.n", true),
    (
        "SELECT * FROM (VALUES (1, 'x'), (1, 'y'), (3, 'x'), (NULL, 'x')) AS v (a, b) LEFT JOIN pairs p ON p.a = v.a AND p.b = v.b",
        true,
    ),
    ("SELECT * FROM (VALUES (1, 'x'), (2, 'x')) AS v (a, b) JOIN pairs p ON v.b = p.b AND v.a = p.a WHERE p.x IS NULL", true),
    ("SELECT * FROM pairs p JOIN (VALUES (1, 'x'), (2, 'x')) AS v (a, b) ON v.b = p.b AND v.a = p.a", true),
    ("SELECT * FROM pairs p RIGHT JOIN (VALUES (1, 'x'), (9, 'x')) AS v (a, b) ON v.b = p.b AND v.a = p.a", true),
    ("SELECT v.a, p.x FROM (VALUES (1, 'x'), (2, 'x')) AS v (a, b) JOIN pairs p ON v.b = p.b AND v.a = p.a AND p.x > v.a", true),
    (
        "SELECT v.a, p.x FROM (VALUES (1, 'x'), (2, 'x')) AS v (a, b) LEFT JOIN pairs p ON v.b = p.b AND v.a = p.a AND p.note = 'two'",
        true,
    ),
    (
        "SELECT v.k, i.dp, c.price FROM (VALUES (1), (2), (7)) AS v (k) LEFT JOIN items i ON i.k = v.k LEFT JOIN prices c ON c.k = v.k",
        true,
    ),
    (
        "SELECT c.price, v.*, i.k FROM (VALUES (1), (2), (7), (NULL), (9)) AS v (k) LEFT JOIN items i ON i.k = v.k JOIN prices c ON c.k = v.k",
        true,
    ),
    (
        "SELECT v.b, b.te, s.times, p.note FROM (VALUES (1, 'x', 1), (3, 'x', 2), (1, 'y', 7)) AS v (a, b, k) JOIN seen s ON s.a = v.a AND s.b = v.b LEFT JOIN basket b ON b.k = v.k LEFT JOIN (SELECT * FROM pairs WHERE x > 9) p ON p.a = v.a AND p.b = v.b",
        true,
    ),
    (
        "SELECT v.k, i.i, c.price FROM (VALUES (1), (2)) AS v (k) LEFT JOIN items i ON i.k = v.k LEFT JOIN prices c ON c.k = i.i",
        true,
    ),
    ("SELECT v.k, i.dp, c.price FROM (VALUES (1), (2), (7)) AS v (k) LEFT JOIN items i USING (k) JOIN prices c USING (k)", true),
    ("SELECT l.id, p.x FROM (SELECT * FROM labels ORDER BY id LIMIT 3) l LEFT JOIN pairs p ON p.a = l.a AND p.b = 'x'", false),
    ("SELECT l.id, i.te FROM (SELECT * FROM labels ORDER BY id LIMIT 3) l LEFT JOIN items i ON i.k = l.a", true),
    ("SELECT i.k, c.price FROM items i LEFT JOIN prices c ON c.k = i.k WHERE i.k IN (1, 2, 3) AND i.dp < 1", false),
    ("SELECT v.k, n.word FROM (VALUES (1), (2)) AS v (k) JOIN named n ON n.number = v.k", true),
    ("SELECT v.k, s.d FROM (VALUES (1), (2)) AS v (k) JOIN (SELECT k, dp * 2 AS d FROM items WHERE bo) s ON s.k = v.k", true),
    (
        "SELECT u.id, k.x FROM unnest(ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]) AS u(id) JOIN kinds k ON k.u = u.id AND k.d = '2026-01-01'",
        false,
    ),
    (
        "SELECT m.x FROM (VALUES ('2026-01-01 00:00+00'::timestamptz, '2026-01-01'::timestamp)) AS v (z, t) JOIN moments m ON m.z = v.z AND m.t = v.t",
        true,
    ),
    (
        "SELECT s.x FROM (VALUES (-1, true, '\\x00ff'::bytea), (4, false, '\\x'::bytea)) AS v (s, f, y) JOIN smalls s ON s.s = v.s AND s.f = v.f AND s.y = v.y",
        true,
    ),
    ("SELECT count(*), sum(c.price) FROM (VALUES (1), (2), (7), (7)) AS v (k) JOIN prices c ON c.k = v.k", true),
    ("SELECT v.k FROM (VALUES (1), (2), (7), (9)) AS v (k) WHERE EXISTS (SELECT 1 FROM prices c WHERE c.k = v.k)", false),
    ("SELECT v.k, b.* FROM (VALUES (1), (2), (7), (9)) AS v (k) LEFT JOIN basket b ON b.k = v.k", true),
    ("SELECT v.k, b.price FROM (VALUES (1), (2), (7), (7)) AS v (k) JOIN basket b USING (k) WHERE b.te IS NULL", true),
    (
        "SELECT v.*, s.* FROM (VALUES (1, 'x', 1), (1, 'y', 5), (3, 'x', 2), (NULL, 'x', 1), (9, 'q', 9)) AS v (a, b, k) LEFT JOIN visits s USING (a, b, k)",
        true,
    ),
    // Not few, not the whole key, or not the present.
    ("SELECT l.id, b.te FROM labels l LEFT JOIN basket b ON b.k = l.a", false),
    ("SELECT l.id, i.te FROM labels l LEFT JOIN items i ON i.k = l.a", false),
    ("SELECT v.a, p.x FROM (VALUES (1), (2)) AS v (a) JOIN pairs p ON p.a = v.a", false),
    (
        "SELECT v.k, i.te FROM (VALUES (1), (2)) AS v (k) LEFT JOIN items AS OF TIMESTAMPTZ '2025-12-31 12:30Z' AS i ON i.k = v.k",
        false,
    ),
    ("SELECT v.k, i.te FROM (VALUES (1), (2)) AS v (k) FULL JOIN items i ON i.k = v.k", false),
];

#[tokio::test]
async fn joins_by_lookup_say_the_same_as_scans() {
    let gateway = prepared_gateway(Online::Redis).await;
    let client = gateway.connect().await;
    harness::run(&client, "CREATE TABLE labels (id BIGINT, a BIGINT)").await;
    harness::run(&client, "INSERT INTO labels VALUES (1, 1), (2, 5), (3, NULL), (4, 2)").await;
    let [mut by_scan, mut by_lookup] = roads(&gateway);
    by_scan.query(b"SET tidegate.route = offline");
    let mut faults = Vec::new();
    for (sql, is_lookup) in JOINS {
        let answers = [&mut by_lookup, &mut by_scan].map(|raw| raw.query(sql.as_bytes()));
        assert_same(&answers, sql);
        assert!(!answers[0].iter().any(|message| message.0 == b'E'), "{sql}\n{:?}", shown(&answers[0]));
        let plan = shown(&by_lookup.query(format!("EXPLAIN {sql}").as_bytes())).join("\n");
        if plan.contains("LookupJoinExec") != *is_lookup {
            faults.push(format!("{sql}\n{plan}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    // In a block that keeps rows back the view is read where they are seen.
    for raw in [&mut by_lookup, &mut by_scan] {
        raw.query(b"BEGIN");
        raw.query(b"INSERT INTO prices VALUES (1, '2025-12-31Z', 99, 'NOK')");
    }
    let answers = [&mut by_lookup, &mut by_scan]
        .map(|raw| raw.query(b"SELECT c.* FROM (VALUES (1), (2)) AS v (k) JOIN prices c ON c.k = v.k"));
    assert!(shown(&answers[0]).join("\n").contains("NOK"));
    assert_same(&answers, &"a block's own rows");
}

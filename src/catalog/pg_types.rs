//! `pg_type` and `pg_proc`, from the lists in `sql/system`, and the names of types.

use std::collections::HashMap;

use super::value::Value;
use crate::error::{Error, Result};
use crate::types::SqlType;

const TYPES: &str = include_str!("../../sql/system/pg_type.csv");
const FUNCTIONS: &str = include_str!("../../sql/system/pg_proc.csv");

/// A list of rows with named columns, as in the files of `sql/system`: no quotes, no commas in values.
#[derive(Debug)]
pub(super) struct Listing {
    columns: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

impl Listing {
    fn read(text: &'static str) -> Self {
        let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let columns = lines.next().unwrap_or_default();
        Self { columns, rows: lines.collect() }
    }

    /// The rows, each as cells with their columns' names.
    pub(super) fn rows(&self) -> impl Iterator<Item = Vec<(&'static str, Value)>> {
        self.rows
            .iter()
            .map(|row| self.columns.iter().zip(row).map(|(column, cell)| (*column, parse_cell(column, cell))).collect())
    }

    fn column(&self, name: &str) -> Result<usize> {
        self.columns
            .iter()
            .position(|column| *column == name)
            .ok_or_else(|| Error::internal(format!("the lists of sql/system have no column {name}")))
    }
}

fn parse_cell(column: &str, cell: &str) -> Value {
    match column {
        "proargtypes" => Value::List(cell.split_whitespace().filter_map(|oid| oid.parse().ok()).map(Value::Int).collect()),
        "typdelim" if cell == "comma" => Value::from(","),
        "typbyval" | "typispreferred" | "proisstrict" | "proretset" => Value::Bool(cell == "t"),
        "typname" | "proname" | "typtype" | "typcategory" | "typdelim" | "typalign" | "typstorage" | "prokind"
        | "provolatile" => Value::from(cell),
        _ => cell.parse().map_or(Value::Null, Value::Int),
    }
}

/// The types and functions that clients ask the catalogs about.
#[derive(Debug)]
pub(super) struct PgTypes {
    /// The rows of `pg_type`.
    pub(super) types: Listing,
    /// The rows of `pg_proc`.
    pub(super) functions: Listing,
    /// Number to (`typname`, `typelem`, `typcategory`).
    by_oid: HashMap<u32, (&'static str, u32, &'static str)>,
    by_name: HashMap<&'static str, u32>,
    functions_by_name: HashMap<&'static str, u32>,
    functions_by_oid: HashMap<u32, &'static str>,
}

impl PgTypes {
    /// Reads the lists, which are compiled in.
    pub(super) fn read() -> Result<Self> {
        let types = Listing::read(TYPES);
        let functions = Listing::read(FUNCTIONS);
        let (oid, name, element, category) =
            (types.column("oid")?, types.column("typname")?, types.column("typelem")?, types.column("typcategory")?);
        let mut by_oid = HashMap::new();
        let mut by_name = HashMap::new();
        for row in &types.rows {
            let number = row[oid].parse().unwrap_or(0);
            by_oid.insert(number, (row[name], row[element].parse().unwrap_or(0), row[category]));
            by_name.insert(row[name], number);
        }
        let (oid, name) = (functions.column("oid")?, functions.column("proname")?);
        let pairs = || functions.rows.iter().map(|row| (row[oid].parse().unwrap_or(0), row[name]));
        let functions_by_oid = pairs().collect();
        let functions_by_name = pairs().map(|(oid, name)| (name, oid)).collect();
        Ok(Self { functions_by_oid, functions_by_name, types, functions, by_oid, by_name })
    }

    /// `format_type`: the name of a type as SQL writes it, with its modifier.
    pub(super) fn format(&self, oid: u32, modifier: Option<i32>) -> String {
        if oid == 0 {
            return "-".to_owned();
        }
        let Some((name, element, category)) = self.by_oid.get(&oid) else {
            return "???".to_owned();
        };
        if *category == "A" && name.starts_with('_') {
            return format!("{}[]", self.format(*element, modifier));
        }
        let modifier = modifier.filter(|modifier| *modifier >= 0);
        match (oid, modifier) {
            (1042, Some(modifier)) => format!("character({})", modifier - 4),
            (1042, None) => "character".to_owned(),
            (1043, Some(modifier)) => format!("character varying({})", modifier - 4),
            (1043, None) => "character varying".to_owned(),
            (1700, Some(modifier)) => {
                let packed = modifier - 4;
                format!("numeric({},{})", (packed >> 16) & 0xffff, packed & 0x7ff)
            }
            (1700, None) => "numeric".to_owned(),
            (705 | 3802, _) => (*name).to_owned(),
            (oid, _) => SqlType::from_oid(oid).map_or_else(|| (*name).to_owned(), |known| known.name()),
        }
    }

    /// The number of the type that a text names: `int4`, `integer`, `pg_catalog.text`, `numeric(10,2)`, `real[]`.
    pub(super) fn named(&self, name: &str) -> Option<u32> {
        let name = name.trim().trim_start_matches("pg_catalog.");
        let lower = name.to_lowercase();
        if let Some(element) = lower.strip_suffix("[]") {
            return self.named(element).and_then(|element| self.array_of(element));
        }
        let bare = lower.split('(').next().unwrap_or_default().trim();
        let known = match bare {
            "boolean" => "bool",
            "smallint" => "int2",
            "integer" | "int" => "int4",
            "bigint" => "int8",
            "real" => "float4",
            "double precision" => "float8",
            "decimal" => "numeric",
            "character varying" => "varchar",
            "character" => "bpchar",
            "timestamp without time zone" => "timestamp",
            "timestamp with time zone" => "timestamptz",
            "time without time zone" => "time",
            "\"char\"" => "char",
            "char" => "bpchar",
            other => other,
        };
        self.by_name.get(known).copied()
    }

    /// The number of the function of this name.
    pub(super) fn function_named(&self, name: &str) -> Option<u32> {
        self.functions_by_name.get(name.trim_start_matches("pg_catalog.")).copied()
    }

    /// The name of the function with this number.
    pub(super) fn function_name(&self, oid: u32) -> Option<&'static str> {
        self.functions_by_oid.get(&oid).copied()
    }

    /// The type that a column is shown with: those catalogs never show, such as vectors, stand as PostgreSQL would show them.
    fn array_of(&self, element: u32) -> Option<u32> {
        let arrays =
            self.by_oid.iter().filter(|(_, (name, of, category))| *of == element && *category == "A" && name.starts_with('_'));
        arrays.map(|(oid, _)| *oid).next()
    }
}

/// `attalign`, `attstorage`, `attbyval` of a column of this type.
pub(super) fn storage(data_type: &SqlType) -> (&'static str, &'static str, bool) {
    match data_type {
        SqlType::Boolean | SqlType::Char => ("c", "p", true),
        SqlType::SmallInt => ("s", "p", true),
        SqlType::Integer | SqlType::Real | SqlType::Date | SqlType::Oid => ("i", "p", true),
        SqlType::BigInt | SqlType::DoublePrecision | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz => {
            ("d", "p", true)
        }
        SqlType::Interval => ("d", "p", false),
        SqlType::Uuid | SqlType::Name => ("c", "p", false),
        SqlType::Numeric { .. } => ("i", "m", false),
        SqlType::Int2Vector | SqlType::OidVector => ("i", "p", false),
        SqlType::Text | SqlType::Bytea | SqlType::Json | SqlType::Array(_) | SqlType::Vector(_) => ("i", "x", false),
    }
}

/// `attcollation`, `typcollation`: 100 is the default collation, 950 is `C`.
pub(super) fn collation(data_type: &SqlType) -> u32 {
    match data_type {
        SqlType::Text => 100,
        SqlType::Name => 950,
        SqlType::Array(element) => collation(element),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_named_as_postgres_names_them() {
        let types = PgTypes::read().unwrap();
        for (oid, modifier, name) in [
            (20, None, "bigint"),
            (1700, Some(((10 << 16) | 2) + 4), "numeric(10,2)"),
            (1700, None, "numeric"),
            (1043, Some(14), "character varying(10)"),
            (1009, None, "text[]"),
            (1231, Some(((10 << 16) | 2) + 4), "numeric(10,2)[]"),
            (18, None, "\"char\""),
            (22, None, "int2vector"),
            (2205, None, "regclass"),
            (705, None, "unknown"),
            (0, None, "-"),
            (999_999, None, "???"),
        ] {
            assert_eq!(types.format(oid, modifier), name);
        }
        for (name, oid) in
            [("int4", 23), ("integer", 23), ("pg_catalog.int8", 20), ("text[]", 1009), ("numeric(3,1)", 1700), ("real[]", 1021)]
        {
            assert_eq!(types.named(name), Some(oid), "{name}");
        }
        assert_eq!(types.named("hstore"), None);
        for sql_type in [SqlType::Boolean, SqlType::Uuid, SqlType::Json, SqlType::Vector(3), SqlType::Interval, SqlType::Bytea] {
            assert!(types.by_oid.contains_key(&sql_type.oid()), "{sql_type}");
        }
    }
}

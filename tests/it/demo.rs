//! The session of `sql/quickstart.sql`, on all of the data, against answers computed without Tidegate
//! (`examples/nycflights13/expected.py`).

use std::pin::pin;
use std::process::Command;

use futures::TryStreamExt;
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::{self, Online, Setup};
use crate::text::ValueText;

/// Where the demo's clock stands: the last midnight before the weather ends.
pub(crate) const DEMO_CLOCK: &str = "2013-12-31 00:00:00Z";

/// The statements of `sql/quickstart.sql`, in order, without comments.
pub(crate) fn quickstart() -> Vec<String> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/quickstart.sql");
    statements(&std::fs::read_to_string(path).unwrap())
}

/// The statements of a script whose statements end with a semicolon at a line's end.
pub(crate) fn statements(script: &str) -> Vec<String> {
    let lines = script.lines().filter(|line| !line.trim_start().starts_with("--"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let statements = text.split(";\n").map(|statement| statement.trim().trim_end_matches(';').to_owned());
    statements.filter(|statement| !statement.is_empty()).collect()
}

fn expected() -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/nycflights13/expected.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[tokio::test]
async fn the_session_answers_what_was_computed_elsewhere() {
    let gateway = Setup::new(Online::Embedded).clock(DEMO_CLOCK).start();
    let client = gateway.connect().await;
    for statement in quickstart() {
        harness::run(&client, &statement).await;
    }
    let expected = expected();
    let delays = harness::value(&client, "SELECT count(*) FROM history.carrier_delays").await;
    assert_eq!(delays, expected["carrier_delays_rows"].to_string());
    for route in ["online", "offline"] {
        harness::run(&client, &format!("SET tidegate.route = {route}")).await;
        assert_eq!(weather(&client, "").await, expected["weather_now"], "now, {route}");
    }
    harness::run(&client, "RESET tidegate.route").await;
    assert_eq!(weather(&client, "AS OF TIMESTAMPTZ '2013-02-09 12:00Z'").await, expected["weather_as_of"]);
    let training = &expected["training_set"];
    assert_eq!(&training_set(&client).await, training);
    let kept = "SELECT count(*), count(late), count(mean_arr_delay_1d), sum(flights_1d) FROM training_set";
    let count = |name: &str| training[name].as_i64().unwrap();
    let with_delays = count("flights") - count("without_delays");
    let row = [count("flights"), count("labelled"), with_delays, count("flights_1d")].map(|number| number.to_string());
    assert_eq!(harness::rows(&client, kept).await, [row]);
}

#[test]
fn the_demo_command_shows_the_three_answers_and_their_plans() {
    let demo = Command::new(env!("CARGO_BIN_EXE_tidegate")).args(["demo", "--once", "--listen", "127.0.0.1:0"]).output().unwrap();
    let shown = String::from_utf8_lossy(&demo.stdout);
    assert!(demo.status.success(), "{shown}{}", String::from_utf8_lossy(&demo.stderr));
    let expected = expected();
    let training = &expected["training_set"];
    let with_weather = training["flights"].as_i64().unwrap() - training["without_weather"].as_i64().unwrap();
    let instants = ["weather_now", "weather_as_of"].map(|answer| {
        let instant = expected[answer]["observed_at"].as_str().unwrap();
        instant.replace('T', " ").replace("+00:00", "+00")
    });
    let plans = ["OnlineLookupExec: view=airport_weather, keys=1", "SnapshotExec: view=airport_weather", "AsOfJoinExec: views=["];
    let numbers = [with_weather.to_string(), training["flights"].to_string()];
    for part in plans.iter().copied().chain(instants.iter().map(String::as_str)).chain(numbers.iter().map(String::as_str)) {
        assert!(shown.contains(part), "{part:?} is not in\n{shown}");
    }
}

const WEATHER: &str = "origin, observed_at, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib";

/// JFK's weather as the expected answers write it.
async fn weather(client: &Client, clause: &str) -> Value {
    let row =
        client.query_one(&format!("SELECT {WEATHER} FROM airport_weather {clause} WHERE origin = 'JFK'"), &[]).await.unwrap();
    let mut named = serde_json::Map::new();
    for (column, name) in WEATHER.split(", ").enumerate() {
        let value = match name {
            "origin" => row.get::<_, &str>(column).into(),
            "observed_at" => row.get::<_, ValueText>(column).as_str().replace(' ', "T").replace("+00", "+00:00").into(),
            "wind_dir" => row.get::<_, Option<i64>>(column).into(),
            _ => row.get::<_, Option<f64>>(column).into(),
        };
        named.insert(name.to_owned(), value);
    }
    Value::Object(named)
}

/// Reads the whole training set, row by row, and adds it up as the expected answers are.
async fn training_set(client: &Client) -> Value {
    let sql = "SELECT l.flight_id, l.late, w.observed_at, w.temp, w.visib, d.arrived_at, d.mean_arr_delay_1d, d.flights_1d
        FROM flight_labels l
        LEFT JOIN airport_weather AS OF l.scheduled_departure AS w ON w.origin = l.origin
        LEFT JOIN carrier_delays AS OF l.scheduled_departure AS d ON d.carrier = l.carrier";
    let none: [i64; 0] = [];
    let mut rows = pin!(client.query_raw(sql, none).await.unwrap());
    let mut sums = [
        "flights",
        "labelled",
        "late",
        "without_weather",
        "without_delays",
        "temp_missing",
        "temp_hundredths",
        "temp_hundredths_by_flight",
        "visib_hundredths",
        "mean_arr_delay_micros",
        "mean_arr_delay_micros_by_flight",
        "flights_1d",
        "flights_1d_by_flight",
    ]
    .map(|name| (name, 0_i64));
    while let Some(row) = rows.try_next().await.unwrap() {
        let flight: i64 = row.get(0);
        let late: Option<bool> = row.get(1);
        let has_weather = row.get::<_, Option<ValueText>>(2).is_some();
        let has_delays = row.get::<_, Option<ValueText>>(5).is_some();
        let hundredths = |column: usize| row.get::<_, Option<f64>>(column).map(|number| (number * 100.0).round() as i64);
        let temp = hundredths(3);
        let mean = row.get::<_, Option<f64>>(6).map(|minutes| (minutes * 1_000_000.0).floor() as i64);
        let flights: Option<i64> = row.get(7);
        let added = [
            1,
            i64::from(late.is_some()),
            i64::from(late == Some(true)),
            i64::from(!has_weather),
            i64::from(!has_delays),
            i64::from(has_weather && temp.is_none()),
            temp.unwrap_or(0),
            flight * temp.unwrap_or(0),
            hundredths(4).unwrap_or(0),
            mean.unwrap_or(0),
            flight * mean.unwrap_or(0),
            flights.unwrap_or(0),
            flight * flights.unwrap_or(0),
        ];
        sums.iter_mut().zip(added).for_each(|((_, sum), value)| *sum += value);
    }
    sums.into_iter().map(|(name, sum)| (name.to_owned(), sum.into())).collect::<serde_json::Map<_, _>>().into()
}

"""Computes what the demo must answer, without Tidegate: in DuckDB's SQL and again as plain loops over the rows.

Writes expected.json beside itself, and only if both computations agree. Every figure is an integer or one stored value,
so that it can be compared exactly: temperatures are summed in hundredths of a degree, mean delays in whole micro-minutes
(rounded down), and each also weighted by the flight's number, so that two rows changing places is noticed.
"""

import bisect
import json
import math
import pathlib
from collections import defaultdict
from datetime import datetime, timedelta, timezone

import duckdb

HERE = pathlib.Path(__file__).resolve().parent
NOW = datetime(2013, 12, 31, 0, 0, tzinfo=timezone.utc)  # where the demo's clock stands
AS_OF = datetime(2013, 2, 9, 12, 0, tzinfo=timezone.utc)
WEATHER_TTL = timedelta(hours=3)
DELAYS_TTL = timedelta(days=1)
DELAYS_WINDOW = timedelta(days=1)
WEATHER = ["origin", "observed_at", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]

db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
for name in ("flights", "weather"):
    db.execute(f"CREATE TABLE {name} AS SELECT * FROM '{HERE / name}.parquet'")


def by_sql():
    """The answers as a database with an as-of join gives them."""
    db.execute("""
        CREATE TABLE carrier_delays AS
        SELECT DISTINCT carrier, arrived_at, avg(arr_delay) OVER last_day AS mean_arr_delay_1d, count(*) OVER last_day AS flights_1d
        FROM flights WHERE arrived_at IS NOT NULL
        WINDOW last_day AS (PARTITION BY carrier ORDER BY arrived_at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)""")
    # DuckDB's join knows no TTL: the chosen row is dropped afterwards if it was too old.
    db.execute("""
        CREATE TABLE live AS
        SELECT t.flight_id, t.late, w.observed_at IS NOT NULL AS weather, d.arrived_at IS NOT NULL AS delays,
               w.temp, w.visib, d.mean_arr_delay_1d, d.flights_1d
        FROM (SELECT l.flight_id, l.arr_delay > 15 AS late, l.origin, l.carrier, l.scheduled_departure AS at,
                     w.observed_at AS weather_at, d.arrived_at AS delays_at
              FROM flights l
              ASOF LEFT JOIN weather w ON w.origin = l.origin AND l.scheduled_departure >= w.observed_at
              ASOF LEFT JOIN carrier_delays d ON d.carrier = l.carrier AND l.scheduled_departure >= d.arrived_at) t
        LEFT JOIN weather w ON w.origin = t.origin AND w.observed_at = t.weather_at AND t.weather_at >= t.at - INTERVAL '3 hours'
        LEFT JOIN carrier_delays d ON d.carrier = t.carrier AND d.arrived_at = t.delays_at AND t.delays_at >= t.at - INTERVAL '1 day'""")
    names = ["flights", "labelled", "late", "without_weather", "without_delays", "temp_missing", "temp_hundredths",
             "temp_hundredths_by_flight", "visib_hundredths", "mean_arr_delay_micros", "mean_arr_delay_micros_by_flight",
             "flights_1d", "flights_1d_by_flight"]
    row = db.execute("""
        SELECT count(*), count(late), count(*) FILTER (late), count(*) FILTER (NOT weather), count(*) FILTER (NOT delays),
               count(*) FILTER (weather AND temp IS NULL),
               sum(round(temp * 100)::BIGINT), sum(flight_id * round(temp * 100)::BIGINT), sum(round(visib * 100)::BIGINT),
               sum(floor(mean_arr_delay_1d * 1000000)::BIGINT), sum(flight_id * floor(mean_arr_delay_1d * 1000000)::BIGINT),
               sum(flights_1d), sum(flight_id * flights_1d)
        FROM live""").fetchone()
    weather = f"""SELECT {', '.join(WEATHER)} FROM weather
                  WHERE origin = 'JFK' AND observed_at <= $1 AND observed_at >= $1 - INTERVAL '3 hours'
                  ORDER BY observed_at DESC LIMIT 1"""
    return {
        "carrier_delays_rows": db.execute("SELECT count(*) FROM carrier_delays").fetchone()[0],
        "weather_now": named(db.execute(weather, [NOW]).fetchone()),
        "weather_as_of": named(db.execute(weather, [AS_OF]).fetchone()),
        "training_set": {name: int(value) for name, value in zip(names, row)},
    }


def by_loops():
    """The same answers, row by row."""
    flights = db.execute("SELECT flight_id, carrier, origin, scheduled_departure, arr_delay, arrived_at FROM flights").fetchall()
    weather = defaultdict(dict)
    for row in db.execute(f"SELECT {', '.join(WEATHER)} FROM weather").fetchall():
        weather[row[0]][row[1]] = row
    arrivals = defaultdict(list)
    for _, carrier, _, _, arr_delay, arrived_at in flights:
        if arrived_at is not None:
            arrivals[carrier].append((arrived_at, arr_delay))
    delays = defaultdict(dict)
    for carrier, outcomes in arrivals.items():
        outcomes.sort()
        first, end, total = 0, 0, 0
        while end < len(outcomes):
            at = outcomes[end][0]
            while end < len(outcomes) and outcomes[end][0] == at:
                total += outcomes[end][1]
                end += 1
            while outcomes[first][0] < at - DELAYS_WINDOW:
                total -= outcomes[first][1]
                first += 1
            delays[carrier][at] = (total / (end - first), end - first)
    times = {id(history): sorted(history) for view in (weather, delays) for history in view.values()}

    def as_of(history, at, ttl):
        instants = times.get(id(history), [])
        place = bisect.bisect_right(instants, at) - 1
        return history[instants[place]] if place >= 0 and instants[place] >= at - ttl else None

    sums = defaultdict(int)
    for flight_id, carrier, origin, at, arr_delay, _ in flights:
        sums["flights"] += 1
        sums["labelled"] += arr_delay is not None
        sums["late"] += arr_delay is not None and arr_delay > 15
        row = as_of(weather[origin], at, WEATHER_TTL)
        sums["without_weather"] += row is None
        if row is not None:
            temp, visib = row[WEATHER.index("temp")], row[WEATHER.index("visib")]
            sums["temp_missing"] += temp is None
            if temp is not None:
                sums["temp_hundredths"] += round(temp * 100)
                sums["temp_hundredths_by_flight"] += flight_id * round(temp * 100)
            if visib is not None:
                sums["visib_hundredths"] += round(visib * 100)
        row = as_of(delays[carrier], at, DELAYS_TTL)
        sums["without_delays"] += row is None
        if row is not None:
            mean, count = row
            sums["mean_arr_delay_micros"] += math.floor(mean * 1_000_000)
            sums["mean_arr_delay_micros_by_flight"] += flight_id * math.floor(mean * 1_000_000)
            sums["flights_1d"] += count
            sums["flights_1d_by_flight"] += flight_id * count
    return {
        "carrier_delays_rows": sum(len(history) for history in delays.values()),
        "weather_now": named(as_of(weather["JFK"], NOW, WEATHER_TTL)),
        "weather_as_of": named(as_of(weather["JFK"], AS_OF, WEATHER_TTL)),
        "training_set": dict(sums),
    }


def named(row):
    """A weather row as JSON can hold it."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in zip(WEATHER, row)}


sql, loops = by_sql(), by_loops()
assert sql == loops, f"the two computations disagree:\n{sql}\n{loops}"
answers = {"now": NOW.isoformat(), "as_of": AS_OF.isoformat(), **sql}
(HERE / "expected.json").write_text(json.dumps(answers, indent=2) + "\n")
print((HERE / "expected.json").read_text())

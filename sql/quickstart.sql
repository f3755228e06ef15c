-- Tidegate in one session: New York's flights and weather of 2013. `make demo` runs it; so does a test.
-- The gateway's clock stands at 2013-12-31 00:00 UTC, and the paths are relative to the folder it was started in.

-- Who has features: an airport, a carrier.
CREATE ENTITY airport KEY (origin TEXT) COMMENT 'an airport, by its IATA code';
CREATE ENTITY carrier KEY (carrier TEXT) COMMENT 'an airline, by its IATA code';

-- What is known of them, and for how long it holds.
CREATE FEATURE VIEW airport_weather (
    temp        DOUBLE PRECISION COMMENT 'degrees Fahrenheit',
    dewp        DOUBLE PRECISION COMMENT 'dew point, degrees Fahrenheit',
    humid       DOUBLE PRECISION COMMENT 'relative humidity, per cent',
    wind_dir    BIGINT           COMMENT 'where the wind comes from, degrees',
    wind_speed  DOUBLE PRECISION COMMENT 'miles an hour',
    wind_gust   DOUBLE PRECISION COMMENT 'miles an hour; NULL without gusts',
    precip      DOUBLE PRECISION COMMENT 'inches in the last hour',
    pressure    DOUBLE PRECISION COMMENT 'at sea level, millibars',
    visib       DOUBLE PRECISION COMMENT 'how far one sees, miles'
) ENTITY airport EVENT TIME observed_at TTL INTERVAL '3 hours' COMMENT 'hourly observations';

CREATE FEATURE VIEW carrier_delays (
    mean_arr_delay_1d  DOUBLE PRECISION COMMENT 'mean arrival delay of the flights of the last day, minutes',
    flights_1d         BIGINT           COMMENT 'how many flights arrived in the last day'
) ENTITY carrier EVENT TIME arrived_at TTL INTERVAL '1 day' COMMENT 'how late a carrier runs';

-- Where the rows come from.
CREATE EXTERNAL TABLE weather STORED AS PARQUET LOCATION 'examples/nycflights13/weather.parquet';
CREATE EXTERNAL TABLE flights STORED AS PARQUET LOCATION 'examples/nycflights13/flights.parquet';

-- The weather as it was observed.
INSERT INTO airport_weather
SELECT origin, observed_at, temp, dewp, humid, wind_dir, wind_speed, wind_gust, precip, pressure, visib FROM weather;

-- Each arrival makes its carrier's last day known anew. Its event time is the arrival: before it, nobody knew the outcome.
INSERT INTO carrier_delays (carrier, arrived_at, mean_arr_delay_1d, flights_1d)
SELECT DISTINCT carrier, arrived_at, avg(arr_delay) OVER last_day, count(*) OVER last_day
FROM flights
WHERE arrived_at IS NOT NULL
WINDOW last_day AS (PARTITION BY carrier ORDER BY arrived_at RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW);

-- What a model is to learn: was the flight over 15 minutes late?
CREATE VIEW flight_labels AS
SELECT flight_id, origin, carrier, scheduled_departure, arr_delay > 15 AS late FROM flights;

-- What is the weather at JFK now? Asked by key, the view answers from the online store.
SELECT observed_at, temp, wind_speed, visib FROM airport_weather WHERE origin = 'JFK';
EXPLAIN SELECT observed_at, temp, wind_speed, visib FROM airport_weather WHERE origin = 'JFK';

-- What was it on 9 February, at the end of the blizzard? As of an instant, the same view answers from its history.
SELECT observed_at, temp, wind_speed, visib FROM airport_weather AS OF TIMESTAMPTZ '2013-02-09 12:00Z' WHERE origin = 'JFK';
EXPLAIN SELECT observed_at, temp, wind_speed, visib FROM airport_weather AS OF TIMESTAMPTZ '2013-02-09 12:00Z' WHERE origin = 'JFK';

-- The training set: for each of the 336,776 flights, what was known when it was to depart.
SELECT count(*) AS flights, count(w.observed_at) AS with_weather, count(d.arrived_at) AS with_delays, avg(d.mean_arr_delay_1d)::numeric(6, 2) AS mean_delay
FROM flight_labels l
LEFT JOIN airport_weather AS OF l.scheduled_departure AS w ON w.origin = l.origin
LEFT JOIN carrier_delays AS OF l.scheduled_departure AS d ON d.carrier = l.carrier;
EXPLAIN SELECT l.flight_id, l.late, w.temp, w.wind_speed, w.visib, d.mean_arr_delay_1d, d.flights_1d
FROM flight_labels l
LEFT JOIN airport_weather AS OF l.scheduled_departure AS w ON w.origin = l.origin
LEFT JOIN carrier_delays AS OF l.scheduled_departure AS d ON d.carrier = l.carrier;

-- Kept as a table, it can be looked at: do late carriers stay late?
CREATE TABLE training_set AS
SELECT l.flight_id, l.late, w.temp, w.wind_speed, w.visib, d.mean_arr_delay_1d, d.flights_1d
FROM flight_labels l
LEFT JOIN airport_weather AS OF l.scheduled_departure AS w ON w.origin = l.origin
LEFT JOIN carrier_delays AS OF l.scheduled_departure AS d ON d.carrier = l.carrier;

SELECT CASE WHEN mean_arr_delay_1d < 0 THEN 'early' WHEN mean_arr_delay_1d < 15 THEN 'up to 15 minutes late' ELSE 'later' END AS last_day,
       count(*) AS flights, count(*) FILTER (WHERE late) AS late_flights
FROM training_set
WHERE late IS NOT NULL AND mean_arr_delay_1d IS NOT NULL
GROUP BY last_day
ORDER BY min(mean_arr_delay_1d);

-- What a model reads is one table: a feature service over both views. By key it is one lookup; to it, the training set is one join.
CREATE FEATURE SERVICE delay_input AS
SELECT w.temp, w.visib, coalesce(w.wind_gust, w.wind_speed) AS wind, d.mean_arr_delay_1d FROM airport_weather w, carrier_delays d;
SELECT origin, carrier, visib, wind::numeric(6, 2), mean_arr_delay_1d::numeric(6, 2) FROM delay_input WHERE origin = 'JFK' AND carrier IN ('B6', 'UA');
SELECT count(*) AS flights, count(f.wind) AS with_wind, avg(f.mean_arr_delay_1d)::numeric(6, 2) AS mean_delay
FROM flight_labels l
LEFT JOIN delay_input AS OF l.scheduled_departure AS f USING (origin, carrier);

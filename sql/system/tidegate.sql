-- What this feature store holds, for people.

CREATE TABLE tidegate.entities (
    name text NOT NULL, keys text[] NOT NULL, key_types text[] NOT NULL, comment text
) WITH (oid = 13100, kind = 'v');

CREATE TABLE tidegate.feature_views (
    name text NOT NULL, entities text[] NOT NULL, keys text[] NOT NULL, event_time text NOT NULL, ttl interval,
    online boolean NOT NULL, features bigint NOT NULL, owner text, tags text, comment text
) WITH (oid = 13101, kind = 'v');

CREATE TABLE tidegate.features (
    feature_view text NOT NULL, name text NOT NULL, ordinal integer NOT NULL, data_type text NOT NULL, check_condition text,
    comment text
) WITH (oid = 13102, kind = 'v');

CREATE TABLE tidegate.tags (
    feature_view text NOT NULL, tag text NOT NULL, version bigint NOT NULL
) WITH (oid = 13103, kind = 'v');

CREATE TABLE tidegate.feature_services (
    name text NOT NULL, feature_views text[] NOT NULL, entities text[] NOT NULL, keys text[] NOT NULL, columns text[] NOT NULL,
    owner text, tags text, comment text, definition text NOT NULL
) WITH (oid = 13106, kind = 'v');

-- How the online store is now. The times are those of this gateway's last 1,024 calls; keys and memory are all that the server
-- has, others' too.
CREATE TABLE tidegate.online_store (
    kind text NOT NULL, address text, version text, connected boolean NOT NULL, obstacle text, memory_bytes bigint, keys bigint,
    latency_p50_ms double precision, latency_p99_ms double precision, lookups_short bigint NOT NULL, lookups_planned bigint NOT NULL
) WITH (oid = 13104, kind = 'v');

-- How far each view's online rows are behind its history. The columns from newest_event_time on cost a look at every row: of
-- the history for newest_event_time and rows, of the online store for keys and expired. They are computed where they are read.
CREATE TABLE tidegate.freshness (
    feature_view text NOT NULL, online boolean NOT NULL, state text, newest_version bigint NOT NULL, applied_version bigint,
    newest_commit timestamptz, lag_commits bigint, lag_seconds double precision, newest_event_time timestamptz, rows bigint,
    keys bigint, expired bigint
) WITH (oid = 13105, kind = 'v');

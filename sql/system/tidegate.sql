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

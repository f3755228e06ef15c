\set ON_ERROR_STOP on
CREATE ENTITY customer KEY (customer_id BIGINT) COMMENT 'a person with an account';
CREATE FEATURE VIEW spend (amount DOUBLE PRECISION COMMENT 'in euros', plan TEXT) ENTITY customer TTL INTERVAL '1 day';
PREPARE add (BIGINT, TIMESTAMPTZ, DOUBLE PRECISION) AS INSERT INTO spend (customer_id, event_time, amount) VALUES ($1, $2, $3);
EXECUTE add (7, '2025-12-31 12:00Z', 0.1);
COPY spend (customer_id, event_time, amount, plan) FROM STDIN (FORMAT csv, HEADER);
customer_id,event_time,amount,plan
7,2025-12-31 11:00:00Z,0.05,free
8,2025-12-31 11:00:00Z,,"paid, yearly"
\.
SELECT * FROM spend WHERE customer_id = 7;
SELECT * FROM spend AS OF TIMESTAMPTZ '2025-12-31 11:30Z' ORDER BY customer_id;
CREATE TABLE labels (id INTEGER, customer_id BIGINT, ts TIMESTAMPTZ);
INSERT INTO labels VALUES (1, 7, '2025-12-31 11:30Z'), (2, 7, '2025-12-31 13:00Z'), (3, 9, '2025-12-31 13:00Z');
SELECT l.id, f.amount FROM labels l LEFT JOIN spend AS OF l.ts AS f ON f.customer_id = l.customer_id ORDER BY l.id;
\d spend
\dt

-- What the kill test runs: windows and joins over two topics, into PostgreSQL and Kafka. The names in braces are put in.
SET 'checkpoint.work' = '400 ms';
SET 'log.segment-bytes' = '64 kb';

CREATE TABLE payments (
  id VARCHAR, card VARCHAR, amount DECIMAL(12, 2), ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '{payments}', 'properties.bootstrap.servers' = '{servers}',
  'scan.startup.mode' = 'earliest-offset', 'scan.watermark.idle-timeout' = '0', 'format' = 'json'
);
CREATE TABLE logins (
  id VARCHAR, card VARCHAR, device VARCHAR, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '2' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = '{logins}', 'properties.bootstrap.servers' = '{servers}',
  'scan.startup.mode' = 'earliest-offset', 'scan.watermark.idle-timeout' = '0', 'format' = 'json'
);
CREATE VIEW once AS SELECT id, card, amount, ts FROM DEDUP(payments, DESCRIPTOR(id), DESCRIPTOR(ts), INTERVAL '5' MINUTE);

-- Sliding windows over rows that are there once.
CREATE TABLE minutes (card VARCHAR, window_end TIMESTAMP(3), n BIGINT, total DECIMAL(22, 2), PRIMARY KEY (card, window_end) NOT ENFORCED)
WITH ('connector' = 'postgres', 'url' = '{postgres}', 'table-name' = '{schema}.minutes', 'sink.create-table' = 'true');
INSERT INTO minutes
SELECT card, window_end, count(*), sum(amount) FROM HOP(once, ts, INTERVAL '10' SECOND, INTERVAL '1' MINUTE)
GROUP BY card, window_start, window_end;

-- An interval join: each payment with the logins of the five seconds before it, or with none.
CREATE TABLE paired (payment VARCHAR, login VARCHAR, card VARCHAR)
WITH ('connector' = 'kafka', 'topic' = '{paired}', 'properties.bootstrap.servers' = '{servers}', 'key.format' = 'raw', 'key.fields' = 'card', 'format' = 'json');
INSERT INTO paired
SELECT p.id, l.id, p.card FROM once p LEFT JOIN logins l
ON p.card = l.card AND l.ts BETWEEN p.ts - INTERVAL '5' SECOND AND p.ts;

-- A join of windows.
CREATE TABLE busy (card VARCHAR, window_end TIMESTAMP(3), payments BIGINT, logins BIGINT)
WITH ('connector' = 'postgres', 'url' = '{postgres}', 'table-name' = '{schema}.busy', 'sink.create-table' = 'true');
INSERT INTO busy
SELECT p.card, p.window_end, p.n, l.n FROM
  (SELECT card, window_start, window_end, count(*) AS n FROM TUMBLE(payments, ts, INTERVAL '20' SECOND) GROUP BY card, window_start, window_end) p
JOIN
  (SELECT card, window_start, window_end, count(*) AS n FROM TUMBLE(logins, ts, INTERVAL '20' SECOND) GROUP BY card, window_start, window_end) l
ON p.window_start = l.window_start AND p.window_end = l.window_end AND p.card = l.card;

-- Rows that come, change and go.
CREATE TABLE balances (card VARCHAR, n BIGINT, total DECIMAL(22, 2), PRIMARY KEY (card) NOT ENFORCED)
WITH ('connector' = 'postgres', 'url' = '{postgres}', 'table-name' = '{schema}.balances', 'sink.create-table' = 'true');
INSERT INTO balances SELECT card, count(*) AS n, sum(amount) AS total FROM once GROUP BY card HAVING count(*) % 3 <> 0;

CREATE TABLE devices (device VARCHAR, n BIGINT, PRIMARY KEY (device) NOT ENFORCED)
WITH ('connector' = 'upsert-kafka', 'topic' = '{devices}', 'properties.bootstrap.servers' = '{servers}', 'key.format' = 'raw', 'value.format' = 'json');
INSERT INTO devices SELECT device, count(*) AS n FROM logins GROUP BY device HAVING count(*) % 2 = 0;

-- What is part of no answer.
CREATE TABLE tardy (part VARCHAR, off BIGINT, raw VARCHAR)
WITH ('connector' = 'postgres', 'url' = '{postgres}', 'table-name' = '{schema}.tardy', 'sink.create-table' = 'true');
INSERT INTO tardy SELECT "partition", CAST("offset" AS BIGINT), raw FROM minutes$late;
CREATE TABLE dead_letters (raw VARCHAR)
WITH ('connector' = 'kafka', 'topic' = '{letters}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'raw');
INSERT INTO dead_letters SELECT raw FROM payments$rejected WHERE "query" = 'minutes';

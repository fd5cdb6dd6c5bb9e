-- Payments come from Kafka. How much each card spent in each sliding minute goes to PostgreSQL, suspicious minutes to
-- another topic, and what could not be read to a dead letter topic. Every row is there once, whatever dies and when.
CREATE TABLE payments (
  id BIGINT, card VARCHAR, amount DECIMAL(12, 2), ts TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '2' SECOND
) WITH (
  'connector' = 'kafka', 'topic' = 'payments', 'properties.bootstrap.servers' = '${env:KAFKA}',
  'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
);

CREATE TABLE card_minutes (
  card VARCHAR, window_end TIMESTAMP(3), payments BIGINT, total DECIMAL(22, 2),
  PRIMARY KEY (card, window_end) NOT ENFORCED
) WITH (
  'connector' = 'postgres', 'url' = '${env:POSTGRES}', 'table-name' = 'card_minutes', 'sink.create-table' = 'true'
);

CREATE TABLE alerts (card VARCHAR, window_end TIMESTAMP(3), payments BIGINT) WITH (
  'connector' = 'kafka', 'topic' = 'alerts', 'properties.bootstrap.servers' = '${env:KAFKA}',
  'key.format' = 'raw', 'key.fields' = 'card', 'format' = 'json'
);

CREATE TABLE dead_letters (reason VARCHAR, raw VARCHAR) WITH (
  'connector' = 'kafka', 'topic' = 'dead-letters', 'properties.bootstrap.servers' = '${env:KAFKA}', 'format' = 'json'
);

INSERT INTO card_minutes
SELECT card, window_end, count(*), sum(amount)
FROM HOP(payments, ts, INTERVAL '10' SECOND, INTERVAL '1' MINUTE)
GROUP BY card, window_start, window_end;

INSERT INTO alerts
SELECT card, window_end, count(*)
FROM HOP(payments, ts, INTERVAL '10' SECOND, INTERVAL '1' MINUTE)
GROUP BY card, window_start, window_end
HAVING count(*) > 25;

INSERT INTO dead_letters SELECT reason, raw FROM payments$rejected WHERE "query" = 'alerts';

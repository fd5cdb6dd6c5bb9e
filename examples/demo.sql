-- Card transactions, and the cards that look stolen: many transactions, or a large sum, within a sliding minute.
--
-- The stream is generated. It holds malformed and late rows on purpose: they are left out, counted, and can be
-- looked at with   millstream sql --state millstream-demo/state -c 'SELECT * FROM transactions$rejected'

CREATE TABLE transactions (
  tx_id    BIGINT,
  card     VARCHAR,
  merchant VARCHAR,
  amount   DECIMAL(10, 2),
  country  VARCHAR,
  ts       TIMESTAMP(3),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH (
  'connector' = 'demo-cards',
  'rows-per-second' = '5000',
  'time-scale' = '10',
  'number-of-rows' = '3000000'
);

CREATE TABLE alerts (
  card         VARCHAR,
  window_start TIMESTAMP(3),
  window_end   TIMESTAMP(3),
  transactions BIGINT,
  total        DECIMAL(20, 2)
) WITH (
  'connector' = 'filesystem',
  'path' = 'millstream-demo/alerts.ndjson',
  'format' = 'json',
  'sink.layout' = 'append'
);

INSERT INTO alerts
SELECT card, window_start, window_end, count(*) AS transactions, sum(amount) AS total
FROM HOP(transactions, ts, INTERVAL '10' SECOND, INTERVAL '1' MINUTE)
GROUP BY card, window_start, window_end
HAVING count(*) >= 10 OR sum(amount) > 3000;

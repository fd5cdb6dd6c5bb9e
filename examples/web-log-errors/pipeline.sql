-- Requests, errors and the slowest answer of each minute of a web log. A minute is answered once, when a request 5
-- seconds past its end was seen; what comes after that is late and kept aside, with the lines that are no requests:
--
--   millstream run pipeline.sql
--   millstream sql --state pipeline.sql -c 'SELECT line, reason, raw FROM requests$rejected'
--   millstream sql --state pipeline.sql -c 'SELECT line, reason FROM errors$late'

CREATE TABLE requests (
  path   VARCHAR,
  status INT,
  ms     INT NOT NULL,
  epoch  BIGINT,
  ts     AS TO_TIMESTAMP_LTZ(epoch, 0),
  WATERMARK FOR ts AS ts - INTERVAL '5' SECOND
) WITH ('connector' = 'filesystem', 'path' = 'access.ndjson', 'format' = 'json');

CREATE TABLE errors (minute VARCHAR, requests BIGINT, errors BIGINT, slowest INT) WITH (
  'connector' = 'filesystem', 'path' = 'errors.csv', 'format' = 'csv', 'csv.header' = 'true', 'sink.layout' = 'append'
);

INSERT INTO errors
SELECT DATE_FORMAT(window_start, 'HH:mm'), count(*), count(*) FILTER (WHERE status >= 500), max(ms)
FROM TUMBLE(requests, ts, INTERVAL '1' MINUTE)
GROUP BY window_start, window_end;

-- CSV files to Parquet, a directory a day. The source follows orders/, so that each run takes what is new there and
-- stops: put it into cron, or leave the trigger out and let it run. A file must be moved in whole, or grow by lines.
--
--   millstream run --trigger available-now pipeline.sql
--   millstream sql -c "SELECT * FROM 'lake/*/*.parquet'"

CREATE TABLE orders (
  id       BIGINT NOT NULL,
  customer VARCHAR,
  amount   DECIMAL(10, 2),
  at       TIMESTAMP(0)
) WITH ('connector' = 'filesystem', 'path' = 'orders', 'format' = 'csv', 'csv.header' = 'true',
        'source.monitor-interval' = '10 s');

CREATE TABLE lake (id BIGINT, customer VARCHAR, amount DECIMAL(10, 2), at TIMESTAMP(0), day DATE)
PARTITIONED BY (day)
WITH ('connector' = 'filesystem', 'path' = 'lake', 'format' = 'parquet');

INSERT INTO lake
SELECT id, customer, amount, at, CAST(at AS DATE) AS day FROM orders WHERE amount > 0;

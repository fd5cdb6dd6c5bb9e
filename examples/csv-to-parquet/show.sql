SELECT * FROM 'lake/day=2026-01-05/*.parquet' ORDER BY id;
SELECT * FROM 'lake/*/*.parquet' ORDER BY id;
SELECT partition, line, reason FROM orders$rejected

SELECT word, sum(CASE WHEN op IN ('+I', '+U') THEN n ELSE -n END) AS n
FROM 'counts.ndjson' GROUP BY word HAVING sum(CASE WHEN op IN ('+I', '+U') THEN n ELSE -n END) > 1 ORDER BY n DESC, word

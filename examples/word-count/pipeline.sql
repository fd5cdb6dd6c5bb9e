-- Words and how often they were seen, over a file that is followed: append a line, and the counts move.
--
--   millstream run pipeline.sql                            # until Ctrl-C
--   echo 'to be continued' >> text.txt

CREATE TABLE text (line VARCHAR) WITH (
  'connector' = 'filesystem', 'path' = 'text.txt', 'format' = 'raw', 'source.monitor-interval' = '1 s'
);

CREATE TABLE counts (word VARCHAR, n BIGINT) WITH (
  'connector' = 'filesystem', 'path' = 'counts.ndjson', 'format' = 'json', 'sink.layout' = 'append'
);

CREATE VIEW words AS
SELECT word FROM (SELECT unnest(string_to_array(regexp_replace(lower(line), '[^a-z]+', ' ', 'g'), ' ')) AS word FROM text)
WHERE word <> '';

INSERT INTO counts SELECT word, count(*) FROM words GROUP BY word;

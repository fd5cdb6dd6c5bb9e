//! The pairs of source and sink: the SQL, the input, and the answer as the test works it out.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;

use crate::data::{self, Expected, Line, Rng, Row, Syntax, Windows};
use crate::output::Kind;

const TUMBLING_WINDOWS: Windows = Windows { slide_ms: 10_000, size_ms: 10_000, delay_ms: 2_000 };
const SLIDING_WINDOWS: Windows = Windows { slide_ms: 5_000, size_ms: 15_000, delay_ms: 2_000 };
const WINDOW_COLUMNS: &[&str] = &["k", "window_start", "window_end", "n", "total"];

/// Where the rows come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Ndjson,
    Gzip,
    Zstd,
    Csv,
    Parquet,
    Datagen,
    Nexmark,
    /// A file that grows while it is followed.
    Growing,
    /// A directory to which files are added while it is followed.
    Directory,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    Tumbling,
    Sliding,
    /// Row by row; rows on which the division fails are left out.
    Division,
    /// Row by row.
    Filter,
    /// By key, without a window.
    Grouped,
}

/// A pair of source and sink.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub source: Source,
    pub question: Question,
    pub sink: Kind,
}

pub const CASES: &[Case] = &[
    Case { source: Source::Ndjson, question: Question::Tumbling, sink: Kind::Append },
    Case { source: Source::Growing, question: Question::Sliding, sink: Kind::Json },
    Case { source: Source::Gzip, question: Question::Division, sink: Kind::Parquet },
    Case { source: Source::Csv, question: Question::Filter, sink: Kind::PartitionedCsv },
    Case { source: Source::Datagen, question: Question::Tumbling, sink: Kind::Parquet },
    Case { source: Source::Ndjson, question: Question::Grouped, sink: Kind::Changelog },
    Case { source: Source::Growing, question: Question::Tumbling, sink: Kind::Append },
    Case { source: Source::Csv, question: Question::Tumbling, sink: Kind::PartitionedCsv },
    Case { source: Source::Parquet, question: Question::Tumbling, sink: Kind::Append },
    Case { source: Source::Zstd, question: Question::Sliding, sink: Kind::Json },
    Case { source: Source::Nexmark, question: Question::Grouped, sink: Kind::Changelog },
    Case { source: Source::Directory, question: Question::Filter, sink: Kind::Append },
];

impl Case {
    pub fn name(&self) -> String {
        format!("{:?}, {:?}, {:?}", self.source, self.question, self.sink).to_lowercase()
    }

    /// Where the output lies.
    pub fn output(&self) -> &'static str {
        match self.sink {
            Kind::Append | Kind::Changelog => "out.ndjson",
            _ => "out",
        }
    }

    pub fn columns(&self) -> &'static [&'static str] {
        match self.question {
            Question::Tumbling | Question::Sliding => WINDOW_COLUMNS,
            Question::Division => &["id", "k", "w", "ts"],
            Question::Filter => &["k", "id", "v", "ts"],
            Question::Grouped => &["k", "n", "total"],
        }
    }

    pub fn followed(&self) -> bool {
        matches!(self.source, Source::Growing | Source::Directory)
    }

    /// Lines of the input.
    pub fn lines(&self, rng: &mut Rng, count: usize) -> Vec<Line> {
        let syntax = if self.source == Source::Csv { Syntax::Csv } else { Syntax::Json };
        match self.source {
            Source::Datagen => return generated(count),
            Source::Nexmark => return nexmark(count),
            _ => {}
        }
        let mut lines = data::lines(rng, syntax, count, 0, &mut 0);
        // A file of columns has no malformed lines.
        lines.retain(|line| self.source != Source::Parquet || line.row.is_some());
        lines
    }

    /// Puts the whole input there; what grows is begun.
    pub fn write_input(&self, dir: &Path, lines: &[Line]) {
        let text = data::file(lines);
        match self.source {
            Source::Ndjson => fs::write(dir.join("in.ndjson"), text).unwrap(),
            Source::Csv => fs::write(dir.join("in.csv"), text).unwrap(),
            Source::Growing => fs::write(dir.join("in.ndjson"), "").unwrap(),
            Source::Gzip => {
                let file = fs::File::create(dir.join("in.ndjson.gz")).unwrap();
                let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
                gzip.write_all(text.as_bytes()).unwrap();
                gzip.finish().unwrap();
            }
            Source::Zstd => fs::write(dir.join("in.ndjson.zst"), zstd_frame(text.as_bytes())).unwrap(),
            Source::Parquet => write_parquet(&dir.join("in.parquet"), lines),
            Source::Directory => fs::create_dir(dir.join("in")).unwrap(),
            Source::Datagen | Source::Nexmark => {}
        }
    }

    /// Adds lines to what is followed.
    pub fn add(&self, dir: &Path, lines: &[Line], rng: &mut Rng, pause: Duration) {
        if self.source == Source::Growing {
            return grow(&dir.join("in.ndjson"), &data::file(lines), rng, pause);
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let (some, after) = rest.split_at((1 + rng.below(150) as usize).min(rest.len()));
            let name = format!("{:016x}.ndjson", rng.next());
            // A file is there whole, as whoever puts files into a directory takes care of.
            fs::write(dir.join(&name), data::file(some)).unwrap();
            fs::rename(dir.join(&name), dir.join("in").join(&name)).unwrap();
            rest = after;
            std::thread::sleep(pause * 10);
        }
    }

    /// What the answer is, over these lines.
    pub fn expected(&self, lines: &[Line]) -> Expected {
        let ended = !self.followed();
        match self.question {
            Question::Tumbling => data::windowed(lines.iter(), TUMBLING_WINDOWS, ended),
            Question::Sliding => data::windowed(lines.iter(), SLIDING_WINDOWS, ended),
            Question::Grouped => data::grouped(lines.iter()),
            Question::Division => data::mapped(lines, |row| {
                let share = 1000_i64.checked_div(row.value)?;
                Some(format!("{}|{}|{share}|{}", row.id, row.key, time(row)))
            }),
            Question::Filter => filtered(lines),
        }
    }

    pub fn sql(&self, rows: usize) -> String {
        format!("{}\n{}\n{}", self.source_sql(rows), self.sink_sql(), self.insert_sql())
    }

    fn source_sql(&self, rows: usize) -> String {
        let with = match self.source {
            Source::Ndjson => "'connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json'".to_string(),
            Source::Gzip => "'connector' = 'filesystem', 'path' = 'in.ndjson.gz', 'format' = 'json'".to_string(),
            Source::Csv => "'connector' = 'filesystem', 'path' = 'in.csv', 'format' = 'csv'".to_string(),
            Source::Zstd => "'connector' = 'filesystem', 'path' = 'in.ndjson.zst', 'format' = 'json'".to_string(),
            Source::Parquet => "'connector' = 'filesystem', 'path' = 'in.parquet', 'format' = 'parquet'".to_string(),
            Source::Nexmark => format!("'connector' = 'nexmark', 'events.num' = '{rows}'"),
            Source::Directory => "'connector' = 'filesystem', 'path' = 'in', 'format' = 'json', \
                                  'source.monitor-interval' = '5 ms'"
                .to_string(),
            Source::Growing => "'connector' = 'filesystem', 'path' = 'in.ndjson', 'format' = 'json', \
                                'source.monitor-interval' = '5 ms'"
                .to_string(),
            Source::Datagen => format!(
                "'connector' = 'datagen', 'rows-per-second' = '0', 'number-of-rows' = '{rows}', \
                 'fields.id.kind' = 'sequence', 'fields.id.start' = '0', 'fields.id.end' = '{rows}', \
                 'fields.ts.step' = '100 ms'"
            ),
        };
        if self.source == Source::Nexmark {
            return format!("CREATE TABLE src (event_type INT) WITH ({with});");
        }
        let timed = matches!(self.question, Question::Tumbling | Question::Sliding);
        let watermark = if timed { ", WATERMARK FOR ts AS ts - INTERVAL '2' SECOND" } else { "" };
        let columns = if self.source == Source::Datagen { "id BIGINT" } else { "id BIGINT, k VARCHAR, v BIGINT" };
        format!("CREATE TABLE src ({columns}, ts TIMESTAMP(3){watermark}) WITH ({with});")
    }

    fn sink_sql(&self) -> String {
        let columns = match self.question {
            Question::Tumbling | Question::Sliding => {
                "k VARCHAR, window_start TIMESTAMP(3), window_end TIMESTAMP(3), n BIGINT, total BIGINT"
            }
            Question::Division => "id BIGINT, k VARCHAR, w BIGINT, ts TIMESTAMP(3)",
            Question::Filter => "k VARCHAR, id BIGINT, v BIGINT, ts TIMESTAMP(3)",
            Question::Grouped => "k VARCHAR, n BIGINT, total BIGINT",
        };
        let (partitioned, format) = match self.sink {
            Kind::Append | Kind::Changelog => ("", "'format' = 'json', 'sink.layout' = 'append'"),
            Kind::Json => ("", "'format' = 'json'"),
            Kind::PartitionedCsv => ("PARTITIONED BY (k) ", "'format' = 'csv'"),
            Kind::Parquet => ("", "'format' = 'parquet'"),
        };
        let path = self.output();
        format!(
            "CREATE TABLE answer ({columns}) {partitioned}WITH ('connector' = 'filesystem', 'path' = '{path}', {format});"
        )
    }

    fn insert_sql(&self) -> String {
        let (key, value) = match self.source {
            Source::Datagen => ("CAST(id % 7 AS VARCHAR)", "id"),
            _ => ("k", "v"),
        };
        if self.source == Source::Nexmark {
            return "INSERT INTO answer SELECT CAST(event_type AS VARCHAR) AS k, count(*) AS n, sum(event_type) AS total \
                    FROM src GROUP BY event_type;"
                .to_string();
        }
        let windows = |function: &str| {
            format!(
                "INSERT INTO answer SELECT {key} AS k, window_start, window_end, count(*) AS n, sum({value}) AS total \
                 FROM {function} GROUP BY {key}, window_start, window_end;"
            )
        };
        match self.question {
            Question::Tumbling => windows("TUMBLE(src, ts, INTERVAL '10' SECOND)"),
            Question::Sliding => windows("HOP(src, ts, INTERVAL '5' SECOND, INTERVAL '15' SECOND)"),
            Question::Division => "INSERT INTO answer SELECT id, k, 1000 / v AS w, ts FROM src;".to_string(),
            Question::Filter => "INSERT INTO answer SELECT k, id, v, ts FROM src WHERE v >= 20;".to_string(),
            // The time is read, so that a line with a wrong one is malformed here too.
            Question::Grouped => "INSERT INTO answer SELECT k, count(*) AS n, sum(v) AS total FROM src \
                                  WHERE coalesce(ts, TIMESTAMP '2026-01-01 00:00:00') > TIMESTAMP '2020-01-01 00:00:00' \
                                  GROUP BY k;"
                .to_string(),
        }
    }
}

/// Appends these bytes in uneven pieces, most of which end within a line.
fn grow(path: &Path, text: &str, rng: &mut Rng, pause: Duration) {
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + rng.below(4_000) as usize).min(rest.len()));
        file.write_all(piece).unwrap();
        rest = after;
        std::thread::sleep(pause);
    }
}

fn generated(count: usize) -> Vec<Line> {
    let row = |id: i64| Row { id, key: (id % 7).to_string(), value: id, time_ms: Some(data::BASE_MS + id * 100) };
    (0..).take(count).map(|id| Line { text: String::new(), row: Some(row(id)) }).collect()
}

/// Of fifty events one is a person (0), three are auctions (1) and the others bids (2).
fn nexmark(count: usize) -> Vec<Line> {
    let kind = |n: i64| match n % 50 {
        0 => 0,
        1..=3 => 1,
        _ => 2,
    };
    let row = |n: i64| Row { id: n, key: kind(n).to_string(), value: kind(n), time_ms: None };
    (0..).take(count).map(|n| Line { text: String::new(), row: Some(row(n)) }).collect()
}

/// A frame of zstd (RFC 8878) whose blocks are stored as they are.
fn zstd_frame(bytes: &[u8]) -> Vec<u8> {
    // The magic number; a header without a size; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let blocks: Vec<&[u8]> = bytes.chunks(50_000).collect();
    for (n, block) in blocks.iter().enumerate() {
        let header = u32::from(n + 1 == blocks.len()) | u32::try_from(block.len()).unwrap() << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(block);
    }
    frame
}

fn write_parquet(path: &Path, lines: &[Line]) {
    let rows: Vec<&Row> = lines.iter().filter_map(|line| line.row.as_ref()).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("id", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.id)))),
        ("k", Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.key.as_str())))),
        ("v", Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.value)))),
        ("ts", Arc::new(TimestampMillisecondArray::from_iter(rows.iter().map(|r| r.time_ms)))),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true))).unwrap();
    let few = WriterProperties::builder().set_max_row_group_row_count(Some(700)).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), batch.schema(), Some(few)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn filtered(lines: &[Line]) -> Expected {
    let mut expected = data::mapped(lines, |row| Some(format!("{}|{}|{}|{}", row.key, row.id, row.value, time(row))));
    expected.rows.retain(|row| row.split('|').nth(2).is_some_and(|value| value.parse::<i64>().unwrap() >= 20));
    expected
}

fn time(row: &Row) -> String {
    row.time_ms.map_or("null".to_string(), data::shown)
}

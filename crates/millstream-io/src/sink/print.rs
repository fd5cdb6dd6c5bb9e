//! The 'print' connector: rows on the terminal, for a person or a pipe.
//!
//! At least once: it keeps no marker, so what is run again after a crash is printed again.
//!
//! `'print.format'` is `table` (a table a batch), `changelog` (a line a row, as Flink prints: `+I[a, 1]`), or
//! `json` (a line a row). By default a changelog is printed as one, and new rows as a table.

use std::io::Write;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use millstream_core::format::Encoder;
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{Error, Result};

use crate::Options;

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrintFormat {
    /// A table a batch.
    Table,
    /// A line a row: `+I[a, 1]`.
    Changelog,
    /// A JSON object a row.
    Json,
}

/// Writes rows to a terminal, or to any other writer.
pub struct PrintSink {
    shape: Shape,
    writer: Box<dyn Write + Send>,
    buffer: Vec<u8>,
}

enum Shape {
    Table,
    Changelog,
    Json(Box<dyn Encoder>),
}

impl PrintSink {
    /// Prints to standard output as the options say.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where `'print.format'` is another word.
    pub fn from_options(options: &Options, kind: OutputKind, schema: &SchemaRef) -> Result<Self> {
        let words = [("table", PrintFormat::Table), ("changelog", PrintFormat::Changelog), ("json", PrintFormat::Json)];
        let by_default = match kind {
            OutputKind::Append => PrintFormat::Table,
            OutputKind::Changelog => PrintFormat::Changelog,
        };
        let format = options.one_of("print.format", &words)?.unwrap_or(by_default);
        Self::new(format, schema, Box::new(std::io::stdout()))
    }

    /// Prints rows of this schema to a writer.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a column has no place in the format.
    pub fn new(format: PrintFormat, schema: &SchemaRef, writer: Box<dyn Write + Send>) -> Result<Self> {
        let shape = match format {
            PrintFormat::Table => Shape::Table,
            PrintFormat::Changelog => Shape::Changelog,
            PrintFormat::Json => {
                let options: Options = [("format", "json")].into_iter().collect();
                Shape::Json(crate::format::encoder(&options, schema)?)
            }
        };
        Ok(Self { shape, writer, buffer: Vec::new() })
    }

    fn render(&mut self, output: &Output) -> Result<()> {
        self.buffer.clear();
        if output.rows() == 0 {
            return Ok(());
        }
        match &mut self.shape {
            Shape::Table => {
                self.buffer.extend_from_slice(pretty_format_batches(&output.batches)?.to_string().as_bytes());
                self.buffer.push(b'\n');
            }
            Shape::Changelog => {
                for batch in &output.batches {
                    render_changelog(batch, output.kind, &mut self.buffer)?;
                }
            }
            Shape::Json(encoder) => {
                for batch in &output.batches {
                    encoder.encode(batch, &mut self.buffer)?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for PrintSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn open(&mut self, _owner: &Owner) -> Result<Option<Marker>> {
        Ok(None)
    }

    async fn publish(&mut self, _permit: &Permit, output: &Output) -> Result<()> {
        self.render(output)?;
        let written = self.writer.write_all(&self.buffer).and_then(|()| self.writer.flush());
        written.map_err(|e| {
            Error::sink("cannot print: whoever read the output has gone; start again to go on").caused_by(e)
        })
    }
}

/// A line a row. The `op` of a changelog is its first column; every new row of an append output is a `+I`.
fn render_changelog(batch: &RecordBatch, kind: OutputKind, out: &mut Vec<u8>) -> Result<()> {
    let options = FormatOptions::default().with_null("null").with_display_error(true);
    let (ops, skipped) = match kind {
        OutputKind::Append => (None, 0),
        OutputKind::Changelog => (batch.columns().first(), 1),
    };
    let ops = ops.map(|ops| arrow::compute::cast(ops, &DataType::Utf8)).transpose()?;
    let columns: Vec<_> = batch.columns().iter().skip(skipped).collect();
    let columns: Vec<_> = columns
        .into_iter()
        .map(|column| ArrayFormatter::try_new(column.as_ref(), &options))
        .collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let op = ops.as_ref().filter(|ops| ops.is_valid(row)).map_or("+I", |ops| ops.as_string::<i32>().value(row));
        let values: Vec<_> = columns.iter().map(|column| column.value(row).to_string()).collect();
        // Writing to a vector cannot fail.
        let _ = writeln!(out, "{op}[{}]", values.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn printed(format: PrintFormat, kind: OutputKind) -> String {
        let columns: [(&str, ArrayRef); 3] = [
            ("op", Arc::new(StringArray::from(vec!["-U", "+U"]))),
            ("word", Arc::new(StringArray::from(vec![Some("a"), None]))),
            ("n", Arc::new(Int64Array::from(vec![1, 2]))),
        ];
        let skipped = usize::from(kind == OutputKind::Append);
        let batch = RecordBatch::try_from_iter(columns.into_iter().skip(skipped)).unwrap();
        let screen = Screen::default();
        let mut sink = PrintSink::new(format, &batch.schema(), Box::new(screen.clone())).unwrap();
        let output = Output { schema: batch.schema(), kind, batches: vec![batch] };
        sink.render(&output).unwrap();
        sink.writer.write_all(&sink.buffer).unwrap();
        let bytes = screen.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_changelog_prints_as_flink_prints_it() {
        assert_eq!(printed(PrintFormat::Changelog, OutputKind::Changelog), "-U[a, 1]\n+U[null, 2]\n");
        assert_eq!(printed(PrintFormat::Changelog, OutputKind::Append), "+I[a, 1]\n+I[null, 2]\n");
    }

    #[test]
    fn json_prints_a_line_a_row_with_the_op() {
        let lines = printed(PrintFormat::Json, OutputKind::Changelog);
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first, serde_json::json!({"op": "-U", "word": "a", "n": 1}));
        assert_eq!(lines.lines().count(), 2);
    }

    #[test]
    fn a_table_prints_with_its_header() {
        let table = printed(PrintFormat::Table, OutputKind::Append);
        assert!(table.contains("| word | n |") && table.ends_with("+\n"), "{table}");
    }
}

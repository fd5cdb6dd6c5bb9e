//! Parquet: files to rows by row number, and rows to files.
//!
//! A Parquet file is no sequence of records, so it is no [`millstream_core::format::Format`]: it is read by
//! ranges of row numbers, and a row's place is its number. The columns come in the declared types, found by
//! name; a row whose value does not fit, or is NULL where that was declared impossible, is rejected like a bad
//! line of text. A file that can't be read is an error that names it.

use std::fs::File;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, filter, take_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use millstream_core::batch::Place;
use millstream_core::format::Encoder;
use millstream_core::source::{Chunk, Rejected};
use millstream_core::{Error, Result};
use parquet::arrow::ArrowWriter;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::WriterProperties;

use super::json::JsonEncoder;
use super::leaf::sql_name;
use crate::Options;

/// A Parquet file whose footer was read.
#[derive(Clone, Debug)]
pub struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    rows: u64,
}

impl ParquetFile {
    /// Reads the footer.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] that names the file, where it can't be opened or is no Parquet file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        // Where pages begin: a batch that begins within a row group skips those before it without decoding them.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = guarded(path, || ArrowReaderMetadata::load(&file, options))?;
        let rows = u64::try_from(metadata.metadata().file_metadata().num_rows())
            .map_err(|_| broken(path, "its footer counts less than no rows"))?;
        Ok(Self { path: path.to_path_buf(), metadata, rows })
    }

    /// The columns as the file has them.
    pub fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// How many rows it has.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The rows with these numbers, in chunks of at most `chunk_rows`, in the columns of `schema`.
    ///
    /// A nullable column that the file lacks is NULL. Only the row groups that hold the rows are read, and of
    /// them only the columns. The same range gives the same chunks.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Input`] where a column of the file can't become what was declared, and,
    /// from the iterator, where the file is damaged.
    pub fn read(&self, schema: &SchemaRef, rows: Range<u64>, chunk_rows: usize) -> Result<ParquetRows> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        let mut wanted = Vec::new();
        for field in schema.fields() {
            let found = self.schema().column_with_name(field.name());
            match found {
                Some((index, of_file)) => {
                    self.check(field.name(), of_file.data_type(), field.data_type())?;
                    wanted.push(index);
                }
                None if field.is_nullable() => {}
                None => {
                    let names: Vec<_> = self.schema().fields().iter().map(|field| field.name().as_str()).collect();
                    return Err(Error::input(format!(
                        "{}: it has no column '{}', which is declared NOT NULL; it has {}",
                        self.path.display(),
                        field.name(),
                        names.join(", ")
                    )));
                }
            }
            columns.push(found.map(|(index, _)| index));
        }
        // The reader gives the wanted columns in the order of the file.
        let mut order = wanted.clone();
        order.sort_unstable();
        order.dedup();
        let columns = columns
            .into_iter()
            .map(|index| index.and_then(|index| order.iter().position(|other| *other == index)))
            .collect();
        let reader = self.reader(wanted, &rows, chunk_rows)?;
        Ok(ParquetRows {
            path: self.path.clone(),
            schema: Arc::clone(schema),
            columns,
            reader,
            next: rows.start,
            end: rows.end.min(self.rows),
        })
    }

    fn check(&self, name: &str, found: &DataType, declared: &DataType) -> Result<()> {
        if arrow::compute::can_cast_types(found, declared) {
            return Ok(());
        }
        Err(Error::input(format!(
            "{}: the column '{name}' holds {}, which can't be read as the declared {}: declare what the file holds and \
             convert it in the query",
            self.path.display(),
            sql_name(found),
            sql_name(declared)
        )))
    }

    /// A reader of the row groups that hold the rows.
    fn reader(&self, roots: Vec<usize>, rows: &Range<u64>, chunk_rows: usize) -> Result<ParquetRecordBatchReader> {
        let (mut groups, mut skipped, mut first) = (Vec::new(), 0, 0u64);
        for (index, group) in self.metadata.metadata().row_groups().iter().enumerate() {
            let end = first + u64::try_from(group.num_rows()).unwrap_or(0);
            if end <= rows.start {
                skipped = end;
            } else if first < rows.end {
                groups.push(index);
            }
            first = end;
        }
        let count = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
        let parquet_schema = self.metadata.metadata().file_metadata().schema_descr();
        let file = open(&self.path)?;
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
            .with_projection(ProjectionMask::roots(parquet_schema, roots))
            .with_row_groups(groups)
            .with_offset(count(rows.start - skipped.min(rows.start)))
            .with_limit(count(rows.end.saturating_sub(rows.start)))
            .with_batch_size(chunk_rows.max(1));
        guarded(&self.path, || builder.build())
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| {
        Error::input(format!("{}: the Parquet file can't be opened; is it there and readable?", path.display()))
            .caused_by(error)
    })
}

/// What the Parquet library answers. It panics on some damaged files, which is an answer too.
fn guarded<T, E>(path: &Path, read: impl FnOnce() -> std::result::Result<T, E>) -> Result<T>
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| broken(path, error)),
        Err(_) => Err(broken(path, "the Parquet library gave up on it")),
    }
}

fn broken(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::input(format!(
        "{}: this is no whole Parquet file (cut short while it was written, damaged, or another format): write it \
         again, or move it away",
        path.display()
    ))
    .caused_by(error)
}

/// The rows of a range, chunk by chunk.
#[derive(Debug)]
pub struct ParquetRows {
    path: PathBuf,
    schema: SchemaRef,
    /// For each declared column, its number among those that are read; nothing where the file lacks it.
    columns: Vec<Option<usize>>,
    reader: ParquetRecordBatchReader,
    next: u64,
    end: u64,
}

impl Iterator for ParquetRows {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let reader = &mut self.reader;
        match guarded(&self.path, || reader.next().transpose()).transpose() {
            Some(Ok(batch)) => Some(self.chunk(&batch)),
            Some(Err(error)) => {
                // What comes after it is not known to be what it seems.
                self.end = self.next;
                Some(Err(error))
            }
            None if self.next < self.end => {
                let missing = format!("it ends at row {} of {}", self.next, self.end);
                self.end = self.next;
                Some(Err(broken(&self.path, missing)))
            }
            None => None,
        }
    }
}

impl ParquetRows {
    fn chunk(&mut self, batch: &RecordBatch) -> Result<Chunk> {
        let rows = batch.num_rows();
        let first = self.next;
        self.next += rows as u64;
        // The first reason why a row is none.
        let mut reasons: Vec<(usize, String)> = Vec::new();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for (field, index) in self.schema.fields().iter().zip(&self.columns) {
            let Some(source) = index.and_then(|index| batch.columns().get(index)) else {
                columns.push(new_null_array(field.data_type(), rows));
                continue;
            };
            let column = convert(source, field.data_type()).map_err(|error| error.at(self.path.display()))?;
            if column.logical_null_count() > 0 {
                let (before, after) = (source.logical_nulls(), column.logical_nulls());
                let null = |nulls: &Option<arrow::buffer::NullBuffer>, row| {
                    nulls.as_ref().is_some_and(|nulls| nulls.is_null(row))
                };
                for row in (0..rows).filter(|row| null(&after, *row)) {
                    if !null(&before, row) {
                        let name = sql_name(field.data_type());
                        reasons.push((row, format!("field '{}': the value does not fit {name}", field.name())));
                    } else if !field.is_nullable() {
                        reasons.push((row, format!("field '{}': is NULL, but declared NOT NULL", field.name())));
                    }
                }
            }
            columns.push(column);
        }
        let place = |row: usize| Place { offset: first + row as u64, row: first + row as u64 };
        if reasons.is_empty() {
            let rows = self.batch(columns, rows)?;
            let places = (0..rows.num_rows()).map(place).collect();
            return Ok(Chunk { rows, places, rejected: vec![], raw: None });
        }
        reasons.sort_by_key(|(row, _)| *row);
        reasons.dedup_by_key(|(row, _)| *row);
        let mut kept = vec![true; rows];
        let mut rejected = Vec::with_capacity(reasons.len());
        for (row, reason) in reasons {
            if let Some(kept) = kept.get_mut(row) {
                *kept = false;
            }
            rejected.push(Rejected { place: place(row), reason, raw: as_json(batch, row)? });
        }
        let places = kept.iter().enumerate().filter(|(_, kept)| **kept).map(|(row, _)| place(row)).collect();
        let mask = BooleanArray::from(kept);
        let columns = columns.iter().map(|column| filter(column, &mask)).collect::<Result<Vec<_>, _>>()?;
        Ok(Chunk { rows: self.batch(columns, mask.true_count())?, places, rejected, raw: None })
    }

    fn batch(&self, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| broken(&self.path, error))
    }
}

/// The values in another type; NULL where one doesn't fit. Times without a zone are UTC.
fn convert(source: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let cast = |array: &ArrayRef, to: &DataType| {
        cast_with_options(array, to, &CastOptions { safe: true, ..Default::default() }).map_err(|error| {
            let (found, declared) = (sql_name(source.data_type()), sql_name(to));
            Error::input(format!("a column of {found} can't be read as the declared {declared}")).caused_by(error)
        })
    };
    match (source.data_type(), to) {
        (from, to) if from == to => Ok(Arc::clone(source)),
        // Arrow would look the zone up, and knows zones only as offsets.
        (DataType::Timestamp(_, None), DataType::Timestamp(unit, Some(_))) => {
            let same_unit = cast(source, &DataType::Timestamp(*unit, None))?;
            cast(&cast(&same_unit, &DataType::Int64)?, to)
        }
        _ => cast(source, to),
    }
}

/// A row as the file has it, for the table of rejected rows.
fn as_json(batch: &RecordBatch, row: usize) -> Result<Vec<u8>> {
    let index = UInt32Array::from(vec![u32::try_from(row).unwrap_or(u32::MAX)]);
    let row = take_record_batch(batch, &index)?;
    let mut out = Vec::new();
    JsonEncoder::new(&Options::default(), &row.schema())?.encode(&row, &mut out)?;
    out.pop();
    Ok(out)
}

/// Collects rows into one Parquet file, compressed with zstd.
#[derive(Debug)]
pub struct ParquetWriter {
    writer: ArrowWriter<Vec<u8>>,
}

impl ParquetWriter {
    /// An empty file with these columns.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where a type has no place in Parquet.
    pub fn new(schema: SchemaRef) -> Result<Self> {
        let level = ZstdLevel::try_new(1).map_err(|error| Error::bug("zstd has no level 1").caused_by(error))?;
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(|error| {
            Error::query("a column has a type with no place in Parquet: CAST it to STRING").caused_by(error)
        })?;
        Ok(Self { writer })
    }

    /// Appends rows.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.writer.write(rows).map_err(|error| Error::bug("Parquet refused rows of its own schema").caused_by(error))
    }

    /// The file's bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        self.writer.into_inner().map_err(|error| Error::bug("the Parquet file could not be ended").caused_by(error))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::array::types::{Int32Type, Int64Type};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn file(dir: &Path, rows: i64, group: usize) -> PathBuf {
        let schema = Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]));
        let ids: ArrayRef = Arc::new(arrow::array::Int64Array::from_iter(
            (0..rows).map(|n| if n % 10 == 7 { None } else { Some(n * 1_000_000_000) }),
        ));
        let names: ArrayRef = Arc::new(arrow::array::StringArray::from_iter_values((0..rows).map(|n| format!("n{n}"))));
        let batch = RecordBatch::try_new(schema.clone(), vec![ids, names]).unwrap();
        let mut writer = ParquetWriter::new(schema).unwrap();
        for start in (0..rows as usize).step_by(group) {
            writer.write(&batch.slice(start, group.min(rows as usize - start))).unwrap();
            writer.writer.flush().unwrap();
        }
        let path = dir.join("rows.parquet");
        std::fs::write(&path, writer.finish().unwrap()).unwrap();
        path
    }

    #[test]
    fn any_range_gives_its_rows_in_the_declared_columns() {
        let dir = tempfile::tempdir().unwrap();
        let file = ParquetFile::open(&file(dir.path(), 100, 30)).unwrap();
        assert_eq!(file.rows(), 100);
        let declared = Arc::new(Schema::new(vec![
            Field::new("name", DataType::Utf8View, false),
            Field::new("absent", DataType::Int32, true),
            Field::new("id", DataType::Int64, true),
        ]));
        for (start, end) in [(0, 100), (0, 1), (29, 31), (30, 60), (59, 100), (99, 100), (45, 46)] {
            let chunks: Vec<Chunk> = file.read(&declared, start..end, 8).unwrap().map(Result::unwrap).collect();
            let places: Vec<u64> = chunks.iter().flat_map(|chunk| &chunk.places).map(|place| place.row).collect();
            assert_eq!(places, (start..end).collect::<Vec<_>>());
            for chunk in chunks {
                assert!(chunk.rows.num_rows() <= 8 && chunk.rejected.is_empty());
                for (row, place) in chunk.places.iter().enumerate() {
                    assert_eq!(chunk.rows.column(0).as_string_view().value(row), format!("n{}", place.row));
                    assert!(chunk.rows.column(1).is_null(row));
                    let id = chunk.rows.column(2).as_primitive::<Int64Type>();
                    let expected = (place.row % 10 != 7).then_some(place.row as i64 * 1_000_000_000);
                    assert_eq!(id.is_valid(row).then(|| id.value(row)), expected);
                }
            }
        }
        let none = Arc::new(Schema::empty());
        let counted: usize = file.read(&none, 10..75, 8).unwrap().map(|chunk| chunk.unwrap().rows.num_rows()).sum();
        assert_eq!(counted, 65);
    }

    #[test]
    fn rows_that_do_not_fit_are_rejected_with_their_text() {
        let dir = tempfile::tempdir().unwrap();
        let file = ParquetFile::open(&file(dir.path(), 9, 9)).unwrap();
        let declared = Arc::new(Schema::new(vec![Field::new("id", DataType::Int32, false)]));
        let chunk = file.read(&declared, 0..9, 100).unwrap().next().unwrap().unwrap();
        assert_eq!(
            chunk.rows.column(0).as_primitive::<Int32Type>().values().to_vec(),
            [0, 1_000_000_000, 2_000_000_000]
        );
        let rejected: Vec<_> = chunk.rejected.iter().map(|r| (r.place.row, r.reason.as_str())).collect();
        assert_eq!(rejected[0], (3, "field 'id': the value does not fit INT"));
        assert_eq!(rejected[4], (7, "field 'id': is NULL, but declared NOT NULL"));
        assert_eq!(chunk.rejected[0].raw, br#"{"id":3000000000}"#);
    }

    #[test]
    fn a_damaged_file_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 100, 30);
        let bytes = std::fs::read(&path).unwrap();
        for at in (0..bytes.len()).step_by(29) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            std::fs::write(&path, &damaged).unwrap();
            let Ok(file) = ParquetFile::open(&path) else { continue };
            let Ok(rows) = file.read(file.schema(), 5..95, 16) else { continue };
            for chunk in rows {
                if let Err(error) = chunk {
                    assert_eq!(error.kind(), millstream_core::ErrorKind::Input, "{error}");
                    break;
                }
            }
        }
    }

    #[test]
    fn times_without_a_zone_are_utc() {
        use arrow::array::TimestampMicrosecondArray;
        use arrow::array::types::TimestampMillisecondType;
        use arrow::datatypes::TimeUnit;
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_767_323_045_123_456]));
        let zoned = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let column = convert(&times, &zoned).unwrap();
        assert_eq!(column.data_type(), &zoned);
        assert_eq!(column.as_primitive::<TimestampMillisecondType>().value(0), 1_767_323_045_123);
        let back = convert(&column, &DataType::Timestamp(TimeUnit::Second, None)).unwrap();
        assert_eq!(back.data_type(), &DataType::Timestamp(TimeUnit::Second, None));
    }

    #[test]
    fn a_file_that_is_cut_short_or_no_parquet_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), 100, 30);
        let bytes = std::fs::read(&path).unwrap();
        for bytes in [&bytes[..bytes.len() - 10], b"hello".as_slice(), b""] {
            std::fs::write(&path, bytes).unwrap();
            let error = ParquetFile::open(&path).unwrap_err();
            assert_eq!(error.kind(), millstream_core::ErrorKind::Input);
            assert!(
                error.to_string().contains("rows.parquet") && error.to_string().contains("write it again"),
                "{error}"
            );
        }
        // The footer is whole, a page is not.
        let mut damaged = bytes.clone();
        damaged[4..200].fill(0xff);
        std::fs::write(&path, damaged).unwrap();
        let file = ParquetFile::open(&path).unwrap();
        let declared = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let error = file.read(&declared, 0..100, 10).unwrap().find_map(Result::err).unwrap();
        assert_eq!(error.kind(), millstream_core::ErrorKind::Input);
        assert!(ParquetFile::open(Path::new("/nowhere.parquet")).unwrap_err().to_string().contains("/nowhere.parquet"));
    }
}

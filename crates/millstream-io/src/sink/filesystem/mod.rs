//! The 'filesystem' connector's sink: a directory with one file a batch, or one growing file.
//!
//! Both are exactly-once for readers that know nothing of Millstream. What is durable when, and what recovery
//! does, is said in `files.rs` and `append.rs`.
//!
//! The steps themselves block; each call runs as one piece on the runtime's blocking threads. Measured with
//! an fsync that costs nothing, a one-row batch appended takes 13 us inline and 27 us so: 14 us beside a budget
//! of 1 ms, while an fsync on the runtime's own threads would hold up every other query for as long as the
//! disk takes. A call that is dropped half-way goes on in its thread, and the next one waits for it.

mod append;
mod durable;
mod files;
mod journal;
mod marker;
#[cfg(test)]
mod measure;
mod names;
mod ownership;
mod partition;
mod rows;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use millstream_core::sink::{Guarantee, Marker, Output, Owner, Permit, Sink};
use millstream_core::{Error, Result};

use self::append::AppendedFile;
use self::files::FilePerBatch;
use self::partition::Partitioning;
use self::rows::FileFormat;
use crate::TableSpec;
use crate::format::avro::AvroWriter;

/// How the rows lie on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LayoutKind {
    Files,
    Append,
}

/// Writes NDJSON, CSV, Parquet or Avro files.
#[derive(Clone)]
pub struct FilesystemSink {
    layout: Arc<Mutex<Layout>>,
}

enum Layout {
    Files(FilePerBatch),
    Append(AppendedFile),
}

impl FilesystemSink {
    /// A sink for the table's options; touches nothing before it is opened.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Config`] where an option, or a column of PARTITIONED BY, means nothing.
    pub fn new(spec: &TableSpec, query: &str, schema: &SchemaRef) -> Result<Self> {
        let path = path_of(spec)?;
        let layout = layout_of(spec)?;
        tolerate_source_options(spec);
        let partitioning = Partitioning::new(schema, &spec.partitioned_by)?;
        let format = file_format(spec, partitioning.file_schema())?;
        let layout = match (layout, format) {
            (LayoutKind::Files, format) => Layout::Files(FilePerBatch::new(path, query, partitioning, format)),
            (LayoutKind::Append, _) if !spec.partitioned_by.is_empty() => {
                return Err(Error::config(
                    "'sink.layout' = 'append' writes one file, which cannot be PARTITIONED BY: leave one of the two out",
                ));
            }
            (LayoutKind::Append, FileFormat::Parquet | FileFormat::Avro) => {
                return Err(Error::config(
                    "'sink.layout' = 'append' is for 'json' and 'csv': a file of Parquet or Avro cannot grow. Leave the \
                     option out",
                ));
            }
            (LayoutKind::Append, FileFormat::Text { encoder, .. }) => Layout::Append(AppendedFile::new(path, encoder)?),
        };
        Ok(Self { layout: Arc::new(Mutex::new(layout)) })
    }

    async fn run<T: Send + 'static>(&self, call: impl FnOnce(&mut Layout) -> Result<T> + Send + 'static) -> Result<T> {
        let layout = self.layout.clone();
        let call = move || call(&mut layout.lock().unwrap_or_else(PoisonError::into_inner));
        let done = tokio::task::spawn_blocking(call).await;
        done.map_err(|e| Error::bug("a call of the filesystem sink did not come to its end").caused_by(e))?
    }
}

#[async_trait]
impl Sink for FilesystemSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        let owner = owner.clone();
        self.run(move |layout| layout.open(&owner)).await
    }

    async fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        let (permit, output) = (permit.clone(), output.clone());
        self.run(move |layout| layout.publish(&permit, &output)).await
    }

    async fn flush(&mut self) -> Result<()> {
        self.run(|layout| layout.flush()).await
    }

    async fn close(&mut self) -> Result<()> {
        self.run(Layout::close).await
    }
}

impl Layout {
    fn open(&mut self, owner: &Owner) -> Result<Option<Marker>> {
        match self {
            Self::Files(files) => files.open(owner),
            Self::Append(file) => file.open(owner),
        }
    }

    fn publish(&mut self, permit: &Permit, output: &Output) -> Result<()> {
        match self {
            Self::Files(files) => files.publish(permit, output),
            Self::Append(file) => file.publish(permit, output),
        }
    }

    fn flush(&self) -> Result<()> {
        match self {
            Self::Files(files) => files.flush(),
            Self::Append(file) => file.flush(),
        }
    }

    fn close(&mut self) -> Result<()> {
        match self {
            Self::Files(files) => {
                files.close();
                Ok(())
            }
            Self::Append(file) => file.close(),
        }
    }
}

/// What the sink writes and where, for a person.
///
/// # Errors
/// [`millstream_core::ErrorKind::Config`] where an option means nothing.
pub(super) fn describe(spec: &TableSpec) -> Result<String> {
    let path = path_of(spec)?;
    let format = spec.options.required("format")?;
    let how = match layout_of(spec)? {
        LayoutKind::Files if spec.partitioned_by.is_empty() => "one file a batch".to_string(),
        LayoutKind::Files => format!("one file a batch and {}", spec.partitioned_by.join(", ")),
        LayoutKind::Append => "one growing file".to_string(),
    };
    Ok(format!("filesystem {} ({format}, {how})", path.display()))
}

fn path_of(spec: &TableSpec) -> Result<PathBuf> {
    let text = spec.options.required("path")?;
    let path = text.strip_prefix("file://").unwrap_or(text);
    if path.is_empty() || path.contains("://") {
        return Err(Error::config(format!("the option 'path' = '{text}' names no place in a file system")));
    }
    Ok(spec.base_dir.join(path))
}

fn layout_of(spec: &TableSpec) -> Result<LayoutKind> {
    let words = [("files", LayoutKind::Files), ("append", LayoutKind::Append)];
    Ok(spec.options.one_of("sink.layout", &words)?.unwrap_or(LayoutKind::Files))
}

/// A table may be written by one query and read by another: what only its source asks for is known here too.
fn tolerate_source_options(spec: &TableSpec) {
    spec.options.with_prefix("source.");
}

fn file_format(spec: &TableSpec, schema: &SchemaRef) -> Result<FileFormat> {
    let words = [("json", "ndjson"), ("ndjson", "ndjson"), ("csv", "csv"), ("parquet", "parquet"), ("avro", "avro")];
    spec.options.required("format")?;
    let extension = spec.options.one_of("format", &words)?.unwrap_or("ndjson");
    match extension {
        "parquet" => return Ok(FileFormat::Parquet),
        "avro" => {
            // A type with no place in Avro is said before the first batch.
            AvroWriter::new(schema)?;
            return Ok(FileFormat::Avro);
        }
        _ => {}
    }
    Ok(FileFormat::Text { encoder: crate::format::encoder(&spec.options, schema)?, extension })
}

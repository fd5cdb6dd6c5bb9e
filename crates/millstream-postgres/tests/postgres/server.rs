//! A server for tests, shared between all of them; each test has a schema of its own there.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_core::Result;
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_io::TableSpec;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Runs a verb of the script; `Err` is what it says.
pub fn script(verb: &str, name: &str) -> std::result::Result<String, String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/services/postgres.sh");
    let done = Command::new(path).args([verb, name]).output().unwrap();
    match done.status.success() {
        true => Ok(String::from_utf8(done.stdout).unwrap().trim().to_string()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_string()),
    }
}

/// The URL of a server that runs.
pub fn start(name: &str) -> String {
    script("start", name).unwrap_or_else(|e| panic!("{e}"))
}

/// A schema of its own in the shared server.
pub struct Database {
    pub url: String,
    pub schema: String,
    pub client: Client,
}

impl Database {
    pub async fn new() -> Self {
        Self::at(&start("main")).await
    }

    pub async fn at(url: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let schema = format!("t{nanos}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let client = connect(url).await;
        // What earlier runs left, an hour ago and before, so that the server does not grow for ever.
        let hour_ago = nanos - 3_600_000_000_000;
        let left = format!(
            "SELECT nspname FROM pg_namespace WHERE nspname ~ '^t[0-9]{{19}}_' AND nspname < 't{hour_ago}' LIMIT 5"
        );
        for schema in rows(&client, &left).await {
            let _ = client.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).await;
        }
        client.batch_execute(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await.unwrap();
        Self { url: url.to_string(), schema, client }
    }

    /// A table `t` in this schema.
    pub fn spec(&self, columns: Vec<Field>, key: &[&str], options: &[(&str, &str)]) -> TableSpec {
        spec(&self.url, &format!("{}.t", self.schema), columns, key, options)
    }

    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// Each row as psql would show it: `1|a|`; NULL is `~`.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        rows(&self.client, sql).await
    }
}

pub async fn rows(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let cells: Vec<_> = (0..row.len()).map(|n| row.get(n).unwrap_or("~").to_string()).collect();
            Some(cells.join("|"))
        }
        _ => None,
    });
    rows.collect()
}

pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

pub fn spec(url: &str, table: &str, columns: Vec<Field>, key: &[&str], options: &[(&str, &str)]) -> TableSpec {
    let given = [("connector", "postgres"), ("url", url), ("table-name", table)];
    TableSpec {
        name: "t".into(),
        schema: Arc::new(Schema::new(columns)),
        options: given.iter().chain(options).copied().collect(),
        partitioned_by: vec![],
        primary_key: key.iter().map(|k| (*k).to_string()).collect(),
        base_dir: ".".into(),
    }
}

pub fn field(name: &str, data_type: DataType) -> Field {
    Field::new(name, data_type, true)
}

pub fn owner(epoch: u64) -> Owner {
    Owner { query: "q".into(), incarnation: "5b2c7a52-4f2d-4c0e-9d53-0c9f6a1f6b11".into(), epoch }
}

/// What will be published for this table.
pub fn published(spec: &TableSpec, kind: OutputKind) -> SchemaRef {
    let op = (kind == OutputKind::Changelog).then(|| Arc::new(Field::new("op", DataType::Utf8, false)));
    Arc::new(Schema::new(op.into_iter().chain(spec.schema.fields().iter().cloned()).collect::<Vec<_>>()))
}

/// A sink with the batches that it was given.
pub struct Publisher {
    pub sink: Box<dyn Sink>,
    pub schema: SchemaRef,
    pub kind: OutputKind,
    pub owner: Owner,
    pub last: Option<BatchId>,
}

impl Publisher {
    pub fn new(spec: &TableSpec, kind: OutputKind, epoch: u64) -> Result<Self> {
        let schema = published(spec, kind);
        let sink = millstream_postgres::sink(spec, "q", kind, schema.clone())?;
        Ok(Self { sink, schema, kind, owner: owner(epoch), last: None })
    }

    pub async fn open(&mut self) -> Result<Option<Marker>> {
        let marker = self.sink.open(&self.owner).await?;
        self.last = marker.as_ref().map(|marker| marker.batch);
        Ok(marker)
    }

    /// Publishes the next batch.
    pub async fn publish(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns).unwrap();
        self.publish_batches(vec![batch]).await
    }

    pub async fn publish_batches(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let n = self.last.unwrap_or_default().next();
        let marker = Marker { owner: self.owner.clone(), batch: n, digest: Digest::of(&batches).unwrap() };
        let output = Output { schema: self.schema.clone(), kind: self.kind, batches };
        self.sink.publish(&Permit::unchecked(marker, self.last), &output).await?;
        self.last = Some(n);
        Ok(())
    }
}

/// A sink for this table that is open.
pub async fn open(spec: &TableSpec, kind: OutputKind) -> Publisher {
    let mut publisher = Publisher::new(spec, kind, 1).unwrap();
    publisher.open().await.unwrap();
    publisher
}

/// The error of opening a sink for this table.
pub async fn refused(spec: &TableSpec) -> millstream_core::Error {
    let mut publisher = Publisher::new(spec, OutputKind::Append, 1).unwrap();
    publisher.open().await.unwrap_err()
}

pub fn ops(ops: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(ops.to_vec()))
}

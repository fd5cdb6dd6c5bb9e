//! The sink keeps its contract.

use async_trait::async_trait;
use millstream_core::Result;
use millstream_core::sink::{OutputKind, Sink};
use millstream_testkit::conformance::sink::{SinkStorage, check, schema};

use crate::server::{self, Database, rows};

struct Storage {
    url: String,
    table: String,
    kind: OutputKind,
    key: Vec<&'static str>,
}

#[async_trait]
impl SinkStorage for Storage {
    fn sink(&self) -> Result<Box<dyn Sink>> {
        let columns = schema(OutputKind::Append).fields().iter().map(|field| field.as_ref().clone()).collect();
        let spec = server::spec(&self.url, &self.table, columns, &self.key, &[("sink.create-table", "true")]);
        millstream_postgres::sink(&spec, "conformance", self.kind, schema(self.kind))
    }

    async fn read(&self) -> Result<Vec<i64>> {
        let client = server::connect(&self.url).await;
        if rows(&client, &format!("SELECT to_regclass('{}')", self.table)).await == ["~"] {
            return Ok(vec![]);
        }
        let ids = rows(&client, &format!("SELECT id FROM {}", self.table)).await;
        Ok(ids.iter().map(|id| id.parse().unwrap()).collect())
    }

    fn kind(&self) -> OutputKind {
        self.kind
    }
}

async fn suite(kind: OutputKind, key: &[&'static str]) {
    let database = Database::new().await;
    let count = std::cell::Cell::new(0);
    let fresh = || {
        count.set(count.get() + 1);
        let table = format!("{}.t{}", database.schema, count.get());
        Ok(Box::new(Storage { url: database.url.clone(), table, kind, key: key.to_vec() }) as Box<dyn SinkStorage>)
    };
    check(fresh).await.unwrap();
}

#[tokio::test]
async fn rows_that_are_added_keep_the_contract() {
    suite(OutputKind::Append, &[]).await;
}

#[tokio::test]
async fn rows_that_are_upserted_keep_the_contract() {
    suite(OutputKind::Append, &["id"]).await;
}

#[tokio::test]
async fn a_changelog_keeps_the_contract() {
    suite(OutputKind::Changelog, &["id"]).await;
}

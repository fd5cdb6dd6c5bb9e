//! Topics whose rows come and go: Debezium, Canal, and the newest row of each key, from a real broker.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "../broker/mod.rs"]
mod broker;
mod law;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use broker::{broker, registry};
use futures::TryStreamExt;
use millstream_core::batch::Positions;
use millstream_core::source::{Chunk, Limit, Source};
use millstream_core::{ErrorKind, Result};
use millstream_io::{METADATA_KEY, TableSpec};
use millstream_testkit::conformance::source::{self as suite, Expected};
use rdkafka::producer::BaseRecord;

const UPSERT: [(&str, &str); 3] = [("connector", "upsert-kafka"), ("key.format", "json"), ("value.format", "json")];

fn users() -> Vec<Field> {
    vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, false)]
}

fn spec(topic: &str, columns: Vec<Field>, key: &[&str], options: &[(&str, &str)]) -> TableSpec {
    let base = [("connector", "kafka"), ("topic", topic), ("properties.bootstrap.servers", broker().servers())];
    let base = base.into_iter().filter(|(key, _)| !options.iter().any(|(k, _)| k == key));
    TableSpec {
        name: "t".into(),
        schema: Arc::new(Schema::new(columns)),
        options: base.chain(options.iter().copied()).collect(),
        partitioned_by: vec![],
        primary_key: key.iter().map(|k| k.to_string()).collect(),
        base_dir: "/".into(),
    }
}

fn source(spec: &TableSpec) -> Result<Arc<dyn Source>> {
    let table = millstream_kafka::source_table(spec)?;
    table.source(&(0..table.schema().fields().len()).collect::<Vec<_>>())
}

/// What partition 0 holds, as one chunk.
async fn read(spec: &TableSpec) -> Result<Chunk> {
    read_from(&source(spec)?).await
}

async fn read_from(source: &Arc<dyn Source>) -> Result<Chunk> {
    loop {
        let offer = source.offer(&Positions::new(), Limit { rows: 1000, bytes: 1 << 20 }).await?;
        if let Some(range) = offer.ranges.first() {
            let chunks: Vec<Chunk> = source.open(range).await?.try_collect().await?;
            let [chunk] = <[Chunk; 1]>::try_from(chunks).unwrap();
            return Ok(chunk);
        }
    }
}

/// The rows, each with its offset.
fn shown(chunk: &Chunk) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let cells: Vec<_> = chunk.rows.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
    let row = |at: usize| cells.iter().map(|cell| cell.value(at).to_string()).collect::<Vec<_>>().join(" ");
    chunk.places.iter().enumerate().map(|(at, place)| format!("{}: {}", place.offset, row(at))).collect()
}

fn reasons(chunk: &Chunk) -> Vec<(u64, &str)> {
    chunk.rejected.iter().map(|r| (r.place.offset, r.reason.as_str())).collect()
}

fn send(topic: &str, records: &[(Option<&str>, Option<&str>)]) {
    let producer = broker().producer();
    records.iter().for_each(|(key, value)| producer.send(topic, 0, *key, *value));
    producer.delivered();
}

#[tokio::test]
async fn of_an_upsert_topic_each_record_is_the_newest_row_of_its_key_and_none_is_its_end() {
    let topic = broker().topic("upserts", 1, &[]);
    send(
        &topic,
        &[
            (Some(r#"{"id":1}"#), Some(r#"{"id":1,"name":"ann"}"#)),
            (Some(r#"{"id":1}"#), None),
            // The key says whose row it is, whatever the value says of it.
            (Some(r#"{"id":2}"#), Some(r#"{"id":99,"name":"bob"}"#)),
            (Some(r#"{"id":3}"#), None),
            (None, Some(r#"{"id":4,"name":"no key"}"#)),
            (None, None),
            (Some("no json"), None),
            (Some(""), Some(r#"{"id":5,"name":"empty key"}"#)),
            (Some(r#"{"id":6}"#), Some(r#"{"id":6,"name":null}"#)),
            (Some(r#"{"id":7}"#), Some("")),
            (Some(r#"{"id":null}"#), None),
            (Some(r#"{"id":8}"#), Some(r#"{"name":"eve"}"#)),
        ],
    );
    let spec = spec(&topic, users(), &["id"], &UPSERT);
    let chunk = read(&spec).await.unwrap();
    assert_eq!(shown(&chunk), ["0: 1 ann 1", "1: 1 NULL -1", "2: 2 bob 1", "3: 3 NULL -1", "11: 8 eve 1"]);
    let found = reasons(&chunk);
    for (at, (offset, words)) in [
        (4, "has no key"),
        (5, "has no key"),
        (6, "key: "),
        (7, "key: it is empty"),
        (8, "name"),
        (9, "is empty"),
        (10, "key: "),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(found[at].0 == offset && found[at].1.contains(words), "{found:?}");
    }
    assert_eq!(found.len(), 7, "{found:?}");
    assert_eq!(chunk.rejected[2].raw, b"no json");
    let expected = Expected { rows: Some(5), rejected: Some(7) };
    suite::check(|| source(&spec), expected).await.unwrap();
}

#[tokio::test]
async fn only_the_columns_that_are_asked_for_are_read_of_upserts() {
    let topic = broker().topic("some", 1, &[]);
    send(&topic, &[(Some("7"), Some("x,1")), (Some("8"), None)]);
    let columns = vec![
        Field::new("k_id", DataType::Int64, false),
        Field::new("a", DataType::Utf8, true),
        Field::new("b", DataType::Int64, true),
    ];
    let options = [
        ("connector", "upsert-kafka"),
        ("key.format", "csv"),
        ("value.format", "csv"),
        ("key.fields-prefix", "k_"),
        ("value.fields-include", "EXCEPT_KEY"),
    ];
    let table = millstream_kafka::source_table(&spec(&topic, columns, &["k_id"], &options)).unwrap();
    for (asked, rows) in [
        (&[2, 0, 3][..], ["0: 1 7 1", "1: NULL 8 -1"]),
        (&[0, 3], ["0: 7 1", "1: 8 -1"]),
        (&[3, 0], ["0: 1 7", "1: -1 8"]),
    ] {
        assert_eq!(shown(&read_from(&table.source(asked).unwrap()).await.unwrap()), rows);
    }
}

#[tokio::test]
async fn debezium_and_canal_tell_what_came_and_went_with_the_metadata_of_their_records() {
    let metadata = |name: &str, data_type: DataType| {
        Field::new(name, data_type, true).with_metadata([(METADATA_KEY.to_string(), name.to_string())].into())
    };
    let mut columns = users();
    columns.push(metadata("offset", DataType::Int64));
    columns.push(metadata("timestamp", DataType::Timestamp(TimeUnit::Millisecond, None)));
    let topic = broker().topic("debezium", 1, &[]);
    send(
        &topic,
        &[
            (None, Some(r#"{"before":null,"after":{"id":1,"name":"ann"},"op":"c"}"#)),
            (None, Some(r#"{"before":{"id":1,"name":"ann"},"after":{"id":1,"name":"bob"},"op":"u"}"#)),
            (None, Some(r#"{"before":null,"after":{"id":1,"name":"bob"},"op":"u"}"#)),
            (None, Some(r#"{"before":{"id":1,"name":"bob"},"op":"d"}"#)),
            // The tombstone that follows a delete.
            (None, None),
            (None, Some("")),
            (None, Some("[]")),
        ],
    );
    let spec_of = |topic: &str, key: &[&str], format: &str| spec(topic, columns.clone(), key, &[("format", format)]);
    let rows = |chunk: &Chunk| -> Vec<String> {
        // Without the time, which is the broker's.
        shown(chunk)
            .iter()
            .map(|row| row.split(' ').filter(|w| !w.contains('T')).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let chunk = read(&spec_of(&topic, &[], "debezium-json")).await.unwrap();
    assert_eq!(rows(&chunk), ["0: 1 ann 0 1", "1: 1 ann 1 -1", "1: 1 bob 1 1", "3: 1 bob 3 -1"]);
    let found = reasons(&chunk);
    assert_eq!(found.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [2, 5, 6], "{found:?}");
    assert!(found[0].1.contains("REPLICA IDENTITY"), "{found:?}");
    // With a key an update needs no old row.
    let chunk = read(&spec_of(&topic, &["id"], "debezium-json")).await.unwrap();
    assert_eq!(reasons(&chunk).len(), 2);
    assert_eq!(rows(&chunk)[3], "2: 1 bob 2 1");

    let topic = broker().topic("canal", 1, &[]);
    send(
        &topic,
        &[
            (None, Some(r#"{"data":[{"id":"1","name":"ann"},{"id":"2","name":"x"}],"type":"INSERT"}"#)),
            (None, Some(r#"{"data":[{"id":"1","name":"bob"}],"old":[{"name":"ann"}],"type":"UPDATE"}"#)),
            (None, Some(r#"{"data":[{"id":"2","name":"x"}],"type":"DELETE"}"#)),
        ],
    );
    let chunk = read(&spec_of(&topic, &[], "canal-json")).await.unwrap();
    let expected = ["0: 1 ann 0 1", "0: 2 x 0 1", "1: 1 ann 1 -1", "1: 1 bob 1 1", "2: 2 x 2 -1"];
    assert_eq!(rows(&chunk), expected);
}

#[tokio::test]
async fn the_key_of_a_changelog_may_be_in_the_record_s_key() {
    let topic = broker().topic("keyed", 1, &[]);
    send(
        &topic,
        &[
            (Some(r#"{"id":1}"#), Some(r#"{"after":{"name":"ann"},"op":"c"}"#)),
            (Some(r#"{"id":1}"#), Some(r#"{"before":{"name":"ann"},"after":{"name":"bob"},"op":"u"}"#)),
            (Some(r#"{"id":1}"#), Some(r#"{"before":{},"op":"d"}"#)),
            (Some("1"), Some(r#"{"after":{"name":"eve"},"op":"c"}"#)),
        ],
    );
    let options = [
        ("key.format", "json"),
        ("key.fields", "id"),
        ("value.format", "debezium-json"),
        ("value.debezium-json.schema-include", "false"),
        ("value.fields-include", "EXCEPT_KEY"),
    ];
    let chunk = read(&spec(&topic, users(), &["id"], &options)).await.unwrap();
    assert_eq!(shown(&chunk), ["0: 1 ann 1", "1: 1 ann -1", "1: 1 bob 1", "2: 1 NULL -1"]);
    assert!(matches!(reasons(&chunk)[..], [(3, reason)] if reason.starts_with("key: ")), "{:?}", reasons(&chunk));
}

#[tokio::test]
async fn upserts_of_avro_are_read_by_the_schemas_of_their_writers() {
    let schema = r#"{"type":"record","name":"r","fields":[{"name":"name","type":"string"}]}"#;
    let id = {
        let body = serde_json::json!({ "schema": schema }).to_string();
        let url = format!("{}/subjects/{}/versions", registry(), broker::unique("upserts"));
        let header = ("Content-Type", "application/vnd.schemaregistry.v1+json");
        let answer =
            ureq::post(url).header(header.0, header.1).send(body).unwrap().body_mut().read_to_string().unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        answer["id"].as_u64().unwrap() as u32
    };
    let topic = broker().topic("avro-upserts", 1, &[]);
    let producer = broker().producer();
    let mut records: Vec<(&str, Option<Vec<u8>>)> =
        vec![("1", Some([&[0][..], &id.to_be_bytes(), b"\x06ann"].concat()))];
    records.push(("1", None));
    records.push(("2", Some(b"junk".to_vec())));
    for (key, value) in &records {
        let mut record = BaseRecord::<str, [u8]>::to(&topic).partition(0).key(*key);
        record.payload = value.as_deref();
        producer.producer.send(record).map_err(|(e, _)| e).unwrap();
    }
    producer.delivered();
    let options = [
        ("connector", "upsert-kafka"),
        ("key.format", "csv"),
        ("value.format", "avro-confluent"),
        ("value.avro-confluent.url", registry()),
    ];
    let chunk = read(&spec(&topic, users(), &["id"], &options)).await.unwrap();
    assert_eq!(shown(&chunk), ["0: 1 ann 1", "1: 1 NULL -1"]);
    assert!(matches!(reasons(&chunk)[..], [(2, _)]), "{:?}", reasons(&chunk));
}

#[test]
fn what_can_t_be_a_changelog_is_refused_with_what_works() {
    let refusal = |key: &[&str], options: &[(&str, &str)]| {
        let error = millstream_kafka::source_table(&spec("t", users(), key, options)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        error.to_string()
    };
    let twice = [("connector", "upsert-kafka"), ("key.format", "json"), ("value.format", "debezium-json")];
    assert!(refusal(&["id"], &twice).contains("'connector' = 'kafka'"));
    let wrong = [("format", "debezium-json"), ("debezium-json.schema-inclued", "true")];
    assert!(refusal(&[], &wrong).contains("did you mean 'debezium-json.schema-include'"));
    let key = [
        ("format", "json"),
        ("key.format", "debezium-json"),
        ("key.fields", "id"),
        ("value.fields-include", "EXCEPT_KEY"),
    ];
    assert!(refusal(&[], &key).contains("debezium-json"));
}

//! Avro with a schema registry, against a real one.

#![allow(clippy::unwrap_used, clippy::panic)]

mod broker;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListBuilder,
    RecordBatch, StringArray, StringBuilder, StructArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use broker::{broker, registry};
use futures::TryStreamExt;
use millstream_core::batch::{BatchId, Positions};
use millstream_core::digest::Digest;
use millstream_core::sink::{Marker, Output, OutputKind, Owner, Permit};
use millstream_core::source::{Chunk, Limit};
use millstream_core::{ErrorKind, Result};
use millstream_io::TableSpec;
use rdkafka::producer::{BaseRecord, Producer};

fn spec(topic: &str, schema: SchemaRef, url: &str, more: &[(&str, &str)]) -> TableSpec {
    let base = [
        ("connector", "kafka"),
        ("topic", topic),
        ("properties.bootstrap.servers", broker().servers()),
        ("format", "avro-confluent"),
        ("avro-confluent.url", url),
    ];
    TableSpec {
        name: "t".into(),
        schema,
        options: base.into_iter().chain(more.iter().copied()).collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: "/".into(),
    }
}

async fn publish(spec: &TableSpec, rows: RecordBatch) -> Result<()> {
    let mut sink = millstream_kafka::sink(spec, "q", OutputKind::Append, rows.schema())?;
    let owner = Owner { query: "q".into(), incarnation: "a".into(), epoch: 1 };
    let last = sink.open(&owner).await?.map(|marker| marker.batch);
    let batch = last.map_or(BatchId(1), BatchId::next);
    let marker = Marker { owner, batch, digest: Digest(1) };
    let output = Output { schema: rows.schema(), kind: OutputKind::Append, batches: vec![rows] };
    sink.publish(&Permit::unchecked(marker, last), &output).await
}

async fn read(spec: &TableSpec) -> Result<Chunk> {
    let all: Vec<usize> = (0..spec.schema.fields().len()).collect();
    let source = millstream_kafka::source_table(spec)?.source(&all)?;
    loop {
        let offer = source.offer(&Positions::new(), Limit { rows: 1000, bytes: 1 << 20 }).await?;
        if let Some(range) = offer.ranges.first() {
            let chunks: Vec<Chunk> = source.open(range).await?.try_collect().await?;
            return Ok(chunks.into_iter().next().unwrap());
        }
    }
}

/// One column of every kind, with a NULL in most.
fn everything() -> RecordBatch {
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a"), None]);
    tags.append_null();
    let inner = StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Int64, true)),
        Arc::new(Int64Array::from(vec![Some(7), None])) as ArrayRef,
    )]);
    let decimals = Decimal128Array::from(vec![Some(-123_456), None]).with_precision_and_scale(12, 3).unwrap();
    let times = vec![Some(1_700_000_000_123), None];
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN])), false),
        ("name", Arc::new(StringArray::from(vec![Some("ä \"b\"\n\u{1}"), None])), true),
        ("raw", Arc::new(BinaryArray::from(vec![Some(&[0_u8, 255, 1][..]), None])), true),
        ("f", Arc::new(Float64Array::from(vec![Some(1e-300), Some(f64::NAN)])), true),
        ("d", Arc::new(decimals), true),
        ("day", Arc::new(Date32Array::from(vec![Some(-1), None])), true),
        ("at", Arc::new(TimestampMillisecondArray::from(times.clone())), true),
        ("utc", Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")), true),
        ("tags", Arc::new(tags.finish()), true),
        ("inner", Arc::new(inner), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

#[tokio::test]
async fn what_was_written_is_read_again_with_every_type() {
    let topic = broker().topic("avro", 1, &[]);
    let rows = everything();
    let spec = spec(&topic, rows.schema(), registry(), &[]);
    publish(&spec, rows.clone()).await.unwrap();
    let chunk = read(&spec).await.unwrap();
    assert_eq!(chunk.rejected, []);
    assert_eq!(chunk.rows, rows);
    // The wire format of others: a zero, an id, the value.
    assert_eq!(broker().read(&topic)[0].value.as_ref().unwrap()[0], 0);
}

fn register(subject: &str, schema: &str) -> u32 {
    let body = serde_json::json!({ "schema": schema }).to_string();
    let mut response = ureq::post(format!("{}/subjects/{subject}/versions", registry()))
        .header("Content-Type", "application/vnd.schemaregistry.v1+json")
        .send(body)
        .unwrap();
    let answer: serde_json::Value = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
    answer["id"].as_u64().unwrap() as u32
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), body].concat()
}

#[tokio::test]
async fn a_writer_s_schema_that_the_table_can_read_is_resolved_and_others_are_rejected_by_row() {
    let topic = broker().topic("evolve", 1, &[]);
    let first = register(
        &broker::unique("first"),
        r#"{"type":"record","name":"r","namespace":"n","fields":[
            {"name":"gone","type":{"type":"array","items":{"type":"map","values":"long"}}},
            {"name":"id","type":"int"},
            {"name":"kind","type":{"type":"enum","name":"k","symbols":["A","B"]}},
            {"name":"next","type":["null","n.r"]}]}"#,
    );
    let second =
        register(&broker::unique("second"), r#"{"type":"record","name":"r","fields":[{"name":"id","type":"string"}]}"#);
    let producer = broker().producer();
    let send = |bytes: &[u8]| {
        let record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(bytes);
        producer.producer.send(record).map_err(|(e, _)| e).unwrap();
    };
    // One block of one map with one entry, id 5, symbol B, and another record within that has nothing.
    send(&framed(first, &[2, 2, 2, b'x', 2, 0, 0, 10, 2, 2, 0, 12, 0, 0]));
    send(&framed(second, &[2, b'7']));
    send(&framed(first, &[0, 10, 9, 0]));
    send(&framed(first, &[0, 10, 0, 0, 99]));
    send(&framed(first, &[0, 10]));
    send(&framed(4_000_000, &[0]));
    send(b"{}");
    send(&framed(first, &[0, 12, 0, 0]));
    producer.delivered();
    assert_eq!(producer.producer.in_flight_count(), 0);
    let columns = vec![
        Field::new("added", DataType::Utf8, true),
        Field::new("kind", DataType::Utf8, true),
        Field::new("id", DataType::Int32, false),
    ];
    let spec = spec(&topic, Arc::new(Schema::new(columns)), registry(), &[]);
    let chunk = read(&spec).await.unwrap();
    let ids = chunk.rows.column(2).as_primitive::<Int32Type>().values().to_vec();
    assert_eq!(ids, [5, 6], "{:?}", chunk.rejected);
    assert_eq!(chunk.rows.column(1).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["B", "A"]);
    assert_eq!(chunk.rows.column(0).null_count(), 2);
    let reasons: BTreeMap<u64, &str> = chunk.rejected.iter().map(|r| (r.place.offset, r.reason.as_str())).collect();
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for (offset, words) in [
        (1, "field 'id'"),
        (2, "no symbol"),
        (3, "1 bytes follow"),
        (4, "ends too early"),
        (5, "schema 4000000 is not in the registry"),
        (6, "does not begin with a zero"),
    ] {
        assert!(reasons[&offset].contains(words), "{offset}: {}", reasons[&offset]);
    }
    assert_eq!(chunk.rejected[0].raw, framed(second, &[2, b'7']), "the bytes as they stood");
}

#[tokio::test]
async fn a_schema_that_does_not_fit_the_versions_before_is_refused_by_name() {
    let topic = broker().topic("incompatible", 1, &[]);
    let subject = format!("{topic}-value");
    register(&subject, r#"{"type":"record","name":"topLevelRecord","fields":[{"name":"id","type":"string"}]}"#);
    let strict = format!("{}/config/{subject}", registry());
    ureq::put(&strict)
        .header("Content-Type", "application/vnd.schemaregistry.v1+json")
        .send(r#"{"compatibility":"BACKWARD"}"#)
        .unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
    let error = publish(&spec(&topic, schema, registry(), &[]), rows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains(&subject), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_away_is_asked_again_and_rejects_no_row() {
    let topic = broker().topic("away", 1, &[]);
    let producer = broker().producer();
    producer.send(&topic, 0, None, Some("\0\0\0\0\u{1}x"));
    producer.delivered();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let error = read(&spec(&topic, schema, "http://127.0.0.1:1", &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retry, "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test]
async fn a_login_is_sent_and_a_refused_one_is_said_without_its_password() {
    // A registry that lets one user in.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(std::result::Result::ok) {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).unwrap();
            let request = String::from_utf8_lossy(&request[..read]).to_lowercase();
            // user:secret
            let schema =
                r#"{"schema":"{\"type\":\"record\",\"name\":\"r\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"}]}"}"#;
            let (status, body) = match request.contains("authorization: basic dxnlcjpzzwnyzxq=") {
                true => ("200 OK", schema),
                false => ("401 Unauthorized", "{}"),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
    });
    let topic = broker().topic("login", 1, &[]);
    let producer = broker().producer();
    let record = framed(1, &[84]);
    producer
        .producer
        .send(BaseRecord::<[u8], [u8]>::to(&topic).partition(0).payload(&record))
        .map_err(|(e, _)| e)
        .unwrap();
    producer.delivered();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let login = |user: &'static str| [("avro-confluent.basic-auth.user-info", user)];
    let chunk = read(&spec(&topic, schema.clone(), &url, &login("user:secret"))).await.unwrap();
    assert_eq!(chunk.rows.column(0).as_primitive::<Int64Type>().values(), &[42]);
    let error = read(&spec(&topic, schema, &url, &login("user:hunter22"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("lets nobody in") && !error.to_string().contains("hunter22"), "{error}");
}

//! The sink against a real broker: the promises of a sink, what records look like, who may write.

#![allow(clippy::unwrap_used, clippy::panic)]

mod broker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int64Array, MapBuilder, RecordBatch, StringArray, StringBuilder,
    TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use broker::{Seen, broker, unique};
use millstream_core::batch::BatchId;
use millstream_core::digest::Digest;
use millstream_core::sink::{Guarantee, Marker, Output, OutputKind, Owner, Permit, Sink};
use millstream_core::{ErrorKind, Result};
use millstream_io::TableSpec;
use millstream_testkit::conformance::sink::{self as suite, SinkStorage};

fn spec(schema: SchemaRef, topic: &str, options: &[(&str, &str)], primary_key: &[&str]) -> TableSpec {
    let base = [("connector", "kafka"), ("topic", topic), ("properties.bootstrap.servers", broker().servers())];
    let overridden = |key: &str| options.iter().any(|(k, _)| *k == key);
    let base = base.into_iter().filter(|(key, _)| !overridden(key));
    TableSpec {
        name: "t".into(),
        schema,
        options: base.chain(options.iter().copied()).collect(),
        partitioned_by: vec![],
        primary_key: primary_key.iter().map(|k| k.to_string()).collect(),
        base_dir: "/".into(),
    }
}

fn columns(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().filter(|f| f.name() != "op").cloned().collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

fn sink(spec: &TableSpec, kind: OutputKind, schema: SchemaRef) -> Box<dyn Sink> {
    millstream_kafka::sink(spec, "q", kind, schema).unwrap()
}

fn owner(epoch: u64) -> Owner {
    Owner { query: "q".into(), incarnation: "5b2c7a52".into(), epoch }
}

fn permit(epoch: u64, batch: u64, previous: Option<u64>) -> Permit {
    let marker = Marker { owner: owner(epoch), batch: BatchId(batch), digest: Digest(batch) };
    Permit::unchecked(marker, previous.map(BatchId))
}

fn ids(range: std::ops::Range<i64>) -> Output {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from_iter_values(range))]).unwrap();
    Output { schema, kind: OutputKind::Append, batches: vec![rows] }
}

/// A topic that the suite writes to.
struct Topic {
    topic: String,
    kind: OutputKind,
    options: Vec<(&'static str, &'static str)>,
    primary_key: Vec<&'static str>,
}

impl Topic {
    fn fresh(
        kind: OutputKind,
        options: &[(&'static str, &'static str)],
        primary_key: &[&'static str],
    ) -> Result<Box<dyn SinkStorage>> {
        let topic = broker().topic("suite", 3, &[]);
        Ok(Box::new(Self { topic, kind, options: options.to_vec(), primary_key: primary_key.to_vec() }))
    }
}

#[async_trait]
impl SinkStorage for Topic {
    fn sink(&self) -> Result<Box<dyn Sink>> {
        let schema = suite::schema(self.kind);
        let spec = spec(columns(&schema), &self.topic, &self.options, &self.primary_key);
        millstream_kafka::sink(&spec, "conformance", self.kind, schema)
    }

    async fn read(&self) -> Result<Vec<i64>> {
        let records = broker().read(&self.topic);
        let id = |record: &Seen| {
            let value: serde_json::Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            let row = value.get("after").unwrap_or(&value);
            row["id"].as_i64().unwrap()
        };
        Ok(records.iter().map(id).collect())
    }

    fn kind(&self) -> OutputKind {
        self.kind
    }
}

#[tokio::test]
async fn a_topic_holds_every_batch_once() {
    suite::check(|| Topic::fresh(OutputKind::Append, &[("format", "json")], &[])).await.unwrap();
}

#[tokio::test]
async fn a_changelog_is_once_in_a_topic_as_debezium_json() {
    suite::check(|| Topic::fresh(OutputKind::Changelog, &[("format", "debezium-json")], &[])).await.unwrap();
}

#[tokio::test]
async fn upserts_are_once_in_a_topic() {
    let options = [("connector", "upsert-kafka"), ("key.format", "json"), ("value.format", "json")];
    suite::check(|| Topic::fresh(OutputKind::Changelog, &options, &["id"])).await.unwrap();
}

#[tokio::test]
async fn at_least_once_every_record_says_its_batch() {
    let options = [("format", "json"), ("sink.delivery-guarantee", "at-least-once")];
    suite::check(|| Topic::fresh(OutputKind::Append, &options, &[])).await.unwrap();

    let topic = broker().topic("least", 1, &[]);
    let output = ids(0..2);
    let spec = spec(output.schema.clone(), &topic, &options, &[]);
    let mut sink = sink(&spec, OutputKind::Append, output.schema.clone());
    assert_eq!(sink.guarantee(), Guarantee::AtLeastOnce);
    assert_eq!(sink.open(&owner(1)).await.unwrap(), None);
    sink.publish(&permit(1, 7, None), &output).await.unwrap();
    let header = ("millstream.batch".to_string(), Some(b"q 5b2c7a52 7".to_vec()));
    assert!(broker().read(&topic).iter().all(|record| record.headers == [header.clone()]));
}

/// Three rows of a table with everything that a record can have.
fn orders() -> (SchemaRef, RecordBatch) {
    let meta = |field: Field, key: &str| field.with_metadata([(millstream_io::METADATA_KEY.into(), key.into())].into());
    let mut headers = MapBuilder::new(None, StringBuilder::new(), BinaryBuilder::new());
    headers.keys().append_value("trace");
    headers.values().append_value(b"\x01\x02");
    headers.append(true).unwrap();
    headers.append(false).unwrap();
    headers.append(true).unwrap();
    let headers = headers.finish();
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        meta(Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true), "timestamp"),
        meta(Field::new("h", arrow::array::Array::data_type(&headers).clone(), true), "headers"),
    ]));
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1, 2, 3])),
        Arc::new(StringArray::from(vec![Some("a\nb"), None, Some("c,\"d\"")])),
        Arc::new(TimestampMillisecondArray::from(vec![Some(1_700_000_000_123), Some(5), Some(6)])),
        Arc::new(headers),
    ];
    (schema.clone(), RecordBatch::try_new(schema, arrays).unwrap())
}

#[tokio::test]
async fn key_value_timestamp_and_headers_are_where_the_table_says() {
    let topic = broker().topic("orders", 1, &[]);
    let (schema, rows) = orders();
    let options = [
        ("value.format", "csv"),
        ("value.csv.null-literal", "NULL"),
        ("key.format", "json"),
        ("key.fields", "id"),
        ("value.fields-include", "EXCEPT_KEY"),
    ];
    let spec = spec(schema.clone(), &topic, &options, &[]);
    let mut sink = sink(&spec, OutputKind::Append, schema.clone());
    sink.open(&owner(1)).await.unwrap();
    let output = Output { schema, kind: OutputKind::Append, batches: vec![rows] };
    sink.publish(&permit(1, 1, None), &output).await.unwrap();
    let seen = broker().read(&topic);
    let keys: Vec<_> = seen.iter().map(|r| String::from_utf8(r.key.clone().unwrap()).unwrap()).collect();
    assert_eq!(keys, [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#]);
    assert_eq!(seen.iter().map(Seen::value).collect::<Vec<_>>(), ["\"a\nb\"", "NULL", "\"c,\"\"d\"\"\""]);
    assert_eq!(seen[0].timestamp_ms, Some(1_700_000_000_123));
    assert_eq!(seen[0].headers, [("trace".to_string(), Some(vec![1, 2]))]);
    assert_eq!(seen[1].headers, []);
}

/// What `org.apache.kafka.common.utils.Utils.murmur2` gives, from the tests of the Java client.
const MURMUR2: [(&str, i32); 5] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
];

#[tokio::test]
async fn a_key_lies_in_the_partition_where_the_java_client_puts_it() {
    let topic = broker().topic("murmur", 7, &[]);
    let schema =
        Arc::new(Schema::new(vec![Field::new("k", DataType::Utf8, false), Field::new("v", DataType::Binary, true)]));
    let keys = MURMUR2.map(|(key, _)| key);
    let values = BinaryArray::from_iter(keys.map(|k| (k != "21").then_some(k.as_bytes())));
    let rows =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(StringArray::from_iter_values(keys)), Arc::new(values)]);
    let options =
        [("format", "raw"), ("key.format", "raw"), ("key.fields", "k"), ("value.fields-include", "EXCEPT_KEY")];
    let spec = spec(schema.clone(), &topic, &options, &[]);
    let mut sink = sink(&spec, OutputKind::Append, schema.clone());
    sink.open(&owner(1)).await.unwrap();
    let output = Output { schema, kind: OutputKind::Append, batches: vec![rows.unwrap()] };
    sink.publish(&permit(1, 1, None), &output).await.unwrap();
    let seen = broker().read(&topic);
    assert_eq!(seen.len(), MURMUR2.len());
    for (key, hash) in MURMUR2 {
        let record = seen.iter().find(|r| r.key.as_deref() == Some(key.as_bytes())).unwrap();
        assert_eq!(record.partition, (hash & 0x7fff_ffff) % 7, "{key}");
        assert_eq!(record.value.is_none(), key == "21", "a raw NULL is a record without a value");
    }
}

fn changes(changes: &[(&str, i64, &str)]) -> Output {
    let schema = suite::schema(OutputKind::Changelog);
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(changes.iter().map(|c| c.0))),
        Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.1))),
        Arc::new(StringArray::from_iter_values(changes.iter().map(|c| c.2))),
    ];
    let rows = RecordBatch::try_new(schema.clone(), arrays).unwrap();
    Output { schema, kind: OutputKind::Changelog, batches: vec![rows.slice(0, 2), rows.slice(2, changes.len() - 2)] }
}

#[tokio::test]
async fn upserts_keep_the_last_change_of_a_key_and_end_it_with_a_tombstone() {
    let topic = broker().topic("upsert", 1, &[]);
    let options = [("connector", "upsert-kafka"), ("key.format", "raw"), ("value.format", "json")];
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, false),
    ]));
    // The key is the name.
    let spec = spec(schema, &topic, &options, &["name"]);
    let output = changes(&[
        ("+I", 1, "a"),
        ("+I", 2, "b"),
        ("-U", 1, "a"),
        ("+U", 3, "a"),
        ("-U", 2, "b"),
        ("+U", 2, "moved"),
        ("-D", 9, "gone"),
    ]);
    let mut sink = sink(&spec, OutputKind::Changelog, output.schema.clone());
    sink.open(&owner(1)).await.unwrap();
    sink.publish(&permit(1, 1, None), &output).await.unwrap();
    let text = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|b| String::from_utf8(b.clone()).unwrap());
    let seen: Vec<_> = broker().read(&topic).iter().map(|r| (text(&r.key).unwrap(), text(&r.value))).collect();
    let wanted = [
        ("a", Some(r#"{"id":3,"name":"a"}"#)),
        ("b", None),
        ("moved", Some(r#"{"id":2,"name":"moved"}"#)),
        ("gone", None),
    ];
    assert_eq!(seen, wanted.map(|(k, v)| (k.to_string(), v.map(String::from))));
}

#[tokio::test]
async fn a_changelog_is_written_as_debezium_json_and_refused_as_plain_records() {
    let topic = broker().topic("debezium", 1, &[]);
    let output = changes(&[("+I", 1, "a"), ("-U", 1, "a"), ("+U", 1, "b"), ("-D", 1, "b")]);
    let debezium = spec(columns(&output.schema), &topic, &[("format", "debezium-json")], &[]);
    let mut sink = sink(&debezium, OutputKind::Changelog, output.schema.clone());
    sink.open(&owner(1)).await.unwrap();
    sink.publish(&permit(1, 1, None), &output).await.unwrap();
    let seen = broker().read(&topic);
    assert_eq!(
        seen.iter().map(Seen::value).collect::<Vec<_>>(),
        [
            r#"{"before":null,"after":{"id":1,"name":"a"},"op":"c"}"#,
            r#"{"before":{"id":1,"name":"a"},"after":null,"op":"d"}"#,
            r#"{"before":null,"after":{"id":1,"name":"b"},"op":"c"}"#,
            r#"{"before":{"id":1,"name":"b"},"after":null,"op":"d"}"#,
        ]
    );
    let plain = spec(columns(&output.schema), &topic, &[("format", "json")], &[]);
    let refused = millstream_kafka::sink(&plain, "q", OutputKind::Changelog, output.schema.clone()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Query);
    assert!(refused.to_string().contains("'upsert-kafka'"), "{refused}");
}

#[tokio::test]
async fn an_open_transaction_of_another_query_does_not_hide_the_marker() {
    let topic = broker().topic("hidden", 1, &[]);
    let markers = broker().topic("markers", 16, &[("cleanup.policy", "compact")]);
    let options = [("format", "json"), ("sink.marker-topic", markers.as_str())];
    let output = ids(0..3);
    let spec = spec(output.schema.clone(), &topic, &options, &[]);
    let mut first = sink(&spec, OutputKind::Append, output.schema.clone());
    first.open(&owner(1)).await.unwrap();

    // Somebody else leaves a transaction open in every partition of the marker topic, and ours commits behind it.
    let other = broker().transactional(&unique("other"));
    other.begin();
    (0..16).for_each(|partition| other.send(&markers, partition, Some("other"), Some("x")));
    other.delivered();
    first.publish(&permit(1, 1, None), &output).await.unwrap();
    drop(first);

    let mut second = sink(&spec, OutputKind::Append, output.schema.clone());
    let opening = tokio::spawn(async move { second.open(&owner(2)).await.map(|marker| marker.map(|m| m.batch)) });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!opening.is_finished(), "it must wait: what is committed so far says that nothing was published");
    other.commit();
    assert_eq!(opening.await.unwrap().unwrap(), Some(BatchId(1)));
}

#[tokio::test]
async fn what_another_query_left_open_is_waited_for_only_where_it_could_hide_a_batch() {
    let topic = broker().topic("passed", 1, &[]);
    let markers = broker().topic("markers", 16, &[("cleanup.policy", "compact")]);
    let options = [("format", "json"), ("sink.marker-topic", markers.as_str())];
    let output = ids(0..3);
    let spec = spec(output.schema.clone(), &topic, &options, &[]);
    let batch = |marker: Option<Marker>| marker.map(|marker| marker.batch.0);
    let mut first = sink(&spec, OutputKind::Append, output.schema.clone());
    first.open(&owner(1)).await.unwrap();
    first.publish(&permit(1, 1, None), &output).await.unwrap();
    drop(first);

    // Somebody else dies in a transaction over every partition of the marker topic.
    let other = broker().transactional(&unique("other"));
    other.begin();
    (0..16).for_each(|partition| other.send(&markers, partition, Some("other"), Some("x")));
    other.delivered();

    // Nothing of ours is behind it; then nothing but what says the same of batch 1.
    let begun = std::time::Instant::now();
    for epoch in 2..4 {
        let mut next = sink(&spec, OutputKind::Append, output.schema.clone());
        assert_eq!(batch(next.open(&owner(epoch)).await.unwrap()), Some(1));
    }
    let mut last = sink(&spec, OutputKind::Append, output.schema.clone());
    assert_eq!(batch(last.open(&owner(4)).await.unwrap()), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: it was waited for", begun.elapsed());
    last.publish(&permit(4, 2, Some(1)), &output).await.unwrap();
    drop(last);

    // Batch 2 is behind it.
    let mut late = sink(&spec, OutputKind::Append, output.schema.clone());
    let opening = tokio::spawn(async move { late.open(&owner(5)).await });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!opening.is_finished());
    other.abort();
    assert_eq!(batch(opening.await.unwrap().unwrap()), Some(2));
}

#[tokio::test]
async fn two_queries_into_one_topic_keep_a_marker_each() {
    let topic = broker().topic("shared", 1, &[]);
    let output = ids(0..3);
    let spec = spec(output.schema.clone(), &topic, &[("format", "json")], &[]);
    let owner = |query: &str, epoch| Owner { query: query.into(), incarnation: format!("of {query}"), epoch };
    let open = async |query: &str, epoch| {
        let mut sink = millstream_kafka::sink(&spec, query, OutputKind::Append, output.schema.clone()).unwrap();
        let marker = sink.open(&owner(query, epoch)).await.unwrap();
        (sink, marker.map(|marker| marker.batch.0))
    };
    let permit = |query: &str, batch: u64| {
        let marker = Marker { owner: owner(query, 1), batch: BatchId(batch), digest: Digest(batch) };
        Permit::unchecked(marker, batch.checked_sub(1).filter(|batch| *batch > 0).map(BatchId))
    };
    let ((mut one, none), (mut other, neither)) = (open("q", 1).await, open("q_2", 1).await);
    assert_eq!((none, neither), (None, None));
    one.publish(&permit("q", 1), &output).await.unwrap();
    other.publish(&permit("q_2", 1), &output).await.unwrap();
    one.publish(&permit("q", 2), &output).await.unwrap();
    assert_eq!(broker().read(&topic).len(), 9);
    assert_eq!((open("q", 2).await.1, open("q_2", 2).await.1), (Some(2), Some(1)));
}

#[tokio::test]
async fn a_batch_that_does_not_follow_the_marker_is_refused() {
    let topic = broker().topic("cas", 1, &[]);
    let output = ids(0..3);
    let spec = spec(output.schema.clone(), &topic, &[("format", "json")], &[]);
    let mut sink = sink(&spec, OutputKind::Append, output.schema.clone());
    sink.open(&owner(1)).await.unwrap();
    sink.publish(&permit(1, 1, None), &output).await.unwrap();
    let refused = sink.publish(&permit(1, 3, Some(2)), &output).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Owned);
    assert_eq!(broker().read(&topic).len(), 3);
}

#[tokio::test]
async fn a_row_that_is_too_large_is_an_error_that_says_so_and_nothing_of_its_batch_is_seen() {
    let topic = broker().topic("large", 1, &[("max.message.bytes", "2000")]);
    let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Utf8, true)]));
    let large: String = (0..3000_u32).map(|n| char::from(b'a' + (n * n % 23) as u8)).collect();
    let rows = StringArray::from(vec!["small".to_string(), large]);
    let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(rows)]).unwrap();
    let spec = spec(schema.clone(), &topic, &[("format", "raw")], &[]);
    let mut sink = sink(&spec, OutputKind::Append, schema.clone());
    sink.open(&owner(1)).await.unwrap();
    let output = Output { schema, kind: OutputKind::Append, batches: vec![rows] };
    let error = sink.publish(&permit(1, 1, None), &output).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Sink, "{error}");
    assert!(error.to_string().contains("max.message.bytes"), "{error}");
    assert_eq!(broker().read(&topic), []);
}

#[tokio::test]
async fn a_topic_that_nobody_may_make_is_named() {
    let schema = ids(0..1).schema;
    let spec = spec(schema.clone(), "no such topic, and no name of one", &[("format", "json")], &[]);
    let error = sink(&spec, OutputKind::Append, schema).open(&owner(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no such topic"), "{error}");
}

#[tokio::test]
async fn one_row_batches_are_seen_within_milliseconds() {
    let topic = broker().topic("latency", 1, &[]);
    let output = ids(0..1);
    let spec = spec(output.schema.clone(), &topic, &[("format", "json")], &[]);
    let mut sink = sink(&spec, OutputKind::Append, output.schema.clone());
    sink.open(&owner(1)).await.unwrap();
    let mut took = vec![];
    for batch in 1..=60_u64 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let begun = Instant::now();
        sink.publish(&permit(1, batch, (batch > 1).then(|| batch - 1)), &output).await.unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    println!("publish of one row: p50 {:?}, p90 {:?}, max {:?}", took[30], took[54], took[59]);
    assert!(took[30] < Duration::from_millis(60), "the client's traps cost 100 ms: {:?}", took[30]);
}

//! The source against a real broker: the promises of a source, what a record becomes, what is gone.

#![allow(clippy::unwrap_used, clippy::panic)]

mod broker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use broker::broker;
use futures::TryStreamExt;
use millstream_core::batch::{Positions, Range};
use millstream_core::source::{Chunk, Limit, Offer, Source};
use millstream_core::{Error, ErrorKind, Result};
use millstream_io::{METADATA_KEY, TableSpec};
use millstream_testkit::conformance::source::{self as suite, Expected};
use rdkafka::producer::Producer;

const ALL: Limit = Limit { rows: 1 << 40, bytes: 1 << 40 };

fn ids() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

fn spec(topic: &str, schema: SchemaRef, options: &[(&str, &str)]) -> TableSpec {
    let base = [
        ("connector", "kafka"),
        ("topic", topic),
        ("properties.bootstrap.servers", broker().servers()),
        ("format", "json"),
    ];
    let base = base.into_iter().filter(|(key, _)| !options.iter().any(|(k, _)| k == key));
    TableSpec {
        name: "t".into(),
        schema,
        options: base.chain(options.iter().copied()).collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: "/".into(),
    }
}

fn source(spec: &TableSpec) -> Result<Arc<dyn Source>> {
    let all: Vec<usize> = (0..spec.schema.fields().len()).collect();
    millstream_kafka::source_table(spec)?.source(&all)
}

/// Some of everything: plain records, transactions that commit and that abort, records that are no rows.
fn mixed(partitions: i32) -> String {
    let topic = broker().topic("mixed", partitions, &[]);
    let plain = broker().producer();
    let transactions = broker().transactional(&broker::unique("mixed"));
    let mut id = 0;
    for round in 0..4 {
        for partition in 0..partitions {
            for n in 0..3 {
                id += 1;
                let value = if n == 2 && round == 1 { "no row".to_string() } else { format!(r#"{{"id":{id}}}"#) };
                plain.send(&topic, partition, None, Some(&value));
            }
        }
        plain.delivered();
        transactions.begin();
        for partition in 0..partitions {
            (0..2).for_each(|n| transactions.send(&topic, partition, None, Some(&format!(r#"{{"id":{}}}"#, -n))));
        }
        if round % 2 == 0 { transactions.commit() } else { transactions.abort() }
    }
    topic
}

#[tokio::test]
async fn a_topic_keeps_the_promises_of_a_source() {
    let topic = mixed(2);
    // Of 4 rounds and 2 partitions: 3 plain records, 2 in a transaction of every other round.
    let expected = Expected { rows: Some(8 * 3 + 4 * 2 - 2), rejected: Some(2) };
    let followed = spec(&topic, ids(), &[]);
    suite::check(|| source(&followed), expected).await.unwrap();
}

#[tokio::test]
async fn a_bounded_topic_keeps_the_promises_of_a_source_and_ends() {
    let topic = mixed(2);
    let expected = Expected { rows: Some(8 * 3 + 4 * 2 - 2), rejected: Some(2) };
    let bounded = spec(&topic, ids(), &[("scan.bounded.mode", "latest-offset")]);
    suite::check(|| source(&bounded), expected).await.unwrap();
}

async fn chunks(source: &Arc<dyn Source>, range: &Range) -> Result<Vec<Chunk>> {
    source.open(range).await?.try_collect().await
}

fn ids_of(rows: &RecordBatch) -> Vec<i64> {
    rows.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().to_vec()
}

/// Reads what is there now, from these positions on.
async fn read(source: &Arc<dyn Source>, positions: &mut Positions) -> Result<Vec<i64>> {
    let mut ids = vec![];
    loop {
        let offer = source.offer(positions, ALL).await?;
        if offer.ranges.is_empty() {
            return Ok(ids);
        }
        for range in &offer.ranges {
            chunks(source, range).await?.iter().for_each(|chunk| ids.extend(ids_of(&chunk.rows)));
            positions.insert(range.partition.clone(), range.end);
        }
    }
}

/// Waits until an offer is as wanted.
async fn until(source: &Arc<dyn Source>, from: &Positions, wanted: impl Fn(&Result<Offer>) -> bool) -> Result<Offer> {
    let begun = Instant::now();
    loop {
        let offer = source.offer(from, ALL).await;
        if wanted(&offer) {
            return offer;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "still {offer:?}");
        let _ = tokio::time::timeout(Duration::from_millis(200), source.ready()).await;
    }
}

fn send(topic: &str, partition: i32, range: std::ops::Range<i64>) {
    let producer = broker().producer();
    range.for_each(|id| producer.send(topic, partition, None, Some(&format!(r#"{{"id":{id}}}"#))));
    producer.delivered();
}

#[tokio::test]
async fn an_open_transaction_holds_rows_back_until_it_commits() {
    let topic = broker().topic("open", 1, &[]);
    let transaction = broker().transactional(&broker::unique("open"));
    transaction.begin();
    transaction.send(&topic, 0, None, Some(r#"{"id":1}"#));
    transaction.delivered();
    send(&topic, 0, 2..3);
    let source = source(&spec(&topic, ids(), &[])).unwrap();
    let mut positions = Positions::new();
    assert_eq!(read(&source, &mut positions).await.unwrap(), Vec::<i64>::new());
    transaction.commit();
    let offer = until(&source, &positions, |offer| !offer.as_ref().unwrap().ranges.is_empty()).await.unwrap();
    assert_eq!(ids_of(&chunks(&source, &offer.ranges[0]).await.unwrap()[0].rows), [1, 2]);
}

#[tokio::test]
async fn a_record_wakes_the_source_within_milliseconds() {
    let topic = broker().topic("wake", 1, &[]);
    let source = source(&spec(&topic, ids(), &[])).unwrap();
    let mut positions = Positions::new();
    assert_eq!(read(&source, &mut positions).await.unwrap(), Vec::<i64>::new());
    let producer = broker().producer();
    producer.send(&topic, 0, None, Some(r#"{"id":0}"#));
    producer.delivered();
    until(&source, &positions, |offer| !offer.as_ref().unwrap().ranges.is_empty()).await.unwrap();
    read(&source, &mut positions).await.unwrap();
    let mut took = vec![];
    for id in 1..40 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        producer.send(&topic, 0, None, Some(&format!(r#"{{"id":{id}}}"#)));
        loop {
            source.ready().await;
            if read(&source, &mut positions).await.unwrap() == [id] {
                break;
            }
        }
        took.push(begun.elapsed());
    }
    took.sort();
    println!("record to row: p50 {:?}, max {:?}", took[20], took[38]);
    assert!(took[20] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn partitions_that_are_added_are_found_and_read_from_their_first_record() {
    let topic = broker().topic("grow", 1, &[]);
    send(&topic, 0, 0..3);
    let source = source(&spec(&topic, ids(), &[("scan.startup.mode", "latest-offset")])).unwrap();
    let mut positions = Positions::new();
    assert_eq!(read(&source, &mut positions).await.unwrap(), Vec::<i64>::new());
    broker().add_partitions(&topic, 2);
    let producer = broker().producer();
    let begun = Instant::now();
    while producer.producer.client().fetch_metadata(Some(&topic), Duration::from_secs(5)).unwrap().topics()[0]
        .partitions()
        .len()
        < 2
    {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    send(&topic, 1, 10..12);
    let offer = until(&source, &positions, |offer| !offer.as_ref().unwrap().ranges.is_empty()).await.unwrap();
    assert_eq!(offer.ranges[0].partition.as_str(), format!("{topic}-1"));
    assert_eq!(read(&source, &mut positions).await.unwrap(), [10, 11]);
}

#[tokio::test]
async fn where_reading_begins_is_chosen_once_and_kept_over_a_restart() {
    let topic = broker().topic("start", 1, &[]);
    send(&topic, 0, 0..5);
    let mut marks = vec![];
    for (options, wanted) in [
        (vec![("scan.startup.mode", "earliest-offset")], vec![0, 1, 2, 3, 4]),
        (vec![("scan.startup.mode", "latest-offset")], vec![]),
        (
            vec![("scan.startup.mode", "specific-offsets"), ("scan.startup.specific-offsets", "partition:0,offset:3")],
            vec![3, 4],
        ),
        (vec![("scan.startup.mode", "timestamp"), ("scan.startup.timestamp-millis", "0")], vec![0, 1, 2, 3, 4]),
        (vec![("scan.startup.mode", "timestamp"), ("scan.startup.timestamp-millis", "99999999999999")], vec![]),
        (vec![("scan.startup.mode", "group-offsets"), ("properties.group.id", "nobody")], vec![0, 1, 2, 3, 4]),
    ] {
        let spec = spec(&topic, ids(), &options);
        let mut positions = Positions::new();
        assert_eq!(read(&source(&spec).unwrap(), &mut positions).await.unwrap(), wanted, "{options:?}");
        marks.push((spec, positions));
    }
    send(&topic, 0, 5..7);
    for (spec, mut positions) in marks {
        assert_eq!(positions.values().next().unwrap().offset, 5);
        assert_eq!(read(&source(&spec).unwrap(), &mut positions).await.unwrap(), [5, 6]);
    }
}

#[tokio::test]
async fn a_group_shows_how_far_was_read_where_one_is_named() {
    let topic = broker().topic("group", 1, &[]);
    send(&topic, 0, 0..5);
    let group = broker::unique("group");
    let options = [("properties.group.id", group.as_str()), ("scan.startup.mode", "group-offsets")];
    let spec = spec(&topic, ids(), &options);
    let first = source(&spec).unwrap();
    let mut positions = Positions::new();
    assert_eq!(read(&first, &mut positions).await.unwrap().len(), 5);
    positions.values_mut().for_each(|position| position.offset = 3);
    first.release(&positions).await.unwrap();
    let begun = Instant::now();
    while read(&source(&spec).unwrap(), &mut Positions::new()).await.unwrap() != [3, 4] {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test]
async fn records_that_retention_removed_are_an_error_or_counted_as_lost() {
    let topic = broker().topic("lost", 1, &[]);
    send(&topic, 0, 0..3);
    let mut positions = Positions::new();
    let fail = spec(&topic, ids(), &[]);
    assert_eq!(read(&source(&fail).unwrap(), &mut positions).await.unwrap(), [0, 1, 2]);
    send(&topic, 0, 3..10);
    broker().delete_before(&topic, 0, 7);
    let error = read(&source(&fail).unwrap(), &mut positions.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
    assert!(error.to_string().contains("begins at offset 7 now, and was to be read from 3"), "{error}");

    let count = source(&spec(&topic, ids(), &[("scan.lost", "count")])).unwrap();
    let offer = count.offer(&positions, ALL).await.unwrap();
    let range = &offer.ranges[0];
    assert_eq!((range.start.offset, range.end.offset, range.lost), (3, 10, 4));
    assert_eq!(ids_of(&chunks(&count, range).await.unwrap()[0].rows), [7, 8, 9]);
    // Another process reads the same.
    assert_eq!(ids_of(&chunks(&source(&fail).unwrap(), range).await.unwrap()[0].rows), [7, 8, 9]);
    // What is gone since can't be read again, and says so.
    broker().delete_before(&topic, 0, 8);
    let error = chunks(&source(&fail).unwrap(), range).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input, "{error}");
}

#[tokio::test]
async fn a_topic_that_was_made_again_is_another_one_even_with_as_many_records() {
    let topic = broker().topic("again", 1, &[]);
    send(&topic, 0, 0..5);
    let spec = spec(&topic, ids(), &[]);
    let running = source(&spec).unwrap();
    let offer = running.offer(&Positions::new(), ALL).await.unwrap();
    let range = offer.ranges[0].clone();
    let positions = Positions::from([(range.partition.clone(), range.end)]);
    broker().delete_topic(&topic);
    let gone = until(&running, &positions, |offer| offer.is_err()).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Input, "{gone}");
    let begun = Instant::now();
    while std::panic::catch_unwind(|| broker().make_topic(&topic, 1, &[])).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    send(&topic, 0, 100..110);
    for error in [
        source(&spec).unwrap().offer(&positions, ALL).await.map(drop).unwrap_err(),
        chunks(&source(&spec).unwrap(), &range).await.map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Input, "{error}");
        assert!(error.to_string().contains("deleted and made again"), "{error}");
    }
}

#[tokio::test]
async fn key_and_metadata_are_columns() {
    let topic = broker().topic("meta", 1, &[]);
    let producer = broker().producer();
    producer.send(&topic, 0, Some(r#"{"k":"a"}"#), Some(r#"{"id":1}"#));
    producer.send(&topic, 0, Some("no key"), Some(r#"{"id":2}"#));
    producer.send(&topic, 0, Some(r#"{"k":"c"}"#), Some("no value"));
    producer.send(&topic, 0, None, Some(r#"{"id":4}"#));
    producer.send(&topic, 0, Some(r#"{"k":"e"}"#), None);
    producer.send(&topic, 0, Some(r#"{"k":"f"}"#), Some(" "));
    producer.send(&topic, 0, Some(r#"{"k":"g"}"#), Some(r#"{"id":7}"#));
    producer.delivered();
    let meta = |field: Field, key: &str| field.with_metadata([(METADATA_KEY.into(), key.into())].into());
    let entries = Field::new(
        "entries",
        DataType::Struct(
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)].into(),
        ),
        false,
    );
    let schema = Arc::new(Schema::new(vec![
        meta(Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true), "timestamp"),
        Field::new("k", DataType::Utf8, true),
        meta(Field::new("p", DataType::Int64, true), "partition"),
        Field::new("id", DataType::Int64, true),
        meta(Field::new("offset", DataType::Int64, false), "offset"),
        meta(Field::new("raw", DataType::Binary, true), "key"),
        meta(Field::new("h", DataType::Map(Arc::new(entries), false), true), "headers"),
        meta(Field::new("topic", DataType::Utf8, true), "topic"),
    ]));
    let options = [("key.format", "json"), ("key.fields", "k"), ("value.fields-include", "EXCEPT_KEY")];
    let spec = spec(&topic, schema, &options);
    let source = source(&spec).unwrap();
    let offer = source.offer(&Positions::new(), ALL).await.unwrap();
    let chunk = &chunks(&source, &offer.ranges[0]).await.unwrap()[0];
    assert_eq!(ids_of(&chunk.rows), [1, 7]);
    let column = |name: &str| chunk.rows.column_by_name(name).unwrap().clone();
    assert_eq!(column("k").as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "g"]);
    assert_eq!(column("offset").as_primitive::<Int64Type>().values(), &[0, 6]);
    assert_eq!(column("p").as_primitive::<Int64Type>().values(), &[0, 0]);
    assert_eq!(column("raw").as_binary::<i32>().value(0), br#"{"k":"a"}"#);
    assert_eq!(column("topic").as_string::<i32>().value(1), topic);
    assert!(column("ts").is_valid(0) && column("h").is_valid(0));
    let rejected: BTreeMap<u64, &str> = chunk.rejected.iter().map(|r| (r.place.offset, r.reason.as_str())).collect();
    assert_eq!(rejected.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert!(rejected[&1].starts_with("key: not JSON") && rejected[&2].starts_with("not JSON"), "{rejected:?}");
    assert!(rejected[&3].contains("no key") && rejected[&4].contains("tombstone"), "{rejected:?}");
    assert_eq!(chunk.rejected[1].raw, b"no value");
    // Whoever asks for nothing counts the same rows.
    let table = millstream_kafka::source_table(&spec).unwrap();
    let nothing = chunks(&table.source(&[]).unwrap(), &offer.ranges[0]).await.unwrap();
    assert_eq!((nothing[0].rows.num_rows(), nothing[0].rejected.len()), (2, 5));
}

#[tokio::test]
async fn a_compacted_topic_that_lost_records_of_a_range_is_an_error() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("max.compaction.lag.ms", "100"),
    ];
    let topic = broker().topic("compact", 1, &settings);
    let producer = broker().producer();
    for id in 0..20 {
        producer.send(&topic, 0, Some("same"), Some(&format!(r#"{{"id":{id}}}"#)));
    }
    producer.delivered();
    let spec = spec(&topic, ids(), &[]);
    let first = source(&spec).unwrap();
    let offer = first.offer(&Positions::new(), ALL).await.unwrap();
    let range = offer.ranges[0].clone();
    let begun = Instant::now();
    let error = loop {
        // A segment is closed by the next record after its time.
        producer.send(&topic, 0, Some("same"), Some(r#"{"id":99}"#));
        producer.delivered();
        match chunks(&source(&spec).unwrap(), &range).await {
            Err(error) => break error,
            Ok(_) => assert!(begun.elapsed() < Duration::from_secs(60), "never compacted"),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("compaction"), "{error}");
    // What is still in memory is still good.
    assert_eq!(ids_of(&chunks(&first, &range).await.unwrap()[0].rows).len() as u64, 20);
}

#[tokio::test]
async fn a_topic_that_is_made_while_it_is_looked_for_is_read() {
    let topic = broker::unique("soon");
    let later = std::thread::spawn({
        let topic = topic.clone();
        move || {
            std::thread::sleep(Duration::from_millis(500));
            broker().make_topic(&topic, 1, &[]);
            send(&topic, 0, 0..3);
        }
    });
    let source = source(&spec(&topic, ids(), &[])).unwrap();
    until(&source, &Positions::new(), |offer| !offer.as_ref().unwrap().ranges.is_empty()).await.unwrap();
    later.join().unwrap();
    assert_eq!(read(&source, &mut Positions::new()).await.unwrap(), [0, 1, 2]);
}

#[tokio::test]
async fn topics_that_match_a_pattern_are_read_when_they_come_and_missed_when_they_go() {
    let name = broker::unique("pattern");
    let (first, second, other) = (format!("{name}-a"), format!("{name}-b"), format!("other-{name}-c"));
    let pattern = |pattern: &str| {
        let mut table = spec("", ids(), &[]);
        let servers = ("properties.bootstrap.servers", broker().servers());
        let options = [("connector", "kafka"), ("topic-pattern", pattern), servers, ("format", "json")];
        table.options = options.into_iter().collect();
        source(&table).unwrap()
    };
    broker().make_topic(&first, 2, &[]);
    broker().make_topic(&other, 1, &[]);
    send(&first, 0, 0..2);
    send(&first, 1, 2..4);
    send(&other, 0, 100..104);
    let (source, mut positions) = (pattern(&format!("{name}-.*")), Positions::new());
    let mut read_now = read(&source, &mut positions).await.unwrap();
    read_now.sort();
    assert_eq!(read_now, [0, 1, 2, 3]);

    broker().make_topic(&second, 1, &[]);
    send(&second, 0, 10..12);
    let found = until(&source, &positions, |offer| !offer.as_ref().unwrap().ranges.is_empty()).await.unwrap();
    assert_eq!(found.ranges[0].partition.as_str(), format!("{second}-0"));
    assert_eq!(read(&source, &mut positions).await.unwrap(), [10, 11]);

    broker().delete_topic(&first);
    let gone = until(&source, &positions, |offer| offer.is_err()).await.unwrap_err();
    assert!(gone.kind() == ErrorKind::Input && gone.to_string().contains(&format!("'{first}' is not on")), "{gone}");
    // Nor is it forgotten over a restart.
    let gone = pattern(&format!("{name}-.*")).offer(&positions, ALL).await.unwrap_err();
    assert!(gone.kind() == ErrorKind::Input && gone.to_string().contains(&format!("'{first}' is not on")), "{gone}");
    let none = pattern(&format!("{name}-[0-9]")).offer(&Positions::new(), ALL).await.unwrap_err();
    assert!(none.kind() == ErrorKind::Input && none.to_string().contains("'topic-pattern'"), "{none}");
}

#[tokio::test]
async fn a_topic_that_is_not_there_is_named() {
    let error: Error =
        source(&spec("millstream-no-such-topic", ids(), &[])).unwrap().offer(&Positions::new(), ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Input);
    assert!(error.to_string().contains("'millstream-no-such-topic' is not on"), "{error}");
}

#[tokio::test]
async fn options_that_mean_nothing_are_refused() {
    let refusal = |options: &[(&str, &str)]| {
        millstream_kafka::source_table(&spec("t", ids(), options)).err().unwrap().to_string()
    };
    assert!(refusal(&[("scan.startup.mod", "x")]).contains("did you mean 'scan.startup.mode'"));
    assert!(refusal(&[("connector", "upsert-kafka")]).contains("PRIMARY KEY"));
    assert!(refusal(&[("format", "csv"), ("csv.header", "true")]).contains("'csv.header'"));
    assert!(refusal(&[("format", "debezium-jso")]).contains("did you mean 'debezium-json'"));
}

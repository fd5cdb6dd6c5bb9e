use std::collections::BTreeMap;

use arrow::array::{Array, StructArray};
use arrow::datatypes::{Int32Type, Int64Type};
use millstream_core::source::Boundedness;
use millstream_testkit::conformance;

use super::super::generated::tests::read;
use super::*;

fn nexmark_of(schema: SchemaRef, options: &[(&str, &str)]) -> Result<Arc<dyn SourceTable>> {
    let spec = TableSpec {
        name: "nexmark".into(),
        schema,
        options: options.iter().copied().collect(),
        partitioned_by: vec![],
        primary_key: vec![],
        base_dir: Default::default(),
    };
    let table = table(&spec)?;
    spec.options.finish()?;
    Ok(table)
}

fn nexmark(options: &[(&str, &str)]) -> Arc<dyn SourceTable> {
    nexmark_of(schema(), options).unwrap()
}

async fn events(options: &[(&str, &str)]) -> RecordBatch {
    let chunks = read(&*nexmark(options), &[0, 1, 2, 3]).await;
    arrow::compute::concat_batches(&schema(), chunks.iter().map(|c| &c.rows)).unwrap()
}

fn of<'a>(rows: &'a RecordBatch, column: &str) -> &'a StructArray {
    rows.column_by_name(column).unwrap().as_struct()
}

fn longs(rows: &StructArray, field: &str) -> Vec<i64> {
    rows.column_by_name(field).unwrap().as_primitive::<Int64Type>().iter().flatten().collect()
}

#[tokio::test]
async fn the_generator_keeps_the_promises_of_a_source() {
    let options = [("events.num", "300"), ("partitions", "2"), ("seed", "7")];
    let expected = conformance::source::Expected { rows: Some(300), rejected: Some(0) };
    conformance::source::check(|| nexmark(&options).source(&[0, 1, 2, 3]), expected).await.unwrap();
}

#[tokio::test]
async fn events_come_in_the_published_proportions_and_only_their_column_is_set() {
    let rows = events(&[("events.num", "5000")]).await;
    let kinds = rows.column(0).as_primitive::<Int32Type>();
    let mut counts = BTreeMap::new();
    kinds.values().iter().for_each(|kind| *counts.entry(*kind).or_insert(0) += 1);
    assert_eq!(counts, [(0, 100), (1, 300), (2, 4600)].into());
    for (kind, column) in ["person", "auction", "bid"].into_iter().enumerate() {
        let column = of(&rows, column);
        for row in 0..rows.num_rows() {
            assert_eq!(column.is_valid(row), kinds.value(row) == kind as i32);
            assert!(column.columns().iter().all(|c| c.is_valid(row) == column.is_valid(row)));
        }
    }
}

#[tokio::test]
async fn ids_are_numbered_through_and_refer_to_what_is_near() {
    let rows = events(&[("events.num", "100000")]).await;
    // Two ids are spent before the first event: its person is not among them, two of its three auctions are.
    assert_eq!(longs(of(&rows, "person"), "id"), (1001..=3000).collect::<Vec<_>>());
    assert_eq!(longs(of(&rows, "auction"), "id"), (1001..=7000).collect::<Vec<_>>());
    let auctions = longs(of(&rows, "bid"), "auction");
    let hot = auctions.iter().filter(|id| **id % 100 == 0).count() as f64 / auctions.len() as f64;
    assert!((0.49..0.53).contains(&hot), "{hot} of the bids on hot auctions");
    let sellers = longs(of(&rows, "auction"), "seller");
    let hot = sellers.iter().filter(|id| **id % 100 == 0).count() as f64 / sellers.len() as f64;
    assert!((0.73..0.78).contains(&hot), "{hot} of the auctions by hot sellers");
    let bidders = longs(of(&rows, "bid"), "bidder");
    let hot = bidders.iter().filter(|id| **id % 100 == 1).count() as f64 / bidders.len() as f64;
    assert!((0.73..0.78).contains(&hot), "{hot} of the bids by hot bidders");
    let prices = longs(of(&rows, "bid"), "price");
    let below = prices.iter().filter(|p| **p < 100_000).count() as f64 / prices.len() as f64;
    assert!((0.48..0.52).contains(&below) && prices.iter().all(|p| (100..=100_000_000).contains(p)));
}

#[tokio::test]
async fn texts_are_as_long_and_as_frequent_as_published() {
    let rows = events(&[("events.num", "50000")]).await;
    let bids = of(&rows, "bid");
    let texts = |name: &str| bids.column_by_name(name).unwrap().as_string::<i32>().iter().flatten().collect::<Vec<_>>();
    let share =
        |all: &[&str], is: &dyn Fn(&str) -> bool| all.iter().filter(|t| is(t)).count() as f64 / all.len() as f64;
    let (channels, urls, extras) = (texts("channel"), texts("url"), texts("extra"));
    assert!((0.11..0.14).contains(&share(&channels, &|c| c == "Apple")));
    assert!((0.43..0.47).contains(&share(&urls, &|u| u.contains("&channel_id="))));
    assert!(urls.iter().all(|u| u.starts_with("https://www.nexmark.com/") && u.split('/').count() == 7));
    let mean = extras.iter().map(|e| e.len()).sum::<usize>() as f64 / extras.len() as f64;
    assert!((66.0..69.0).contains(&mean), "{mean}");
    let people = of(&rows, "person");
    let cards = people.column_by_name("creditCard").unwrap().as_string::<i32>();
    assert!(cards.iter().flatten().all(|c| c.len() == 19));
}

#[tokio::test]
async fn event_time_advances_by_the_rate_and_auctions_expire_after_it() {
    let rows = events(&[("events.num", "10000"), ("first-event.rate", "1000")]).await;
    let times = |column: &str, field: &str| {
        let array = of(&rows, column).column_by_name(field).unwrap().as_primitive::<TimestampMillisecondType>();
        array.iter().flatten().collect::<Vec<_>>()
    };
    let bids = times("bid", "dateTime");
    assert!(bids.is_sorted());
    assert_eq!((bids[0] - 1_767_225_600_000, bids[bids.len() - 1] - 1_767_225_600_000), (3, 9_998));
    let (begin, end) = (times("auction", "dateTime"), times("auction", "expires"));
    let mean = begin.iter().zip(&end).map(|(b, e)| e - b).sum::<i64>() as f64 / begin.len() as f64;
    assert!(begin.iter().zip(&end).all(|(b, e)| b < e) && (1_500.0..1_800.0).contains(&mean), "{mean}");
}

#[tokio::test]
async fn a_projection_does_not_change_the_events() {
    let table = nexmark(&[("events.num", "300")]);
    let all = read(&*table, &[0, 1, 2, 3]).await;
    for i in 0..4 {
        assert_eq!(read(&*table, &[i]).await[0].rows.column(0), all[0].rows.column(i));
    }
}

#[tokio::test]
async fn other_text_types_may_be_declared() {
    let bid = schema().field_with_name("bid").unwrap().clone();
    let DataType::Struct(fields) = bid.data_type() else { panic!() };
    let views = fields.iter().map(|f| match f.data_type() {
        DataType::Utf8 => Field::new(f.name(), DataType::Utf8View, true),
        other => Field::new(f.name(), other.clone(), true),
    });
    let declared = Arc::new(Schema::new(vec![Field::new("bid", DataType::Struct(views.collect()), true)]));
    let table = nexmark_of(declared.clone(), &[("events.num", "100")]).unwrap();
    assert_eq!(read(&*table, &[0]).await[0].rows.schema(), declared);
}

#[test]
fn the_published_options_decide_whether_it_ends() {
    let bounded = |options| nexmark(options).source(&[]).unwrap().boundedness() == Boundedness::Bounded;
    assert!(!bounded(&[]));
    assert!(!bounded(&[("events.num", "0")]));
    assert!(bounded(&[("events.num", "10"), ("next-event.rate", "5"), ("stop-at", "-1"), ("keep-alive", "false")]));
    assert!(bounded(&[("stop-at", "10"), ("max-emit-speed", "false"), ("bid.avg-size", "100b")]));
    assert!(!bounded(&[("events.num", "10"), ("keep-alive", "true")]));
    let error = nexmark_of(schema(), &[("event.num", "10")]).unwrap_err();
    assert!(error.message().contains("did you mean 'events.num'"), "{error}");
}

/// Prints how fast events are made: `cargo test -p millstream-io --release -- --ignored --nocapture events_per`.
#[tokio::test]
#[ignore = "a measurement"]
async fn events_per_second() {
    for projection in [vec![0, 1, 2, 3], vec![3], vec![0]] {
        let table = nexmark(&[("events.num", "1000000")]);
        let begin = std::time::Instant::now();
        let rows: usize = read(&*table, &projection).await.iter().map(|c| c.rows.num_rows()).sum();
        println!("{projection:?}: {:.2} M events/s", rows as f64 / begin.elapsed().as_secs_f64() / 1e6);
    }
}

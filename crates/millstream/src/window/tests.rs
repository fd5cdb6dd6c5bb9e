use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::Column;
use datafusion::logical_expr::{LogicalPlan, UserDefinedLogicalNodeCore, table_scan};
use proptest::prelude::*;

use super::*;

/// Every window there is near a time, by definition and not by arithmetic.
fn windows_by_search(spec: WindowSpec, ts: i64) -> Vec<(i64, i64)> {
    let mut found = vec![];
    let aligned = |t: i64, unit: i64| (t - spec.offset_us).rem_euclid(unit) == 0;
    for start in (ts - 2 * spec.size_us() - 1)..=ts {
        match spec.kind {
            WindowKind::Tumble { size_us } if aligned(start, size_us) => found.push((start, start + size_us)),
            WindowKind::Hop { slide_us, size_us } if aligned(start, slide_us) => found.push((start, start + size_us)),
            WindowKind::Cumulate { step_us, size_us } if aligned(start, size_us) => {
                found.extend((1..=size_us / step_us).map(|n| (start, start + n * step_us)));
            }
            _ => {}
        }
    }
    found.retain(|(start, end)| *start <= ts && ts < *end);
    found
}

fn specs() -> impl Strategy<Value = WindowSpec> {
    let kind = prop_oneof![
        (1i64..40).prop_map(|size_us| WindowKind::Tumble { size_us }),
        (1i64..40, 1i64..40).prop_map(|(a, b)| WindowKind::Hop { slide_us: a.min(b), size_us: a.max(b) }),
        (1i64..12, 1i64..8).prop_map(|(step_us, n)| WindowKind::Cumulate { step_us, size_us: step_us * n }),
    ];
    (kind, -100i64..100).prop_map(|(kind, offset_us)| WindowSpec { kind, offset_us })
}

proptest! {
    #[test]
    fn windows_of_a_time_are_those_that_hold_it(spec in specs(), ts in -500i64..500) {
        let expected = windows_by_search(spec, ts);
        prop_assert!(spec.checked().is_ok());
        prop_assert_eq!(spec.windows_of(ts).collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(Some(spec.first_end(ts)), expected.iter().map(|w| w.1).min());
        prop_assert_eq!(Some(spec.last_end(ts)), expected.iter().map(|w| w.1).max());
    }

    #[test]
    fn rows_of_a_pane_share_their_windows_and_its_start(spec in specs(), ts in -500i64..500) {
        let pane = spec.pane_of(ts);
        prop_assert!(pane <= ts && ts < pane + spec.pane_us());
        prop_assert_eq!(spec.windows_of_pane(pane).collect::<Vec<_>>(), spec.windows_of(ts).collect::<Vec<_>>());
        prop_assert_eq!(spec.last_end(pane), spec.last_end(ts));
        prop_assert_eq!(spec.pane_of(pane), pane);
        // Borders of windows are borders of panes: a window is a whole number of panes.
        for (start, end) in spec.windows_of(ts) {
            prop_assert_eq!(spec.pane_of(start), start);
            prop_assert_eq!(spec.pane_of(end), end);
        }
    }

    #[test]
    fn no_time_and_no_length_panics(ts in any::<i64>(), a in 1..i64::MAX, b in 1i64..1000, offset in any::<i64>()) {
        for spec in [WindowSpec::tumble(a), WindowSpec::hop(b, b), WindowSpec::cumulate(b, b * 7)] {
            let spec = spec.with_offset(offset);
            let _ = (spec.pane_of(ts), spec.first_end(ts), spec.last_end(ts), spec.windows_of(ts).count());
        }
    }
}

#[test]
fn lengths_that_make_no_windows_are_refused() {
    let refused = |spec: WindowSpec| spec.checked().unwrap_err().to_string();
    assert!(refused(WindowSpec::tumble(0)).contains("longer than zero"));
    assert!(refused(WindowSpec::hop(10_000_000, 2_000_000)).contains("the slide (10 s) is longer than the size (2 s)"));
    assert!(refused(WindowSpec::cumulate(2, 5)).contains("no multiple"));
}

#[test]
fn specs_show_and_store_themselves() {
    let spec = WindowSpec::hop(2_000_000, 10_000_000).with_offset(-500_000);
    assert_eq!(spec.to_string(), "HOP(slide 2 s, size 10 s, offset -500 ms)");
    assert_eq!(WindowSpec::tumble(60_000_000).to_string(), "TUMBLE(1 min)");
    let text = serde_json::to_string(&spec).unwrap();
    assert_eq!(text, r#"{"hop":{"slide_us":2000000,"size_us":10000000},"offset_us":-500000}"#);
    assert_eq!(serde_json::from_str::<WindowSpec>(&text).unwrap(), spec);
}

fn bids(watermark: bool) -> LogicalPlan {
    let mut time = Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true);
    if watermark {
        time = with_watermark(&time, 4_000_000);
    }
    let schema = Schema::new(vec![Field::new("auction", DataType::Int64, true), time]);
    table_scan(Some("bid"), &schema, None).unwrap().build().unwrap()
}

#[test]
fn a_window_table_adds_three_columns_that_say_where_they_come_from() {
    let spec = WindowSpec::tumble(10_000_000);
    let table = WindowTable::try_new(bids(true), Column::from_name("ts"), spec).unwrap();
    let names: Vec<_> = table.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["auction", "ts", "window_start", "window_end", "window_time"]);
    let end = table.schema.field(3);
    assert_eq!(end.data_type(), &DataType::Timestamp(TimeUnit::Millisecond, None));
    assert!(!end.is_nullable());
    let facts = WindowColumn::of(end).unwrap();
    assert_eq!((facts.spec, facts.part), (spec, WindowPart::End));
    assert_eq!(facts.time, "ts");
    assert!(!is_event_time(end) && is_event_time(table.schema.field(4)));
    assert_eq!(watermark_delay(table.schema.field(1)), Some(4_000_000));
    assert_eq!(table.necessary_children_exprs(&[0, 3]), Some(vec![vec![0, 1]]));
}

#[test]
fn a_column_without_a_watermark_makes_no_windows() {
    let error = WindowTable::try_new(bids(false), Column::from_name("ts"), WindowSpec::tumble(1)).unwrap_err();
    assert!(error.to_string().contains("no event time"), "{error}");
}

#[test]
fn a_second_window_over_columns_of_the_same_name_is_refused() {
    let spec = WindowSpec::tumble(10);
    let table = WindowTable::try_new(bids(true), Column::from_name("ts"), spec).unwrap();
    let plan = LogicalPlan::Extension(datafusion::logical_expr::Extension { node: std::sync::Arc::new(table) });
    let error = WindowTable::try_new(plan, Column::from_name("window_time"), spec).unwrap_err();
    assert!(error.to_string().contains("a column 'window_start' already"), "{error}");
}

#[test]
fn units_round_down() {
    assert_eq!(micros_to(-1, TimeUnit::Second), -1);
    assert_eq!(micros_from(-1, TimeUnit::Nanosecond), -1);
    assert_eq!(micros_to(micros_from(1_700, TimeUnit::Millisecond), TimeUnit::Millisecond), 1_700);
}

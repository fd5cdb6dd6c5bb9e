//! Event time as 64-bit microseconds, whatever unit a column has.
//!
//! Everything that decides about time (windows, panes, the frontier) counts microseconds. Nanoseconds are
//! rounded towards the past, before 1970 too: a row never moves into a later window.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{
    DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use datafusion::common::{Result as DfResult, exec_err};

use crate::window::{micros_from, micros_to};

/// The microseconds of a column of timestamps; null where it is null.
///
/// # Errors
/// Where the column holds no timestamps.
pub fn micros(column: &dyn Array) -> DfResult<Int64Array> {
    let DataType::Timestamp(unit, _) = column.data_type() else {
        return exec_err!("event time is a timestamp, not {}", column.data_type());
    };
    let unit = *unit;
    let units: Int64Array = match unit {
        TimeUnit::Second => column.as_primitive::<TimestampSecondType>().reinterpret_cast(),
        TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().reinterpret_cast(),
        TimeUnit::Microsecond => return Ok(column.as_primitive::<TimestampMicrosecondType>().reinterpret_cast()),
        TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().reinterpret_cast(),
    };
    Ok(units.unary(|t| micros_from(t, unit)))
}

/// A column of timestamps of this type, out of microseconds.
///
/// # Errors
/// Where the type is no timestamp.
pub fn timestamps(micros: &Int64Array, data_type: &DataType) -> DfResult<ArrayRef> {
    let DataType::Timestamp(unit, zone) = data_type else {
        return exec_err!("a window's bound is a timestamp, not {data_type}");
    };
    let units: Int64Array = micros.unary(|t| micros_to(t, *unit));
    let zone = zone.clone();
    Ok(match unit {
        TimeUnit::Second => Arc::new(units.reinterpret_cast::<TimestampSecondType>().with_timezone_opt(zone)),
        TimeUnit::Millisecond => Arc::new(units.reinterpret_cast::<TimestampMillisecondType>().with_timezone_opt(zone)),
        TimeUnit::Microsecond => Arc::new(units.reinterpret_cast::<TimestampMicrosecondType>().with_timezone_opt(zone)),
        TimeUnit::Nanosecond => Arc::new(units.reinterpret_cast::<TimestampNanosecondType>().with_timezone_opt(zone)),
    })
}

/// `window_time` of a window that ends there: the last millisecond that belongs to it, as in Flink.
pub fn window_time(end_us: i64) -> i64 {
    end_us.saturating_sub(1000)
}

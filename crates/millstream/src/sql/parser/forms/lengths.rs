//! Lengths of time that say no unit: DataFusion takes months, PostgreSQL seconds. Refused.

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Interval, NamedWindowDefinition, NamedWindowExpr, Spanned, Value, WindowFrameBound,
    WindowFrameUnits, WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::tokenizer::Span;

use crate::sql::diagnostic::SqlError;

/// Refuses a frame of a call with a length without a unit.
pub fn of_call(function: &Function) -> Result<(), SqlError> {
    match &function.over {
        Some(WindowType::WindowSpec(spec)) => of_window(spec),
        _ => Ok(()),
    }
}

/// The same in windows that have a name.
pub fn of_named_windows(windows: &[NamedWindowDefinition]) -> Result<(), SqlError> {
    windows.iter().try_for_each(|NamedWindowDefinition(_, window)| match window {
        NamedWindowExpr::WindowSpec(spec) => of_window(spec),
        NamedWindowExpr::NamedWindow(_) => Ok(()),
    })
}

fn of_window(spec: &WindowSpec) -> Result<(), SqlError> {
    let Some(frame) = spec.window_frame.as_ref().filter(|frame| frame.units == WindowFrameUnits::Range) else {
        return Ok(());
    };
    for bound in std::iter::once(&frame.start_bound).chain(&frame.end_bound) {
        if let WindowFrameBound::Preceding(Some(length)) | WindowFrameBound::Following(Some(length)) = bound
            && is_number_in_quotes(length)
        {
            return Err(refused(length.span(), length));
        }
    }
    Ok(())
}

/// Refuses `INTERVAL '1'`.
pub fn of_interval(interval: &Interval) -> Result<(), SqlError> {
    match interval.leading_field.is_none() && is_number_in_quotes(&interval.value) {
        true => Err(refused(interval.value.span(), &interval.value)),
        false => Ok(()),
    }
}

fn is_number_in_quotes(expr: &Expr) -> bool {
    let Expr::Value(value) = expr else { return false };
    matches!(&value.value, Value::SingleQuotedString(text) if text.trim().parse::<f64>().is_ok())
}

fn refused(span: Span, length: &Expr) -> SqlError {
    let reason = format!(
        "{length} is a length of time without a unit, months in DataFusion and seconds in PostgreSQL: write INTERVAL {length} \
         SECOND, or the number without quotes where it is none"
    );
    SqlError::new(span, reason)
}

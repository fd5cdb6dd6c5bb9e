//! The event time of a source's rows.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_plan::PhysicalExpr;
use millstream_core::{Error, ErrorKind, Result};

use super::row_error;

/// The event time of a source's rows.
#[derive(Clone, Debug)]
pub struct EventTime {
    /// The column's name, for messages.
    pub column: String,
    /// The watermark is the largest event time minus this, in microseconds.
    pub delay_us: i64,
    /// The event time, over the leaves.
    expr: Arc<dyn PhysicalExpr>,
    /// The columns that it is computed from, and the fields within columns: a CASE copies whatever columns it is
    /// given, and a column of a whole event is large.
    leaves: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl EventTime {
    /// The event time of a row is `expr`, over the columns that are read.
    ///
    /// # Errors
    /// Where the expression reads a column that is not there.
    pub fn try_new(column: String, expr: Arc<dyn PhysicalExpr>, input: &Schema, delay_us: i64) -> DfResult<Self> {
        let mut leaves: Vec<Arc<dyn PhysicalExpr>> = vec![];
        let mut fields = vec![];
        let expr = expr.transform_down(|node| {
            if !is_leaf(&node) {
                return Ok(Transformed::no(node));
            }
            let known = leaves.iter().position(|leaf| leaf.as_ref() == node.as_ref());
            let at = known.unwrap_or(leaves.len());
            let name = format!("leaf{at}");
            if known.is_none() {
                let field = node.return_field(input)?;
                fields.push(Field::new(&name, field.data_type().clone(), true).with_metadata(field.metadata().clone()));
                leaves.push(node);
            }
            let leaf: Arc<dyn PhysicalExpr> = Arc::new(Column::new(&name, at));
            Ok(Transformed::new(leaf, true, TreeNodeRecursion::Jump))
        })?;
        Ok(Self { column, delay_us, expr: expr.data, leaves, schema: Arc::new(Schema::new(fields)) })
    }

    /// The event time of each row. One that fails fails alone, whatever rows it came with.
    pub(super) fn each(&self, rows: &RecordBatch, times: &mut Vec<Result<Option<i64>>>) -> Result<()> {
        match self.all(rows) {
            Ok(all) => {
                let all = all.as_primitive::<TimestampMicrosecondType>();
                times.extend(all.iter().map(Ok));
                Ok(())
            }
            Err(error) if error.kind() != ErrorKind::Row => Err(error),
            Err(error) if rows.num_rows() <= 1 => {
                times.push(Err(error));
                Ok(())
            }
            Err(_) => {
                let half = rows.num_rows() / 2;
                self.each(&rows.slice(0, half), times)?;
                self.each(&rows.slice(half, rows.num_rows() - half), times)
            }
        }
    }

    fn all(&self, rows: &RecordBatch) -> Result<Arc<dyn Array>> {
        let count = rows.num_rows();
        let leaves = self.leaves.iter().map(|leaf| leaf.evaluate(rows).and_then(|v| v.into_array(count)));
        let leaves = leaves.collect::<DfResult<Vec<_>>>().map_err(row_error)?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let leaves = RecordBatch::try_new_with_options(Arc::clone(&self.schema), leaves, &options)
            .map_err(|e| Error::bug("the columns of an event time are not what they were declared").caused_by(e))?;
        let values = self.expr.evaluate(&leaves).and_then(|v| v.into_array(count)).map_err(row_error)?;
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let failed = |e| row_error(DataFusionError::from(e));
        // The zone is a way of showing a timestamp; the instant is the same without.
        let plain = match values.data_type() {
            DataType::Timestamp(unit, Some(_)) => cast(&values, &DataType::Timestamp(*unit, None)).map_err(failed)?,
            _ => values,
        };
        if plain.data_type() == &micros { Ok(plain) } else { cast(&plain, &micros).map_err(failed) }
    }
}

/// Whether this is a column, or a field within one: neither can fail.
fn is_leaf(node: &Arc<dyn PhysicalExpr>) -> bool {
    if node.downcast_ref::<Column>().is_some() {
        return true;
    }
    let call = node.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.fun().name() == "get_field");
    call.is_some_and(|call| match call.args() {
        [column, path @ ..] => {
            column.downcast_ref::<Column>().is_some() && path.iter().all(|p| p.downcast_ref::<Literal>().is_some())
        }
        [] => false,
    })
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array, StringArray, StructArray, TimestampMicrosecondArray};
    use datafusion::common::DFSchema;
    use datafusion::functions::core::expr_fn::get_field;
    use datafusion::prelude::{SessionContext, case, col, lit};
    use datafusion::scalar::ScalarValue;

    use super::*;

    #[test]
    fn a_case_over_events_reads_the_times_in_them_and_not_the_events() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let field = |name: &str, data_type: DataType| Arc::new(Field::new(name, data_type, true));
        let events: ArrayRef = Arc::new(StructArray::from(vec![
            (field("t", micros), Arc::new(TimestampMicrosecondArray::from(vec![Some(1), Some(2), None])) as ArrayRef),
            (field("text", DataType::Utf8), Arc::new(StringArray::from(vec!["large"; 3]))),
        ]));
        let kinds: ArrayRef = Arc::new(Int32Array::from(vec![0, 1, 0]));
        let rows = RecordBatch::try_from_iter([("kind", kinds), ("event", events)]).unwrap();
        let time = || get_field(col("event"), "t");
        let expr = case(col("kind"))
            .when(lit(0), time())
            .when(lit(2), time())
            .otherwise(lit(ScalarValue::TimestampMicrosecond(Some(7), None)))
            .unwrap();
        let schema = DFSchema::try_from(rows.schema().as_ref().clone()).unwrap();
        let expr = SessionContext::new().create_physical_expr(expr, &schema).unwrap();
        let time = EventTime::try_new("t".into(), expr, rows.schema_ref(), 0).unwrap();
        assert!(time.schema.fields().iter().all(|f| !f.data_type().is_nested()), "{:?}", time.schema);
        assert_eq!(time.leaves.len(), 2);
        let mut times = vec![];
        time.each(&rows, &mut times).unwrap();
        assert_eq!(times.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [Some(1), Some(7), None]);
    }
}

//! `map['key']`: the value of a key, which is compared in the type of the map's keys.
//!
//! DataFusion compares the key as it is written, and a text of one encoding fails against one of another, on every row.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawFieldAccessExpr};
use datafusion::logical_expr::{Expr, ExprSchemable, GetFieldAccess};

/// Plans the access to a map by a constant key.
#[derive(Debug)]
pub struct MapAccess;

impl ExprPlanner for MapAccess {
    fn plan_field_access(
        &self,
        access: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let key = match &access.field_access {
            GetFieldAccess::NamedStructField { name } => name,
            GetFieldAccess::ListIndex { key } => match key.as_ref() {
                Expr::Literal(value, _) => value,
                _ => return Ok(PlannerResult::Original(access)),
            },
            GetFieldAccess::ListRange { .. } => return Ok(PlannerResult::Original(access)),
        };
        match key_of(&access.expr.get_type(schema)?, key)? {
            Some(key) => Ok(PlannerResult::Planned(get_field(access.expr, key))),
            None => Ok(PlannerResult::Original(access)),
        }
    }
}

/// The key in the type of the keys, where the type is a map.
fn key_of(map: &DataType, key: &ScalarValue) -> Result<Option<ScalarValue>> {
    let DataType::Map(entries, _) = map else { return Ok(None) };
    let DataType::Struct(fields) = entries.data_type() else { return Ok(None) };
    fields.first().map(|keys| key.cast_to(keys.data_type())).transpose()
}

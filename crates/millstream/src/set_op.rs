//! INTERSECT ALL and EXCEPT ALL: the logical node, and what it means in batch.
//!
//! SQL counts: a row that is `l` times on the left and `r` times on the right is `min(l, r)` times in INTERSECT ALL
//! and `max(l - r, 0)` times in EXCEPT ALL, and NULL equals NULL. DataFusion plans both as a semi or an anti join of
//! whole rows, which does not count; so they are kept as a node of their own, which a stream runs by counts and a
//! batch as DataFusion joins rows that are numbered among their equals.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{Column, DFSchema, DFSchemaRef, JoinType, NullEquality, Result, internal_err, plan_err};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, cast,
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub enum CountedOp {
    /// `INTERSECT ALL`.
    Intersect,
    /// `EXCEPT ALL`.
    Except,
}

impl fmt::Display for CountedOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intersect => "INTERSECT ALL",
            Self::Except => "EXCEPT ALL",
        })
    }
}

/// Rows of the left by how often they are on either side.
#[derive(Clone, Debug)]
pub struct CountedSetOp {
    /// The left rows.
    pub left: LogicalPlan,
    /// The right rows: columns of the same types.
    pub right: LogicalPlan,
    /// What is counted.
    pub op: CountedOp,
    /// The columns of the left, without qualifiers.
    pub schema: DFSchemaRef,
}

impl CountedSetOp {
    /// The node over two queries, whose columns are brought to common types.
    ///
    /// # Errors
    /// Where the queries differ in the number of their columns, or columns have no common type.
    pub fn try_new(left: LogicalPlan, right: LogicalPlan, op: CountedOp) -> Result<Self> {
        let (l, r) = (left.schema().fields(), right.schema().fields());
        if l.len() != r.len() {
            return plan_err!(
                "{op} needs as many columns on both sides: {} on the left, {} on the right",
                l.len(),
                r.len()
            );
        }
        let mut fields = vec![];
        for (l, r) in l.iter().zip(r) {
            let Some(common) = type_union_resolution(&[l.data_type().clone(), r.data_type().clone()]) else {
                return plan_err!(
                    "{op}: the column '{}' is {} on the left and {} on the right, which have no common type",
                    l.name(),
                    l.data_type(),
                    r.data_type()
                );
            };
            let nullable = l.is_nullable() || (op == CountedOp::Intersect && r.is_nullable());
            fields.push((None, Arc::new(Field::new(l.name(), common, nullable))));
        }
        let schema = DFSchema::new_with_metadata(fields, Default::default())?;
        let (left, right) = (conform(left, &schema)?, conform(right, &schema)?);
        Ok(Self { left, right, op, schema: Arc::new(schema) })
    }

    /// What DataFusion runs in batch: a join of rows that are numbered among their equals.
    ///
    /// # Errors
    /// Whatever DataFusion says of the plan.
    pub fn in_batch(&self) -> Result<LogicalPlan> {
        const NUMBER: &str = "$number";
        let numbered = |plan: &LogicalPlan, side: &str| {
            let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
            let number = row_number().partition_by(columns.clone()).build()?.alias(NUMBER);
            LogicalPlanBuilder::from(plan.clone()).window(vec![number])?.alias(side)?.build()
        };
        let (left, right) = (numbered(&self.left, "$l")?, numbered(&self.right, "$r")?);
        let join = if self.op == CountedOp::Intersect { JoinType::LeftSemi } else { JoinType::LeftAnti };
        let on = (left.schema().columns(), right.schema().columns());
        let names = self.schema.fields().iter().map(|f| f.name());
        let columns: Vec<Expr> =
            names.map(|n| Expr::Column(Column::new(Some("$l"), n.clone())).alias(n.clone())).collect();
        LogicalPlanBuilder::from(left)
            .join_detailed(right, join, on, None, NullEquality::NullEqualsNull)?
            .project(columns)?
            .build()
    }
}

/// The plan with columns of these names and types.
fn conform(plan: LogicalPlan, to: &DFSchema) -> Result<LogicalPlan> {
    let from = plan.schema();
    let same =
        from.iter().zip(to.iter()).all(|((_, f), (_, t))| f.name() == t.name() && f.data_type() == t.data_type());
    if same {
        return Ok(plan);
    }
    let one = |(column, (field, to)): (Column, (&Arc<Field>, &Arc<Field>))| {
        let column = Expr::Column(column);
        let column = if field.data_type() == to.data_type() { column } else { cast(column, to.data_type().clone()) };
        column.alias(to.name())
    };
    let exprs: Vec<Expr> = from.columns().into_iter().zip(from.fields().iter().zip(to.fields())).map(one).collect();
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

impl PartialEq for CountedSetOp {
    fn eq(&self, other: &Self) -> bool {
        (&self.left, &self.right, self.op) == (&other.left, &other.right, other.op)
    }
}

impl Eq for CountedSetOp {}

impl PartialOrd for CountedSetOp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.left, &self.right, self.op).partial_cmp(&(&other.left, &other.right, other.op))
    }
}

impl Hash for CountedSetOp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.left, &self.right, self.op).hash(state);
    }
}

impl UserDefinedLogicalNodeCore for CountedSetOp {
    fn name(&self) -> &str {
        "CountedSetOp"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}", self.op)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match <[LogicalPlan; 2]>::try_from(inputs) {
            Ok([left, right]) => Self::try_new(left, right, self.op),
            Err(_) => internal_err!("{} has two inputs", self.op),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        // Which rows are equal depends on every column.
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        Some(vec![all.clone(), all])
    }
}

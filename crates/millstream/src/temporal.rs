//! Joins with a table as it is, or as it was: the logical node behind `FOR SYSTEM_TIME AS OF`.
//!
//! `FROM a JOIN t FOR SYSTEM_TIME AS OF e ON c` pairs each row of `a` with the rows of `t` that `c` is true for, out of
//! those that `t` had at the time `e`. Where `e` is PROCTIME(), that is what the table holds when the batch runs; where it
//! is the row's event time, it is the version of each key of `t` that was valid then.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DFSchema, DFSchemaRef, JoinType, Result, internal_err};
use datafusion::logical_expr::builder::build_join_schema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, UserDefinedLogicalNodeCore,
};
use millstream_core::lookup::LookupTable;

/// Expressions that must be equal, over the left side and the right; and what else must be true of a pair.
pub type Keys = (Vec<(Expr, Expr)>, Option<Expr>);

/// As of when the right side is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AsOf {
    /// When the batch runs.
    Now {
        /// The table that is asked, where it can't be read whole.
        by_key: Option<ByKey>,
    },
    /// At the event time of the left row.
    EventTime {
        /// The event time of the left row: a column.
        left: Expr,
        /// Since when a row of the right is valid: a column.
        right: Expr,
        /// The last column of the right is a weight: a row that is taken away ends what its key was.
        weighted: bool,
        /// How far rows of the left can be behind the frontier when they come, in microseconds.
        lag_us: i64,
    },
}

/// A table that is asked by key.
#[derive(Clone)]
pub struct ByKey {
    /// The table's name.
    pub name: String,
    /// The table: it answers the columns of the right side's scan.
    pub table: Arc<dyn LookupTable>,
    /// What it is asked by, over the columns of the left side.
    pub key: Vec<Expr>,
}

impl fmt::Debug for ByKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByKey").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.key) == (&other.name, &other.key)
    }
}

impl Eq for ByKey {}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.name, &self.key).hash(state);
    }
}

/// A join of a stream with a table as of a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TemporalJoin {
    /// The rows.
    pub left: LogicalPlan,
    /// The table.
    pub right: LogicalPlan,
    /// What must be true of a pair.
    pub condition: Expr,
    /// Inner or left.
    pub kind: JoinType,
    /// As of when.
    pub as_of: AsOf,
    /// What the state of a stream is called; empty in batch.
    pub state: String,
    /// The columns of both sides.
    pub schema: DFSchemaRef,
}

impl TemporalJoin {
    /// The join of two plans.
    ///
    /// # Errors
    /// Where two columns can't be told apart.
    pub fn try_new(
        left: LogicalPlan,
        right: LogicalPlan,
        condition: Expr,
        kind: JoinType,
        as_of: AsOf,
        state: String,
    ) -> Result<Self> {
        let schema = Arc::new(build_join_schema(left.schema(), &unweighted(&right, &as_of)?, &kind)?);
        Ok(Self { left, right, condition, kind, as_of, state, schema })
    }

    /// What must be equal, and what else must be true. Where a key holds floats, the equality is repeated: `-0.0` and
    /// `0.0` are one key of state, but not equal in SQL.
    ///
    /// # Errors
    /// Where an expression has no type.
    pub fn keys(&self) -> Result<Keys> {
        let (mut on, mut others) = (vec![], vec![]);
        for condition in split_conjunction(&self.condition) {
            match equality(condition, self.left.schema(), self.right.schema()) {
                Some((left, right)) => {
                    let data_type = left.get_type(self.left.schema())?;
                    if data_type.is_floating() || data_type.is_nested() {
                        others.push(condition.clone());
                    }
                    on.push((left, right));
                }
                None => others.push(condition.clone()),
            }
        }
        Ok((on, conjunction(others)))
    }

    /// The columns that the condition is over: those of both sides, as they are in a pair.
    ///
    /// # Errors
    /// Where two columns can't be told apart.
    pub fn pair_schema(&self) -> Result<DFSchema> {
        build_join_schema(self.left.schema(), &unweighted(&self.right, &self.as_of)?, &JoinType::Inner)
    }

    /// The columns of the right side, without the weight.
    ///
    /// # Errors
    /// As [`TemporalJoin::pair_schema`].
    pub fn right_columns(&self) -> Result<Schema> {
        Ok(unweighted(&self.right, &self.as_of)?.as_arrow().clone())
    }

    /// In batch, with a table that can be read whole: a join like any other.
    ///
    /// # Errors
    /// Whatever DataFusion says of the plan.
    pub fn in_batch(&self) -> Result<LogicalPlan> {
        LogicalPlanBuilder::from(self.left.clone())
            .join_on(self.right.clone(), self.kind, [self.condition.clone()])?
            .build()
    }

    /// The same with a state of this kind, called after what it keeps.
    pub fn named(self) -> Self {
        let Self { condition, kind, as_of, left, right, .. } = &self;
        let text = format!("{kind}|{condition}|{as_of:?}|{}|{}", left.display_indent(), right.display_indent());
        let state = format!("as-of-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()));
        Self { state, ..self }
    }
}

/// The columns of the right side without the weight.
fn unweighted(right: &LogicalPlan, as_of: &AsOf) -> Result<DFSchema> {
    let schema = right.schema();
    if !matches!(as_of, AsOf::EventTime { weighted: true, .. }) {
        return Ok(schema.as_ref().clone());
    }
    let columns = schema.fields().len().saturating_sub(1);
    let fields = schema.iter().take(columns).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    DFSchema::new_with_metadata(fields, schema.metadata().clone())
}

/// An equality of an expression over the left side and one over the right, in that order.
pub fn equality(condition: &Expr, left: &DFSchema, right: &DFSchema) -> Option<(Expr, Expr)> {
    let Expr::BinaryExpr(BinaryExpr { left: a, op: Operator::Eq, right: b }) = condition else { return None };
    let of = |e: &Expr, schema: &DFSchema| {
        let columns = e.column_refs();
        !columns.is_empty() && columns.iter().all(|c| schema.has_column(c))
    };
    if of(a, left) && of(b, right) {
        return Some((a.as_ref().clone(), b.as_ref().clone()));
    }
    (of(b, left) && of(a, right)).then(|| (b.as_ref().clone(), a.as_ref().clone()))
}

/// The column behind an expression that at most changes its type without losing anything.
pub fn plain_column(expr: &Expr, schema: &DFSchema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.index_of_column(column).ok(),
        Expr::Cast(cast) => {
            let column = plain_column(&cast.expr, schema)?;
            widens(schema.field(column), cast.field.data_type()).then_some(column)
        }
        _ => None,
    }
}

fn widens(from: &Field, to: &DataType) -> bool {
    let text = |t: &DataType| matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let from = from.data_type();
    let bits = |t: &DataType| t.primitive_width().unwrap_or(0);
    let signed = from.is_signed_integer() && to.is_signed_integer();
    let unsigned = from.is_unsigned_integer() && to.is_integer();
    from == to || (text(from) && text(to)) || ((signed || unsigned) && bits(from) < bits(to))
}

impl PartialOrd for TemporalJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        (&self.left, &self.right, &self.condition).partial_cmp(&(&other.left, &other.right, &other.condition))
    }
}

impl UserDefinedLogicalNodeCore for TemporalJoin {
    fn name(&self) -> &str {
        "TemporalJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let mut exprs = vec![self.condition.clone()];
        match &self.as_of {
            AsOf::EventTime { left, right, .. } => exprs.extend([left.clone(), right.clone()]),
            AsOf::Now { by_key: Some(by_key) } => exprs.extend(by_key.key.clone()),
            AsOf::Now { by_key: None } => {}
        }
        exprs
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let when = match &self.as_of {
            AsOf::Now { .. } => "PROCTIME()".to_string(),
            AsOf::EventTime { left, .. } => left.to_string(),
        };
        write!(f, "TemporalJoin: {} as of {when} on {}", self.kind, self.condition)?;
        if self.state.is_empty() { Ok(()) } else { write!(f, ", state={}", self.state) }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([left, right]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return internal_err!("a temporal join has two inputs");
        };
        let (mut exprs, mut as_of) = (exprs.into_iter(), self.as_of.clone());
        let Some(condition) = exprs.next() else { return internal_err!("a temporal join has a condition") };
        match &mut as_of {
            AsOf::EventTime { left, right, .. } => {
                let (Some(of_left), Some(of_right)) = (exprs.next(), exprs.next()) else {
                    return internal_err!("a temporal join has a time on both sides");
                };
                (*left, *right) = (of_left, of_right);
            }
            AsOf::Now { by_key: Some(by_key) } => by_key.key = exprs.collect(),
            AsOf::Now { by_key: None } => {}
        }
        Self::try_new(left, right, condition, self.kind, as_of, self.state.clone())
    }

    /// What is asked for above; what the expressions need is added by the caller.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let [left, right] = [&self.left, &self.right].map(|side| side.schema().fields().len());
        if !self.state.is_empty() {
            return Some(vec![(0..left).collect(), (0..right).collect()]);
        }
        let wanted: BTreeSet<usize> = output_columns.iter().copied().collect();
        let (of_left, of_right): (Vec<usize>, Vec<usize>) = wanted.into_iter().partition(|c| *c < left);
        Some(vec![of_left, of_right.into_iter().map(|c| c - left).collect()])
    }
}

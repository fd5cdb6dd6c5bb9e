//! The logical nodes of a streaming plan that DataFusion has no word for.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::{DFSchemaRef, Result, ScalarValue, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::exec::{EmitMode as WindowEmit, GroupColumn, Lifetime};
use crate::window::WindowSpec;

/// What makes an aggregate a windowed one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WindowGroup {
    /// Which windows a row belongs to.
    pub spec: WindowSpec,
    /// The name of the event-time column in the input: unqualified, it is unique there.
    pub time: Expr,
    /// The group columns in the query's order.
    pub columns: Vec<GroupColumn>,
    /// When it answers.
    pub emit: WindowEmit,
    /// Whether `time` is a row's own event time: then rows can be late for this window.
    pub of_rows: bool,
    /// How far rows can be behind the frontier when they come: a window closes so much later. In microseconds.
    pub lag_us: i64,
}

/// An aggregate whose groups live on from batch to batch.
///
/// Its output is the group columns, the aggregates and, where it is a changelog, the weight.
#[derive(Clone, Debug)]
pub struct StreamAggregate {
    /// The rows.
    pub input: LogicalPlan,
    /// The keys that are no window columns.
    pub keys: Vec<Expr>,
    /// The aggregate functions.
    pub aggregates: Vec<Expr>,
    /// The weight of a row, where the input is a changelog: a column of it.
    pub weight: Option<Expr>,
    /// The window, where the groups have one.
    pub window: Option<WindowGroup>,
    /// The keys of groups that are there without a row: those of empty grouping sets.
    pub standing: Vec<Vec<ScalarValue>>,
    /// How long a group is remembered, where it has no window.
    pub lifetime: Lifetime,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called: a hash over what it keeps.
    pub name: String,
}

impl StreamAggregate {
    /// Whether the output has a weight column.
    pub fn is_changelog(&self) -> bool {
        self.window.as_ref().is_none_or(|w| w.emit == WindowEmit::Changes)
    }

    /// The columns of the answer: the output without its weight.
    pub fn answer_schema(&self) -> Schema {
        let weight = usize::from(self.is_changelog());
        let fields = self.schema.fields();
        let answer = fields.iter().take(fields.len() - weight).map(Arc::clone).collect::<Vec<_>>();
        Schema::new(answer)
    }

    fn identity(&self) -> impl Eq + Hash + '_ {
        (&self.input, &self.keys, &self.aggregates, &self.weight, &self.window, &self.name)
    }
}

impl PartialEq for StreamAggregate {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamAggregate {}

impl PartialOrd for StreamAggregate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamAggregate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamAggregate {
    fn name(&self) -> &str {
        "StreamAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let time = self.window.iter().map(|w| w.time.clone());
        let exprs = self.keys.iter().chain(&self.aggregates).chain(&self.weight);
        exprs.cloned().chain(time).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let list = |exprs: &[Expr]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        write!(f, "StreamAggregate: keys=[{}], aggregates=[{}]", list(&self.keys), list(&self.aggregates))?;
        if self.weight.is_some() {
            f.write_str(", over a changelog")?;
        }
        if let Some(w) = &self.window {
            write!(f, ", window={} over {}, emit={:?}", w.spec, w.time, w.emit)?;
        }
        write!(f, ", state={}", self.name)
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut node = self.clone();
        let Some(input) = inputs.pop() else { return internal_err!("an aggregate has one input") };
        node.input = input;
        if let Some(window) = &mut node.window {
            let Some(time) = exprs.pop() else { return internal_err!("a windowed aggregate has a time") };
            window.time = time;
        }
        if let Some(weight) = &mut node.weight {
            let Some(column) = exprs.pop() else { return internal_err!("a changelog has a weight") };
            *weight = column;
        }
        node.aggregates = exprs.split_off(node.keys.len());
        node.keys = exprs;
        Ok(node)
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema();
        let mut needed = vec![];
        for expr in self.expressions() {
            for column in expr.column_refs() {
                needed.push(schema.index_of_column(column).ok()?);
            }
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// The rows of a batch of one source: the leaf of a streaming plan.
#[derive(Clone, Debug)]
pub struct StreamScan {
    /// The number of the scan within the plan.
    pub scan: usize,
    /// The table's name.
    pub table: String,
    /// The columns that are read.
    pub schema: DFSchemaRef,
}

impl PartialEq for StreamScan {
    fn eq(&self, other: &Self) -> bool {
        self.scan == other.scan
    }
}

impl Eq for StreamScan {}

impl PartialOrd for StreamScan {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.scan.partial_cmp(&other.scan)
    }
}

impl Hash for StreamScan {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.scan.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamScan {
    fn name(&self) -> &str {
        "StreamScan"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns: Vec<_> = self.schema.fields().iter().map(|c| c.name().as_str()).collect();
        write!(f, "StreamScan: {} [{}]", self.table, columns.join(", "))
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, _inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(self.clone())
    }
}

/// A node as a plan.
pub fn extension(node: impl UserDefinedLogicalNodeCore + 'static) -> LogicalPlan {
    LogicalPlan::Extension(datafusion::logical_expr::Extension { node: Arc::new(node) })
}

//! `StreamOnce`: constant rows, which come in the first batch and never again.

use std::cmp::Ordering;
use std::fmt;
use std::hash::Hash;

use datafusion::common::{DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// The rows of a plan that reads nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamOnce {
    /// The rows.
    pub input: LogicalPlan,
    /// What the state is called.
    pub name: String,
}

impl StreamOnce {
    /// These rows, once.
    pub fn new(input: LogicalPlan) -> Self {
        let text = input.display_indent().to_string();
        Self { input, name: format!("once-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())) }
    }
}

impl PartialOrd for StreamOnce {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl UserDefinedLogicalNodeCore for StreamOnce {
    fn name(&self) -> &str {
        "StreamOnce"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("StreamOnce")
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) => Ok(Self { input, name: self.name.clone() }),
            None => internal_err!("a constant has one input"),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

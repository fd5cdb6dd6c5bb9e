//! `StreamFinal`: the answer of a query when its input has ended (EMIT FINAL).

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use super::incremental::Edge;
use super::nodes::extension;
use crate::exec::Lifetime;

/// The rows of its input when that has ended, without a weight.
#[derive(Clone, Debug)]
pub struct StreamFinal {
    /// The rows as they come and go.
    pub input: LogicalPlan,
    /// Whether the query forgets.
    pub lifetime: Lifetime,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called.
    pub name: String,
}

/// The answer of an edge, at the end.
pub(super) fn at_the_end(edge: Edge, lifetime: Lifetime) -> Result<Edge> {
    let Edge { plan: input, changelog, key, mut facts, .. } = edge;
    let count = input.schema().fields().len() - usize::from(changelog);
    let fields = input.schema().iter().take(count).map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    let schema = Arc::new(DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?);
    facts.truncate(count);
    let name = format!("final-{:016x}", xxhash_rust::xxh3::xxh3_64(input.display_indent().to_string().as_bytes()));
    let lifetime = Lifetime { idle_us: [None; 2], ..lifetime };
    let plan = extension(StreamFinal { input, lifetime, schema, name });
    Ok(Edge { plan, changelog: false, key, facts, lag_us: None })
}

impl StreamFinal {
    /// What is kept, and for how long, for a person.
    pub fn describe(&self) -> String {
        format!("{}: the rows of the answer, until the input ends: it follows the size of the answer", self.name)
    }
}

impl PartialEq for StreamFinal {
    fn eq(&self, other: &Self) -> bool {
        (&self.input, &self.name) == (&other.input, &other.name)
    }
}

impl Eq for StreamFinal {}

impl PartialOrd for StreamFinal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamFinal {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.input, &self.name).hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamFinal {
    fn name(&self) -> &str {
        "StreamFinal"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamFinal: state={}", self.name)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        match inputs.pop() {
            Some(input) => Ok(Self { input, ..self.clone() }),
            None => internal_err!("a final answer has one input"),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![(0..self.input.schema().fields().len()).collect()])
    }
}

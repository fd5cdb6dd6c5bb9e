//! `StreamJoin`: a join whose sides live on from batch to batch.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};

use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, DFSchemaRef, JoinType, Result, internal_err};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::exec::{Expiry, Lifetime};
use crate::window::WindowSpec;

/// When a join forgets rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JoinTime {
    /// Never, unless they are taken back.
    Unbounded,
    /// When their window closes.
    Windows {
        /// The windows.
        spec: WindowSpec,
        /// When the window of a row closes, for each side.
        closes: [Expiry; 2],
    },
    /// When no row that is still to come can be paired with them.
    Interval {
        /// When a row is done, for each side.
        expiries: [Expiry; 2],
        /// Rows are forgotten in groups of this length of time, in microseconds.
        granule_us: i64,
        /// How far the event times of the answer can be behind the frontier, where there is a bound.
        lag_us: Option<i64>,
    },
}

/// A join of two streams. Its output is the joined columns and, where it is a changelog, the weight.
#[derive(Clone, Debug)]
pub struct StreamJoin {
    /// The left side.
    pub left: LogicalPlan,
    /// The right side.
    pub right: LogicalPlan,
    /// The keys that must be equal.
    pub on: Vec<(Expr, Expr)>,
    /// What else must be true of a pair.
    pub filter: Option<Expr>,
    /// Which rows are answered.
    pub kind: JoinType,
    /// Whether NULL keys are equal to each other.
    pub null_equals_null: bool,
    /// Whether it is a NOT IN.
    pub null_aware: bool,
    /// Which sides have a weight column.
    pub changelogs: [bool; 2],
    /// Whether the output has one.
    pub changelog: bool,
    /// When rows are forgotten.
    pub time: JoinTime,
    /// How long the keys of each side are remembered, where time bounds nothing.
    pub lifetime: Lifetime,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called: a hash over what it keeps.
    pub name: String,
}

impl StreamJoin {
    /// The columns of the answer: the output without its weight.
    pub fn answer_schema(&self) -> Schema {
        let fields = self.schema.fields();
        let count = fields.len() - usize::from(self.changelog);
        Schema::new(fields.iter().take(count).cloned().collect::<Vec<_>>())
    }

    /// The columns that the filter is over: those of both sides, without weights.
    pub fn pair_schema(&self) -> Result<DFSchema> {
        let mut fields = vec![];
        for (side, changelog) in [&self.left, &self.right].into_iter().zip(self.changelogs) {
            let schema = side.schema();
            let count = schema.fields().len() - usize::from(changelog);
            fields.extend(schema.iter().take(count).map(|(q, f)| (q.cloned(), f.clone())));
        }
        DFSchema::new_with_metadata(fields, Default::default())
    }

    /// A name out of what is kept: the kind, the keys, the condition and the lineage.
    pub fn state_name(&self) -> String {
        let Self { kind, on, filter, time, left, right, .. } = self;
        let flags = (self.null_equals_null, self.null_aware);
        let text = format!(
            "{kind}|{}|{filter:?}|{flags:?}|{time:?}|{}|{}",
            join_keys(on),
            left.display_indent(),
            right.display_indent()
        );
        format!("join-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// The name is a hash over all the rest.
    fn identity(&self) -> (&LogicalPlan, &LogicalPlan, Vec<Expr>, &String) {
        (&self.left, &self.right, self.expressions(), &self.name)
    }
}

/// The keys as a person writes them.
pub fn join_keys(on: &[(Expr, Expr)]) -> String {
    on.iter().map(|(l, r)| format!("{l} = {r}")).collect::<Vec<_>>().join(", ")
}

impl PartialEq for StreamJoin {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamJoin {}

impl PartialOrd for StreamJoin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamJoin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamJoin {
    fn name(&self) -> &str {
        "StreamJoin"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.left, &self.right]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let on = self.on.iter().flat_map(|(l, r)| [l.clone(), r.clone()]);
        on.chain(self.filter.clone()).collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|f| f.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamJoin: {} on=[{}]", self.kind, join_keys(&self.on))?;
        if let Some(filter) = &self.filter {
            write!(f, ", filter={filter}")?;
        }
        let edge = |changelog| if changelog { "changelog" } else { "insert-only" };
        let [left, right] = self.changelogs.map(edge);
        write!(f, ", {left} x {right} -> {}, state={}", edge(self.changelog), self.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Ok([left, right]) = <[LogicalPlan; 2]>::try_from(inputs) else {
            return internal_err!("a join has two inputs");
        };
        let mut exprs = exprs.into_iter();
        let mut node = Self { left, right, ..self.clone() };
        for (l, r) in &mut node.on {
            let (Some(left), Some(right)) = (exprs.next(), exprs.next()) else {
                return internal_err!("a join has {} keys", self.on.len());
            };
            (*l, *r) = (left, right);
        }
        node.filter = exprs.next();
        Ok(node)
    }

    /// All columns: what nobody uses was taken out below the join before it became incremental.
    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some([&self.left, &self.right].map(|side| (0..side.schema().fields().len()).collect()).to_vec())
    }
}

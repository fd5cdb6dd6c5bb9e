//! Joins: every batch answers how its rows changed the joined rows.
//!
//! Each side's rows so far are kept by their key. A batch brings changes `dL` and `dR`, and the pairs change by
//! `dL x R_old + L_new x dR`, each pair with the product of its weights. What depends on whether a row has a
//! partner at all (outer, semi, anti and mark joins) follows from counts: a row's partners are counted before
//! and after the batch, and its answer changes when the count leaves zero or returns to it. Without a residual
//! condition the partners of a row are all rows of its key; with one, each row's count is kept beside it.
//!
//! A NULL in a key matches nothing, unless NULLs are equal in this join. Rows that can't match are not kept.
//!
//! - An input is insert-only or a changelog, by its schema. An inner join, and a semi join, of insert-only inputs
//!   are insert-only; every other answer is a changelog, consolidated.
//! - Rows are kept for ever, or for the lifetime of their side's keys ([`super::idle`]); unless the join has an
//!   [`Interval`]: then each side says when a row is of no more
//!   use, and the answer is insert-only: a row without a partner is answered once, when it is forgotten.
//! - [`WindowJoinExec`] joins rows of windows, each window once, when it closes.

mod delta;
mod expire;
mod null_aware;
mod pairs;
mod side;
mod state;
mod window;

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{JoinType, Result as DfResult, internal_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;

use self::state::JoinState;
use super::BatchContext;
use super::memory::Memory;
use super::stateful::{Operator, StatefulExec};
use crate::changelog;

pub use self::window::WindowJoinExec;

/// What is joined, and how.
#[derive(Clone, Debug)]
pub struct Join {
    /// Which rows are answered.
    pub kind: JoinType,
    /// The keys that must be equal: an expression over each side. Without any, every pair is looked at.
    ///
    /// `-0.0` and `0.0` are one key, as they are to DataFusion's own joins, and a NaN is one of the same bits.
    pub on: Vec<(Arc<dyn PhysicalExpr>, Arc<dyn PhysicalExpr>)>,
    /// What else must be true, over the columns of the left side and then those of the right, without weights.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Whether NULL keys are equal to each other.
    pub null_equals_null: bool,
    /// Whether an anti join is a NOT IN: with one key and no filter.
    pub null_aware: bool,
    /// When rows are forgotten.
    pub interval: Option<Interval>,
}

/// When the rows of each side are forgotten.
#[derive(Clone, Debug)]
pub struct Interval {
    /// For the rows of the left side, then for those of the right.
    pub expiries: [Expiry; 2],
    /// Rows are forgotten in groups of this length of time, in microseconds.
    pub granule_us: i64,
}

/// A moment in the life of a row: a timestamp column and a distance from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Expiry {
    /// The column, of the side's own.
    pub column: usize,
    /// How much later, in microseconds: the row is done once the frontier has reached it.
    pub offset_us: i64,
}

/// What a join says of the rows of one side beside their pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Preserve {
    /// Rows without a partner, with NULLs for the other side.
    Padded,
    /// Rows with a partner.
    Matched,
    /// Rows without a partner.
    Unmatched,
    /// Every row, and whether it has a partner.
    Marked,
}

/// What does not change between batches. Pairs of things are those of the left side, then of the right.
#[derive(Debug)]
pub(super) struct Plan {
    join: Join,
    /// The schemas of the inputs, with weights where they have them.
    inputs: [SchemaRef; 2],
    /// The columns of the inputs without weights.
    columns: [SchemaRef; 2],
    keys: SchemaRef,
    /// Whether pairs are answered.
    pairs: bool,
    preserve: [Option<Preserve>; 2],
    /// The columns of both sides: what the filter is over.
    pair: SchemaRef,
    /// With the weight, where it is a changelog.
    output: SchemaRef,
    memory: Memory,
}

/// A join of two streams.
#[derive(Debug)]
pub struct JoinExec(Plan);

impl JoinExec {
    /// Joins two inputs.
    ///
    /// `memory` names the state within the query. `output` is the schema of the answer; the node's own schema adds
    /// [`changelog::WEIGHT`] where the answer is a changelog.
    ///
    /// # Errors
    /// Where the columns or keys don't fit each other.
    pub fn try_new(
        memory: impl Into<Memory>,
        inputs: [Arc<dyn ExecutionPlan>; 2],
        join: Join,
        output: &Schema,
    ) -> DfResult<StatefulExec> {
        let schemas = inputs.each_ref().map(|input| input.schema());
        let changelog = join.is_changelog(schemas.each_ref().map(|s| changelog::is_weighted(s)));
        let memory = memory.into();
        let name = Arc::clone(&memory.name);
        let plan = Plan::try_new(join, schemas, output, changelog, memory)?;
        let state = JoinState::try_new(&plan)?;
        Ok(StatefulExec::new(name, inputs, Self(plan), state))
    }
}

impl Operator<2> for JoinExec {
    type State = JoinState;

    const NAME: &'static str = "JoinExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.0.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.0.join.expressions()
    }

    fn detail(&self) -> String {
        self.0.to_string()
    }

    fn run(
        &self,
        state: &mut JoinState,
        inputs: [Vec<RecordBatch>; 2],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        self.0.run(state, inputs.each_ref().map(Vec::as_slice), &*BatchContext::of(context)?)
    }
}

impl Join {
    /// Whether the answer is a changelog, where each input is one or not.
    pub fn is_changelog(&self, inputs: [bool; 2]) -> bool {
        use JoinType::{Inner, LeftSemi, RightSemi};
        inputs != [false, false] || (self.interval.is_none() && !matches!(self.kind, Inner | LeftSemi | RightSemi))
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.on.iter().flat_map(|(left, right)| [left, right]).chain(&self.filter).collect()
    }
}

impl Plan {
    fn try_new(
        mut join: Join,
        inputs: [SchemaRef; 2],
        output: &Schema,
        changelog: bool,
        memory: Memory,
    ) -> DfResult<Self> {
        let columns = inputs.each_ref().map(|schema| {
            let weight = usize::from(changelog::is_weighted(schema));
            let fields = schema.fields().iter().take(schema.fields().len() - weight).cloned();
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        });
        let mut keys = Vec::new();
        for (i, (left, right)) in join.on.iter().enumerate() {
            let (l, r) = (left.data_type(&inputs[0])?, right.data_type(&inputs[1])?);
            if l != r {
                return internal_err!("a join compares a key of type {l} with one of type {r}");
            }
            keys.push(Field::new(format!("key{i}"), l, true));
        }
        if join.null_aware && (join.kind != JoinType::LeftAnti || join.on.len() != 1 || join.filter.is_some()) {
            return internal_err!("a NOT IN is an anti join over one key without a filter");
        }
        if memory.lifetime.forgetful && join.null_aware {
            return internal_err!("a NOT IN can't forget");
        }
        let (pairs, left, right) = answers(join.kind);
        // IMPORTANT: what was said of a row is kept beside it where partners are forgotten without a word. How many rows
        // a key has does not tell it any more; how many a condition lets through is counted for each row.
        if memory.lifetime.forgetful && join.interval.is_none() && (left.is_some() || right.is_some()) {
            join.filter.get_or_insert_with(|| datafusion::physical_expr::expressions::lit(true));
        }
        let both: Vec<FieldRef> = columns.iter().flat_map(|c| c.fields().iter().cloned()).collect();
        let plan = Self {
            join,
            inputs,
            columns,
            keys: Arc::new(Schema::new(keys)),
            pairs,
            preserve: [left, right],
            pair: Arc::new(Schema::new(both)),
            output: if changelog { changelog::with_weight(output) } else { Arc::new(output.clone()) },
            memory,
        };
        if plan.answer_types() != output.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>() {
            return internal_err!("the answer of a join does not have the types of {output}");
        }
        Ok(plan)
    }

    fn answer_types(&self) -> Vec<arrow::datatypes::DataType> {
        let of = |side: usize| self.columns.get(side).into_iter().flat_map(|c| c.fields().iter());
        let sides: Vec<usize> = match self.preserve {
            _ if self.pairs => vec![0, 1],
            [Some(_), _] => vec![0],
            _ => vec![1],
        };
        let mut types: Vec<_> = sides.into_iter().flat_map(of).map(|f| f.data_type().clone()).collect();
        if self.preserve.contains(&Some(Preserve::Marked)) {
            types.push(arrow::datatypes::DataType::Boolean);
        }
        types
    }

    fn is_changelog(&self) -> bool {
        changelog::is_weighted(&self.output)
    }

    /// Whether the rows of a side are kept, or only how many there are of a key.
    fn keeps_rows(&self, side: usize) -> bool {
        self.pairs || self.join.filter.is_some() || self.preserves(side).is_some()
    }

    /// Whether the number of its partners is kept beside each row of a side.
    fn counts_partners(&self, side: usize) -> bool {
        self.join.filter.is_some() && self.preserves(side).is_some()
    }

    fn preserves(&self, side: usize) -> Option<Preserve> {
        self.preserve.get(side).copied().flatten()
    }

    /// Whether rows of this side without a partner are answered when they are forgotten, and not before.
    fn at_expiry(&self, side: usize) -> bool {
        self.join.interval.is_some() && matches!(self.preserves(side), Some(Preserve::Padded | Preserve::Unmatched))
    }
}

/// Whether pairs are answered, and what is said of the rows of each side.
fn answers(kind: JoinType) -> (bool, Option<Preserve>, Option<Preserve>) {
    use Preserve::{Marked, Matched, Padded, Unmatched};
    match kind {
        JoinType::Inner => (true, None, None),
        JoinType::Left => (true, Some(Padded), None),
        JoinType::Right => (true, None, Some(Padded)),
        JoinType::Full => (true, Some(Padded), Some(Padded)),
        JoinType::LeftSemi => (false, Some(Matched), None),
        JoinType::RightSemi => (false, None, Some(Matched)),
        JoinType::LeftAnti => (false, Some(Unmatched), None),
        JoinType::RightAnti => (false, None, Some(Unmatched)),
        JoinType::LeftMark => (false, Some(Marked), None),
        JoinType::RightMark => (false, None, Some(Marked)),
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<String> = self.join.on.iter().map(|(l, r)| format!("{l} = {r}")).collect();
        write!(f, "kind={}, on=[{}]", self.join.kind, on.join(", "))?;
        if let Some(filter) = &self.join.filter {
            write!(f, ", filter={filter}")?;
        }
        if let Some(Interval { expiries: [left, right], .. }) = &self.join.interval {
            write!(
                f,
                ", forgets=[@{} + {} us, @{} + {} us]",
                left.column, left.offset_us, right.column, right.offset_us
            )?;
        }
        Ok(())
    }
}

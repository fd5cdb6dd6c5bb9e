//! INTERSECT and EXCEPT, made incremental: by how often a row is on either side.
//!
//! DataFusion plans INTERSECT and EXCEPT as semi and anti joins of whole rows where NULL equals NULL, over distinct
//! left rows. Any such join is recognised by its shape, whoever wrote it. The forms with ALL are a node of their own
//! ([`CountedSetOp`]).

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, DFSchemaRef, ExprSchema, JoinType, NullEquality, Result, internal_err};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, Projection, UserDefinedLogicalNodeCore};

use super::incremental::{ColumnFact, Edge, Rewrite, Rewritten, weight_of};
use super::lifetime::{named, until};
use super::nodes::extension;
use crate::changelog::WEIGHT;
use crate::exec::{Lifetime, SetOp};
use crate::set_op::{CountedOp, CountedSetOp};
use crate::window::{WindowColumn, is_event_time};

/// A set operation whose state lives on from batch to batch. Its output is the left's columns and the weight.
#[derive(Clone, Debug)]
pub struct StreamSetOp {
    /// The left rows and the right ones, of the same types, each with its weight where it is a changelog.
    pub inputs: [LogicalPlan; 2],
    /// Which of the inputs are changelogs.
    pub changelog: [bool; 2],
    /// How often a row is in the answer.
    pub op: SetOp,
    /// How long a row is remembered.
    pub lifetime: Lifetime,
    /// The columns of the output.
    pub schema: DFSchemaRef,
    /// What the state is called.
    pub name: String,
}

impl Rewrite {
    /// INTERSECT ALL and EXCEPT ALL.
    pub(super) fn counted_set_op(&self, node: &CountedSetOp) -> Rewritten {
        let (left, right) = (self.node(&node.left)?, self.node(&node.right)?);
        let op = match node.op {
            CountedOp::Intersect => SetOp::IntersectAll,
            CountedOp::Except => SetOp::ExceptAll,
        };
        set_op(left, right, op, &node.schema, self.lifetimes.of_any())
    }

    /// A semi or anti join of whole rows; `None` where it is another join.
    pub(super) fn whole_rows(&self, join: &Join) -> Option<Rewritten> {
        let op = match join.join_type {
            JoinType::LeftSemi => SetOp::Where,
            JoinType::LeftAnti => SetOp::Except,
            _ => return None,
        };
        // A join in event time forgets its rows; counts of whole rows do not.
        let timed = |f: &Arc<Field>| is_event_time(f) || WindowColumn::of(f).is_some();
        if join.left.schema().fields().iter().any(timed) {
            return None;
        }
        let columns = |plan: &LogicalPlan| plan.schema().columns();
        let pairs_all = |exprs: Vec<&Expr>, plan: &LogicalPlan| {
            let named = columns(plan);
            let places: Vec<_> =
                exprs.iter().map(|e| e.try_as_col().and_then(|c| named.iter().position(|n| n == c))).collect();
            let all = (0..named.len()).all(|i| places.contains(&Some(i)));
            (all && places.len() == named.len()).then_some(places)
        };
        let left = pairs_all(join.on.iter().map(|(l, _)| l).collect(), &join.left)?;
        let right = pairs_all(join.on.iter().map(|(_, r)| r).collect(), &join.right)?;
        // A pair of columns that can hold no NULL is equal in the same way, whatever is said of NULL.
        let nulls_equal = join.null_equality == NullEquality::NullEqualsNull
            || columns(&join.left)
                .iter()
                .all(|c| join.left.schema().field_from_column(c).is_ok_and(|f| !f.is_nullable()));
        let types = |plan: &LogicalPlan, places: &[Option<usize>]| -> Vec<DataType> {
            let fields = plan.schema().fields();
            places.iter().flatten().filter_map(|p| fields.get(*p)).map(|f| f.data_type().clone()).collect()
        };
        if join.filter.is_some() || !nulls_equal || types(&join.left, &left) != types(&join.right, &right) {
            return None;
        }
        Some(self.semi(join, op))
    }

    fn semi(&self, join: &Join, op: SetOp) -> Rewritten {
        let (left, right) = (self.node(&join.left)?, self.node(&join.right)?);
        // The right's columns in the order of the left's that they are compared with.
        let mut exprs = vec![];
        for column in join.left.schema().columns() {
            let pair = join.on.iter().find(|(l, _)| l.try_as_col() == Some(&column));
            exprs.extend(pair.map(|(_, r)| r.clone()));
        }
        let facts = vec![ColumnFact::Plain; right.facts.len()];
        exprs.extend(right.changelog.then(|| weight_of(&right.plan)));
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(right.plan))?);
        set_op(left, Edge { plan, facts, ..right }, op, join.left.schema(), self.lifetimes.of_any())
    }
}

fn set_op(left: Edge, right: Edge, op: SetOp, answer: &DFSchema, lifetime: Lifetime) -> Rewritten {
    let mut fields: Vec<_> = answer.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    fields.push((None, Arc::new(Field::new(WEIGHT, DataType::Int64, false))));
    let schema = Arc::new(DFSchema::new_with_metadata(fields, Default::default())?);
    // The left's rows come and go as wholes: what is known of their columns stays known where rows only go.
    let mut facts = left.facts.clone();
    facts.truncate(answer.fields().len());
    facts.push(ColumnFact::Plain);
    let text = format!("{op:?}|{}|{}", left.plan.display_indent(), right.plan.display_indent());
    let name = named(format!("set-{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())), lifetime);
    let changelog = [left.changelog, right.changelog];
    let plan = extension(StreamSetOp { inputs: [left.plan, right.plan], changelog, op, lifetime, schema, name });
    // A row comes back whenever the other side says so, however old it is.
    Ok(Edge { plan, changelog: true, key: left.key, facts, lag_us: None })
}

impl StreamSetOp {
    /// What is kept, and for how long, for a person.
    pub fn describe(&self) -> String {
        format!(
            "{}: a row for each distinct row of both sides, until it is on neither, {}",
            self.name,
            until(self.lifetime, 0, "it grows with them; EXCEPT and INTERSECT of fewer columns")
        )
    }

    fn identity(&self) -> (&[LogicalPlan; 2], &[bool; 2], SetOp, &String) {
        (&self.inputs, &self.changelog, self.op, &self.name)
    }
}

impl PartialEq for StreamSetOp {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for StreamSetOp {}

impl PartialOrd for StreamSetOp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.name.partial_cmp(&other.name)
    }
}

impl Hash for StreamSetOp {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for StreamSetOp {
    fn name(&self) -> &str {
        "StreamSetOp"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "StreamSetOp: {:?}, state={}", self.op, self.name)
    }

    fn with_exprs_and_inputs(&self, _exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match <[LogicalPlan; 2]>::try_from(inputs) {
            Ok(inputs) => Ok(Self { inputs, ..self.clone() }),
            Err(_) => internal_err!("a set operation has two inputs"),
        }
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let all = |plan: &LogicalPlan| (0..plan.schema().fields().len()).collect();
        Some(self.inputs.iter().map(all).collect())
    }
}

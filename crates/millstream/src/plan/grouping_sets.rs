//! The logical node behind GROUPING SETS, CUBE and ROLLUP: each row once for every set, with the keys that the set
//! leaves out as NULL, and the set's number.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, DFSchemaRef, Result, internal_err};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, UserDefinedLogicalNodeCore};

/// The column that tells the sets apart.
pub const GROUPING_ID: &str = "$grouping_id";

/// One set of keys.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Hash)]
pub struct Mask {
    /// For each key, whether the set leaves it out.
    pub nulls: Vec<bool>,
    /// The number of the set: as DataFusion's `__grouping_id`.
    pub id: u64,
}

/// The input's columns, then a column for each key, then [`GROUPING_ID`].
#[derive(Clone, Debug)]
pub struct GroupingSets {
    /// The rows.
    pub input: LogicalPlan,
    /// The keys.
    pub keys: Vec<Expr>,
    /// The sets.
    pub sets: Vec<Mask>,
    /// The type of the number.
    pub id: DataType,
    /// The columns of the output.
    pub schema: DFSchemaRef,
}

impl GroupingSets {
    /// Repeats the input for each set.
    ///
    /// # Errors
    /// Where a key does not fit the input.
    pub fn try_new(input: LogicalPlan, keys: Vec<Expr>, sets: Vec<Mask>, id: DataType) -> Result<Self> {
        let schema = input.schema();
        let mut fields: Vec<_> = schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
        for (i, key) in keys.iter().enumerate() {
            fields.push((None, Arc::new(Field::new(Self::key_name(i), key.get_type(schema)?, true))));
        }
        fields.push((None, Arc::new(Field::new(GROUPING_ID, id.clone(), false))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields, schema.metadata().clone())?);
        Ok(Self { input, keys, sets, id, schema })
    }

    /// What the column of a key is called.
    pub fn key_name(key: usize) -> String {
        format!("$key.{key}")
    }

    fn identity(&self) -> (&LogicalPlan, &Vec<Expr>, &Vec<Mask>) {
        (&self.input, &self.keys, &self.sets)
    }
}

impl PartialEq for GroupingSets {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for GroupingSets {}

impl PartialOrd for GroupingSets {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.identity().partial_cmp(&other.identity())
    }
}

impl Hash for GroupingSets {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl UserDefinedLogicalNodeCore for GroupingSets {
    fn name(&self) -> &str {
        "GroupingSets"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let set = |mask: &Mask| {
            let kept = self.keys.iter().zip(&mask.nulls).filter(|(_, null)| !**null);
            format!("({})", kept.map(|(key, _)| key.to_string()).collect::<Vec<_>>().join(", "))
        };
        write!(f, "GroupingSets: {}", self.sets.iter().map(set).collect::<Vec<_>>().join(", "))
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.pop() else { return internal_err!("grouping sets have one input") };
        Self::try_new(input, exprs, self.sets.clone(), self.id.clone())
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema();
        let columns = schema.fields().len();
        let mut needed: Vec<usize> = output_columns.iter().copied().filter(|i| *i < columns).collect();
        for column in self.keys.iter().flat_map(|key| key.column_refs()) {
            needed.push(schema.index_of_column(column).ok()?);
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

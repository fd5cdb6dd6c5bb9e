//! UNNEST in FROM: a row for each element of an array, beside the row that the array is in.
//!
//! ```sql
//! FROM orders CROSS JOIN UNNEST(items) AS t(id, amount)        -- an array of ROW gives its columns
//! FROM orders, LATERAL UNNEST(tags) WITH ORDINALITY AS t(tag, n)
//! FROM orders LEFT JOIN UNNEST(tags) AS t(tag) ON tag > 'b'    -- also orders without such a tag
//! FROM orders CROSS JOIN UNNEST(tags, notes) AS t(tag, note)   -- one beside the other, NULL where one is longer
//! FROM orders, LATERAL (SELECT upper(tag) FROM UNNEST(tags) AS u(tag) WHERE tag <> '') AS t(tag)
//! ```
//!
//! DataFusion plans UNNEST of an array that is known. One that looks at the table beside it is planned as a [`Beside`],
//! which never runs: when the join that it stands in has been planned, [`beside_rows`] puts a projection and an `Unnest`
//! of the table itself in its place, and what a LATERAL subquery filters and computes behind that.

mod condition;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Fields};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{
    Column, DFSchema, DFSchemaRef, JoinType, NullHandling, Result, ScalarValue, TableReference, UnnestOptions,
    plan_datafusion_err, plan_err,
};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_nested::expr_fn::{array_length, gen_series, map_entries};
use datafusion::logical_expr::expr_rewriter::strip_outer_reference;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Join, LogicalPlan, LogicalPlanBuilder, UserDefinedLogicalNodeCore, lit, when,
};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, FunctionArg, FunctionArgExpr, TableAlias, TableFactor};

/// The column that counts, where nothing else names it.
const ORDINALITY: &str = "ordinality";

/// Plans UNNEST of an array in the table beside it, and WITH ORDINALITY.
#[derive(Debug)]
pub struct UnnestBeside;

impl RelationPlanner for UnnestBeside {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some((arrays, ordinality, alias)) = call(&relation) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let arrays = arrays.into_iter().map(|array| context.sql_to_expr(array.clone(), &DFSchema::empty()));
        let arrays = arrays.collect::<Result<Vec<_>>>()?;
        if !arrays.iter().any(Expr::contains_outer) && !ordinality {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        }
        let name = match alias {
            Some(alias) => alias.name.value.clone(),
            None => "unnest".to_string(),
        };
        let node = Beside::try_new(arrays, ordinality, &name)?;
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.cloned()))))
    }
}

/// `UNNEST(array, ..) [WITH ORDINALITY] [AS alias]`, also behind LATERAL.
fn call(relation: &TableFactor) -> Option<(Vec<&SqlExpr>, bool, Option<&TableAlias>)> {
    match relation {
        TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_ordinality, .. } => {
            Some((array_exprs.iter().collect(), *with_ordinality, alias.as_ref()))
        }
        TableFactor::Function { name, args, with_ordinality, alias, .. }
            if name.to_string().eq_ignore_ascii_case("UNNEST") =>
        {
            let arrays = args.iter().map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(array)) => Some(array),
                _ => None,
            });
            Some((arrays.collect::<Option<_>>()?, *with_ordinality, alias.as_ref()))
        }
        _ => None,
    }
}

/// The elements of arrays that are in the row beside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Beside {
    arrays: Vec<Expr>,
    ordinality: bool,
    schema: DFSchemaRef,
}

impl Beside {
    fn try_new(arrays: Vec<Expr>, ordinality: bool, name: &str) -> Result<Self> {
        let mut fields: Vec<Field> = vec![];
        for (number, array) in arrays.iter().enumerate() {
            let element = match array.get_type(&DFSchema::empty())? {
                DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item,
                DataType::Map(entries, _) => entries,
                other => return plan_err!("UNNEST takes an ARRAY or a MAP, and {array} is {other}"),
            };
            match columns_of(element.data_type()) {
                Some(columns) => fields.extend(columns.iter().map(|c| c.as_ref().clone())),
                None if number == 0 => fields.push(Field::new(name, element.data_type().clone(), true)),
                None => fields.push(Field::new(format!("{name}_{number}"), element.data_type().clone(), true)),
            }
        }
        if ordinality {
            fields.push(Field::new(ORDINALITY, DataType::Int64, true));
        }
        let fields =
            fields.into_iter().map(|f| (None, Arc::new(f.with_nullable(true).with_metadata(Default::default()))));
        let schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), Default::default())?);
        Ok(Self { arrays, ordinality, schema })
    }
}

/// The columns of an element that is a ROW.
fn columns_of(element: &DataType) -> Option<&Fields> {
    match element {
        DataType::Struct(columns) => Some(columns),
        _ => None,
    }
}

impl PartialOrd for Beside {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.arrays.partial_cmp(&other.arrays)
    }
}

impl UserDefinedLogicalNodeCore for Beside {
    fn name(&self) -> &str {
        "Unnest"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.arrays.clone()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Unnest: {}", self.arrays.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }

    fn with_exprs_and_inputs(&self, arrays: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Self { arrays, ..self.clone() })
    }
}

/// Every [`Beside`] as an `Unnest` of the table that it stands beside.
///
/// # Errors
/// Where one stands beside no table, or is joined by a condition that leaves rows without an element to be told.
pub fn beside_rows(plan: LogicalPlan) -> Result<LogicalPlan> {
    let mut number = 0;
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_beside(&join.right) => {
            number += 1;
            Ok(Transformed::yes(unnest(&join, number)?))
        }
        // One whose array is constant, WITH ORDINALITY, stands alone.
        LogicalPlan::Extension(node) if is_alone(node.node.as_any().downcast_ref::<Beside>()) => {
            number += 1;
            let Some(beside) = node.node.as_any().downcast_ref::<Beside>() else {
                return Ok(Transformed::no(LogicalPlan::Extension(node)));
            };
            let one = LogicalPlanBuilder::empty(true).build()?;
            let elements = Layer::elements(one, beside, JoinType::Inner, number)?;
            let targets = beside.schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect::<Vec<_>>();
            Ok(Transformed::yes(elements.called(&targets)?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

fn is_alone(beside: Option<&Beside>) -> bool {
    beside.is_some_and(|beside| !beside.arrays.iter().any(Expr::contains_outer))
}

/// Whether a plan is elements of the row beside, behind nothing but names, conditions and computed columns.
fn is_beside(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Extension(node) => node.node.as_any().is::<Beside>(),
        LogicalPlan::SubqueryAlias(node) => is_beside(&node.input),
        LogicalPlan::Subquery(node) => is_beside(&node.subquery),
        LogicalPlan::Projection(node) => is_beside(&node.input),
        LogicalPlan::Filter(node) => is_beside(&node.input),
        _ => false,
    }
}

fn unnest(join: &Join, number: usize) -> Result<LogicalPlan> {
    let conditions: Vec<Expr> = join.filter.iter().cloned().collect();
    let always = conditions.iter().all(|c| *c == lit(true)) && join.on.is_empty();
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return plan_err!("UNNEST is joined by CROSS JOIN, JOIN or LEFT JOIN");
    }
    if join.join_type == JoinType::Left && !always {
        return match condition::met(join)? {
            Some(met) => unnest(&met, number),
            None => plan_err!(
                "LEFT JOIN UNNEST(..) takes ON TRUE, or a condition on the elements of one array: put it into WHERE"
            ),
        };
    }
    let targets: Vec<_> = join.right.schema().iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    let layer = Layer::of(&join.right, join, number)?;
    let mut plan = LogicalPlanBuilder::from(layer.called(&targets)?);
    if !always {
        for (left, right) in &join.on {
            plan = plan.filter(left.clone().eq(right.clone()))?;
        }
        for condition in conditions {
            plan = plan.filter(condition)?;
        }
    }
    plan.build()
}

type Target = (Option<TableReference>, FieldRef);

/// The rows of a table, each once for every element, and what stands behind them so far.
struct Layer {
    plan: LogicalPlan,
    /// How many columns the table has: the first ones.
    table: usize,
    /// The columns behind those.
    columns: Vec<Column>,
}

impl Layer {
    /// What the right side of a join computes of the row beside it, over the rows of the left side.
    fn of(right: &LogicalPlan, join: &Join, number: usize) -> Result<Self> {
        match right {
            LogicalPlan::SubqueryAlias(node) => Self::of(&node.input, join, number),
            LogicalPlan::Subquery(node) => Self::of(&node.subquery, join, number),
            LogicalPlan::Projection(node) => {
                let input = Self::of(&node.input, join, number)?;
                let exprs = node.expr.iter().map(|e| input.resolved(e, &node.input)).collect::<Result<Vec<_>>>()?;
                // `AS t(a, b)` only renames.
                let names = exprs.iter().map(|e| match e.clone().unalias() {
                    Expr::Column(column) => input.columns.contains(&column).then_some(column),
                    _ => None,
                });
                if let Some(columns) = names.collect::<Option<Vec<_>>>() {
                    return Ok(Self { columns, ..input });
                }
                Self::check_inner(join)?;
                let depth = input.columns.first().and_then(|c| c.relation.as_ref()).map(TableReference::to_string);
                let name = TableReference::bare(format!("{}+", depth.unwrap_or_default()));
                input.project(exprs, &name)
            }
            LogicalPlan::Filter(node) => {
                Self::check_inner(join)?;
                let input = Self::of(&node.input, join, number)?;
                let condition = input.resolved(&node.predicate, &node.input)?;
                let plan = LogicalPlanBuilder::from(input.plan).filter(condition)?.build()?;
                Ok(Self { plan, ..input })
            }
            LogicalPlan::Extension(node) => match node.node.as_any().downcast_ref::<Beside>() {
                Some(beside) => Self::elements(join.left.as_ref().clone(), beside, join.join_type, number),
                None => plan_err!("LATERAL takes UNNEST of an array of the row beside"),
            },
            _ => plan_err!("LATERAL takes UNNEST of an array of the row beside"),
        }
    }

    /// A row without an element that is left has NULLs in a LEFT JOIN, which a condition would drop, and an expression
    /// might turn into something else.
    fn check_inner(join: &Join) -> Result<()> {
        match join.join_type {
            JoinType::Left => plan_err!(
                "LEFT JOIN LATERAL takes UNNEST(..) itself: LEFT JOIN UNNEST(..) AS t(e) ON TRUE, with what is computed of t.e in \
                 SELECT"
            ),
            _ => Ok(()),
        }
    }

    /// An expression over the columns of `input`, as one over this plan.
    fn resolved(&self, expr: &Expr, input: &LogicalPlan) -> Result<Expr> {
        let resolved = expr.clone().transform_up(|expr| match expr {
            Expr::Column(column) => {
                let index = input.schema().index_of_column(&column)?;
                let column = self.columns.get(index);
                let column = column.ok_or_else(|| plan_datafusion_err!("UNNEST has no column {index}"))?;
                Ok(Transformed::yes(Expr::Column(column.clone())))
            }
            Expr::OuterReferenceColumn(_, column) => Ok(Transformed::yes(Expr::Column(column))),
            other => Ok(Transformed::no(other)),
        })?;
        Ok(resolved.data)
    }

    /// The table's columns, and these behind them.
    fn project(self, exprs: Vec<Expr>, name: &TableReference) -> Result<Self> {
        let columns = (0..exprs.len()).map(|n| Column::new(Some(name.clone()), format!("${n}"))).collect::<Vec<_>>();
        let mut select = self.of_table();
        let named = exprs.into_iter().zip(&columns);
        select.extend(named.map(|(e, c)| e.unalias().alias_qualified(c.relation.clone(), &c.name)));
        let plan = LogicalPlanBuilder::from(self.plan).project(select)?.build()?;
        Ok(Self { plan, table: self.table, columns })
    }

    fn of_table(&self) -> Vec<Expr> {
        self.plan.schema().columns().into_iter().take(self.table).map(Expr::Column).collect()
    }

    /// The same rows, whose columns behind the table's have these names.
    fn called(self, targets: &[Target]) -> Result<LogicalPlan> {
        let mut select = self.of_table();
        for (column, (qualifier, field)) in self.columns.into_iter().zip(targets) {
            select.push(Expr::Column(column).alias_qualified(qualifier.clone(), field.name()));
        }
        LogicalPlanBuilder::from(self.plan).project(select)?.build()
    }

    /// The rows of a table, each once for every element of its arrays.
    fn elements(rows: LogicalPlan, beside: &Beside, kind: JoinType, number: usize) -> Result<Self> {
        let table = rows.schema().fields().len();
        let mut exprs: Vec<Expr> = rows.schema().columns().into_iter().map(Expr::Column).collect();
        let mut arrays = vec![];
        for array in &beside.arrays {
            let array = strip_outer_reference(array.clone());
            let is_map = matches!(array.get_type(rows.schema())?, DataType::Map(..));
            arrays.push(if is_map { map_entries(array) } else { array });
        }
        let element = |of: usize| format!("$element{number}.{of}");
        let mut unnested = vec![];
        for (of, array) in arrays.iter().enumerate() {
            exprs.push(array.clone().alias(element(of)));
            unnested.push(Column::new_unqualified(element(of)));
        }
        if beside.ordinality {
            let ordinal = format!("$ordinal{number}");
            exprs.push(numbers(&arrays, &rows)?.alias(&ordinal));
            unnested.push(Column::new_unqualified(&ordinal));
        }
        // What has no element keeps its row in a LEFT JOIN.
        let null_handling = match kind {
            JoinType::Left => NullHandling::PreserveAndExpandEmpty,
            _ => NullHandling::Drop,
        };
        let options = UnnestOptions::new().with_null_handling(null_handling);
        let plan =
            LogicalPlanBuilder::from(rows).project(exprs)?.unnest_columns_with_options(unnested.clone(), options)?;
        let plan = plan.build()?;
        let mut values = vec![];
        for column in unnested {
            let value = || Expr::Column(column.clone());
            match plan.schema().field_with_unqualified_name(&column.name)?.data_type() {
                DataType::Struct(fields) => values.extend(fields.iter().map(|f| get_field(value(), f.name().as_str()))),
                _ => values.push(value()),
            }
        }
        let layer = Self { plan, table, columns: vec![] };
        layer.project(values, &TableReference::bare(format!("$unnest{number}")))
    }
}

/// The numbers of the elements of the longest array, from 1 on.
fn numbers(arrays: &[Expr], rows: &LogicalPlan) -> Result<Expr> {
    let mut longest = lit(0_i64);
    for array in arrays {
        let length = datafusion::logical_expr::cast(array_length(array.clone()), DataType::Int64);
        longest = when(length.clone().gt(longest.clone()), length).otherwise(longest)?;
    }
    let numbers = gen_series(lit(1_i64), longest.clone(), lit(1_i64));
    // The numbers of an array without elements are none, not 1 and 0.
    let none = Expr::Literal(ScalarValue::try_from(&numbers.get_type(rows.schema())?)?, None);
    when(longest.gt(lit(0_i64)), numbers).otherwise(none)
}

//! Joins FOR SYSTEM_TIME AS OF: which of three forms a join takes, in a stream and in batch.
//!
//! - A table of rows, as it is now: it is read whole when it has changed, and kept.
//! - A table of keys, as it is now: it is asked by key, and what it answers is recorded with the batch.
//! - A table with versions, as it was at the event time of the row: rows of both sides wait for the watermark.

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::logical_expr::{
    Expr, ExprSchemable, LogicalPlan, Projection, SubqueryAlias, TableScan, TableScanBuilder, TryCast,
};
use millstream_core::source::Boundedness;

use super::incremental::{ColumnFact, Edge, Rewrite, Rewritten, source_column};
use super::nodes::{StreamScan, extension};
use super::refuse::Refusal;
use super::versions::VersionsTable;
use crate::changelog::is_weighted;
use crate::sql::{AsOfTable, Reading, StreamTable, table_of};
use crate::temporal::{AsOf, ByKey, TemporalJoin, plain_column};

const WORD: &str = "SYSTEM_TIME";

impl Rewrite {
    /// The incremental form of a join as of a time.
    pub(super) fn temporal(&self, node: &TemporalJoin) -> Rewritten {
        let left = self.node(&node.left)?;
        let table = table(node)?;
        let name = &table.spec.name;
        if left.changelog {
            return Err(Refusal::new(
                WORD,
                format!(
                    "rows of the left side are taken back, and what '{name}' was when they were joined is not known any more"
                ),
                format!("join '{name}' with the rows themselves, below what makes them change"),
            ));
        }
        let (right, as_of) = match &node.as_of {
            AsOf::Now { .. } => match &table.reading {
                Reading::Rows(source) => {
                    if source.source(&[])?.boundedness() == Boundedness::Followed {
                        return Err(followed(name));
                    }
                    (node.right.clone(), AsOf::Now { by_key: None })
                }
                Reading::Keys(_) => {
                    let (right, by_key) = by_key(node, &table)?;
                    (right, AsOf::Now { by_key: Some(by_key) })
                }
            },
            AsOf::EventTime { left: time, right: since, .. } => {
                let fact = source_column(time, left.plan.schema()).and_then(|c| left.facts.get(c));
                let (Some(ColumnFact::EventTime), Some(lag_us)) = (fact, left.lag_us) else {
                    return Err(Refusal::new(
                        WORD,
                        format!(
                            "{time} is no event time that the watermark follows any more: '{name}' could not forget a version"
                        ),
                        "join on the event time of the rows themselves, or bound the join below it in event time",
                    ));
                };
                let (right, weighted) = versions(&node.right)?;
                let right = self.node(&right)?.plan;
                (right, AsOf::EventTime { left: time.clone(), right: since.clone(), weighted, lag_us })
            }
        };
        let key = left.key.clone().filter(|_| is_unique(node, &table));
        let (facts, lag_us) = (left.facts.clone(), left.lag_us);
        let join = TemporalJoin::try_new(left.plan, right, node.condition.clone(), node.kind, as_of, String::new())?;
        let mut facts = facts;
        facts.resize(join.schema.fields().len(), ColumnFact::Plain);
        Ok(Edge { plan: extension(join.named()), changelog: false, key, facts, lag_us })
    }
}

fn followed(name: &str) -> Refusal {
    Refusal::new(
        WORD,
        format!("'{name}' is followed for ever, and what it is now can't be read to an end"),
        "declare it without the option that follows it: a table of files is read again when they change; or give it a PRIMARY \
         KEY and a WATERMARK and join it as of the event time of the row",
    )
}

fn table(node: &TemporalJoin) -> Result<AsOfTable, Refusal> {
    table_of(&node.right)?.ok_or_else(|| Refusal::bug("a table that is read as of a time is not scanned"))
}

/// Whether a left row meets at most one row of the table.
fn is_unique(node: &TemporalJoin, table: &AsOfTable) -> bool {
    let right = node.right.schema();
    let Ok((on, _)) = node.keys() else { return false };
    let columns: Vec<&String> =
        on.iter().filter_map(|(_, r)| plain_column(r, right)).map(|c| right.field(c).name()).collect();
    !table.spec.primary_key.is_empty() && table.spec.primary_key.iter().all(|key| columns.contains(&key))
}

/// The same join for DataFusion, over all rows at once.
///
/// # Errors
/// Whatever DataFusion says of the plan.
pub fn in_batch(node: &TemporalJoin) -> Result<LogicalPlan> {
    let refused = |e: Refusal| match e {
        Refusal::Plan(error) => *error,
        Refusal::Construct { reason, instead, .. } => {
            millstream_core::Error::query(format!("{reason}; {instead}")).into_plan()
        }
        Refusal::Hint { message, .. } => millstream_core::Error::query(message).into_plan(),
        Refusal::Source(error) => error.into_plan(),
        Refusal::Bug(message) => millstream_core::Error::bug(message).into_plan(),
    };
    let table = table(node).map_err(refused)?;
    let (left, kind) = (node.left.clone(), node.kind);
    let (right, as_of) = match (&node.as_of, &table.reading) {
        (AsOf::EventTime { left, right, lag_us, .. }, _) => {
            let (plan, weighted) = versions(&node.right)?;
            (plan, AsOf::EventTime { left: left.clone(), right: right.clone(), weighted, lag_us: *lag_us })
        }
        (AsOf::Now { .. }, Reading::Keys(_)) => {
            let (plan, by_key) = by_key(node, &table).map_err(refused)?;
            (plan, AsOf::Now { by_key: Some(by_key) })
        }
        (AsOf::Now { .. }, Reading::Rows(source)) => {
            let source = Arc::clone(source);
            let stream =
                StreamTable { name: table.spec.name.clone(), spec: table.spec, watermark: table.watermark, source };
            let right = with_scan(&node.right, |scan| {
                let source = provider_as_source(Arc::new(stream.clone()));
                let builder = TableScanBuilder::new(scan.table_name.clone(), source);
                Ok(LogicalPlan::TableScan(builder.with_projection(scan.projection.clone()).build()?))
            })?;
            let join = TemporalJoin { right, ..node.clone() };
            return join.in_batch();
        }
    };
    let join = TemporalJoin::try_new(left, right, node.condition.clone(), kind, as_of, String::new())?;
    Ok(extension(join.named()))
}

trait IntoPlan {
    fn into_plan(self) -> datafusion::common::DataFusionError;
}

impl IntoPlan for millstream_core::Error {
    fn into_plan(self) -> datafusion::common::DataFusionError {
        datafusion::common::DataFusionError::External(Box::new(self))
    }
}

/// The plan with another one in the place of its only scan.
fn with_scan(plan: &LogicalPlan, mut make: impl FnMut(&TableScan) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let made = plan.clone().transform_up(|node| match &node {
        LogicalPlan::TableScan(scan) => Ok(Transformed::yes(make(scan)?)),
        _ => Ok(Transformed::no(node)),
    })?;
    Ok(made.data)
}

/// The table that is asked by key, and what is made of the rows that it answers.
fn by_key(node: &TemporalJoin, table: &AsOfTable) -> Result<(LogicalPlan, ByKey), Refusal> {
    let name = &table.spec.name;
    let Reading::Keys(connectors) = &table.reading else { return Err(Refusal::bug("the table is not looked up")) };
    let Some(lookups) = connectors.lookups() else { return Err(Refusal::bug("nothing can be looked up")) };
    let (on, _) = node.keys()?;
    let (left, right) = (node.left.schema(), node.right.schema());
    let (mut columns, mut key) = (vec![], vec![]);
    for (l, r) in &on {
        let Some(column) = plain_column(r, right) else { continue };
        let field = right.field(column);
        let physical = table.spec.schema.field_with_name(field.name()).is_ok();
        if !physical || columns.contains(field.name()) {
            continue;
        }
        columns.push(field.name().clone());
        let to = field.data_type();
        // What the column can't hold equals none of its values.
        key.push(match l.get_type(left)? == *to {
            true => l.clone(),
            false => Expr::TryCast(TryCast::new(Box::new(l.clone()), to.clone())),
        });
    }
    if columns.is_empty() {
        return Err(Refusal::new(
            WORD,
            format!("'{name}' is looked up by its columns, and no column of it alone is compared with the left side"),
            format!("compare a column of '{name}' as it is (ON t.id = a.id), and change the left side's value instead"),
        ));
    }
    let mut asked = None;
    let plan = with_scan(&node.right, |scan| {
        let schema = Arc::clone(&scan.projected_schema);
        let mut spec = table.spec.clone();
        spec.schema = Arc::new(Schema::new(schema.fields().iter().cloned().collect::<Vec<_>>()));
        asked = Some(spec);
        Ok(extension(StreamScan { scan: 0, table: name.clone(), schema }))
    })?;
    let spec = asked.ok_or_else(|| Refusal::bug("a table that is looked up is not scanned"))?;
    let by = lookups.lookup(&spec, &columns)?;
    Ok((plan, ByKey { name: name.clone(), table: by, key }))
}

/// The rows of a table with versions as they come, with a weight where some of them go; and whether there is one.
fn versions(right: &LogicalPlan) -> Result<(LogicalPlan, bool)> {
    match right {
        LogicalPlan::TableScan(scan) => changes(scan),
        LogicalPlan::SubqueryAlias(node) => {
            let (input, weighted) = versions(&node.input)?;
            let alias = SubqueryAlias::try_new(Arc::new(input), node.alias.clone())?;
            Ok((LogicalPlan::SubqueryAlias(alias), weighted))
        }
        LogicalPlan::Projection(node) => {
            let (input, weighted) = versions(&node.input)?;
            let mut exprs = node.expr.clone();
            if weighted {
                exprs.push(super::incremental::weight_of(&input));
            }
            Ok((LogicalPlan::Projection(Projection::try_new(exprs, Arc::new(input))?), weighted))
        }
        other => datafusion::common::internal_err!("the versions of a table come through {}", other.display()),
    }
}

fn changes(scan: &TableScan) -> Result<(LogicalPlan, bool)> {
    let provider = source_as_provider(&scan.source)?;
    let Some(table) = (provider.as_ref() as &dyn std::any::Any).downcast_ref::<AsOfTable>() else {
        return datafusion::common::internal_err!("{} is no table that is read as of a time", scan.table_name);
    };
    let Reading::Rows(source) = &table.reading else {
        return datafusion::common::internal_err!("{} has no versions", scan.table_name);
    };
    let mut spec = table.spec.clone();
    let schema = source.schema();
    let weighted = is_weighted(&schema) && !is_weighted(&spec.schema);
    // Which column is the event time, the declaration says; which can be NULL where only the key is known, the source.
    let fields = schema.fields().iter().enumerate().map(|(n, field)| match spec.schema.fields().get(n) {
        Some(declared) => Arc::new(declared.as_ref().clone().with_nullable(field.is_nullable())),
        None => Arc::clone(field),
    });
    let declared = spec.schema.fields().len();
    spec.schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    spec.primary_key = vec![];
    let name = spec.name.clone();
    let source = match weighted {
        true => Arc::new(VersionsTable(Arc::clone(source))) as _,
        false => Arc::clone(source),
    };
    let stream = StreamTable { name: name.clone(), spec, watermark: table.watermark.clone(), source };
    let projection = scan.projection.clone().map(|mut columns| {
        columns.extend(weighted.then_some(declared));
        columns
    });
    let builder = TableScanBuilder::new(name, provider_as_source(Arc::new(stream)));
    let plan = LogicalPlan::TableScan(builder.with_projection(projection).build()?);
    if scan.table_name.table() == plan.schema().qualified_field(0).0.map_or("", |q| q.table()) {
        return Ok((plan, weighted));
    }
    // Under the name that the query knows it by.
    let alias = SubqueryAlias::try_new(Arc::new(plan), scan.table_name.clone())?;
    Ok((LogicalPlan::SubqueryAlias(alias), weighted))
}

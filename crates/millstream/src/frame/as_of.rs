//! Joins with a table as it was at the time of each row: `FOR SYSTEM_TIME AS OF` for programs.

use datafusion::common::{JoinType, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF};
use millstream_core::Result;

use super::{StreamFrame, of_datafusion};
use crate::sql::{AsOfTime, joins_as_of};

/// A table that is read as it was at a time: of [`crate::session::Session::table_as_of`], for [`StreamFrame::join_as_of`].
#[derive(Clone, Debug)]
pub struct TableAsOf {
    plan: LogicalPlan,
}

impl TableAsOf {
    pub(crate) fn new(plan: LogicalPlan) -> Self {
        Self { plan }
    }

    /// The same table under this name: its columns are `name.column`.
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where two of its columns could no longer be told apart.
    pub fn alias(self, name: &str) -> Result<Self> {
        let plan = LogicalPlanBuilder::from(self.plan).alias(TableReference::bare(name));
        Ok(Self { plan: plan.and_then(LogicalPlanBuilder::build).map_err(of_datafusion)? })
    }
}

impl StreamFrame {
    /// Each row with the rows of `table` for which `on` is true, out of those that the table had at the row's `time`: the
    /// version of each key that was valid at an event time, or, where `time` is a column made by `PROCTIME()`, what the
    /// table holds when the batch runs. `kind` is [`JoinType::Inner`] or [`JoinType::Left`].
    ///
    /// For an event time the table has a PRIMARY KEY, which `on` names, and a watermark.
    ///
    /// ```
    /// # use millstream::prelude::*;
    /// use millstream::datafusion::common::JoinType;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let session = Session::new()?;
    /// # session.sql("CREATE TABLE bids (ms BIGINT, item BIGINT, at AS to_timestamp_millis(ms), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
    /// #              WITH ('connector' = 'datagen', 'number-of-rows' = '30', 'fields.ms.kind' = 'sequence', 'fields.ms.start' = '1',
    /// #              'fields.item.min' = '7', 'fields.item.max' = '7')")?;
    /// # session.sql("CREATE TABLE prices (ms BIGINT, item BIGINT, since AS to_timestamp_millis(ms * 10), PRIMARY KEY (item) NOT ENFORCED,
    /// #              WATERMARK FOR since AS since - INTERVAL '1' SECOND) WITH ('connector' = 'datagen', 'number-of-rows' = '3',
    /// #              'fields.ms.kind' = 'sequence', 'fields.ms.start' = '1', 'fields.item.min' = '7', 'fields.item.max' = '7')")?;
    /// let prices = session.table_as_of("prices")?.alias("p")?;
    /// let on = col("bids.item").eq(col("p.item"));
    /// let priced = session.table("bids")?.join_as_of(prices, col("bids.at"), on, JoinType::Inner)?;
    /// assert!(priced.explain().await?.contains("as of bids.at")); // what a stream would keep
    /// # let versions = priced.aggregate([col("p.since")], [count(lit(1)).alias("bids")])?.collect().await?;
    /// # // The first price holds from the tenth millisecond on.
    /// # let counts: Vec<i64> = versions.iter().flat_map(|rows| rows.column(1).as_primitive::<Int64Type>().values().to_vec()).collect();
    /// # assert_eq!((counts.iter().sum::<i64>(), counts.len()), (21, 3));
    /// # use millstream::arrow::{array::AsArray, datatypes::Int64Type};
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`millstream_core::ErrorKind::Query`] where the join can't be answered: another kind, no equality in `on`, a table
    /// without what its versions are told by.
    pub fn join_as_of(self, table: TableAsOf, time: Expr, on: Expr, kind: JoinType) -> Result<Self> {
        let as_of = ScalarUDF::from(AsOfTime::default()).call(vec![time]);
        let joined = self.then(|plan| plan.join_on(table.plan, kind, [as_of, on]))?;
        Ok(Self { plan: joins_as_of(joined.plan).map_err(of_datafusion)?, ..joined })
    }
}

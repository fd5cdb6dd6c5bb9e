//! What one batch is to the operators.
//!
//! A compiled plan is executed once a batch; everything that differs between batches travels in the
//! [`TaskContext`], as an extension of its session configuration. An operator never holds it longer than
//! its stream lives, and never finds a batch in any other place.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use datafusion::execution::TaskContext;
use millstream_core::batch::BatchId;

use super::Asked;

/// One batch, as the operators of a plan see it.
#[derive(Clone, Debug, Default)]
pub struct BatchContext {
    /// The batch.
    pub batch: BatchId,
    /// What `now()` answers within the batch: microseconds since 1970-01-01 UTC.
    pub time_us: i64,
    /// The frontier after the batch's rows, which never moves back:
    /// [`millstream_core::watermark::END_OF_TIME`] when all input has ended.
    pub frontier: Option<i64>,
    /// The rows that are used, by scan number, in log order.
    pub inputs: Vec<Vec<RecordBatch>>,
    /// The scans of tables that are read whole whose rows are another version of the table. Those of the others are as
    /// they were.
    pub renewed: Vec<usize>,
    /// What the batch was answered by tables that are read as they are.
    pub asked: Arc<Asked>,
}

impl BatchContext {
    /// The batch that a task context carries.
    ///
    /// # Errors
    /// An internal error where it carries none: the plan was not executed by a runner.
    pub fn of(context: &TaskContext) -> DfResult<Arc<Self>> {
        context.session_config().get_extension::<Self>().ok_or_else(|| {
            internal_datafusion_err!("a streaming operator was executed outside of a batch: execute it by a runner")
        })
    }

    /// A task context like `base` that carries this batch.
    pub fn task_context(self, base: &TaskContext) -> Arc<TaskContext> {
        let config = base.session_config().clone().with_extension(Arc::new(self));
        // Compiled expressions hold their functions: nothing looks one up by name while a batch runs.
        Arc::new(TaskContext::new(
            base.task_id(),
            base.session_id(),
            config,
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            HashMap::new(),
            base.runtime_env(),
        ))
    }
}

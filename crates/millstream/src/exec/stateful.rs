//! The node that every operator with a state is: [`StatefulExec`].
//!
//! An operator says what it answers from its state and the rows of a batch ([`Operator`]). The node reads the rows,
//! one input after the other, lends the operator its state, and hands that state to the runner, which installs what
//! was staged or discards it. Every copy that DataFusion makes of the node shares the one state.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result as DfResult, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::distribution_requirements::InputDistributionRequirements;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions};
use futures::TryStreamExt;
use millstream_state::OperatorState;

use super::node;

/// What an operator over so many inputs computes. What it knows does not change between batches.
pub(super) trait Operator<const INPUTS: usize>: Debug + Send + Sync + 'static {
    /// What it remembers.
    type State: OperatorState + Debug + 'static;

    /// The name of the node in a plan.
    const NAME: &'static str;

    /// The columns of its answer.
    fn output(&self) -> SchemaRef;

    /// The expressions that it evaluates.
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![]
    }

    /// What EXPLAIN says behind the name.
    fn detail(&self) -> String {
        String::new()
    }

    /// The frontier that its installed state waits for: it then has something to answer. `None` where it waits for no
    /// time, or only forgets by it.
    fn due_us(&self, _state: &Self::State) -> Option<i64> {
        None
    }

    /// The answer to a batch. What will be remembered is staged, never installed; where this fails, the runner
    /// discards it.
    ///
    /// `inputs` are the rows of each input, in log order, in batches of any size.
    ///
    /// # Errors
    /// Where an expression fails on a row, or a promise about the input was broken.
    fn run(
        &self,
        state: &mut Self::State,
        inputs: [Vec<RecordBatch>; INPUTS],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>>;
}

/// An operator with its state, as a node of a plan.
#[derive(Debug)]
pub struct StatefulExec {
    state_name: Arc<str>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    kept: Arc<dyn Kept>,
    properties: Arc<PlanProperties>,
}

impl StatefulExec {
    /// `state_name` names the state within the query.
    pub(super) fn new<O: Operator<INPUTS>, const INPUTS: usize>(
        state_name: impl Into<Arc<str>>,
        inputs: [Arc<dyn ExecutionPlan>; INPUTS],
        operator: O,
        state: O::State,
    ) -> Self {
        let properties = node::final_properties(operator.output());
        let kept = Arc::new(WithState { operator, state: Arc::new(Mutex::new(state)) });
        Self { state_name: state_name.into(), inputs: inputs.into(), kept, properties }
    }

    /// The state's name within the query.
    pub fn state_name(&self) -> &str {
        &self.state_name
    }

    /// What is kept between batches.
    pub fn state(&self) -> Arc<Mutex<dyn OperatorState>> {
        self.kept.state()
    }

    /// The frontier that it waits for: see [`super::due_us`].
    pub(super) fn due_us(&self) -> Option<i64> {
        self.kept.due_us()
    }

    fn with_inputs(&self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        if inputs.len() != self.inputs.len() {
            return internal_err!("{} has {} children, not {}", self.name(), self.inputs.len(), inputs.len());
        }
        let (state_name, kept) = (Arc::clone(&self.state_name), Arc::clone(&self.kept));
        Ok(Arc::new(Self { state_name, inputs, kept, properties: Arc::clone(&self.properties) }))
    }
}

impl DisplayAs for StatefulExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self.kept.detail() {
            detail if detail.is_empty() => Ok(()),
            detail => write!(f, ": {detail}"),
        }
    }
}

impl ExecutionPlan for StatefulExec {
    fn name(&self) -> &str {
        self.kept.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    // Rows meet state in log order, so each input is one partition that nothing has shuffled.
    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; self.inputs.len()])
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false; self.inputs.len()]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> DfResult<TreeNodeRecursion>,
    ) -> DfResult<TreeNodeRecursion> {
        for expression in self.kept.expressions() {
            if f(expression)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.with_inputs(children)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> DfResult<Arc<dyn ExecutionPlan>> {
        self.with_inputs(children)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> DfResult<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("{} has one partition, {partition} was asked for", self.name());
        }
        let inputs = self.inputs.iter().map(|input| input.execute(0, Arc::clone(&context)));
        let inputs = inputs.collect::<DfResult<Vec<_>>>()?;
        let kept = Arc::clone(&self.kept);
        Ok(node::answer(self.schema(), async move {
            // One after the other, so that rows come in one order.
            let mut batches = Vec::with_capacity(inputs.len());
            for input in inputs {
                batches.push(input.try_collect().await?);
            }
            kept.run(batches, &context)
        }))
    }
}

/// An operator and its state, whatever their types.
trait Kept: Debug + Send + Sync {
    fn name(&self) -> &str;
    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>>;
    fn detail(&self) -> String;
    fn state(&self) -> Arc<Mutex<dyn OperatorState>>;
    fn due_us(&self) -> Option<i64>;
    fn run(&self, inputs: Vec<Vec<RecordBatch>>, context: &TaskContext) -> DfResult<Vec<RecordBatch>>;
}

#[derive(Debug)]
struct WithState<O: Operator<INPUTS>, const INPUTS: usize> {
    operator: O,
    state: Arc<Mutex<O::State>>,
}

impl<O: Operator<INPUTS>, const INPUTS: usize> Kept for WithState<O, INPUTS> {
    fn name(&self) -> &str {
        O::NAME
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.operator.expressions()
    }

    fn detail(&self) -> String {
        self.operator.detail()
    }

    fn state(&self) -> Arc<Mutex<dyn OperatorState>> {
        Arc::clone(&self.state) as _
    }

    fn due_us(&self) -> Option<i64> {
        self.operator.due_us(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(&self, inputs: Vec<Vec<RecordBatch>>, context: &TaskContext) -> DfResult<Vec<RecordBatch>> {
        let Ok(inputs) = <[Vec<RecordBatch>; INPUTS]>::try_from(inputs) else {
            return internal_err!("{} reads {INPUTS} inputs", O::NAME);
        };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.operator.run(&mut state, inputs, context)
    }
}

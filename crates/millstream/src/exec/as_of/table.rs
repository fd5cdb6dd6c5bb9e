//! A join with a table that is read whole: by its rows as they are when the batch runs.
//!
//! The runner says when there is another version of the table: the rows of its scan are then all rows of the table, and
//! replace those that are kept. Else the scan has no rows, and those that are kept are the table.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Result as DfResult, internal_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use millstream_state::{Changes, MultiTable, OperatorState, Restored, SideSchema, StateInfo, TableInfo};

use super::super::changes::state_error;
use super::super::context::BatchContext;
use super::super::scan::ScanExec;
use super::super::stateful::{Operator, StatefulExec};
use super::{AsOfJoin, Keyed};

const ROWS: &str = "table";
/// The only side of the table.
const SIDE: usize = 0;

/// Joins with a table that is read whole.
#[derive(Debug)]
pub struct TableJoinExec {
    join: AsOfJoin,
    /// The scan of the table.
    scan: usize,
    key: SchemaRef,
    columns: [SchemaRef; 2],
}

impl TableJoinExec {
    /// Joins the first input with the table that the second one scans.
    ///
    /// # Errors
    /// Where the second input does not scan one table.
    pub fn try_new(
        name: impl Into<Arc<str>>,
        inputs: [Arc<dyn ExecutionPlan>; 2],
        join: AsOfJoin,
    ) -> DfResult<StatefulExec> {
        let columns = [inputs[0].schema(), inputs[1].schema()];
        let scan = scan_of(&inputs[1]).ok_or_else(|| internal_datafusion_err!("the table is not scanned"))?;
        let key = join.key_schema(&columns[0])?;
        let state = TableState { rows: new_table(&key, &columns[1])?, next: None };
        Ok(StatefulExec::new(name, inputs, Self { join, scan, key, columns }, state))
    }
}

fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    match plan.downcast_ref::<ScanExec>() {
        Some(scan) => Some(scan.scan()),
        None => plan.children().into_iter().find_map(scan_of),
    }
}

fn new_table(key: &SchemaRef, columns: &Schema) -> DfResult<MultiTable> {
    let nullable = columns.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true));
    let values = Arc::new(Schema::new(nullable.collect::<Vec<_>>()));
    let side = SideSchema { values, keys: vec![] };
    MultiTable::new(Arc::clone(key), vec![side]).map_err(state_error)
}

impl Operator<2> for TableJoinExec {
    type State = TableState;

    const NAME: &'static str = "TableJoinExec";

    fn output(&self) -> SchemaRef {
        Arc::clone(&self.join.output)
    }

    fn expressions(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        self.join.expressions()
    }

    fn detail(&self) -> String {
        self.join.detail()
    }

    fn run(
        &self,
        state: &mut TableState,
        [left, table]: [Vec<RecordBatch>; 2],
        context: &TaskContext,
    ) -> DfResult<Vec<RecordBatch>> {
        if BatchContext::of(context)?.renewed.contains(&self.scan) {
            state.next = Some(self.table(&concat_batches(&self.columns[1], &table)?)?);
        }
        let left = concat_batches(&self.columns[0], &left)?;
        if left.num_rows() == 0 {
            return Ok(vec![]);
        }
        let keyed = Keyed::of(&self.key, &self.join.left_keys(&left)?, left.num_rows())?;
        let table = state.next.as_ref().unwrap_or(&state.rows);
        let keys = table.find(&keyed.keys, keyed.count).map_err(state_error)?;
        let found = table.get(SIDE, &keys, |_| true).map_err(state_error)?;
        let sequences = table.sequences(SIDE, &found.ids).map_err(state_error)?;
        let mut of_key: Vec<Vec<u32>> = vec![vec![]; keyed.count];
        let mut order: Vec<u32> = (0..found.keys.len() as u32).collect();
        // In the order of the table's own rows.
        order.sort_by_key(|row| sequences.get(*row as usize));
        for row in order {
            let key = found.keys.get(row as usize).and_then(|key| of_key.get_mut(*key as usize));
            key.into_iter().for_each(|rows| rows.push(row));
        }
        self.join.pairs(&left, &found.values, |row| keyed.entry(row, &of_key))
    }
}

impl TableJoinExec {
    fn table(&self, rows: &RecordBatch) -> DfResult<MultiTable> {
        let mut table = new_table(&self.key, &self.columns[1])?;
        let keyed = Keyed::of(&self.key, &self.join.right_keys(rows)?, rows.num_rows())?;
        let has_key: Vec<bool> = keyed.of_rows.iter().map(Option::is_some).collect();
        let rows = filter_record_batch(rows, &has_key.into())?;
        let of_row: Vec<u32> = keyed.of_rows.iter().flatten().copied().collect();
        let mut keys = table.find(&keyed.keys, keyed.count).map_err(state_error)?;
        table.insert(SIDE, &mut keys, &of_row, rows.columns()).map_err(state_error)?;
        table.install();
        Ok(table)
    }
}

/// The rows of the table.
#[derive(Debug)]
pub struct TableState {
    rows: MultiTable,
    /// Those of another version of it.
    next: Option<MultiTable>,
}

impl OperatorState for TableState {
    fn install(&mut self) {
        if let Some(next) = self.next.take() {
            self.rows = next;
        }
    }

    fn discard(&mut self) {
        self.next = None;
    }

    fn changes(&mut self) -> millstream_core::Result<Changes> {
        Ok(Changes::new().multi(&[ROWS], &self.rows))
    }

    fn restore(&mut self, mut saved: Restored) -> millstream_core::Result<()> {
        self.next = None;
        saved.multi(&[ROWS], &mut self.rows)
    }

    fn describe(&self) -> StateInfo {
        StateInfo { kind: "table".to_string(), tables: TableInfo::multi(&[ROWS], &self.rows) }
    }

    fn table(&self) -> millstream_core::Result<Vec<RecordBatch>> {
        self.rows.scan(SIDE).collect()
    }
}
